"""The averages that BabyLM scores are reported by, each with the tasks that entered it and those that are missing.

A missing task is left out and named, never counted as 0; a task of which a part is missing enters with what is there, and is named too.
An average that is not over whole official sets says so in its name: it never looks like the published one.
Percent are points as they are, correlations times 100.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sleep_tune.evaluation.challenge import EDITIONS
from sleep_tune.evaluation.challenge import GLUE as _TUNED
from sleep_tune.evaluation.plan import BACKENDS
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.scores import ScoreRow, split_means, task_rows

GLUE = ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")
_POINTS = {"percent": 1.0, "rho": 100.0, "r": 100.0}  # of one unit


@dataclass(frozen=True)
class Component:
    """One score of an average: the mean over `parts` (0: over as many as there are), which are UIDs, or tasks of their own in `tasks`."""

    name: str
    parts: int
    unit: str = "UIDs"
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """An average as somebody defined it. `candidates`: the edition whose candidates its scores are of, "" where both have the same."""

    name: str
    source: str
    components: tuple[str, ...]
    candidates: str


@dataclass(frozen=True)
class Average:
    """`value` in points, None where nothing entered. `entered`, `missing` and `partial` name components; the latter say what is there.

    `name` ends in what entered instead of the official sets (`marks`) or the official scoring, in brackets.
    """

    name: str
    value: float | None
    entered: tuple[str, ...]
    missing: tuple[str, ...]
    partial: tuple[str, ...]
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The name without what is in brackets."""
        return self.name.removesuffix(f" ({', '.join(self.marks)})")


COMPONENTS = {
    component.name: component
    for component in (
        Component("blimp", 67),
        Component("supplement", 5),
        Component("ewok", 11),
        Component("entity_tracking", 3, "splits"),
        Component("comps", 4),
        Component("glue", len(GLUE), "tasks", GLUE),
        Component("global_piqa", 2, "tasks", ("global_piqa_parallel", "global_piqa_nonparallel")),
        Component("reading", 2, "measures"),
        Component("wug_adj", 1),
        Component("wug_past", 1),
        Component("aoa", 1),
    )
}
_NLP = ("blimp", "supplement", "ewok", "entity_tracking", "comps", "glue")
_HUMAN = ("reading", "wug_adj", "wug_past", "aoa")
_FINDINGS = "Charpentier et al. 2025, Findings of the third BabyLM challenge"
_LEADERBOARD = "the 2026 leaderboard, which counts what is missing as 0"
KINDS = (
    Kind("2025 text average", "babylm/evaluation-pipeline-2025, text tasks", (*_NLP, *_HUMAN), "2025"),
    Kind("Findings NLP", _FINDINGS, _NLP, "2025"),
    Kind("Findings human-likeness", _FINDINGS, _HUMAN, ""),
    Kind("2026 overall", _LEADERBOARD, (*_NLP, "global_piqa", "reading", "aoa"), "2026"),
)
IN_PART = "in part"  # the mark of an average over a part of the data that is neither a set of its own nor a sample
_DIFFERING = ("ewok", "entity_tracking")  # the editions ask them with other candidates


def averages(rows: Iterable[ScoreRow], marks: Mapping[str, Sequence[str]] | None = None) -> list[Average]:
    """Every average over the tasks that `rows` are of; the Findings' own, the mean of its two halves, where both are there.

    `marks`, by task: what was scored of it if not the whole official set (fast; 20 items of every UID; pilot).
    Raises ValueError for a unit that is not known.
    """
    table = task_rows(rows)
    found = {name: _component(component, table, marks or {}) for name, component in COMPONENTS.items()}
    edition = {row.task: RULES[row.rules].edition for task in table.values() for row in task if row.task in _DIFFERING}
    kinds = [_average(kind, found, edition) for kind in KINDS]
    nlp, human = kinds[1], kinds[2]
    whole = None if nlp.value is None or human.value is None else (nlp.value + human.value) / 2
    halves = () if whole is not None else ("each half needs a task",)
    notes, both = (tuple(dict.fromkeys(part)) for part in ((*nlp.notes, *human.notes, *halves), (*nlp.marks, *human.marks)))
    parts = (nlp.entered + human.entered, nlp.missing + human.missing, nlp.partial + human.partial)
    return [*kinds[:3], Average(_marked("Findings", both), whole, *parts, notes, both), *kinds[3:]]


