"""What a submission must not take: another edition's answers, other models' results, what is no answer, and files that are broken."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.errors import UserError
from sleep_tune.evaluation.__main__ import main as evaluate
from sleep_tune.evaluation.challenge import EDITIONS, GLUE, TRACKS, File
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.official_layout import prediction_text, predictions, write_results
from sleep_tune.evaluation.prediction_checks import wrong_predictions, wrong_score, wrong_surprisals
from sleep_tune.evaluation.result_records import Identity, Record, begin_results
from sleep_tune.evaluation.scores import CandidateScores, TaskResult, result_of
from sleep_tune.evaluation.submission import main
from sleep_tune.evaluation.tasks import Item, TaskItems

SMALL = TRACKS["strict-small"]
FILES = {edition: {file.task: file for file in EDITIONS[edition].files} for edition in EDITIONS}
WriteValue = Callable[[Path, Any], None]


def submit(place: Path, *more: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Content, problems and notes of a submission, which is never complete here: exit code 1."""
    out = place / "submission.json"
    assert main([str(place), "--out", str(out), *more]) == 1
    beside = json.loads((place / "submission.json.legality.json").read_text())
    assert all("\n" not in line for line in beside["problems"] + beside["notes"])
    return json.loads(out.read_text()), beside["problems"], beside["notes"]


def about(task: str, lines: list[str]) -> list[str]:
    return [line.removeprefix(f"{task}: ") for line in lines if line.startswith(f"{task}: ")]


@pytest.fixture(scope="module")
def ewok_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions like EWoK's, as many as there are, in both sets."""
    place = tmp_path_factory.mktemp("questions")
    for directory, sizes in (
        ("full_eval/ewok_filtered", FILES["2025"]["ewok"].sizes),
        ("fast_eval/ewok_fast", FILES["2025"]["ewok"].fast_sizes),
    ):
        (place / directory).mkdir(parents=True)
        for domain, count in sizes.items():
            rest = {"Domain": domain, "ContextType": "t", "ContextDiff": "c", "TargetDiff": "d"}
            rows = [{f"Context{j}": f"Box {i} is {j}.", f"Target{j}": f"It is {j}."} | rest for i in range(count) for j in (1,)]
            lines = [json.dumps(row | {"Context2": f"Box {i} is 2.", "Target2": "It is 2."}) for i, row in enumerate(rows)]
            (place / directory / f"{domain}.jsonl").write_text("\n".join(lines) + "\n")
    return place


def answer(data: Path, task: str, fast: bool, rules: str) -> dict[str, Any]:
    """Every question answered right, by the candidates of some rules."""
    [items] = load_items(data, [task], fast, rules=rules)
    table: dict[str, Any] = {}
    for item in items.items:
        found = {"id": f"{item.uid}_{item.index}", "pred": prediction_text(items, item, 0)}
        table.setdefault(item.uid, {"predictions": []})["predictions"].append(found)
    return table


def fill_ewok(place: Path, data: Path, rules: str, write_value: WriteValue, revisions: tuple[str, ...] = ("chck_1M",)) -> Path:
    zero_shot = "zero_shot/mlm/ewok"
    model = place / "results" / "net"
    write_value(model / "main" / zero_shot / "ewok_filtered" / "predictions.json", answer(data, "ewok", False, rules))
    for revision in revisions:
        write_value(model / revision / zero_shot / "ewok_fast" / "predictions.json", answer(data, "ewok", True, rules))
    return place


