"""What a model did item by item, kept beside its scores: which of two answers it prefers and by how much.

`items.parquet`, one row an item: `ITEM_COLUMNS`. The evaluation command writes one for all its tasks, a trial one at its end and one
for every milestone that it is scored at. Two of them are compared by `comparison.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import AgeResult
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.reading import ReadingResult
from sleep_tune.evaluation.result_files import item_columns, write_table
from sleep_tune.evaluation.scores import TaskResult
from sleep_tune.words import show_words

ITEMS = "items.parquet"
_PLACES = (ITEMS, f"evaluation/{ITEMS}")  # in the directory of an evaluation or a trial
_MILESTONE = re.compile(r"words_(\d+)\.parquet")
_KINDS = {"task": "O", "uid": "O", "item": "i8", "text": "i8", "margin": "f8", "credit": "f8", "tie": "?", "nan": "?"}


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

    def __len__(self) -> int:
        return len(self.task)

    def where(self, chosen: Array) -> "Items":
        """The items at these places, or where this is true."""
        return Items(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def write_items(path: Path, results: Sequence[TaskResult | ReadingResult | AgeResult]) -> None:
    """Publish the items of these results; of none, no file."""
    tables = [item_columns(result) for result in results]
    if tables:
        write_table(path, {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in tables[0]})


def milestone_file(trial: Path, milestone: int) -> Path:
    """Where a trial keeps the items of the milestone at so many words."""
    return trial / "evaluation" / "milestones" / f"words_{milestone}.parquet"


def milestone_files(trial: Path) -> dict[int, Path]:
    """The nominal words of every milestone whose items a trial has kept, ascending, and where they are."""
    found = {int(match[1]): path for path in milestone_file(trial, 0).parent.glob("*") if (match := _MILESTONE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def find_items(place: str, option: str) -> Path:
    """The file that `place` means: itself, what an evaluation or trial in it has kept, or TRIAL@WORDS for a milestone. Raises UserError."""
    trial, at, words = place.rpartition("@")
    if at and words.isdigit() and not Path(place).exists():
        return _milestone(Path(trial), int(words), option)
    path = Path(place)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{option} = {place}: no such directory of an evaluation or trial, nor a parquet file of items")
    for name in _PLACES:
        if (path / name).is_file():
            return path / name
    kept = ", ".join(f"{place}@{milestone}" for milestone in milestone_files(path))
    raise UserError(f"{option} = {place}: holds no {' or '.join(_PLACES)}" + (f" (it holds {kept})" if kept else ""))


def _milestone(trial: Path, words: int, option: str) -> Path:
    there = milestone_files(trial)
    if words not in there:
        kept = ", ".join(str(milestone) for milestone in there) or "none"
        raise UserError(f"{option} = {trial}@{words}: no items of the milestone at {show_words(words)} words (kept: {kept})")
    return there[words]


def read_items(path: Path) -> Items:
    """The items in a file. Raises UserError for one that is damaged or holds something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(_KINDS))
        columns = {name: table[name].to_numpy(zero_copy_only=False).astype(kind) for name, kind in _KINDS.items()}
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a table of items, or a damaged one ({' '.join(str(error).split())[:120]})") from None
    return Items(**columns)


def by_uid(items: Items) -> dict[tuple[str, str], Array]:
    """Places of the items of every (task, UID), in order of appearance."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(items.task, items.uid, strict=True)):
        groups.setdefault(key, []).append(i)
    return {key: np.array(places) for key, places in groups.items()}
