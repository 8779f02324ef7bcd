"""Finds many word sequences in a long text: one pass, memory that grows with the sequences and not with the text. Numpy only.

Words that no sequence has end a window; of the others every window of a length that some sequence has is hashed, by differences of
running sums modulo 2**64, and what shares a hash is compared word by word. What counts as a word is a `Form`: `EXACT` or `NORMALISED`.
Documents are separated by blank lines and by the end of a stream: nothing is found across.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sleep_tune.evaluation.plan import Array

BLOCK_CHARACTERS = 1 << 20
_OTHER, _STOP, _MARK = 0, 1, -1  # ids of a word that no sequence has, of the end of a sentence, of any other punctuation
_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)
_TOKEN = re.compile(r"[^\W_]+(?:['‐‑-][^\W_]+)*|[.!?…]+|[^\w\s.!?…]+|_+")
_STOPS = frozenset(".!?…")


@dataclass(frozen=True)
class Form:
    """What is compared. `words` of a sequence, and whether punctuation must follow them; `ids` of a line's words, by what is known."""

    words: Callable[[str], tuple[list[str], bool]]
    ids: Callable[[str, dict[str, int]], list[int]]


def _exact_words(sentence: str) -> tuple[list[str], bool]:
    return sentence.split(), False


def _exact_ids(line: str, known: dict[str, int]) -> list[int]:
    return [known.get(word, _OTHER) for word in line.split()]


def normal_words(sentence: str) -> tuple[list[str], bool]:
    """The words that the normalised form looks for, "." for what ends a sentence on the way, and whether punctuation ends the whole.

    Case is folded, typographic apostrophes are straight. Words are runs of letters and digits, joined by single apostrophes and
    hyphens. Full stops, exclamation and question marks and ellipses within the sentence must be there, whichever; quotes, brackets,
    commas and all other punctuation are left out. Where the sentence ends in punctuation, any will do, a line's end too.
    """
    tokens = _TOKEN.findall(_folded(sentence))
    words = ["." if token[0] in _STOPS else token for token in tokens if token[0] in _STOPS or token[0].isalnum()]
    first = next((i for i, word in enumerate(words) if word != "."), len(words))
    last = next((i for i in range(len(words), first, -1) if words[i - 1] != "."), first)
    return words[first:last], bool(tokens) and not tokens[-1][0].isalnum()


def _normal_ids(line: str, known: dict[str, int]) -> list[int]:
    ids = []
    for token in _TOKEN.findall(_folded(line)):
        number = known.get(token)
        if number is None:
            number = _OTHER if token[0].isalnum() else _STOP if token[0] in _STOPS else _MARK
        ids.append(number)
    return [*ids, _MARK]


def _folded(text: str) -> str:
    return text.replace("’", "'").casefold()


EXACT = Form(_exact_words, _exact_ids)
NORMALISED = Form(normal_words, _normal_ids)


