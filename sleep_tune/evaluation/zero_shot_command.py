"""What `python -m sleep_tune.evaluation` does with the zero-shot tasks: the items asked for, the model itself, then its checkpoints.

The model answers what was asked, and the fast set beside it where there is one: the plan has its rows once, so that costs nothing.
Checkpoints answer the fast set.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import MIN_CHECKPOINTS
from sleep_tune.evaluation.finished import Part, Records, Subset, Target, part_of
from sleep_tune.evaluation.model_source import ModelSource, uncollected
from sleep_tune.evaluation.official_data import available_tasks, load_items
from sleep_tune.evaluation.progress import bars
from sleep_tune.evaluation.task_names import Names
from sleep_tune.evaluation.tasks import TASKS

if TYPE_CHECKING:
    from sleep_tune.evaluation.likelihood import Show

_AGES = "aoa"


@dataclass(frozen=True)
class Asked:
    """Parts to be scored: of the model, of its fast set, `ages` of the series; `series` are its checkpoints, by source."""

    parts: tuple[Part, ...] = ()
    fast: tuple[Part, ...] = ()
    ages: Part | None = None
    series: dict[str, Target] = field(default_factory=dict)

    @property
    def subsets(self) -> dict[str, Subset]:
        """What of each task was asked for."""
        return {part.items.task: part.subset for part in (*self.parts, *([self.ages] if self.ages else []))}


def settle_series(options: argparse.Namespace, names: Names) -> dict[str, Target]:
    """The checkpoints, by source; where there are too few for an age of acquisition, aoa is taken out of `names`, with a note.

    Raises UserError where it was named, or where nothing is left to be scored.
    """
    if options.checkpoints is None:
        if _AGES in names.zero_shot:
            _leave_out(names, f"{_AGES}: not defined for one checkpoint: name the series by --checkpoints")
        return {}
    if not names.zero_shot:
        raise UserError(f"--checkpoints = {options.checkpoints}: zero-shot tasks are scored at checkpoints, and none is named")
    from sleep_tune.evaluation.checkpoint_series import find_checkpoints

    source = ModelSource(options.model, options.revision, options.trust_remote_code)
    found = find_checkpoints(options.checkpoints, source.hub, MIN_CHECKPOINTS if _AGES in names.named else 1)
    if _AGES in names.zero_shot and len(found) < MIN_CHECKPOINTS:
        count = f"{len(found)} checkpoint{'s' * (len(found) != 1)}"
        _leave_out(names, f"{_AGES}: not defined for {count}: an age needs a series of at least {MIN_CHECKPOINTS}")
    series = {}
    for place, checkpoint in found.items():
        model = replace(source, place=source.place if source.hub else place, revision=checkpoint.name)
        model.config()
        series[place] = Target(checkpoint.name, model.digest, checkpoint.words_seen, model.place)
        if checkpoint.name == options.revision and model.digest != source.digest:
            raise UserError(f"--revision = {options.revision}: is another model than the checkpoint of that name, {place}")
    return series


def _leave_out(names: Names, why: str) -> None:
    names.zero_shot.remove(_AGES)
    if _AGES in names.named or not (names.zero_shot or names.tuned):
        raise UserError(why)
    names.notes.append(why)


def read_asked(options: argparse.Namespace, names: Names, series: dict[str, Target]) -> Asked:
    """Read the items of the tasks. Raises UserError for data that is missing, empty or malformed; notes what has no fast set."""
    if not names.zero_shot:
        return Asked()
    loaded = load_items(Path(options.data), names.zero_shot, options.fast, options.items_per_uid, options.seed, options.rules)
    parts = [part_of(items, options.fast, options.items_per_uid) for items in loaded]
    ages = next((part for part in parts if part.items.task == _AGES), None)
    own = tuple(part for part in parts if part is not ages)
    fast = own if options.fast else _fast_parts(options, names, own, bool(series))
    return Asked(own, fast, ages, series)


def _fast_parts(options: argparse.Namespace, names: Names, full: Sequence[Part], series: bool) -> tuple[Part, ...]:
    """The fast set of the tasks: for a series all of it there is, else what has a place of its own in the official layout."""
    data = Path(options.data)
    there = available_tasks(data, fast=True)
    wanted = [part.items.task for part in full]
    if series:
        without = [task for task in wanted if task not in there]
        names.notes += [f"{', '.join(without)}: no fast set there: not scored at the checkpoints"] if without else []
    else:
        wanted = [task for task in wanted if TASKS[task].fast not in (None, TASKS[task].full) and options.items_per_uid is None]
    wanted = [task for task in wanted if task in there]
    if not wanted:
        return ()
    try:
        loaded = load_items(data, wanted, True, options.items_per_uid, options.seed, options.rules)
    except UserError as error:
        if series:
            raise
        names.notes.append(f"the fast set is left out: {error}")
        return ()
    datasets = {part.items.dataset for part in full}
    return tuple(part_of(items, True, options.items_per_uid) for items in loaded if series or items.dataset not in datasets)


def score_zero_shot(asked: Asked, records: Records) -> None:
    """Score what is not scored yet: the model task by task, then each checkpoint; every part is kept as it is done."""
    from rich.console import Console

    console = Console(stderr=True)
    with bars(console) as show:
        done = _score_model(asked, records, show)
        if asked.series:
            done += _score_checkpoints(asked, records, show)
    for name in done:
        console.print(f"{name}: already scored in {records.out}", soft_wrap=True, highlight=False)


def _score_model(asked: Asked, records: Records, show: "Show") -> list[str]:
    """Names of the tasks that there was nothing to do for. A checkpoint that is the model itself gets its fast scores."""
    with uncollected():
        from sleep_tune.evaluation.evaluate import plan_items, score_plan

    final = records.final
    twins = [target for target in asked.series.values() if target.digest == final.digest and target.revision != final.revision]
    loaded: tuple[Any, Any] | None = None
    done = []
    for part in asked.parts:
        fast = [other for other in asked.fast if other.items.task == part.items.task]
        places = [(final, part), *((target, other) for target in (final, *twins) for other in fast if (target, other) != (final, part))]
        missing = [(target, one) for target, one in places if records.read(target, one) is None]
        if not missing:
            done.append(part.items.task)
            continue
        model, tokenizer = loaded = loaded or records.source.load(records.backend)
        # what shares a batch moves a score by a rounding: the plan of what was asked is the same after an interruption, and it is kept last
        distinct = {one.key: one.items for _, one in (places if missing[0] == places[0] else missing)}
        plan = plan_items(tokenizer, list(distinct.values()), records.backend)
        results = dict(zip(distinct, score_plan(model, plan, show(part.items.task), bf16=records.bf16), strict=True))
        for target, one in reversed(missing):
            # the full set's files, where both sets have one place
            official = one is part or target in twins or one.items.dataset != part.items.dataset
            records.keep(target, one, results[one.key], official)
    return done


def _score_checkpoints(asked: Asked, records: Records, show: "Show") -> list[str]:
    """The same of the series."""
    from sleep_tune.evaluation.checkpoint_series import join_ages, score_series

    def load(place: str) -> tuple[Any, Any]:
        own = records.source
        return replace(own, place=own.place if own.hub else place, revision=asked.series[place].revision).load(records.backend)

    parts = [*asked.fast, *([asked.ages] if asked.ages else [])]
    if not parts:
        return []
    scored = score_series(load, asked.series, parts, records, show(f"{len(asked.series)} checkpoints"))
    joined = asked.ages is not None and join_ages(asked.series, asked.ages, records)
    done = [] if scored else [f"{len(asked.series)} checkpoints"]
    return done + ([_AGES] if asked.ages and not joined else [])
