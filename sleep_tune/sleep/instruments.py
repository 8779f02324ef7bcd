"""What a cycle did, as one row of numbers: who was in the buffer, how often it was replayed, how scores are spread.

Nothing here changes a run. Legend: N samples, n candidates, k samples of the buffer, r replays of a sleep, D domains, A ages in cycles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sleep_tune.config import Sleep
from sleep_tune.sleep.candidates import Candidates, candidate_ids, eligible

Ids = NDArray[np.integer]
_COUNTS = ("cycle", "step", "words_seen", "wake_rows", "sleep_rows", "frozen_units", "shrunk_weights")
PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Cycle:
    """A cycle that has ended, its buffer not yet dropped. `carried`: samples of the buffer that were in the last one, too.

    `step` and `words_seen` are the run's at the end of the cycle; `replays_k` counts each buffer sample's exposures in its sleep;
    `retention` holds (fold, loss in nats) of the folds probed.
    """

    cycle: int
    step: int
    words_seen: int
    wake_rows: int
    sleep_rows: int
    buffer_k: Ids
    replays_k: NDArray[np.integer]
    carried: int
    frozen_units: int = 0
    shrunk_weights: int = 0
    retention: Sequence[tuple[int, float]] = ()


def cycle_row(candidates: Candidates, cycle: Cycle, domain_N: Ids, domains: Sequence[str], sleep: Sleep) -> dict[str, Any]:
    """The row of `cycle`, ready for JSON; what is not defined (a share or mean of nothing) is None. O(n), and a few arrays of n bytes.

    Scores are those at the end of the cycle. Fields, beside `cycle` to `sleep_rows`:
    fold, folds | the fold that was read, of how many
    candidates, eligible, buffer, new_in_buffer, turnover | sizes; turnover is the new ones' share of the buffer, None in the first cycle
    selected_ever | distinct samples that were in any buffer so far
    score_mean, score_p5 .. score_p95, buffer_score_mean | over the candidates, over the buffer
    replays, replayed | exposures in this sleep, and how many samples share them
    replay_times, replay_samples | `replay_samples[i]` of the buffer were replayed `replay_times[i]` times
    candidates_by_age, replays_by_age | entry a: samples last woken a cycles ago
    domain, candidates_by_domain, replays_by_domain
    retention_fold, retention_loss | of equal length
    """
    id_n = candidate_ids(candidates, cycle.cycle, sleep)
    buffer_k = cycle.buffer_k
    new = int(buffer_k.size) - cycle.carried
    row: dict[str, Any] = {name: int(getattr(cycle, name)) for name in _COUNTS}
    row |= {"fold": cycle.cycle % sleep.folds, "folds": sleep.folds}
    row |= {"candidates": int(id_n.size), "eligible": _eligible_before(candidates, id_n, cycle, sleep), "buffer": int(buffer_k.size)}
    row |= {"new_in_buffer": new, "turnover": new / buffer_k.size if buffer_k.size and cycle.cycle else None}
    row |= {"selected_ever": int(np.count_nonzero(candidates.selections_N))}
    row |= _scores(candidates.score_N, id_n, buffer_k)
    row |= _times(cycle.replays_k)
    age_n, age_k = (cycle.cycle + 1 - candidates.last_wake_N[ids].astype(np.int64) for ids in (id_n, buffer_k))
    row |= {"candidates_by_age": _counts(age_n), "replays_by_age": _counts(age_k, cycle.replays_k, int(age_n.max(initial=-1)) + 1)}
    row |= {"domain": list(domains), "candidates_by_domain": _counts(domain_N[id_n], length=len(domains))}
    row |= {"replays_by_domain": _counts(domain_N[buffer_k], cycle.replays_k, len(domains))}
    row |= {"retention_fold": [int(fold) for fold, _ in cycle.retention]}
    row |= {"retention_loss": [_finite(loss) for _, loss in cycle.retention]}
    return row


def _eligible_before(candidates: Candidates, id_n: Ids, cycle: Cycle, sleep: Sleep) -> int:
    """Candidates that might have been chosen: the chosen ones, and of the others those that still may be."""
    others = id_n if not cycle.buffer_k.size else np.delete(id_n, np.searchsorted(id_n, cycle.buffer_k))
    return int(cycle.buffer_k.size + eligible(candidates, others, cycle.cycle, sleep).size)


def _scores(score_N: NDArray[np.floating], id_n: Ids, buffer_k: Ids) -> dict[str, float | None]:
    names = [f"score_p{percentile}" for percentile in PERCENTILES]
    if not id_n.size:
        return dict.fromkeys(["score_mean", *names, "buffer_score_mean"])
    score_n = score_N[id_n]
    quantiles = np.percentile(score_n, PERCENTILES)
    mean, of_buffer = (float(scores.mean(dtype=np.float64)) if scores.size else None for scores in (score_n, score_N[buffer_k]))
    return {"score_mean": mean, **dict(zip(names, map(float, quantiles), strict=True)), "buffer_score_mean": of_buffer}


def _times(replays_k: NDArray[np.integer]) -> dict[str, Any]:
    samples_t = np.bincount(replays_k)
    times = np.flatnonzero(samples_t)
    counted = {"replays": int(replays_k.sum()), "replayed": int(np.count_nonzero(replays_k))}
    return {**counted, "replay_times": times.tolist(), "replay_samples": samples_t[times].tolist()}


def _counts(group_n: Ids, weight_n: NDArray[np.integer] | None = None, length: int = 0) -> list[int]:
    """How many (or how much weight) each group 0.. has; `bincount` weighs in doubles, exact up to 2^53."""
    counts: list[int] = np.bincount(group_n, weight_n, length).astype(np.int64).tolist()
    return counts


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
