"""When a run is awake, when it sleeps, and for how long: folds, order of a wake, length of a sleep. Functions of sizes and seeds.

Legend: N samples, C folds, F samples of a fold, D domains, B rows a batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sleep_tune.config import Epochs, Fill, Length, LossThreshold, LossThresholdRule, Ratio, Repeats, Sleep, Steps
from sleep_tune.streams import stream

EPOCHS_AS_SLEEP = Sleep(folds=1, length=Ratio(ratio=0.0))  # one fold, never asleep: plain passes through the same loop


def as_sleep(sleep: Sleep | None, epochs: Epochs | None) -> Sleep:
    """The cycle that a config's schedule stands for; plain epochs are one fold without sleep."""
    return sleep if sleep is not None else EPOCHS_AS_SLEEP


@dataclass(frozen=True)
class Folds:
    """Sample ids in fold order (N,), cut every `size`; the last fold takes the rest."""

    order_N: NDArray[np.integer]
    size: int
    count: int

    def of(self, cycle: int) -> NDArray[np.integer]:
        """The ids of the fold that `cycle` reads (F,)."""
        fold = cycle % self.count
        return self.order_N[fold * self.size : None if fold == self.count - 1 else (fold + 1) * self.size]


def cut_folds(samples: int, sleep: Sleep, domain_N: NDArray[np.integer], seed: int) -> Folds:
    """Folds 0..C-2 of floor(N/C) samples, the last of all the rest. Raises ValueError where N < C."""
    if samples < sleep.folds:
        raise ValueError(f"{sleep.folds} folds of {samples} samples")
    if sleep.fold_order == "shuffled":
        order_N = stream(seed, "folds").permutation(samples)
    elif sleep.fold_order == "corpus":
        order_N = np.arange(samples)
    else:
        order_N = np.argsort(domain_N, kind="stable")
    return Folds(order_N, samples // sleep.folds, sleep.folds)


def wake_order(fold_F: NDArray[np.integer], cycle: int, sleep: Sleep, batch_rows: int, seed: int) -> NDArray[np.integer]:
    """The ids of one wake in reading order: each once, shuffled per cycle or as kept, cut at `max_wake_steps` batches."""
    order_F = fold_F if sleep.within == "kept" else stream(seed, "wake", cycle).permutation(fold_F)
    return order_F if sleep.max_wake_steps is None else order_F[: sleep.max_wake_steps * batch_rows]


def total_cycles(sleep: Sleep) -> int | None:
    """Cycles of the whole run; None: wakes start again until the budget is used. A sleep that fills the budget needs one pass."""
    if sleep.passes == "auto":
        return sleep.folds if isinstance(sleep.length, Fill) else None
    return sleep.passes * sleep.folds


@dataclass(frozen=True)
class SleepPlan:
    """How long one sleep is: at most `rows` rows, and `words` words, and until `until` says so; None: no such limit."""

    rows: int | None = None
    words: int | None = None
    until: LossThresholdRule | None = None


def plan_sleep(length: Length, wake_rows: int, pass_rows: int, batch_rows: int, fill_words: int | None) -> SleepPlan:
    """The plan of one sleep.

    `wake_rows`: rows of its wake; `pass_rows`: rows of one pass of the buffer; `fill_words`: this sleep's share of the
    budget under `fill`, None for the last sleep, which runs to the budget.
    """
    match length:
        case Ratio(ratio=ratio):
            steps = math.floor(ratio * math.ceil(wake_rows / batch_rows) + 0.5)
            return SleepPlan(rows=0 if ratio == 0 else max(1, steps) * batch_rows)
        case Repeats(repeats=repeats):
            return SleepPlan(rows=math.ceil(repeats * pass_rows - 1e-9))
        case Steps(steps=steps):
            return SleepPlan(rows=steps * batch_rows)
        case Fill():
            if fill_words is None:
                return SleepPlan()
            return SleepPlan(words=fill_words) if fill_words > 0 else SleepPlan(rows=0)
        case LossThreshold(loss_threshold=rule):
            return SleepPlan(rows=rule.max_steps * batch_rows, until=rule)


def fill_share(budget_words: int, words_seen: int, words_of_wakes_to_come: int, sleeps_left: int) -> int | None:
    """Words of this sleep under `fill`, by equal parts of what is left; None for the last."""
    if sleeps_left <= 1:
        return None
    return (budget_words - words_seen - words_of_wakes_to_come) // sleeps_left


def buffer_size(replay_ratio: float, candidates: int) -> int:
    """k = min(n, max(1, floor(rho n))): samples of the replay buffer out of n candidates."""
    return min(candidates, max(1, math.floor(replay_ratio * candidates + 1e-9)))


@dataclass(frozen=True)
class CorpusSize:
    """A corpus in numbers; `recut_words` is what a row of a re-cut context holds on average."""

    samples: int
    words: int
    recut_words: float

    @property
    def row_words(self) -> float:
        """Words of a sample, on average."""
        return self.words / self.samples


@dataclass(frozen=True)
class Phase:
    """A stretch of the planned schedule; rows and words as if all rows of a kind held the same words."""

    cycle: int
    kind: str  # wake | sleep
    rows: float
    words: float


def phases(sleep: Sleep, size: CorpusSize, batch_rows: int, budget_words: float) -> Iterator[Phase]:
    """The planned phases of a run; a loss threshold counts as its maximum."""
    left, cycle, cycles, fold_rows = float(budget_words), 0, total_cycles(sleep), size.samples // sleep.folds
    cap = size.samples if sleep.max_wake_steps is None else sleep.max_wake_steps * batch_rows
    sleep_row = size.row_words if sleep.context is None else size.recut_words
    while left > 1e-6 and (cycles is None or cycle < cycles):
        last = cycle % sleep.folds == sleep.folds - 1
        wake = min(size.samples - fold_rows * (sleep.folds - 1) if last else fold_rows, cap)
        rows = min(wake, left / size.row_words)
        yield Phase(cycle, "wake", rows, rows * size.row_words)
        left -= rows * size.row_words
        known = min((cycle + 1) * fold_rows, size.samples) if sleep.candidates == "seen" else wake
        pass_rows = max(1, round(buffer_size(sleep.replay_ratio, max(1, known)) * size.row_words / sleep_row))
        sleeps_left = (cycles or cycle + 1) - cycle
        to_come = round((sleeps_left - 1) * min(fold_rows, cap) * size.row_words)
        fill = fill_share(round(budget_words), round(budget_words - left), to_come, sleeps_left)
        plan = plan_sleep(sleep.length, wake, pass_rows, batch_rows, fill)
        words = min(left, math.inf if plan.rows is None else plan.rows * sleep_row, math.inf if plan.words is None else plan.words)
        if words > 1e-6:
            yield Phase(cycle, "sleep", words / sleep_row, words)
        left -= words
        cycle += 1


@dataclass(frozen=True)
class Outlook:
    """What the planned phases come to: shares of samples read awake and of budget used, sleeps, words asleep per word awake, and the words
    seen at the last waking that another wake follows, 0 where there is none.
    """

    coverage: float
    used: float
    sleeps: int
    asleep_per_awake: float
    last_waking: float


def outlook(sleep: Sleep, size: CorpusSize, batch_rows: int, budget_words: int) -> Outlook:
    """The outlook of a run with `budget_words`."""
    first_pass = awake = asleep = last_waking = 0.0
    sleeps = 0
    for phase in phases(sleep, size, batch_rows, budget_words):
        if phase.kind == "sleep":
            asleep, sleeps = asleep + phase.words, sleeps + 1
        else:
            last_waking = awake + asleep
            awake += phase.words
            first_pass += phase.rows if phase.cycle < sleep.folds else 0
    return Outlook(min(1.0, first_pass / size.samples), (awake + asleep) / budget_words, sleeps, asleep / awake, last_waking)
