"""Reads the evaluation command's `--tasks`: names of zero-shot and fine-tuned tasks, of groups of them, each once."""

from dataclasses import dataclass, field
from pathlib import Path

from sleep_tune.errors import UserError, nearest
from sleep_tune.evaluation.finetune_settings import GLUE, GROUP
from sleep_tune.evaluation.official_data import all_tasks
from sleep_tune.evaluation.tasks import TASKS

ALL = "all"  # zero-shot tasks that there is data for
HELP = f"comma-separated: {', '.join(TASKS)}, or {ALL} that there is data for; fine-tuned: {', '.join(GLUE)}, or all of them: {GROUP}"


@dataclass
class Names:
    """What is asked for. `named`: by its own name, so that it cannot be left out; `notes`: on what `all` does not hold."""

    zero_shot: list[str]
    tuned: list[str]
    named: frozenset[str]
    notes: list[str] = field(default_factory=list)


def read_names(text: str, data: Path, fast: bool) -> Names:
    """The tasks that `text` names. Raises UserError for a name that is none, for none at all, and for what the fast set has not."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = (*TASKS, *GLUE, GROUP, ALL)
    for name in names:
        if name not in known:
            raise UserError(f"task = {name}: unknown{nearest(name, known)}")
    if not names:
        raise UserError(f"tasks = : name at least one (allowed: {', '.join(known)})")
    tuned = [task for task in GLUE if task in names or GROUP in names]
    if tuned and fast:
        raise UserError(f"--fast: {', '.join(tuned)} is not part of the fast set")
    own = [name for name in names if name in TASKS]
    asked = Names(own, tuned, frozenset(names) - {ALL, GROUP})
    if ALL in names:
        there, asked.notes = all_tasks(data, fast)
        asked.zero_shot = [*there, *(name for name in own if name not in there)]
        asked.notes += [] if tuned or fast else [f"{GROUP}: fine-tuned only where it is named: --tasks {ALL},{GROUP}"]
    return asked
