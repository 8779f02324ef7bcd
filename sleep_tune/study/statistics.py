"""What a study's numbers say: means over seeds, intervals, differences to the baseline, the ranking. Arrays in, values out.

Seeds are few, so every interval is honest about it: Student's t with n - 1 degrees of freedom for one configuration,
and Dunnett's (1955) simultaneous interval, which pools the spread of all configurations and allows for having picked
the best of many, for the question whether a configuration differs from the baseline at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds; `sd`, `stderr` and the interval [low, high] are NaN where n = 1 says nothing about them."""

    mean: float
    sd: float
    n: int
    stderr: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """One trial as the ranking sees it. value: the objective at the full budget, None where the trial did not complete."""

    configuration: str
    seed: int
    value: float | None
    words_seen: int


@dataclass(frozen=True)
class Ranked:
    """A configuration all of whose seeds completed."""

    configuration: str
    objective: Estimate
    difference: Estimate | None  # to the baseline, paired by seed; None without common seeds, and for the baseline itself


@dataclass(frozen=True)
class Stopped:
    """A configuration that is not ranked: `completed` of its seeds completed, the others ended at `words_seen`."""

    configuration: str
    completed: int
    words_seen: tuple[int, ...]


@dataclass(frozen=True)
class Ranking:
    ranked: tuple[Ranked, ...]  # best first
    stopped: tuple[Stopped, ...]  # those that came furthest first
    baseline: str | None


def estimate(values_S: Floats, level: float = 0.95) -> Estimate:
    """Mean, standard deviation (n - 1) and Student's t interval of the values of S seeds."""
    n = len(values_S)
    mean = float(np.mean(values_S))
    if n < 2:
        return Estimate(mean, np.nan, n, np.nan, np.nan, np.nan)
    sd = float(np.std(values_S, ddof=1))
    stderr = sd / n**0.5
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * stderr
    return Estimate(mean, sd, n, stderr, mean - half, mean + half)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float], level: float = 0.95) -> Estimate | None:
    """Mean of value - baseline over the seeds both have (seed -> value); None where they share none."""
    seeds = sorted(values.keys() & baseline.keys())
    return estimate(np.array([values[seed] - baseline[seed] for seed in seeds]), level) if seeds else None


def rank(outcomes: Sequence[Outcome], mode: Mode, seeds: Collection[int] = (), baseline: str | None = None) -> Ranking:
    """Configurations by their mean over seeds. One that did not complete on all of `seeds` is listed as stopped, not ranked."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.configuration, []).append(outcome)
    values = {name: {o.seed: o.value for o in group if o.value is not None} for name, group in groups.items()}
    complete = {name for name, group in groups.items() if values[name].keys() >= {o.seed for o in group} | set(seeds)}
    known = values[baseline] if baseline in complete else {}
    ranked = [
        Ranked(name, estimate(np.array(list(values[name].values()))), paired_difference(values[name], known) if name != baseline else None)
        for name in groups
        if name in complete
    ]
    sign = 1 if mode == "min" else -1
    stopped = [
        Stopped(name, len(values[name]), tuple(o.words_seen for o in group if o.value is None))
        for name, group in groups.items()
        if name not in complete
    ]
    return Ranking(
        tuple(sorted(ranked, key=lambda row: sign * row.objective.mean)),
        tuple(sorted(stopped, key=lambda row: (-row.completed, -max(row.words_seen, default=0)))),
        baseline if known else None,
    )


def pooled_sd(groups: Sequence[Floats]) -> tuple[float, int]:
    """Spread over seeds within configurations, pooled, and its degrees of freedom. NaN, 0 where each has one seed."""
    freedom = sum(len(values_S) - 1 for values_S in groups)
    squares = sum(float(np.sum((values_S - values_S.mean()) ** 2)) for values_S in groups)
    return (float(np.sqrt(squares / freedom)), freedom) if freedom else (np.nan, 0)


def dunnett_critical(comparisons: int, freedom: int, correlation: float = 0.5, level: float = 0.95) -> float:
    """c with P(max |T_i| <= c) = level for `comparisons` treatments against one control (Dunnett 1955, two-sided).

    T_i share the control's mean and the pooled spread (chi with `freedom` degrees of freedom); `correlation` is
    n_i / (n_i + n_control), 1/2 for equal seeds. Numerically: Gauss-Hermite over the control, quantiles over the spread.
    """
    nodes_Z, weights_Z = np.polynomial.hermite_e.hermegauss(64)
    weights_Z = weights_Z / weights_Z.sum()
    legendre_Q, share_Q = np.polynomial.legendre.leggauss(64)
    spread_Q = np.sqrt(stats.chi2.ppf((legendre_Q + 1) / 2, freedom) / freedom)
    own, shared = np.sqrt(1 - correlation), np.sqrt(correlation) * nodes_Z

    def excess(c: float) -> float:
        upper_QZ = (c * spread_Q[:, None] + shared) / own
        lower_QZ = (-c * spread_Q[:, None] + shared) / own
        inside_Q = (stats.norm.cdf(upper_QZ) - stats.norm.cdf(lower_QZ)) ** comparisons @ weights_Z
        return float(inside_Q @ share_Q / 2) - level

    return float(optimize.brentq(excess, 0.1, 1e4))


def against_baseline(values_S: Floats, baseline_S: Floats, groups: Sequence[Floats], comparisons: int, level: float = 0.95) -> Estimate:
    """values - baseline with Dunnett's interval: spread pooled over `groups` (configurations and baseline, the values of their seeds),
    wide enough to hold for all of `comparisons` schedules at once. So it may be read for the best of them.
    """
    sd, freedom = pooled_sd(groups)
    mean = float(values_S.mean() - baseline_S.mean())
    if not freedom:
        return Estimate(mean, np.nan, len(values_S), np.nan, np.nan, np.nan)
    stderr = sd * (1 / len(values_S) + 1 / len(baseline_S)) ** 0.5
    correlation = len(values_S) / (len(values_S) + len(baseline_S))
    half = dunnett_critical(comparisons, freedom, correlation, level) * stderr
    return Estimate(mean, sd, len(values_S), stderr, mean - half, mean + half)
