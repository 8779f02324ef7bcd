"""Which items two models both answered, what differs between the two sides, and what the items of a task are worth together."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sleep_tune.errors import UserError
from sleep_tune.evaluation.finetune_settings import GLUE, metric_stderr
from sleep_tune.evaluation.margins import ORIGIN, Items, by_uid
from sleep_tune.evaluation.paired_tests import Answers
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.scores import ScoreRow, accuracy_stderr, task_score, task_stderr
from sleep_tune.evaluation.tasks import TASKS


@dataclass(frozen=True)
class Pairs:
    """The items that both answered and that have right answers, in one order; what the reader has to know."""

    a: Items
    b: Items
    notes: tuple[str, ...]


def has_answers(items: Items) -> Array:
    """Which items are of a task whose items are right or wrong."""
    there = {task: task in GLUE or (task in TASKS and TASKS[task].aggregate in ("mean", "splits")) for task in dict.fromkeys(items.task)}
    return np.array([there[task] for task in items.task], dtype=bool)


def without_answers(*sides: Items) -> list[str]:
    """A line that names the tasks whose items are neither right nor wrong; none where there are none."""
    names = dict.fromkeys(task for side in sides for task in side.task[~has_answers(side)])
    return [f"{', '.join(names)}: no right answers to gain or lose, left out"] if names else []


def pair_items(a: Items, b: Items, names: tuple[str, str] = ("A", "B"), told: str = "the numbers here") -> Pairs:
    """Match the two sides' items by task, UID and text, so that a fast set or a sample finds its items in the full set. `told`: what is
    made of the pairs.

    Raises UserError where a task was scored by other rules on either side: the same answer earns another credit.
    """
    decided = [has_answers(side) for side in (a, b)]
    notes = without_answers(a, b)
    a, b = a.where(decided[0]), b.where(decided[1])
    place = {key: i for i, key in enumerate(_keys(b))}
    found = np.array([(i, place[key]) for i, key in enumerate(_keys(a)) if key in place], dtype=np.int64).reshape(-1, 2)
    one, two = a.where(found[:, 0]), b.where(found[:, 1])
    label = np.maximum(one.label, two.label)  # the items' own: one side that says it is enough
    one, two = replace(one, label=label), replace(two, label=label)
    notes = [*_few(len(found), a, b, names, told), *_differences(one, two, names), *_only(a, b, found, names), *notes]
    return Pairs(one, two, (*_without_score(one, names[0]), *_without_score(two, names[1]), *notes))


def _without_score(items: Items, name: str) -> list[str]:
    """A line on each task of which a side has items that it could not score."""
    tasks = Counter(items.task[items.nan].tolist())
    return [
        f"{task}: {count:,} of {int((items.task == task).sum()):,} items have no score (NaN) in {name}: no answers of that model"
        for task, count in tasks.items()
    ]


def _keys(items: Items) -> list[tuple[str, str, int, int]]:
    """Task, UID, text, and which of the items of that text it is: a few official ones are there twice."""
    times: dict[tuple[str, str, int], int] = {}
    keys = []
    for key in zip(items.task.tolist(), items.uid.tolist(), items.text.tolist(), strict=True):
        times[key] = times.get(key, 0) + 1
        keys.append((*key, times[key]))
    return keys


def _differences(a: Items, b: Items, names: tuple[str, str]) -> list[str]:
    """What the two sides' scores of a task rest on, where it differs; unknown where a file does not say."""
    lines: dict[str, list[str]] = {}
    for task in dict.fromkeys(a.task):
        for name in ORIGIN:
            said = [", ".join(map(str, dict.fromkeys(getattr(side, name)[side.task == task]))) for side in (a, b)]
            if "" in said:
                where = " and ".join(side for side, value in zip(names, said, strict=True) if not value)
                lines.setdefault(f"{name} not said in {where} (scored by an earlier version): not compared", []).append(task)
            elif said[0] != said[1]:
                lines.setdefault(f"{name} {said[0]} in {names[0]}, {said[1]} in {names[1]}", []).append(task)
    other = {line: tasks for line, tasks in lines.items() if line.startswith("rules ") and " not said" not in line}
    if other:
        [(line, tasks), *_] = other.items()
        raise UserError(f"{', '.join(tasks)}: {line}: credit is given differently, score both by the same rules")
    return [f"{', '.join(tasks)}: {line}" for line, tasks in lines.items()]


