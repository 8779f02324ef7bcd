"""A run's state as one file: written whole or not at all, verified by checksum, the newest good one found again.

A file is a line of JSON (what it is, the plain values, and each tensor's type and shape), the tensors' bytes in that order, and a trailer:
its mark, the length and the CRC-32 of all before it. The trailer comes last so that file and checksum are made in one pass. Nothing in
it is code. `checkpoint_writer.py` writes it beside the training.
"""

import errno
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from sleep_tune.disk import full_disk_named
from sleep_tune.errors import RunError, UserError
from sleep_tune.files import write_atomic
from sleep_tune.sleep.candidates import Candidates
from sleep_tune.training.run import Run, State

VERSION = 3
_ARRAYS = ("exposures_N", "measured_F", "buffer_k", "exposed_k", "frozen_U")
_APART = (*_ARRAYS, "importance_P", "candidates")
_TENSOR = "$tensor"  # what stands for a tensor in the plain values: its number
_TRAILER = struct.Struct("<8sQI")
_MARK = b"complete"
_LONGEST_HEADER = 1 << 26  # bytes: of what is no checkpoint, no more is read
_BLOCK = 4 << 20  # bytes written and summed at a time: each takes a turn from the training thread's Python


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held: the state, and what the run's edge put beside it."""

    path: Path
    state: State
    extra: dict[str, Any]