class Searcher:
    """Looks for word sequences in streams of lines.

    Legend: V words of the sequences (0: any other word), K length of a sequence, N words of a block, S sequences, E 2: found with
    anything behind it, found with punctuation behind it.
    """

    def __init__(self, sentences: Iterable[str], form: Form = EXACT):
        self._form, self._words = form, {".": _STOP}
        self._place: dict[str, tuple[int, int]] = {}  # of a sentence: E and S
        numbers: dict[bytes, int] = {}  # by a sequence's ids
        by_length: dict[int, list[tuple[int, bytes]]] = {}
        for sentence in sentences:
            words, marked = form.words(sentence)
            if words and sentence not in self._place:
                ids = np.array([self._words.setdefault(word, len(self._words) + 1) for word in words], dtype=np.int32).tobytes()
                if ids not in numbers:
                    by_length.setdefault(len(words), []).append((len(numbers), ids))
                self._place[sentence] = int(marked), numbers.setdefault(ids, len(numbers))
        self._times_ES, self._where_ES = np.zeros((2, len(numbers)), np.int64), np.full((2, len(numbers)), -1, np.int64)
        with np.errstate(over="ignore"):
            self._value_V = _mixed(np.arange(len(self._words) + 1, dtype=np.uint64))
            self._groups = {length: self._group(entries) for length, entries in sorted(by_length.items())}
        firsts = [ids_SK[:, 0] for _, _, ids_SK in self._groups.values()]
        pairs = [self._hashes(ids_SK[:, :2]) for length, (_, _, ids_SK) in self._groups.items() if length > 1]
        self._first_V = np.zeros(len(self._words) + 1, bool)
        self._first_V[np.concatenate(firsts) if firsts else []] = True
        self._pairs = np.unique(np.concatenate(pairs)) if pairs else np.zeros(0, np.uint64)
        self._kept_N, self._kept_marked_N = np.zeros(0, np.int32), np.zeros(0, bool)

    @property
    def longest(self) -> int:
        """Words of the longest sequence."""
        return max(self._groups, default=1)

    def _group(self, entries: list[tuple[int, bytes]]) -> tuple[Array, Array, Array]:
        """Sequences of one length, by hash: hashes (S,), numbers (S,), word ids (S, K)."""
        number_S = np.array([number for number, _ in entries])
        ids_SK = np.frombuffer(b"".join(ids for _, ids in entries), dtype=np.int32).reshape(len(entries), -1)
        hash_S = self._hashes(ids_SK)
        order = np.argsort(hash_S)
        return hash_S[order], number_S[order], ids_SK[order]

    def _hashes(self, ids_SK: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray((self._value_V[ids_SK] * _powers(_INVERSE, ids_SK.shape[1])).sum(1, dtype=np.uint64))

    def read(self, lines: Iterable[str], stream: int) -> None:
        """Look for the sequences in all `lines` of the stream numbered `stream`; a sequence may cross lines, but no blank one."""
        for block in blocks(lines):
            self.feed(block, stream)
        self.end(stream)

    def feed(self, lines: Sequence[str], stream: int) -> None:
        """The same for a stream's next lines, of as many words as may be in memory."""
        raw: list[int] = []
        for line in lines:
            raw += self._form.ids(line, self._words) if line and not line.isspace() else [_OTHER]
        raw_N = np.array(raw, dtype=np.int32)
        # a block ends with a line, so that what follows its last word is known
        marked_N = np.append((raw_N[1:] == _MARK) | (raw_N[1:] == _STOP), True)[: len(raw_N)]
        word_N = raw_N != _MARK
        ids_N = np.concatenate([self._kept_N, raw_N[word_N]])
        marked_N = np.concatenate([self._kept_marked_N, marked_N[word_N]])
        starts = max(0, len(ids_N) - self.longest + 1)
        self._look(ids_N, marked_N, starts, stream)
        self._kept_N, self._kept_marked_N = ids_N[starts:], marked_N[starts:]

    def end(self, stream: int) -> None:
        """No lines of the stream are left."""
        self._look(self._kept_N, self._kept_marked_N, len(self._kept_N), stream)
        self._kept_N, self._kept_marked_N = self._kept_N[:0], self._kept_marked_N[:0]

    def _look(self, ids_N: Array, marked_N: Array, starts: int, stream: int) -> None:
        """Count the sequences that begin at one of the first `starts` words. A window's hash is a difference of running sums."""
        n = len(ids_N)
        place_N = np.arange(n)
        end_N = np.minimum.accumulate(np.where(ids_N == _OTHER, place_N, n)[::-1])[::-1]  # the next word that no sequence has
        begin = np.flatnonzero(self._first_V[ids_N[:starts]])
        with np.errstate(over="ignore"):
            sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self._value_V[ids_N] * _powers(_INVERSE, n), dtype=np.uint64)])
            shift_N = _powers(_BASE, n)
            after = begin[end_N[begin] - begin >= 2]
            after = after[np.isin((sums[after + 2] - sums[after]) * shift_N[after], self._pairs)]
            for length, (hash_S, number_S, ids_SK) in self._groups.items():
                at = begin if length == 1 else after
                at = at[end_N[at] - at >= length]
                window = (sums[at + length] - sums[at]) * shift_N[at]
                slot = np.minimum(np.searchsorted(hash_S, window), len(hash_S) - 1)
                hit = np.flatnonzero(hash_S[slot] == window)
                same = (ids_N[at[hit][:, None] + np.arange(length)] == ids_SK[slot[hit]]).all(1)
                numbers, marked = number_S[slot[hit][same]], marked_N[at[hit][same] + length - 1]
                self._found(0, numbers, stream)
                self._found(1, numbers[marked], stream)

    def _found(self, kind: int, numbers: Array, stream: int) -> None:
        np.add.at(self._times_ES[kind], numbers, 1)
        new = numbers[self._where_ES[kind, numbers] < 0]
        self._where_ES[kind, new] = stream

    def times_of(self, sentence: str) -> int:
        """How often one of the sentences was found."""
        return int(self._times_ES[self._place[sentence]]) if sentence in self._place else 0

    def where_of(self, sentence: str) -> int:
        """The first stream that it was found in; -1: none."""
        return int(self._where_ES[self._place[sentence]]) if sentence in self._place else -1


def blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines in lists of about `BLOCK_CHARACTERS`; at least one list."""
    block: list[str] = []
    characters = 0
    for line in lines:
        block.append(line)
        characters += len(line)
        if characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    yield block


def _powers(base: int, n: int) -> Array:
    """base**0, ..., base**(n-1) modulo 2**64."""
    factors = np.full(n, np.uint64(base))
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _mixed(number: Array) -> Array:
    """Numbers that look random, one a word (Steele et al. 2014)."""
    number = (number + np.uint64(1)) * np.uint64(_BASE)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))
