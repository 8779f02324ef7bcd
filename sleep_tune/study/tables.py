"""A study's tables, derived from its ledger and `trials/` alone: `trials`, `scores`, `steps`, `cycles`, tidy, one row a fact.

trials: a row a trial: trial, configuration, seed, origin, state, words_seen, steps, objective, wall_s, message, schedule, matched_to
(of a control: its pair), varied fields.
scores: a row a UID of a task and a model at `words_seen`: trial and `SCORE_COLUMNS`.
steps: a row an optimizer step: trial and `STEP_COLUMNS`.
cycles: a row a cycle that ended: trial, `CYCLE_COLUMNS` (told in `sleep.instruments`) and `wake_loss`, `sleep_loss`, the means of its
batches' losses in either phase, weighted by their tokens; null without such a phase. What has an entry an age, domain or fold is a list.
`objective` is the last reported value, whatever the state: only those of complete trials are at the full budget. `wall_s` of a
trial is the time of its training steps. Works while the study runs and after a kill: a torn last line is left out.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from sleep_tune.config import load_config, varied
from sleep_tune.errors import UserError
from sleep_tune.files import write_atomic
from sleep_tune.study.controls import controlled
from sleep_tune.study.labels import describe, field, readable, told_apart
from sleep_tune.study.ledger import BESIDE, LedgerView, TrialRecord, matched_to, read_ledger

SCORE_COLUMNS = pa.schema(
    {
        "words_seen": pa.int64(), "final": pa.bool_(), "task": pa.string(), "uid": pa.string(), "n": pa.int64(), "score": pa.float64(),
        "unit": pa.string(), "stderr": pa.float64(), "ties": pa.int64(), "nans": pa.int64(), "rules": pa.string(), "backend": pa.string(),
        "set": pa.string(), "items_per_uid": pa.int64(),
    }
)  # fmt: skip
STEP_COLUMNS = pa.schema(
    {
        "step": pa.int64(), "cycle": pa.int32(), "phase": pa.string(), "words_seen": pa.int64(), "loss": pa.float32(), "lr": pa.float32(),
        "grad_norm": pa.float32(), "tokens": pa.int32(), "wall_s": pa.float32(),
    }
)  # fmt: skip
CYCLE_COLUMNS = pa.schema(
    {
        "cycle": pa.int32(), "step": pa.int64(), "words_seen": pa.int64(), "fold": pa.int32(), "folds": pa.int32(),
        "wake_rows": pa.int64(), "sleep_rows": pa.int64(), "frozen_units": pa.int64(), "shrunk_weights": pa.int64(),
        "candidates": pa.int64(), "eligible": pa.int64(), "buffer": pa.int64(),
        "new_in_buffer": pa.int64(), "turnover": pa.float64(), "selected_ever": pa.int64(),
        "score_mean": pa.float64(), "score_p5": pa.float64(), "score_p25": pa.float64(),
        "score_p50": pa.float64(), "score_p75": pa.float64(), "score_p95": pa.float64(), "buffer_score_mean": pa.float64(),
        "replays": pa.int64(), "replayed": pa.int64(), "replay_times": pa.list_(pa.int64()), "replay_samples": pa.list_(pa.int64()),
        "candidates_by_age": pa.list_(pa.int64()), "replays_by_age": pa.list_(pa.int64()), "domain": pa.list_(pa.string()),
        "candidates_by_domain": pa.list_(pa.int64()), "replays_by_domain": pa.list_(pa.int64()),
        "retention_fold": pa.list_(pa.int32()), "retention_loss": pa.list_(pa.float64()),
    }
)  # fmt: skip
PHASE_LOSSES = {"wake": "wake_loss", "sleep": "sleep_loss"}
_TRIAL = pa.field("trial", pa.string())


def write_tables(study_directory: Path) -> dict[str, Path]:
    """Derive the tables anew; returns name -> path. Raises UserError where there is no study, RunError where its ledger is corrupt."""
    ledger = read_ledger(study_directory)
    paths = {name: study_directory / "tables" / f"{name}.parquet" for name in ("trials", "scores", "steps", "cycles")}
    totals: dict[str, dict[str, Any]] = {}
    losses: dict[str, dict[tuple[int, str], float]] = {}

    def steps() -> Iterator[pa.Table]:
        for trial in ledger.trials:
            table = read_lines(study_directory / "trials" / trial / "steps.jsonl", STEP_COLUMNS)
            totals[trial], losses[trial] = _totals(table), _phase_losses(table)
            yield _of_trial(trial, table)

    def cycles() -> Iterator[pa.Table]:
        for trial in ledger.trials:
            table = read_lines(study_directory / "trials" / trial / "cycles.jsonl", CYCLE_COLUMNS)
            yield _of_trial(trial, _with_losses(table, losses[trial]))

    scores = (_of_trial(trial, read_lines(study_directory / "trials" / trial / "scores.jsonl", SCORE_COLUMNS)) for trial in ledger.trials)
    _write(paths["steps"], STEP_COLUMNS.insert(0, _TRIAL), steps())
    _write(paths["cycles"], _with_losses(CYCLE_COLUMNS.empty_table(), {}).schema.insert(0, _TRIAL), cycles())
    _write(paths["scores"], SCORE_COLUMNS.insert(0, _TRIAL), scores)
    trials = trial_table(ledger, totals)
    _write(paths["trials"], trials.schema, iter([trials]))
    return paths


def read_lines(path: Path, columns: pa.Schema) -> pa.Table:
    """The JSON lines of `path` as a table with exactly `columns`; empty where there is no file. What is not a whole line is left out."""
    data = path.read_bytes() if path.exists() else b""
    data = data[: data.rfind(b"\n") + 1]
    if not data.strip():
        return columns.empty_table()
    options = pj.ParseOptions(explicit_schema=columns, unexpected_field_behavior="ignore")
    try:
        return _parsed(data, options, columns)
    except pa.ArrowInvalid:  # a damaged line (a power cut leaves zeros): keep the others
        good = [line for line in data.splitlines() if _is_object(line)]
        return _parsed(b"\n".join(good) + b"\n", options, columns) if good else columns.empty_table()


def varied_fields(ledger: LedgerView) -> list[str]:
    """Dotted fields the search varies: those of the study's `vary`, and whatever else differs between its trials (an extended study)."""
    searched = [load_config(record.config) for record in ledger.trials.values() if record.origin not in BESIDE]
    return list(dict.fromkeys([*ledger.spec.get("vary", {}), *varied(searched)]))


