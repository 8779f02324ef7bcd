"""What happens between wake and sleep: scoring what was read, choosing the replay buffer, planning the sleep; and, at waking, what the
sleep does to the network itself.
"""

import math
from typing import Any

import numpy as np
import torch

from sleep_tune.config import Fill, LossThreshold, RescoreShare
from sleep_tune.sleep import candidates as candidates_
from sleep_tune.sleep import freezing, homeostasis
from sleep_tune.sleep.context import sample_rows
from sleep_tune.sleep.criteria import CRITERIA
from sleep_tune.sleep.neighbours import need
from sleep_tune.sleep.schedule import buffer_size, fill_share, plan_sleep
from sleep_tune.streams import stream
from sleep_tune.training.models import losses
from sleep_tune.training.objectives import LabelledRows, label_rows
from sleep_tune.training.representations import representations
from sleep_tune.training.row_gradients import gains
from sleep_tune.training.run import Run, State, batches_of

CAUSAL_ROWS = 8  # of the fold, for the causal effect of a neuron


def fall_asleep(run: Run, state: State) -> None:
    """The end of a wake: score what it read, weigh the network, choose the replay buffer, plan the sleep's length."""
    if run.team is not None:
        run.team.check(run.network.flat)
    ids_F, measured_F = run.wake_ids(state.cycle), state.measured_F
    state.phase, state.row, state.sleep_began, state.recent = "sleep", 0, state.words_seen, []
    state.sleep_rows, state.sleep_words, state.buffer_k, state.carried = 0, None, np.empty(0, np.int64), 0
    state.measured_F = np.empty(0, np.float32)
    if not run.sleeps:
        return
    score_F = measured_F if run.sleep.rescore == "all" else scores(run, state, ids_F, measured_F)  # what is renewed at once is not formed
    candidates_.record_wake(state.candidates, ids_F, score_F, state.cycle, run.sleep)
    rescore(run, state)
    if not run.last_cycle(state.cycle):
        weigh(run, state, ids_F)
    wanted = buffer_size(run.sleep.replay_ratio, candidates_.candidate_ids(state.candidates, state.cycle, run.sleep).size)
    generator = stream(run.config.seed, "buffer", state.cycle)
    state.buffer_k = candidates_.choose(state.candidates, run.store.domain_N, state.cycle, run.sleep, generator)
    state.short_buffers += state.buffer_k.size < wanted
    state.carried = int((state.candidates.last_selected_N[state.buffer_k] == state.cycle).sum()) if state.cycle else 0
    candidates_.record_choice(state.candidates, state.buffer_k, state.cycle)
    state.exposed_k = state.exposures_N[state.buffer_k]
    if state.buffer_k.size:
        plan(run, state, ids_F.size)


def plan(run: Run, state: State, wake_rows: int) -> None:
    """How long the sleep is that begins here."""
    fill = None
    if isinstance(run.sleep.length, Fill):
        left = (run.cycles or state.cycle + 1) - state.cycle
        fill = fill_share(run.config.budget_words, state.words_seen, run.words_of_wakes_after(state.cycle), left)
    planned = plan_sleep(run.sleep.length, wake_rows, run.stream_of(state).pass_rows, run.config.training.batch_rows, fill)
    state.sleep_rows, state.sleep_words = planned.rows, planned.words
    if planned.rows is None and not run.store.words_N[state.buffer_k].any():
        state.sleep_rows = 0  # measured in words, a sleep on a buffer without any would never end


def scores(run: Run, state: State, ids_n: np.ndarray, measured_n: np.ndarray) -> np.ndarray:
    """Scores (n,) of samples by the criterion, from what their rows showed: losses, or gains."""
    seen = {"loss": measured_n, "gain": measured_n}
    if "need" in run.measures:
        seen["need"] = run.once(lambda: nearness(run, state, ids_n))
    return CRITERIA[run.sleep.criterion.name](*(seen[name] for name in run.measures), **run.criterion_parameters)


