"""Scores and items as columns, and parquet: the forms that every table of an evaluation has."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.digests import digest
from sleep_tune.evaluation.age_of_acquisition import AgeResult
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.reading import ReadingResult
from sleep_tune.evaluation.scores import ScoreRow, TaskResult, task_rows, task_score, task_stderr
from sleep_tune.evaluation.tasks import Item
from sleep_tune.files import write_atomic


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Publish equally long columns as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_atomic(path, lambda file: pq.write_table(pa.table(columns), file))


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
        "text": np.array([text_key(item) for item in items], dtype=np.int64),
        "label": np.array([int(item.numbers.get("label", -1)) for item in items], dtype=np.int64),
    }
    no_I = np.zeros(len(items), bool)
    odd = {"unknown": result.texts.unknown_I if result.texts else no_I, "beyond": result.texts.beyond_I if result.texts else no_I}
    if not isinstance(result, TaskResult):
        nothing_I = np.full(len(items), np.nan)
        return names | {
            "margin": nothing_I.astype(np.float32),
            "score": result.log_probability_I.astype(np.float32),
            "credit": nothing_I,
            "chosen": np.full(len(items), -1),
            "tie": no_I,
            "nan": result.nan_I,
            "too_long": result.too_long_I,
            **odd,
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
        **odd,
    }


def text_key(item: Item) -> int:
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
