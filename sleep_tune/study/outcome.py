"""A study's outcome: its ranking with final scores, read from the tables, and the sentence about what the seeds can tell apart.

How it is printed is `outcome_view.py`'s.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from sleep_tune.study.controls import controlled
from sleep_tune.study.ledger import BESIDE, read_ledger
from sleep_tune.study.statistics import (
    Estimate,
    Mode,
    Outcome,
    Ranked,
    Ranking,
    Stopped,
    against_baseline,
    estimate,
    paired_difference,
    rank,
)
from sleep_tune.words import show_words

LOSS_TASK = "dev_loss"
MOST_NAMED = 3  # configurations that are named rather than counted
_ONE_SEED = "With one seed each, no spread is known: this may be chance."
UNEQUAL = 1.02  # most words seen to least; a last batch may run over the budget


@dataclass(frozen=True)
class Entry:
    """A configuration: its schedule in words, seeds, the states of their trials, origin, task -> final score over seeds, mean words seen
    and seconds of a trial.
    """

    schedule: str
    seeds: tuple[int, ...]
    states: tuple[str, ...]
    origin: str
    scores: dict[str, Estimate]
    words_seen: float
    wall_s: float
    config: dict[str, Any]


@dataclass(frozen=True)
class StudyOutcome:
    metric: str
    mode: Mode
    ranking: Ranking
    entries: dict[str, Entry]  # configuration ->
    states: dict[str, int]  # state -> trials
    tasks: tuple[str, ...]  # that have final scores, dev_loss apart
    units: dict[str, str]  # task -> unit
    values: dict[str, np.ndarray] = field(repr=False)  # ranked configuration -> objective_S
    controls: dict[str, str] = field(default_factory=dict)  # configuration -> that of its matched control
    against_control: dict[str, Estimate] = field(default_factory=dict)  # ranked configuration -> difference to it, paired by seed

    def is_baseline(self, configuration: str) -> bool:
        """Whether it ran beside the search: a schedule of `always`, or a matched control."""
        return self.entries[configuration].origin in BESIDE

    def is_control(self, configuration: str) -> bool:
        return self.entries[configuration].origin == "matched"


def read_outcome(study_directory: Path) -> StudyOutcome:
    """The outcome that a study's ledger and tables tell. Raises UserError where there is no study."""
    ledger = read_ledger(study_directory)
    trials = pq.read_table(study_directory / "tables" / "trials.parquet").to_pylist()
    scores = pq.read_table(study_directory / "tables" / "scores.parquet", filters=[("final", "=", True)]).to_pylist()
    objective = {"metric": LOSS_TASK, "mode": "min", **ledger.spec.get("objective", {})}
    outcomes = [
        Outcome(t["configuration"], t["seed"], t["objective"] if t["state"] == "complete" else None, t["words_seen"]) for t in trials
    ]
    configs = {record.configuration: record.config for record in ledger.trials.values()}
    entries = _entries(trials, trial_scores(scores), configs)
    ranking = rank(outcomes, objective["mode"], ledger.spec.get("seeds", ()), _baseline(outcomes, entries, objective["mode"]))
    ranked = {row.configuration for row in ranking.ranked}
    controls = {pair: control for control, pair in controlled(ledger).items()}
    states: dict[str, int] = defaultdict(int)
    for trial in trials:
        states[trial["state"]] += 1
    return StudyOutcome(
        objective["metric"],
        objective["mode"],
        ranking,
        entries,
        dict(states),
        tuple(dict.fromkeys(row["task"] for row in scores if row["task"] != LOSS_TASK)),
        {row["task"]: row["unit"] for row in scores},
        {name: np.array([o.value for o in outcomes if o.configuration == name and o.value is not None]) for name in ranked},
        controls,
        _against_controls(outcomes, {pair: control for pair, control in controls.items() if {pair, control} <= ranked}),
    )


