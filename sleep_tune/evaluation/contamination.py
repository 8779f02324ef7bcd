"""`python -m sleep_tune.evaluation.contamination --data TEXT --evaluation-data EVAL`: which items' sentences the training text holds.

A sentence occurs where all its words do, one behind the other, whatever the white space between them; case and punctuation as they are.
Looked for are the whole candidates: of a minimal pair both sentences, of EWoK and entity tracking context and continuation together, of
reading each sentence as a whole, of aoa a context with its word. The text is read as a training run reads it, cleaned, one block at a
time (`word_search.py`).
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.data.cleaning import CLEANINGS, Tally, clean
from sleep_tune.data.corpora import Part, Source, open_corpus
from sleep_tune.data.raw_files import digest_and_remember
from sleep_tune.errors import OneLineParser, UserError, nearest, run_main
from sleep_tune.evaluation.official_data import SOURCE, available_tasks, check_tasks, load_items
from sleep_tune.evaluation.result_files import write_table
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.tasks import TASKS, Item, TaskItems
from sleep_tune.evaluation.word_search import Searcher
from sleep_tune.files import writable_directory, write_json

_HUB = "hub:"
_EXAMPLES = 5
_WIDTH = 110  # characters that the table needs


@dataclass(frozen=True)
class Question:
    """An item with the texts it is looked for by."""

    item: Item
    right: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class TaskReport:
    """Items of a task of which the right candidate, a wrong one, or any was found; distinct sentences; and where the first ones are."""

    task: str
    items: int
    right: int
    wrong: int
    any: int
    sentences: int
    found: int
    occurrences: int
    examples: tuple[dict[str, Any], ...]


def questions(items: TaskItems) -> list[Question]:
    """What is looked for of each item; of reading, which asks word by word, a sentence as far as it is asked."""
    kind = TASKS[items.task].aggregate
    if kind == "reading":
        texts = [f"{item.sentences[0]} {item.completions[0]}" for item in items.items]
        ordered = sorted(set(texts))
        begun = {text for text, following in pairwise(ordered) if following.startswith(f"{text} ")}
        return [Question(item, text, ()) for item, text in zip(items.items, texts, strict=True) if text not in begun]
    return [Question(item, item.sentences[0], item.sentences[1:]) for item in items.items]


def report(task: str, asked: Sequence[Question], searcher: Searcher, streams: Sequence[str]) -> TaskReport:
    """What was found of a task; `streams` names what was read."""
    right = np.array([searcher.times_of(question.right) > 0 for question in asked], dtype=bool)
    wrong = np.array([any(map(searcher.times_of, question.wrong)) for question in asked], dtype=bool)
    texts = dict.fromkeys(" ".join(text.split()) for question in asked for text in (question.right, *question.wrong))
    times = {text: searcher.times_of(text) for text in texts}
    examples = [_example(asked[i], searcher, streams) for i in np.flatnonzero(right | wrong)[:_EXAMPLES]]
    found = sum(count > 0 for count in times.values())
    counts = (int(right.sum()), int(wrong.sum()), int((right | wrong).sum()))
    return TaskReport(task, len(asked), *counts, len(times), found, sum(times.values()), tuple(examples))


def _example(question: Question, searcher: Searcher, streams: Sequence[str]) -> dict[str, Any]:
    side, text = next((name, text) for name, text in _sides(question) if searcher.times_of(text))
    number = searcher.index[" ".join(text.split())]
    place = {"text": text, "candidate": side, "times": int(searcher.times[number]), "first_in": streams[searcher.where[number]]}
    return {"uid": question.item.uid, "item": question.item.index, **place}


def _sides(question: Question) -> list[tuple[str, str]]:
    return [("right", question.right), *(("wrong", text) for text in question.wrong)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the items, then the text, and report."""
    options = _parse(arguments)
    items = _items(options)
    out = writable_directory(options.out, "--out")
    parts = _training_text(options.data)
    asked = {task.task: questions(task) for task in items}
    searcher = Searcher(text for table in asked.values() for question in table for _, text in _sides(question))
    words = _read(parts, options.cleaning, searcher)
    reports = [report(task, table, searcher, [part.domain for part in parts]) for task, table in asked.items()]
    _write(out, options, words, reports, asked, searcher)
    _show(options, sum(words.values()), reports)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation.contamination", description=__doc__)
    parser.add_argument("--data", required=True, metavar="DIR|hub:ID", help="the training text, in BabyLM's layout")
    parser.add_argument("--evaluation-data", required=True, help="evaluation_data, its zip, or one task's directory or file")
    parser.add_argument("--tasks", help="comma-separated (default: all that there is data for)")
    parser.add_argument("--fast", action="store_true", help="the fast set instead of the full one")
    parser.add_argument("--rules", default="honest", help=f"{', '.join(RULES)}: whose candidates (default: honest)")
    parser.add_argument("--cleaning", default="light", help=f"{', '.join(CLEANINGS)}, as the training run's data.cleaning (default: light)")
    parser.add_argument("--out", default="contamination", help="where the report goes (default: contamination)")
    return parser.parse_args(arguments)


