"""Learning curves: scores, margins, and items gained and lost, over a trial's milestones or a model's checkpoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import words_seen
from sleep_tune.evaluation.item_pairs import has_answers, pair_items, row_of, whole, without_answers
from sleep_tune.evaluation.margins import Items, by_uid, checkpoint_files, find_items, milestone_files
from sleep_tune.words import show_words

NAMES = ("words_seen", "end", "task", "uid", "n", "score", "stderr", "margin", "gained", "lost")


@dataclass(frozen=True)
class Curves:
    """Columns `NAMES` of one length, by words seen, task and UID ("" for the task): score in points and its standard error over items,
    mean margin in nats, what was gained and lost since the point before (None where that has no such item). `end`: of a trial's final
    scores, which may be of more items than those on the way. What the reader has to know."""

    columns: dict[str, list[Any]]
    notes: tuple[str, ...]


def learning_curves(points: Mapping[int, Items], end: tuple[int, Items] | None = None) -> Curves:
    """The curves through these points, by words seen, and through a trial's `end` behind them, unless that was scored by other rules (with
    a note). Raises UserError where a task was scored by other rules from one point to the next."""
    columns: dict[str, list[Any]] = {name: [] for name in NAMES}
    ordered = [(words, False, points[words]) for words in sorted(points)] + ([(end[0], True, end[1])] if end else [])
    notes = without_answers(*(items for *_, items in ordered))
    before: tuple[str, Items] | None = None
    for words, last, items in ordered:
        name, decided, moved = point_name(words, last), items.where(has_answers(items)), {}
        if before is not None:
            try:
                pairs = pair_items(before[1], decided, (before[0], name), "gained and lost")
            except UserError as error:
                if not last:
                    raise
                notes.append(f"{name} is left out: {error}")
                break
            moved = _moves(pairs.a, pairs.b)
            notes += pairs.notes
        for row in _point(decided, moved):
            for column, value in zip(NAMES, (words, last, *row), strict=True):
                columns[column].append(value)
        before = name, decided
    return Curves(columns, tuple(notes))


def point_name(words: int, end: bool) -> str:
    """What a point is called: 10M; a trial's end, 10M (end)."""
    return show_words(words) + (" (end)" if end else "")


def _moves(a: Items, b: Items) -> dict[tuple[str, str], tuple[int, int]]:
    """Gained and lost by task and UID."""
    gained_I, lost_I = b.credit > a.credit, b.credit < a.credit
    moved = {key: (int(gained_I[at].sum()), int(lost_I[at].sum())) for key, at in by_uid(a).items()}
    whole_of = {task: a.task == task for task in dict.fromkeys(a.task)}
    return moved | {(task, ""): (int(gained_I[at].sum()), int(lost_I[at].sum())) for task, at in whole_of.items()}


def _point(items: Items, moved: Mapping[tuple[str, str], tuple[int, int]]) -> list[tuple[Any, ...]]:
    groups, rows = by_uid(items), []
    for task in dict.fromkeys(task for task, _ in groups):
        parts = {uid: items.where(at) for (name, uid), at in groups.items() if name == task}
        scored = [row_of(task, uid, part) for uid, part in parts.items()]
        parts = {"": items.where(items.task == task)} | parts
        for uid, numbers in [("", whole(scored)), *((row.uid, (row.score, row.stderr)) for row in scored)]:
            known_I = parts[uid].margin[np.isfinite(parts[uid].margin)]
            margin = float(known_I.mean()) if len(known_I) else math.nan
            rows.append((task, uid, len(parts[uid]), *numbers, margin, *moved.get((task, uid), (None, None))))
    return rows


def curve_files(places: Sequence[str]) -> dict[int, Path]:
    """The points that a command line names, by words seen: one trial or evaluation with what it has kept on the way; or several places,
    each with its words after an @ or in its name. Raises UserError."""
    if len(places) == 1:
        directory = Path(places[0])
        found = milestone_files(directory) or checkpoint_files(directory)
        if not found:
            what = "no such directory" if not directory.is_dir() else "holds no items of milestones (trial) or checkpoints (evaluation)"
            raise UserError(f"--curves {places[0]}: {what}")
        return found
    points: dict[int, Path] = {}
    for place in places:
        before, _, which = place.rpartition("@")
        words = words_seen(which if before else Path(place).resolve().stem)
        if words is None:
            raise UserError(f"--curves {place}: must be named by the words it has seen (chck_10M)")
        if int(words) in points:
            raise UserError(f"--curves {place}: another of {show_words(words)} words is given")
        points[int(words)] = find_items(place, "--curves")
    return points
