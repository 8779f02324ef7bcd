"""The evaluation command as a whole: a series of checkpoints, several commands into one directory, what it refuses, in one line."""

import fcntl
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers

from sleep_tune.errors import UserError
from sleep_tune.evaluation.__main__ import main
from sleep_tune.evaluation.comparison import main as comparison
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.submission import main as submission

PAIRS = [("A dog barks.", "A dog bark."), ("Dogs bark.", "Dogs barks."), ("She sees it.", "She see it."), ("They go.", "They goes.")]
CHECKPOINTS = ("chck_1M", "chck_2M", "chck_10M")


def save_model(place: Path, tokenizer: Any, seed: int, width: int = 16) -> Path:
    shape = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.RobertaConfig(vocab_size=261, max_position_embeddings=90, pad_token_id=1, initializer_range=0.3, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.RobertaForMaskedLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def model(tmp_path: Path, tokenizer: Any) -> Path:
    return save_model(tmp_path / "final", tokenizer, 9)


@pytest.fixture
def series(tmp_path: Path, tokenizer: Any, model: Path) -> Path:
    """Three checkpoints, the last of which is the model itself."""
    folder = tmp_path / "checkpoints"
    for seed, name in enumerate(CHECKPOINTS[:-1]):
        save_model(folder / name, tokenizer, seed)
    shutil.copytree(model, folder / CHECKPOINTS[-1])
    return folder


def blimp_lines(pairs: list[tuple[str, str]]) -> str:
    about = {"field": "syntax", "linguistics_term": "agreement", "UID": "agreement"}
    return "".join(json.dumps({"sentence_good": good, "sentence_bad": bad} | about) + "\n" for good, bad in pairs)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pairs of blimp, of which two are the fast set; nominalisations; words in contexts, with children's answers; one sort of GLUE."""
    folder = tmp_path / "evaluation_data"
    wug = [
        json.dumps({"sentences": f"the {a}ity\tthe {a}ness", "ratio": r})
        for a, r in (("dax", 0.9), ("wug", 0.2), ("blick", 0.5), ("fep", 0.1))
    ]
    contexts = {word: [{"context": text} for text in ("the", "I see a")] for word in ("dog", "ball", "milk")}
    months = ",".join(map(str, range(16, 31)))
    shares = [",".join(str(min(1.0, max(0.0, (month - 16) / 15 + shift))) for month in range(16, 31)) for shift in (0.0, 0.1, -0.1)]
    children = "\n".join(
        [f",word,{months}", *(f"{k},{word},{share}" for k, (word, share) in enumerate(zip(contexts, shares, strict=True)))]
    )
    glue = [json.dumps({"sentence1": f"The cat {i}.", "sentence2": ("yes", "no")[i % 2], "label": i % 2}) + "\n" for i in range(40)]
    for place, text in {
        "full_eval/blimp_filtered/agreement.jsonl": blimp_lines(PAIRS),
        "fast_eval/blimp_fast/agreement.jsonl": blimp_lines(PAIRS[1:3]),
        "full_eval/wug_adj_nominalization/wug.jsonl": "\n".join(wug) + "\n",
        "fast_eval/wug_adj_nominalization/wug.jsonl": "\n".join(wug) + "\n",
        "full_eval/cdi_childes/cdi_childes.json": json.dumps(contexts),
        "full_eval/cdi_childes/cdi_human.csv": children + "\n",
        "full_eval/glue_filtered/rte.train.jsonl": "".join(glue),
        "full_eval/glue_filtered/rte.valid.jsonl": "".join(glue[:20]),
    }.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    return folder


@pytest.fixture
def command(model: Path, data: Path, tmp_path: Path) -> list[str]:
    return [str(model), "--data", str(data), "--out", str(tmp_path / "out"), "--tasks"]


def environment() -> dict[str, str]:
    """A script's own folder would come before this tree's package, or another tree's that is installed."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def killed(before: str, arguments: list[str]) -> None:
    """The command, killed where it is about to publish a file whose path ends so."""
    script = Path(__file__).with_name("killed_command.py")
    done = subprocess.run([sys.executable, str(script), before, *arguments], capture_output=True, text=True, env=environment())
    assert done.returncode == -signal.SIGKILL, done.stderr


def files_in(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def scores_in(out: Path) -> Any:
    return json.loads((out / "scores.json").read_text())


def table(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "scores.parquet").to_pylist()
    return rows


def averages_in(out: Path) -> list[str]:
    return [mean["name"] for mean in scores_in(out)["averages"] if mean["value"] is not None]


def test_averages_over_less_than_the_official_sets_never_look_like_the_official_ones(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, (rest, mark) in enumerate(
        (
            (["wug_adj", "--fast"], "fast"),
            (["wug_adj", "--items-per-uid", "1"], "1 item of every UID"),
            (["wug_adj", "--fast", "--items-per-uid", "1"], "fast, 1 item of every UID"),
            (["blimp", "--fast"], "fast, in part"),  # one UID of 67
            (["rte", "--finetune-rows", "8"], "pilot, in part"),
            (["wug_adj", "--bf16"], "in part, mlm_bf16"),  # 4 items of 200
            (["blimp"], "in part"),
        )
    ):
        out = tmp_path / f"out_{k}"
        command[4] = str(out)
        assert main([*command, *rest]) == 0
        assert f"2025 text average ({mark})" in averages_in(out)
        assert all(name.endswith(f" ({mark})") for name in averages_in(out))
        shown = capsys.readouterr().out
        averages = shown[shown.index("average ") :]
        assert f"2025 text average ({mark}) " in averages
        assert averages.count("2025 text average") == 1


def test_a_directory_of_the_fast_set_is_fast_without_the_option(command: list[str], data: Path, tmp_path: Path) -> None:
    command[2] = str(data / "fast_eval" / "blimp_fast")
    assert main([*command, "blimp"]) == 0
    assert "2025 text average (fast, in part)" in averages_in(tmp_path / "out")
    assert {row["set"] for row in table(tmp_path / "out")} == {"fast"}


def test_averages_are_a_table_and_what_they_lack_is_said_once(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "blimp,wug_adj"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split("  ") for line in shown[shown.index("average ") :].splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    written = {mean["name"]: mean for mean in scores_in(tmp_path / "out")["averages"]}
    assert [line[0] for line in cells[1:6]] == list(written)
    assert cells[1] == ["2025 text average (in part)", f"{written[cells[1][0]]['value']:.2f}", "only 2 of 10", "blimp, wug_adj"]
    assert cells[3][2:] == ["only 1 of 4", "wug_adj"]
    missing = "supplement, ewok, entity_tracking, comps, glue, reading, wug_past, aoa, global_piqa (in 2026 overall)"
    assert shown.count("missing, not counted: ") == 1
    assert f"missing, not counted: {missing}\n" in shown
    assert "in part: blimp (1 of 67 UIDs), wug_adj (4 of 200 items)\n" in shown


def test_a_series_is_scored_on_the_fast_set_and_the_model_on_what_was_asked(
    command: list[str], series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "blimp,wug_adj,aoa", "--checkpoints", str(series)]) == 0
    out, rows = tmp_path / "out", table(tmp_path / "out")
    assert {(row["revision"], row["task"], row["set"], row["n"]) for row in rows if row["task"] == "blimp"} == {
        *((name, "blimp", "fast", 2) for name in (*CHECKPOINTS, "main")),
        ("main", "blimp", "full", 4),
    }
    assert {(row["revision"], row["words_seen"]) for row in rows} == {("chck_1M", 1e6), ("chck_2M", 2e6), ("chck_10M", 1e7), ("main", None)}
    for name in ("model", "backend", "rules", "dataset", "items_per_uid", "seed"):
        assert all(name in row for row in rows)
    places = {str(path.parent.relative_to(out / "results" / "final")) for path in out.glob("results/final/**/predictions.json")}
    wug, blimp = "zero_shot/mlm/wug_adj/wug_adj_nominalization", "zero_shot/mlm/blimp"
    checkpoints = {f"{name}/{place}" for name in CHECKPOINTS for place in (wug, f"{blimp}/blimp_fast")}
    assert places == checkpoints | {f"main/{wug}", f"main/{blimp}/blimp_fast", f"main/{blimp}/blimp_filtered"}
    written = scores_in(out)
    assert {task: line["n"] for task, line in written["tasks"].items()} == {"blimp": 4, "wug_adj": 4, "aoa": written["tasks"]["aoa"]["n"]}
    assert list(written["checkpoints"]) == list(CHECKPOINTS)
    assert written["checkpoints"]["chck_10M"]["tasks"]["blimp"]["score"] == written["fast"]["blimp"]["score"]
    shown = capsys.readouterr().out
    assert "learning curve" in shown
    for name in CHECKPOINTS:
        assert f"│ {name}" in shown


def test_each_checkpoint_has_the_scores_that_a_command_of_its_own_gives_it(command: list[str], series: Path, tmp_path: Path) -> None:
    assert main([*command, "blimp,wug_adj", "--checkpoints", str(series)]) == 0
    together = scores_in(tmp_path / "out")["checkpoints"]
    for name in CHECKPOINTS:
        out = tmp_path / name
        assert main([str(series / name), *command[1:3], "--out", str(out), "--fast", "--tasks", "blimp,wug_adj"]) == 0
        alone = scores_in(out)["tasks"]
        for task in ("blimp", "wug_adj"):
            assert alone[task]["score"] == pytest.approx(together[name]["tasks"][task]["score"], abs=1e-9)
        theirs, ours = (
            next(place.glob("results/*/*/zero_shot/mlm/blimp/blimp_fast/predictions.json")).read_text()
            for place in (out, _only(tmp_path / "out", name, tmp_path))
        )
        assert theirs == ours


def test_a_checkpoints_results_say_where_it_was_and_another_series_is_refused(
    command: list[str], series: Path, model: Path, tmp_path: Path
) -> None:
    assert main([*command, "wug_adj", "--checkpoints", str(series)]) == 0
    records = {path.relative_to(tmp_path / "out/results/final").parts[0]: path for path in (tmp_path / "out").rglob("made_from.json")}
    places = {name: json.loads(path.read_text())["place"] for name, path in records.items()}
    assert places == {"main": str(model)} | {name: str(series / name) for name in CHECKPOINTS}
    for name in CHECKPOINTS:
        shutil.copytree(series / name, tmp_path / "others" / name)
        (tmp_path / "others" / name / "more.json").write_text("{}")
    with pytest.raises(UserError, match=r"chck_1M holds results of the model .*/checkpoints/chck_1M; choose another --out"):
        main([*command, "wug_adj", "--checkpoints", str(tmp_path / "others")])


def _only(out: Path, name: str, tmp_path: Path) -> Path:
    """The results of one revision, alone."""
    shutil.copytree(out / "results" / "final" / name, tmp_path / f"only_{name}" / "results" / "final" / name)
    return tmp_path / f"only_{name}"


def test_a_series_goes_on_where_it_stopped(
    command: list[str], series: Path, tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["blimp,aoa", "--checkpoints", str(series)]
    assert main([*command, *rest]) == 0
    out, before = tmp_path / "out", scores_in(tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("tasks/*/mlm/honest/*/*.json")}
    assert len(kept) == 2 * 3 + 3  # blimp and aoa a checkpoint; of the model blimp, its fast set, aoa
    capsys.readouterr()
    assert main([*command, *rest]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert scores_in(out) == before
    said = capsys.readouterr().err
    for name in ("blimp", "3 checkpoints", "aoa"):
        assert f"{name}: already scored" in said
    save_model(series / "chck_2M", tokenizer, 77)
    assert main([*command, *rest]) == 0
    made = {path: path.stat().st_mtime_ns for path in kept}
    changed = {(path.parts[-5], path.stem) for path in kept if made[path] != kept[path]}
    assert changed == {("chck_2M", "blimp"), ("chck_2M", "aoa"), ("main", "aoa")}


def test_a_later_command_gathers_what_lies_there_of_the_same_model_rules_and_backend(
    command: list[str], model: Path, tmp_path: Path, tokenizer: Any
) -> None:
    out = tmp_path / "out"
    assert main([*command, "blimp"]) == 0
    first = scores_in(out)["tasks"]["blimp"]
    assert main([*command, "rte", "--finetune-rows", "8"]) == 0
    assert main([*command, "wug_adj"]) == 0
    written = scores_in(out)
    assert list(written["tasks"]) == ["blimp", "wug_adj", "rte"]
    assert written["tasks"]["blimp"] == first
    assert written["averages"][0]["entered"] == ["blimp", "glue", "wug_adj"]
    assert written["averages"][0]["name"] == "2025 text average (in part, pilot)"
    assert set(pq.read_table(out / "items.parquet")["task"].to_pylist()) == {"blimp", "wug_adj", "rte"}
    assert main([*command, "wug_adj", "--rules", "2025"]) == 0
    assert list(scores_in(out)["tasks"]) == ["wug_adj"]
    assert main([*command, "blimp", "--backend", "mntp"]) == 0
    assert list(scores_in(out)["tasks"]) == ["blimp"]
    save_model(model, tokenizer, 5)
    assert main([*command, "wug_adj"]) == 0
    assert list(scores_in(out)["tasks"]) == ["wug_adj"]


def test_fast_and_full_lie_side_by_side(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*command, "blimp"]) == 0
    assert (scores_in(out)["tasks"]["blimp"]["set"], scores_in(out)["fast"]["blimp"]["n"]) == ("full", 2)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("tasks/**/*.json")}
    assert main([*command, "blimp", "--fast"]) == 0  # is there already
    assert scores_in(out)["tasks"]["blimp"]["set"] == "fast"
    assert main([*command, "blimp"]) == 0
    assert scores_in(out)["tasks"]["blimp"]["set"] == "full"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_sample_does_not_take_the_place_of_the_whole(command: list[str], tmp_path: Path) -> None:
    predictions = tmp_path / "out" / "results" / "final" / "main" / "zero_shot" / "mlm" / "blimp" / "blimp_filtered" / "predictions.json"
    sample = [*command, "blimp", "--items-per-uid", "1"]
    assert main(sample) == 0
    few = predictions.read_text()
    assert main([*command, "blimp"]) == 0
    whole = predictions.read_text()
    assert len(whole) > len(few)
    assert main(sample) == 0
    assert predictions.read_text() == whole


def test_the_fast_scores_of_the_model_are_those_of_scoring_them_alone(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "blimp"]) == 0
    alone = [*command[:4], str(tmp_path / "alone"), "--fast", "--tasks", "blimp"]
    assert main(alone) == 0
    place = "results/final/main/zero_shot/mlm/blimp/blimp_fast"
    for name in ("predictions.json", "best_temperature_report.txt"):
        assert (tmp_path / "out" / place / name).read_text() == (tmp_path / "alone" / place / name).read_text()


def test_checkpoints_are_compared_item_by_item(
    command: list[str], series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "blimp", "--checkpoints", str(series)]) == 0
    a, b = (str(tmp_path / "out" / "checkpoints" / f"{name}.parquet") for name in ("chck_1M", "chck_2M"))
    assert comparison([a, b, "--out", str(tmp_path / "compared")]) == 0
    assert "blimp" in capsys.readouterr().out


def test_tasks_without_a_fast_set_are_scored_on_the_model_alone(command: list[str], data: Path, series: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "fast_eval" / "blimp_fast")
    assert main([*command, "blimp,wug_adj", "--checkpoints", str(series)]) == 0
    written = scores_in(tmp_path / "out")
    assert any(note.startswith("blimp: no fast set there: not scored at the checkpoints") for note in written["notes"])
    assert list(written["checkpoints"]["chck_1M"]["tasks"]) == ["wug_adj"]
    assert list(written["tasks"]) == ["blimp", "wug_adj"]


def test_a_series_of_two_has_curves_but_no_ages(command: list[str], series: Path, tmp_path: Path) -> None:
    shutil.rmtree(series / "chck_10M")
    assert main([*command, "all", "--checkpoints", str(series)]) == 0
    written = scores_in(tmp_path / "out")
    assert list(written["checkpoints"]) == list(CHECKPOINTS[:2])
    assert "aoa: not defined for 2 checkpoints: an age needs a series of at least 3" in written["notes"]
    with pytest.raises(UserError, match="2 found; an age of acquisition needs a series of at least 3"):
        main([*command, "aoa", "--checkpoints", str(series)])


def test_a_damaged_fast_set_does_not_stop_the_full_one(command: list[str], data: Path, series: Path, tmp_path: Path) -> None:
    (data / "fast_eval" / "blimp_fast" / "agreement.jsonl").write_text("{")
    assert main([*command, "blimp"]) == 0
    assert any(note.startswith("the fast set is left out: ") for note in scores_in(tmp_path / "out")["notes"])
    with pytest.raises(UserError, match=r"blimp_fast/agreement\.jsonl line 1: not JSON"):
        main([*command, "blimp", "--checkpoints", str(series)])


@pytest.mark.parametrize(
    ("tasks", "rest", "message"),
    [
        ("all,ewok", [], r"missing ewok \(full_eval/ewok_filtered\)"),
        ("all,pairs", [], r"missing pairs \(a jsonl file of its own\)"),
        ("all,aoa", [], "aoa: not defined for one checkpoint: name the series by --checkpoints"),
        ("wug_adj,aoa", [], "aoa: not defined for one checkpoint"),
        ("all,boolq", [], r"task = boolq: no boolq\.train\.jsonl and boolq\.valid\.jsonl in"),
        ("rte", ["--checkpoints", "SERIES"], "zero-shot tasks are scored at checkpoints, and none is named"),
        ("blimp", ["--checkpoints", "nowhere"], "--checkpoints = nowhere: no such directory"),
        ("blimp", ["--checkpoints", "EMPTY"], "0 found; must be model directories named chck_1M"),
        (
            "blimp",
            ["--checkpoints", "SERIES", "--revision", "chck_1M"],
            "--revision = chck_1M: is another model than the checkpoint of that name",
        ),
        ("blimp", ["--seed", "-1"], "--seed = -1: must be at least 0"),
        ("rte", ["--finetune-seeds", "9" * 5000], "--finetune-seeds = 9{80}: must be whole numbers"),
        ("blimp", ["--revision", "../up"], "--revision = ../up: must be a branch or tag"),
    ],
)
def test_what_was_named_is_scored_or_refused(
    tasks: str, rest: list[str], message: str, command: list[str], series: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"SERIES": str(series), "EMPTY": str(tmp_path / "empty")}
    with pytest.raises(UserError, match=message) as caught:
        main([*command, tasks, *(places.get(word, word) for word in rest)])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_task_named_twice_is_scored_once(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "wug_adj,wug_adj,blimp,wug_adj"]) == 0
    assert {task: line["n"] for task, line in scores_in(tmp_path / "out")["tasks"].items()} == {"blimp": 4, "wug_adj": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ' + b"[" * 100_000, "config.json: not JSON that can be read"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "config.json: not JSON that can be read"),
        (b'{"a": "\\ud800"}', "config.json: text .* half of a surrogate pair"),
        (b"\xff\xfe", "config.json: not UTF-8"),
        (b"{", "config.json: not JSON"),
        (None, "cannot be read"),
    ],
)
def test_a_config_that_is_none_is_one_line(content: bytes | None, message: str, command: list[str], model: Path) -> None:
    (model / "config.json").unlink()
    if content is None:
        (model / "config.json").mkdir()
    else:
        (model / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        main([*command, "wug_adj"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "hub:", "hub:..", "/"])
def test_a_model_that_can_be_none_is_one_line(name: str, command: list[str]) -> None:
    with pytest.raises(UserError, match=r"^model = "):
        main([name, *command[1:], "wug_adj"])


def test_what_a_submission_says_is_to_do_can_be_done(
    command: list[str], data: Path, model: Path, series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*command, "wug_adj", "--rules", "2025"]) == 0
    capsys.readouterr()
    with pytest.raises(UserError, match="nothing there that belongs into a submission of 2025"):  # four words are no task
        submission([str(out), "--data", str(data), "--out", str(tmp_path / "file.json")])
    lines = capsys.readouterr().out.splitlines()
    [line] = [line.removeprefix("to do: python -m sleep_tune.evaluation ") for line in lines if line.startswith("to do: ")]
    [lacking] = [line for line in lines if line.startswith(f"to do, but not in {data}: ")]
    assert ": supplement, ewok, entity_tracking, wug_past, comps, reading, boolq" in lacking
    assert "blimp" not in lacking
    assert "(CHECKPOINTS is a directory of its checkpoints, chck_1M and so on; what is done already is kept)" in lines
    words = [str(series) if word == "CHECKPOINTS" else word for word in shlex.split(line)]
    assert words[0] == str(model)
    assert words[words.index("--rules") + 1] == "2025"
    assert set(words[words.index("--tasks") + 1].split(",")) >= {"blimp", "aoa", "rte"}
    words[words.index("--tasks") + 1] = "blimp,wug_adj,aoa"  # fine-tuning takes its time
    assert main(words) == 0
    assert {row["task"] for row in table(out)} == {"blimp", "wug_adj", "aoa"}


def test_a_model_without_a_tokenizer_is_refused_and_not_scored_as_a_coin(command: list[str], model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model / name, bare)
    with pytest.raises(UserError, match=f"^model = {bare}: (no tokenizer in it, or one without words|cannot be loaded)"):
        main([str(bare), *command[1:], "blimp"])
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_trial_in_place_of_its_model_is_told_where_that_is(command: list[str], model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "trial" / "model")
    with pytest.raises(UserError, match=rf"no config\.json in it; .* \(did you mean {tmp_path}/trial/model\?\)$"):
        main([str(tmp_path / "trial"), *command[1:], "blimp"])


def test_results_are_not_written_into_the_model(command: list[str], model: Path) -> None:
    before = sorted(model.iterdir())
    at = command.index("--out") + 1
    with pytest.raises(UserError, match=f"^--out = {model}: is the model's own directory"):
        main([*command[:at], str(model), *command[at + 1 :], "wug_adj"])
    assert sorted(model.iterdir()) == before


def test_a_submission_takes_the_place_of_no_device(command: list[str], data: Path, tmp_path: Path) -> None:
    assert main([*command, "wug_adj"]) == 0
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"^--out = {pipe}: a device or pipe; must be a file"):
        submission([str(tmp_path / "out"), "--data", str(data), "--out", str(pipe)])
    assert pipe.is_fifo()


OWN_CODE = {
    "modeling_own.py": """
from transformers import RobertaForMaskedLM

from .configuration_own import OwnConfig


class Own(RobertaForMaskedLM):
    config_class = OwnConfig
""",
    "configuration_own.py": """
from transformers import RobertaConfig


class OwnConfig(RobertaConfig):
    model_type = "own"
""",
}


def test_code_that_a_model_brings_runs_only_where_it_is_trusted(command: list[str], model: Path, tmp_path: Path) -> None:
    for name, text in OWN_CODE.items():
        (model / name).write_text(text)
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForMaskedLM": "modeling_own.Own"}
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["Own"], "auto_map": own, "model_type": "own"}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"model = {model}: brings code of its own; --trust-remote-code runs it"):
        main([*command, "blimp"])
    assert main([*command, "blimp", "--trust-remote-code"]) == 0
    assert {row["task"] for row in table(tmp_path / "out")} == {"blimp"}


def test_a_damaged_record_is_named(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "wug_adj"]) == 0
    [record] = (tmp_path / "out").glob("tasks/**/wug_adj.json")
    for text in ("{", "[1]", "[" * 100_000):
        record.write_text(text)
        with pytest.raises(UserError, match=r"wug_adj\.json: damaged; delete it to score wug_adj again"):
            main([*command, "wug_adj"])


def test_the_full_plan_holds_the_rows_of_the_fast_one(shared_data: Path) -> None:
    """Fast scores of the model cost nothing: official fast items are official full items."""
    from sleep_tune.evaluation.evaluate import plan_items

    tokenizer = transformers.AutoTokenizer.from_pretrained(shared_data / "official_reference" / "model")
    data = shared_data / "evaluation_data"
    [full], [fast] = (load_items(data, ["supplement"], is_fast) for is_fast in (False, True))
    assert plan_items(tokenizer, [full, fast]).n_rows == plan_items(tokenizer, [full]).n_rows


def test_the_tables_of_another_model_are_not_replaced(command: list[str], tmp_path: Path, tokenizer: Any) -> None:
    out = tmp_path / "out"
    assert main([*command, "blimp"]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = save_model(tmp_path / "other", tokenizer, 5)
    with pytest.raises(UserError, match=f"^--out = {out}: its scores.json is of the model {command[0]}; choose another --out for {other}$"):
        main([str(other), *command[1:], "wug_adj"])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    same = shutil.copytree(command[0], tmp_path / "moved" / "final")
    assert main([str(same), *command[1:], "wug_adj"]) == 0
    assert list(scores_in(out)["tasks"]) == ["blimp", "wug_adj"]


def test_a_model_trained_again_is_the_same_by_whatever_path(
    command: list[str], tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "net", tokenizer, 4)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["net", *command[1:], "wug_adj"]) == 0
    save_model(tmp_path / "net", tokenizer, 5)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["../net", *command[1:], "wug_adj"]) == 0


def test_a_model_of_the_other_kind_says_which_backend_it_is_for(command: list[str], tmp_path: Path, tokenizer: Any) -> None:
    config = transformers.GPT2Config(vocab_size=261, n_positions=90, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match=r"gpt2: is a GPT2LMHeadModel, not a masked model: use --backend causal$"):
        main([str(tmp_path / "gpt2"), *command[1:], "wug_adj", "--backend", "mlm"])


@pytest.mark.parametrize("last", ["tasks/main/mlm/honest/full_1_of_uid/blimp.json", "blimp_filtered/predictions.json", "scores.json"])
def test_a_kill_while_another_sample_is_published_leaves_no_record_of_the_one_before(command: list[str], tmp_path: Path, last: str) -> None:
    sample = ["blimp", "--items-per-uid", "1"]
    assert main([*command, *sample]) == 0
    before = files_in(tmp_path / "out")
    assert main([*command, *sample, "--seed", "1"]) == 0
    assert {name for name, content in files_in(tmp_path / "out").items() if content != before[name]} > {"items.parquet"}  # another item
    shutil.rmtree(tmp_path / "out")
    assert main([*command, *sample]) == 0
    killed(last, [*command, *sample, "--seed", "1"])
    assert main([*command, *sample]) == 0
    after = files_in(tmp_path / "out")
    assert [name for name in before if after.get(name) != before[name]] == []


@pytest.mark.parametrize("last", ["results/final/main/zero_shot/mlm/blimp/blimp_fast/made_from.json", "fast/blimp.parquet", "scores.json"])
def test_a_killed_command_leaves_nothing_unfinished_once_it_has_gone_on(command: list[str], tmp_path: Path, last: str) -> None:
    assert main([*command, "blimp"]) == 0
    calm = files_in(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".notes.of-mine").write_text("not ours")
    killed(last, [*command, "blimp"])
    assert [path for path in (tmp_path / "out").rglob(".*.????????") if path.name[1:].startswith(Path(last).name)]
    assert main([*command, "blimp"]) == 0
    assert files_in(tmp_path / "out") == {".notes.of-mine": b"not ours", **calm}


def test_two_commands_into_one_directory_wait_for_each_other(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "wug_adj"]) == 0
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with (tmp_path / "out" / "lock").open("a+") as lock:  # as a command that runs
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = [sys.executable, "-m", "sleep_tune.evaluation", *command, "blimp"]
        waiting = subprocess.Popen(words, env=environment(), **pipes)
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == f"{tmp_path / 'out'}: another command writes there: waiting for its end\n"
        assert list(scores_in(tmp_path / "out")["tasks"]) == ["wug_adj"]
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, said
    assert list(scores_in(tmp_path / "out")["tasks"]) == ["blimp", "wug_adj"]


@pytest.mark.parametrize("last", ["main/mlm/honest/full/blimp.json", "1M/mlm/honest/full/aoa.json", "2M/mlm/honest/fast/wug_adj.json"])
def test_a_killed_series_ends_with_the_bytes_of_the_undisturbed_one(
    command: list[str], data: Path, series: Path, tmp_path: Path, tokenizer: Any, last: str
) -> None:
    for place in (Path(command[0]), *(series / name for name in CHECKPOINTS)):  # wide enough for products to be added up in several orders
        save_model(place, tokenizer, len(place.name), width=128)
    dice, words = random.Random(3), ["dog", "barks", "she", "sees", "it", "they", "go", "the", "cat", "milk", "and", "a"]
    texts = [" ".join(dice.choices(words, k=dice.randint(2, 9))) for _ in range(60)]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    (data / "full_eval/blimp_filtered/agreement.jsonl").write_text(blimp_lines(pairs))
    (data / "fast_eval/blimp_fast/agreement.jsonl").write_text(blimp_lines(pairs[::3]))
    rest = ["blimp,wug_adj,aoa", "--checkpoints", str(series)]
    assert main([*command, *rest]) == 0
    calm = files_in(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    killed(last, [*command, *rest])
    assert main([*command, *rest]) == 0
    after = files_in(tmp_path / "out")
    assert [name for name in {**calm, **after} if after.get(name) != calm.get(name)] == []


def test_items_of_checkpoints_go_where_they_are_of_the_model_before_it_was_trained_again(
    command: list[str], model: Path, series: Path, tmp_path: Path, tokenizer: Any
) -> None:
    assert main([*command, "blimp", "--fast", "--checkpoints", str(series)]) == 0
    assert main([*command, "wug_adj"]) == 0
    out = tmp_path / "out"
    assert len(list((out / "checkpoints").iterdir())) == 3  # still the model's
    save_model(model, tokenizer, 10)
    shutil.rmtree(series / CHECKPOINTS[2])
    assert main([*command, "blimp", "--fast", "--checkpoints", str(series)]) == 0
    assert sorted(path.stem for path in (out / "checkpoints").iterdir()) == list(scores_in(out)["checkpoints"]) == list(CHECKPOINTS[:2])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_in_one_line_that_it_can_be_gone_on_with(
    command: list[str], data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    glue = [json.dumps({"sentence1": f"A {i} goes.", "sentence2": "yes", "label": i % 2}) + "\n" for i in range(2000)]
    (data / "full_eval/glue_filtered/rte.train.jsonl").write_text("".join(glue))  # for minutes
    words = [sys.executable, "-m", "sleep_tune.evaluation", *command, "wug_adj,rte"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    assert running.stderr is not None
    assert running.stderr.readline().startswith("wug_adj: ")
    running.send_signal(number)
    printed, said = running.communicate(timeout=120)
    line = f"interrupted: what is finished is kept in {tmp_path / 'out'}: the same command goes on with the rest\n"
    assert (running.returncode, printed, said) == (130, "", line)
    assert list((tmp_path / "out").glob("**/.*")) == []


def test_what_a_killed_command_left_is_not_mixed_with_another_models(command: list[str], tmp_path: Path, tokenizer: Any) -> None:
    killed("scores.json", [*command, "blimp"])
    before = files_in(tmp_path / "out")
    other = save_model(tmp_path / "other", tokenizer, 5)
    with pytest.raises(UserError, match=rf"results/final/main holds results of the model {command[0]}; choose another --out"):
        main([str(other), *command[1:], "blimp"])
    kept = files_in(tmp_path / "out")
    assert {name: before[name] for name in kept} == kept
    assert main([*command, "blimp"]) == 0


def test_damaged_items_are_named(command: list[str], series: Path, tmp_path: Path) -> None:
    rest = ["wug_adj,aoa", "--checkpoints", str(series)]
    assert main([*command, *rest]) == 0
    for name in ("main/mlm/honest/full/wug_adj", "chck_1M/mlm/honest/full/aoa"):
        items = tmp_path / "out" / "tasks" / f"{name}.parquet"
        items.write_bytes(items.read_bytes()[:100])
        (tmp_path / "out" / "tasks" / "main/mlm/honest/full/aoa.json").unlink()
        with pytest.raises(UserError, match=rf"{items.name}: damaged; delete it to score {items.stem} again"):
            main([*command, *rest])
        items.unlink()
        assert main([*command, *rest]) == 0