@pytest.mark.parametrize("edition", ["2025", "2026"])
@pytest.mark.parametrize("with_data", [True, False])
def test_ewok_of_one_edition_is_not_taken_for_the_other(
    edition: str, with_data: bool, ewok_data: Path, tmp_path: Path, write_value: WriteValue
) -> None:
    other = {"2025": "2026", "2026": "2025"}[edition]
    fill_ewok(tmp_path, ewok_data, other, write_value)
    data = ["--data", str(ewok_data)] if with_data else []
    made, problems, _ = submit(tmp_path, "--edition", other, *data)
    assert made["ewok"]["social-relations"]["predictions"][1547]["id"] == "social-relations_1547"
    assert not about("ewok", problems)
    if with_data:
        assert made["fast_eval_results"]["ewok"][0]["social-relations"] == 1.0
    with pytest.raises(UserError, match="nothing there that belongs into a submission of"):
        main([str(tmp_path), "--out", str(tmp_path / "x.json"), "--edition", edition, *data])
    write_value(
        tmp_path / "results/net/main/finetune/wsc/predictions.json", {"wsc": {"predictions": [{"id": i, "pred": 0} for i in range(52)]}}
    )
    made, problems, _ = submit(tmp_path, "--edition", edition, *data)
    assert made.get("ewok") is None
    assert "fast_eval_results" not in made
    what = "are no candidate of this edition's item: " if with_data else "cannot be this edition's: "
    for lines in (about("ewok", problems), about("ewok of chck_1M", problems)):
        assert len(lines) == 1
        assert what in lines[0]


def test_entity_tracking_of_2025_is_not_taken_for_2026s(tmp_path: Path, fill: Callable[..., None], write_value: WriteValue) -> None:
    """Even where somebody cut it to the right number of items."""
    fill(tmp_path / "results" / "net", "2026", "entity_tracking_filtered", "reading", revisions=("chck_1M",))
    path = tmp_path / "results/net/main/zero_shot/mlm/entity_tracking/entity_tracking/predictions.json"
    table = json.loads(path.read_text())
    table["ambiref_3_ops"]["predictions"][7]["pred"] = "nothing"
    write_value(path, table)
    made, problems, _ = submit(tmp_path, "--edition", "2026")
    assert about("entity_tracking", problems)[0].startswith("answers that cannot be this edition's: ambiref_3_ops_7 'nothing'")
    assert made["entity_tracking_filtered"] is None


def test_answers_to_the_real_questions_are_taken_and_any_other_is_named(shared_data: Path, tmp_path: Path, write_value: WriteValue) -> None:
    data = shared_data / "evaluation_data"
    zero_shot = tmp_path / "results/net/main/zero_shot/mlm"
    table = answer(data, "supplement", False, "2025")
    write_value(zero_shot / "blimp/supplement_filtered/predictions.json", table)
    write_value(zero_shot / "entity_tracking/entity_tracking/predictions.json", answer(data, "entity_tracking", False, "2025"))
    made, problems, _ = submit(tmp_path, "--data", str(data))
    assert {"blimp_supplement", "entity_tracking"} <= set(made)
    table["turn_taking"]["predictions"][5]["pred"] = table["turn_taking"]["predictions"][6]["pred"]
    write_value(zero_shot / "blimp/supplement_filtered/predictions.json", table)
    made, problems, _ = submit(tmp_path, "--data", str(data))
    assert about("supplement", problems)[0].startswith("answers that are no candidate of this edition's item: turn_taking_5 'A:")
    assert "blimp_supplement" not in made


def test_questions_that_are_not_the_official_ones_score_nothing(ewok_data: Path, tmp_path: Path, write_value: WriteValue) -> None:
    fill_ewok(tmp_path, ewok_data, "2025", write_value)
    cut = tmp_path / "data" / "fast_eval" / "ewok_fast"
    cut.mkdir(parents=True)
    for path in (ewok_data / "fast_eval" / "ewok_fast").iterdir():
        (cut / path.name).write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    made, problems, _ = submit(tmp_path, "--data", str(tmp_path / "data"))
    assert "fast_eval_results" not in made
    assert any("are not the official ones" in line and "7 items, officially 100" in line for line in problems)


def test_checkpoints_of_another_model_are_never_borrowed(tmp_path: Path, fill: Callable[..., None]) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", revisions=("chck_1M",))
    fill(tmp_path / "results" / "other", "2025", "reading", "wug_past", revisions=("chck_1M", "chck_2M", "chck_3M"))
    with pytest.raises(UserError, match="--model: must be given, there are results of net, other"):
        main([str(tmp_path), "--out", str(tmp_path / "x.json")])
    _, problems, notes = submit(tmp_path, "--model", "net")
    assert about("reading of checkpoints", problems)[0].startswith("missing for 18 of 19: chck_2M, chck_3M")
    assert any(", wug_past of checkpoints: missing for 19 of 19" in line for line in problems)
    assert any(line.startswith("other: other models' results") for line in notes)
    (tmp_path / "results" / "other" / "main").rename(tmp_path / "main of other")
    _, problems, notes = submit(tmp_path)
    assert about("reading of checkpoints", problems)[0].startswith("missing for 18 of 19: chck_2M, chck_3M")
    assert any(line.startswith("other: other models' results") for line in notes)


