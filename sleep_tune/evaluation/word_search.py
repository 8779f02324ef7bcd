"""Finds many word sequences in a long text: one pass, memory that grows with the sequences and not with the text. Numpy only.

Words that no sequence has end a window; of the others every window of a length that some sequence has is hashed, by differences of
running sums modulo 2**64, and what shares a hash is compared word by word.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from sleep_tune.evaluation.plan import Array

BLOCK_WORDS = 1 << 18
_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)


class Searcher:
    """Looks for word sequences in streams of words. `times` and `where` (first stream it was in, -1: none) are by sequence.

    Legend: V words of the sequences (0: any other word), K length of a sequence, N words of a block, S sequences.
    """

    def __init__(self, sentences: Iterable[str]):
        self.index: dict[str, int] = {}
        self._words: dict[str, int] = {}
        by_length: dict[int, list[tuple[int, list[int]]]] = {}
        for sentence in sentences:
            words = sentence.split()
            key = " ".join(words)
            if words and key not in self.index:
                self.index[key] = len(self.index)
                ids = [self._words.setdefault(word, len(self._words) + 1) for word in words]
                by_length.setdefault(len(ids), []).append((self.index[key], ids))
        self.times, self.where = np.zeros(len(self.index), np.int64), np.full(len(self.index), -1, np.int64)
        with np.errstate(over="ignore"):
            self._value_V = _mixed(np.arange(len(self._words) + 1, dtype=np.uint64))
            self._groups = {length: self._group(entries) for length, entries in sorted(by_length.items())}
        firsts = [ids_SK[:, 0] for _, _, ids_SK in self._groups.values()]
        pairs = [self._hashes(ids_SK[:, :2]) for length, (_, _, ids_SK) in self._groups.items() if length > 1]
        self._first_V = np.zeros(len(self._words) + 1, bool)
        self._first_V[np.concatenate(firsts) if firsts else []] = True
        self._pairs = np.unique(np.concatenate(pairs)) if pairs else np.zeros(0, np.uint64)

    @property
    def longest(self) -> int:
        """Words of the longest sequence."""
        return max(self._groups, default=1)

    def _group(self, entries: list[tuple[int, list[int]]]) -> tuple[Array, Array, Array]:
        """Sequences of one length, by hash: hashes (S,), numbers (S,), word ids (S, K)."""
        number_S, ids_SK = np.array([number for number, _ in entries]), np.array([ids for _, ids in entries], dtype=np.int32)
        hash_S = self._hashes(ids_SK)
        order = np.argsort(hash_S)
        return hash_S[order], number_S[order], ids_SK[order]

    def _hashes(self, ids_SK: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray((self._value_V[ids_SK] * _powers(_INVERSE, ids_SK.shape[1])).sum(1, dtype=np.uint64))

    def read(self, lines: Iterable[str], stream: int) -> int:
        """Look for the sequences in `lines`, whose number as a stream is `stream`; sequences may cross lines. Returns its words."""
        kept, total = np.zeros(0, np.int32), 0
        for block_N in self._blocks(lines):
            total += len(block_N)
            block_N = np.concatenate([kept, block_N])
            starts = max(0, len(block_N) - self.longest + 1)
            self._look(block_N, starts, stream)
            kept = block_N[starts:]
        self._look(kept, len(kept), stream)
        return total

    def _blocks(self, lines: Iterable[str]) -> Iterator[Array]:
        ids: list[int] = []
        known = self._words
        for line in lines:
            ids += [known.get(word, 0) for word in line.split()]
            if len(ids) >= BLOCK_WORDS:
                yield np.array(ids, dtype=np.int32)
                ids = []
        yield np.array(ids, dtype=np.int32)

    def _look(self, ids_N: Array, starts: int, stream: int) -> None:
        """Count the sequences that begin at one of the first `starts` words. A window's hash is a difference of running sums."""
        n = len(ids_N)
        place_N = np.arange(n)
        end_N = np.minimum.accumulate(np.where(ids_N == 0, place_N, n)[::-1])[::-1]  # the next word that no sequence has
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
                self._found(number_S[slot[hit][same]], stream)

    def _found(self, numbers: Array, stream: int) -> None:
        np.add.at(self.times, numbers, 1)
        new = numbers[self.where[numbers] < 0]
        self.where[new] = stream

    def times_of(self, sentence: str) -> int:
        """How often it was found."""
        number = self.index.get(" ".join(sentence.split()))
        return 0 if number is None else int(self.times[number])


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
