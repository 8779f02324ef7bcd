"""What the evaluation command prints: a line a task, the learning curve of a series, what their reader has to know, averages."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sleep_tune.evaluation.finished import Finished, Records
from sleep_tune.evaluation.published import Scores
from sleep_tune.evaluation.result_files import summary
from sleep_tune.words import show_words


def print_scores(records: Records, scores: Scores, notes: Sequence[str]) -> None:
    """Everything there is, to stdout."""
    console = Console()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    title = f"{records.source.place} · {records.label} · rules {records.rules}"
    say(", ".join((title, *dict.fromkeys(mark for one in scores.shown for mark in one.subset.marks))))
    console.print(_tasks(scores.shown))
    if scores.curve:
        subsets = dict.fromkeys(str(one.subset) for point in scores.curve.values() for one in point)
        say(f"learning curve · {'; '.join(subsets)}")
        console.print(_curve(scores))
    for note in notes:
        say(f"note: {note}")
    for mean in (mean for mean in scores.averages if mean.value is not None):
        say(str(mean))
    files = ["scores.json", "scores.parquet", "items.parquet", *(["checkpoints/"] if scores.curve else [])]
    say(f"written: {records.out}/{', '.join(files + (['results/'] if (records.out / 'results').is_dir() else []))}")


def _tasks(shown: Sequence[Finished]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("task", "set", "UIDs", "items", "score", "± s.e.", "unit", "ties", "NaN"):
        table.add_column(column, justify="left" if column in ("task", "set", "unit") else "right", no_wrap=True)
    for one in shown:
        line = summary(one.rows)[one.task]
        unit = "%" if line["unit"] == "percent" else line["unit"]
        numbers = (_digits(line, "score"), _digits(line, "stderr"), unit, str(line["ties"]), str(line["nans"]))
        subset = str(one.subset).replace(" items of every UID", " a UID")
        table.add_row(one.task, subset, str(line["uids"]), str(line["n"]), *numbers)
    return table


def _curve(scores: Scores) -> Table:
    """A line a checkpoint, a column a task; the model itself comes last."""
    tasks = list(dict.fromkeys(one.task for point in scores.curve.values() for one in point))
    table = Table()
    table.add_column("checkpoint", no_wrap=True)
    for column in ("words", *tasks):
        table.add_column(column, justify="right")
    for revision, point in scores.curve.items():
        cells = {one.task: _digits(summary(one.rows)[one.task], "score") for one in point}
        words = point[0].words_seen
        table.add_row(revision, "" if words is None else show_words(int(words)), *(cells.get(task, "-") for task in tasks))
    return table


def _digits(line: dict[str, Any], name: str) -> str:
    return f"{line[name]:.{2 if line['unit'] == 'percent' else 3}f}"