@pytest.mark.parametrize("place", ["net/words_2000000", "words_2000000/main", "words_2000000/chck_2M", "chck_2M/main", "net/chck_2M"])
def test_a_checkpoint_is_found_by_every_name_it_can_have(place: str, tmp_path: Path, fill: Callable[..., None]) -> None:
    """A trial calls its milestones words_2000000; a model directory that is scored without --revision is `main` of its own name."""
    results = tmp_path / "results"
    fill(results / "net", "2025", "reading", revisions=("chck_1M",))
    (results / place).parent.mkdir(parents=True, exist_ok=True)
    fill(tmp_path / "else" / "net", "2025", "reading", revisions=("chck_2M",))
    (tmp_path / "else" / "net" / "chck_2M").rename(results / place)
    _, problems, _ = submit(tmp_path)
    assert about("reading of checkpoints", problems)[0].startswith("missing for 17 of 19: chck_3M")
    (results / "other" / "main").mkdir(parents=True)  # now checkpoints by their own names may be that one's
    _, problems, notes = submit(tmp_path, "--model", "net")
    own = place.startswith("net/")
    assert about("reading of checkpoints", problems)[0].startswith(f"missing for {17 if own else 18} of 19: chck_{3 if own else 2}M")
    assert own or any(place.split("/")[0] in line and "of which model cannot be told, passed over" in line for line in notes)


def test_a_series_that_is_named_by_words_has_the_challenges_names_in_the_submission(tmp_path: Path, write_value: WriteValue) -> None:
    steps = [{"step": f"words_{million}000000", "surprisal": 2.5} for million in SMALL.millions for _ in range(8005)]
    write_value(tmp_path / "results/net/main/zero_shot/mlm/AoA_word/surprisal.json", {"results": steps})
    made, problems, _ = submit(tmp_path)
    assert not about("aoa surprisal.json", problems)
    assert [entry["step"] for entry in made["aoa"]["results"][::8005]] == list(SMALL.revisions)


def filled(file: File, **changed: Any) -> dict[str, Any]:
    """A file's content, in whose first item something is changed."""

    def entry(i: int) -> dict[str, Any]:
        answers = {"text": " a" if file.starts == "space" else "a", "label": 1, "surprisal": 2.5 + i % 3}
        more = {"prob": 1 / (i + 2)} if file.has_probability else {"prev_pred": 1.0} if file.pred == "surprisal" else {}
        return {"id": i, "pred": answers[file.pred]} | more

    table = {uid: {"predictions": [entry(i) for i in range(count)]} for uid, count in file.sizes.items()}
    next(iter(table.values()))["predictions"][0].update(changed)
    return table


NO_ANSWERS: list[tuple[File, dict[str, Any]]] = [
    *((FILES["2025"]["supplement"], {"pred": value}) for value in ("", " \n", None, 1, math.nan, ["a"])),
    *((FILES["2025"]["wug_adj"], {"prob": value}) for value in (math.nan, math.inf, -0.1, 1.5, True, None, "0.5", 10**400)),
    *((FILES["2025"]["reading"], {"pred": value}) for value in (math.nan, math.inf, None, "1", True, 10**400)),
    *((FILES["2025"]["reading"], {"prev_pred": value}) for value in (math.inf, None, "nan")),
    *((GLUE[-1], {"pred": value}) for value in (2, -1, True, 1.0, "1", None, 10**400)),
]


