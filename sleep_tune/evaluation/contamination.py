"""`python -m sleep_tune.evaluation.contamination --data TEXT --evaluation-data EVAL`: which items' sentences the training text holds.

A sentence is found exactly where all its words are, one behind the other, whatever the white space between them; case and punctuation
as they are. It is found normalised where that holds less case, quotes and punctuation: `word_search.normal_words` defines it. What is
found exactly is found normalised too; the two are counted apart. Nothing is found across a blank line or the end of a file.

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
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.result_files import write_table
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.tasks import TASKS, Item, TaskItems
from sleep_tune.evaluation.word_search import EXACT, NORMALISED, Searcher, blocks
from sleep_tune.files import writable_directory, write_json

_HUB = "hub:"
_EXAMPLES = 5
_WIDTH = 120  # characters that the table needs


@dataclass(frozen=True)
class Question:
    """An item with the texts it is looked for by."""

    item: Item
    right: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Hits:
    """Items of which the right candidate, a wrong one, or any was found; distinct sentences found, and how often all together."""

    right: int
    wrong: int
    any: int
    found: int
    occurrences: int


@dataclass(frozen=True)
class TaskReport:
    """A task's items and distinct sentences, what was found of them in either way, and where the first ones are."""

    task: str
    items: int
    sentences: int
    exact: Hits
    normalised: Hits
    examples: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Searchers:
    """The two ways of looking."""

    exact: Searcher
    normalised: Searcher

    def feed(self, lines: Sequence[str], stream: int) -> None:
        """The next lines of a stream."""
        self.exact.feed(lines, stream)
        self.normalised.feed(lines, stream)

    def end(self, stream: int) -> None:
        """No lines of the stream are left."""
        self.exact.end(stream)
        self.normalised.end(stream)


def questions(items: TaskItems) -> list[Question]:
    """What is looked for of each item; of reading, which asks word by word, a sentence as far as it is asked."""
    kind = TASKS[items.task].aggregate
    if kind == "reading":
        texts = [f"{item.sentences[0]} {item.completions[0]}" for item in items.items]
        ordered = sorted(set(texts))
        begun = {text for text, following in pairwise(ordered) if following.startswith(f"{text} ")}
        return [Question(item, text, ()) for item, text in zip(items.items, texts, strict=True) if text not in begun]
    return [Question(item, item.sentences[0], item.sentences[1:]) for item in items.items]


def search(asked: Sequence[Question]) -> Searchers:
    """Searchers for every text that is looked for."""
    texts = [text for question in asked for _, text in _sides(question)]
    return Searchers(Searcher(texts, EXACT), Searcher(texts, NORMALISED))


def report(task: str, asked: Sequence[Question], searchers: Searchers, streams: Sequence[str]) -> TaskReport:
    """What was found of a task; `streams` names what was read. Examples: items found exactly before the others."""
    texts = list(dict.fromkeys(text for question in asked for _, text in _sides(question)))
    exact, found_exactly = _hits(asked, texts, searchers.exact)
    normalised, found = _hits(asked, texts, searchers.normalised)
    ordered = [*np.flatnonzero(found_exactly), *np.flatnonzero(found & ~found_exactly)]
    examples = [_example(asked[i], searchers, streams) for i in ordered[:_EXAMPLES]]
    return TaskReport(task, len(asked), len(texts), exact, normalised, tuple(examples))


def _hits(asked: Sequence[Question], texts: Sequence[str], searcher: Searcher) -> tuple[Hits, Array]:
    """What was found in one way, and of which questions anything was."""
    right = np.array([searcher.times_of(question.right) > 0 for question in asked], dtype=bool)
    wrong = np.array([any(map(searcher.times_of, question.wrong)) for question in asked], dtype=bool)
    times = [searcher.times_of(text) for text in texts]
    counts = (int(right.sum()), int(wrong.sum()), int((right | wrong).sum()))
    return Hits(*counts, sum(count > 0 for count in times), sum(times)), right | wrong


