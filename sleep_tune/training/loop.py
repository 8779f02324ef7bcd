"""The training loop, the only one: wake, fall asleep, sleep, wake up, in the order of the method; plain epochs are wakes without sleeps.

A run is a pure function of (config, state): `advance` draws every number from keyed streams, so a state that was saved and loaded goes
on to the same weights. State, by field:

| field | type | is |
|---|---|---|
| cycle, row, step, words_seen | int | cycle from 0, rows done in this phase, optimizer steps, words of all exposures |
| phase | wake, sleep | |
| sleep_rows, sleep_words | int or None | limits of the present sleep, from its beginning |
| sleep_began | int | words_seen at its beginning |
| recent | list of float | last batch losses of the present sleep, for a loss threshold |
| short_buffers | int | cycles in which fewer than k candidates were eligible |
| over, diverged | bool | nothing is left to train; a loss was not finite |
| candidates | 14 bytes a sample | `sleep.candidates` |
| buffer_k | int64 (k,) | the replay buffer, empty when awake |
| exposures_N | uint32 (N,) | times a sample (its first token) was trained on, wake and sleep |
| network.flat, optimizer | float32 (P,), AdamW | weights, moments |
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sleep_tune.config import Config, Fill, LossThreshold, RescoreShare
from sleep_tune.sleep import candidates as candidates_
from sleep_tune.sleep.candidates import Candidates
from sleep_tune.sleep.context import Corpus, Rows, sample_rows, sleep_stream
from sleep_tune.sleep.criteria import CRITERIA
from sleep_tune.sleep.schedule import as_sleep, buffer_size, cut_folds, fill_share, plan_sleep, total_cycles, wake_order
from sleep_tune.streams import stream, torch_seed
from sleep_tune.training.models import Network, losses, new_model
from sleep_tune.training.objectives import mask_rows
from sleep_tune.training.optimizer import clip, learning_rate, new_optimizer


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


@dataclass
class State:
    candidates: Candidates
    exposures_N: np.ndarray
    cycle: int = 0
    phase: str = "wake"
    row: int = 0
    step: int = 0
    words_seen: int = 0
    sleep_rows: int | None = None
    sleep_words: int | None = None
    sleep_began: int = 0
    recent: list[float] = field(default_factory=list)
    short_buffers: int = 0
    over: bool = False
    diverged: bool = False
    buffer_k: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


class Run:
    """A config and its corpus made ready to train: what does not change, the network, and the optimizer."""

    def __init__(self, config: Config, store: Corpus, device: torch.device):
        self.config, self.store, self.device = config, store, device
        self.sleep = as_sleep(config.sleep, config.epochs)
        self.records_scores = config.sleep is not None
        self.cycles = total_cycles(self.sleep)
        self.folds = cut_folds(store.samples, self.sleep, store.domain_N, config.seed)
        self.network = Network(new_model(config.model, store.vocab_size, config.seed), config.training, device)
        self.optimizer = new_optimizer(self.network, config.optimizer)
        self._kept: tuple[Any, Any] = (None, None)  # the wake order or sleep stream in use: a function of the state, kept for speed

    def new_state(self) -> State:
        return State(Candidates.none_yet(self.store.samples), np.zeros(self.store.samples, np.uint32))

    def wake_ids(self, cycle: int) -> np.ndarray:
        """Ids of the wake of `cycle` in reading order."""
        return self._keep(("wake", cycle), lambda: self._wake_order(cycle))

    def _wake_order(self, cycle: int) -> np.ndarray:
        return wake_order(self.folds.of(cycle), cycle, self.sleep, self.config.training.batch_rows, self.config.seed)

    def stream_of(self, state: State) -> Any:
        """The rows of the present sleep."""
        return self._keep(
            ("sleep", state.cycle), lambda: sleep_stream(self.store, state.buffer_k, self.config.seed, state.cycle, self.sleep.context)
        )

    def _keep(self, key: Any, make: Any) -> Any:
        if self._kept[0] != key:
            self._kept = (key, make())
        return self._kept[1]

    def words_of_wakes_after(self, cycle: int) -> int:
        """Words of the wakes that follow `cycle`, in a run of a known number of cycles."""
        return sum(int(self.store.words_N[self._wake_order(later)].sum()) for later in range(cycle + 1, self.cycles or 0))


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
    batch = mask_rows(rows, config.masking, run.store.vocab_size, generator, run.device)
    if config.model.dropout:
        torch.manual_seed(torch_seed(config.seed, "dropout", state.step))
    run.network.flat.grad.zero_()  # type: ignore[union-attr]
    loss, loss_B = losses(run.network, batch, training=True)
    if not math.isfinite(value := float(loss.detach())):
        state.over = state.diverged = True
        return None
    loss.backward()
    norm = clip(run.network.flat.grad, config.optimizer.clip)  # type: ignore[arg-type]
    lr = learning_rate(config.optimizer, state.words_seen, state.words_seen + words, config.budget_words)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    note(run, state, rows, loss_B.cpu().numpy(), value)
    state.step, state.row, state.words_seen = state.step + 1, state.row + len(rows.words_B), state.words_seen + words
    return StepRecord(
        state.step, state.cycle, state.phase, state.words_seen, value, lr, norm, int(rows.length_B.sum()), time.perf_counter() - started
    )


def note(run: Run, state: State, rows: Rows, loss_B: np.ndarray, loss: float) -> None:
    """What the step showed: exposures, and the scores of the rows that are samples."""
    if state.phase == "wake":
        state.exposures_N[rows.id_B] += 1
        if run.records_scores:
            score_B = CRITERIA[run.sleep.criterion.name](loss_B, **run.sleep.criterion.parameters)
            candidates_.record_wake(state.candidates, rows.id_B, score_B, state.cycle, run.sleep)  # type: ignore[arg-type]
        return
    np.add.at(state.exposures_N, run.stream_of(state).exposed(state.row, len(rows.words_B)), 1)  # a batch may span passes: an id twice
    if run.sleep.update_in_sleep and rows.id_B is not None:
        score_B = CRITERIA[run.sleep.criterion.name](loss_B, **run.sleep.criterion.parameters)
        candidates_.record_sleep(state.candidates, rows.id_B, score_B, run.sleep)
    if isinstance(run.sleep.length, LossThreshold):
        state.recent.append(loss)


def fall_asleep(run: Run, state: State) -> None:
    """The end of a wake: rescore the candidates, choose the replay buffer, plan the sleep's length."""
    state.phase, state.row, state.sleep_began, state.recent = "sleep", 0, state.words_seen, []
    state.sleep_rows, state.sleep_words, state.buffer_k = 0, None, np.empty(0, np.int64)
    if not run.records_scores:
        return
    rescore(run, state)
    generator = stream(run.config.seed, "buffer", state.cycle)
    state.buffer_k = candidates_.choose(state.candidates, run.store.domain_N, state.cycle, run.sleep, generator)
    wanted = buffer_size(run.sleep.replay_ratio, candidates_.candidate_ids(state.candidates, state.cycle, run.sleep).size)
    state.short_buffers += state.buffer_k.size < wanted
    candidates_.record_choice(state.candidates, state.buffer_k, state.cycle)
    if not state.buffer_k.size:
        return
    fill = None
    if isinstance(run.sleep.length, Fill):
        left = (run.cycles or state.cycle + 1) - state.cycle
        fill = fill_share(run.config.budget_words, state.words_seen, run.words_of_wakes_after(state.cycle), left)
    plan = plan_sleep(
        run.sleep.length, run.wake_ids(state.cycle).size, run.stream_of(state).pass_rows, run.config.training.batch_rows, fill
    )
    state.sleep_rows, state.sleep_words = plan.rows, plan.words
    if plan.rows is None and not run.store.words_N[state.buffer_k].any():
        state.sleep_rows = 0  # measured in words, a sleep on a buffer without any would never end


