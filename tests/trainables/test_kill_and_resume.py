"""Real studies in real processes: killed, interrupted, refused, and gone on with. Killed on progress of the ledger, not by the clock."""

import collections
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
  sleep.context: null
  tracking.wandb: "off"
  tracking.tensorboard: false
vary:
  sleep.strategy: [random, weighted]
always: [epochs]
scheduler: {asha: {rungs: [1/9, 1/3], reduction: 3}}
seeds: [1, 2]
"""
DEADLINE_S = 300.0


class Launched:
    """`launch.py` on the space above, in a process group of its own."""

    def __init__(self, storage: Path, name: str, *options: str) -> None:
        space = storage / "space.yaml"
        space.write_text(SPACE)
        self.directory = storage / name
        self.command = [sys.executable, str(REPOSITORY / "launch.py"), "--space", str(space), "--name", name, "--storage", str(storage)]
        self.command += ["--no-dashboard", *options]
        self.log = (storage / f"{name}.log").open("a+")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def wait_for(self, ready: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Until the ledger's events are as wanted."""
        deadline = time.monotonic() + DEADLINE_S
        while not ready(events(self.directory)):
            assert self.process.poll() is None, f"ended before it could be killed: {self.said()}"
            assert time.monotonic() < deadline, self.said()

    def kill(self, number: int) -> None:
        os.killpg(self.process.pid, number)


def events(directory: Path) -> list[dict[str, Any]]:
    path = directory / "ledger.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def of_kind(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(directory) if event["event"] == kind]


def at_least(count: int, kind: str) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda found: sum(event["event"] == kind for event in found) >= count


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def launch(storage: Path) -> Iterator[Callable[..., Launched]]:
    launched: list[Launched] = []

    def start(name: str, *options: str) -> Launched:
        launched.append(Launched(storage, name, *options))
        return launched[-1]

    yield start
    for study in launched:
        if study.process.poll() is None:
            study.kill(signal.SIGKILL)
            study.process.wait()


def check_whole(directory: Path) -> None:
    """No trial lost or repeated, no report, step or score missing or doubled."""
    proposed, ended = ([event["trial"] for event in of_kind(directory, kind)] for kind in ("proposed", "ended"))
    scored = [event["trial"] for event in of_kind(directory, "scored")]
    assert sorted(proposed) == sorted(ended) == sorted(scored)
    assert len(set(proposed)) == len(proposed) == 6
    pairs = [(event["trial"], event["milestone"]) for event in of_kind(directory, "reported")]
    assert len(set(pairs)) == len(pairs)
    for trial in proposed:
        steps = [json.loads(line)["step"] for line in (directory / "trials" / trial / "steps.jsonl").read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))
        scores = [json.loads(line) for line in (directory / "trials" / trial / "scores.jsonl").read_text().splitlines()]
        keys = collections.Counter((row["words_seen"], row["final"], row["task"], row["uid"]) for row in scores)
        assert max(keys.values()) == 1


def fingerprint(directory: Path, trial: str) -> tuple[Any, ...]:
    """All of a complete trial that must not depend on how often it was killed."""
    home = directory / "trials" / trial
    weights = hashlib.sha256((home / "model" / "model.safetensors").read_bytes()).hexdigest()
    reports = [(e["milestone"], e["words_seen"], e["value"]) for e in of_kind(directory, "reported") if e["trial"] == trial]
    return weights, np.load(home / "exposures.npy").tolist(), reports


def complete(directory: Path) -> set[str]:
    return {event["trial"] for event in of_kind(directory, "ended") if event["state"] == "complete"}


@pytest.mark.slow
def test_a_killed_study_resumes_to_identical_weights(launch: Callable[..., Launched]) -> None:
    calm = launch("calm")
    assert calm.wait() == 0, calm.said()
    check_whole(calm.directory)
    total, equal = len(of_kind(calm.directory, "reported")), 0
    for place in (1, 3):
        study = launch(f"killed{place}")
        study.wait_for(at_least(max(1, total * place // 4), "reported"))
        study.kill(signal.SIGKILL)
        study.process.wait()
        resumed = launch(f"killed{place}")
        assert resumed.wait() == 0, resumed.said()
        check_whole(resumed.directory)
        assert {e["trial"] for e in of_kind(calm.directory, "proposed")} == {e["trial"] for e in of_kind(resumed.directory, "proposed")}
        for trial in complete(calm.directory) & complete(resumed.directory):
            assert fingerprint(calm.directory, trial) == fingerprint(resumed.directory, trial)
            equal += 1
    assert equal > 0


@pytest.mark.slow
def test_an_interrupted_study_checkpoints_says_how_to_go_on_and_goes_on(launch: Callable[..., Launched], storage: Path) -> None:
    study = launch("interrupted")
    study.wait_for(at_least(3, "reported"))
    refused = subprocess.run(study.command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert f"is being run by process {study.process.pid} on host {os.uname().nodename}" in refused.stderr
    study.kill(signal.SIGINT)
    assert study.wait() == 130, study.said()
    assert f"python launch.py --resume {study.directory}" in study.said()
    assert any((study.directory / "trials").glob("*/checkpoint_*"))
    resume = [sys.executable, str(REPOSITORY / "launch.py"), "--resume", str(study.directory), "--no-dashboard"]
    assert subprocess.run(resume, capture_output=True).returncode == 0
    check_whole(study.directory)
    before = (study.directory / "ledger.jsonl").read_bytes()
    again = subprocess.run([*resume], capture_output=True, text=True)
    assert again.returncode == 0
    assert "Written:" in again.stdout
    assert (study.directory / "ledger.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_trial_that_fails_for_good_is_named_and_the_others_finish(launch: Callable[..., Launched]) -> None:
    study = launch("failing")
    study.wait_for(at_least(2, "reported"))
    study.kill(signal.SIGKILL)
    study.process.wait()
    trial = of_kind(study.directory, "reported")[0]["trial"]
    home = study.directory / "trials" / trial
    with (home / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # its worker outlives the driver by seconds
        for path in home.glob("checkpoint_*"):
            path.write_bytes(b"damaged")
    resumed = launch("failing")
    assert resumed.wait() == 1, resumed.said()
    ended = {event["trial"]: event["state"] for event in of_kind(resumed.directory, "ended")}
    assert ended.pop(trial) == "failed"
    assert len(ended) == 5
    assert set(ended.values()) <= {"complete", "stopped"}
    assert f"failed: trial {trial}" in resumed.said()
    assert "checkpoints are damaged" in resumed.said()
