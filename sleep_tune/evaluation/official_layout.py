"""Writes results in the official layout, so that the official collation accepts them:
`results/<model>/<revision>/zero_shot/<backend>/<task>/<dataset>/{best_temperature_report.txt,predictions.json}`; reading's and
aoa's files have no directory of a dataset, and aoa, which is about a series of models, is always below `main`. Beside each lies
`made_from.json`, of which `result_records.py` knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import AgeResult, surprisal_file
from sleep_tune.evaluation.challenge import revision_of
from sleep_tune.evaluation.prediction_checks import step_of
from sleep_tune.evaluation.reading import ReadingResult, official_files
from sleep_tune.evaluation.result_records import PREDICTIONS, Identity, Record, begin_results, claim, read_record
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.scores import TaskResult, task_score
from sleep_tune.evaluation.tasks import TASKS, Item, TaskItems, uid_key
from sleep_tune.files import write_text
from sleep_tune.streams import stream

Result = TaskResult | ReadingResult | AgeResult


def write_results(result: Result, out: Path, model_name: str, revision: str = "main", model: Identity | None = None) -> Path:
    """Write report and predictions of a task below `out`; returns their directory. A revision named by its words alone
    (words_1000000) gets the challenge's name (chck_1M).

    `model` is the one that the results are of, for aoa that whose checkpoints they are. Raises UserError where results of another one are
    in its place.
    """
    revision = "main" if isinstance(result, AgeResult) else revision_of(revision) or revision
    place = _place(result.items, out, model_name, revision, result.backend)
    if isinstance(result, AgeResult) and not result.defined:
        return place
    if model is not None:
        claim(out, model_name, revision, model)
    begin_results(place, _record(result, model))
    if isinstance(result, TaskResult):
        write_text(place / "best_temperature_report.txt", report(result))
        write_text(place / PREDICTIONS, json.dumps(predictions(result)))
    elif isinstance(result, ReadingResult):
        for name, text in official_files(result).items():
            write_text(place / name, text)
    else:
        surprisals = surprisal_file(result, model_name)
        surprisals["results"] = [entry | {"step": step_of(entry)} for entry in surprisals["results"]]
        write_text(place / "surprisal.json", json.dumps(surprisals, indent=2))
        write_text(place / "aoa_score.json", json.dumps({"aoa": result.rows[0].score}))  # 2026's, which takes the score from it
    return place


def _place(items: TaskItems, out: Path, model_name: str, revision: str, backend: str) -> Path:
    task = TASKS[items.task]
    place = out / "results" / model_name / revision / "zero_shot" / backend / task.official_name
    return place if task.aggregate in ("reading", "ages") else place / items.dataset


def results_stand(items: TaskItems, out: Path, model_name: str, revision: str, backend: str, digest: str) -> bool:
    """Whether what `write_results` wrote of a model's answers to these items is still there: not deleted, damaged, or overwritten by
    another run's, whose rules or number of items differ."""
    ages = TASKS[items.task].aggregate == "ages"
    place = _place(items, out, model_name, "main" if ages else revision_of(revision) or revision, backend)
    try:
        record = read_record(place)
        json.loads((place / ("surprisal.json" if ages else PREDICTIONS)).read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError, RecursionError):
        return False
    return record is not None and (record.model, record.rules, record.items) == (digest, items.rules, len(items.items))


def _record(result: Result, model: Identity | None) -> Record:
    rules = result.items.rules
    ties = int(result.decisions.tie_I.sum()) if isinstance(result, TaskResult) else 0
    nan_I = result.decisions.nan_I if isinstance(result, TaskResult) else result.nan_I
    digest, place = (model.digest, model.place) if model is not None else (None, None)
    return Record(digest, place, rules, RULES[rules].edition, len(result.items.items), ties, int(nan_I.sum()))


def report(result: TaskResult) -> str:
    """The text of best_temperature_report.txt. Temperature 1: no other is tried."""
    metric = "SPEARMAN'S RHO" if TASKS[result.items.task].aggregate == "correlation" else "ACCURACY"
    lines = ["TEMPERATURE: 1.00", ""]
    for key, values in result.groups().items():
        lines += [f"### {key.upper()} {metric}", *(f"{name}: {value:.2f}" for name, value in values.items()), ""]
    return "\n".join([*lines, f"### AVERAGE {metric}", f"{task_score(result.rows):.2f}", "", ""])


def predictions(result: TaskResult) -> dict[str, Any]:
    """The content of predictions.json: by UID, the candidate each item's decision names."""
    task = TASKS[result.items.task]
    probability_I = result.probability_I if task.aggregate == "correlation" else None
    table: dict[str, Any] = {}
    for i, item in enumerate(result.items.items):
        entry: dict[str, Any] = {"id": f"{item.uid}_{item.index}", "pred": prediction_text(result.items, item, _named(result, i))}
        if probability_I is not None:
            entry["prob"] = float(probability_I[i])
        table.setdefault(item.uid, {"predictions": []})["predictions"].append(entry)
    return table


def _named(result: TaskResult, i: int) -> int:
    """The candidate that the file names: the pipelines' own decision under their rules. Honest: the file cannot say that an item has no
    answer, or two, and who reads it must not find more right ones than the score counts: NaN is wrong, a tie is drawn."""
    decisions, item = result.decisions, result.items.items[i]
    if result.items.rules != "honest":
        return int(decisions.chosen_I[i])
    if decisions.nan_I[i]:
        return len(item.sentences) - 1
    if decisions.tie_I[i]:
        best_C = np.flatnonzero(result.valid_IC[i] & (result.scores_IC[i] == result.scores_IC[i][result.valid_IC[i]].max()))
        return int(stream(result.items.seed, "ties", uid_key(result.items.task, item.uid), item.index).choice(best_C))
    return int(decisions.chosen_I[i])


def prediction_text(items: TaskItems, item: Item, candidate: int) -> str:
    """The text that names a candidate of one of `items`: its completion, or its whole sentence, as task and edition have it."""
    whole = RULES[items.rules].edition in TASKS[items.task].sentences_named
    return (item.sentences if whole else item.completions)[candidate]
