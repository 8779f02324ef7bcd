"""`python -m sleep_tune.calibrate`: how fast trials of one shape are on this machine, from a few seconds of one, without training it.

Reads a pickled `Asked` from its input and writes a line of JSON. A real trial is opened in a scratch directory; a few steps awake and
asleep, one evaluation, one checkpoint and one batch length of the final scoring are timed, and what a whole trial has of each is put
together by `sleep.schedule`. `study.calibration` starts it.
"""

import json
import pickle
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sleep_tune.config import Config, RescoreShare, Steps
from sleep_tune.sleep.schedule import as_sleep, phases
from sleep_tune.study.calibration import Asked
from sleep_tune.training.sizes import OPEN_WEIGHT_BYTES, RAY_BYTES

if TYPE_CHECKING:
    from sleep_tune.evaluation.plan import Plan
    from sleep_tune.trial import Trial

STEPS_S, LEAST_STEPS, MOST_STEPS_S = 3.0, 3, 20.0  # of training that are timed; steps awake and asleep; more seconds only for those
SCORING_S = 1.0
PHASE_STEPS = 3  # of a wake and of a sleep here


@dataclass
class Pace:
    """Seconds a word awake and asleep, and a change of phase."""

    wake_s: float
    sleep_s: float
    night_s: float


def measured(asked: Asked) -> dict[str, float]:
    """words_per_s, overhead_s and rss_bytes, as a trial that ran to its end would tell them; base_bytes: its process less its weights."""
    import torch

    from sleep_tune.training.meters import peak_bytes, present_bytes
    from sleep_tune.trial import Trial

    torch.set_num_threads(asked.config.resources.threads)
    with tempfile.TemporaryDirectory(prefix="sleep-tune-calibrate-") as folder:
        began = time.perf_counter()
        trial = Trial(short(asked.config), asked.prepared, Path(folder), asked.milestones)
        opened_s = time.perf_counter() - began
        base_bytes = present_bytes() - OPEN_WEIGHT_BYTES * trial.run.network.flat.numel()
        pace = steps_timed(trial)
        began = time.perf_counter()
        trial.probe.loss(trial.run.network)
        trial.save()
        milestone_s = time.perf_counter() - began
        scoring_s, way_s = scoring_timed(trial, asked)
        trial.close()
    training_s = training_seconds(asked, pace) + milestone_s * len(asked.milestones) + way_s
    memory = {"rss_bytes": peak_bytes() + RAY_BYTES, "base_bytes": base_bytes + RAY_BYTES}
    return {"words_per_s": words_of(asked) / training_s, "overhead_s": opened_s + scoring_s, **memory}


def short(config: Config) -> Config:
    """`config` with phases of a few steps."""
    if config.sleep is None:
        return config
    changed = {"max_wake_steps": PHASE_STEPS, "length": Steps(steps=PHASE_STEPS), "rescore": "none", "passes": "auto"}
    return config.model_copy(update={"sleep": config.sleep.model_copy(update=changed)})


def steps_timed(trial: "Trial") -> Pace:
    """Train; the first steps of each kind, which set libraries up, are not timed."""
    from sleep_tune.training.loop import advance

    seconds, words, steps, nights = {"wake": 0.0, "sleep": 0.0}, {"wake": 0, "sleep": 0}, {"wake": -2, "sleep": -2}, [0.0, 0]
    kinds = ("wake", "sleep") if trial.config.sleep is not None else ("wake",)
    before, began, last, phase = 0, time.perf_counter(), time.perf_counter(), "wake"
    for record in advance(trial.run, trial.state, trial.config.budget_words):
        now = time.perf_counter()
        took, changed = now - last, record.phase != phase
        if steps[record.phase] >= 0:
            seconds[record.phase] += record.wall_s if changed else took
            words[record.phase] += record.words_seen - before
            nights = [nights[0] + took - record.wall_s, nights[1] + 1] if changed else nights
        steps[record.phase] += 1
        before, last, phase = record.words_seen, now, record.phase
        enough = all(steps[kind] >= LEAST_STEPS for kind in kinds)
        if (enough and now - began > STEPS_S) or (now - began > MOST_STEPS_S and min(steps[kind] for kind in kinds) > 0):
            break
    wake_s = seconds["wake"] / max(1, words["wake"])
    return Pace(wake_s, seconds["sleep"] / words["sleep"] if words["sleep"] else wake_s, nights[0] / max(1, nights[1]))


