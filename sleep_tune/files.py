"""Files that appear whole or not at all, their digests, locks, and the cache directory."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from sleep_tune.disk import existing
from sleep_tune.errors import UserError


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` on a temporary file beside `path`, fsync it, and rename it into place. Raises UserError where something is there that
    is no file: a device would be replaced by one."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file, and would be replaced by one")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Publish `text` (UTF-8) at `path`."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON at `path`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync_directory(directory: Path) -> None:
    """fsync a directory, so that a rename in it survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path, size: int = 16) -> str:
    """BLAKE2b of a file's bytes, read in blocks."""
    state = hashlib.blake2b(digest_size=size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[IO[str]]:
    """Hold an exclusive `flock` on `path` (made if absent; it stays there). The kernel drops it with the process.

    Raises BlockingIOError if `wait` is false and another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file


_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def writable_directory(text: str, option: str) -> Path:
    """A directory to write to, which is there or can be made. Raises UserError."""
    if _URI.match(text):
        raise UserError(f"{option} = {text}: must be a directory of this machine (mounted ones are), not a URI")
    if not text.strip() or "\0" in text:
        raise UserError(f"{option} = {text!r}: must be a directory")
    path = Path(os.path.abspath(text)) if Path(text).is_absolute() else Path(text)
    try:
        there = existing(path)
        if not there.is_dir():
            raise UserError(f"{option} = {text}: {there} is a file, must be a directory")
        os.rmdir(tempfile.mkdtemp(dir=there, prefix=".sleep-tune-"))  # permissions alone do not tell
    except OSError as error:
        raise UserError(f"{option} = {text}: cannot be written to ({error.strerror})") from None
    return path


def cache_directory() -> Path:
    """Where corpora, tokenizers, token stores and calibrations are kept: $SLEEP_TUNE_CACHE or ~/.cache/sleep-tune."""
    return Path(os.environ.get("SLEEP_TUNE_CACHE") or Path.home() / ".cache" / "sleep-tune")
