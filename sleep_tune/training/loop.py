"""The training loop, the only one: wake, fall asleep, sleep, wake up, in the order of the method; plain epochs are wakes without sleeps.

What a run is, and its state, field by field: `run.py`. What happens at falling asleep and at waking: `night.py`.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sleep_tune.config import LossThreshold
from sleep_tune.sleep import candidates as candidates_
from sleep_tune.sleep.context import Rows, sample_rows
from sleep_tune.streams import stream
from sleep_tune.training.descent import descend
from sleep_tune.training.night import fall_asleep, slept_enough, wake_up
from sleep_tune.training.objectives import label_rows
from sleep_tune.training.optimizer import clip, learning_rate
from sleep_tune.training.run import Run, State

__all__ = ["Run", "State", "StepRecord", "advance"]


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: loss in nats per labelled token, norm of the gradient before clipping, tokens of the batch without padding."""

    step: int
    cycle: int
    phase: str
    words_seen: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    wall_s: float


def advance(run: Run, state: State, until_words: int) -> Iterator[StepRecord]:
    """Train until `until_words` are seen or the run is over; yields after each optimizer step, when `state` may be saved."""
    while not state.over and state.words_seen < until_words:
        rows = next_rows(run, state)
        if rows is None:
            state.over = True
        else:
            record = train(run, state, rows)
            if record is not None:
                yield record


def next_rows(run: Run, state: State) -> Rows | None:
    """The next batch, phases changed where one has ended; None when schedule or budget end here."""
    size = run.config.training.batch_rows
    while True:
        if run.matched is not None:
            ids = run.matched.take(state.step, state.row, state.words_seen)
            state.cycle = run.matched.cycle(state.row)
            return within_budget(run, state, sample_rows(run.store, ids)) if ids.size else None
        if state.phase == "wake":
            ids = run.wake_ids(state.cycle)[state.row : state.row + size]
            if ids.size:
                return within_budget(run, state, sample_rows(run.store, ids))
            fall_asleep(run, state)
        else:
            left = size if state.sleep_rows is None else min(size, state.sleep_rows - state.row)
            if left > 0 and not slept_enough(run, state):
                rows = run.stream_of(state).take(state.row, left)
                if state.sleep_words is None or state.words_seen - state.sleep_began + rows.words_B.sum() <= state.sleep_words:
                    return within_budget(run, state, rows)
            wake_up(run, state)
            if run.cycles is not None and state.cycle >= run.cycles:
                return None


def within_budget(run: Run, state: State, rows: Rows) -> Rows | None:
    """The longest prefix of `rows` that the budget holds; None where it holds no row."""
    fits = int(np.searchsorted(np.cumsum(rows.words_B), run.config.budget_words - state.words_seen, side="right"))
    if fits == len(rows.words_B):
        return rows
    if fits == 0:
        return None
    length_B = rows.length_B[:fits]
    return Rows(rows.tokens_BL[:fits, : length_B.max()], length_B, rows.words_B[:fits], None if rows.id_B is None else rows.id_B[:fits])


def train(run: Run, state: State, rows: Rows) -> StepRecord | None:
    """One optimizer step on `rows`; None where the loss is not finite, and the run is over without it."""
    started, config, words = time.perf_counter(), run.config, int(rows.words_B.sum())
    generator = stream(config.seed, "mask", state.step)
    batch = label_rows(rows, config, run.progress(state, words), run.store.vocab_size, generator, run.device)
    value, shown_B = descend(run, state, batch)
    if not math.isfinite(value):
        state.over = state.diverged = True
        return None
    norm = clip(run.network.flat.grad, config.optimizer.clip)  # type: ignore[arg-type]
    lr = learning_rate(config.optimizer, state.words_seen, state.words_seen + words, config.budget_words)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    held = run.hold(state)
    if held is not None:
        held.before_step()
    run.optimizer.step()
    if held is not None:
        held.after_step()
    measured_B = shown_B.cpu().numpy()
    if not np.isfinite(measured_B).all():
        state.over = state.diverged = True
        return None
    note(run, state, rows, measured_B, value)
    state.step, state.row, state.words_seen = state.step + 1, state.row + len(rows.words_B), state.words_seen + words
    return StepRecord(
        state.step, state.cycle, state.phase, state.words_seen, value, lr, norm, int(rows.length_B.sum()), time.perf_counter() - started
    )


def note(run: Run, state: State, rows: Rows, measured_B: np.ndarray, loss: float) -> None:
    """What the step showed: exposures, and the losses or gains of the rows that are samples."""
    if state.phase == "wake":
        assert rows.id_B is not None
        np.add.at(state.exposures_N, rows.id_B, 1)  # a matched control's batch may span passes
        if run.sleeps:
            state.measured_F[state.row : state.row + measured_B.size] = measured_B
            state.importance_rows += measured_B.size * run.fisher_step(state)
        return
    np.add.at(state.exposures_N, run.stream_of(state).exposed(state.row, len(rows.words_B)), 1)  # a batch may span passes: an id twice
    if run.sleep.update_in_sleep and rows.id_B is not None:
        candidates_.record_sleep(state.candidates, rows.id_B, measured_B, run.sleep)
    if isinstance(run.sleep.length, LossThreshold):
        state.recent.append(loss)
