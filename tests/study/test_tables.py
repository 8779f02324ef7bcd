"""Tables from a study's files: columns, rows, varied fields, torn and damaged lines, studies that still run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sleep_tune.errors import UserError
from sleep_tune.study.ledger import read_ledger
from sleep_tune.study.tables import CYCLE_COLUMNS, PHASE_LOSSES, SCORE_COLUMNS, STEP_COLUMNS, read_lines, write_tables


@pytest.fixture
def study(small_study: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return shutil.copytree(small_study, tmp_path / "study")


def rows(paths: dict[str, Path], name: str) -> list[dict]:
    return pq.read_table(paths[name]).to_pylist()


def test_trials_have_a_row_each_with_their_varied_fields(study: Path) -> None:
    paths = write_tables(study)
    trials = rows(paths, "trials")
    ledger = read_ledger(study)
    assert paths["trials"] == study / "tables" / "trials.parquet"
    assert [row["trial"] for row in trials] == list(ledger.trials)
    assert {"sleep.strategy", "sleep.length"} == {name for name in trials[0] if "." in name}
    by_origin = {row["origin"]: row for row in trials}
    assert by_origin["grid"]["sleep.length"] == "ratio: 3"
    assert by_origin["grid"]["schedule"] == "weighted, 50 folds, ratio 3, replay 30 %"
    epochs = next(row for row in trials if row["schedule"] == "plain epochs")
    assert epochs["sleep.strategy"] is None
    assert epochs["sleep.length"] is None


def test_a_trials_row_sums_up_its_records(study: Path) -> None:
    paths = write_tables(study)
    trial = rows(paths, "trials")[0]
    lines = [json.loads(line) for line in (study / "trials" / trial["trial"] / "steps.jsonl").read_text().splitlines()]
    assert trial["steps"] == len(lines)
    assert trial["words_seen"] == lines[-1]["words_seen"]
    assert trial["wall_s"] == pytest.approx(sum(line["wall_s"] for line in lines), rel=1e-5)
    assert trial["objective"] == read_ledger(study).trials[trial["trial"]].reports[-1].value


def test_steps_and_scores_are_the_trials_lines(study: Path) -> None:
    paths = write_tables(study)
    assert pq.read_schema(paths["steps"]).names == ["trial", *STEP_COLUMNS.names]
    assert pq.read_schema(paths["scores"]).names == ["trial", *SCORE_COLUMNS.names]
    for name in ("steps", "scores"):
        count = sum(len(path.read_text().splitlines()) for path in study.glob(f"trials/*/{name}.jsonl"))
        assert pq.read_table(paths[name]).num_rows == count
    scores = rows(paths, "scores")
    assert {row["unit"] for row in scores if row["task"] == "dev_loss"} == {"nats"}
    assert {row["unit"] for row in scores if row["task"] == "pairs"} == {"percent"}
    assert all(row["final"] == (row["task"] == "pairs") for row in scores)


def test_cycles_are_the_trials_lines_with_the_losses_of_their_phases(study: Path) -> None:
    paths = write_tables(study)
    assert pq.read_schema(paths["cycles"]).names == ["trial", *CYCLE_COLUMNS.names, *PHASE_LOSSES.values()]
    cycles = rows(paths, "cycles")
    assert len(cycles) == sum(len(path.read_text().splitlines()) for path in study.glob("trials/*/cycles.jsonl")) > 0
    row = cycles[-1]
    trial = study / "trials" / row["trial"]
    lines = [json.loads(line) for line in (trial / "cycles.jsonl").read_text().splitlines()]
    assert {name: row[name] for name in lines[-1]} == lines[-1]
    for phase, name in PHASE_LOSSES.items():
        steps = [json.loads(line) for line in (trial / "steps.jsonl").read_text().splitlines()]
        own = [step for step in steps if (step["cycle"], step["phase"]) == (row["cycle"], phase)]
        expected = np.average([step["loss"] for step in own], weights=[step["tokens"] for step in own])
        assert row[name] == pytest.approx(expected, rel=1e-6)


def test_a_batch_counts_by_its_tokens_and_a_phase_that_was_not_has_no_loss(study: Path) -> None:
    trial = next(iter(read_ledger(study).trials))
    steps = [
        {"step": 1, "cycle": 0, "phase": "wake", "words_seen": 9, "loss": 4.0, "tokens": 30},
        {"step": 2, "cycle": 0, "phase": "wake", "words_seen": 12, "loss": 2.0, "tokens": 10},
        {"step": 3, "cycle": 0, "phase": "wake", "words_seen": 12, "loss": None, "tokens": 10},
    ]
    for name, lines in (("steps", steps), ("cycles", [{"cycle": 0, "retention_fold": [0], "retention_loss": [None]}])):
        (study / "trials" / trial / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = next(row for row in rows(write_tables(study), "cycles") if row["trial"] == trial)
    assert row["wake_loss"] == 3.5
    assert row["sleep_loss"] is None
    assert row["retention_loss"] == [None]


def test_a_study_of_another_version_has_no_cycles(study: Path) -> None:
    for path in study.glob("trials/*/cycles.jsonl"):
        path.unlink()
    assert rows(write_tables(study), "cycles") == []


def test_writing_again_gives_the_same_bytes(study: Path) -> None:
    first = {name: path.read_bytes() for name, path in write_tables(study).items()}
    assert {name: path.read_bytes() for name, path in write_tables(study).items()} == first


def test_a_killed_study_is_read_as_far_as_it_came(study: Path) -> None:
    ledger = read_ledger(study)
    torn, unstarted = list(ledger.trials)[-1], list(ledger.trials)[-2]
    whole = write_tables(study)
    before = pq.read_table(whole["steps"]).num_rows
    shutil.rmtree(study / "trials" / unstarted)
    lost = sum(row["trial"] == unstarted for row in rows({"steps": whole["steps"]}, "steps"))
    with (study / "trials" / torn / "steps.jsonl").open("ab") as file:
        file.write(b'{"step": 99999, "cycle": 0, "pha')
    with (study / "ledger.jsonl").open("ab") as file:
        file.write(b'{"schema": 1, "seq": 1')
    paths = write_tables(study)
    assert pq.read_table(paths["steps"]).num_rows == before - lost
    assert next(row for row in rows(paths, "trials") if row["trial"] == unstarted)["steps"] == 0


def test_a_study_with_running_trials_has_its_tables(study_maker: Callable[..., Path], tmp_path: Path) -> None:
    study = study_maker(tmp_path / "running", {"sleep.folds": [5, 20]}, seeds=(1,), running=1)
    trials = rows(write_tables(study), "trials")
    assert [row["state"] for row in trials].count("running") == 1
    assert {row["sleep.folds"] for row in trials if row["origin"] == "grid"} == {5, 20}


def test_a_study_without_trials_has_empty_tables(study_maker: Callable[..., Path], tmp_path: Path) -> None:
    study = study_maker(tmp_path / "new", {"sleep.folds": [5]}, seeds=())
    assert {pq.read_table(path).num_rows for path in write_tables(study).values()} == {0}


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        write_tables(tmp_path)


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    line = json.dumps({"step": 1, "cycle": 0, "phase": "wake", "words_seen": 9, "loss": 1.5}).encode()
    (tmp_path / "steps.jsonl").write_bytes(line + b"\n" + b"\0" * 40 + b"\n" + line + b"\n")
    assert read_lines(tmp_path / "steps.jsonl", STEP_COLUMNS)["loss"].to_pylist() == [1.5, 1.5]


def test_losses_that_are_no_numbers_and_fields_of_other_versions_are_read(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "loss": NaN, "new_field": [1]}\n{"step": 2, "loss": null}\n')
    table = read_lines(tmp_path / "steps.jsonl", STEP_COLUMNS)
    assert table["step"].to_pylist() == [1, 2]
    assert table["lr"].null_count == 2