@dataclass(frozen=True)
class _Found:
    """A component's points, or None and why; what of it is there where that is not all; how what is there is marked."""

    value: float | None
    why_not: str = ""
    share: str = ""
    marks: tuple[str, ...] = ()
    unofficial: tuple[str, ...] = ()  # scorings


def _marked(name: str, marks: Sequence[str]) -> str:
    return f"{name} ({', '.join(marks)})" if marks else name


def _average(kind: Kind, found: Mapping[str, _Found], edition: Mapping[str, str]) -> Average:
    entered = tuple(name for name in kind.components if found[name].value is not None)
    missing = tuple(name + found[name].why_not for name in kind.components if name not in entered)
    partial = tuple(name + found[name].share for name in entered if found[name].share)
    marks = tuple(dict.fromkeys(mark for name in entered for mark in found[name].marks))
    scorings = tuple(dict.fromkeys(scoring for name in entered for scoring in found[name].unofficial))
    other = [name for name in entered if kind.candidates and edition.get(name, kind.candidates) != kind.candidates]
    notes = [f"{' and '.join(other)} with the candidates of {edition[other[0]]}, not {kind.candidates}"] if other else []
    notes += [f"scored by {', '.join(scorings)}: not the official scoring"] if scorings else []
    values = [value for name in entered if (value := found[name].value) is not None]
    value = sum(values) / len(values) if values else None
    marks = (*marks, *scorings)
    return Average(_marked(kind.name, marks), value, entered, missing, partial, tuple(notes), marks)


def _component(component: Component, table: Mapping[str, list[ScoreRow]], marks: Mapping[str, Sequence[str]]) -> _Found:
    tasks = [component.name] if component.name in table else [task for task in component.tasks if task in table]
    rows = [row for task in tasks for row in table[task]]
    if component.tasks and component.name not in table:
        parts = {task: _mean_points(table[task]) for task in tasks}
    elif component.unit == "splits":
        parts = split_means({row.uid: points(row) for row in rows})
    else:
        parts = {row.uid: points(row) for row in rows}
    numbers = [value for value in parts.values() if not math.isnan(value)]
    if len(numbers) < len(parts):
        return _Found(None, f" ({'no number' if len(parts) == 1 else f'no number in {len(parts) - len(numbers)} of {len(parts)}'})")
    if not numbers:
        return _Found(None)
    marked = tuple(dict.fromkeys(mark for task in tasks for mark in marks.get(task, ())))
    few = len(parts) < component.parts
    explained = component.unit == "splits" and "fast" in marked  # the fast set is one split
    share = f" ({len(parts)} of {component.parts} {component.unit})" if few else _fewer_items(rows)
    if share and not (explained if few else marked):
        marked = (*marked, IN_PART)
    unofficial = tuple(dict.fromkeys(row.backend for row in rows if row.backend not in BACKENDS))
    return _Found(sum(numbers) / len(numbers), "", share, marked, unofficial)


def _fewer_items(rows: Sequence[ScoreRow]) -> str:
    """How many items there are, where the official files have more."""
    here = sum(row.n for row in rows)
    sizes = _SIZES[RULES[rows[0].rules].edition]
    official = sum(sizes.get(task, 0) for task in dict.fromkeys(row.task for row in rows))
    return f" ({here:,} of {official:,} items)" if here < official else ""


def _mean_points(rows: Sequence[ScoreRow]) -> float:
    return sum(points(row) for row in rows) / len(rows)


def points(row: ScoreRow) -> float:
    """A score in the unit that averages are taken in. Raises ValueError for a unit that is not known."""
    try:
        return row.score * _POINTS[row.unit]
    except KeyError:
        raise ValueError(f"{row.task}: no rule for averaging the unit {row.unit}") from None


# Items by edition and task. Not of reading: words without a frequency are in no regression, and `n` counts those that are.
_SIZES = {
    name: {file.task: sum(file.sizes.values()) for file in (*edition.files, *_TUNED) if file.task != "reading"}
    for name, edition in EDITIONS.items()
}
