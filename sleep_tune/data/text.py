"""Cleaned text in the cache: one file a domain and split, with a report of the words that cleaning kept, and the embedded minimal pairs."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from sleep_tune.data.cleaning import Tally, clean
from sleep_tune.data.corpora import Corpus, Part, Split
from sleep_tune.errors import UserError
from sleep_tune.files import file_digest, write_json, write_text

REPORT, PAIRS = "report.json", "pairs.jsonl"


@dataclass(frozen=True)
class CorpusReport:
    """What cleaning kept of a domain: whitespace words of the raw and the cleaned text, and cleaned lines."""

    split: Split
    domain: str
    raw_words: int
    words: int
    lines: int
    file: str
    digest: str


@dataclass(frozen=True)
class Limit:
    """How many words of a domain's cleaned file are taken."""

    domain: str
    file: Path
    words: int


def write_text_directory(corpus: Corpus, cleaning: str, directory: Path) -> None:
    """Clean every part of `corpus` into `directory`. Raises UserError for a part of which no word is left."""
    report = [_write_part(part, cleaning, directory / f"{part.split}.{number}.txt") for number, part in enumerate(corpus.parts)]
    if not any(entry.words for entry in report if entry.split == "dev"):
        raise UserError(f"{corpus.split('dev')[0].name}: holds no words for dev text; give a longer text or dev files")
    if corpus.pairs:
        write_text(directory / PAIRS, "".join(json.dumps(pair) + "\n" for pair in corpus.pairs()))
    pairs_digest = file_digest(directory / PAIRS) if corpus.pairs else None
    write_json(directory / REPORT, {"parts": [asdict(entry) for entry in report], "pairs": pairs_digest})


def _write_part(part: Part, cleaning: str, path: Path) -> CorpusReport:
    tally = Tally()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in clean(part.domain, cleaning, part.lines(), tally))
    if not tally.words and not part.held_out:
        raise UserError(f"{part.name}: is empty once cleaned; every domain must hold words")
    return CorpusReport(part.split, part.domain, tally.raw_words, tally.words, tally.lines, path.name, file_digest(path))


def read_report(directory: Path) -> tuple[CorpusReport, ...]:
    """The report of a text directory, in the order of its parts. Raises OSError or ValueError where it is damaged."""
    return tuple(CorpusReport(**entry) for entry in _read(directory)["parts"])


def _read(directory: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((directory / REPORT).read_text(encoding="utf-8")))


def text_is_whole(directory: Path) -> bool:
    """Whether every file that the report names has the content that was written."""
    try:
        texts = all(file_digest(directory / entry.file) == entry.digest for entry in read_report(directory))
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return texts and pairs_are_whole(directory)


def pairs_are_whole(directory: Path) -> bool:
    """Whether the minimal pairs, if the report names some, are what was written."""
    try:
        written = _read(directory)["pairs"]
        return written is None or file_digest(directory / PAIRS) == written
    except (OSError, ValueError, TypeError, KeyError):
        return False


def quotas(words_D: Sequence[int], limit: int | None) -> list[int]:
    """Words of every domain under a limit on their sum, in proportion to its size: largest remainder, ties to the earlier domain."""
    total = sum(words_D)
    if limit is None or limit >= total:
        return list(words_D)
    shares = [divmod(limit * words, total) for words in words_D]
    rest = limit - sum(whole for whole, _ in shares)
    most = sorted(range(len(shares)), key=lambda domain: -shares[domain][1])[:rest]
    return [whole + (domain in most) for domain, (whole, _) in enumerate(shares)]


def first_words(lines: Iterable[str], limit: int) -> Iterator[str]:
    """Lines up to `limit` words; the last is cut there."""
    for line in lines:
        words = line.count(" ") + 1
        if words >= limit:
            if limit > 0:
                yield " ".join(line.split(" ")[:limit])
            return
        limit -= words
        yield line


def cleaned_lines(path: Path) -> Iterator[str]:
    """Lines of a cleaned file, document breaks left out."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line != "\n":
                yield line[:-1]


def first_words_of_all(limits: Iterable[Limit]) -> Iterator[str]:
    """The first words of every file, one file after the other."""
    for limit in limits:
        yield from first_words(cleaned_lines(limit.file), limit.words)
