"""A real study with matched controls, killed while one of them trains, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SPACE = """
base: [tiny, weighted_replay]
set:
  budget_words: 12000
  data.words: 10000
  sleep.folds: 5
  sleep.length: {ratio: 1}
  tracking.wandb: "off"
  tracking.tensorboard: false
always: [epochs, matched]
scheduler: {asha: {rungs: [1/9, 1/3], reduction: 3}}
seeds: [1, 2]
"""
DEADLINE_S = 240.0


def launch(storage: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "launch.py"), "--space", str(storage / "space.yaml"), "--name", "study"]
    command += ["--storage", str(storage), "--no-dashboard", "--concurrent", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment)


def events(directory: Path) -> list[dict[str, Any]]:
    path = directory / "ledger.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def matched(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in found if event["event"] == "proposed" and event["origin"] == "matched"]


def steps(directory: Path, trial: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "trials" / trial / "steps.jsonl").read_text().splitlines()]


def kill_when_a_control_trains(study: subprocess.Popen[str], directory: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = events(directory)
        controls = {event["trial"] for event in matched(found)}
        if any(event["event"] == "reported" and event["trial"] in controls for event in found):
            break
        assert study.poll() is None, study.communicate()[0]
        assert time.monotonic() < deadline
    os.killpg(study.pid, signal.SIGKILL)
    study.wait()


@pytest.mark.slow
def test_a_killed_study_ends_with_the_controls_of_what_it_completed(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    directory = tmp_path / "study"
    kill_when_a_control_trains(launch(tmp_path), directory)
    said, _ = launch(tmp_path).communicate(timeout=DEADLINE_S)

    found = events(directory)
    origins = [event["origin"] for event in found if event["event"] == "proposed"]
    assert origins == ["always"] * 2 + ["grid"] * 2 + ["matched"] * 2, said
    assert [event["state"] for event in found if event["event"] == "ended"] == ["complete"] * 6
    for event in matched(found):
        pair, control = event["config"]["epochs"]["matched_to"], event["trial"]
        ours, theirs = steps(directory, control), steps(directory, pair)
        assert [record["step"] for record in ours] == [record["step"] for record in theirs] == list(range(1, len(ours) + 1))
        assert {record["phase"] for record in ours} == {"wake"}
        assert max(abs(one["words_seen"] - two["words_seen"]) for one, two in zip(ours, theirs, strict=True)) < 16  # a row's tokens
        woken, read = (np.load(directory / "trials" / trial / "exposures.npy") > 0 for trial in (pair, control))
        assert np.array_equal(woken, read)
    assert " Against its matched control (same words, samples and steps, no sleep): " in " ".join(said.split())
    assert "matched control of weighted" in " ".join(said.split())
    assert launch(tmp_path).wait(DEADLINE_S) == 0
    assert len(events(directory)) == len(found)  # complete: nothing is started
