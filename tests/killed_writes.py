"""`python killed_writes.py FOLDER`: one checkpoint of a small trial, its writing killed at each call and return in turn, each in a fork.

After every kill the directory must hold a whole newest checkpoint, and records that reach at least as far as it. The last line on stdout
is a list: kills after which the newest checkpoint was still the one before, and those after which it was the new one.
"""

import itertools
import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch
from killer import Killer

from sleep_tune.config import load_config
from sleep_tune.data.token_store import prepare
from sleep_tune.presets import combine, set_field
from sleep_tune.study.material import recipe
from sleep_tune.training import checkpoint
from sleep_tune.training.loop import StepRecord
from sleep_tune.trial import RECORDS, Trial

FIELDS = {
    "budget_words": 3000,
    "data.source": {"embedded": {"words": 3000, "seed": 1}},
    "tokenizer.vocab_size": 400,
    "model.width": 16,
    "model.heads": 2,
    "model.ffn": 32,
    "sleep.folds": 12,
    "sleep.length": {"ratio": 1},
    "evaluation.milestones.dev_words": 200,
    "checkpoint.keep": 1,
}


def between_milestones(directory: Path) -> Trial:
    """A trial with one checkpoint, and steps and a cycle since that are not saved."""
    raw = combine(["tiny", "default"])
    for field, value in FIELDS.items():
        raw = set_field(raw, field, value)
    config = load_config(raw)
    trial = Trial(config, prepare(**recipe(config)), directory, [500, 3000])
    trial.advance()

    def enough(record: StepRecord) -> bool:
        if record.cycle == 3:
            raise InterruptedError
        return False

    try:
        trial.advance(enough)
    except InterruptedError:
        return trial
    raise AssertionError("the third cycle was not reached")


def killed(trial: Trial, nth: int) -> bool:
    """Save in a fork that is killed; False where it has fewer calls than `nth`, and saved."""
    child = os.fork()
    if child == 0:
        killer = Killer("write", 0, nth)
        threading.setprofile(killer.begin_with)
        trial.save()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def check(trial: Trial) -> int:
    """The step of the newest checkpoint."""
    newest = checkpoint.checkpoints(trial.directory)[0]
    payload = checkpoint.read(newest, trial.identity)
    assert payload is not None, f"{newest} is damaged"
    for name, size in payload["extra"]["sizes"].items():
        content = (trial.directory / name).read_bytes()
        assert len(content) >= size, f"{newest} is ahead of {name}"
        rows = [json.loads(line) for line in content[:size].splitlines()]
        assert name != "steps.jsonl" or [row["step"] for row in rows] == list(range(1, payload["counters"]["step"] + 1))
    return int(payload["counters"]["step"])


def put_back(directory: Path, before: dict[Path, bytes]) -> None:
    """The directory as it was; records are the files that the trial holds open."""
    for path in [path for path in directory.iterdir() if path not in before]:
        path.unlink()
    for path, content in before.items():
        if path.name in RECORDS:
            os.truncate(path, len(content))
        elif not path.exists():
            path.write_bytes(content)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trial = between_milestones(Path(sys.argv[1]))
    before = {path: path.read_bytes() for path in trial.directory.iterdir()}
    first, found = check(trial), []
    for nth in itertools.count(1):
        if not killed(trial, nth):
            break
        found.append(check(trial))
        put_back(trial.directory, before)
    assert check(trial) == trial.state.step
    assert set(found) == {first, trial.state.step}
    print(json.dumps([found.count(first), found.count(trial.state.step)]))
