"""What a study has to hold before anything starts, and how a command line's changes enter its spec."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sleep_tune.config import Config, Epochs
from sleep_tune.errors import UserError, nearest
from sleep_tune.evaluation.tasks import TASKS
from sleep_tune.explain import flat, shown
from sleep_tune.presets import KINDS, SCHEDULES, combine, preset, presets
from sleep_tune.study.dimensions import Values, combinations
from sleep_tune.study.searches import LOSSES, MOST_POINTS, Grid, RandomSearch
from sleep_tune.study.spec import MATCHED, Study, StudySpec

VARIED_GROUPS = ("model", "masking", "optimizer", "training", "sleep")
_SHARED = {
    "seed": "seeds are listed under seeds",
    "budget_words": "all trials of a study have one budget (--budget)",
    "data": "all trials of a study read one corpus (--data)",
    "tokenizer": "all trials of a study share one tokenizer",
    "objective": "losses of masked and of next tokens do not compare: a study each",
    "epochs": "plain epochs run beside a search under always: [epochs]",
}
_MATCHED_TO = f"epochs.{next(iter(Epochs.model_fields))}"
_CONTROLS = f"the controls of a study are asked for by always: [{MATCHED}]"


@dataclass(frozen=True)
class Changes:
    """What a command line changes in a study: the profile, fields for every trial (dotted field -> value), the seeds."""

    profile: str | None = None
    fields: Mapping[str, Any] | None = None
    seeds: tuple[int, ...] | None = None


def root(field: str) -> str:
    """The field that a value replaces whole: `sleep.length` for `sleep.length.ratio`."""
    parts = field.split(".")
    return next((part for depth in range(1, len(parts)) if (part := ".".join(parts[:depth])) in KINDS), field)


def overlap(one: str, other: str) -> bool:
    """Whether one of two dotted fields is, or is part of, the other."""
    one, other = root(one), root(other)
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def change(spec: StudySpec, changes: Changes) -> StudySpec:
    """The spec with a command line's changes: a profile replaces the base's, a field that was varied is pinned. Raises UserError."""
    if changes.profile is not None:
        preset(changes.profile, "profile")
        spec = spec.model_copy(update={"base": (changes.profile, spec.schedule)})
    for field, value in (changes.fields or {}).items():
        pinned = [name for name in spec.vary if f"{root(name)}.".startswith(f"{root(field)}.")]
        # Those that it replaces go, lest a part of the old value survive in the new.
        kept = {name: old for name, old in spec.set.items() if not f"{root(name)}.".startswith(f"{root(field)}.")}
        spec = spec.model_copy(
            update={"set": {**kept, field: value}, "vary": {name: dimension for name, dimension in spec.vary.items() if name not in pinned}}
        )
    return spec if changes.seeds is None else spec.model_copy(update={"seeds": changes.seeds})


def check(study: Study) -> Study:
    """The study, once all of it is known to be good. Raises UserError, one line."""
    spec = study.spec
    combine(spec.base)
    check_always(spec.always)
    known = _known_fields(spec)
    for field in spec.set:
        _check_field(field, known, "")
    for field in spec.vary:
        _check_field(field, known, "vary.")
        _check_varied(field, spec)
    _check_schedules(spec)
    _check_search(study)
    for point in study.corners():
        study.config_at(point, spec.seeds[0])
    always, searched = study.always(), study.searched()
    unread = [field for field in spec.vary if field.startswith("masking.")]
    if unread and searched[0].objective == "clm":
        raise UserError(f"vary.{unread[0]}: objective clm masks nothing")
    _check_objective(study, [*searched, *always])
    return study


def check_always(names: Iterable[str]) -> None:
    """Raises UserError for a name under `always` that is neither `matched` nor a schedule preset."""
    schedules = [name for name, row in presets().items() if row["kind"] == "schedule"]
    for name in names:
        if name not in (MATCHED, *schedules):
            raise UserError(f"unknown schedule {name}{nearest(name, (MATCHED, *schedules))}")


def _known_fields(spec: StudySpec) -> list[str]:
    """Dotted names of all fields, for near misses."""
    bare = Study("", "", spec.model_copy(update={"set": {}, "vary": {}, "base": (spec.profile, "default")}))
    return [*flat(bare.first), *(f"epochs.{name}" for name in Epochs.model_fields), *SCHEDULES]


def _check_field(field: str, known: list[str], at: str) -> None:
    """Names that lead nowhere; what follows a field that holds a mapping is `load_config`'s to judge."""
    there = field in SCHEDULES or any(overlap(field, name) for name in known if name not in SCHEDULES)
    if not there or not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*", field):
        raise UserError(f"unknown field {at}{field}{_field_hint(field, known)}")
    if field.split(".")[0] == "seed":
        raise UserError(f"{at}seed: {_SHARED['seed']} (--seeds 1,2)")


