"""Writes results in the official layout, so that the official collation accepts them:
`results/<model>/<revision>/zero_shot/<backend>/<task>/<dataset>/{best_temperature_report.txt,predictions.json}`."""

import json
from pathlib import Path
from typing import Any

from sleep_tune.evaluation.scores import TaskResult, task_score
from sleep_tune.evaluation.tasks import TASKS
from sleep_tune.files import write_text


def write_results(result: TaskResult, out: Path, model_name: str, revision: str = "main") -> Path:
    """Write report and predictions of a task below `out`; returns their directory."""
    task = TASKS[result.items.task]
    place = out / "results" / model_name / revision / "zero_shot" / result.backend / task.official_name / result.items.dataset
    write_text(place / "best_temperature_report.txt", report(result))
    write_text(place / "predictions.json", json.dumps(predictions(result)))
    return place


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
        chosen = int(result.decisions.chosen_I[i])
        texts = item.sentences if task.predicts == "sentence" else item.completions
        entry: dict[str, Any] = {"id": f"{item.uid}_{item.index}", "pred": texts[chosen]}
        if probability_I is not None:
            entry["prob"] = float(probability_I[i])
        table.setdefault(item.uid, {"predictions": []})["predictions"].append(entry)
    return table
