"""Parses the official data that are tables, not jsonl: reading times as one csv, words as json with children's answers as csv.

Text in, raw items out, each with where it stands; which files these are is `official_data.py`'s.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from sleep_tune.errors import UserError
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.evaluation.tasks import MONTHS, READING_TIMES, REGRESSORS, BadItem, Raw, number

_NEEDED = ("item", "word", "prev_item", "prev_word", *REGRESSORS, *READING_TIMES)


def table_rows(task: str, texts: Mapping[str, str]) -> Iterator[tuple[str, Raw]]:
    """Where it stands, and a raw item, for every item of `task`; `texts` are its files in the order of `Task.table`, by name.

    Raises UserError for a malformed or truncated file.
    """
    return _ROWS[task](list(texts.items()))


def _reading_rows(files: list[tuple[str, str]]) -> Iterator[tuple[str, Raw]]:
    [(where, content)] = files
    for line, row in _csv(where, content, _NEEDED):
        yield f"{where} line {line}", row


def _acquisition_rows(files: list[tuple[str, str]]) -> Iterator[tuple[str, Raw]]:
    """One item a word and context. A word that the children were not asked for has no ages."""
    (where, content), (where_ages, ages) = files
    children = _children(where_ages, ages)
    for word, contexts in _contexts(where, content).items():
        for index, entry in enumerate(contexts):
            at = f"{where} word {word} context {index}"
            if not isinstance(entry, dict) or "context" not in entry:
                raise UserError(f"{at}: must be an object with a field context (task aoa)")
            yield at, {"word": word, "context": entry["context"], "ages": children.get(word, {})}


def _contexts(where: str, content: str) -> dict[str, list[Any]]:
    try:
        words = parse(content)
    except BadJson as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(words, dict) or not all(isinstance(contexts, list) for contexts in words.values()):
        raise UserError(f"{where}: must be a JSON object that gives each word a list of contexts")
    return words


def _children(where: str, content: str) -> dict[str, dict[str, float]]:
    """Share of children who say a word, by word and month; the first row of a word counts."""
    shares: dict[str, dict[str, float]] = {}
    for line, row in _csv(where, content, ("word",)):
        months = [str(month) for month in MONTHS if str(month) in row]
        if not months:
            raise UserError(f"{where}: no column of an age in months ({MONTHS[0]} to {MONTHS[-1]})")
        try:
            shares.setdefault(row["word"], {month: number(row, month) for month in months})
        except BadItem as error:
            raise UserError(f"{where} line {line}: {error} (task aoa)") from None
    return shares


def _csv(where: str, content: str, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of every row."""
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{where}: no column {', '.join(missing)}")
        twice = [name for name in needed if list(reader.fieldnames or ()).count(name) > 1]
        if twice:
            raise UserError(f"{where}: column {twice[0]} is there twice")
        for row in reader:
            if None in row or None in row.values():
                fields = len(reader.fieldnames or ())
                raise UserError(f"{where} line {reader.line_num}: not the {fields} cells of the header (a truncated file?)")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{where} line {reader.line_num}: not CSV ({error}; a truncated file?)") from None


_ROWS = {"reading": _reading_rows, "aoa": _acquisition_rows}
