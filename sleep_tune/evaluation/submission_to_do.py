"""The command that makes what a submission lacks: filled in as far as it is known, and of tasks only those that there is data for."""

import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import MIN_CHECKPOINTS
from sleep_tune.evaluation.challenge import revision_of
from sleep_tune.evaluation.collation import Collation, Results
from sleep_tune.evaluation.finetune_settings import GLUE, GROUP, reader
from sleep_tune.evaluation.model_source import HUB
from sleep_tune.evaluation.official_data import SOURCE, available_tasks, find_directory
from sleep_tune.evaluation.result_records import models_in, rules_in
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.tasks import TASKS


@dataclass(frozen=True)
class Known:
    """What can be filled in: the questions' edition and data, the trial that trained the model."""

    edition: str
    data: Path | None
    trial: Path | None


def to_do(made: Collation, known: Known) -> list[str]:
    """What to run for what is missing, a line a command, and what no command here can bring."""
    if made.foreign:
        return ["(what is to do is told once all results are of one model and its checkpoints)"]
    root, main = made.results.root, [task for task in made.missing.get("main", ()) if task in TASKS or task in GLUE]
    of_series = {name: [task for task in tasks if task in TASKS] for name, tasks in made.missing.items() if name != "main"}
    of_series = {name: tasks for name, tasks in of_series.items() if tasks}
    checkpoints = _checkpoints(known.trial, of_series)
    notes = []
    if (of_series or "aoa" in main) and checkpoints is None:
        how = "checkpoint.milestone_models=true keeps a trial's; budgets of 100M and 1B have all of a track's"
        notes.append(f"no checkpoint that is missing is in {known.trial}/milestones ({how}): the final model alone is scored below")
        of_series, main = {}, [task for task in main if task != "aoa"]
    if "aoa" in main and known.trial is not None and (count := len(_series(known.trial))) < MIN_CHECKPOINTS:
        notes.append(f"aoa: an age needs {MIN_CHECKPOINTS} checkpoints, {known.trial}/milestones has {count}")
        main = [task for task in main if task != "aoa"]
    asked = list(dict.fromkeys([*main, *(task for tasks in of_series.values() for task in tasks)]))
    there = asked if known.data is None else _there(known.data, asked)
    lacking = [task for task in asked if task not in there]
    if lacking:
        notes.append(f"to do, but not in {known.data}: {', '.join(lacking)}; {SOURCE}")
    if not there:
        return notes
    series = f" --checkpoints {checkpoints}" if of_series or "aoa" in there else ""
    model, data = _model(made.results, known.trial), "EVALUATION_DATA" if known.data is None else shlex.quote(str(known.data))
    command = f"python -m sleep_tune.evaluation {model}{series} --tasks {','.join(_grouped(there))} --data {data}"
    command += f" --backend {made.results.backend} --rules {_rules(made.results, known.edition)}"
    out, kept = str(root.parent if root.name == "results" else root), "what is done already is kept"
    if any(RULES[rules].edition != known.edition for rules in made.rules if rules in RULES):
        out, trial = f"{out}_{known.edition}", "" if known.trial is None else f" --trial {shlex.quote(str(known.trial))}"
        kept = f"the official files of one edition would take the place of the other's: then submit {shlex.quote(out)}{trial}"
    notes.append(f"to do: {command} --out {shlex.quote(out)}")
    meant = {
        "MODEL": f"the directory {made.results.model}, by that name",
        "CHECKPOINTS": "a directory of its checkpoints, chck_1M and so on",
        "EVALUATION_DATA": "the official evaluation_data",
    }
    blanks = [f"{name} is {what}" for name, what in meant.items() if name in (model, data) or (name == checkpoints and series)]
    return [*notes, f"({'; '.join([*blanks, kept])})"]


def _there(data: Path, tasks: Sequence[str]) -> list[str]:
    """Those of `tasks` that `data` has in full."""
    found = find_directory(data, reader(next(iter(GLUE.values()))))
    files = () if found is None else found.files
    tuned = [task for task in GLUE if f"{task}.train.jsonl" in files and f"{task}.valid.jsonl" in files]
    there = {*available_tasks(data, fast=False), *tuned}
    return [task for task in tasks if task in there]


def _grouped(tasks: Sequence[str]) -> list[str]:
    """Tasks as the evaluation command is asked for them: all fine-tuned ones by one name."""
    return list(dict.fromkeys(GROUP if task in GLUE and {*GLUE} <= {*tasks} else task for task in tasks))


def _model(results: Results, trial: Path | None) -> str:
    """Where the model is: the trial's, or where its results say; MODEL where it is neither there by the results' name nor on the hub."""
    places = [str(trial / "model")] if trial else []
    with suppress(UserError):  # a damaged record, which is named as a problem
        places += [place for _, place in models_in(results.root / results.model / "main").values() if place is not None]
    there = (place for place in places if place.startswith(HUB) or (Path(place).is_dir() and Path(place).resolve().stem == results.model))
    return shlex.quote(next(there, "MODEL"))


def _checkpoints(trial: Path | None, missing: Collection[str]) -> str | None:
    """The trial's milestones, where they have a checkpoint that is missing; None where it has none; CHECKPOINTS without a trial."""
    if trial is None:
        return "CHECKPOINTS"
    kept = {revision_of(path.name) for path in _series(trial)} - {None}
    return shlex.quote(str(trial / "milestones")) if kept & {*missing} or (kept and not missing) else None


def _series(trial: Path) -> list[Path]:
    """The checkpoints that a trial has kept."""
    return [path for path in (trial / "milestones").glob("*") if path.is_dir()]


def _rules(results: Results, edition: str) -> str:
    """Those that the model's results are made under, if the edition takes them."""
    found: list[str] = []
    with suppress(UserError):
        found = [rules for rules in rules_in(results.root / results.model) if rules in RULES and RULES[rules].edition == edition]
    return found[0] if len(found) == 1 else "honest" if edition == RULES["honest"].edition else edition