def nearness(run: Run, state: State, ids_n: np.ndarray) -> np.ndarray:
    """Mean cosine (n,) of samples with their k nearest others, among those just read, or among all that were ever read."""
    told: dict[str, Any] = run.criterion_parameters
    among_N = state.candidates.last_wake_N > 0 if told["among"] == "seen" else np.zeros(run.store.samples, np.bool_)
    among_N[run.wake_ids(state.cycle)] = True
    pool_m = np.flatnonzero(among_N)
    needed_a = np.union1d(pool_m, ids_n)
    layers = told["layers"] or max(1, run.network.layers // 2)
    states_aD = representations(run.network, run.store, needed_a, layers, 4 * run.config.training.batch_rows)
    query_nD, pool_mD = (states_aD[np.searchsorted(needed_a, ids)] for ids in (ids_n, pool_m))
    return need(query_nD, ids_n, pool_mD, pool_m, told["k"], run.config.seed)


def rescore(run: Run, state: State) -> None:
    """Fresh scores for the candidates, or a share of them, under the present weights; masks from their own stream."""
    if run.sleep.rescore == "none":
        return
    generator = stream(run.config.seed, "rescore", state.cycle)
    ids_n = candidates_.candidate_ids(state.candidates, state.cycle, run.sleep)
    if isinstance(run.sleep.rescore, RescoreShare):
        ids_n = np.sort(generator.choice(ids_n, math.ceil(run.sleep.rescore.share * ids_n.size), replace=False))
    parts = [measured(run, labelled(run, state, ids_B, generator)) for ids_B in batches_of(ids_n, 4 * run.config.training.batch_rows)]
    candidates_.record_rescored(state.candidates, ids_n, scores(run, state, ids_n, np.concatenate(parts)))


def measured(run: Run, batch: LabelledRows) -> np.ndarray:
    """(B,) gains or losses of rows in evaluation mode, as the criterion asks."""

    def of(rows: LabelledRows) -> torch.Tensor:
        if "gain" in run.measures:
            return gains(run.network, rows)
        with torch.inference_mode():
            return losses(run.network, rows)[1]

    return (of(batch) if run.team is None else run.team.measure(batch, of)).cpu().numpy()


def labelled(run: Run, state: State, ids_B: np.ndarray, generator: np.random.Generator) -> LabelledRows:
    """Samples as labelled rows, masks from `generator`."""
    rows = sample_rows(run.store, ids_B)
    return label_rows(rows, run.config, run.progress(state), run.store.vocab_size, generator, run.device)


def weigh(run: Run, state: State, ids_F: np.ndarray) -> None:
    """The importance of every weight, by which the waking will shrink them."""
    rule = run.sleep.homeostasis
    if rule is None:
        return
    generator = stream(run.config.seed, "homeostasis", state.cycle)
    gradient_P = None
    if rule.importance in ("taylor_signed", "taylor_abs"):
        ids_n = np.sort(generator.choice(ids_F, min(rule.score_samples, ids_F.size), replace=False))
        batches = [labelled(run, state, ids_B, generator) for ids_B in batches_of(ids_n, run.config.training.batch_rows)]
        gradient_P = run.once(lambda: homeostasis.mean_gradient(run.network, batches))
    fisher_P = state.importance_P / max(1, state.importance_rows) if rule.importance == "fisher" else None
    state.importance_P = homeostasis.importance(rule, run.network, fisher_P, gradient_P, generator)
    state.importance_rows = 0


def wake_up(run: Run, state: State) -> None:
    """The end of a sleep. Where another cycle follows, neurons freeze and weights shrink; decay follows from the new cycle's number."""
    if run.on_cycle is not None:
        run.on_cycle(state)
    if run.sleeps and run.wakes_again(state):
        freeze(run, state)
        shrink(run, state)
    state.cycle, state.phase, state.row, state.carried = state.cycle + 1, "wake", 0, 0
    state.sleep_rows, state.sleep_words, state.recent = None, None, []
    state.buffer_k, state.exposed_k = np.empty(0, np.int64), np.empty(0, np.uint32)
    state.measured_F = run.nothing_measured(state.cycle)


def freeze(run: Run, state: State) -> None:
    """A few more neurons stop to train."""
    rule = run.sleep.freezing
    if rule is None or state.words_seen < rule.warmup * run.config.budget_words:
        return
    generator = stream(run.config.seed, "freeze", state.cycle)
    effect_U = None
    if rule.choice == "causal":
        ids_F = run.wake_ids(state.cycle)
        ids_B = np.sort(generator.choice(ids_F, min(CAUSAL_ROWS, ids_F.size), replace=False))
        rows = labelled(run, state, ids_B, generator)
        effect_U = run.once(lambda: freezing.causal_scores(run.network, rule, rows))
    state.frozen_U = freezing.freeze(run.network, rule, state.frozen_U, generator, effect_U)


def shrink(run: Run, state: State) -> None:
    """Weights of low importance shrink."""
    rule = run.sleep.homeostasis
    if rule is None:
        return
    hold = run.hold(state)
    frozen_P = None if hold is None else hold.weights()
    state.shrunk = homeostasis.shrink(run.network, run.optimizer, rule, state.importance_P, frozen_P)
    state.importance_P = torch.zeros_like(state.importance_P)


def slept_enough(run: Run, state: State) -> bool:
    """Has a loss threshold ended this sleep?"""
    if not isinstance(run.sleep.length, LossThreshold):
        return False
    rule = run.sleep.length.loss_threshold
    return len(state.recent) >= max(rule.min_steps, rule.window) and float(np.mean(state.recent[-rule.window :])) < rule.value
