"""What an evaluation publishes of all that is finished in its directory: scores.json, scores.parquet, items.parquet, items by checkpoint.

`scores.parquet` has a row a UID of everything: every revision, full and fast. `items.parquet` has the model's own items, one subset a
task; `checkpoints/<revision>.parquet` those of a checkpoint. Both can be compared by `comparison.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sleep_tune.evaluation.averages import Average, averages
from sleep_tune.evaluation.finished import Finished, Records, Subset, items_table, one_a_task
from sleep_tune.evaluation.result_files import score_columns, summary, write_table
from sleep_tune.evaluation.rules import RULES
from sleep_tune.files import write_atomic, write_json


@dataclass(frozen=True)
class Scores:
    """All that is finished, in the order in which it is shown: the model's own tasks, and its learning curve."""

    finished: tuple[Finished, ...]
    shown: tuple[Finished, ...]  # one a task
    curve: Mapping[str, Sequence[Finished]]  # by revision, ascending in words seen, the model itself last; one a task
    averages: tuple[Average, ...]
    usual: Subset  # of the command

    @property
    def notes(self) -> list[str]:
        """What the tasks shown say, each line once; what a task says at checkpoints, once with the first of them."""
        lines = [note for one in self.shown for note in one.notes]
        where: dict[str, list[str]] = {}
        for one in (one for point in self.curve.values() for one in point if one.words_seen is not None):
            for note in one.notes:
                where.setdefault(note, []).append(one.revision)
        lines += [f"{at[0]}{f' and {len(at) - 1} more' if len(at) > 1 else ''}: {note}" for note, at in where.items()]
        return list(dict.fromkeys(lines))


def scores_of(records: Records, finished: Sequence[Finished], asked: Mapping[str, Subset], usual: Subset) -> Scores:
    """Choose what of `finished` stands for each task: as `asked`, else the `usual` subset of this command."""
    own = [one for one in finished if one.words_seen is None and one.revision == records.source.revision]
    shown = one_a_task(own, asked, usual)
    fast = Subset("fast", usual.items_per_uid)
    checkpoints = {one.revision: one.words_seen for one in finished if one.words_seen is not None}
    points = {revision: [one for one in finished if one.revision == revision and one.words_seen is not None] for revision in checkpoints}
    curve = {revision: one_a_task(point, {}, fast) for revision, point in points.items()}
    if curve:
        tasks = {one.task for point in curve.values() for one in point}
        last = one_a_task((one for one in own if one.task in tasks and one.subset.set == "fast"), {}, fast)
        curve |= {records.source.revision: last} if last and records.source.revision not in curve else {}
    rows = [row for one in shown for row in one.rows]
    means = averages(rows, {one.task: one.subset.marks for one in shown})
    return Scores(tuple(finished), tuple(shown), curve, tuple(means), usual)


def publish(records: Records, scores: Scores, seed: int, notes: Sequence[str]) -> None:
    """Write all of it below the records' directory. `seed`: of samples; `notes`: what the reader has to know."""
    out = records.out
    write_table(out / "scores.parquet", _score_table(scores.finished))
    items: dict[Path, Sequence[Finished]] = {out / "items.parquet": scores.shown}
    items |= {out / "checkpoints" / f"{name}.parquet": point for name, point in scores.curve.items() if name != records.source.revision}
    for path in (out / "items.parquet", *(out / "checkpoints").glob("*.parquet")):
        if not items.get(path):
            path.unlink(missing_ok=True)  # of the model before it was trained again, or of other rules
    for path, finished in items.items():
        _write_items(path, finished)
    write_json(out / "scores.json", _json(records, scores, seed, notes))


def _json(records: Records, scores: Scores, seed: int, notes: Sequence[str]) -> dict[str, Any]:
    own, rules = records.source.revision, records.rules
    about: dict[str, Any] = {"set": scores.usual.set, "items_per_uid": scores.usual.items_per_uid, "seed": seed}
    about |= {"datasets": {one.task: one.dataset for one in scores.shown}, "notes": list(notes)}
    content: dict[str, Any] = {
        "model": records.source.place,
        "place": records.identity(records.final).place,
        "digest": records.final.digest,
        "revision": own,
        "backend": records.label,
        "rules": rules,
    }
    content |= {"reproduces": RULES[rules].reproduces, **about, "averages": [asdict(mean) for mean in scores.averages]}
    fast = one_a_task((one for one in scores.finished if one.revision == own and one.subset.set == "fast"), {}, Subset("fast"))
    points = {revision: point for revision, point in scores.curve.items() if revision != own}
    content["tasks"], content["fast"] = _tasks(scores.shown), _tasks([one for one in fast if one not in scores.shown])
    content["checkpoints"] = {revision: {"words_seen": point[0].words_seen, "tasks": _tasks(point)} for revision, point in points.items()}
    return content


def _tasks(finished: Sequence[Finished]) -> dict[str, dict[str, Any]]:
    """Score, standard error and what they rest on, by task."""
    return {
        one.task: summary(one.rows)[one.task]
        | {"set": one.subset.set, "items_per_uid": one.subset.items_per_uid, "dataset": one.dataset, "seed": one.seed}
        for one in finished
    }


def _score_table(finished: Sequence[Finished]) -> Any:
    """A row a UID: what was scored, and whose."""
    import pyarrow as pa

    columns = score_columns([row for one in finished for row in one.rows])
    of_rows = [_whose(one) for one in finished for _ in one.rows]
    return columns | {name: pa.array([whose[name] for whose in of_rows], type_) for name, type_ in _types().items()}


def _types() -> dict[str, Any]:
    """What a row says of the task it is of, beside backend and rules, and as what: a checkpoint has seen words, a sample has a size."""
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    names = {"model": text, "revision": text, "words_seen": pa.float64(), "set": text, "items_per_uid": whole}
    return names | {"seed": whole, "dataset": text}


def _whose(one: Finished) -> dict[str, Any]:
    subset = {"set": one.subset.set, "items_per_uid": one.subset.items_per_uid}
    return {"model": one.model, "revision": one.revision, "words_seen": one.words_seen, **subset, "seed": one.seed, "dataset": one.dataset}


def _write_items(path: Path, finished: Sequence[Finished]) -> None:
    """The items of these tasks in one table, each with whose they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for one in finished:
        table = items_table(one.path)
        about = {"backend": one.backend, "rules": one.rules} | _whose(one)
        for name, kind in ({"backend": pa.string(), "rules": pa.string()} | _types()).items():
            table = table.append_column(name, pa.array([about[name]] * len(table), kind))
        tables.append(table)
    if tables:
        write_atomic(path, lambda file: pq.write_table(pa.concat_tables(tables), file))
