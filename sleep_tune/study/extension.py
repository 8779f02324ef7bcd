"""Whether a study may go on in a directory that holds results: more seeds, values and trials extend it, another base does not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sleep_tune.config import WEIGHT_GROUPS
from sleep_tune.digests import canonical_json
from sleep_tune.errors import UserError
from sleep_tune.study.dimensions import Values
from sleep_tune.study.searches import Grid, OptunaSearch, RandomSearch, Search
from sleep_tune.study.spaces import STUDY_FILE, read_study
from sleep_tune.study.spec import Study, StudySpec


def earlier_spec(directory: Path) -> StudySpec | None:
    """What the directory's study was when it last started; None where there is none yet. Raises UserError."""
    try:
        if directory.exists() and not directory.is_dir():
            raise UserError(f"study {directory}: is a file, must be a directory")
        if (directory / STUDY_FILE).is_file():
            return read_study(directory).spec
        strangers = [path.name for path in directory.iterdir() if path.suffix != ".lock"] if directory.is_dir() else []
    except OSError as error:
        raise UserError(f"study {directory}: cannot be read ({error.strerror})") from None
    if strangers and "ledger.jsonl" not in strangers:
        raise UserError(f"study {directory}: holds files of no study ({sorted(strangers)[0]}): choose another --name or --storage")
    return None


def continued(study: Study, earlier: StudySpec, directory: Path) -> Study:
    """The study as a continuation of `earlier`: the same base, and at least its seeds, values and trials. Raises UserError."""

    def refuse(field: str, now: object, then: object, rule: str = "another study's results") -> UserError:
        difference = f"{field} = {_text(now)} here, {_text(then)} there"
        return UserError(f"study {directory}: holds {rule}: {difference}; choose another --name or --storage")

    spec = study.spec
    if "training.precision" in earlier.set and study.first.training.precision == "auto":
        study = study.with_set({"training.precision": earlier.set["training.precision"]})
    one, other = study.spec.plain(), earlier.plain()
    for field in ("objective", "scheduler"):
        if one[field] != other[field]:
            raise refuse(field, one[field], other[field])
    if (spec.profile, spec.schedule) != (earlier.profile, earlier.schedule):
        raise refuse("base", one["base"], other["base"])
    now, then = _deciding(study.spec.set), _deciding(earlier.set)
    for field in dict.fromkeys([*now, *then]):
        if canonical_json(now.get(field)) != canonical_json(then.get(field)):
            raise refuse(field, now.get(field, "not set"), then.get(field, "not set"))
    if set(spec.vary) != set(earlier.vary):
        raise refuse("vary", sorted(spec.vary), sorted(earlier.vary))
    if not _extends(spec.search, earlier.search):
        raise refuse("search", one["search"], other["search"])
    more = "more than that (a study can be extended, not cut)"
    for field in spec.vary:
        wide, narrow = spec.vary[field], earlier.vary[field]
        if isinstance(spec.search, Grid) and isinstance(wide, Values) and isinstance(narrow, Values):
            if {canonical_json(value) for value in narrow.choice} - {canonical_json(value) for value in wide.choice}:
                raise refuse(field, wide.plain(), narrow.plain(), more)
        elif wide != narrow:
            raise refuse(field, wide.plain(), narrow.plain())
    if set(earlier.seeds) - set(spec.seeds):
        raise refuse("seeds", list(spec.seeds), list(earlier.seeds), more)
    if set(earlier.always) - set(spec.always):
        raise refuse("always", list(spec.always), list(earlier.always), more)
    return study


def _deciding(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that decide weights. Where a corpus lies does not: its digest is compared once it is read."""
    kept = {field: value for field, value in fields.items() if field.split(".")[0] in (*WEIGHT_GROUPS, "budget_words")}
    return {field: sorted(value) if field == "data.source" and "embedded" not in value else value for field, value in kept.items()}


def _extends(search: Search, earlier: Search) -> bool:
    match search, earlier:
        case Grid(), Grid():
            return True
        case RandomSearch(random=now), RandomSearch(random=then):
            return now.trials >= then.trials
        case OptunaSearch(optuna=now), OptunaSearch(optuna=then):
            return now.trials >= then.trials and now.sampler == then.sampler
    return False


def _text(value: object) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def evaluated_otherwise(spec: StudySpec, earlier: StudySpec) -> list[str]:
    scored = {field: value for field, value in spec.set.items() if field.startswith("evaluation.") and field != "evaluation.data"}
    changed = [field for field, value in scored.items() if value != earlier.set.get(field)]
    return [f"{field} = {_text(scored[field])}: trials that are scored already keep their scores" for field in changed]
