"""A trial's records: files of JSON lines that grow with its checkpoints."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sleep_tune.disk import full_disk_named


class Appended:
    """A file of JSON lines that is appended to and made durable at checkpoints; what lies beyond the last is cut off at opening."""

    def __init__(self, path: Path, size: int):
        self._path, self._file = path, path.open("ab", buffering=0)  # nothing is left to fail when it is closed
        self._file.truncate(size)
        self._size, self._lines = size, []  # type: ignore[var-annotated]

    def add(self, row: dict[str, Any]) -> None:
        """One more line."""
        self._lines.append(json.dumps(row))

    def add_all(self, rows: Iterable[dict[str, Any]]) -> None:
        """More lines."""
        for row in rows:
            self.add(row)

    def take(self) -> tuple[bytes, int]:
        """What was added since, for `append`, and the file's size once it is there."""
        data = ("\n".join(self._lines) + "\n").encode() if self._lines else b""
        self._lines, self._size = [], self._size + len(data)
        return data, self._size

    def append(self, data: bytes) -> None:
        """Write and fsync what `take` gave; in any thread. Raises RunError where the disk is full."""
        if not data:
            return
        with full_disk_named(self._path, len(data)):
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            os.fsync(self._file.fileno())

    def flush(self) -> None:
        """Write and fsync what was added, here and now."""
        self.append(self.take()[0])

    def close(self) -> None:
        """Let go of the file; what was not written is lost."""
        self._file.close()