def _example(question: Question, searchers: Searchers, streams: Sequence[str]) -> dict[str, Any]:
    """The first of a question's texts that was found, exactly if any was; how many of its other texts were found too."""
    ways = (("exact", searchers.exact), ("normalised", searchers.normalised))
    way, searcher, side, text = next(
        (way, searcher, side, text) for way, searcher in ways for side, text in _sides(question) if searcher.times_of(text)
    )
    place = {"text": text, "candidate": side, "found": way, "times": searcher.times_of(text), "first_in": streams[searcher.where_of(text)]}
    found = {text for _, text in _sides(question) if searchers.normalised.times_of(text)}  # what is found exactly is among these
    return {"uid": question.item.uid, "item": question.item.index, **place, "more": len(found) - 1}


def _sides(question: Question) -> list[tuple[str, str]]:
    return [("right", question.right), *(("wrong", text) for text in question.wrong)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the items, then the text, and report."""
    options = _parse(arguments)
    items = _items(options)
    out = writable_directory(options.out, "--out")
    parts = _training_text(options.data)
    asked = {task.task: questions(task) for task in items}
    searchers = search([question for table in asked.values() for question in table])
    words = _read(parts, options.cleaning, searchers)
    reports = [report(task, table, searchers, [part.domain for part in parts]) for task, table in asked.items()]
    _write(out, options, words, reports, asked, searchers)
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


def _read(parts: Sequence[Part], cleaning: str, searchers: Searchers) -> dict[str, int]:
    """Words of every domain, read with a bar."""
    from rich.console import Console

    from sleep_tune.evaluation.progress import bars

    words = {}
    with bars(Console(stderr=True), "domains") as show:
        tell = show("reading the training text")
        for number, part in enumerate(parts):
            tally = Tally()
            for block in blocks(clean(part.domain, cleaning, part.lines(), tally)):
                searchers.feed(block, number)
            searchers.end(number)
            words[part.domain] = tally.words
            tell(number + 1, len(parts))
    return words


def _write(
    out: Path,
    options: argparse.Namespace,
    words: dict[str, int],
    reports: Sequence[TaskReport],
    asked: dict[str, list[Question]],
    searchers: Searchers,
) -> None:
    """contamination.json, and contamination.parquet with a row an item of which something was found, and how often in either way."""
    about = {"data": options.data, "cleaning": options.cleaning, "words": words, "evaluation_data": options.evaluation_data}
    write_json(out / "contamination.json", about | {"rules": options.rules, "tasks": [asdict(row) for row in reports]})
    ways = (searchers.exact, searchers.normalised)
    rows = [
        (
            *(task, question.item.uid, question.item.index),
            *(times for way in ways for times in (way.times_of(question.right), sum(map(way.times_of, question.wrong)))),
        )
        for task, table in asked.items()
        for question in table
    ]
    found = [row for row in rows if any(row[3:])]
    names = ("task", "uid", "item", "right_times", "wrong_times", "right_times_normalised", "wrong_times_normalised")
    write_table(out / "contamination.parquet", {name: [row[k] for row in found] for k, name in enumerate(names)})


def _found(row: TaskReport) -> list[str]:
    """A line an example, and how many items there are beside these."""
    lines = []
    for example in row.examples:
        line = f"{row.task} {example['uid']}_{example['item']} ({example['candidate']}, {example['found']}): {example['text']!r}"
        more = f"; and {example['more']} more of its sentences" if example["more"] else ""
        lines.append(f"{line}: {example['times']} times, first in {example['first_in']}{more}")
    left = row.normalised.any - len(row.examples)
    return lines + ([f"{row.task}: {left:,} more items, all in contamination.parquet"] if left else [])


def _show(options: argparse.Namespace, words: int, reports: Sequence[TaskReport]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{options.evaluation_data} in {words:,} words of {options.data}", title_justify="left")
    for column in ("task", "items", "found exactly", "%", "right", "wrong", "normalised", "%", "right", "wrong", "sentences"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for row in reports:
        cells = []
        for hits in (row.exact, row.normalised):
            cells += [f"{hits.any:,}", f"{100 * hits.any / max(1, row.items):.2f}", f"{hits.right:,}", f"{hits.wrong:,}"]
        name = "reading (sentences)" if row.task == "reading" else row.task  # elsewhere its items are words
        table.add_row(name, f"{row.items:,}", *cells, f"{row.sentences:,}")
    console = Console(width=max(Console().width, _WIDTH))
    console.print(table)
    for row in reports:
        for line in _found(row):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"written: {options.out}/contamination.json, contamination.parquet", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_main(main)
