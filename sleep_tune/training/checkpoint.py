"""A run's state as one file: written whole or not at all, verified by checksum, the newest good one found again.

A file is one line of JSON (what it is, its length, its CRC-32) and then torch's serialisation of tensors and plain values.
"""

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from sleep_tune.disk import full_line, is_full
from sleep_tune.errors import RunError, UserError
from sleep_tune.files import write_atomic
from sleep_tune.sleep.candidates import Candidates
from sleep_tune.training.run import Run, State

VERSION = 2
_ARRAYS = ("exposures_N", "measured_F", "buffer_k", "exposed_k", "frozen_U")
_APART = (*_ARRAYS, "importance_P", "candidates")


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held: the state, and what the run's edge put beside it."""

    path: Path
    state: State
    extra: dict[str, Any]


def snapshot(run: Run, state: State, extra: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides how the run goes on, as tensors and plain values."""
    counters = {field.name: getattr(state, field.name) for field in fields(State) if field.name not in _APART}
    arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(state, name))) for name in _ARRAYS}
    known = {field.name: torch.from_numpy(getattr(state.candidates, field.name)) for field in fields(Candidates)}
    return {
        "counters": counters,
        "arrays": arrays,
        "candidates": known,
        "importance": state.importance_P,
        "flat": run.network.flat.detach(),
        "optimizer": run.optimizer.state_dict(),
        "extra": extra,
    }


def restore(run: Run, payload: dict[str, Any]) -> State:
    """The state in `payload`; weights and moments go into `run`."""
    with torch.no_grad():
        run.network.flat.copy_(payload["flat"])
    run.optimizer.load_state_dict(payload["optimizer"])
    arrays = {name: payload["arrays"][name].numpy() for name in _ARRAYS}
    known = Candidates(**{name: tensor.numpy() for name, tensor in payload["candidates"].items()})
    importance_P = payload["importance"].to(run.device)
    return State(candidates=known, importance_P=importance_P, **arrays, **payload["counters"])


def save(directory: Path, run: Run, state: State, extra: dict[str, Any], identity: str, attempt: int, keep: int) -> Path:
    """Publish the state as `checkpoint_<step>` in `directory`, then remove all but the last `keep`.

    Raises RunError that names the disk where it is full; what was there before stays.
    """
    buffer = io.BytesIO()
    torch.save(snapshot(run, state, extra), buffer)
    content = buffer.getbuffer()
    header = {
        "sleep_tune_checkpoint": VERSION,
        "identity": identity,
        "attempt": attempt,
        "step": state.step,
        "words_seen": state.words_seen,
    }
    header |= {"bytes": len(content), "crc32": zlib.crc32(content)}
    path = directory / f"checkpoint_{state.step:09d}"

    def write(file: IO[bytes]) -> None:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(content)

    publish(path, write, len(content))
    for old in checkpoints(directory)[keep:]:
        old.unlink()
    return path


def publish(path: Path, write: Callable[[IO[bytes]], None], size: int) -> None:
    """`write_atomic`, with a full disk named. Raises RunError."""
    try:
        write_atomic(path, write)
    except OSError as error:
        if not is_full(error, path):
            raise
        raise RunError(full_line(path, size)) from error


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


def read(path: Path, identity: str) -> dict[str, Any] | None:
    """The content of a checkpoint, None if a byte of it is missing or wrong. Raises UserError if it is another run's."""
    line, _, content = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(line)
        whole = len(content) == header["bytes"] and zlib.crc32(content) == header["crc32"]
        version, written = header["sleep_tune_checkpoint"], header["identity"]
    except (ValueError, KeyError, TypeError):
        return None
    if not whole:
        return None
    if version != VERSION:
        raise RunError(f"{path}: written in format {version}, this is format {VERSION}")
    if written != identity:
        raise UserError(f"{path}: written by run {written}, this is run {identity}: another configuration, seed or corpus")
    payload: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return payload
