"""What a model did item by item, kept beside its scores: which of two answers it prefers and by how much.

`items.parquet`, one row an item: `result_files.item_columns` and `ORIGIN`. The evaluation command writes one for the model and one for
each of its checkpoints, a trial one at its end and one for every milestone that it is scored at. `comparison.py` compares two of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.errors import UserError, one_line
from sleep_tune.evaluation.age_of_acquisition import AgeResult, words_seen
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.reading import ReadingResult
from sleep_tune.evaluation.result_files import item_columns, write_table
from sleep_tune.evaluation.scores import TaskResult
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.words import show_words

ITEMS = "items.parquet"
ORIGIN = ("backend", "rules", "dataset")  # what scores can only be compared by if it is one on both sides, or named
_PLACES = (ITEMS, f"evaluation/{ITEMS}")  # in the directory of an evaluation or a trial
_MILESTONE = re.compile(r"words_(\d+)\.parquet")
_KINDS = {"task": "O", "uid": "O", "item": "i8", "text": "i8", "margin": "f8", "credit": "f8", "tie": "?", "nan": "?", "chosen": "i8"}
_UNSAID = {**dict.fromkeys(ORIGIN, ""), "label": -1}  # of files that do not say
_UNDECIDED = ("reading", "aoa")  # tasks without right answers: no credit is given


@dataclass(frozen=True)
class Items:
    """A model's items as columns of one length. `text` is a digest of the candidates: equal numbers, equal questions."""

    task: Array
    uid: Array
    item: Array
    text: Array
    margin: Array  # score of the right candidate less the best other one, nats; NaN where there is none
    credit: Array  # what the rules gave, 0 to 1
    tie: Array
    nan: Array
    chosen: Array  # the candidate, or the label of a fine-tuned task; -1: none
    label: Array  # the right one of a fine-tuned task; -1: not said
    backend: Array  # "" in these three: not said
    rules: Array
    dataset: Array  # the directory that the items are from: of the full or the fast set

    def __len__(self) -> int:
        return len(self.task)

    def where(self, chosen: Array) -> "Items":
        """The items at these places, or where this is true."""
        return Items(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def write_items(path: Path, results: Sequence[TaskResult | ReadingResult | AgeResult]) -> None:
    """Publish the items of these results; of none, no file."""
    tables = [{**item_columns(result), **_origin(result)} for result in results]
    if tables:
        write_table(path, {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in tables[0]})


def _origin(result: TaskResult | ReadingResult | AgeResult) -> dict[str, Array]:
    items = result.items
    return {
        name: np.full(len(items.items), value, dtype=object)
        for name, value in zip(ORIGIN, (result.backend, items.rules, items.dataset), strict=True)
    }


def milestone_file(trial: Path, milestone: int) -> Path:
    """Where a trial keeps the items of the milestone at so many words."""
    return trial / "evaluation" / "milestones" / f"words_{milestone}.parquet"


def milestone_files(trial: Path) -> dict[int, Path]:
    """The nominal words of every milestone whose items a trial has kept, ascending, and where they are."""
    found = {int(match[1]): path for path in milestone_file(trial, 0).parent.glob("*") if (match := _MILESTONE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def checkpoint_files(out: Path) -> dict[int, Path]:
    """The same of the checkpoints that an evaluation has scored, by the words that their names say."""
    found = {path: words_seen(path.stem) for path in (out / "checkpoints").glob("*.parquet")}
    return dict(sorted((int(words), path) for path, words in found.items() if words is not None))


def find_items(place: str, option: str) -> Path:
    """The file that `place` means: itself, what an evaluation or trial in it has kept, TRIAL@WORDS for a milestone, or OUT@REVISION for a
    checkpoint. Raises UserError."""
    directory, at, which = place.rpartition("@")
    if at and not Path(place).exists():
        return _point(directory, which, option)
    path = Path(place)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{option} = {place}: no such directory of an evaluation or trial, nor a parquet file of items")
    for name in _PLACES:
        if (path / name).is_file():
            return path / name
    kept = ", ".join(f"{place}@{name}" for name in _points(path))
    what = f"no final scores in it yet (it holds {kept})" if kept else "no task has been scored there yet"
    raise UserError(f"{option} = {place}: {what}: no {' or '.join(_PLACES)}")


def _points(directory: Path) -> dict[str, Path]:
    """Milestones of a trial and checkpoints of an evaluation, by what follows the @."""
    return {str(words): path for words, path in milestone_files(directory).items()} | {
        path.stem: path for path in checkpoint_files(directory).values()
    }


def _point(directory: str, which: str, option: str) -> Path:
    if not Path(directory).is_dir():
        raise UserError(f"{option} = {directory}@{which}: no such directory of an evaluation or trial, nor a parquet file of items")
    there = _points(Path(directory))
    if which not in there:
        what = f"the milestone at {show_words(int(which))} words" if which.isdecimal() else f"a checkpoint {which}"
        raise UserError(f"{option} = {directory}@{which}: no items of {what} (kept: {', '.join(there) or 'none'})")
    return there[which]


def read_items(path: Path) -> Items:
    """The items in a file. Raises UserError for one that is damaged or holds something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        said = [name for name in _UNSAID if name in file.schema_arrow.names]
        table = file.read(columns=[*_KINDS, *said])
        kinds = _KINDS | {name: "i8" if name == "label" else "O" for name in said}
        columns = {name: _column(name, table[name], kind) for name, kind in kinds.items()}
        _check_credit(columns["task"], columns["credit"])
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a table of items, or a damaged one ({one_line(error)[:120]})") from None
    unsaid = {name: np.full(len(columns["task"]), value, dtype="i8" if name == "label" else "O") for name, value in _UNSAID.items()}
    return Items(**(unsaid | columns))


def _column(name: str, values: Any, kind: str) -> Array:
    """An arrow column as numpy. Raises ValueError for a value that is missing or of another kind."""
    import pyarrow.types as types

    whether, must_be = {
        "O": (types.is_string(values.type) or types.is_large_string(values.type), "texts"),
        "i8": (types.is_integer(values.type), "whole numbers"),
        "f8": (types.is_floating(values.type) or types.is_integer(values.type), "numbers"),
        "?": (types.is_boolean(values.type), "true or false"),
    }[kind]
    if not whether:
        raise ValueError(f"column {name}: {values.type}, must be {must_be}")
    if values.null_count:
        raise ValueError(f"column {name}: values missing in {values.null_count:,} rows")
    return np.asarray(values.to_numpy(zero_copy_only=False).astype(kind))


def _check_credit(task_I: Array, credit_I: Array) -> None:
    """Raises ValueError for a credit outside [0, 1]; one that is not a number is that of a task without right answers."""
    wrong_I = ~((credit_I >= 0) & (credit_I <= 1)) & ~(np.isnan(credit_I) & np.isin(task_I, _UNDECIDED))
    if wrong_I.any():
        first = int(wrong_I.argmax())
        raise ValueError(f"column credit = {credit_I[first]:g} of {task_I[first]}: must be from 0 to 1")


def final_items(trial: Path) -> tuple[int, Path] | None:
    """The words that a trial had seen at its end, and the items of its final scores; None where it has none. Raises UserError."""
    items, final = trial / _PLACES[1], trial / "final.json"
    if not (items.is_file() and final.is_file()):
        return None
    try:
        return int(parse(final.read_bytes())["words_seen"]), items
    except (BadJson, KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{final}: damaged; the words seen cannot be read") from None


def by_uid(items: Items) -> dict[tuple[str, str], Array]:
    """Places of the items of every (task, UID), in order of appearance."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(items.task, items.uid, strict=True)):
        groups.setdefault(key, []).append(i)
    return {key: np.array(places) for key, places in groups.items()}
