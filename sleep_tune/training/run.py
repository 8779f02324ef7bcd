"""A run: a config and its corpus made ready to train, and the state that changes.

A run is a pure function of (config, state): every number is drawn from keyed streams, so a state that was saved and loaded goes on to
the same weights. State, by field:

| field | type | is |
|---|---|---|
| cycle, row, step, words_seen | int | cycle from 0, rows done in this phase, optimizer steps, words of all exposures |
| phase | wake, sleep | |
| measured_F | float32 (F,) | what this wake has measured of its rows so far, in reading order: loss, or gain |
| sleep_rows, sleep_words | int or None | limits of the present sleep, from its beginning |
| sleep_began | int | words_seen at its beginning |
| recent | list of float | last batch losses of the present sleep, for a loss threshold |
| carried | int | samples of the replay buffer that were in the last one, too |
| shrunk | int | weights that shrank at the last waking |
| short_buffers | int | cycles in which fewer than k candidates were eligible |
| over, diverged | bool | nothing is left to train; a loss was not finite |
| candidates | 14 bytes a sample | `sleep.candidates` |
| buffer_k | int64 (k,) | the replay buffer, empty when awake |
| exposed_k | uint32 (k,) | exposures of the buffer's samples before this sleep |
| exposures_N | uint32 (N,) | times a sample (its first token) was trained on, wake and sleep |
| importance_P | float32 (P,) or empty | awake: sums of squared gradients, for Fisher information; asleep: what the waking will shrink by |
| importance_rows | int | rows in these sums |
| frozen_U | bool (U,) or empty | units of the freezable maps that no longer train |
| network.flat, optimizer | float32 (P,), AdamW | weights, moments |
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from sleep_tune.choices import resolved
from sleep_tune.config import Config
from sleep_tune.sleep.candidates import Candidates
from sleep_tune.sleep.context import Corpus, sleep_stream
from sleep_tune.sleep.criteria import CRITERIA, measures
from sleep_tune.sleep.freezing import Hold, freezable_units
from sleep_tune.sleep.homeostasis import fisher_steps
from sleep_tune.sleep.matched import MatchedPlan, MatchedRows
from sleep_tune.sleep.schedule import as_sleep, cut_folds, total_cycles, wake_order
from sleep_tune.training.models import new_network
from sleep_tune.training.optimizer import new_optimizer

if TYPE_CHECKING:
    from sleep_tune.training.parallel import Team

T = TypeVar("T")


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
    carried: int = 0
    shrunk: int = 0
    short_buffers: int = 0
    over: bool = False
    diverged: bool = False
    measured_F: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    buffer_k: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    exposed_k: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint32))
    importance_P: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    importance_rows: int = 0
    frozen_U: np.ndarray = field(default_factory=lambda: np.empty(0, np.bool_))


class Run:
    """What of a run does not change, the network, and the optimizer. `matched`: the trial that plain epochs are the control of."""

    def __init__(self, config: Config, store: Corpus, device: torch.device, matched: MatchedPlan | None = None):
        self.config, self.store, self.device = config, store, device
        self.sleep = as_sleep(config.sleep, config.epochs)
        self.sleeps = config.sleep is not None
        self.cycles = total_cycles(self.sleep)
        self.folds = cut_folds(store.samples, self.sleep, store.domain_N, config.seed)
        self.matched = None if matched is None else MatchedRows(matched, store.words_N, config.seed)
        self.measures = measures(self.sleep.criterion.name) if self.sleeps else ()
        self.criterion_parameters = resolved(self.sleep.criterion, CRITERIA)
        self.network = new_network(config.model, store.vocab_size, config.seed, config.training, device)
        self.optimizer = new_optimizer(self.network, config.optimizer)
        self.on_cycle: Callable[[State], None] | None = None  # told of each cycle when its sleep is over, before anything changes at waking
        self.team: Team | None = None  # the workers that train this run together, set before its first step; None: this process alone
        self._kept: dict[str, tuple[Any, Any]] = {}

    def new_state(self) -> State:
        samples = self.store.samples
        state = State(Candidates.none_yet(samples), np.zeros(samples, np.uint32), measured_F=self.nothing_measured(0))
        if self.sleep.homeostasis is not None:
            state.importance_P = torch.zeros_like(self.network.flat.detach())
        if self.sleep.freezing is not None:
            state.frozen_U = np.zeros(freezable_units(self.network, self.sleep.freezing), np.bool_)
        return state

    def nothing_measured(self, cycle: int) -> np.ndarray:
        """Zeros (F,) for what the wake of `cycle` will measure; none where nobody asks."""
        return np.zeros(self.wake_ids(cycle).size if self.sleeps else 0, np.float32)

    def progress(self, state: State, words: int = 0) -> float:
        """Share of the budget that is seen in the middle of a step of `words`."""
        return (2 * state.words_seen + words) / (2 * self.config.budget_words)

    def wake_ids(self, cycle: int) -> np.ndarray:
        """Ids of the wake of `cycle` in reading order."""
        return self._keep("wake", cycle, lambda: self._wake_order(cycle))

    def _wake_order(self, cycle: int) -> np.ndarray:
        return wake_order(self.folds.of(cycle), cycle, self.sleep, self.config.training.batch_rows, self.config.seed)

    def stream_of(self, state: State) -> Any:
        """The rows of the present sleep."""
        return self._keep(
            "sleep", state.cycle, lambda: sleep_stream(self.store, state.buffer_k, self.config.seed, state.cycle, self.sleep.context)
        )

    def last_cycle(self, cycle: int) -> bool:
        """Does the schedule end with `cycle`?"""
        return self.cycles is not None and cycle + 1 >= self.cycles

    def wakes_again(self, state: State) -> bool:
        """Does another wake follow: is there one, and does the budget hold its first row?"""
        if self.last_cycle(state.cycle):
            return False
        first = self._wake_order(state.cycle + 1)[0]
        return int(self.store.words_N[first]) <= self.config.budget_words - state.words_seen

    def fisher_step(self, state: State) -> bool:
        """Is the wake's present batch one of those that Fisher information is summed on?"""
        rule = self.sleep.homeostasis
        if state.phase != "wake" or rule is None or rule.importance != "fisher" or self.last_cycle(state.cycle):
            return False
        size = self.config.training.batch_rows
        batches = -(-len(self.wake_ids(state.cycle)) // size)
        return bool(self._keep("fisher", batches, lambda: fisher_steps(batches, rule.fisher_batches))[state.row // size])

    def hold(self, state: State) -> Hold | None:
        """What keeps frozen units as they are; None where none is frozen."""
        rule = self.sleep.freezing
        if rule is None or not state.frozen_U.any():
            return None
        return self._keep("hold", int(state.frozen_U.sum()), lambda: Hold(self.network, self.optimizer, rule, state.frozen_U))

    def once(self, make: Callable[[], T]) -> T:
        """The value of `make`; on several workers the first one's."""
        return make() if self.team is None else self.team.once(make)

    def _keep(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        """The value of `make`, a function of the state, made anew only when `key` changes."""
        if what not in self._kept or self._kept[what][0] != key:
            self._kept[what] = (key, make())
        return self._kept[what][1]

    def words_of_wakes_after(self, cycle: int) -> int:
        """Words of the wakes that follow `cycle`, in a run of a known number of cycles."""
        return sum(int(self.store.words_N[self._wake_order(later)].sum()) for later in range(cycle + 1, self.cycles or 0))


def computing_device(config: Config) -> torch.device:
    """Where a run of `config` is computed in this process, torch made as deterministic there as it asks."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic, read at its first call
    # oneDNN keeps the code of 1024 products, 2 MB each, and every batch has another number of labels: bf16 runs would grow by a gigabyte
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    torch.use_deterministic_algorithms(config.training.determinism == "strict")
    return torch.device("cuda" if config.resources.gpus and torch.cuda.is_available() else "cpu")


def batches_of(ids_n: np.ndarray, size: int) -> Sequence[np.ndarray]:
    """`ids_n` in runs of `size`, the last one shorter."""
    return [ids_n[start : start + size] for start in range(0, ids_n.size, size)]