def snapshot(run: Run, state: State, extra: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides how the run goes on, as tensors, not copied, and plain values."""
    counters = {field.name: getattr(state, field.name) for field in fields(State) if field.name not in _APART}
    arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(state, name))) for name in _ARRAYS}
    known = {field.name: torch.from_numpy(getattr(state.candidates, field.name)) for field in fields(Candidates)}
    moments = run.optimizer.state_dict()["state"]
    return {
        "counters": counters,
        "arrays": arrays,
        "candidates": known,
        "importance": state.importance_P,
        "flat": run.network.flat.detach(),
        "optimizer": [moments[part] for part in sorted(moments)],  # the rest of it is the config's
        "extra": extra,
    }


def restore(run: Run, payload: dict[str, Any]) -> State:
    """The state in `payload`, whose tensors it takes over; weights and moments go into `run`."""
    with torch.no_grad():
        run.network.flat.copy_(payload["flat"])
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": dict(enumerate(payload["optimizer"]))})
    arrays = {name: payload["arrays"][name].numpy() for name in _ARRAYS}
    known = Candidates(**{name: tensor.numpy() for name, tensor in payload["candidates"].items()})
    importance_P = payload["importance"].to(run.device)
    return State(candidates=known, importance_P=importance_P, **arrays, **payload["counters"])


def save(directory: Path, run: Run, state: State, extra: dict[str, Any], identity: str, attempt: int, keep: int) -> Path:
    """Publish the state as `checkpoint_<step>` in `directory`, then remove all but the last `keep`; here and now.

    Raises RunError that names the disk where it is full; what was there before stays.
    """
    plain, tensors = taken_apart(snapshot(run, state, extra))
    header = header_of(plain, tensors, identity, attempt, state)
    return write(directory, state.step, [header, *(bytes_of(tensor.cpu()).numpy().data for tensor in tensors)], keep)


def taken_apart(value: Any) -> tuple[Any, list[Tensor]]:
    """`value`, nested dicts and lists, with a number in place of each tensor; and the tensors by number."""
    tensors: list[Tensor] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return {_TENSOR: len(tensors) - 1}
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    return plain(value), tensors


def _put_together(value: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {name: _put_together(inner, tensors) for name, inner in value.items()}
    return [_put_together(inner, tensors) for inner in value] if isinstance(value, list) else value


def header_of(plain: Any, tensors: Sequence[Tensor], identity: str, attempt: int, state: State) -> bytes:
    """The first line of a file."""
    said = {"sleep_tune_checkpoint": VERSION, "identity": identity, "attempt": attempt, "step": state.step, "words_seen": state.words_seen}
    kinds = [[str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for tensor in tensors]
    return json.dumps({**said, "tensors": kinds, "state": plain}).encode() + b"\n"


def bytes_of(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, as they lie: uint8 (size,)."""
    if not tensor.numel():  # may have strides that no view takes
        return torch.empty(0, dtype=torch.uint8)
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def write(directory: Path, step: int, parts: Sequence[bytes | memoryview], keep: int) -> Path:
    """Publish `parts` and their trailer as the checkpoint at `step`, then remove all but the last `keep`. Raises RunError."""
    path, size = directory / f"checkpoint_{step:09d}", sum(len(part) for part in parts)

    def put(file: IO[bytes]) -> None:
        _allocate(file, size + _TRAILER.size)
        crc = 0
        for block in _blocks(parts):
            crc = zlib.crc32(block, crc)
            file.write(block)
            _start_writing(file)
        file.write(_TRAILER.pack(_MARK, size, crc))

    publish(path, put, size)
    for old in checkpoints(directory)[keep:]:
        old.unlink()
    return path


def _allocate(file: IO[bytes], size: int) -> None:
    """Room on the disk in one piece: quicker than block by block, and a disk too full says so before anything is written."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:  # not every system has it
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # nor every file system
            raise


def _start_writing(file: IO[bytes]) -> None:
    """Let the disk begin with what is there, so that the fsync at the end has little left; nobody is going to read it soon."""
    with suppress(AttributeError, OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _blocks(parts: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _BLOCK):
            yield view[start : start + _BLOCK]


def publish(path: Path, write: Callable[[IO[bytes]], None], size: int) -> None:
    """`write_atomic`, with a full disk named. Raises RunError."""
    with full_disk_named(path, size):
        write_atomic(path, write)


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoint files in `directory`, newest first."""
    return sorted(directory.glob("checkpoint_" + "[0-9]" * 9), reverse=True)


def load_newest(directory: Path, run: Run, identity: str, say: Callable[[str], None]) -> Loaded | None:
    """The newest whole checkpoint; None where there is none at all. A damaged one is passed over, and said.

    Raises RunError where all are damaged (starting over silently would hide it), UserError where another configuration wrote them.
    """
    found = checkpoints(directory)
    for path in found:
        payload = read(path, identity)
        if payload is not None:
            return Loaded(path, restore(run, payload), payload["extra"])
        say(f"{path}: damaged, passed over")
    if found:
        raise RunError(f"{directory}: all {len(found)} checkpoints are damaged; remove them to start this run again from 0")
    return None


def identity_of(path: Path) -> str | None:
    """The run that wrote a checkpoint, by its first line alone; None where that is damaged."""
    try:
        with path.open("rb") as file:
            identity = json.loads(file.readline(_LONGEST_HEADER))["identity"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return identity if isinstance(identity, str) else None


def read(path: Path, identity: str) -> dict[str, Any] | None:
    """The content of a checkpoint, None if a byte of it is missing or wrong. Raises UserError if it is another run's."""
    with path.open("rb") as file:
        if not _whole(file):
            if _older(file):
                raise RunError(f"{path}: written in an earlier format, this is format {VERSION}")
            return None
        file.seek(0)
        header = json.loads(file.readline())
        if header["sleep_tune_checkpoint"] != VERSION:
            raise RunError(f"{path}: written in format {header['sleep_tune_checkpoint']}, this is format {VERSION}")
        if (written := header["identity"]) != identity:
            raise UserError(f"{path}: written by run {written}, this is run {identity}: another configuration, seed or corpus")
        payload: dict[str, Any] = _put_together(header["state"], [_tensor(file, *kind) for kind in header["tensors"]])
        return payload


def _whole(file: IO[bytes]) -> bool:
    """Whether trailer, length and checksum agree."""
    size = file.seek(0, 2) - _TRAILER.size
    if size < 0:
        return False
    file.seek(size)
    mark, length, expected = _TRAILER.unpack(file.read(_TRAILER.size))
    if mark != _MARK or length != size:
        return False
    file.seek(0)
    crc, left = 0, size
    while left and (block := file.read(min(left, _BLOCK))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc == expected


def _older(file: IO[bytes]) -> bool:
    """Whether it is a whole file of format 2: its first line told its length."""
    size = file.seek(0, 2)
    file.seek(0)
    line = file.readline(1 << 16)
    if not line.startswith(b'{"sleep_tune_checkpoint": 2,'):
        return False
    try:
        return bool(len(line) + json.loads(line)["bytes"] == size)
    except (ValueError, KeyError, TypeError):
        return False


def _tensor(file: IO[bytes], dtype: str, shape: list[int]) -> Tensor:
    """The next tensor of a file."""
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    if tensor.numel():
        file.readinto(bytes_of(tensor).numpy().data)  # type: ignore[attr-defined]
    return tensor
