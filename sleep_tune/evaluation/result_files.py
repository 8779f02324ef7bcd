"""Scores and items as parquet and JSON, and what of an interrupted evaluation is done: one file a finished task."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.digests import canonical_json, digest
from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import AgeResult
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.reading import ReadingResult
from sleep_tune.evaluation.scores import ScoreRow, TaskResult, task_rows, task_score, task_stderr
from sleep_tune.evaluation.tasks import Item, TaskItems
from sleep_tune.files import write_atomic, write_json


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Publish equally long columns as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_atomic(path, lambda file: pq.write_table(pa.table(columns), file))


def read_table(path: Path) -> dict[str, list[Any]]:
    """The columns of a parquet file."""
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pydict()


def score_columns(rows: Sequence[ScoreRow]) -> dict[str, list[Any]]:
    """Rows as columns, for scores.parquet."""
    return {field.name: [getattr(row, field.name) for row in rows] for field in fields(ScoreRow)}


def item_columns(result: TaskResult | ReadingResult | AgeResult) -> dict[str, list[Any] | Array]:
    """One row an item: what two models are compared by. `margin` is the right candidate's score less the best other one, nats.

    Reading and aoa decide nothing: only `score` is theirs, the log-probability of the word (aoa: at the last checkpoint).
    """
    items = result.items.items
    names: dict[str, list[Any] | Array] = {
        "task": [result.items.task] * len(items),
        "uid": [item.uid for item in items],
        "item": [item.index for item in items],
        "text": np.array([_text_key(item) for item in items], dtype=np.int64),
    }
    if not isinstance(result, TaskResult):
        nothing_I, no_I = np.full(len(items), np.nan), np.zeros(len(items), bool)
        return names | {
            "margin": nothing_I.astype(np.float32),
            "score": result.log_probability_I.astype(np.float32),
            "credit": nothing_I,
            "chosen": np.full(len(items), -1),
            "tie": no_I,
            "nan": result.nan_I,
            "too_long": result.too_long_I,
        }
    decisions = result.decisions
    return names | {
        "margin": result.margin_I,
        "score": result.scores_IC[:, 0],
        "credit": decisions.credit_I,
        "chosen": decisions.chosen_I,
        "tie": decisions.tie_I,
        "nan": decisions.nan_I,
        "too_long": result.too_long_I,
    }


def _text_key(item: Item) -> int:
    """A number that two items share if their candidates are the same texts: an index means another item under other rules."""
    return int.from_bytes(bytes.fromhex(digest(*item.sentences, *item.completions, size=8)), "little", signed=True)


def summary(rows: Sequence[ScoreRow]) -> dict[str, dict[str, Any]]:
    """Score, standard error and what it rests on, by task."""
    return {
        task: {
            "score": task_score(table),
            "stderr": task_stderr(table),
            "unit": table[0].unit,
            "uids": len(table),
            "n": sum(row.n for row in table),
            "ties": sum(row.ties for row in table),
            "nans": sum(row.nans for row in table),
        }
        for task, table in task_rows(rows).items()
    }


def work_key(model_digest: str, items: TaskItems, backend: str) -> str:
    """What a finished task is recognised by: the model, the very items, backend, rules and seed."""
    fields_of = [[item.uid, item.index, item.sentences, item.completions, item.ratio, str(dict(item.numbers))] for item in items.items]
    texts = canonical_json(fields_of)
    return digest(model_digest, items.task, items.dataset, items.rules, str(items.seed), backend, texts)


def write_finished(out: Path, key: str, result: TaskResult | ReadingResult | AgeResult) -> None:
    """Record a scored task below `out`; its items first, so that the record vouches for them."""
    write_table(out / "tasks" / f"{result.items.task}.parquet", item_columns(result))
    record = {"key": key, "rows": [asdict(row) for row in result.rows], "notes": result.notes()}
    write_json(out / "tasks" / f"{result.items.task}.json", record)


def read_finished(out: Path, task: str, key: str) -> tuple[list[ScoreRow], list[str]] | None:
    """Rows and notes of a task that is scored already, under the same key; else None."""
    path = out / "tasks" / f"{task}.json"
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return None
    try:
        record = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path}: damaged; delete it to score {task} again") from None
    return ([ScoreRow(**row) for row in record["rows"]], record["notes"]) if record.get("key") == key else None


def write_all(out: Path, rows: Sequence[ScoreRow], about: dict[str, Any]) -> None:
    """Publish scores.json, scores.parquet and items.parquet of the finished tasks that `rows` are of."""
    tables = [read_table(out / "tasks" / f"{task}.parquet") for task in task_rows(rows)]
    columns = tables[0] if tables else {}
    write_table(out / "items.parquet", {name: [value for table in tables for value in table[name]] for name in columns})
    write_table(out / "scores.parquet", score_columns(rows))
    write_json(out / "scores.json", about | {"tasks": summary(rows)})
