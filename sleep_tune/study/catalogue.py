"""What there is to choose from: shipped study files, presets, strategies, models and tasks. Imports little, so that the list is quick."""

import inspect
from importlib import resources
from typing import Any

from sleep_tune.presets import presets


def shipped() -> dict[str, str]:
    """Text of the shipped study files by name."""
    files = [file for file in resources.files("search_spaces").iterdir() if file.name.endswith(".yaml")]
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: file.name)}


def about(text: str) -> str:
    """The question: the first line of the comment that a study file begins with."""
    first = text.partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def catalogue() -> str:
    """Spaces, presets, strategies, models and tasks, one line each."""
    from sleep_tune.evaluation.finetune_settings import GLUE, GROUP
    from sleep_tune.evaluation.tasks import TASKS
    from sleep_tune.sleep.criteria import CRITERIA
    from sleep_tune.sleep.strategies import STRATEGIES
    from sleep_tune.training.registry import MODELS

    rows = {name: (row["kind"], str(row["about"])) for name, row in presets().items()}
    sections = {
        "search spaces (--space)": {name: about(text) for name, text in shipped().items()},
        "profiles (--profile, --preset)": {name: line for name, (kind, line) in rows.items() if kind == "profile"},
        "schedules (base and always of a study, --preset)": {name: line for name, (kind, line) in rows.items() if kind == "schedule"},
        "strategies (sleep.strategy)": {name: _first_line(function) for name, function in STRATEGIES.items()},
        "criteria (sleep.criterion)": {name: _first_line(function) for name, function in CRITERIA.items()},
        "models (model.name)": {name: row.about for name, row in MODELS.items()},
        "tasks (evaluation.final.tasks)": {task.name: task.about for task in TASKS.values() if task.one_model},
        "tasks of python -m sleep_tune.evaluation alone": {
            **{task.name: task.about for task in TASKS.values() if not task.one_model},
            GROUP: f"fine-tuned: {', '.join(GLUE)}",
        },
    }
    lines: list[str] = []
    for title, entries in sections.items():
        lines += ["", title, *(f"  {name:<20} {line}" for name, line in entries.items())]
    return "\n".join(lines[1:])


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
