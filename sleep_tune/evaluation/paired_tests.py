"""Exact tests of two models' answers to the same items. Numbers in, p values out: two-sided, and conditional on what differs.

Legend: I items (rows of a task with two labels), H label-1 rows that one model got right and the other not, F label-0 rows that one
took for label 1 and the other not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from sleep_tune.evaluation.plan import Array

_EQUAL = 1e-12  # differences of F1 that are one number up to rounding


def sign_test(up: int, down: int) -> float:
    """p of so many changes up and down, were both as likely; McNemar's exact test on the discordant pairs (1947)."""
    return min(1.0, 2 * float(binom.cdf(min(up, down), up + down, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): what each p is worth among all of them."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


@dataclass(frozen=True)
class Answers:
    """Rows of label 1 and of label 0 that a model took for label 1: `hit_I` and `false_I`; with several seeds, shares of them."""

    positive_I: Array
    hit_I: Array
    false_I: Array

    @property
    def f1(self) -> float:
        """F1 of label 1; 0 where it is neither there nor chosen."""
        return float(_f1(self.hit_I.sum(), self.false_I.sum(), self.positive_I.sum()))


def f1_test(a: Answers, b: Answers) -> float:
    """p of so large a difference of F1, had every row's two answers been dealt to the models at random (Yeh 2000), which only matters
    where they differ. Exact: the rows that A keeps of H and of F are binomial, and every pair of numbers is looked at. One seed each."""
    h, f = int((a.hit_I != b.hit_I).sum()), int((a.false_I != b.false_I).sum())
    both_hit, both_false = int((a.hit_I * b.hit_I).sum()), int((a.false_I * b.false_I).sum())
    positive, observed = int(a.positive_I.sum()), abs(a.f1 - b.f1)
    kept_F = np.arange(f + 1)
    weight_F = binom.pmf(kept_F, f, 0.5)
    p = 0.0
    for kept, weight in enumerate(binom.pmf(np.arange(h + 1), h, 0.5)):
        one_F = _f1(both_hit + kept, both_false + kept_F, positive)
        other_F = _f1(both_hit + h - kept, both_false + f - kept_F, positive)
        p += weight * weight_F[np.abs(one_F - other_F) >= observed - _EQUAL].sum()
    return min(1.0, float(p))


def _f1(hits: Array | int, false: Array | int, positive: Array | int) -> Array:
    named = np.asarray(positive + hits + false, dtype=float)
    return np.where(named > 0, 2 * hits / np.maximum(named, 1), 0.0)
