"""Where data files are read from: a folder, a zip as it is, or an archive in one of these, in memory. Nothing is unpacked.

What the standard library makes of damaged archives is one line here.
"""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

from sleep_tune.errors import UserError, one_line

# What the standard library raises for archives with bytes changed or missing: RuntimeError for a password, KeyError for a member
# that only the directory has; sizes and offsets that make no sense as ValueError, OverflowError or MemoryError.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, LookupError, ValueError, OverflowError, MemoryError),
)


@dataclass(frozen=True)
class Tree:
    """Where files are read from: a folder, a zip, or an archive in one of these. Paths are relative, with slashes."""

    name: str  # as errors show it
    names: Callable[[str], list[str]]  # names directly in a directory; [] where there is none
    read: Callable[[str], bytes]


def folder_tree(folder: Path) -> Tree:
    """The files of a folder. Raises UserError where it cannot be read."""

    def names(path: str) -> list[str]:
        directory = folder / path
        try:
            # Path.iterdir's order, as the official pipeline has it: it orders the keys of predictions.json, nothing else
            return [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
        except OSError as error:
            raise UserError(f"{directory}: cannot be read ({error.strerror})") from None

    return Tree(str(folder), names, lambda path: (folder / path).read_bytes())


def zip_tree(path: Path, source: str) -> Tree:
    """The members of a zip. Raises UserError, with where the data come from, for what is none or a damaged one."""
    try:
        if zipfile.is_zipfile(path):
            return _of_members(str(path), *_zip_members(zipfile.ZipFile(path)))
        why = ""
    except _DAMAGED as error:
        why = f" ({one_line(error)})"
    raise UserError(f"evaluation data = {path}: must be a folder, the official zip or a jsonl file, not a damaged zip{why}; {source}")


def packed_tree(name: str, content: bytes) -> Tree | None:
    """A tar.gz or zip in memory; None for a zip with a password. Raises UserError for a damaged one."""
    try:
        if name.endswith(".zip"):
            archive = zipfile.ZipFile(BytesIO(content))
            if any(member.flag_bits & 1 for member in archive.infolist()):
                return None
            return _of_members(name, *_zip_members(archive))
        with tarfile.open(fileobj=BytesIO(content), mode="r:gz") as tar:
            members = {member.name.removeprefix("./"): tar.extractfile(member) for member in tar if member.isfile()}
            return _of_members(name, list(members), {path: file.read() for path, file in members.items() if file}.__getitem__)
    except _DAMAGED as error:
        raise UserError(f"{name}: a damaged or truncated archive ({one_line(error)})") from None


def _zip_members(archive: zipfile.ZipFile) -> tuple[list[str], Callable[[str], bytes]]:
    """Paths from full_eval or fast_eval on, whatever folder the zip wraps them in."""
    originals: dict[str, str] = {}
    for path in archive.namelist():
        parts = PurePosixPath(path).parts
        start = next((i for i, part in enumerate(parts) if part in ("full_eval", "fast_eval")), 0)
        if not path.endswith("/") and "__MACOSX" not in parts:
            originals["/".join(parts[start:])] = path
    return list(originals), lambda path: archive.read(originals[path])


def _of_members(name: str, paths: Sequence[str], read: Callable[[str], bytes]) -> Tree:
    by_directory: dict[str, list[str]] = {}
    for path in paths:
        directory, _, file = path.rpartition("/")
        by_directory.setdefault(directory, []).append(file)
    return Tree(name, lambda directory: by_directory.get(directory, []), read)


def content_of(tree: Tree, path: str) -> bytes:
    """A file's bytes. Raises UserError where it cannot be read."""
    try:
        return tree.read(path)
    except _DAMAGED as error:
        raise UserError(f"{tree.name}/{path}: cannot be read ({one_line(error)})") from None
