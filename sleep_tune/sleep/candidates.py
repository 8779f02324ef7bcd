"""What is known of every sample that was read awake: scores, ages, past selections; and the choice of a replay buffer from it.

Arrays by sample id (N,), 14 bytes a sample, changed in place by the three functions that record; cycles are stored from 1, 0 is never.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sleep_tune.config import Ema, Sleep
from sleep_tune.sleep.schedule import buffer_size
from sleep_tune.sleep.strategies import STRATEGIES, Pool


@dataclass(frozen=True)
class Candidates:
    score_N: NDArray[np.float32]  # NaN: no candidate
    last_wake_N: NDArray[np.uint32]
    last_selected_N: NDArray[np.uint32]
    selections_N: NDArray[np.uint16]

    @classmethod
    def none_yet(cls, samples: int) -> "Candidates":
        """Nothing was read so far."""
        zeros = np.zeros(samples, np.uint32)
        return cls(np.full(samples, np.nan, np.float32), zeros, zeros.copy(), np.zeros(samples, np.uint16))


def record_wake(candidates: Candidates, ids_B: NDArray[np.integer], score_B: NDArray, cycle: int, sleep: Sleep) -> None:
    """Scores of samples read awake in `cycle`: the first as it is, later ones by `recurrence`; their age starts again."""
    _update(candidates, ids_B, score_B, sleep)
    candidates.last_wake_N[ids_B] = cycle + 1


def record_sleep(candidates: Candidates, ids_B: NDArray[np.integer], score_B: NDArray, sleep: Sleep) -> None:
    """Scores of samples replayed (`update_in_sleep`): by `recurrence`, ages unchanged. A sample twice in a batch counts in order."""
    while ids_B.size:
        first = np.unique(ids_B, return_index=True)[1]
        _update(candidates, ids_B[first], score_B[first], sleep)
        later = np.delete(np.arange(ids_B.size), first)
        ids_B, score_B = ids_B[later], score_B[later]


def record_rescored(candidates: Candidates, ids_B: NDArray[np.integer], score_B: NDArray) -> None:
    """Fresh scores replace the old ones; ages and with them decay factors stay."""
    candidates.score_N[ids_B] = score_B


def _update(candidates: Candidates, ids_B: NDArray[np.integer], score_B: NDArray, sleep: Sleep) -> None:
    old_B = candidates.score_N[ids_B]
    new_B = np.asarray(score_B, np.float32)
    if isinstance(sleep.recurrence, Ema):
        share = np.float32(sleep.recurrence.ema)
        merged_B = (1 - share) * old_B + share * new_B
    else:
        merged_B = np.minimum(old_B, new_B) if sleep.recurrence == "min" else new_B
    candidates.score_N[ids_B] = np.where(np.isnan(old_B), new_B, merged_B)


def decay_factor(age: NDArray[np.integer] | int, sleep: Sleep) -> NDArray[np.float64]:
    """max((1-d)^age, floor): a candidate's factor `age` wakings after its last wake, 1 in its own sleep."""
    return np.maximum((1.0 - sleep.decay) ** np.asarray(age, np.float64), sleep.decay_floor)


def candidate_ids(candidates: Candidates, cycle: int, sleep: Sleep) -> NDArray[np.int64]:
    """Ascending ids of the candidate set: all samples read so far, or those of this cycle's wake."""
    if sleep.candidates == "seen":
        return np.flatnonzero(candidates.last_wake_N != 0)
    return np.flatnonzero(candidates.last_wake_N == cycle + 1)


def eligible(candidates: Candidates, ids_n: NDArray[np.integer], cycle: int, sleep: Sleep) -> NDArray[np.integer]:
    """Those of `ids_n` that `max_selections` and `cooldown` allow in `cycle`."""
    if sleep.max_selections is None and not sleep.cooldown:
        return ids_n
    allowed_n = np.ones(ids_n.size, bool)
    if sleep.max_selections is not None:
        allowed_n &= candidates.selections_N[ids_n] < sleep.max_selections
    if sleep.cooldown:
        last_n = candidates.last_selected_N[ids_n].astype(np.int64)
        allowed_n &= (last_n == 0) | (cycle + 1 - last_n > sleep.cooldown)
    return ids_n[allowed_n]


def choose(candidates: Candidates, domain_N: NDArray[np.integer], cycle: int, sleep: Sleep, generator: Generator) -> NDArray[np.integer]:
    """The replay buffer of `cycle`: k distinct ids, sorted (k,), fewer where fewer are eligible. Changes nothing."""
    known_n = candidate_ids(candidates, cycle, sleep)
    ids_n = eligible(candidates, known_n, cycle, sleep)
    if ids_n.size == 0:
        return ids_n
    k = min(buffer_size(sleep.replay_ratio, known_n.size), ids_n.size)
    return STRATEGIES[sleep.strategy.name](pool_of(candidates, ids_n, domain_N, cycle, sleep), k, generator, **sleep.strategy.parameters)


def pool_of(candidates: Candidates, ids_n: NDArray[np.integer], domain_N: NDArray[np.integer], cycle: int, sleep: Sleep) -> Pool:
    """What a strategy is told in `cycle` of the samples `ids_n` (ascending, at least one)."""
    of_n = slice(None) if ids_n.size == candidates.score_N.size else ids_n  # all of them: views, not copies
    age_n = np.uint32(cycle + 1) - candidates.last_wake_N[of_n]
    factor_a = decay_factor(np.arange(int(age_n.max()) + 1), sleep)
    return Pool(ids_n, candidates.score_N[of_n], factor_a[age_n], age_n, domain_N[of_n])


def record_choice(candidates: Candidates, buffer_k: NDArray[np.integer], cycle: int) -> None:
    """Remember that `buffer_k` was chosen in `cycle`."""
    candidates.last_selected_N[buffer_k] = cycle + 1
    candidates.selections_N[buffer_k] = np.minimum(candidates.selections_N[buffer_k].astype(np.int64) + 1, np.iinfo(np.uint16).max)
