"""From candidate scores to the numbers people read: one row a UID, task scores with standard errors, groups of the official report."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.rules import RULES, Decisions, decide, margin, probability_of_first
from sleep_tune.evaluation.tasks import TASKS, TaskItems, uid_key
from sleep_tune.streams import stream


@dataclass(frozen=True)
class ScoreRow:
    """One line of the table of scores: a UID of a task."""

    task: str
    uid: str
    n: int
    score: float  # in `unit`
    unit: str  # percent | rho
    stderr: float  # of `score`, over items; the most it can be (50; 1 of a correlation) where items are too few to tell
    ties: int
    nans: int
    rules: str
    backend: str


@dataclass(frozen=True)
class CandidateScores:
    """What a model made of a plan: one number a candidate, and what it rests on."""

    score: Array  # (candidates,) float32: sum of log-probabilities, nats; NaN where the sentence is longer than the model's positions
    too_long: Array  # (candidates,) bool
    positions: int | None  # tokens of the longest row the model can take; None: no limit
    sees_ahead: bool = False  # scored from left to right, but what a token is given depends on what comes behind it
    unknown: Array | None = None  # (candidates,) bool: the tokenizer has no token for something in it; None: no candidate
    beyond: Array | None = None  # (candidates,) bool: longer than what the model says it was made for; None: no candidate
    declared: int | None = None  # tokens of a row that the model says it was made for

    def texts(self, candidate_IC: Array, valid_IC: Array) -> "Texts":
        """What is odd about the texts of items, given their candidates (I, C) and which of these there are."""

        def of_items(flag_C: Array | None) -> Array:
            return np.zeros(len(candidate_IC), bool) if flag_C is None else np.asarray((flag_C[candidate_IC] & valid_IC).any(1))

        return Texts(of_items(self.unknown), of_items(self.beyond), self.declared)


@dataclass(frozen=True)
class Texts:
    """What is odd about the texts of I items."""

    unknown_I: Array  # the tokenizer has no token for something in it
    beyond_I: Array  # longer than `declared`, and scored all the same
    declared: int | None

    def notes(self, items: TaskItems) -> list[str]:
        """What the reader of the scores has to know, a line each."""
        where = {
            "hold what the tokenizer has no token for": self.unknown_I,
            f"are longer than the {self.declared} positions that the model says it was made for": self.beyond_I,
        }
        return [
            f"{items.task}: {flag_I.sum():,} of {len(flag_I):,} items {what} (first: {first.uid}_{first.index})"
            for what, flag_I in where.items()
            for first in [items.items[i] for i in np.flatnonzero(flag_I)[:1]]
        ]


@dataclass(frozen=True)
class TaskResult:
    """What a model did on a task, item by item. I items, C candidates."""

    items: TaskItems
    backend: str
    scores_IC: Array  # float32, nats; padded with -inf
    valid_IC: Array
    too_long_I: Array  # a candidate is longer than the model's positions: its score is NaN
    decisions: Decisions
    positions: int | None
    sees_ahead: bool
    texts: Texts | None = None

    @property
    def margin_I(self) -> Array:
        """Score of the right candidate less the best other one, nats."""
        return margin(self.scores_IC, self.valid_IC)

    @property
    def probability_I(self) -> Array:
        """softmax probability of candidate 0."""
        return probability_of_first(self.scores_IC, self.valid_IC)

    @property
    def rows(self) -> list[ScoreRow]:
        """One row a UID, in the order of the files."""
        return [self._row(uid, chosen) for uid, chosen in _groups(self.items, "UID").items()]

    def groups(self) -> dict[str, dict[str, float]]:
        """Scores by metadata key and value, as the official report lists them."""
        if TASKS[self.items.task].aggregate == "correlation":
            return {"UID": {"avg": _rho(self)}}
        keys = list(self.items.items[0].metadata) if self.items.items else []
        tables = {key: {value: _percent(self, chosen) for value, chosen in _groups(self.items, key).items()} for key in keys}
        if TASKS[self.items.task].aggregate == "splits":
            tables["UID"] |= split_means(tables["UID"])
        return tables

    def notes(self) -> list[str]:
        """What the reader of the scores has to know, a line each."""
        notes, long = [], np.flatnonzero(self.too_long_I)
        if len(long):
            first = self.items.items[long[0]]
            notes.append(
                f"{self.items.task}: {len(long)} of {len(self.items.items)} items are longer than the model's {self.positions} positions "
                f"(first: {first.uid}_{first.index}); as NaN they count as {_NAN[self.items.rules]} under rules {self.items.rules}"
            )
        if self.sees_ahead:
            notes.append(f"{self.items.task}: scored from left to right by a model that sees the tokens it is to predict: no probabilities")
        return notes + (self.texts.notes(self.items) if self.texts else [])

    def _row(self, uid: str, chosen: Array) -> ScoreRow:
        counts = (int(self.decisions.tie_I[chosen].sum()), int(self.decisions.nan_I[chosen].sum()), self.items.rules, self.backend)
        if TASKS[self.items.task].aggregate == "correlation":
            rho = _rho(self)
            return ScoreRow(self.items.task, uid, len(chosen), rho, "rho", _rho_stderr(rho, len(chosen)), *counts)
        credit = self.decisions.credit_I[chosen]
        return ScoreRow(self.items.task, uid, len(chosen), _percent(self, chosen), "percent", 100 * accuracy_stderr(credit), *counts)


def result_of(items: TaskItems, backend: str, scored: CandidateScores, candidate_IC: Array) -> TaskResult:
    """Decide the items of a task, given the scores of a plan's candidates and which of them are an item's (-1 pads)."""
    valid_IC = candidate_IC >= 0
    scores_IC = np.where(valid_IC, scored.score[candidate_IC], np.float32(-np.inf))
    too_long_I = np.asarray((scored.too_long[candidate_IC] & valid_IC).any(1))

    def draw(i: int) -> np.random.Generator:
        item = items.items[i]
        return stream(items.seed, "ties", uid_key(items.task, item.uid), item.index)

    decisions = decide(scores_IC, valid_IC, items.rules, draw)
    texts = scored.texts(candidate_IC, valid_IC)
    return TaskResult(items, backend, scores_IC, valid_IC, too_long_I, decisions, scored.positions, scored.sees_ahead, texts)


def accuracy_stderr(credit_I: Array) -> float:
    """Standard error of the mean of credits in [0, 1]; 0.5, the most it can be, for a single item.

    Where all are alike (right, wrong, ties) the plain formula says 0, however few they are: that of Agresti and Coull (1998), which adds
    two right and two wrong ones, says how far the next items may be off.
    """
    count = len(credit_I)
    if count < 2:
        return 0.5
    if (credit_I == credit_I[0]).all():
        mean = (count * float(credit_I[0]) + 2) / (count + 4)
        return math.sqrt(mean * (1 - mean) / (count + 4))
    return float(credit_I.std(ddof=1)) / math.sqrt(count)


def task_score(rows: Iterable[ScoreRow]) -> float:
    """Score of the one task that `rows` are of: mean over UIDs; entity tracking: over numops within a split, then over splits."""
    table = {row.uid: row for row in rows}
    if not table:
        raise ValueError("a task without rows has no score")
    weights = _weights(list(table.values()))
    return sum(weight * row.score for weight, row in zip(weights, table.values(), strict=True))


def task_stderr(rows: Iterable[ScoreRow]) -> float:
    """Standard error of `task_score` over items, UIDs taken as given."""
    table = list(rows)
    return math.sqrt(sum((weight * row.stderr) ** 2 for weight, row in zip(_weights(table), table, strict=True)))


def task_rows(rows: Iterable[ScoreRow]) -> dict[str, list[ScoreRow]]:
    """Rows by task, in order."""
    tables: dict[str, list[ScoreRow]] = {}
    for row in rows:
        tables.setdefault(row.task, []).append(row)
    return tables


def split_means(percent: dict[str, float]) -> dict[str, float]:
    """Means over the UIDs of each split that is there, in the official order."""
    splits: dict[str, list[float]] = {split: [] for split in TASKS["entity_tracking"].files}
    for uid, value in percent.items():
        splits.setdefault(_split(uid), []).append(value)
    return {split: sum(values) / len(values) for split, values in splits.items() if values}


def _split(uid: str) -> str:
    return uid.removesuffix("_ops").rpartition("_")[0]


def _weights(rows: Sequence[ScoreRow]) -> list[float]:
    if len({row.task for row in rows}) > 1:
        raise ValueError("rows of several tasks")
    if rows[0].task not in TASKS:  # a fine-tuned one
        return [1 / len(rows)] * len(rows)
    if TASKS[rows[0].task].aggregate != "splits":
        return [1 / len(rows)] * len(rows)
    splits = [_split(row.uid) for row in rows]
    return [1 / len(set(splits)) / splits.count(split) for split in splits]


_NAN = {"honest": "wrong", "2025": "RIGHT, though they are no answers of the model's", "2026": "the lowest score"}


def _groups(items: TaskItems, key: str) -> dict[str, Array]:
    """The items of every value of a metadata key, in order of appearance."""
    indices: dict[str, list[int]] = {}
    for i, item in enumerate(items.items):
        indices.setdefault(item.metadata[key], []).append(i)
    return {value: np.array(group) for value, group in indices.items()}


def _percent(result: TaskResult, chosen: Array) -> float:
    return 100.0 * float(result.decisions.credit_I[chosen].sum()) / len(chosen)


def _rho(result: TaskResult) -> float:
    """Spearman's rho of the probability of candidate 0 and the human ratio; under honest rules an item with a NaN is a tie of
    its candidates, and a correlation that does not exist is 0."""
    rules = RULES[result.items.rules]
    probability_I = result.probability_I
    if rules.broken_rho == 0.0:
        probability_I = np.where(np.isnan(probability_I), 1 / result.valid_IC.sum(1), probability_I)
    ratio_I = np.array([item.ratio for item in result.items.items])
    if len(ratio_I) < 2 or np.isnan(probability_I).any() or len(set(probability_I)) < 2 or len(set(ratio_I)) < 2:
        return rules.broken_rho
    from scipy.stats import spearmanr  # half a second, for few tasks

    return float(spearmanr(probability_I, ratio_I)[0])


def _rho_stderr(rho: float, n: int) -> float:
    """Standard error of Spearman's rho (Bonett & Wright 2000, back from Fisher's z); 1, the most it can be, where that does not tell."""
    return (1 - rho**2) * math.sqrt((1 + rho**2 / 2) / (n - 3)) if n > 3 and abs(rho) < 1 else 1.0