def _few(found: int, a: Items, b: Items, names: tuple[str, str], told: str) -> list[str]:
    """A line where most items of a side have no partner: what is compared is not what its scores are of."""
    if 2 * found >= max(len(a), len(b)):
        return []
    of = " and ".join(f"{len(side):,} of {name}" for side, name in zip((a, b), names, strict=True))
    return [f"only {found:,} item{'s are' if found != 1 else ' is'} on both sides (of {of}): {told} are of these alone"]


def _only(a: Items, b: Items, found: Array, names: tuple[str, str]) -> list[str]:
    """Items that have no partner, by side; among them those of another text under the same number, of one set of data on both sides."""
    alone = [side.where(np.setdiff1d(np.arange(len(side)), found[:, column])) for column, side in enumerate((a, b))]
    numbers = [set(zip(side.task, side.uid, side.item, side.dataset, strict=True)) for side in alone]
    both = numbers[0] & numbers[1]
    other, lines = len(both), []
    if other:
        plural = f"items of {names[0]} have" if other > 1 else f"item of {names[0]} has"
        lines.append(f"{other:,} {plural} another text in {names[1]} (other rules or data), left out")
    for side, name in zip(numbers, names, strict=True):
        count = len(side - both)
        if count:
            tasks = ", ".join(sorted({task for task, *_ in side - both}))
            lines.append(f"{count:,} item{'s are' if count > 1 else ' is'} only in {name} ({tasks}), left out")
    return lines


def scored_by_f1(task: str) -> bool:
    """Whether a task's score is F1, not the share of right answers."""
    return task in GLUE and GLUE[task].score == "f1"


def answers(items: Items) -> Answers | None:
    """The answers of a task that is scored by F1; None where the items do not say the labels."""
    if not len(items) or (items.label < 0).any():
        return None
    positive_I = items.label == 1
    if not one_seed(items):
        return Answers(positive_I, np.where(positive_I, items.credit, 0.0), np.where(positive_I, 0.0, 1 - items.credit))
    named_I = items.chosen == 1
    return Answers(positive_I, positive_I & named_I, ~positive_I & named_I)


def one_seed(items: Items) -> bool:
    """Whether every answer is all right or all wrong; else credit is a mean over seeds (or a tie's share)."""
    return bool(np.isin(items.credit, (0.0, 1.0)).all())


def row_of(task: str, uid: str, items: Items) -> ScoreRow:
    """The row of the table of scores that these items of a UID make, in percent: F1 where the task is scored so and labels are known."""
    given = answers(items) if scored_by_f1(task) else None
    if given is not None:
        score = 100 * given.f1
        stderr = 100 * metric_stderr("f1", items.label, items.chosen) if one_seed(items) else math.nan
    else:
        score = 100 * float(items.credit.mean())
        stderr = 100 * accuracy_stderr(items.credit)
    return ScoreRow(task, uid, len(items), score, "percent", stderr, int(items.tie.sum()), int(items.nan.sum()), "", "")


def rows_of(items: Items) -> dict[str, list[ScoreRow]]:
    """The rows of the UIDs, by task."""
    rows: dict[str, list[ScoreRow]] = {}
    for (task, uid), at in by_uid(items).items():
        rows.setdefault(task, []).append(row_of(task, uid, items.where(at)))
    return rows


def whole(rows: Sequence[ScoreRow]) -> tuple[float, float]:
    """Score and standard error of a task of which these are the UIDs."""
    return task_score(rows), task_stderr(rows)
