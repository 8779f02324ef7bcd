"""A file of lines that one process at a time appends to: locked, fsynced, whole lines only, intact on a full disk.

What the lines mean is `ledger.py`'s.
"""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from sleep_tune.disk import full_line, is_full
from sleep_tune.errors import RunError, UserError

LOCK = "study.lock"


def whole_lines(data: bytes) -> tuple[list[bytes], bool]:
    """The lines of `data` that end, and whether a torn one follows: a write that never returned, so nothing has acted on it."""
    *lines, torn = data.split(b"\n")
    return lines, bool(torn)


class AppendLog:
    """`path`, held for writing. Raises UserError naming the process that holds it already."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = _take_lock(path.parent)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            self._lock.close()
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None

    def read(self) -> bytes:
        """All that is in the file."""
        return self.path.read_bytes()

    def cut(self, size: int) -> None:
        """Drop what lies beyond `size` bytes; the next line goes there."""
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        self._size = size

    def append(self, data: bytes) -> None:
        """Add `data`, whole lines, and return once they are on disk. Raises RunError, the file as before, where they cannot be."""
        try:
            rest = data
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            self.cut(self._size)  # giving space back works on a full disk
            line = full_line(self.path) if is_full(error, self.path) else f"{self.path}: cannot be written: {error.strerror}"
            raise RunError(line) from error
        self._size += len(data)

    def close(self) -> None:
        """Let the next process have it."""
        if not self._lock.closed:
            os.close(self._file)
            self._lock.close()


def _take_lock(directory: Path) -> IO[str]:
    """The directory's lock file, held and signed with this process's id and host; the kernel drops it with the process."""
    try:
        file = (directory / LOCK).open("a+")
    except OSError as error:
        raise UserError(f"{directory}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(f"{directory}: is being run by {holder}; one process at a time may run a study") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on host {socket.gethostname()}\n")
    file.flush()
    return file
