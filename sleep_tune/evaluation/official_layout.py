"""Writes results in the official layout, so that the official collation accepts them:
`results/<model>/<revision>/zero_shot/<backend>/<task>/<dataset>/{best_temperature_report.txt,predictions.json}`; reading's and
aoa's files have no directory of a dataset, and aoa, which is about a series of models, is always below `main`."""

import json
from pathlib import Path
from typing import Any

from sleep_tune.evaluation.age_of_acquisition import AgeResult, surprisal_file
from sleep_tune.evaluation.reading import ReadingResult, official_files
from sleep_tune.evaluation.scores import TaskResult, task_score
from sleep_tune.evaluation.tasks import TASKS, Item, Task
from sleep_tune.files import write_text


def write_results(result: TaskResult | ReadingResult | AgeResult, out: Path, model_name: str, revision: str = "main") -> Path:
    """Write report and predictions of a task below `out`; returns their directory."""
    task = TASKS[result.items.task]
    revision = "main" if isinstance(result, AgeResult) else revision
    place = out / "results" / model_name / revision / "zero_shot" / result.backend / task.official_name
    if isinstance(result, TaskResult):
        place /= result.items.dataset
        write_text(place / "best_temperature_report.txt", report(result))
        write_text(place / "predictions.json", json.dumps(predictions(result)))
    elif isinstance(result, ReadingResult):
        for name, text in official_files(result).items():
            write_text(place / name, text)
    elif result.defined:
        write_text(place / "surprisal.json", json.dumps(surprisal_file(result, model_name), indent=2))
        write_text(place / "aoa_score.json", json.dumps({"aoa": result.rows[0].score}))  # 2026's, which takes the score from it
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
        entry: dict[str, Any] = {"id": f"{item.uid}_{item.index}", "pred": prediction_text(task, item, chosen)}
        if probability_I is not None:
            entry["prob"] = float(probability_I[i])
        table.setdefault(item.uid, {"predictions": []})["predictions"].append(entry)
    return table


def prediction_text(task: Task, item: Item, candidate: int) -> str:
    """The text that names a candidate: its completion; its whole sentence where completions are alike, as 2026's EWoK has them."""
    whole = task.predicts == "sentence" or len(set(item.completions)) == 1
    return (item.sentences if whole else item.completions)[candidate]