def _field_hint(field: str, known: list[str]) -> str:
    """The nearest field by its whole name, as one has to type it; without one, those of the same group."""
    group, _, last = field.rpartition(".")
    ends = [name for name in known if name.rpartition(".")[2] == last]
    beside = {name.rpartition(".")[2]: name for name in known if group and name.rpartition(".")[0] == group}
    close = ends or [beside[end] for end in get_close_matches(last, beside, n=1)]
    if close:
        return f" (did you mean {close[0]}?)"
    if beside:
        return f" (allowed: {', '.join(sorted(beside.values()))})"
    hint = nearest(field, known)
    return hint if "mean" in hint else ""


def _check_varied(field: str, spec: StudySpec) -> None:
    group = field.split(".")[0]
    if group not in VARIED_GROUPS:
        reason = _SHARED.get(group, f"it changes nothing that is trained (can vary: {', '.join(VARIED_GROUPS)})")
        reason = _CONTROLS if field == _MATCHED_TO else reason
        raise UserError(f"vary.{field}: cannot vary: {reason}")
    dimension = spec.vary[field]
    if field == "training.precision" and isinstance(dimension, Values) and "auto" in dimension.choice:
        raise UserError("vary.training.precision = auto: must be fp32 or bf16 where it varies (auto is one of them, by machine)")
    for other in [*spec.vary, *spec.set]:
        if other != field and overlap(other, field) and (other in spec.vary or not root(other).startswith(f"{root(field)}.")):
            raise UserError(f"vary.{field}: is given by {other} too")
    if field in spec.set:
        raise UserError(f"vary.{field}: is under set too")


def _check_schedules(spec: StudySpec) -> None:
    """A field of a schedule that no trial has would be read by no one."""
    rows = [presets()[schedule] for schedule in (spec.schedule, *spec.beside)]
    if spec.matched and rows[0].get("sleep") is None:
        raise UserError(f"always = {MATCHED}: the base's schedule {spec.schedule} does not sleep, so there is nothing to match")
    if _MATCHED_TO in spec.set and (spec.vary or spec.always or len(spec.seeds) > 1):
        raise UserError(f"{_MATCHED_TO} = {spec.set[_MATCHED_TO]}: is for one run (sleep_tune.train): {_CONTROLS}")
    for field in spec.vary:
        if field.split(".")[0] == "sleep" and rows[0].get("sleep") is None:
            raise UserError(f"vary.{field}: the base's schedule {spec.schedule} does not sleep")
    for field, value in spec.set.items():
        kind = field.split(".")[0]
        if kind in SCHEDULES and all(row.get(kind) is None for row in rows):
            named = ", ".join((spec.schedule, *spec.beside))
            raise UserError(f"{field} = {shown(value)}: no schedule of this study is of kind {kind} ({named})")


def _check_search(study: Study) -> None:
    spec = study.spec
    if isinstance(spec.search, Grid):
        for field, dimension in spec.vary.items():
            if not isinstance(dimension, Values):
                raise UserError(f"vary.{field}: a grid needs a list of values, no distribution (or search: {{random: {{trials: n}}}})")
        points = combinations(spec.vary) or 1
        if points > MOST_POINTS:
            raise UserError(f"vary: a grid of {points:,} points: must be <= {MOST_POINTS:,} (or search: {{random: {{trials: n}}}})")
        return
    if not spec.vary:
        raise UserError(f"vary = {{}}: a {next(iter(type(spec.search).model_fields))} search needs at least one varied field")
    count = combinations(spec.vary)
    if isinstance(spec.search, RandomSearch) and count is not None and spec.search.random.trials > count:
        raise UserError(f"search.random.trials = {spec.search.random.trials}: must be <= {count}, the points of the space")


def _check_objective(study: Study, configs: Iterable[Config]) -> None:
    metric, mode = study.metric, study.mode
    if metric in LOSSES:
        if mode != "min":
            raise UserError(f"objective.mode = {mode}: must be min for {metric}, which is better when lower")
        return
    if metric not in TASKS:
        raise UserError(f"objective.metric = {metric}: unknown{nearest(metric, [*LOSSES, *TASKS])}")
    if mode != "max":
        raise UserError(f"objective.mode = {mode}: must be max for {metric}, which is better when higher")
    for config in configs:
        if metric not in config.evaluation.milestones.tasks:
            scored = ", ".join(config.evaluation.milestones.tasks)
            raise UserError(
                f"objective.metric = {metric}: must be among evaluation.milestones.tasks = [{scored}] "
                f"(allowed: {', '.join([*LOSSES, *config.evaluation.milestones.tasks])}; "
                f"to search by {metric} add set: {{evaluation.milestones.tasks: [{metric}]}})"
            )


def warnings(study: Study) -> list[str]:
    """What is allowed and should be known, one line each."""
    if study.metric in TASKS:
        return [f"objective.metric = {study.metric}: the search sees the test; its scores are no longer those of unseen data"]
    return []
