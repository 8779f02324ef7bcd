"""The challenge's file: what is in it, and what is said of what is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sleep_tune.config import load_config
from sleep_tune.data.token_store import open_store, prepare
from sleep_tune.errors import UserError
from sleep_tune.evaluation.challenge import EDITIONS, GLUE, TRACKS, File
from sleep_tune.evaluation.fast_scores import fast_score
from sleep_tune.evaluation.legality import legality
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.submission import main
from sleep_tune.presets import combine, set_field, write_yaml
from sleep_tune.study.material import recipe

SMALL = TRACKS["strict-small"]


@pytest.fixture(scope="module")
def whole_2025(tmp_path_factory: pytest.TempPathFactory, fill: Callable[..., None]) -> Path:
    place = tmp_path_factory.mktemp("whole")
    fill(place / "results" / "net", "2025")
    return place


@pytest.fixture
def copy(whole_2025: Path, tmp_path: Path) -> Path:
    """The same files by another name: a test replaces what it changes."""
    shutil.copytree(whole_2025, tmp_path / "copy", copy_function=lambda source, target: Path(target).hardlink_to(source))
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def fast_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fast data for two tasks: two UIDs of BLiMP, whose first half is answered right by "a text", and WUG."""
    place = tmp_path_factory.mktemp("evaluation_data") / "fast_eval"
    for uid in EDITIONS["2025"].files[0].sizes:
        fields = {"field": "f", "linguistics_term": "t", "UID": uid}
        pairs = [("a text", "another") if i < 100 else ("another", "a text") for i in range(200)]
        lines = [json.dumps({"sentence_good": good, "sentence_bad": bad} | fields) for good, bad in pairs]
        (place / "blimp_fast").mkdir(parents=True, exist_ok=True)
        (place / "blimp_fast" / f"{uid}.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"sentences": "a text\tb", "ratio": -float(i)}) for i in range(200)]
    (place / "wug_adj_nominalization").mkdir(parents=True)
    (place / "wug_adj_nominalization" / "wug_adj_nominalization.jsonl").write_text("\n".join(lines) + "\n")
    return place.parent


def submit(place: Path, tmp_path: Path, *more: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    out = tmp_path / "submission.json"
    code = main([str(place), "--out", str(out), *more])
    return code, json.loads(out.read_text()), json.loads((tmp_path / "submission.json.legality.json").read_text())


def test_a_complete_submission_has_the_keys_and_scores_of_the_collation(
    whole_2025: Path, fast_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made, beside = submit(whole_2025, tmp_path, "--data", str(fast_data))
    order = [
        "blimp",
        "blimp_supplement",
        "ewok",
        "entity_tracking",
        "wug_adj",
        "wug_past",
        "comps",
        "reading",
        "aoa",
        "glue",
        "fast_eval_results",
    ]
    assert list(made) == order
    assert list(made["glue"]) == ["boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc"]
    assert made["glue"]["rte"]["predictions"][1] == {"id": "rte_1", "pred": 1}
    assert len(made["comps"]["base"]["predictions"]) == 49340
    assert len(made["aoa"]["results"]) == 19 * 8005
    fast = made["fast_eval_results"]
    assert [len(rows) for rows in fast.values()] == [19] * 7
    assert fast["blimp"][0]["wh_island"] == 0.5
    assert fast["wug_adj"][18] == {"wug_adj": pytest.approx(1.0)}
    assert fast["ewok"][0] is None  # no data to score it by
    shown = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("supplement, ewok, entity_tracking, wug_past, reading of checkpoints: not scored: no fast") for line in shown
    )
    assert code == 1
    assert beside["legality"]["legal"] is None


def problems(place: Path, tmp_path: Path, *more: str) -> list[str]:
    return submit(place, tmp_path, *more)[2]["problems"]


def test_missing_and_wrong_files_are_named_in_one_line_each_and_left_out(
    copy: Path, tmp_path: Path, write_value: Callable[[Path, Any], None]
) -> None:
    """No --data: every task of the checkpoints has a line of its own, which is not looked at here."""
    main_place = copy / "results" / "net" / "main"
    zero_shot = main_place / "zero_shot" / "mlm"

    def change(path: Path, edit: Callable[[Any], Any]) -> None:
        value = edit(json.loads(path.read_text()))
        path.unlink()
        write_value(path, value)

    (zero_shot / "comps" / "comps" / "predictions.json").unlink()
    cut = zero_shot / "ewok" / "ewok_filtered" / "predictions.json"
    text = cut.read_text()
    cut.unlink()
    cut.write_text(text[:-9])
    change(
        zero_shot / "blimp/supplement_filtered/predictions.json",
        lambda made: made | {"hypernym": {"predictions": made["hypernym"]["predictions"][:-1]}},
    )
    change(zero_shot / "blimp/blimp_filtered/predictions.json", lambda made: {uid: made[uid] for uid in made if uid != "wh_island"})
    change(
        zero_shot / "wug_past/wug_past_tense/predictions.json",
        lambda made: {"wug_past": {"predictions": made["wug_past"]["predictions"][::-1]}},
    )
    change(
        zero_shot / "wug_adj/wug_adj_nominalization/predictions.json",
        lambda made: {"wug_adj": {"predictions": [{**row, "prob": None} for row in made["wug_adj"]["predictions"]]}},
    )
    change(
        zero_shot / "AoA_word/surprisal.json", lambda made: {"results": [row for row in made["results"] if row["step"] != "chck_3M"][1:]}
    )
    change(
        main_place / "finetune/rte/predictions.json",
        lambda made: {"rte": {"predictions": [{**row, "pred": "1"} for row in made["rte"]["predictions"]]}},
    )
    shutil.rmtree(copy / "results" / "net" / "chck_20M")
    code, made, beside = submit(copy, tmp_path)
    said = {line.split(":")[0]: line for line in beside["problems"] if "not scored" not in line}
    assert said["comps"].startswith("comps: missing: ")
    assert said["ewok"].startswith("ewok: not JSON (Unterminated string")
    assert said["supplement"].startswith("supplement: wrong number of predictions: hypernym has 841, must be 842")
    assert said["blimp"].startswith("blimp: no predictions for wh_island")
    assert said["wug_past"].startswith("wug_past: ids not numbered from 0: wug_past")
    assert said["wug_adj"].startswith("wug_adj: predictions that are no text with a probability: wug_adj")
    surprisals = [line for line in beside["problems"] if line.startswith("aoa surprisal.json")]
    assert [line.split(": ")[1] for line in surprisals] == ["no surprisals at chck_3M", "not 8005 surprisals at chck_1M"]
    assert said["glue rte"].startswith("glue rte: predictions that are no label of the task: rte")
    fast = "blimp, supplement, ewok, entity_tracking, wug_adj, wug_past, reading of checkpoints"
    assert said[fast] == f"{fast}: missing for 1 of 19: chck_20M"
    assert not {"comps", "ewok", "blimp", "blimp_supplement", "wug_adj", "wug_past", "aoa"} & set(made)
    assert "rte" not in made["glue"]
    assert {"entity_tracking", "reading"} <= set(made)
    assert code == 1


def test_2026_has_other_keys_counts_and_null_for_what_is_missing(
    tmp_path: Path, fill: Callable[..., None], write_value: Callable[[Path, Any], None]
) -> None:
    fill(tmp_path / "results" / "net", "2025", "entity_tracking", "reading", "wug_past")
    write_value(tmp_path / "results" / "net" / "main" / "zero_shot" / "mlm" / "AoA_word" / "aoa_score.json", {"aoa": 0.1})
    code, made, beside = submit(tmp_path, tmp_path, "--edition", "2026")
    assert made["entity_tracking_filtered"] is None
    assert made["global_piqa_parallel"] is None
    assert (made["aoa"], made["aoa_surprisals"]) == ({"aoa": 0.1}, None)
    assert "wug_past" not in made
    assert len(made["reading"]["reading"]["predictions"]) == 1726
    said = [line for line in beside["problems"] if line.startswith("entity_tracking:")]
    assert "wrong number of predictions: regular_0_ops has 606, must be 517 and 17 more of 18" in said[0]
    assert code == 1


def test_complete_files_of_2026_have_nothing_wrong(tmp_path: Path, fill: Callable[..., None]) -> None:
    keys = ("blimp_supplement", "ewok", "entity_tracking_filtered", "global_piqa_parallel", "global_piqa_nonparallel", "reading")
    fill(tmp_path / "results" / "net", "2026", *keys)
    _, made, beside = submit(tmp_path, tmp_path, "--edition", "2026")
    assert all(made[key] is not None for key in keys)
    said = {line.partition(":")[0] for line in beside["problems"] if "not scored" not in line}
    tuned = {f"glue {file.key}" for file in GLUE}
    assert said == {"blimp", "blimp of checkpoints", "comps", "aoa surprisal.json", "aoa aoa_score.json"} | tuned


@pytest.fixture
def few(tmp_path: Path, fill: Callable[..., None]) -> Path:
    """Results of reading alone."""
    fill(tmp_path / "few" / "results" / "net", "2025", "reading")
    return tmp_path / "few"


def test_approximate_results_are_never_taken(few: Path, tmp_path: Path) -> None:
    zero_shot = few / "results" / "net" / "main" / "zero_shot"
    shutil.copytree(zero_shot / "mlm", zero_shot / "mlm_bf16")
    assert submit(few, tmp_path)[2]["notes"] == ["mlm_bf16: approximate or not official, passed over"]
    shutil.rmtree(zero_shot / "mlm")
    with pytest.raises(UserError, match="only mlm_bf16: approximate and non-official scorings are never submitted"):
        main([str(few), "--out", str(tmp_path / "x.json")])


def test_bad_input_is_one_line_and_writes_nothing(few: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "results" / "net" / "main" / "zero_shot" / "mlm").mkdir(parents=True)
    for model in ("a", "b"):
        (tmp_path / "two" / "results" / model / "main" / "zero_shot" / "mlm").mkdir(parents=True)
    out = str(tmp_path / "out.json")
    cases = {
        "no such directory": ["nowhere", "--out", out],
        "holds no results of an evaluation": [str(tmp_path / "empty"), "--out", out],
        "nothing there that belongs into a submission": [str(tmp_path / "bare"), "--out", out],
        "--model: must be given, there are results of a, b": [str(tmp_path / "two"), "--out", out],
        "--model = nte: no results .did you mean net": [str(few), "--model", "nte", "--out", out],
        "--edition = 2024: unknown": [str(few), "--edition", "2024", "--out", out],
        "--track = strikt: unknown .did you mean strict": [str(few), "--track", "strikt", "--out", out],
        "--trial = nowhere: no trial there": [str(few), "--trial", "nowhere", "--out", out],
        "--data = nowhere: no such file": [str(few), "--data", "nowhere", "--out", out],
        "a directory; must be a file": [str(few), "--out", str(tmp_path)],
    }
    for says, command in cases.items():
        with pytest.raises(UserError, match=says) as caught:
            main(command)
        assert "\n" not in str(caught.value)
    assert not Path(out).exists()


def test_fast_scores_are_what_the_official_reports_say(shared_data: Path) -> None:
    """Of predictions that the official pipeline wrote, with the numbers it printed."""
    reference = shared_data / "official_reference"
    cases = [
        ("blimp", "blimp/blimp_2x100", "blimp_2x100"),
        ("ewok", "ewok/ewok_synthetic", "ewok_synthetic"),
        ("comps", "comps/comps", "comps"),
    ]
    for task, place, inputs in cases:
        [items] = load_items(reference / "inputs" / inputs, [task], fast=False, rules="2025")
        written = json.loads((reference / "results" / "mlm" / place / "predictions.json").read_text())
        report = (reference / "results" / "mlm" / place / "best_temperature_report.txt").read_text()
        for uid, share in fast_score(File(task, task, place, {}), written, items).items():
            assert f"{uid}: {100 * share:.2f}" in report
    [items] = load_items(reference / "inputs" / "reading", ["reading"], fast=False, rules="2025")
    for backend in ("mlm", "mntp"):
        written = json.loads((reference / "results" / backend / "reading" / "predictions.json").read_text())
        scores = fast_score(File("reading", "reading", "reading", {}, pred="surprisal"), written, items)
        report = (reference / "results" / backend / "reading" / "report.txt").read_text().split()
        assert [f"{100 * scores['rt']:.2f}", f"{100 * scores['spr']:.2f}"] == [report[3], report[-1]]


@pytest.fixture
def trial(tmp_path: Path, leave: Callable[..., None]) -> Path:
    """What a finished trial leaves behind of its budget: every sample twice, the first one five times, the last never."""
    raw = combine(["tiny", "epochs"])
    for name, value in {"data.source": {"embedded": {"words": 3000, "seed": 1}}, "tokenizer.vocab_size": 400}.items():
        raw = set_field(raw, name, value)
    config = load_config(raw)
    prepared = prepare(**recipe(config))
    store = open_store(prepared.directory)
    exposures_N = np.full(store.samples, 2, np.uint32)
    exposures_N[0], exposures_N[-1] = 5, 0
    directory = tmp_path / "trial"
    (directory / "milestones" / "words_1000000").mkdir(parents=True)
    (directory / "config.yaml").write_text(write_yaml(config.model_dump(mode="json")))
    np.save(directory / "exposures.npy", exposures_N)
    (directory / "steps.jsonl").write_text(json.dumps({"words_seen": 5000}) + "\n" + '{"words_seen": 60')
    leave(directory, config, prepared, 6100)
    return directory


def test_the_legality_of_a_run_is_told_from_its_records(trial: Path) -> None:
    found = legality(trial, "strict-small", SMALL)
    assert found["legal"] is True
    assert found["words_of_data"]["words"] >= 2900
    assert found["words_seen"] == {"limit": 100_000_000, "words": 6100, "raw_words": 6100, "finished": True}
    assert (found["exposures"]["most"], found["exposures"]["never"]) == (5, 1)
    assert found["tokenizer_text"]["words"] == found["words_of_data"]["words"]
    assert found["checkpoints"]["kept"] == ["chck_1M"]
    over = legality(trial, "strict-small", TRACKS["strict"].__class__(2000, 6000, (1,)))
    assert over["verdicts"] == {"words_of_data": False, "words_seen": False, "tokenizer_text": True}
    assert over["legal"] is False


def test_what_cannot_be_told_is_not_taken_for_granted(trial: Path) -> None:
    (trial / "final.json").unlink()
    found = legality(trial, "strict-small", SMALL)
    assert found["words_seen"] == {"limit": 100_000_000, "words": 5000, "raw_words": 5000, "finished": False}
    assert (found["verdicts"]["words_seen"], found["legal"]) == (None, None)
    (trial / "final.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        legality(trial, "strict-small", SMALL)


def test_a_trials_submission_says_whether_it_is_legal(trial: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = submit(few, tmp_path, "--trial", str(trial))[2]
    assert beside["legality"]["legal"] is True
    shown = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("words seen, repeats counted: 6,100 of the raw text (6,100 once cleaned), within the 100,000,000 of strict-small")
        for line in shown
    )
    assert shown[-1].endswith("; legal")
