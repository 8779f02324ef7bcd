"""`python -m sleep_tune.evaluation.comparison A B`: which items a model gained and lost against another, or against its own checkpoint.

Two models answered the same items, so they are compared pair by pair. An item is gained where B is credited more than A, lost where
less. Two exact tests a task and UID: of gained against lost (McNemar 1947, for all-or-nothing credit), and of margins that rose against
margins that fell (a sign test, which also sees what changes no decision). UIDs of a task are many: their p values are Holm's (1979).
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from sleep_tune.errors import OneLineParser, UserError, run_main
from sleep_tune.evaluation.averages import GLUE
from sleep_tune.evaluation.margins import Items, by_uid, find_items, milestone_files, read_items
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.result_files import write_table
from sleep_tune.evaluation.scores import ScoreRow, task_score, task_stderr
from sleep_tune.evaluation.tasks import TASKS
from sleep_tune.files import writable_directory

ALL = ""  # the UID of a task as a whole
_SHOWN = 12  # UIDs in the terminal
_WIDTH = 120  # characters that the tables need, names of UIDs being long


@dataclass(frozen=True)
class Change:
    """From A to B on the items of a UID, or of a task (uid ""). Scores and `difference` in points; p values are two-sided."""

    task: str
    uid: str
    n: int
    a: float
    b: float
    difference: float
    gained: int
    lost: int
    p: float
    p_holm: float  # over the UIDs of the task; of a task as a whole, p itself
    margin: float  # median change, nats; NaN where no margin is a number
    rose: int
    fell: int
    p_margin: float


@dataclass(frozen=True)
class Comparison:
    """Rows by task, each followed by its UIDs; the items both answered, as (A, B) in one order; what the reader has to know."""

    changes: tuple[Change, ...]
    a: Items
    b: Items
    notes: tuple[str, ...]


def compare(a: Items, b: Items) -> Comparison:
    """Compare on the items that both have and that have right answers. Raises UserError where there is none."""
    a, b, notes = _common(a, b)
    changes: list[Change] = []
    groups = by_uid(a)
    for task in dict.fromkeys(task for task, _ in groups):
        parts = [_change(task, uid, a.where(at), b.where(at)) for (name, uid), at in groups.items() if name == task]
        whole = a.task == task
        row = asdict(_change(task, ALL, a.where(whole), b.where(whole)))
        for side, items in (("a", a), ("b", b)):
            row[side] = task_score(_scored(task, part.uid, items.where(groups[task, part.uid])) for part in parts)
        holm = _holm([part.p for part in parts])
        changes.append(Change(**(row | {"difference": row["b"] - row["a"]})))
        changes += [Change(**(asdict(part) | {"p_holm": p})) for part, p in zip(parts, holm, strict=True)]
    return Comparison(tuple(changes), a, b, notes)


def _common(a: Items, b: Items) -> tuple[Items, Items, tuple[str, ...]]:
    """The items of both, in A's order, less those without a right answer, of another text, or of only one of the two."""
    place = {key: i for i, key in enumerate(_keys(b))}
    pairs = np.array([(i, place[key]) for i, key in enumerate(_keys(a)) if key in place], dtype=np.int64).reshape(-1, 2)
    only = {"A": len(a) - len(pairs), "B": len(b) - len(pairs)}
    notes = [f"{count:,} items are only in {side}" for side, count in only.items() if count]
    same = a.text[pairs[:, 0]] == b.text[pairs[:, 1]]
    if not same.all():
        notes.append(f"{int((~same).sum()):,} items have another text in A than in B (other rules or data) and are left out")
    one, two = a.where(pairs[same, 0]), b.where(pairs[same, 1])
    decided = np.array([_has_answers(task) for task in one.task], dtype=bool)
    if not decided.all():
        notes.append(f"{', '.join(dict.fromkeys(one.task[~decided]))}: no right answers to gain or lose, left out")
    one, two = one.where(decided), two.where(decided)
    if not len(one):
        raise UserError("A and B: no item in common that has a right answer" + "".join(f"; {note}" for note in notes))
    unsure = int((one.nan | two.nan).sum())
    if unsure:
        notes.append(f"{unsure:,} items have a score that is not a number in A or B")
    return one, two, tuple(notes)


def _keys(items: Items) -> list[tuple[str, str, int]]:
    return list(zip(items.task.tolist(), items.uid.tolist(), items.item.tolist(), strict=True))


def _has_answers(task: str) -> bool:
    return task in GLUE or (task in TASKS and TASKS[task].aggregate in ("mean", "splits"))


def _change(task: str, uid: str, a: Items, b: Items) -> Change:
    gained, lost = int((b.credit > a.credit).sum()), int((b.credit < a.credit).sum())
    with np.errstate(invalid="ignore"):
        change_I = b.margin - a.margin
    known_I = change_I[~np.isnan(change_I)]
    rose, fell = int((known_I > 0).sum()), int((known_I < 0).sum())
    scores = 100 * float(a.credit.mean()), 100 * float(b.credit.mean())
    p, median = sign_test(gained, lost), float(np.median(known_I)) if len(known_I) else math.nan
    return Change(task, uid, len(a), *scores, scores[1] - scores[0], gained, lost, p, p, median, rose, fell, sign_test(rose, fell))


