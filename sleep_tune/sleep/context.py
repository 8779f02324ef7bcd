"""The rows of a sleep: an endless stream of passes over the replay buffer, of whole samples or of re-cut contexts (Xiao et al. 2023).

Legend: T tokens of the corpus, N samples, k samples of the buffer, M rows of a pass, B rows taken, L positions.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sleep_tune.config import Context
from sleep_tune.data import collate
from sleep_tune.streams import stream

Ids = NDArray[np.integer]


class Corpus(Protocol):
    """The part of a token store that reading and training need."""

    @property
    def samples(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def tokens(self) -> NDArray[np.uint16]: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    @property
    def words_N(self) -> NDArray[np.integer]: ...
    @property
    def domain_N(self) -> NDArray[np.integer]: ...
    @property
    def word_initial_V(self) -> NDArray[np.bool_]: ...
    @property
    def row_length(self) -> int: ...


@dataclass(frozen=True)
class Rows:
    """Rows to train on: tokens padded to the longest, lengths, words, and the samples they are (None where contexts were re-cut)."""

    tokens_BL: NDArray[np.int64]
    length_B: NDArray[np.int64]
    words_B: NDArray[np.integer]
    id_B: Ids | None


def sample_rows(corpus: Corpus, ids_B: Ids) -> Rows:
    """Samples as rows, whole."""
    tokens_BL, length_B = collate.rows(corpus.tokens, corpus.offsets, ids_B)
    return Rows(tokens_BL, length_B, corpus.words_N[ids_B], ids_B)


class WholeSamples:
    """Each pass is a fresh permutation of the buffer."""

    def __init__(self, corpus: Corpus, buffer_k: Ids, seed: int, cycle: int):
        self.corpus, self.buffer_k, self.key = corpus, buffer_k, (seed, "pass", cycle)
        self.pass_rows = int(buffer_k.size)
        self._pass: tuple[int, Ids] = (-1, buffer_k)

    def _ids(self, number: int) -> Ids:
        if self._pass[0] != number:
            seed, purpose, cycle = self.key
            self._pass = (number, stream(seed, purpose, cycle, number).permutation(self.buffer_k))
        return self._pass[1]

    def _taken(self, row: int, count: int) -> Ids:
        parts = []
        while count:
            number, at = divmod(row, self.pass_rows)
            parts.append(self._ids(number)[at : at + count])
            row, count = row + parts[-1].size, count - parts[-1].size
        return np.concatenate(parts)

    def take(self, row: int, count: int) -> Rows:
        """Rows `row` to `row + count` of the stream."""
        return sample_rows(self.corpus, self._taken(row, count))

    def exposed(self, row: int, count: int) -> Ids:
        """Ids of the samples whose first token lies in these rows, one for each time it does."""
        return self._taken(row, count)


@dataclass(frozen=True)
class Recut:
    """One arrangement: rows of `<s>` and L-1 content tokens (M, L), their lengths, and the rows in which samples begin, ascending."""

    tokens_ML: NDArray[np.uint16]
    length_M: NDArray[np.int64]
    first_row_k: NDArray[np.int64]
    first_id_k: Ids


def recut(corpus: Corpus, order_k: Ids, offset: int) -> Recut:
    """The content tokens of the samples `order_k`, joined, rotated by `offset`, cut into rows of `<s>` and L-1 tokens, the last one padded.

    Content is every token but `<s>` and `<pad>`; each is there exactly once.
    """
    start_k = corpus.offsets[order_k]
    size_k = corpus.offsets[order_k + 1] - start_k
    before_k = np.cumsum(size_k) - size_k
    index_T = np.arange(int(size_k.sum())) + np.repeat(start_k - before_k, size_k)
    tokens_T = corpus.tokens[index_T]
    content_T = (tokens_T != collate.BOS) & (tokens_T != collate.PAD)
    content_before_T = np.cumsum(content_T) - content_T
    has_k = np.add.reduceat(content_T, before_k) > 0
    joined = tokens_T[content_T]
    width = corpus.row_length - 1
    shift = offset % max(1, joined.size)
    joined = np.roll(joined, -shift)
    rows = -(-joined.size // width)
    tokens_ML = np.full((rows, width + 1), collate.PAD, np.uint16)
    tokens_ML[:, 0] = collate.BOS
    length_M = np.full(rows, width + 1, np.int64)
    full = joined.size // width
    tokens_ML[:full, 1:] = joined[: full * width].reshape(full, width)
    if rows > full:
        rest = joined.size - full * width
        tokens_ML[full, 1 : rest + 1] = joined[full * width :]
        length_M[full] = rest + 1
    first_k = (content_before_T[before_k[has_k]] - shift) % max(1, joined.size) // width
    by_row = np.argsort(first_k, kind="stable")
    return Recut(tokens_ML, length_M, first_k[by_row], order_k[has_k][by_row])


class RecutContexts:
    """Each pass re-cuts the buffer; `shuffles` arrangements, then the same again with new masks. One pass is in memory."""

    def __init__(self, corpus: Corpus, buffer_k: Ids, seed: int, cycle: int, shuffles: int):
        self.corpus, self.buffer_k, self.seed, self.cycle, self.shuffles = corpus, buffer_k, seed, cycle, shuffles
        self._number, self._recut = 0, self._arrangement(0)
        self.pass_rows = int(self._recut.length_M.size)

    def _arrangement(self, number: int) -> Recut:
        order_k = stream(self.seed, "pass", self.cycle, number).permutation(self.buffer_k)
        offset = int(stream(self.seed, "offset", self.cycle, number).integers(self.corpus.row_length - 1))
        return recut(self.corpus, order_k, offset)

    def _of_pass(self, number: int) -> Recut:
        if number % self.shuffles != self._number:
            self._number, self._recut = number % self.shuffles, self._arrangement(number % self.shuffles)
        return self._recut

    def take(self, row: int, count: int) -> Rows:
        """Rows `row` to `row + count` of the stream."""
        tokens, lengths = [], []
        while count:
            number, at = divmod(row, self.pass_rows)
            recut_ = self._of_pass(number)
            tokens.append(recut_.tokens_ML[at : at + count])
            lengths.append(recut_.length_M[at : at + count])
            row, count = row + len(tokens[-1]), count - len(tokens[-1])
        length_B = np.concatenate(lengths)
        tokens_BL = np.concatenate(tokens)[:, : length_B.max()].astype(np.int64)
        return Rows(tokens_BL, length_B, collate.words(tokens_BL, self.corpus.word_initial_V), None)

    def exposed(self, row: int, count: int) -> Ids:
        """Ids of the samples whose first token lies in these rows, one for each time it does."""
        parts = []
        while count:
            number, at = divmod(row, self.pass_rows)
            taken = min(count, self.pass_rows - at)
            recut_ = self._of_pass(number)
            low, high = np.searchsorted(recut_.first_row_k, (at, at + taken))
            parts.append(recut_.first_id_k[low:high])
            row, count = row + taken, count - taken
        return np.concatenate(parts)


def sleep_stream(corpus: Corpus, buffer_k: Ids, seed: int, cycle: int, context: Context | None) -> WholeSamples | RecutContexts:
    """The rows that a sleep of `cycle` replays, from the first on; a function of its arguments alone."""
    if context is None:
        return WholeSamples(corpus, buffer_k, seed, cycle)
    return RecutContexts(corpus, buffer_k, seed, cycle, context.shuffles)
