"""What of an evaluation is done: a record a finished task, beside its items. A later command goes on from there, and gathers all of it.

`tasks/<revision>/<backend>/<rules>/<subset>/<task>.json` and `.parquet` below an evaluation's directory. A record says whose scores
these are and which items they rest on; what they are worth together is `averages.py`'s.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sleep_tune.digests import canonical_json, digest
from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import AgeResult
from sleep_tune.evaluation.finetune_settings import GLUE, GROUP
from sleep_tune.evaluation.model_source import ModelSource
from sleep_tune.evaluation.official_layout import results_stand, write_results
from sleep_tune.evaluation.plan import WITHIN_WORD, labelled
from sleep_tune.evaluation.reading import ReadingResult
from sleep_tune.evaluation.result_files import item_columns, write_table
from sleep_tune.evaluation.result_records import Identity
from sleep_tune.evaluation.scores import ScoreRow, TaskResult
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.evaluation.tasks import TASKS, TaskItems
from sleep_tune.files import locked, write_json

Set = Literal["full", "fast", "pilot"]
_FORM = 3  # of a record: another one where scores or items have come to mean something else
# where an evaluation writes, and how a file is named that is not whole yet
_WRITTEN = (".*", "tasks/**/.*", "results/**/.*", f"{GROUP}/**/.*", "checkpoints/.*", "milestones/.*")
_UNFINISHED = re.compile(r"\..+\.(json|jsonl|parquet|txt)\.[a-z0-9_]{8}")
_ORDER = {task: place for place, task in enumerate((*TASKS, *GLUE))}


@contextmanager
def held(out: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """One command at a time writes to `out`: another one waits, and `say`s so. What a killed one left unfinished goes."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out / "lock", wait=False))
        except BlockingIOError:
            say(f"{out}: another command writes there: waiting for its end")
            stack.enter_context(locked(out / "lock"))
        for path in [path for pattern in _WRITTEN for path in out.glob(pattern) if _UNFINISHED.fullmatch(path.name)]:
            path.unlink()
        yield


@dataclass(frozen=True)
class Subset:
    """Which of a task's items were scored: the full or the fast set, or a pilot's; `items_per_uid` where some of it was left out."""

    set: Set = "full"
    items_per_uid: int | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """What tells it from the whole set, in words; () for that."""
        sampled = () if self.items_per_uid is None else (f"{self.items_per_uid:,} item{'s' * (self.items_per_uid != 1)} of every UID",)
        return (() if self.set == "full" else (self.set,)) + sampled

    def __str__(self) -> str:
        return ", ".join(self.marks or (self.set,))

    @property
    def directory(self) -> str:
        """Its name below `tasks`."""
        return self.set + ("" if self.items_per_uid is None else f"_{self.items_per_uid}_of_uid")


@dataclass(frozen=True)
class Part:
    """Items of one task to be scored, and which of the task's items these are."""

    items: TaskItems
    subset: Subset

    @cached_property
    def key(self) -> str:
        """A digest of the very items, their dataset, rules and seed."""
        items = self.items
        fields_of = [[one.uid, one.index, one.sentences, one.completions, one.ratio, str(dict(one.numbers))] for one in items.items]
        return digest(items.task, items.dataset, items.rules, str(items.seed), canonical_json(fields_of))


def part_of(items: TaskItems, fast: bool, items_per_uid: int | None) -> Part:
    """Items as they were asked for; those of a directory that is the fast set's are fast, whatever was asked."""
    task = TASKS[items.task]
    fast = fast or items.dataset == task.fast != task.full
    return Part(items, Subset("fast" if fast else "full", items_per_uid if items.sampled else None))


@dataclass(frozen=True)
class Target:
    """A model that is scored: its revision in the results, a digest of its files, of a checkpoint the words it has seen and its place."""

    revision: str
    digest: str
    words_seen: float | None = None
    place: str | None = None  # None: where the records' own model is


@dataclass(frozen=True)
class Finished:
    """A finished task of a model, as its record says."""

    task: str
    model: str  # as the command line named it
    revision: str
    words_seen: float | None
    backend: str
    rules: str
    subset: Subset
    seed: int
    dataset: str
    rows: tuple[ScoreRow, ...]
    notes: tuple[str, ...]
    path: Path  # of the record; the items are beside it


