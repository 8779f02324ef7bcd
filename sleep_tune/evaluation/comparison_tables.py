"""What a comparison shows in the terminal."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sleep_tune.evaluation.item_curves import Curves, point_name
from sleep_tune.evaluation.item_texts import Texts

if TYPE_CHECKING:
    from sleep_tune.evaluation.comparison import Change, Comparison

_UIDS = 12
_EXAMPLES = 3  # items gained, and as many lost
_NOTES = 8
_NONE = "–"  # no number
_WIDTH = 140  # characters that the tables need, names of UIDs being long
_TESTS = "p: exact test of gained against lost (McNemar), of F1 by randomisation; of UIDs Holm's. p margin: sign test of rose against fell"


def show_comparison(places: tuple[str, ...], comparison: "Comparison", texts: Texts, written: str) -> None:
    """Tasks, the UIDs whose answers changed, by p, the items that changed most, notes."""
    console = Console(width=max(Console().width, _WIDTH))
    tasks = [change for change in comparison.changes if change.uid == ""]
    console.print(_changes(" · ".join(f"{name} {place}" for name, place in zip("AB", places, strict=True)), tasks))
    uids = [change for change in comparison.changes if change.uid != ""]
    moved = [change for change in uids if change.gained or change.lost]
    moved.sort(key=lambda change: (math.isnan(change.p_holm), change.p_holm, -abs(change.difference)))
    if len(uids) > len(tasks) and moved:
        first = f", the first {_UIDS} by p, then by B - A" if len(moved) > _UIDS else ""
        console.print(_changes(f"{len(moved)} of {len(uids)} UIDs have items gained or lost{first}", moved[:_UIDS]))
    _say(console, _TESTS)
    for line in _examples(comparison, texts):
        _say(console, line)
    _notes(console, comparison.notes)
    _say(console, f"written: {written}")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _notes(console: Console, notes: Sequence[str]) -> None:
    shown = len(notes) if len(notes) == _NOTES + 1 else _NOTES  # "one more" takes as much room as it does
    for note in notes[:shown]:
        _say(console, f"note: {note}")
    if len(notes) > shown:
        _say(console, f"note: and {len(notes) - shown} more like these")


def _changes(title: str, changes: Sequence["Change"]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("task and score, or UID", no_wrap=True, max_width=60)
    for column in ("items", "A", "B", "B - A", "gained", "lost", "p", "p margin"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in changes:
        scores = (f"{row.a:.2f}", f"{row.b:.2f}", f"{row.difference:+.2f}", f"{row.gained:,}", f"{row.lost:,}")
        p = _NONE if math.isnan(row.p_holm) else f"{row.p_holm:.2g}"
        name = f"{row.task} {row.uid or row.measure}"
        table.add_row(name, f"{row.n:,}", *scores, p, f"{row.p_margin:.2g}")
    return table


def _examples(comparison: "Comparison", texts: Texts) -> list[str]:
    """The items gained and lost whose margin changed most."""
    a, b = comparison.a, comparison.b
    with np.errstate(invalid="ignore"):
        size_I = np.nan_to_num(np.abs(b.margin - a.margin), nan=-1.0)
    lines = []
    for name, moved_I in (("gained", b.credit > a.credit), ("lost", b.credit < a.credit)):
        order = sorted(np.flatnonzero(moved_I), key=lambda i: -size_I[i])
        for i in order[:_EXAMPLES]:
            said = " | ".join(map(repr, texts.get((a.task[i], int(a.text[i])), ())[:2]))
            line = f"{name}: {a.task[i]} {a.uid[i]}_{a.item[i]}, margin {a.margin[i]:+.2f} -> {b.margin[i]:+.2f} nats"
            lines.append(line + (f": {said}" if said else ""))
    return lines


def show_curves(title: str, curves: Curves, written: str) -> None:
    """A row a point and task."""
    console = Console(width=max(Console().width, _WIDTH))
    table = Table(title=title, title_justify="left")
    table.add_column("task", no_wrap=True)
    for column in ("words seen", "items", "score", "± s.e.", "mean margin", "gained", "lost"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [row for row in zip(*curves.columns.values(), strict=True) if row[3] == ""]
    for words, end, task, _, n, *numbers, gained, lost in sorted(rows, key=lambda row: (row[2], row[1], row[0])):
        moves = (_NONE if count is None else f"{count:,}" for count in (gained, lost))
        table.add_row(task, point_name(words, end), f"{n:,}", *_numbers(*numbers), *moves)
    console.print(table)
    _notes(console, curves.notes)
    _say(console, f"written: {written}")


def _numbers(*values: Any) -> list[str]:
    return [_NONE if math.isnan(value) else f"{value:.2f}" for value in values]
