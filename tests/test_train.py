"""`python -m sleep_tune.train` as a user types it, killed and interrupted as a user would."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from micro_runs import train_command

from sleep_tune.errors import UserError, one_line
from sleep_tune.train import main


def command(out: Path, *more: str, schedule: str = "default", budget: int = 12_000) -> list[str]:
    return train_command(out, budget, *more, schedule=schedule)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


def steps_of(out: Path) -> int:
    return (out / "steps.jsonl").read_bytes().count(b"\n") if (out / "steps.jsonl").exists() else 0


def until(condition, process: subprocess.Popen) -> None:
    """Wait for progress, not for a time."""
    deadline = time.monotonic() + 240
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def digest(out: Path) -> tuple[bytes, bytes, int]:
    return (out / "model/model.safetensors").read_bytes(), (out / "exposures.npy").read_bytes(), steps_of(out)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--preset", "nope", "--out", "o"], "unknown preset nope"),
        (["--preset", "strict_replay", "--out", "o"], "a profile is needed"),
        (["--preset", "tiny", "--preset", "pilot", "--out", "o"], "tiny and pilot are both profiles"),
        (["--preset", "tiny"], "--out"),
        (["--out", "o"], "--preset"),
        (["--preset", "tiny", "--out", "o", "--set", "sleep.folds=0"], "sleep.folds = 0: must be a whole number >= 1"),
        (["--preset", "tiny", "--out", "o", "--set", "sleep.folds=100000"], "sleep.folds = 100000"),
        (["--preset", "tiny", "--out", "o", "--set", "seed=x"], "seed"),
        (["--preset", "tiny", "--out", "o", "--resume", "elsewhere"], "--resume = elsewhere"),
        (["--preset", "tiny", "--out", "o", "--set", "resources.cpus=4096"], "4096"),
        (["--preset", "tiny", "--out", "/proc/nowhere/o"], "/proc"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(words)
    assert line in one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_what_it_did_and_its_directory_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "o"
    done = run(*command(out, schedule="strict_replay", budget=3000))
    assert done.returncode == 0, done.stderr
    assert "strict" in done.stdout
    assert re.search(r"^scoring pairs: ([\d,]+) of \1 rows, \d+ s$", done.stdout, re.M)
    assert re.search(r"^final: pairs \d+\.\d\d ± \d+\.\d\d %, dev_loss \d\.\d{3} nats$", done.stdout, re.M)
    assert str(out / "model") in done.stdout
    before = digest(out)
    again = run(*command(out, schedule="strict_replay", budget=3000))
    assert again.returncode == 0
    assert "resuming" in again.stdout
    assert digest(out) == before
    other = run(*command(out, schedule="strict_replay", budget=4000))
    assert other.returncode == 2
    assert other.stderr.count("\n") == 1
    assert "budget_words = 4000 here, 3000 there" in other.stderr
    words = command(out, "--resume", str(out), schedule="strict_replay", budget=3000)[3:]
    changes = [("seed", "1", "0"), ("model.dropout", "0.2", "0.0"), ("sleep.folds", "7", "50"), ("masking.rate", "0.1", "0.3")]
    for field, here, there in changes:
        with pytest.raises(UserError, match=f"holds another run: {field} = {here} here, {there} there; name another directory"):
            main([*words, "--set", f"{field}={here}"])
    assert digest(out) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    assert "thesis.tex" in run(*command(tmp_path / "full", budget=3000)).stderr


def test_ctrl_c_saves_and_the_line_it_prints_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    calm, out = tmp_path / "calm", tmp_path / "o"
    assert run(*command(calm)).returncode == 0
    process = subprocess.Popen(command(out), stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until(lambda: steps_of(out) >= 20, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    line = re.search(r"go on with: python (.*)$", said, re.MULTILINE)
    assert line
    resumed = subprocess.run(f"{sys.executable} {line[1]}", shell=True, capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert digest(out) == digest(calm)


def test_resuming_before_the_first_checkpoint_starts_at_nothing_and_says_so_and_damage_never_does(tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    done = run(*command(out, "--resume", str(out), budget=2000))
    assert done.returncode == 0, done.stderr
    assert "starting at 0" in done.stdout
    for path in out.glob("checkpoint_*"):
        path.write_bytes(path.read_bytes()[:-10])
    damaged = run(*command(out, "--resume", str(out), budget=2000))
    assert damaged.returncode == 1
    assert "damaged" in damaged.stderr


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["default", "weighted_replay", "epochs"])
def test_a_run_killed_at_random_progress_reaches_the_same_weights(schedule: str, tmp_path: Path) -> None:
    calm, dice = tmp_path / "calm", random.Random(schedule)
    assert run(*command(calm, schedule=schedule)).returncode == 0
    total, out, kills = steps_of(calm), tmp_path / "o", 0
    for share in sorted(dice.uniform(0.02, 0.95) for _ in range(7)):
        process = subprocess.Popen(
            command(out, *(["--resume", str(out)] if out.exists() else []), schedule=schedule),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(lambda share=share: steps_of(out) >= share * total, process)
        time.sleep(dice.uniform(0, 0.2))  # anywhere between two flushes of the records
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert run(*command(out, "--resume", str(out), schedule=schedule)).returncode == 0
    assert kills >= 4
    assert digest(out) == digest(calm)
    assert [json.loads(line)["step"] for line in (out / "steps.jsonl").read_text().splitlines()] == list(range(1, total + 1))