def training_seconds(asked: Asked, pace: Pace) -> float:
    """Of all steps of a trial, and what lies between its phases."""
    config = asked.config
    sleep = as_sleep(config.sleep, config.epochs)
    total = rescored = 0.0
    share = sleep.rescore.share if isinstance(sleep.rescore, RescoreShare) else float(sleep.rescore == "all")
    fold = asked.size.words / sleep.folds
    for phase in phases(sleep, asked.size, config.training.batch_rows, config.budget_words):
        total += phase.words * (pace.sleep_s if phase.kind == "sleep" else pace.wake_s)
        if phase.kind == "sleep":
            total += 2 * pace.night_s
            rescored += share * (fold if sleep.candidates == "fold" else min(asked.size.words, (phase.cycle + 1) * fold))
    total += rescored * pace.wake_s / 3  # forwards
    return total * (1 + (config.evaluation.retention or 0.0) / 2 if config.sleep is not None else 1.0)


def words_of(asked: Asked) -> float:
    """Words that a trial sees, which is its budget unless its schedule ends before."""
    config = asked.config
    sleep = as_sleep(config.sleep, config.epochs)
    return sum(phase.words for phase in phases(sleep, asked.size, config.training.batch_rows, config.budget_words))


def scoring_timed(trial: "Trial", asked: Asked) -> tuple[float, float]:
    """Seconds of the final scores, their preparation included, and of those on the way."""
    began = time.perf_counter()
    way = trial.scorer.way(asked.milestones, trial.tokens_per_word)
    on_the_way = sum(plan.n_tokens for _, plan in way.plans) * len(way.milestones)
    final, longest = 0, way.plans[0][1] if way.plans else None
    for _, made in trial.scorer.finals():
        plan = made()
        final += plan.n_tokens
        longest = plan if longest is None or plan.n_tokens > longest.n_tokens else longest
    prepared_s = time.perf_counter() - began
    if longest is None:
        return prepared_s, 0.0
    token_s = seconds_a_token(trial, longest)
    return prepared_s + token_s * final, token_s * on_the_way


def seconds_a_token(trial: "Trial", plan: "Plan") -> float:
    """Of rows of the plan's typical length: that below which half of its tokens lie."""
    import numpy as np

    from sleep_tune.evaluation.likelihood import score_candidates

    sizes = np.cumsum([len(bucket.row_sequence_R) * bucket.length for bucket in plan.buckets])
    typical = plan.buckets[int(np.searchsorted(sizes, sizes[-1] / 2))]
    marks: list[tuple[float, int]] = []

    class Enough(Exception):
        pass

    def progress(done: int, of: int) -> None:
        marks.append((time.perf_counter(), done))
        if marks[-1][0] - marks[0][0] > SCORING_S:
            raise Enough

    began = time.perf_counter()
    with suppress(Enough):
        score_candidates(trial.run.network.model, replace(plan, buckets=(typical,)), progress)
    (first, before), (last, after) = marks[0], marks[-1]
    if after > before and last > first:  # the first batch sets libraries up
        return (last - first) / ((after - before) * typical.length)
    return (last - began) / (max(1, after) * typical.length)


def main() -> None:
    """Answer what the input asks."""
    asked: Asked = pickle.load(sys.stdin.buffer)
    print(json.dumps(measured(asked)))


if __name__ == "__main__":
    main()
