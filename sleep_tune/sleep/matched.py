"""The rows of a matched control: plain epochs that see the words, the unique words and the steps of a trial that slept.

Where the other trial's files lie is `matching.py`'s. Legend: N samples, n of them that the other trial woke, T its steps, B rows of a
batch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sleep_tune.digests import digest
from sleep_tune.sleep.schedule import EPOCHS_AS_SLEEP, wake_order

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class MatchedPlan:
    """What a control repeats: the ids of the samples that were woken, ascending (n,), and the words seen after each step (T,)."""

    ids_n: NDArray[np.int64]
    words_after_T: NDArray[np.int64]

    @property
    def digest(self) -> str:
        """32 hex characters; a control that goes on has to go on with the same plan."""
        return digest(*(np.ascontiguousarray(values, "<i8").tobytes() for values in (self.ids_n, self.words_after_T)))


class MatchedRows:
    """An endless stream of passes over the woken samples, each a fresh permutation, cut into batches by the plan's words.

    A batch takes rows, at least one, while the words seen are at most the other trial's after the same step. So after every step the words
    differ by less than a row's (by more only where the other's batches hold fewer words than one row), and the other's words reach
    every sample at least once. Batches span passes.
    """

    def __init__(self, plan: MatchedPlan, words_N: NDArray[np.integer], seed: int):
        self._plan, self._words_N, self._seed = plan, words_N, seed
        self._pass: tuple[int, Ids, NDArray[np.int64]] = (-1, plan.ids_n, np.zeros(1, np.int64))

    def cycle(self, row: int) -> int:
        """The pass in which a row of the stream lies."""
        return row // self._plan.ids_n.size

    def take(self, step: int, row: int, words_seen: int) -> Ids:
        """Ids (B,) of the batch of `step` (from 0), which begins at `row` of the stream; none where the other trial took no such step."""
        if step >= self._plan.words_after_T.size:
            return self._plan.ids_n[:0]
        left = int(self._plan.words_after_T[step]) - words_seen
        taken: list[Ids] = []
        while True:
            number, at = divmod(row, self._plan.ids_n.size)
            order_n, before_n = self._order(number)
            fits = int(np.searchsorted(before_n, before_n[at] + left, side="right")) - 1
            end = max(fits, at + (not taken))
            taken.append(order_n[at:end])
            if end < order_n.size or not before_n[-1]:  # samples without any words would never fill a batch
                return np.concatenate(taken)
            row, left = row + end - at, left - int(before_n[end] - before_n[at])

    def _order(self, number: int) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of a pass in reading order (n,), and the words of the pass before each and after the last (n+1,)."""
        if self._pass[0] != number:
            order_n = wake_order(self._plan.ids_n, number, EPOCHS_AS_SLEEP, 1, self._seed)
            self._pass = (number, order_n, np.concatenate([[0], np.cumsum(self._words_N[order_n], dtype=np.int64)]))
        return self._pass[1:]