def _items(options: argparse.Namespace) -> list[TaskItems]:
    for name, value, allowed in (("--rules", options.rules, RULES), ("--cleaning", options.cleaning, CLEANINGS)):
        if value not in allowed:
            raise UserError(f"{name} = {value}: unknown{nearest(value, allowed)}")
    data = Path(options.evaluation_data)
    if not data.exists():
        raise UserError(f"--evaluation-data = {data}: no such file or directory; {SOURCE}")
    tasks = [name.strip() for name in (options.tasks or "").split(",") if name.strip()] or list(available_tasks(data, options.fast))
    if not tasks:
        raise UserError(f"--evaluation-data = {data}: holds no task's data; {SOURCE}")
    check_tasks(tasks)
    if len(tasks) > 1 and not options.tasks and (data.suffix == ".jsonl" or any(data.glob("*.jsonl"))):
        raise UserError(f"--evaluation-data = {data}: one task's data: name the task by --tasks")
    return load_items(data, tasks, options.fast, None, 0, options.rules)


def _training_text(data: str) -> tuple[Part, ...]:
    source = Source("hub", data.removeprefix(_HUB)) if data.startswith(_HUB) else Source("directory", data)
    return open_corpus(source, digest_and_remember, print).split("train")


def _read(parts: Sequence[Part], cleaning: str, searcher: Searcher) -> dict[str, int]:
    """Words of every domain, read with a bar."""
    from rich.console import Console
    from rich.progress import Progress

    words = {}
    with Progress(console=Console(stderr=True)) as bars:
        for number, part in enumerate(bars.track(parts, description="reading the training text")):
            words[part.domain] = searcher.read(clean(part.domain, cleaning, part.lines(), Tally()), number)
    return words


def _write(
    out: Path,
    options: argparse.Namespace,
    words: dict[str, int],
    reports: Sequence[TaskReport],
    asked: dict[str, list[Question]],
    searcher: Searcher,
) -> None:
    """contamination.json, and contamination.parquet with a row an item of which something was found."""
    about = {"data": options.data, "cleaning": options.cleaning, "words": words, "evaluation_data": options.evaluation_data}
    write_json(out / "contamination.json", about | {"rules": options.rules, "tasks": [asdict(row) for row in reports]})
    rows = [
        (task, question.item.uid, question.item.index, searcher.times_of(question.right), sum(map(searcher.times_of, question.wrong)))
        for task, table in asked.items()
        for question in table
    ]
    found = [row for row in rows if row[3] or row[4]]
    names = ("task", "uid", "item", "right_times", "wrong_times")
    write_table(out / "contamination.parquet", {name: [row[k] for row in found] for k, name in enumerate(names)})


def _show(options: argparse.Namespace, words: int, reports: Sequence[TaskReport]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{options.evaluation_data} in {words:,} words of {options.data}", title_justify="left")
    for column in ("task", "items", "any found", "%", "right", "wrong", "sentences found", "occurrences"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for row in reports:
        share = f"{100 * row.any / max(1, row.items):.2f}"
        sentences = f"{row.found:,} of {row.sentences:,}"
        table.add_row(
            row.task, f"{row.items:,}", f"{row.any:,}", share, f"{row.right:,}", f"{row.wrong:,}", sentences, f"{row.occurrences:,}"
        )
    console = Console(width=max(Console().width, _WIDTH))
    console.print(table)
    for row in reports:
        for example in row.examples[:2]:
            line = f"{row.task} {example['uid']}_{example['item']} ({example['candidate']}): {example['text']!r}"
            console.print(
                f"{line}: {example['times']} times, first in {example['first_in']}", soft_wrap=True, highlight=False, markup=False
            )
    console.print(f"written: {options.out}/contamination.json, contamination.parquet", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_main(main)