@pytest.mark.parametrize(("file", "changed"), NO_ANSWERS)
def test_what_is_no_answer_is_named(file: File, changed: dict[str, Any]) -> None:
    first = next(iter(file.sizes))
    assert wrong_predictions(file, file.sizes, filled(file)) == []
    [line] = wrong_predictions(file, file.sizes, filled(file, **changed))
    assert line.startswith("predictions that are no ")
    assert line.endswith(f": {first}_0")


def test_a_submission_of_nans_and_empty_answers_is_refused_by_name(
    tmp_path: Path, fill: Callable[..., None], write_value: WriteValue
) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", "blimp_supplement", "wug_past", "wsc", revisions=("chck_1M",))
    zero_shot = tmp_path / "results/net/main/zero_shot/mlm"
    for below, value in (
        ("reading", {"pred": math.nan}),
        ("blimp/supplement_filtered", {"pred": ""}),
    ):
        path = zero_shot / below / "predictions.json"
        table = json.loads(path.read_text())
        for part in table.values():
            part["predictions"] = [entry | value for entry in part["predictions"]]
        write_value(path, table)
    made, problems, _ = submit(tmp_path)
    assert set(made) == {"glue", "wug_past"}
    assert about("reading", problems)[0].startswith("predictions that are no number: reading_0 and 1,725 more of 1,726")
    assert about("supplement", problems)[0].startswith("predictions that are no text: hypernym_0 and 5,217 more of 5,218")


@pytest.mark.parametrize(("key", "name"), [("wug_adj", "prob"), ("reading", "pred")])
def test_numbers_without_a_correlation_are_refused_of_the_model_and_of_a_checkpoint_alike(
    key: str, name: str, tmp_path: Path, fill: Callable[..., None], write_value: WriteValue
) -> None:
    file = FILES["2025"][key]
    revisions = ("chck_1M", "chck_2M") if file.fast else ()
    fill(tmp_path / "results" / "net", "2025", "blimp", key, revisions=revisions)
    for path in (tmp_path / "results/net").glob(f"*/zero_shot/mlm/{file.full}/predictions.json"):
        table = json.loads(path.read_text())
        for part in table.values():
            part["predictions"] = [entry | {name: 0.5} for entry in part["predictions"]]
        write_value(path, table)
    made, problems, _ = submit(tmp_path)
    assert key not in made
    told = [line for line in about(file.task, problems) if line.startswith("every ")]
    assert len(told) == 1
    assert "is the same, so there is no score" in told[0]
    shared = [line for line in problems if line.startswith(f"{file.task} of 2 of 19 checkpoints: every ")]
    assert len(shared) == len(revisions) // 2


def test_a_fault_that_checkpoints_share_is_told_once(tmp_path: Path, fill: Callable[..., None], write_value: WriteValue) -> None:
    fill(tmp_path / "results" / "net", "2025", "blimp")
    for path in (tmp_path / "results/net").glob("chck_*/zero_shot/mlm/*/*/predictions.json"):
        write_value(path, [])
    _, problems, _ = submit(tmp_path)
    form = [line for line in problems if "not of the form" in line]
    assert len(form) == 1
    assert form[0].startswith("blimp of 19 of 19 checkpoints: not of the form")


def test_contexts_that_the_questions_do_not_have_are_named() -> None:
    contexts = {("cat", "0"), ("cat", "1")}
    entries = [{"step": "chck_1M", "surprisal": 1.0, "target_word": "cat", "context_id": i} for i in range(2)]
    count = "not 8005 surprisals at chck_1M"
    assert wrong_surprisals({"results": entries}, ("chck_1M",), contexts) == [count]
    entries[1] |= {"target_word": "dog"}
    foreign = "surprisals of what are no contexts of the official questions: dog 1"
    assert wrong_surprisals({"results": entries}, ("chck_1M",), contexts) == [count, foreign]


def test_only_the_first_words_of_sentences_may_lack_the_word_before() -> None:
    file = FILES["2025"]["reading"]
    table = filled(file)
    for entry in table["reading"]["predictions"][:206]:
        entry["prev_pred"] = math.nan
    assert wrong_predictions(file, file.sizes, table) == []
    table["reading"]["predictions"][206]["prev_pred"] = math.nan
    assert wrong_predictions(file, file.sizes, table) == ["no number for the word before reading_0 and 206 more of 1,726"]


