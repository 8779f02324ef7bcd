"""`python -m sleep_tune.train` killed by SIGKILL in every phase, at moments defined by progress, ends as if nothing had been.

Where the moment lies is drawn from a seed: a phase, optimizer steps done before, and which call or return within the phase (`killer.py`);
or, seen from outside, that a checkpoint is half written.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TRAIN, KILLER = ["-m", "sleep_tune.train"], [str(REPOSITORY / "tests" / "killer.py")]
FIELDS = {
    "data.source": "{embedded: {words: 3000, seed: 1}}",
    "tokenizer.vocab_size": "400",
    "model.width": "128",  # checkpoints of 7 MB, two blocks
    "model.heads": "2",
    "model.ffn": "512",
    "model.dropout": "0.1",
    "sleep.folds": "6",
    "sleep.length": "{ratio: 2}",
    "checkpoint.every_s": "0.01",
    "evaluation.milestones.tasks": "[pairs]",
    "evaluation.milestones.items_per_uid": "1",
    "evaluation.milestones.dev_words": "200",
    "evaluation.share": "null",
    "evaluation.final.items_per_uid": "2",
}
ON_THE_WAY = ("wake", "selection", "sleep", "evaluation", "copy", "write")
LAST_BEGIN = 0.7  # of the steps: after them, each phase begins at least twice more
PATIENCE_S = 240
TIMES = ("wall_s", "meters")  # what no two runs share


def arguments(out: Path, schedule: str) -> list[str]:
    sets = [word for field, value in FIELDS.items() for word in ("--set", f"{field}={value}")]
    return ["--preset", "tiny", "--preset", schedule, "--budget", "9000", *sets, "--out", str(out)]


def environment() -> dict[str, str]:
    """A script's own folder would come before this tree's package, or another tree's that is installed."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def begin(program: list[str], out: Path, schedule: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, *program, *arguments(out, schedule)], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(), cwd=REPOSITORY, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; the process is gone, whatever happened."""
    try:
        said, complained = process.communicate(timeout=PATIENCE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said, complained


def undisturbed(out: Path, schedule: str) -> dict[str, tuple[int, int]]:
    """Run to the end; {phase: (times entered, calls and returns within)}."""
    code, said, complained = ended(begin([*KILLER, "none", "0", "0"], out, schedule))
    assert code == 0, complained
    return {phase: (entered, events) for phase, (entered, events) in json.loads(said.splitlines()[-1]).items()}


def go_on_to_the_end(out: Path, schedule: str) -> str:
    code, said, complained = ended(begin(TRAIN, out, schedule))
    assert code == 0, complained
    return said


def rows(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in path.read_text().splitlines()]


def results(out: Path) -> dict[str, Any]:
    """All that a run leaves but its times: weights, exposures, records, scores, predictions."""
    files = [out / "model" / "model.safetensors", out / "exposures.npy", *sorted((out / "evaluation").rglob("*.json"))]
    # what was scored is named by its path, which is each run's own
    kept: dict[str, Any] = {str(path.relative_to(out)): path.read_bytes().replace(bytes(out), b"OUT") for path in files}
    kept |= {name: rows(out / name) for name in ("steps.jsonl", "cycles.jsonl", "scores.jsonl")}
    kept["meters.jsonl"] = [(row["words_seen"], row["steps"], row["tokens"]) for row in rows(out / "meters.jsonl")]
    kept["final.json"] = {key: value for key, value in json.loads((out / "final.json").read_text()).items() if key not in TIMES}
    kept["checkpoint"] = max(path.name for path in out.glob("checkpoint_*"))
    return kept


def check_equal(out: Path, calm: Path) -> None:
    there, here = results(calm), results(out)
    assert [name for name in {**there, **here} if there.get(name) != here.get(name)] == []
    assert list(out.glob(".*")) == []
    assert len(list(out.glob("checkpoint_*"))) == 2


def moments(dice: random.Random, counts: dict[str, tuple[int, int]]) -> list[tuple[str, int, int]]:
    """(phase, steps done, which event within) of each kill, in the order of training: each phase once, the opening of a killed run too."""
    total = counts["wake"][0] + counts["sleep"][0]
    order = dice.sample(ON_THE_WAY, len(ON_THE_WAY))
    drawn = list(zip(order, sorted(int(total * dice.uniform(0.02, LAST_BEGIN)) for _ in order), strict=True))
    drawn.insert(dice.randint(1, len(drawn)), ("opening", 0))
    drawn.append(("end", 0))
    return [(phase, step, dice.randint(1, counts[phase][1] // counts[phase][0])) for phase, step in drawn]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["sh_fisher", "freeze_causal", "sh_rr_strict_fresh"])
def test_a_run_killed_in_every_phase_ends_as_the_undisturbed_one(schedule: str, tmp_path: Path) -> None:
    calm, out = tmp_path / "calm", tmp_path / "killed"
    planned, fell = moments(random.Random(schedule), undisturbed(calm, schedule)), []
    for phase, step, nth in planned:
        code, _, complained = ended(begin([*KILLER, phase, str(step), str(nth)], out, schedule))
        assert code == -signal.SIGKILL, f"{(phase, step, nth)} never came, or it failed: {complained}"
        fell.append(complained.splitlines()[-1])
    assert all(line.startswith(f"killed: {phase}, ") for line, (phase, _, _) in zip(fell, planned, strict=True)), fell
    go_on_to_the_end(out, schedule)
    check_equal(out, calm)


def half_written(out: Path) -> list[Path]:
    return list(out.glob(".checkpoint_*"))


def kill_while_writing(out: Path, schedule: str, from_step: int) -> bool:
    """Kill as soon as a checkpoint at `from_step` or later is being written; whether it stayed unfinished."""
    process, deadline = begin(TRAIN, out, schedule), time.monotonic() + PATIENCE_S
    before = set(half_written(out))  # of the last kill, until the run has opened
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(path.name.split("_")[1].split(".")[0]) >= from_step for path in half_written(out) if path not in before):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.0005)
    code, _, complained = ended(process)
    assert code == -signal.SIGKILL, f"no checkpoint was seen being written: {complained}"
    return bool(set(half_written(out)) - before)


@pytest.mark.slow
def test_a_run_killed_while_a_checkpoint_is_being_written_goes_on_from_the_one_before(tmp_path: Path) -> None:
    schedule, dice, hits = "default", random.Random(5), 0
    calm, out = tmp_path / "calm", tmp_path / "killed"
    go_on_to_the_end(calm, schedule)
    total = len(rows(calm / "steps.jsonl"))
    goals = sorted(int(total * dice.uniform(0.05, 0.8)) for _ in range(4))
    for _ in range(10):
        if hits < len(goals):
            hits += kill_while_writing(out, schedule, goals[hits])
    assert hits == len(goals), "checkpoints are written too quickly for a kill to fall among them: make the model wider"
    assert "resuming" in go_on_to_the_end(out, schedule)
    check_equal(out, calm)


@pytest.mark.slow
def test_a_kill_at_any_call_in_the_writing_of_a_checkpoint_leaves_a_whole_one_and_the_records_it_covers(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "tests" / "killed_writes.py"), str(tmp_path / "trial")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert before > 100
    assert after > 10
    for call in ("FileIO.write", "posix_fallocate", "BufferedWriter.write", "fsync", "replace"):
        assert f" of {call}\n" in done.stderr
