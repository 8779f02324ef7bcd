"""A study whose trials train on two workers each, in real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sleep_tune.config import Resources

REPOSITORY = Path(__file__).resolve().parents[2]
SPACE = """
base: [tiny, default]
set:
  budget_words: 20000
  data.source: {embedded: {words: 3000, seed: 1}}
  tokenizer.vocab_size: 400
  model.width: 16
  model.heads: 2
  model.ffn: 32
  sleep.folds: 5
  evaluation.final.items_per_uid: 2
  tracking.wandb: "off"
  tracking.tensorboard: false
  resources.workers: 2
seeds: [1]
"""


def test_workers_share_what_a_trial_is_given() -> None:
    from trainables.workers import bundles

    assert bundles(Resources(cpus=0.29)) == [{"CPU": 0.29}]
    assert bundles(Resources(cpus=2.0, workers=2)) == [{"CPU": 1.0}] * 2
    assert bundles(Resources(cpus=4.0, gpus=2.0, workers=2)) == [{"CPU": 2.0, "GPU": 1.0}] * 2
    assert bundles(Resources(cpus=1.0, workers=3)) == [{"CPU": 0.3333}] * 3


def workers_below(pid: int) -> list[int]:
    """Processes of Ray that are the second worker of a trial, below process `pid`."""
    found, below = [], [pid]
    for parent in below:
        try:
            below += [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
            found += [parent] * (b"ray::Worker" in Path(f"/proc/{parent}/cmdline").read_bytes())
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_trial_that_loses_a_worker_goes_on_and_ends_with_the_weights_of_a_run_without_ray(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    command = [sys.executable, "launch.py", "--space", str(space), "--name", "two", "--storage", str(tmp_path), "--no-dashboard"]
    with (tmp_path / "log").open("w") as log:
        study = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)
    deadline, killed = time.monotonic() + 300, 0
    while study.poll() is None and time.monotonic() < deadline:
        if not killed and list(tmp_path.glob("two/trials/*/checkpoint_*")) and (workers := workers_below(study.pid)):
            killed = workers[0]
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.02)
    assert study.wait() == 0, (tmp_path / "log").read_text()
    assert killed
    (trial,) = (tmp_path / "two" / "trials").iterdir()
    sets = ["budget_words=20000", "data.source={embedded: {words: 3000, seed: 1}}", "tokenizer.vocab_size=400", "model.width=16", "seed=1"]
    sets += ["model.heads=2", "model.ffn=32", "sleep.folds=5", "evaluation.final.items_per_uid=2"]
    alone = [sys.executable, "-m", "sleep_tune.train", "--preset", "tiny", "--preset", "default", "--workers", "2"]
    alone += ["--out", str(tmp_path / "alone"), *(word for item in sets for word in ("--set", item))]
    done = subprocess.run(alone, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "Worker" in (trial / "error.txt").read_text()
    for name in ("model/model.safetensors", "exposures.npy"):
        assert (trial / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