def test_broken_surprisals_and_scores_of_aoa_are_named() -> None:
    for value in (math.nan, None, "1", True, 10**400):
        entries = [{"step": "chck_1M", "surprisal": value}]
        said = wrong_surprisals({"results": entries}, ("chck_1M",))
        assert "surprisals that are no number (contexts longer than the model's positions?) at chck_1M" in said
    twice = [{"step": name, "surprisal": 1.0, "target_word": "cat", "context_id": 0} for name in ("chck_1M", "words_1000000")]
    assert "a context of a word is given twice at a checkpoint" in wrong_surprisals({"results": twice}, ("chck_1M",))
    assert wrong_score({"aoa": -0.5}) == []
    for content in ({"aoa": math.nan}, {"aoa": 2}, {"aoa": True}, {}, [], None, {"aoa": 10**400}):
        assert wrong_score(content) == ['not of the form {"aoa": correlation}']


def test_surprisals_that_a_model_cannot_have_are_not_asked_for_again(
    tmp_path: Path, fill: Callable[..., None], write_value: WriteValue, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", "aoa", revisions=())
    path = tmp_path / "results/net/main/zero_shot/mlm/AoA_word/surprisal.json"
    content = json.loads(path.read_text())
    content["results"][7]["surprisal"] = math.nan
    write_value(path, content)
    _, problems, _ = submit(tmp_path)
    assert about("aoa surprisal.json", problems)[0].startswith("surprisals that are no number (contexts longer than")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to do: ")]
    assert "aoa" not in line
    path.unlink()
    submit(tmp_path)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to do: ")]
    assert "aoa" in line


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["predictions", "pred", "id", "wsc", "results", "step"]), inner)
    ),
    max_leaves=12,
)


@given(ANYTHING)
def test_no_content_is_more_than_a_check_can_bear(content: Any) -> None:
    for file in (GLUE[-1], FILES["2025"]["reading"], FILES["2025"]["wug_past"], FILES["2026"]["global_piqa_parallel"]):
        assert wrong_predictions(file, file.sizes, content)
        uid = next(iter(file.sizes))
        assert wrong_predictions(file, file.sizes, {uid: {"predictions": [content] * file.sizes[uid]}})
    assert wrong_surprisals(content, SMALL.revisions)
    assert wrong_surprisals({"results": [content]}, SMALL.revisions)