def sign_test(up: int, down: int) -> float:
    """Two-sided exact p of so many changes up and down, were both as likely; McNemar's exact test on the discordant pairs."""
    return min(1.0, 2 * float(binom.cdf(min(up, down), up + down, 0.5)))


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: what each p is worth among all of them."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def _scored(task: str, uid: str, items: Items) -> ScoreRow:
    """The row of the table of scores that these items of a UID make."""
    credit_I = 100 * items.credit
    stderr = float(credit_I.std(ddof=1)) / math.sqrt(len(items)) if len(items) > 1 else 50.0
    return ScoreRow(task, uid, len(items), float(credit_I.mean()), "percent", stderr, int(items.tie.sum()), int(items.nan.sum()), "", "")


def learning_curves(points: Mapping[int, Items]) -> dict[str, list[Any]]:
    """Columns by words seen (the keys of `points`), task and UID ("" for the task): score in points and its standard error over items,
    mean margin in nats, and what was gained and lost since the point before (0 at the first)."""
    names = ("words_seen", "task", "uid", "n", "score", "stderr", "margin", "gained", "lost")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    before: Items | None = None
    for words, items in sorted(points.items()):
        decided = items.where(np.array([_has_answers(task) for task in items.task], dtype=bool))
        for row in _curve_points(words, decided, before):
            for name, value in zip(names, row, strict=True):
                columns[name].append(value)
        before = decided
    return columns


def _curve_points(words: int, items: Items, before: Items | None) -> list[tuple[Any, ...]]:
    moved = {} if before is None else _moves(before, items)
    groups, rows = by_uid(items), []
    for task in dict.fromkeys(task for task, _ in groups):
        parts = {uid: items.where(at) for (name, uid), at in groups.items() if name == task}
        scored = [_scored(task, uid, part) for uid, part in parts.items()]
        whole = (task_score(scored), task_stderr(scored))
        for uid, numbers in [(ALL, whole), *((row.uid, (row.score, row.stderr)) for row in scored)]:
            part = items.where(items.task == task) if uid == ALL else parts[uid]
            known_I = part.margin[np.isfinite(part.margin)]
            margin = float(known_I.mean()) if len(known_I) else math.nan
            rows.append((words, task, uid, len(part), *numbers, margin, *moved.get((task, uid), (0, 0))))
    return rows


def _moves(a: Items, b: Items) -> dict[tuple[str, str], tuple[int, int]]:
    try:
        return {(change.task, change.uid): (change.gained, change.lost) for change in compare(a, b).changes}
    except UserError:  # nothing in common
        return {}


def trial_curves(trial: Path) -> dict[str, list[Any]]:
    """`learning_curves` over the milestones whose items a trial has kept."""
    return learning_curves({words: read_items(path) for words, path in milestone_files(trial).items()})


def write_comparison(out: Path, comparison: Comparison) -> None:
    """Publish `comparison.parquet` (a row a task and UID) and `items.parquet` (a row an item whose credit changed)."""
    write_table(out / "comparison.parquet", {f.name: [getattr(row, f.name) for row in comparison.changes] for f in fields(Change)})
    moved = comparison.a.credit != comparison.b.credit
    a, b = comparison.a.where(moved), comparison.b.where(moved)
    columns: dict[str, Array] = {"task": a.task, "uid": a.uid, "item": a.item, "gained": b.credit > a.credit}
    columns |= {"credit_a": a.credit, "credit_b": b.credit, "margin_a": a.margin, "margin_b": b.margin}
    write_table(out / "items.parquet", columns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print what changed, and write it."""
    options = _parse(arguments)
    a, b = (read_items(find_items(place, name)) for place, name in ((options.a, "A"), (options.b, "B")))
    comparison = compare(a, b)
    out = writable_directory(options.out, "--out")
    write_comparison(out, comparison)
    _show(options, comparison)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation.comparison", description=__doc__)
    place = "an evaluation's --out, a trial's directory, TRIAL@WORDS for one of its milestones, or a parquet file of items"
    parser.add_argument("a", metavar="A", help=f"what B is compared with: {place}")
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument("--out", default="comparison", help="where comparison.parquet and items.parquet go (default: comparison)")
    return parser.parse_args(arguments)


def _show(options: argparse.Namespace, comparison: Comparison) -> None:
    from rich.console import Console

    console = Console(width=max(Console().width, _WIDTH))
    tasks = [change for change in comparison.changes if change.uid == ALL]
    console.print(_table(f"A {options.a} · B {options.b}", tasks))
    uids = sorted(
        (change for change in comparison.changes if change.uid != ALL), key=lambda change: (change.p_holm, -abs(change.difference))
    )
    if len(uids) > len(tasks):
        shown = f"the {_SHOWN} of {len(uids)} UIDs that changed most surely" if len(uids) > _SHOWN else "UIDs"
        console.print(_table(shown, uids[:_SHOWN]))
    for note in comparison.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    console.print(f"written: {options.out}/comparison.parquet, items.parquet", soft_wrap=True, highlight=False)


def _table(title: str, changes: Sequence[Change]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("task and UID", no_wrap=True)
    for column in ("items", "A", "B", "B - A", "gained", "lost", "p", "p margin"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in changes:
        scores = (f"{row.a:.2f}", f"{row.b:.2f}", f"{row.difference:+.2f}", str(row.gained), str(row.lost))
        table.add_row(f"{row.task} {row.uid}", str(row.n), *scores, f"{row.p_holm:.2g}", f"{row.p_margin:.2g}")
    return table


if __name__ == "__main__":
    run_main(main)
