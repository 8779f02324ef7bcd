"""Where raw text comes from: the embedded grammar, a directory in BabyLM's layout, or the hub. Lines leave raw; `cleaning.py` cleans them.

A corpus is parts, one a domain and split. Without dev files the last 1 % of each domain's lines is held out as dev.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from sleep_tune.data import hub
from sleep_tune.data.grammar import corpus as grammar_corpus
from sleep_tune.data.layout import find_files, nothing_found
from sleep_tune.data.minimal_pairs import minimal_pairs
from sleep_tune.data.raw_files import read_lines, remembered_digest
from sleep_tune.digests import digest
from sleep_tune.errors import UserError

Split = Literal["train", "dev"]
MAX_DOMAINS = 255
HELD_OUT = 100  # one line in so many, where there is no dev text
EMBEDDED_DEV_SHARE = 10  # the embedded dev text has this fraction of the words of train, and at least 2,000


@dataclass(frozen=True)
class Source:
    """The config's `data.source`: `location` is a path or a hub id; `words` and `seed` are the embedded grammar's."""

    kind: Literal["embedded", "directory", "hub"]
    location: str = ""
    words: int = 50_000
    seed: int = 1


@dataclass(frozen=True)
class Part:
    """A domain of a split: `name` for messages, `digest` of its content, `lines` opens its raw lines."""

    split: Split
    domain: str
    name: str
    digest: str
    lines: Callable[[], Iterator[str]]
    held_out: bool = False


@dataclass(frozen=True)
class Corpus:
    """Train and dev parts, domains in one order; `digest` depends on their names and content, not on where they lie.

    `pairs` makes the minimal pairs that test what the embedded corpus teaches.
    """

    parts: tuple[Part, ...]
    digest: str
    pairs: Callable[[], list[dict[str, str | int | bool]]] | None = None

    def split(self, split: Split) -> tuple[Part, ...]:
        """The parts of `split`."""
        return tuple(part for part in self.parts if part.split == split)


def open_corpus(source: Source, file_digest: Callable[[Path], str], say: Callable[[str], None]) -> Corpus:
    """The corpus of `source`, fetched first if it is on the hub and not here yet. Raises UserError for anything that is no text."""
    if source.kind == "hub":
        hub.fetch(source.location, say)
    corpus = find_corpus(source, file_digest)
    assert corpus is not None
    return corpus


def find_corpus(source: Source, file_digest: Callable[[Path], str] = remembered_digest) -> Corpus | None:
    """The corpus of `source`; None if it is on the hub and was not fetched yet. Writes nothing unless `file_digest` does."""
    if source.kind == "embedded":
        return embedded(source.words, source.seed)
    place = hub.place(source.location) if source.kind == "hub" else Path(source.location)
    return directory(place, file_digest) if source.kind == "directory" or place.exists() else None


def _corpus(parts: list[Part]) -> Corpus:
    return Corpus(tuple(parts), digest(*(text for part in parts for text in (part.split, part.domain, part.digest))))


def embedded(words: int, seed: int) -> Corpus:
    """The corpus of the built-in grammar."""
    sizes: dict[Split, int] = {"train": words, "dev": max(2_000, words // EMBEDDED_DEV_SHARE)}
    parts = []
    for split, size in sizes.items():
        for domain, lines in grammar_corpus(size, seed, split).items():
            state = hashlib.blake2b(digest_size=16)
            for line in lines:
                state.update(line.encode() + b"\n")
            parts.append(Part(split, domain, f"embedded {split} {domain}", state.hexdigest(), _embedded_lines(size, seed, split, domain)))
    return replace(_corpus(parts), pairs=lambda: minimal_pairs(seed))


def _embedded_lines(words: int, seed: int, split: Split, domain: str) -> Callable[[], Iterator[str]]:
    return lambda: grammar_corpus(words, seed, split)[domain]


def directory(path: Path, file_digest: Callable[[Path], str]) -> Corpus:
    """The corpus in `path`: `<domain>.train` and so on in it, or in folders train/, dev/, test/ (test is never read).

    `file_digest` judges and digests a file (`raw_files.py`). Raises UserError, naming the file or folder at fault.
    """
    found = find_files(path)
    if not found["train"]:
        raise UserError(nothing_found(path))
    if len(found["train"]) > MAX_DOMAINS:
        raise UserError(f"data directory {path}: holds {len(found['train'])} domains, at most {MAX_DOMAINS} are allowed")
    parts = []
    for domain, file in sorted(found["train"].items()):
        lines = _file_lines(file) if found["dev"] else _before_held_out(file)
        parts.append(Part("train", domain, str(file), file_digest(file), lines))
    if not found["dev"]:
        parts += [
            Part("dev", part.domain, f"the last 1 % of {part.name}", f"tail {part.digest}", _held_out(Path(part.name)), True)
            for part in parts
        ]
    parts += [Part("dev", domain, str(file), file_digest(file), _file_lines(file)) for domain, file in sorted(found["dev"].items())]
    return _corpus(parts)


def _file_lines(path: Path) -> Callable[[], Iterator[str]]:
    return lambda: read_lines(path)


def _before_held_out(path: Path) -> Callable[[], Iterator[str]]:
    def lines() -> Iterator[str]:
        return islice(read_lines(path), _kept(path))

    return lines


def _held_out(path: Path) -> Callable[[], Iterator[str]]:
    def lines() -> Iterator[str]:
        return islice(read_lines(path), _kept(path), None)

    return lines


def _kept(path: Path) -> int:
    total = sum(1 for _ in read_lines(path))
    return total - max(1, total // HELD_OUT)