BROKEN = {
    "truncated": b'{"wsc": {"predictions": [{"id": 0, "pr',
    "deep": b"[" * 100_000,
    "huge number": b'{"wsc": {"predictions": [' + b"1" * 5000 + b"]}}",
    "half a surrogate": b'{"wsc\\ud800": {"predictions": []}}',
    "line break": b'{"w\\nsc\\u001b[31m": {"predictions": []}}',
    "not utf-8": b'{"wsc": "\xff\xfe"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "empty": b"",
    "null": b"null",
    "zeros": b"\0" * 100,
    "list": b"[]",
    "number": b"1e999",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_of_any_kind_is_named_in_one_line(kind: str, tmp_path: Path, fill: Callable[..., None]) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", revisions=("chck_1M",))
    model = tmp_path / "results" / "net"
    places = {
        "supplement": "main/zero_shot/mlm/blimp/supplement_filtered/predictions.json",
        "aoa surprisal.json": "main/zero_shot/mlm/AoA_word/surprisal.json",
        "glue wsc": "main/finetune/wsc/predictions.json",
        "ewok of chck_4M": "chck_4M/zero_shot/mlm/ewok/ewok_fast/predictions.json",
        "reading of chck_1M": "chck_1M/zero_shot/mlm/reading/made_from.json",
    }
    for place in places.values():
        (model / place).parent.mkdir(parents=True, exist_ok=True)
        (model / place).write_bytes(BROKEN[kind])
    _, problems, _ = submit(tmp_path)
    for name in places:
        assert about(name, problems), name
        assert not any(line.startswith("missing") for line in about(name, problems)), name
    assert all(line.isprintable() for line in problems)


def test_files_that_cannot_be_read_are_named(tmp_path: Path, fill: Callable[..., None]) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", revisions=("chck_1M",))
    (tmp_path / "results/net/main/finetune/wsc/predictions.json").mkdir(parents=True)
    _, problems, _ = submit(tmp_path)
    assert about("glue wsc", problems)[0].startswith("cannot be read (Is a directory)")
    with pytest.raises(UserError, match="File name too long"):
        main(["x" * 5000, "--out", str(tmp_path / "x.json")])
    with pytest.raises(UserError, match="File name too long"):
        main([str(tmp_path), "--out", str(tmp_path / ("x" * 5000))])


def pairs(rules: str, *scores: tuple[float, float], seed: int = 0) -> TaskResult:
    """A result on pairs of sentences, given the scores of both."""
    items = tuple(
        Item("wh_island", i, (f"right {i}", f"wrong {i}"), (f"right {i}", f"wrong {i}"), {"UID": "wh_island"}) for i in range(len(scores))
    )
    scored = CandidateScores(np.array(scores, dtype=np.float32).ravel(), np.zeros(2 * len(scores), bool), None)
    return result_of(TaskItems("blimp", "blimp_filtered", rules, seed, items), "mlm", scored, np.arange(2 * len(scores)).reshape(-1, 2))


def right(result: TaskResult) -> list[bool]:
    return [entry["pred"].startswith("right") for entry in predictions(result)["wh_island"]["predictions"]]


def test_who_reads_the_file_of_a_broken_model_finds_no_more_right_than_honest_rules_count() -> None:
    nan = math.nan
    assert right(pairs("honest", (nan, nan), (nan, -1.0), (-1.0, nan), (-1.0, -2.0), (-2.0, -1.0))) == [False, False, False, True, False]
    assert right(pairs("2025", (nan, nan), (nan, -1.0), (-1.0, nan), (-1.0, -2.0), (-2.0, -1.0))) == [True, True, False, True, False]
    ties = right(pairs("honest", *[(-1.0, -1.0)] * 1000))
    assert 450 < sum(ties) < 550
    assert ties == right(pairs("honest", *[(-1.0, -1.0)] * 1000))
    assert ties != right(pairs("honest", *[(-1.0, -1.0)] * 1000, seed=1))
    assert all(right(pairs("2025", *[(-1.0, -1.0)] * 1000)))


def test_a_result_says_under_whose_rules_it_was_made_and_the_wrong_ones_are_refused(tmp_path: Path, fill: Callable[..., None]) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", "blimp_supplement", revisions=("chck_1M",))
    place = write_results(pairs("honest", (-1.0, -2.0), (-1.0, -1.0), (math.nan, -1.0)), tmp_path, "net")
    record = json.loads((place / "made_from.json").read_text())
    expected = {"model": None, "place": None, "rules": "honest", "edition": "2025", "items": 3, "ties": 1, "nans": 1, "unofficial": []}
    assert record == expected
    supplement = place.parent / "supplement_filtered"
    for rules, edition, says in (
        ("2025", "2026", "made under rules 2025, which have the questions of 2025, not of 2026"),
        ("honest", "2026", "made under rules honest, which have the questions of 2025, not of 2026"),
        ("2026", "2025", "made under rules 2026, which have the questions of 2026, not of 2025"),
    ):
        written = expected | {"rules": rules, "edition": "2026" if rules == "2026" else "2025", "nans": 0}
        (supplement / "made_from.json").write_text(json.dumps(written))
        _, problems, _ = submit(tmp_path, "--edition", edition)
        assert about("supplement", problems)[0].startswith(says)
    (supplement / "made_from.json").write_text(json.dumps(expected | {"items": 5218}))
    made, _, notes = submit(tmp_path)
    assert "blimp_supplement" in made
    assert about("supplement", notes) == ["ties: 1, an answer is drawn; NaN: 1, answered wrong (of 5,218 items)"]
    (supplement / "made_from.json").write_text(json.dumps(expected | {"items": 5218, "rules": "2025"}))
    _, problems, _ = submit(tmp_path)
    assert about("supplement", problems)[0].startswith("the model has no score (NaN) for 1 of 5,218 items, which rules 2025 count as right")
    (supplement / "made_from.json").write_text(json.dumps(expected | {"items": 5218, "rules": "2025", "nans": 0}))
    _, _, notes = submit(tmp_path)
    assert "not all under the same rules: honest: blimp; 2025: supplement" in notes


def test_two_models_of_one_name_are_never_mixed(tmp_path: Path) -> None:
    result = pairs("honest", (-1.0, -2.0))
    fast = replace(result, items=replace(result.items, dataset="blimp_fast"))
    one, other = Identity.of("a" * 32, "one/net"), Identity.of("b" * 32, "other/net")
    place = write_results(result, tmp_path, "net", model=one)
    write_results(fast, tmp_path, "net", model=one)
    write_results(fast, tmp_path, "net", "words_3000000", model=other)
    assert (tmp_path / "results" / "net" / "chck_3M").is_dir()
    with pytest.raises(UserError, match=r"holds results of the model .*/one/net; choose another --out, or delete that directory"):
        write_results(fast, tmp_path, "net", model=other)
    assert json.loads((place.parent / "blimp_fast" / "made_from.json").read_text())["model"] == "a" * 32


def test_the_results_of_a_model_that_was_trained_again_in_its_place_go(tmp_path: Path) -> None:
    result = pairs("honest", (-1.0, -2.0))
    fast = replace(result, items=replace(result.items, dataset="blimp_fast"))
    before, after = Identity.of("a" * 32, "net"), Identity.of("b" * 32, "net")
    old = write_results(result, tmp_path, "net", model=before)
    new = write_results(fast, tmp_path, "net", model=after)
    assert list(old.iterdir()) == []
    assert (new / "predictions.json").is_file()


def test_results_that_were_put_together_from_several_models_are_named_and_left_out(
    tmp_path: Path, fill: Callable[..., None], ewok_data: Path, write_value: WriteValue
) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", "wug_past", revisions=("chck_1M", "chck_2M"))
    fill_ewok(tmp_path, ewok_data, "honest", write_value, ("chck_1M", "chck_2M", "chck_3M"))
    net, data = tmp_path / "results" / "net", ("--data", str(ewok_data))

    def record(place: str, model: str) -> None:
        path = net / place / "made_from.json"
        path.write_text(
            json.dumps(
                {"model": model, "place": None, "rules": "2025", "edition": "2025", "items": 1, "ties": 0, "nans": 0, "unofficial": []}
            )
        )

    record("main/zero_shot/mlm/reading", "a")
    record("chck_2M/zero_shot/mlm/reading", "c")
    made, problems, _ = submit(tmp_path, *data)
    assert not [line for line in problems if "model" in line]
    assert {"reading", "wug_past", "ewok"} <= set(made)
    assert [row is None for row in made["fast_eval_results"]["ewok"]] == [False, False, False] + [True] * 16
    record("chck_1M/zero_shot/mlm/reading", "c")
    made, problems, _ = submit(tmp_path, *data)
    assert about("chck_1M and chck_2M", problems) == ["results of the very same model: one is not that checkpoint"]
    assert {"reading", "wug_past", "ewok"} <= set(made)
    assert [row is None for row in made["fast_eval_results"]["ewok"]] == [True, True, False] + [True] * 16
    record("main/zero_shot/mlm/wug_past/wug_past_tense", "b")
    made, problems, _ = submit(tmp_path, *data)
    assert about("main", problems)[0].startswith("results of 2 models: net/main/zero_shot/mlm/reading, net/main/zero_shot/mlm/wug_past")
    assert set(made) == {"fast_eval_results", "glue"}
    assert made["glue"] == {}


def test_fine_tuning_that_is_not_official_is_refused_by_name(tmp_path: Path, fill: Callable[..., None]) -> None:
    fill(tmp_path / "results" / "net", "2025", "reading", "wsc", "rte", revisions=("chck_1M",))
    finetune = tmp_path / "results" / "net" / "main" / "finetune"
    assert set(submit(tmp_path)[0]["glue"]) == {"wsc", "rte"}
    record = {"model": None, "place": None, "rules": "honest", "edition": "", "items": 52, "ties": 0, "nans": 0}
    (finetune / "wsc" / "made_from.json").write_text(json.dumps(record | {"unofficial": ["8 training rows, the official file has 554"]}))
    (finetune / "rte" / "made_from.json").write_text(json.dumps(record | {"unofficial": []}))
    made, problems, _ = submit(tmp_path)
    assert set(made["glue"]) == {"rte"}
    assert about("glue wsc", problems)[0].startswith("not official: 8 training rows, the official file has 554: net/main/finetune/wsc")
    (tmp_path / "glue" / "mrpc").mkdir(parents=True)
    _, problems, _ = submit(tmp_path)
    assert "not to the official settings: no official files" in about("glue mrpc", problems)[0]


def test_old_predictions_go_before_the_record_of_new_ones_comes(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text("{}")
    begin_results(tmp_path, Record("m", "/m", "2026", "2026", 1))
    assert [path.name for path in tmp_path.iterdir()] == ["made_from.json"]


def test_a_file_of_equal_targets_names_targets_all_the_same() -> None:
    item = Item("domain", 0, ("a. c.", "b. c."), (" c.", " c."), {"UID": "domain"})
    named = {rules: prediction_text(TaskItems("ewok", "ewok_filtered", rules, 0, (item,)), item, 1) for rules in ("honest", "2025", "2026")}
    assert named == {"honest": " c.", "2025": " c.", "2026": "b. c."}


def test_real_scores_carry_their_rules(shared_data: Path) -> None:
    """2026's EWoK names whole sentences, 2025's targets: what `starts` tells apart."""
    for edition in ("2025", "2026"):
        [items] = load_items(shared_data / "official_reference/inputs/ewok_synthetic", ["ewok"], False, rules=edition)
        file = FILES[edition]["ewok"]
        texts = [prediction_text(items, item, candidate) for item in items.items for candidate in (0, 1)]
        assert all(text.startswith(" ") == (file.starts == "space") for text in texts)


def test_the_command_refuses_another_model_of_the_same_name_before_it_scores(shared_data: Path, tmp_path: Path) -> None:
    reference = shared_data / "official_reference"
    for place in ("one", "other"):
        shutil.copytree(reference / "model", tmp_path / place / "net")
    (tmp_path / "other" / "net" / "more.json").write_text("{}")
    rest = ["--data", str(reference / "inputs" / "ewok_synthetic"), "--tasks", "ewok", "--out", str(tmp_path / "out")]
    assert evaluate([str(tmp_path / "one" / "net"), *rest]) == 0
    record = json.loads(next((tmp_path / "out").rglob("made_from.json")).read_text())
    assert (record["place"], record["rules"], len(record["model"])) == (str(tmp_path / "one" / "net"), "honest", 32)
    with pytest.raises(UserError, match=r"holds results of the model .*/one/net; choose another --out"):
        evaluate([str(tmp_path / "other" / "net"), *rest])
    assert evaluate([str(tmp_path / "one" / "net"), *rest]) == 0


def test_a_task_is_scored_again_where_its_official_files_are_gone_damaged_or_of_other_rules(shared_data: Path, tmp_path: Path) -> None:
    """What the task's own record says is not enough: the submission reads the files."""
    reference, out = shared_data / "official_reference", tmp_path / "out"
    command = [str(reference / "model"), "--data", str(reference / "inputs" / "ewok_synthetic"), "--tasks", "ewok", "--out", str(out)]
    assert evaluate(command) == 0
    place = next(out.rglob("made_from.json")).parent
    path, before = place / "predictions.json", (place / "predictions.json").read_text()
    mark = path.stat().st_mtime_ns
    assert evaluate(command) == 0
    assert path.stat().st_mtime_ns == mark
    for spoil in (path.unlink, lambda: path.write_text(before[:50]), (place / "made_from.json").unlink):
        spoil()
        assert evaluate(command) == 0
        assert path.read_text() == before
    assert evaluate([*command, "--rules", "2026"]) == 0
    assert path.read_text() != before
    assert evaluate(command) == 0
    assert path.read_text() == before
    assert json.loads((place / "made_from.json").read_text())["rules"] == "honest"
