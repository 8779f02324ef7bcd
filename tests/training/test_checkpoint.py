"""Checkpoints: every damage found, the last good one taken, never a silent restart; written beside the training, and heard of."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sleep_tune.data.token_store import open_store
from sleep_tune.errors import RunError, UserError
from sleep_tune.training import checkpoint
from sleep_tune.training.checkpoint_writer import Writer
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


def test_every_truncation_is_found(saved):
    _, directory = saved
    path = checkpoint.checkpoints(directory)[0]
    longer = path.read_bytes() + b"x"
    path.write_bytes(longer)
    assert checkpoint.read(path, "me") is None
    os.truncate(path, len(longer) - 1)
    assert checkpoint.read(path, "me") is not None
    with path.open("rb") as file:
        for size in range(len(longer) - 2, -1, -1):
            os.truncate(path, size)
            assert not checkpoint._whole(file), size
            assert size % 1000 or checkpoint.read(path, "me") is None


def test_every_flipped_bit_is_found(saved):
    _, directory = saved
    path = checkpoint.checkpoints(directory)[0]
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    places = [*range(header), *range(header, len(content) - 20, 499), *range(len(content) - 20, len(content))]
    with path.open("r+b", buffering=0) as file:
        for nth, at in enumerate(places):
            file.seek(at)
            file.write(bytes([content[at] ^ (1 << nth % 8)]))
            assert checkpoint.read(path, "me") is None, at
            file.seek(at)
            file.write(content[at : at + 1])
    assert checkpoint.read(path, "me") is not None


def test_pieces_of_two_files_are_no_checkpoint(saved):
    _, directory = saved
    newest, older = (path.read_bytes() for path in checkpoint.checkpoints(directory))
    path = checkpoint.checkpoints(directory)[0]
    for cut in range(0, min(len(newest), len(older)), 4096):  # as a disk leaves it that wrote some blocks
        path.write_bytes(older[:cut] + newest[cut:])
        assert (checkpoint.read(path, "me") is not None) == (cut == 0)


def test_a_state_comes_back_to_the_bit(saved, micro, corpus):
    run, directory = saved
    state = checkpoint.load_newest(directory, run, "me", print).state
    payload = checkpoint.snapshot(run, state, {"loss": float("nan"), "numbers": [0.1, 1e-310, 2**60]})
    plain, tensors = checkpoint.taken_apart(payload)
    checkpoint.save(directory, run, state, payload["extra"], "me", 3, keep=5)
    back_plain, back = checkpoint.taken_apart(checkpoint.read(checkpoint.checkpoints(directory)[0], "me"))
    assert repr(back_plain) == repr(plain)
    assert [(one.dtype, one.shape) for one in back] == [(one.dtype, one.shape) for one in tensors]
    assert all(checkpoint.bytes_of(one).equal(checkpoint.bytes_of(other)) for one, other in zip(back, tensors, strict=True))
    other = Run(micro("default", sleep__folds=5), open_store(corpus.directory), CPU)
    restored = checkpoint.restore(other, checkpoint.read(checkpoint.checkpoints(directory)[0], "me"))
    records = [list(advance(each, at, 1500)) for each, at in ((run, state), (other, restored))]
    assert [record.loss for record in records[0]] == [record.loss for record in records[1]]
    assert torch.equal(run.network.flat, other.network.flat)


def test_a_file_of_an_earlier_format_is_named_as_such(saved):
    run, directory = saved
    for path in checkpoint.checkpoints(directory):
        path.write_bytes(b'{"sleep_tune_checkpoint": 2, "bytes": 5, "crc32": 907060870}\nhello')
    with pytest.raises(RunError, match="written in an earlier format"):
        checkpoint.load_newest(directory, run, "me", print)


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


def test_the_writer_keeps_the_state_of_the_moment_while_training_goes_on(saved):
    run, directory = saved
    state = checkpoint.load_newest(directory, run, "me", print).state
    writer, may_write = Writer(directory, "me", 3, keep=2), threading.Event()
    at, weights = state.step, run.network.flat.detach().clone()
    writer.save(run, state, {"words": 1}, before=may_write.wait)
    list(advance(run, state, 1500))
    assert state.step > at
    may_write.set()
    assert writer.settle() > 0
    assert writer.settle() == 0
    payload = checkpoint.read(directory / f"checkpoint_{at:09d}", "me")
    assert payload["counters"]["step"] == at
    assert payload["extra"] == {"words": 1}
    assert torch.equal(payload["flat"], weights)


def test_what_has_to_be_durable_before_a_checkpoint_is(saved):
    run, directory = saved
    state = checkpoint.load_newest(directory, run, "me", print).state
    before = checkpoint.checkpoints(directory)
    list(advance(run, state, 1500))
    seen = []
    writer = Writer(directory, "me", 3, keep=2)
    writer.save(run, state, {}, before=lambda: seen.append(checkpoint.checkpoints(directory)))
    writer.settle()
    assert seen == [before]


def test_a_write_that_failed_is_told_once_and_nothing_follows_it(saved):
    run, directory = saved
    state = checkpoint.load_newest(directory, run, "me", print).state
    list(advance(run, state, 1500))
    before = {path: path.read_bytes() for path in directory.iterdir()}

    def fail():
        raise RunError("no")

    writer = Writer(directory, "me", 3, keep=2)
    writer.save(run, state, {}, before=fail)
    with pytest.raises(RunError, match="no"):
        writer.settle()
    assert writer.settle() == 0
    with pytest.raises(RuntimeError, match="open the run anew"):
        writer.save(run, state, {})
    assert not writer.due(0)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_the_buffer_is_kept_from_save_to_save(saved):
    run, directory = saved
    state = checkpoint.load_newest(directory, run, "me", print).state
    writer = Writer(directory, "me", 3, keep=2)
    writer.reserve(run, state)
    buffer = writer._buffer
    for words in (1500, 2000, 2500):
        list(advance(run, state, words))
        writer.save(run, state, {})
    writer.settle()
    assert writer._buffer is buffer
    assert checkpoint.load_newest(directory, run, "me", print).state.step == state.step


def test_checkpoints_by_the_clock_take_their_share_of_the_time_at_most():
    writer = Writer(Path("."), "me", 0, 1)
    assert not writer.due(None)
    assert not writer.due(3600)
    assert writer.due(0)
    writer.pause_s, writer.writing_s = 50.0, 130.0  # one that took three minutes is not repeated before an hour
    assert not writer.due(0)


def test_a_full_disk_is_named_and_the_checkpoint_before_survives(saved):
    run, directory = saved
    before = {path: path.read_bytes() for path in directory.iterdir()}

    def fill(file):
        file.write(b"some of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    writer, path = Writer(directory, "me", 3, keep=2), directory / "checkpoint_000000009"
    writer.save(run, run.new_state(), {}, before=lambda: checkpoint.publish(path, fill, 9_000_000))
    with pytest.raises(RunError, match=f"disk full: /.*, where {path} lies, has .* free of the 9.0 MB needed; what is written is intact"):
        writer.settle()
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


KILLED = """
import sys, time
from pathlib import Path
from sleep_tune.training.checkpoint import write
block = memoryview(bytes(64 << 20))
print("ready", flush=True)
for step in range(1, 10**6):
    write(Path(sys.argv[1]), step, [b"%d\\n" % step, block], 2)
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", range(1, 7))
def test_a_kill_at_any_moment_leaves_the_newest_whole_one(tmp_path, killed_after):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == str(killed_after):
            break
    time.sleep(np.random.default_rng(killed_after).uniform(0, 0.1))  # anywhere in the writing of the next
    process.send_signal(signal.SIGKILL)
    later = [int(line) for line in process.stdout if line.strip().isdigit()]
    process.wait()
    newest = checkpoint.checkpoints(tmp_path)[0]
    with newest.open("rb") as file:
        assert checkpoint._whole(file)
        file.seek(0)
        assert int(file.readline()) >= max([killed_after, *later])
