"""What the evaluation command prints: a line a task, the learning curve of a series, what their reader has to know, averages."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sleep_tune.evaluation.averages import COMPONENTS, KINDS, Average
from sleep_tune.evaluation.finished import Finished, Records
from sleep_tune.evaluation.published import Scores
from sleep_tune.evaluation.result_files import summary
from sleep_tune.words import show_words

_WIDTH = 140  # characters


def print_scores(records: Records, scores: Scores, notes: Sequence[str]) -> None:
    """Everything there is, to stdout."""
    console = Console()
    if not console.is_terminal:  # a file has no width, and names in it are searched for
        console = Console(width=max(console.width, _WIDTH))

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
    means = [mean for mean in scores.averages if mean.value is not None]
    if means:
        console.print(_averages(means))
    for line in _not_whole(means):
        say(line)
    files = ["scores.json", "scores.parquet", "items.parquet", *(["checkpoints/"] if scores.curve else [])]
    say(f"written: {records.out}/{', '.join(files + (['results/'] if (records.out / 'results').is_dir() else []))}")


def _tasks(shown: Sequence[Finished]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("task", "set", "UIDs", "items", "score", "± s.e.", "unit", "ties", "NaN"):
        table.add_column(column, justify="left" if column in ("task", "set", "unit") else "right", no_wrap=True)
    for one in shown:
        line = summary(one.rows)[one.task]
        unit = "%" if line["unit"] == "percent" else line["unit"]
        error = "-" if unit == "rho" and line["stderr"] == 1 else _digits(line, "stderr")  # too few items to tell
        numbers = (_digits(line, "score"), error, unit, str(line["ties"]), str(line["nans"]))
        subset = str(one.subset).replace(" items of every UID", " a UID")
        count = _words(one) if one.task == "reading" else line["n"]
        table.add_row(one.task, subset, str(line["uids"]), str(count), *numbers)
    return table


def _words(one: Finished) -> int:
    """The words of reading's table: each of its scores rests on those that it has times of, so they are not to be added up."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(one.path.with_suffix(".parquet")).num_rows)


def _averages(means: Sequence[Average]) -> Table:
    """A line an average: over how many of its tasks, and over which."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("average", "points", "over", "tasks"):
        table.add_column(column, justify="right" if column == "points" else "left", no_wrap=column in ("points", "over"))
    for mean in means:
        here, of = len(mean.entered), len(mean.entered) + len(mean.missing)
        table.add_row(mean.name, f"{mean.value:.2f}", f"{'only ' * (2 * here < of)}{here} of {of}", ", ".join(mean.entered))
    return table


def _not_whole(means: Sequence[Average]) -> list[str]:
    """What is missing in averages, what is there in part, and what else their reader has to know: each once. A task that one average alone
    is over, and a note that is not of all of them, say of which."""
    whose = {name: [kind.name for kind in KINDS if name in kind.components] for name in COMPONENTS}
    missing = dict.fromkeys(task for mean in means for task in mean.missing)
    of_one = [f"{task} (in {kinds[0]})" if len(kinds := whose[task.split()[0]]) == 1 else task for task in missing]
    partial = dict.fromkeys(task for mean in means for task in mean.partial)
    parts = (("missing, not counted", of_one), ("in part", partial))
    lines = [f"{name}: {', '.join(tasks)}" for name, tasks in parts if tasks]
    noted: dict[str, list[str]] = {}
    for mean in means:
        for note in mean.notes:
            noted.setdefault(note, []).append(mean.kind)
    return lines + [note if len(kinds) == len(means) else f"{', '.join(kinds)}: {note}" for note, kinds in noted.items()]


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
