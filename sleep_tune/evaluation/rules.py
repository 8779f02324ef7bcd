"""What counts as a right answer: the decisions of the official pipelines, and honest ones. Arrays in, arrays out.

Legend: I items, C candidates (padded to the most an item has; `valid_IC` says which exist). Candidate 0 is the right one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from sleep_tune.evaluation.tasks import Edition

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Draw = Callable[[int], Generator]  # the generator of an item's tie-break


@dataclass(frozen=True)
class Decisions:
    """What a rule made of every item, and what it had to decide upon."""

    chosen_I: Ints  # the candidate that predictions.json names
    credit_I: Floats  # 0 to 1: what the item adds to the number of right answers
    tie_I: Bools  # the best score is shared (NaN aside)
    nan_I: Bools  # a candidate's score is not a number


@dataclass(frozen=True)
class Rules:
    """A rule set: how scores become decisions, whose candidates, and which pipeline it reproduces."""

    decide: Callable[[Floats, Bools, Draw], tuple[Ints, Floats]]
    edition: Edition
    reproduces: str
    broken_rho: float  # a correlation that does not exist (constant or NaN probabilities)


def decide(scores_IC: Floats, valid_IC: Bools, rules: str, draw: Draw) -> Decisions:
    """Decide every item under the rule set named `rules` (a key of `RULES`). Scores are summed log-probabilities."""
    nan_I = _has_nan(scores_IC, valid_IC)
    best_IC = _best(_comparable(scores_IC, valid_IC), valid_IC)
    chosen_I, credit_I = RULES[rules].decide(scores_IC, valid_IC, draw)
    return Decisions(chosen_I, credit_I, (best_IC.sum(1) > 1) & ~nan_I, nan_I)


def probability_of_first(scores_IC: Floats, valid_IC: Bools) -> Floats:
    """softmax over an item's candidates, that of candidate 0 (I,), in float32 as the official pipeline has it; NaN where a score is NaN."""
    with np.errstate(invalid="ignore"):
        scores_IC = np.where(valid_IC, scores_IC.astype(np.float32), -np.inf)
        weights_IC = np.exp(scores_IC - scores_IC.max(1, keepdims=True, initial=-np.inf))
        return weights_IC[:, 0] / weights_IC.sum(1)


def margin(scores_IC: Floats, valid_IC: Bools) -> Floats:
    """Score of the right candidate less the best of the others (I,), nats; NaN where one is NaN or both are -inf."""
    if len(scores_IC) == 0:
        return np.zeros(0)
    with np.errstate(invalid="ignore"):
        return scores_IC[:, 0] - np.where(valid_IC, scores_IC, -np.inf)[:, 1:].max(1)


def _has_nan(scores_IC: Floats, valid_IC: Bools) -> Bools:
    return np.asarray((np.isnan(scores_IC) & valid_IC).any(1))


def _comparable(scores_IC: Floats, valid_IC: Bools) -> Floats:
    """NaN and padding as -inf."""
    return np.where(valid_IC & ~np.isnan(scores_IC), scores_IC, -np.inf)


def _best(scores_IC: Floats, valid_IC: Bools) -> Bools:
    """The candidates that share the best score; padding never does."""
    return (scores_IC == scores_IC.max(1, keepdims=True, initial=-np.inf)) & valid_IC


def _first_maximum(scores_IC: Floats, valid_IC: Bools, draw: Draw) -> tuple[Ints, Floats]:
    """2025: the first index of the maximum, NaN above every number (torch.max). A model of NaNs or of ties scores 100."""
    chosen_I = np.where(valid_IC, scores_IC, -np.inf).argmax(1)
    return chosen_I, (chosen_I == 0).astype(float)


def _random_among_best(scores_IC: Floats, valid_IC: Bools, draw: Draw) -> tuple[Ints, Floats]:
    """2026: NaN is -inf, a tie is broken at random (seeded here, unseeded there)."""
    best_IC = _best(_comparable(scores_IC, valid_IC), valid_IC)
    chosen_I = best_IC.argmax(1)
    for i in np.flatnonzero(best_IC.sum(1) > 1):
        chosen_I[i] = draw(int(i)).choice(np.flatnonzero(best_IC[i]))
    return chosen_I, (chosen_I == 0).astype(float)


def _share_of_best(scores_IC: Floats, valid_IC: Bools, draw: Draw) -> tuple[Ints, Floats]:
    """Honest: the right candidate earns its share of a tie; an item with a NaN earns nothing, whichever candidate has it."""
    best_IC = _best(_comparable(scores_IC, valid_IC), valid_IC)
    right_I = best_IC[:, 0] & ~_has_nan(scores_IC, valid_IC)
    return best_IC.argmax(1), np.where(right_I, 1.0 / np.maximum(best_IC.sum(1), 1), 0.0)


# Of the 2026 pipeline, only the commit of its collation is known; the rest is as babylm-org/babylm-eval had it in July 2026, and rules
# drifted within that year.
_2025, _2026 = (
    "babylm/evaluation-pipeline-2025@bf55c11",
    "babylm-org/babylm-eval of July 2026, commit not known but for its collation's (6f825c2)",
)
RULES: dict[str, Rules] = {
    "honest": Rules(_share_of_best, "2025", f"{_2025}, ties and NaN counted honestly", 0.0),
    "2025": Rules(_first_maximum, "2025", _2025, float("nan")),
    "2026": Rules(_random_among_best, "2026", f"{_2026}; ties broken by a seeded draw", float("nan")),
}