def _against_controls(outcomes: Sequence[Outcome], controls: dict[str, str]) -> dict[str, Estimate]:
    """Configuration -> difference to its matched control, paired by seed."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for outcome in outcomes:
        if outcome.value is not None:
            values[outcome.configuration][outcome.seed] = outcome.value
    differences = {pair: paired_difference(values[pair], values[control]) for pair, control in controls.items()}
    return {pair: difference for pair, difference in differences.items() if difference is not None}


def trial_scores(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """trial -> task -> mean over the task's UIDs, from score rows of one model each."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["score"] is not None:
            cells[row["trial"], row["task"]].append(row["score"])
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for (trial, task), values in cells.items():
        scores[trial][task] = sum(values) / len(values)
    return scores


def _entries(trials: Sequence[dict[str, Any]], scores: dict[str, dict[str, float]], configs: dict[str, dict[str, Any]]) -> dict[str, Entry]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial in trials:
        groups[trial["configuration"]].append(trial)
    entries = {}
    for name, group in groups.items():
        tasks = dict.fromkeys(task for trial in group for task in scores.get(trial["trial"], {}))
        found = {task: [scores[t["trial"]][task] for t in group if task in scores.get(t["trial"], {})] for task in tasks}
        entries[name] = Entry(
            group[0]["schedule"],
            tuple(trial["seed"] for trial in group),
            tuple(trial["state"] for trial in group),
            group[0]["origin"],
            {task: estimate(np.array(values)) for task, values in found.items()},
            float(np.mean([trial["words_seen"] for trial in group])),
            float(np.mean([trial["wall_s"] for trial in group])),
            configs[name],
        )
    return entries


def _baseline(outcomes: Sequence[Outcome], entries: dict[str, Entry], mode: Mode) -> str | None:
    """The configuration to compare with: plain epochs, else the best schedule that ran beside the search; None without a complete one."""
    beside = [name for name, entry in entries.items() if entry.origin == "always"]
    complete = [row.configuration for row in rank([o for o in outcomes if o.configuration in beside], mode).ranked]
    return next((name for name in complete if not entries[name].config.get("sleep")), complete[0] if complete else None)


def verdict(outcome: StudyOutcome) -> str:
    """A few sentences: the best searched schedule against the baseline and its matched control, and whether the seeds tell them apart."""
    searched = [row for row in outcome.ranking.ranked if not outcome.is_baseline(row.configuration)]
    if not searched:
        return "No searched schedule completed on all its seeds: nothing is ranked."
    best, baseline = searched[0], outcome.ranking.baseline
    label = outcome.entries[best.configuration].schedule
    tried = sum(not outcome.is_baseline(name) for name in outcome.entries)
    controlled = _controlled(outcome, best.configuration, tried)
    if baseline is None:
        nothing = " No baseline completed on all its seeds: there is nothing to compare it with."
        return f"Best schedule: {label}.{controlled or nothing}"
    groups = [outcome.values[row.configuration] for row in searched] + [outcome.values[baseline]]
    difference = against_baseline(outcome.values[best.configuration], outcome.values[baseline], groups, tried)
    many = f"best of {tried}, " if tried > 1 else ""
    how = f"({many}{best.objective.n} seeds, Dunnett)"
    if difference.mean < 0 if outcome.mode == "min" else difference.mean > 0:
        return f"{_beats(outcome, label, difference, how)}{_leader(outcome, best)}{controlled}"
    return f"{_beaten(outcome, label, difference, how)}{controlled}"


def _controlled(outcome: StudyOutcome, configuration: str, tried: int) -> str:
    """A sentence on a schedule against its matched control; empty where it has none."""
    difference = outcome.against_control.get(configuration)
    if difference is None:
        return " Its matched control did not complete on all seeds." if configuration in outcome.controls else ""
    against = f" Against its matched control (same words, samples and steps, no sleep): {difference.mean:+.3f}{_unit(outcome)}"
    if np.isnan(difference.low):
        return f"{against}, with one seed."
    low, high = (difference.low, difference.high) if outcome.mode == "min" else (-difference.high, -difference.low)
    told = "better" if high < 0 else "worse" if low > 0 else "not distinguishable from it with these seeds"
    picked = f", not corrected for picking the best of {tried}" if tried > 1 else ""
    how = f"({difference.n} seeds, paired{picked})"
    return f"{against}, 95 % interval [{difference.low:+.3f}, {difference.high:+.3f}] {how}: {told}."


