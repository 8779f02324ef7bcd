"""`python -m sleep_tune.train --workers N` as a user types it: its workers die, or it does, and the same command goes on."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from micro_runs import train_command

REPOSITORY = Path(__file__).resolve().parents[1]


class Training:
    """A run in a process group of its own."""

    def __init__(self, out: Path, workers: int, budget: int = 12_000) -> None:
        self.out = out
        command = train_command(out, budget, "--set", "sleep.folds=8", "--workers", str(workers))
        environment, pipe = {**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True, cwd=REPOSITORY
        )

    def steps(self) -> int:
        path = self.out / "steps.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def others(self) -> list[int]:
        """Processes of the other workers."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def until(self, steps: int) -> None:
        """Wait for progress, not for a time."""
        deadline = time.monotonic() + 240
        while self.steps() < steps and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=300)
        return self.process.returncode, out, error

    def results(self) -> tuple[bytes, bytes, int]:
        return (self.out / "model/model.safetensors").read_bytes(), (self.out / "exposures.npy").read_bytes(), self.steps()


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_run_that_loses_a_worker_says_so_in_one_line_and_goes_on_alone(tmp_path: Path) -> None:
    out = tmp_path / "o"
    run = Training(out, workers=2)
    run.until(steps=1)
    (other,) = run.others()
    os.kill(other, signal.SIGKILL)
    code, _, error = run.end()
    assert (code, error) == (1, f"error: {out}: worker 2 of 2 was killed (signal 9); the same command goes on from the newest checkpoint\n")
    code, said, error = Training(out, workers=1).end()
    assert code == 0, error
    assert "resuming" in said
    assert "2 workers before, 1 now" in said


@pytest.mark.slow
def test_a_run_killed_at_random_progress_goes_on_to_the_bit_and_leaves_no_process(tmp_path: Path) -> None:
    calm, alone = Training(tmp_path / "calm", workers=2), Training(tmp_path / "alone", workers=1)
    assert calm.end()[0] == 0
    assert alone.end()[0] == 0
    assert calm.results()[1:] == alone.results()[1:]
    dice, kills = random.Random(5), 0
    for share in sorted(dice.uniform(0.02, 0.9) for _ in range(4)):
        run = Training(tmp_path / "o", workers=2)
        run.until(int(share * calm.steps()))
        time.sleep(dice.uniform(0, 0.2))  # anywhere between two flushes of the records
        others = run.others()
        run.process.kill()
        run.end()
        assert all(gone(other) for other in others)
        kills += len(others)
    run = Training(tmp_path / "o", workers=2)
    assert run.end()[0] == 0
    assert kills >= 3
    assert run.results() == calm.results()


@pytest.mark.slow
def test_a_worker_that_dies_before_it_is_there_ends_the_run_at_once(tmp_path: Path) -> None:
    run = Training(tmp_path / "o", workers=3)
    while len(run.others()) < 2 and run.process.poll() is None:
        time.sleep(0.01)
    os.kill(run.others()[1], signal.SIGKILL)
    code, _, error = run.end()
    assert code == 1
    assert error.count("\n") == 1
    assert "worker 3 of 3 was killed" in error