def rescore(run: Run, state: State) -> None:
    """Fresh scores for the candidates, or a share of them, under the present weights; masks from their own stream."""
    if run.sleep.rescore == "none":
        return
    generator = stream(run.config.seed, "rescore", state.cycle)
    ids_n = candidates_.candidate_ids(state.candidates, state.cycle, run.sleep)
    if isinstance(run.sleep.rescore, RescoreShare):
        ids_n = np.sort(generator.choice(ids_n, math.ceil(run.sleep.rescore.share * ids_n.size), replace=False))
    for start in range(0, ids_n.size, 4 * run.config.training.batch_rows):
        ids_B = ids_n[start : start + 4 * run.config.training.batch_rows]
        batch = mask_rows(sample_rows(run.store, ids_B), run.config.masking, run.store.vocab_size, generator, run.device)
        with torch.inference_mode():
            loss_B = losses(run.network, batch, training=False)[1].cpu().numpy()
        candidates_.record_rescored(state.candidates, ids_B, CRITERIA[run.sleep.criterion.name](loss_B, **run.sleep.criterion.parameters))


def slept_enough(run: Run, state: State) -> bool:
    """Has a loss threshold ended this sleep?"""
    if not isinstance(run.sleep.length, LossThreshold):
        return False
    rule = run.sleep.length.loss_threshold
    return len(state.recent) >= max(rule.min_steps, rule.window) and float(np.mean(state.recent[-rule.window :])) < rule.value


def wake_up(run: Run, state: State) -> None:
    """The end of a sleep: the buffer is dropped; decay factors follow from the new cycle's number."""
    state.cycle, state.phase, state.row = state.cycle + 1, "wake", 0
    state.sleep_rows, state.sleep_words, state.recent, state.buffer_k = None, None, [], np.empty(0, np.int64)
