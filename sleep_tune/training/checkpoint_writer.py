"""Checkpoints written beside the training, which stands still only while its state is copied.

| who | does |
|---|---|
| training thread, `save` | waits for the write before, copies the state into a buffer that is kept, goes on |
| writing thread | what has to be durable before (the records), file, checksum, fsync, rename, removal of the oldest |
| whoever tells others, `settle` | waits until all that was saved is durable, and hears of a write that failed |

A process killed at any moment leaves the newest complete file: an unfinished one has another name. A thread a checkpoint, not a daemon:
a process that just ends writes its last one out.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sleep_tune.training.checkpoint import bytes_of, header_of, snapshot, taken_apart, write
from sleep_tune.training.run import Run, State

MOST_SHARE = 0.05  # of the time that checkpoints between milestones may take
_SAMPLE_BYTES = 16  # of what a cycle keeps beside the candidate arrays: measurements, the replay buffer


class Writer:
    """Writes one run's checkpoints into `directory`, at most one at a time; `keep` are kept.

    pause_s, writing_s: seconds that the last one took of the training thread, and of the writing one.
    """

    def __init__(self, directory: Path, identity: str, attempt: int, keep: int) -> None:
        self._directory, self._identity, self._attempt, self._keep = directory, identity, attempt, keep
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None  # not yet heard of
        self._broken = False  # a write failed: what would follow does not fit what is there
        self._last = time.perf_counter()
        self.pause_s = self.writing_s = 0.0

    def reserve(self, run: Run, state: State) -> None:
        """Get the memory that a copy of the state takes, moments included, so that the first one does not wait for it."""
        tensors = taken_apart(snapshot(run, state, {}))[1]
        moments = 0 if run.optimizer.state_dict()["state"] else 2 * _size(run.network.flat)
        varying = _SAMPLE_BYTES * run.store.samples
        self._make_room(sum(map(_size, tensors)) + moments + varying, pinned=run.device.type == "cuda")

    def due(self, every_s: float | None) -> bool:
        """Whether the last save is `every_s` ago, and so long that one more costs at most `MOST_SHARE`; never while it is written."""
        if every_s is None or self._broken or (self._thread is not None and self._thread.is_alive()):
            return False
        return time.perf_counter() - self._last >= max(every_s, (self.pause_s + self.writing_s) / MOST_SHARE)

    def save(self, run: Run, state: State, extra: dict[str, Any], before: Callable[[], object] = lambda: None) -> None:
        """Copy the state now; run `before`, then write it, in a thread. Raises what kept the last one from being written."""
        self.settle()
        if self._broken:
            raise RuntimeError("a checkpoint could not be written: open the run anew")
        began = time.perf_counter()
        plain, tensors = taken_apart(snapshot(run, state, extra))
        header = header_of(plain, tensors, self._identity, self._attempt, state)
        body = self._copy(tensors)
        self._thread = threading.Thread(target=self._write, args=(state.step, [header, body], before), name="checkpoint")
        self._thread.start()
        self._last = time.perf_counter()
        self.pause_s = self._last - began

    def settle(self) -> float:
        """Wait until what was saved is durable; the seconds its writing took, 0 if that was asked before.

        Raises what kept it from being so, once.
        """
        if self._thread is None:
            return 0.0
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
        return self.writing_s

    def _write(self, step: int, parts: Sequence[bytes | memoryview], before: Callable[[], object]) -> None:
        began = time.perf_counter()
        try:
            before()
            write(self._directory, step, parts, self._keep)
        except BaseException as error:
            self._error, self._broken = error, True
        self.writing_s = time.perf_counter() - began

    def _copy(self, tensors: Sequence[Tensor]) -> memoryview:
        """The tensors' bytes one after the other, in the buffer."""
        total = sum(map(_size, tensors))
        self._make_room(total, pinned=any(tensor.is_cuda for tensor in tensors))
        first = 0
        for tensor in tensors:
            last = first + _size(tensor)
            if last > first:
                self._buffer[first:last].copy_(bytes_of(tensor), non_blocking=True)
            first = last
        if any(tensor.is_cuda for tensor in tensors):
            torch.cuda.synchronize()
        return self._buffer[:total].numpy().data

    def _make_room(self, size: int, pinned: bool) -> None:
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
            self._buffer.zero_()  # touched, lest the first copy do it


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
