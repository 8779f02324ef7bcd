"""What a study costs before it runs: words, trials, time, memory. Pure arithmetic; the speeds come from `calibration.py`.

ASHA's expectation supposes that configurations come by one after the other in random order, as if none were better from the start.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sleep_tune.config import Config
from sleep_tune.digests import canonical_json, digest

STUDY_SECONDS = 15.0  # Ray's start and end, the tables
DRIVER_BYTES = 900 << 20  # driver 295 MB and Ray's own processes 385 MB (proportional set size), and room for the tables


@dataclass(frozen=True)
class Speed:
    """What earlier trials of a shape took: training words a second, seconds beside it (set-up, scores), peak bytes; and how many ran
    (0: measured in a few seconds of one).
    """

    words_per_s: float
    overhead_s: float
    rss_bytes: int
    trials: int


@dataclass(frozen=True)
class Cost:
    """Words of the whole study (at most, expected), trials at most, matched controls among them that are expected; seconds are None where
    nothing like it was ever run here. trial_s: of a trial that uses its budget.
    """

    trials: int
    controls: int
    most_words: int
    expected_words: int
    most_s: float | None
    expected_s: float | None
    trial_s: float | None


def passing(points: float, reduction: float) -> float:
    """How many of `points` asynchronous successive halving lets pass a rung, on average.

    The m + 1st to come by passes if it is at or above the 1 - 1/reduction quantile of the m before it (linear between order
    statistics, as `numpy.nanpercentile`; the first always passes). For independent uniform values that quantile is
    ((m - 1) q + 1) / (m + 1) on average.
    """
    q = 1 - 1 / reduction
    whole = math.floor(points)
    chances = [1.0 if m == 0 else 1 - ((m - 1) * q + 1) / (m + 1) for m in range(whole + 1)]
    return sum(chances[:whole]) + (points - whole) * chances[whole]


def completing(points: int, rungs: Sequence[int], reduction: float | None) -> float:
    """How many of `points` pass all rungs, on average."""
    left = float(points)
    for _ in rungs if reduction is not None else ():
        left = passing(left, reduction or 1)
    return left


def expected_words(points: int, budget_words: int, rungs: Sequence[int], reduction: float | None) -> int:
    """Words of `points`, on one seed, under ASHA: all read to the first rung, those that pass to the next, and so on."""
    words, left, before = 0.0, float(points), 0
    for rung in [*rungs, budget_words] if reduction is not None else [budget_words]:
        words += left * (rung - before)
        before = rung
        left = passing(left, reduction) if reduction is not None and rung != budget_words else left
    return round(words)


@dataclass(frozen=True)
class Work:
    """Points of the search, each on `seeds` seeds, trials beside it, words of each, and where the scheduler (`reduction` None: none)
    decides: on a configuration, whose seeds stand or fall together. `matched`: each that completes gets a control on every seed.
    """

    points: int
    seeds: int
    always: int
    budget_words: int
    rungs: Sequence[int] = ()
    reduction: float | None = None
    matched: bool = False


def cost(work: Work, concurrent: int, speed: Speed | None) -> Cost:
    """The cost of `work`, `concurrent` trials at a time; its memory is `memory_bytes`'s to say."""
    planned = work.points * work.seeds + work.always
    controls = round(work.seeds * completing(work.points, work.rungs, work.reduction)) if work.matched else 0
    trials = planned + (work.points * work.seeds if work.matched else 0)
    most = trials * work.budget_words
    searched = work.seeds * expected_words(work.points, work.budget_words, work.rungs, work.reduction)
    expected = searched + (work.always + controls) * work.budget_words

    def seconds(words: int, trials: int) -> float | None:
        if speed is None:
            return None
        rounds = max(1, min(concurrent, trials))
        return STUDY_SECONDS + (words / speed.words_per_s + trials * speed.overhead_s) / rounds

    trial_s = None if speed is None else work.budget_words / speed.words_per_s + speed.overhead_s
    return Cost(trials, controls, most, expected, seconds(most, trials), seconds(expected, planned + controls), trial_s)


def memory_bytes(trials: int, concurrent: int, trial_bytes: int) -> int:
    """The peak of a study on one machine, its driver and Ray included."""
    return DRIVER_BYTES + min(concurrent, max(1, trials)) * trial_bytes


def mean_speed(known: Sequence[tuple[Speed, int]]) -> Speed:
    """What to expect of trials of several shapes, each so many times: mean times, the largest memory."""
    of = sum(times for _, times in known)
    word_s = sum(times / speed.words_per_s for speed, times in known) / of
    overhead_s = sum(times * speed.overhead_s for speed, times in known) / of
    return Speed(1 / word_s, overhead_s, max(speed.rss_bytes for speed, _ in known), min(speed.trials for speed, _ in known))


def shape_key(config: Config) -> str:
    """What a trial's speed depends on, its schedule apart: model, batch, rows, precision, resources, scores."""
    shape = {
        "model": config.model.model_dump(),
        "rows": [config.data.rows, config.data.row_length, config.training.batch_rows, config.tokenizer.vocab_size],
        "masking": config.masking.rate,
        "training": [config.training.precision, config.training.determinism, config.training.accumulation],
        "resources": config.resources.model_dump(),
        "final": [list(config.evaluation.final.tasks), config.evaluation.final.set, config.evaluation.final.items_per_uid],
        "milestones": [list(config.evaluation.milestones.tasks), config.evaluation.milestones.items_per_uid],
    }
    return digest(canonical_json(shape), size=8)


def show_seconds(seconds: float) -> str:
    """Time as people say it: 40 s, 5 min, 3.2 h, 2.1 days."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / size:.{0 if unit == 's' else 1}f}".removesuffix(".0") + f" {unit}"
    return f"{seconds / 86400:.1f} days"


def show_bytes(count: float) -> str:
    """Memory as people say it: 800 MiB, 1.2 GiB."""
    return f"{count / (1 << 30):.3g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.3g} MiB"
