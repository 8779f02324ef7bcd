"""Text to the arrays of a token store, in blocks, so that memory does not grow with the corpus. Legend: `token_store.py`'s."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sleep_tune.data.text import Limit, cleaned_lines, first_words
from sleep_tune.digests import canonical_json, digest
from sleep_tune.files import file_digest, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MANIFEST = "manifest.json"
FORMAT = 1
MAX_ROW_LENGTH = 2**16 - 1  # a sample's words are uint16
TOKENS, OFFSETS, WORDS, DOMAINS, WORD_INITIAL = "tokens.u16", "offsets.i64", "words.u16", "domains.u8", "word_initial.bool"
DTYPES: dict[str, type[np.generic]] = {
    TOKENS: np.uint16, OFFSETS: np.int64, WORDS: np.uint16, DOMAINS: np.uint8, WORD_INITIAL: np.bool_
}  # fmt: skip
_LINES, _CHARACTERS = 4096, 1 << 20  # a block that is encoded at once ends at whichever comes first
_SAMPLES = 1 << 16


@dataclass(frozen=True)
class Task:
    """What to encode: the first words of every domain's cleaned file, and how to cut it into samples of `row_length` tokens."""

    limits: tuple[Limit, ...]
    tokenizer_file: Path
    rows: str
    row_length: int


def write_store(task: Task, directory: Path) -> None:
    """Encode `task` into `directory`: the arrays, then the manifest with their sizes and digests."""
    from sleep_tune.data.tokenizer import load_tokenizer, word_initial

    tokenizer = load_tokenizer(task.tokenizer_file)
    initial_V = word_initial(tokenizer)
    initial_V.tofile(directory / WORD_INITIAL)
    domains = [first_words(cleaned_lines(limit.file), limit.words) for limit in task.limits]
    PACKINGS[task.rows](domains, tokenizer, initial_V, task.row_length, directory)
    words = int(np.memmap(directory / WORDS, np.uint16, "r").sum(dtype=np.int64))
    expected = sum(limit.words for limit in task.limits)
    if words != expected:
        raise AssertionError(f"{words} word-initial tokens for {expected} words")
    files = {name: {"bytes": (directory / name).stat().st_size, "digest": file_digest(directory / name)} for name in DTYPES}
    facts = {
        "format": FORMAT,
        "kind": task.rows,
        "row_length": task.row_length,
        "vocab_size": len(initial_V),
        "tokenizer_digest": file_digest(task.tokenizer_file),
        "domains": [limit.domain for limit in task.limits],
        "samples": (directory / DOMAINS).stat().st_size,
        "tokens": (directory / TOKENS).stat().st_size // 2,
        "words": words,
        "files": files,
    }
    write_json(directory / MANIFEST, {"digest": digest(canonical_json(facts)), **facts})


def write_lines(
    domains: Sequence[Iterable[str]], tokenizer: "Tokenizer", word_initial_V: NDArray[np.bool_], length: int, directory: Path
) -> None:
    """A sample a line, `<s>` ... `</s>`; one longer than `length` tokens becomes the fewest samples that hold it, of nearly equal lengths.

    Nearly equal, so that no sample is a lone `</s>`, on which nothing could be learned.
    """
    end = 0
    with (
        _opened(directory, TOKENS) as tokens,
        _opened(directory, OFFSETS) as offsets,
        _opened(directory, WORDS) as words,
        _opened(directory, DOMAINS) as domain_file,
    ):
        np.zeros(1, np.int64).tofile(offsets)
        for number, lines in enumerate(domains):
            for tokens_T, lengths in encoded(lines, tokenizer):
                ends = np.cumsum(_cut(lengths, length))
                tokens_T.tofile(tokens)
                (ends + end).tofile(offsets)
                _words(tokens_T, ends, word_initial_V).tofile(words)
                np.full(len(ends), number, np.uint8).tofile(domain_file)
                end += len(tokens_T)


def write_packed(
    domains: Sequence[Iterable[str]], tokenizer: "Tokenizer", word_initial_V: NDArray[np.bool_], length: int, directory: Path
) -> None:
    """All lines `<s>` ... `</s>` in one stream, cut every `length` tokens; a sample's domain is that of its first token.

    The last sample is short; were it a lone `</s>`, on which nothing could be learned, it is left out.
    """
    starts, end = [], 0
    with _opened(directory, TOKENS) as tokens:
        for lines in domains:
            starts.append(end)
            for tokens_T, _ in encoded(lines, tokenizer):
                tokens_T.tofile(tokens)
                end += len(tokens_T)
        end -= end % length == 1
        tokens.truncate(2 * end)
    offsets = np.append(np.arange(0, end, length, dtype=np.int64), end)
    tokens_T = np.memmap(directory / TOKENS, np.uint16, "r")
    with _opened(directory, WORDS) as words:
        for first in range(0, len(offsets) - 1, _SAMPLES):
            cuts = offsets[first : first + _SAMPLES + 1]
            _words(tokens_T[cuts[0] : cuts[-1]], cuts[1:] - cuts[0], word_initial_V).tofile(words)
    offsets.tofile(directory / OFFSETS)
    (np.searchsorted(starts, offsets[:-1], side="right") - 1).astype(np.uint8).tofile(directory / DOMAINS)


def encoded(lines: Iterable[str], tokenizer: "Tokenizer") -> Iterator[tuple[NDArray[np.uint16], NDArray[np.int64]]]:
    """Blocks of lines as their tokens one after the other, and the number of tokens of every line."""
    for block in _blocks(lines):
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(block)]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        yield np.fromiter(chain.from_iterable(ids), np.uint16, int(lengths.sum())), lengths


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    characters = 0
    for line in lines:
        block.append(line)
        characters += len(line)
        if len(block) == _LINES or characters >= _CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _cut(lengths: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """Lengths of the pieces of lines: ceil(length / longest) each, as equal as can be, the longer first."""
    pieces = -(-lengths // longest)
    of_line = np.repeat(np.arange(len(lengths)), pieces)
    rank = np.arange(len(of_line)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return lengths[of_line] // pieces[of_line] + (rank < lengths[of_line] % pieces[of_line])


def _words(tokens_T: NDArray[np.uint16], ends: NDArray[np.int64], word_initial_V: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Word-initial tokens of the samples that end at `ends`, the first beginning at 0."""
    before = np.concatenate([[0], np.cumsum(word_initial_V[tokens_T])])
    return np.diff(before[ends], prepend=0).astype(np.uint16)


def _opened(directory: Path, name: str) -> BinaryIO:
    return (directory / name).open("wb")


PACKINGS = {"packed": write_packed, "lines": write_lines}