def _beats(outcome: StudyOutcome, label: str, difference: Estimate, how: str) -> str:
    baseline, which = outcome.entries[outcome.ranking.baseline or ""].schedule, "Best schedule"
    if outcome.is_baseline(outcome.ranking.ranked[0].configuration):
        which = "Best searched schedule"
    against = f"{which}: {label}: against {baseline} {difference.mean:+.3f}{_unit(outcome)}"
    if np.isnan(difference.low):
        return f"{against}. {_ONE_SEED}"
    told = "better" if difference.high < 0 or difference.low > 0 else "not distinguishable from the baseline with these seeds"
    return f"{against}, 95 % interval [{difference.low:+.3f}, {difference.high:+.3f}] {how}: {told}."


def _beaten(outcome: StudyOutcome, label: str, difference: Estimate, how: str) -> str:
    """The difference is told as what the schedule is worse by, whichever way the objective points."""
    worse = sorted((difference.low, difference.high)) if outcome.mode == "min" else sorted((-difference.high, -difference.low))
    baseline = outcome.entries[outcome.ranking.baseline or ""].schedule
    nearest = f"No schedule beat {baseline}. The nearest, {label}, is {abs(difference.mean):.3f}{_unit(outcome)} worse"
    if np.isnan(difference.low):
        return f"{nearest}. {_ONE_SEED}"
    told = "" if worse[0] > 0 else ": not distinguishable from the baseline with these seeds"
    return f"{nearest}, 95 % interval [{worse[0]:+.3f}, {worse[1]:+.3f}] {how}{told}."


def _leader(outcome: StudyOutcome, best: Ranked) -> str:
    """A sentence on a schedule that ran beside the search and is better than all that was searched."""
    first = outcome.ranking.ranked[0]
    if not outcome.is_baseline(first.configuration):
        return ""
    ahead = abs(best.objective.mean - first.objective.mean)
    return f" {outcome.entries[first.configuration].schedule}, which ran beside the search, is {ahead:.3f}{_unit(outcome)} better still."


def _unit(outcome: StudyOutcome) -> str:
    return " nats" if outcome.metric == LOSS_TASK else ""


def unequal_line(outcome: StudyOutcome) -> str:
    """One line where what is ranked did not see equally many words; empty where it did."""
    words = [outcome.entries[row.configuration].words_seen for row in outcome.ranking.ranked]
    if not words or max(words) <= UNEQUAL * min(words):
        return ""
    return f"Not at equal words: what is ranked saw {show_words(min(words))} to {show_words(max(words))} words."


def stopped_line(outcome: StudyOutcome) -> str:
    """One line on the configurations that are not ranked, by name where they are few; empty where all are ranked."""
    stopped = outcome.ranking.stopped
    if not stopped:
        return ""
    if len(stopped) <= MOST_NAMED:
        named = [f"{outcome.entries[row.configuration].schedule} ({_end(outcome, [row])})" for row in stopped]
        return f"Not ranked: {'; '.join(named)}."
    some = sum(row.completed > 0 for row in stopped)
    also = f"; {some} of them completed on some of their seeds" if some else ""
    return f"{len(stopped)} configurations are not ranked ({_end(outcome, stopped)}){also}."


def _end(outcome: StudyOutcome, rows: Sequence[Stopped]) -> str:
    """How far configurations came that are not ranked: `stopped at about 4.5k words`."""
    parts, words = [], [seen for row in rows for seen in row.words_seen]
    if words:
        states = dict.fromkeys(state for row in rows for state in outcome.entries[row.configuration].states if state != "complete")
        low, high = show_words(min(words)), show_words(max(words))
        parts.append(f"{' or '.join(states)} at {f'about {high}' if low == high else f'{low} to {high}'} words")
    if len(rows) == 1 and rows[0].completed:
        parts.append(f"{rows[0].completed} of its seeds complete")
    return ", ".join(parts)