def trial_table(ledger: LedgerView, totals: dict[str, dict[str, Any]]) -> pa.Table:
    """The table `trials`. totals: trial -> {steps, words_seen, wall_s} of its step records."""
    configs = {record.configuration: record.config for record in ledger.trials.values()}
    try:
        fields = varied_fields(ledger)
        labels = told_apart(configs, fields, controlled(ledger))
    except UserError:  # written by another version, whose fields this one does not know
        fields = list(ledger.spec.get("vary", {}))
        labels = {name: describe(config, fields) for name, config in configs.items()}
    rows = [_trial_row(record, labels[record.configuration], totals.get(record.trial, {})) for record in ledger.trials.values()]
    columns: dict[str, pa.Array] = {}
    for name, kind in _TRIAL_COLUMNS.items():
        columns[name] = pa.array([row[name] for row in rows], kind)
    for name in fields:
        columns[name] = _column([field(record.config, name) for record in ledger.trials.values()])
    return pa.table(columns)


_TRIAL_COLUMNS = {
    "trial": pa.string(), "configuration": pa.string(), "seed": pa.int64(), "origin": pa.string(), "state": pa.string(),
    "words_seen": pa.int64(), "steps": pa.int64(), "objective": pa.float64(), "wall_s": pa.float64(), "message": pa.string(),
    "schedule": pa.string(), "matched_to": pa.string(),
}  # fmt: skip


def _trial_row(record: TrialRecord, schedule: str, total: dict[str, Any]) -> dict[str, Any]:
    last = record.reports[-1] if record.reports else None
    return {
        "trial": record.trial,
        "configuration": record.configuration,
        "seed": record.seed,
        "origin": record.origin,
        "state": str(record.state),
        "words_seen": max(last.words_seen if last else 0, total.get("words_seen", 0)),
        "steps": total.get("steps", 0),
        "objective": last.value if last else None,
        "wall_s": total.get("wall_s", 0.0),
        "message": record.message,
        "schedule": schedule,
        "matched_to": matched_to(record.config),
    }


def _column(values: list[Any]) -> pa.Array:
    """Numbers as numbers, everything else as people write it; null where the field is not set."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        whole = all(isinstance(value, int) for value in known)
        return pa.array(values, pa.int64() if whole and known else pa.float64())
    return pa.array([None if value is None else readable(value) for value in values], pa.string())


def _totals(steps: pa.Table) -> dict[str, Any]:
    if not steps.num_rows:
        return {}
    wall_s = pc.sum(steps["wall_s"].cast(pa.float64())).as_py()
    return {"steps": pc.max(steps["step"]).as_py(), "words_seen": pc.max(steps["words_seen"]).as_py(), "wall_s": wall_s}


def _phase_losses(steps: pa.Table) -> dict[tuple[int, str], float]:
    """(cycle, phase) -> mean loss of its batches, weighted by their tokens; steps whose loss is missing left out."""
    whole = steps.filter(pc.and_(pc.is_finite(steps["loss"]), pc.greater(steps["tokens"], 0)))
    sums = whole.append_column("nats", pc.multiply(whole["loss"].cast(pa.float64()), whole["tokens"].cast(pa.float64())))
    groups = sums.group_by(["cycle", "phase"]).aggregate([("nats", "sum"), ("tokens", "sum")]).to_pylist()
    return {(row["cycle"], row["phase"]): row["nats_sum"] / row["tokens_sum"] for row in groups}


def _with_losses(cycles: pa.Table, losses: dict[tuple[int, str], float]) -> pa.Table:
    for phase, name in PHASE_LOSSES.items():
        values = [losses.get((cycle, phase)) for cycle in cycles["cycle"].to_pylist()]
        cycles = cycles.append_column(name, pa.array(values, pa.float64()))
    return cycles


def _of_trial(trial: str, table: pa.Table) -> pa.Table:
    return table.add_column(0, _TRIAL, pa.repeat(pa.scalar(trial), table.num_rows))


def _parsed(data: bytes, options: pj.ParseOptions, columns: pa.Schema) -> pa.Table:
    reading = pj.ReadOptions(use_threads=False, block_size=max(1 << 20, min(len(data), 1 << 24)))
    return pj.read_json(io.BytesIO(data), read_options=reading, parse_options=options).select(columns.names).cast(columns)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Publish `tables`, one row group each, so that a long study needs the memory of one trial."""

    def write(file: Any) -> None:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for table in tables:
                if table.num_rows:
                    writer.write_table(table)

    write_atomic(path, write)
