"""Checkpoints: every damage found, the last good one taken, never a silent restart."""

import subprocess
import sys

import pytest
import torch

from sleep_tune.data.token_store import open_store
from sleep_tune.errors import RunError, UserError
from sleep_tune.training import checkpoint
from sleep_tune.training.loop import Run, advance

CPU = torch.device("cpu")


@pytest.fixture
def saved(micro, corpus, tmp_path):
    """A run with two checkpoints, at about 500 and 1000 words."""
    run = Run(micro("default", sleep__folds=5), open_store(corpus.directory), CPU)
    state = run.new_state()
    for words in (500, 1000):
        list(advance(run, state, words))
        checkpoint.save(tmp_path, run, state, {"words": words}, "me", 3, keep=2)
    return run, tmp_path


def test_the_newest_whole_checkpoint_is_loaded(saved):
    run, directory = saved
    assert checkpoint.load_newest(directory, run, "me", print).extra == {"words": 1000}
    assert [path.name for path in checkpoint.checkpoints(directory)] == sorted((p.name for p in directory.iterdir()), reverse=True)


def test_every_truncation_and_every_flipped_byte_is_found(saved):
    _, directory = saved
    path = checkpoint.checkpoints(directory)[0]
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    for size in [0, 1, header - 1, header, header + 1, *range(header, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:size])
        assert checkpoint.read(path, "me") is None
    for at in [header, header + 500, len(content) - 1]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert checkpoint.read(path, "me") is None
    path.write_bytes(content + b"x")
    assert checkpoint.read(path, "me") is None


def test_a_damaged_checkpoint_is_passed_over_and_said(saved):
    run, directory = saved
    newest = checkpoint.checkpoints(directory)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    said = []
    assert checkpoint.load_newest(directory, run, "me", said.append).extra == {"words": 500}
    assert len(said) == 1
    assert newest.name in said[0]


def test_with_only_damaged_checkpoints_a_run_never_starts_again_silently(saved):
    run, directory = saved
    for path in checkpoint.checkpoints(directory):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="all 2 checkpoints are damaged"):
        checkpoint.load_newest(directory, run, "me", print)


def test_another_configurations_checkpoint_is_refused(saved):
    run, directory = saved
    with pytest.raises(UserError, match="another configuration"):
        checkpoint.load_newest(directory, run, "you", print)


def test_only_the_last_checkpoints_are_kept(saved):
    run, directory = saved
    state = checkpoint.load_newest(directory, run, "me", print).state
    list(advance(run, state, 1500))
    checkpoint.save(directory, run, state, {"words": 1500}, "me", 3, keep=2)
    assert len(checkpoint.checkpoints(directory)) == 2
    assert checkpoint.load_newest(directory, run, "me", print).extra == {"words": 1500}


FILL = """
import resource, sys
from pathlib import Path
from sleep_tune.errors import RunError, UserError
from sleep_tune.training.checkpoint import publish
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    publish(Path(sys.argv[1]) / "checkpoint_000000009", lambda file: file.write(b"x" * 5000), 5000)
except (RunError, OSError) as error:
    print(type(error).__name__)
"""


def test_a_write_that_fails_leaves_the_earlier_checkpoints_and_no_rest(saved):
    _, directory = saved
    before = {path: path.read_bytes() for path in directory.iterdir()}
    answer = subprocess.run([sys.executable, "-c", FILL, str(directory)], capture_output=True, text=True, check=True)
    assert "Error" in answer.stdout
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
