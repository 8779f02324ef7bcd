"""A full disk: recognised in whatever exception it arrives as, and named with what is missing."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sleep_tune.errors import RunError, UserError

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("no space left", "disk quota exceeded", "file write failed", "enforce fail at inline_container", "pytorchstreamwriter failed")
_EMPTY_BYTES = 1 << 20  # less free than this, and any failure to write is taken for a full disk
NEEDED_BYTES = 16 << 20  # what a start needs: checkpoints of a small model, and Ray's own files


def is_full(error: BaseException, path: Path) -> bool:
    """Whether `error`, or what caused it, says that the disk of `path` is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _ERRNOS:
            return True
        if any(words in str(seen).lower() for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return free_bytes(path) < _EMPTY_BYTES


@contextmanager
def full_disk_named(path: Path, needed_bytes: int = NEEDED_BYTES) -> Iterator[None]:
    """Raises RunError in place of whatever comes of a full disk of `path`; every other error passes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_full(error, path):
            raise
        raise RunError(full_line(path, needed_bytes)) from error


def full_line(path: Path, needed_bytes: int = NEEDED_BYTES) -> str:
    """One line for a user: which disk, how much is free, how much is needed, and that nothing is lost."""
    return (
        f"disk full: {mount(path)}, where {path} lies, has {_megabytes(free_bytes(path))} free of the {_megabytes(needed_bytes)} needed; "
        "what is written is intact: make room and run the same command again"
    )


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of `path`, or of its nearest parent that exists."""
    return shutil.disk_usage(existing(path)).free


def mount(path: Path) -> Path:
    """The mount point of the disk that `path` lies on."""
    path = existing(path).resolve()
    while not path.is_mount():
        path = path.parent
    return path


def existing(path: Path) -> Path:
    """`path`, or its nearest parent that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
