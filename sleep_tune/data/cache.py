"""Directories in the cache that are built once: under a lock, whole or not at all, rebuilt when damaged."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sleep_tune.errors import RunError, UserError
from sleep_tune.files import cache_directory, locked, sync_directory

OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def build_once(directory: Path, valid: Callable[[Path], bool], build: Callable[[Path], None]) -> None:
    """Make sure that `directory` is there and `valid`; otherwise `build` it beside and rename it into place.

    Of several processes one builds and the others wait. Raises UserError where the cache cannot be written, RunError where it is full.
    """
    with cache_errors(), locked(directory.parent / f".{directory.name}.lock"):
        if directory.exists():
            if valid(directory):
                return
            shutil.rmtree(directory)
        for left in directory.parent.glob(f".{directory.name}.new-*"):  # of a builder that was killed: we hold its lock
            shutil.rmtree(left)
        new = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.new-"))
        try:
            build(new)
            _sync(new)
            os.chmod(new, 0o755)
            os.rename(new, directory)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        sync_directory(directory.parent)


@contextlib.contextmanager
def cache_errors() -> Iterator[None]:
    """Turn what the file system says about the cache into one line."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in OUT_OF_ROOM:
            raise RunError(f"cache {cache_directory()}: {reason}; make room or set SLEEP_TUNE_CACHE to another directory") from error
        raise UserError(f"cache {cache_directory()}: {reason}; SLEEP_TUNE_CACHE must be a directory that can be written") from error


def _sync(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        else:
            sync_directory(path)
    sync_directory(directory)