@dataclass(frozen=True)
class Records:
    """The finished tasks below `out` of one model and the checkpoints of its series, under one backend and one set of rules."""

    out: Path
    source: ModelSource
    backend: str  # a plan's
    rules: str
    bf16: bool = False

    @cached_property
    def final(self) -> Target:
        """The model itself, not one of its checkpoints."""
        return Target(self.source.revision, self.source.digest)

    def identity(self, target: Target) -> Identity:
        """Whose results the official files are."""
        return Identity.of(target.digest, target.place or self.source.place)

    @property
    def label(self) -> str:
        """The backend as results name it."""
        return labelled(self.backend, self.bf16)

    def read(self, target: Target, part: Part) -> dict[str, Any] | None:
        """The record of a part that is scored already; None where there is none, or it is of another model or other items, or its
        official files are no longer there."""
        record = _read(self._path(target.revision, self.label, part))
        if record is None or record.get("key") != self._key(target, part) or record.get("final") != self.final.digest:
            return None  # a checkpoint that was scored for another model is not gathered for this one
        whole = not record.get("official", True) or results_stand(
            part.items, self.out, self.source.name, target.revision, self.label, target.digest
        )
        return record if whole else None

    def items_file(self, target: Target, part: Part) -> Path:
        """Where the items of a scored part are, a row each."""
        return self._path(target.revision, self.label, part).with_suffix(".parquet")

    def keep(
        self,
        target: Target,
        part: Part,
        result: TaskResult | ReadingResult | AgeResult,
        official: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish a scored part: the `official` files where these items have a place there, its items, then the record, which vouches for
        both; an old one is taken away before. `more` is kept in it. A sample of items never takes the place of the whole."""
        path = self._path(target.revision, self.label, part)
        path.unlink(missing_ok=True)  # it vouches for what is about to be replaced
        official = official and not (isinstance(result, AgeResult) and not result.defined) and not self._whole_is_there(target, part)
        if official:
            write_results(result, self.out, self.source.name, target.revision, self.identity(target))
        about = self._about(target, self.label, part) | {"key": self._key(target, part), "notes": result.notes(), "official": official}
        _publish(path, about | dict(more or {}), result.rows, item_columns(result))

    def keep_tuned(self, row: ScoreRow, notes: Sequence[str], part: Part, columns: Mapping[str, Any]) -> None:
        """The same of a fine-tuned task, which has its own record of every seed."""
        about = self._about(self.final, row.backend, part) | {"notes": list(notes)}
        path = self._path(self.final.revision, row.backend, part)
        path.unlink(missing_ok=True)
        _publish(path, about, [row], columns)

    def gather(self, known: Iterable[Target]) -> list[Finished]:
        """Everything that is finished of this model: of revisions that are `known`, only what their files of today were scored for.

        Raises UserError for a damaged record.
        """
        digests = {target.revision: target.digest for target in known}
        plain = "mlm" if self.backend == WITHIN_WORD else self.backend  # fine-tuning has neither bfloat16 nor another way of scoring
        found = []
        for path in sorted((self.out / "tasks").glob(f"*/*/{self.rules}/*/*.json")):
            record = _read(path)
            if record is None or record.get("final") != self.final.digest:
                continue
            one = _finished(path, record)
            ours = one.backend == self.label or (one.task in GLUE and one.backend == plain)
            if one.rows and ours and record.get("scored") == digests.get(one.revision, record.get("scored")):
                found.append(one)
        found.sort(key=lambda one: (one.words_seen is None, one.words_seen or 0, _ORDER.get(one.task, len(_ORDER))))
        return found

    def _whole_is_there(self, target: Target, part: Part) -> bool:
        """Whether a part is a sample of what the same model has answered as a whole."""
        if part.subset.items_per_uid is None:
            return False
        whole = _read(self._path(target.revision, self.label, Part(part.items, Subset(part.subset.set))))
        return whole is not None and whole.get("scored") == target.digest and bool(whole.get("official"))

    def _path(self, revision: str, label: str, part: Part) -> Path:
        return self.out / "tasks" / revision / label / self.rules / part.subset.directory / f"{part.items.task}.json"

    def _key(self, target: Target, part: Part) -> str:
        return digest(target.digest, self.label, part.key)

    def _about(self, target: Target, label: str, part: Part) -> dict[str, Any]:
        whose = {"model": self.source.place, "revision": target.revision, "words_seen": target.words_seen}
        digests = {"final": self.final.digest, "scored": target.digest}
        which = {"task": part.items.task, "backend": label, "rules": self.rules, "subset": asdict(part.subset)}
        return whose | digests | which | {"seed": part.items.seed, "dataset": part.items.dataset}


def _publish(path: Path, about: Mapping[str, Any], rows: Sequence[ScoreRow], columns: Mapping[str, Any]) -> None:
    write_table(path.with_suffix(".parquet"), dict(columns))
    write_json(path, {"form": _FORM, **about, "rows": [asdict(row) for row in rows]})


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none that is whole, or its scores are an earlier version's. Raises UserError for what is no record."""
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return None
    try:
        record = parse(path.read_bytes())
    except BadJson:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path}: damaged; delete it to score {path.stem} again")
    return record if record.get("form") == _FORM else None


def _finished(path: Path, record: dict[str, Any]) -> Finished:
    names = ("task", "model", "revision", "words_seen", "backend", "rules", "seed", "dataset")
    try:
        rows, notes = tuple(ScoreRow(**row) for row in record["rows"]), tuple(record["notes"])
        return Finished(**{name: record[name] for name in names}, subset=Subset(**record["subset"]), rows=rows, notes=notes, path=path)
    except (KeyError, TypeError):
        raise UserError(f"{path}: not a record of this version; delete it to score {path.stem} again") from None


def items_table(record: Path, columns: Sequence[str] | None = None) -> Any:
    """The table of items beside a record. Raises UserError for a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = record.with_suffix(".parquet")
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException):
        raise UserError(f"{path}: damaged; delete it to score {path.stem} again") from None


def one_a_task(finished: Iterable[Finished], asked: Mapping[str, Subset], usual: Subset) -> list[Finished]:
    """Of each task one, as the table shows it: the subset that was asked for, else one like the others, else the most that is there."""

    def rank(one: Finished) -> tuple[bool, bool, bool, bool]:
        return one.subset != asked.get(one.task), one.subset != usual, one.subset.set != "full", one.subset.items_per_uid is not None

    best: dict[str, Finished] = {}
    for one in sorted(finished, key=rank):
        best.setdefault(one.task, one)
    return sorted(best.values(), key=lambda one: _ORDER.get(one.task, len(_ORDER)))
