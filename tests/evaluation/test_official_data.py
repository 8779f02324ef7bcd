"""Finding and reading evaluation data: folder, zip, archive, one task; and what a user is told of bad ones."""

import contextlib
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sleep_tune.errors import UserError
from sleep_tune.evaluation.official_data import SOURCE, available_tasks, find_tasks, load_items

PAIR = {
    "sentence_good": "The cat sleeps.",
    "sentence_bad": "The cat sleep.",
    "field": "syntax_semantics",
    "UID": "a",
    "linguistics_term": "t",
}
EWOK = {"Domain": "d", "ContextType": "x", "ContextDiff": "y", "TargetDiff": "z"}
EWOK |= {"Context1": "C1.", "Context2": "C2.", "Target1": "T1.", "Target2": "T2."}


def entity(numops: int, options: tuple[str, ...] = ("the key.", "the cat.")) -> dict[str, object]:
    return {"numops": numops, "input_prefix": "Box 0 contains ", "options": list(options)}


def write(path: Path, *items: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small evaluation_data: BLiMP, EWoK and entity tracking, the latter packed."""
    data = tmp_path / "evaluation_data"
    for part, directory in (("full_eval", "blimp_filtered"), ("fast_eval", "blimp_fast")):
        write(data / part / directory / "a.jsonl", *[PAIR | {"sentence_good": f"Good {i}."} for i in range(10)])
        write(data / part / directory / "b.jsonl", *[PAIR | {"UID": "b"}] * 4)
    write(data / "full_eval" / "ewok_filtered" / "d.jsonl", EWOK)
    unpacked = tmp_path / "unpacked"
    write(unpacked / "regular.jsonl", entity(0), entity(2), entity(2, ("nothing.", "the key.")))
    write(unpacked / "ambiref.jsonl", entity(1))
    write(unpacked / "move_contents.jsonl", entity(1))
    with tarfile.open(data / "full_eval" / "entity_tracking.tar.gz", "w:gz") as tar:
        tar.add(unpacked, "entity_tracking")
    return data


def zip_of(folder: Path, path: Path, prefix: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{prefix}{file.relative_to(folder)}")
    return path


def test_a_folder_its_parent_and_one_half_of_it_hold_the_same(folder: Path) -> None:
    expected = load_items(folder, ["blimp"], fast=True)
    for data in (folder.parent, folder / "fast_eval"):
        assert load_items(data, ["blimp"], fast=True) == expected
    [task] = expected
    assert task.dataset == "blimp_fast"
    assert [item.index for item in task.items if item.uid == "a"] == list(range(10))
    assert task.items[0].metadata["field"] == "syntax/semantics"


@pytest.mark.parametrize("prefix", ["", "evaluation_data/", "osfstorage-archive/evaluation_data/"])
def test_the_zip_is_read_as_it_is(folder: Path, tmp_path: Path, prefix: str) -> None:
    archive = zip_of(folder, tmp_path / "data.zip", prefix)
    before = sorted(tmp_path.iterdir())
    tasks = ["blimp", "ewok", "entity_tracking"]
    packed, plain = load_items(archive, tasks, fast=False), load_items(folder, tasks, fast=False)
    for one, two in zip(packed, plain, strict=True):
        assert sorted(map(repr, one.items)) == sorted(map(repr, two.items))
    assert list(available_tasks(archive, fast=False)) == tasks
    assert sorted(tmp_path.iterdir()) == before


def test_entity_tracking_is_read_from_its_archive_and_its_fast_set_is_a_slice(folder: Path) -> None:
    [full] = load_items(folder, ["entity_tracking"], fast=False)
    assert sorted({item.uid for item in full.items}) == ["ambiref_1_ops", "move_contents_1_ops", "regular_0_ops", "regular_2_ops"]
    assert full.items[0].sentences[0].startswith("Box 0 contains the key.")
    [fast] = load_items(folder, ["entity_tracking"], fast=True)
    assert {item.uid for item in fast.items} == {"regular_0_ops", "regular_2_ops"}
    assert fast.dataset == "entity_tracking_fast"
    assert not (folder / "full_eval" / "entity_tracking").exists()


def test_2026_drops_options_of_nothing_and_compares_contexts(folder: Path) -> None:
    of = {rules: load_items(folder, ["entity_tracking", "ewok"], fast=False, rules=rules) for rules in ("honest", "2025", "2026")}
    assert [len(of[rules][0].items) for rules in of] == [5, 5, 4]
    assert of["2025"][1].items[0].sentences == ("C1. T1.", "C1. T2.")
    assert of["2025"][1].items[0].completions == (" T1.", " T2.")
    assert of["2026"][1].items[0].sentences == ("C1. T1.", "C2. T1.")
    assert of["2026"][1].items[0].completions == (" T1.", " T1.")


def test_samples_are_seeded_nested_and_no_larger_than_asked(folder: Path) -> None:
    def chosen(count: int, seed: int = 0) -> set[tuple[str, int]]:
        [task] = load_items(folder, ["blimp"], fast=True, items_per_uid=count, seed=seed)
        assert task.sampled == (count < 10)
        return {(item.uid, item.index) for item in task.items}

    assert chosen(3) == chosen(3)
    assert chosen(3) < chosen(6) < chosen(99)
    assert len(chosen(6)) == 6 + 4
    assert len({frozenset(chosen(3, seed)) for seed in range(5)}) > 1


def test_a_sample_is_drawn_by_text_so_that_those_of_the_full_and_the_fast_set_overlap(tmp_path: Path) -> None:
    full = [PAIR | {"sentence_good": f"good {i}"} for i in range(100)]
    write(tmp_path / "full_eval" / "blimp_filtered" / "a.jsonl", *full)
    write(tmp_path / "fast_eval" / "blimp_fast" / "a.jsonl", *full[99:19:-2])

    def chosen(fast: bool, count: int | None) -> set[str]:
        [task] = load_items(tmp_path, ["blimp"], fast=fast, items_per_uid=count)
        return {item.sentences[0] for item in task.items}

    for count in (1, 5, 20, 40):
        assert chosen(False, count) & chosen(True, None) <= chosen(True, count)
    assert len(chosen(False, 40) & chosen(True, 40)) > 8


def test_one_file_and_one_directory_are_a_task_of_their_own(folder: Path) -> None:
    file = folder / "full_eval" / "blimp_filtered" / "a.jsonl"
    [pairs] = load_items(file, ["pairs"], fast=False)
    assert (len(pairs.items), pairs.items[0].uid, pairs.dataset) == (10, "a", "a")
    [task] = load_items(file.parent, ["blimp"], fast=False)
    assert (len(task.items), task.dataset) == (14, "blimp_filtered")
    with pytest.raises(UserError, match="one task's data, but the tasks are blimp, ewok"):
        load_items(file.parent, ["blimp", "ewok"], fast=False)


def test_missing_tasks_are_named_with_what_is_there_and_where_the_data_come_from(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_tasks(folder, ["blimp", "comps", "wug_adj"], fast=False)
    message = str(caught.value)
    assert "missing comps (full_eval/comps), wug_adj (full_eval/wug_adj_nominalization)" in message
    assert "found blimp, ewok, entity_tracking" in message
    assert SOURCE in message
    assert "\n" not in message
    assert available_tasks(folder, fast=False)["blimp"] == f"2 files in {folder}/full_eval/blimp_filtered"


def test_a_zip_with_a_password_is_named(folder: Path) -> None:
    locked = folder / "fast_eval" / "ewok_fast.zip"
    with zipfile.ZipFile(locked, "w") as archive:
        archive.writestr("ewok_fast/d.jsonl", json.dumps(EWOK))
    content = bytearray(locked.read_bytes())
    content[6] |= 1  # flag bits of the local header, and of the central directory: encrypted
    content[content.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(content)
    with pytest.raises(UserError, match="ewok: its zip asks for a password"):
        load_items(folder, ["ewok"], fast=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.jsonl: empty"),
        (b'{"sentence_good": "x"}\n', r"a\.jsonl line 1: field sentence_bad missing \(task blimp\)"),
        (b'{"sentence_good": "x", "sentence_bad": 3}\n', r"line 1: field sentence_bad = 3: must be a non-empty text"),
        (b'{"sentence_good": "x", "sentence_bad": "y"}\n{"sentence_good": "x", "sen', r"line 2: not JSON .*truncated"),
        (b'{"sentence_good": "x", "sentence_bad": "y"}\n\n', r"line 2: an empty line"),
        (b"[1]\n", r"line 1: must be a JSON object"),
        (b'{"sentence_good": "x", "sentence_bad": "y"}\n{"sentence_good": "\xff"}\n', r"line 2: not UTF-8 text"),
        (b"\xef\xbb\xbf", r"a\.jsonl: empty"),
        (b'{"sentence_good": "x", "sentence_bad": "y"}\r\n\r\n', r"line 2: an empty line"),
        (b'{"sentence_good": "a \\ud83d b", "sentence_bad": "y"}\n', r"line 1: text 'a \\ud83d b' holds half of a surrogate pair"),
        (b'{"sentence_good": "x", "\\udc00": 1}\n', r"line 1: .* holds half of a surrogate pair"),
        (b'{"sentence_good": "x", "sentence_bad": "y", "pair_id": ' + b"7" * 5000 + b"}\n", r"line 1: .*a number with thousands of digits"),
        (b'{"sentence_good": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", r"line 1: .*nested too deeply"),
        (b'{"sentence_good": ' + b"[" * 400 + b"]" * 400 + b', "sentence_bad": "y"}\n', r"line 1: field sentence_good = \[+\.\.\."),
        (b'{"sentence_good": "x", "sentence_bad": "y", "sentence_good": "z"}\n', r"line 1: key 'sentence_good' is given twice"),
        (b'{"sentence_good": NaN, "sentence_bad": "y"}\n', r"line 1: field sentence_good = nan"),
        (b"null\n", r"line 1: must be a JSON object"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_items(tmp_path, ["blimp"], fast=False)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    for name, mark, end in (("plain", b"", b"\n"), ("windows", b"\xef\xbb\xbf", b"\r\n")):
        (tmp_path / name).mkdir()
        lines = [json.dumps(PAIR | {"sentence_good": f"Good {i}, \u00e9\U0001f600."}).encode() for i in range(3)]
        (tmp_path / name / "a.jsonl").write_bytes(mark + end.join(lines) + end)
    plain, windows = (load_items(tmp_path / name, ["blimp"], fast=False)[0].items for name in ("plain", "windows"))
    assert plain == windows


def test_the_same_item_twice_is_two_items(tmp_path: Path) -> None:
    """The official supplement has such: nothing can be told from it."""
    write(tmp_path / "a.jsonl", PAIR, PAIR)
    [task] = load_items(tmp_path, ["blimp"], fast=False)
    assert [item.index for item in task.items] == [0, 1]


@pytest.mark.parametrize("count", [2, 5, 7])
def test_any_number_of_options_from_two_on_is_read(tmp_path: Path, count: int) -> None:
    write(tmp_path / "regular.jsonl", entity(1, tuple(f"the box {i}." for i in range(count))))
    [task] = load_items(tmp_path / "regular.jsonl", ["entity_tracking"], fast=False)
    assert len(task.items[0].sentences) == count


@pytest.mark.parametrize(
    ("task", "item", "message"),
    [
        ("entity_tracking", {"input_prefix": "x", "options": ["y"], "numops": 1}, "options"),
        ("entity_tracking", {"input_prefix": "x", "options": [], "numops": 1}, r"options = \[\]: must be a list of at least two"),
        ("entity_tracking", {"input_prefix": "x", "options": ["y", 3], "numops": 1}, r"options = \['y', 3\]"),
        ("entity_tracking", {"input_prefix": "x", "options": "yes or no", "numops": 1}, "options = 'yes or no'"),
        ("entity_tracking", {"input_prefix": "x", "numops": 1}, "field options missing"),
        ("entity_tracking", {"input_prefix": "x", "options": ["y", "z"]}, "field numops missing"),
        ("entity_tracking", {"input_prefix": "x", "options": ["y", "z"], "numops": "1"}, "numops"),
        ("entity_tracking", {"input_prefix": "x", "options": ["y", "z"], "numops": -1}, "numops = -1"),
        ("wug_adj", {"sentences": "only one", "ratio": 0.5}, "separated by tabs"),
        ("wug_past", {"sentences": "a\tb", "ratio": None}, "ratio = None: must be a number"),
        ("wug_past", {"sentences": "a\tb"}, "field ratio missing"),
        ("wug_past", {"sentences": "a\tb", "ratio": float("nan")}, "ratio = nan: must be a number, not NaN"),
        ("wug_adj", {"sentences": "a\tb", "ratio": float("inf")}, "ratio = inf: must be a number, not NaN or infinite"),
        ("wug_adj", {"sentences": "a\tb", "ratio": 10**400}, r"ratio = 1000000\S*\.\.\.\S*: must be a number"),
        ("wug_adj", {"sentences": "a\tb", "ratio": "0.5"}, "ratio = '0.5': must be a number"),
        ("wug_adj", {"sentences": "a\tb", "ratio": True}, "ratio = True: must be a number"),
        ("wug_adj", {"sentences": ["a", "b"], "ratio": 0.5}, r"sentences = \['a', 'b'\]: must be a non-empty text"),
        ("ewok", {"Domain": "d"}, "field Context1 missing"),
        ("comps", {"prefix_acceptable": "x"}, "field property_phrase missing"),
    ],
)
def test_a_bad_item_names_its_field(tmp_path: Path, task: str, item: dict[str, object], message: str) -> None:
    write(tmp_path / "regular.jsonl", item)
    with pytest.raises(UserError, match=rf"regular\.jsonl line 1: .*{message}"):
        load_items(tmp_path / "regular.jsonl", [task], fast=False)


def test_damaged_archives_are_one_line(folder: Path, tmp_path: Path) -> None:
    archive = folder / "full_eval" / "entity_tracking.tar.gz"
    archive.write_bytes(archive.read_bytes()[:150])
    with pytest.raises(UserError, match=r"entity_tracking\.tar\.gz: a damaged or truncated archive"):
        load_items(folder, ["entity_tracking"], fast=False)
    broken = tmp_path / "data.zip"
    broken.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(UserError, match=r"data\.zip: must be a folder, the official zip"):
        load_items(broken, ["blimp"], fast=False)
    with pytest.raises(UserError, match="no such file or directory"):
        load_items(tmp_path / "nowhere", ["blimp"], fast=False)


def test_a_zip_with_a_bad_central_directory_is_one_line(folder: Path, tmp_path: Path) -> None:
    content = bytearray(zip_of(folder, tmp_path / "data.zip", "").read_bytes())
    content[content.index(b"PK\x01\x02")] = 0
    (tmp_path / "data.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.zip: must be a folder, the official zip .* not a damaged zip \(Bad magic number"):
        load_items(tmp_path / "data.zip", ["blimp"], fast=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
def test_bytes_changed_in_a_zip_give_its_items_or_one_line(
    folder: Path, tmp_path: Path, changes: list[tuple[float, int]], directory: bool
) -> None:
    archive = zip_of(folder, tmp_path / "data.zip", "")
    content = bytearray(archive.read_bytes())
    first = content.index(b"PK\x01\x02") if directory else 0
    for place, byte in changes:
        content[first + int(place * (len(content) - first))] = byte
    archive.write_bytes(content)
    with contextlib.suppress(UserError):
        load_items(archive, ["blimp", "entity_tracking"], fast=False)


def test_looking_for_tasks_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pandas", "pyarrow", "datasets"}
    code = f"import sys, sleep_tune.evaluation.official_data; print(*{heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x/nowhere"], "error: model = x/nowhere: no such model directory"),
        (["x/nowhere", "--tasks", "blmp"], "error: task = blmp: unknown (did you mean blimp?)"),
        (["x/nowhere", "--rules", "2027"], "error: --rules = 2027: unknown (did you mean 2026?)"),
        (["x/nowhere", "--backend", "mml"], "error: --backend = mml: unknown (did you mean mlm?)"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "sleep_tune.evaluation", *arguments, "--data", str(folder), "--out", str(tmp_path / "out")]
    command += [] if "--tasks" in arguments else ["--tasks", "blimp"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_real_data_have_the_published_counts(shared_data: Path) -> None:
    fast = load_items(shared_data / "evaluation_data", ["blimp", "supplement", "entity_tracking", "wug_adj", "wug_past"], fast=True)
    assert [len(task.items) for task in fast] == [13400, 250, 3152, 200, 50]
    [entities] = load_items(shared_data / "evaluation_data", ["entity_tracking"], fast=False)
    assert len(entities.items) == 3152 + 3224 + 3107
