"""Raw text files: read line by line, judged and digested; the cache remembers digests by path, size and time."""

import codecs
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from sleep_tune.data.cache import cache_errors
from sleep_tune.digests import digest
from sleep_tune.errors import UserError
from sleep_tune.files import cache_directory, write_json

LINE_CHARACTERS = 1 << 16  # a longer line is read in pieces, so that a file without line ends cannot fill the memory
_SETTLED_NS = 2 * 10**9  # a file touched this shortly before it was read may change again within one tick of its clock


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file without their ends (LF, CRLF, CR), nor a byte-order mark. Very long ones come in pieces cut at a space."""
    with path.open(encoding="utf-8-sig", newline=None) as file:
        rest = ""
        while piece := file.readline(LINE_CHARACTERS):
            line, rest = rest + piece, ""
            if not line.endswith("\n") and len(piece) == LINE_CHARACTERS:
                line, _, rest = line.rpartition(" ")
            if line:
                yield line.removesuffix("\n")
        if rest:
            yield rest


def scan(path: Path) -> str:
    """The digest of a text file. Raises UserError where it cannot be read, is not UTF-8, is binary, or holds no words."""
    state, decoder = hashlib.blake2b(digest_size=16), codecs.getincrementaldecoder("utf-8")()
    position, blank = 0, True
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
                if (null := block.find(0)) >= 0:
                    raise UserError(f"{path}: is not text: NUL at byte {position + null}")
                text = decoder.decode(block)
                blank = blank and not text.lstrip("\ufeff").strip()
                position += len(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 at about byte {position + error.start}; text files must be UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if blank:
        raise UserError(f"{path}: is empty; every domain must hold words")
    return state.hexdigest()


def remembered_digest(path: Path) -> str:
    """The digest of `path`: from the cache if its size and time are those of its last `scan` there, else by `scan`."""
    try:
        memory = json.loads(_memory(path).read_text(encoding="utf-8"))
        if memory["stamp"] == _stamp(path):
            return str(memory["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return scan(path)


def digest_and_remember(path: Path) -> str:
    """As `remembered_digest`, and the cache remembers it."""
    found = remembered_digest(path)
    if time.time_ns() - path.stat().st_mtime_ns > _SETTLED_NS:
        with cache_errors():
            write_json(_memory(path), {"path": str(path.resolve()), "stamp": _stamp(path), "digest": found})
    return found


def _memory(path: Path) -> Path:
    return cache_directory() / "digests" / f"{digest(str(path.resolve()))}.json"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
