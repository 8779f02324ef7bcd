"""The averages that BabyLM scores are reported by, each with the tasks that entered it and those that are missing.

A missing task is left out and named, never counted as 0; a task of which a part is missing enters with what is there, and is named too.
Percent are points as they are, correlations times 100.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    """`value` in points, None where nothing entered. `entered`, `missing` and `partial` name components; the latter say what is there."""

    name: str
    value: float | None
    entered: tuple[str, ...]
    missing: tuple[str, ...]
    partial: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = len(self.entered) + len(self.missing)
        line = f"{self.name}: {'-' if self.value is None else f'{self.value:.2f}'} over {len(self.entered)} of {of}"
        line += f" ({', '.join(self.entered)})" if self.entered else ""
        if self.missing:
            line += f"; missing, not counted: {', '.join(self.missing)}"
        return "; ".join([line + (f"; in part: {', '.join(self.partial)}" if self.partial else ""), *self.notes])


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
_DIFFERING = ("ewok", "entity_tracking")  # the editions ask them with other candidates


def averages(rows: Iterable[ScoreRow]) -> list[Average]:
    """Every average over the tasks that `rows` are of; the Findings' own, the mean of its two halves, where both are there.

    Raises ValueError for a unit that is not known.
    """
    table = task_rows(rows)
    found = {name: _component(component, table) for name, component in COMPONENTS.items()}
    values = {name: value for name, (value, _, _) in found.items() if value is not None}
    edition = {row.task: RULES[row.rules].edition for task in table.values() for row in task if row.task in _DIFFERING}
    other = dict.fromkeys(row.backend for task in table.values() for row in task if row.backend not in BACKENDS)
    unofficial = (f"scored by {', '.join(other)}: not the official scoring",) if other else ()
    kinds = [_average(kind, values, found, edition, unofficial) for kind in KINDS]
    nlp, human = kinds[1], kinds[2]
    whole = None if nlp.value is None or human.value is None else (nlp.value + human.value) / 2
    halves = () if whole is not None else ("each half needs a task",)
    notes = tuple(dict.fromkeys((*nlp.notes, *human.notes, *halves)))
    both = Average("Findings", whole, nlp.entered + human.entered, nlp.missing + human.missing, nlp.partial + human.partial, notes)
    return [*kinds[:3], both, *kinds[3:]]


def _average(
    kind: Kind,
    values: dict[str, float],
    found: dict[str, tuple[float | None, str, str]],
    edition: Mapping[str, str],
    notes: tuple[str, ...],
) -> Average:
    entered = tuple(name for name in kind.components if name in values)
    missing = tuple(name + found[name][1] for name in kind.components if name not in values)
    partial = tuple(name + found[name][2] for name in entered if found[name][2])
    other = [name for name in entered if kind.candidates and edition.get(name, kind.candidates) != kind.candidates]
    if other:
        notes = (f"{' and '.join(other)} with the candidates of {edition[other[0]]}, not {kind.candidates}", *notes)
    value = sum(values[name] for name in entered) / len(entered) if entered else None
    return Average(kind.name, value, entered, missing, partial, notes)


def _component(component: Component, table: dict[str, list[ScoreRow]]) -> tuple[float | None, str, str]:
    """Points, why there are none, and what of it is there where that is not all."""
    if component.tasks and component.name not in table:
        parts = {task: _mean_points(table[task]) for task in component.tasks if task in table}
    elif component.unit == "splits":
        parts = split_means({row.uid: points(row) for row in table.get(component.name, [])})
    else:
        parts = {row.uid: points(row) for row in table.get(component.name, [])}
    numbers = [value for value in parts.values() if not math.isnan(value)]
    if len(numbers) < len(parts):
        return None, f" ({'no number' if len(parts) == 1 else f'no number in {len(parts) - len(numbers)} of {len(parts)}'})", ""
    if not numbers:
        return None, "", ""
    share = f" ({len(parts)} of {component.parts} {component.unit})" if len(parts) < component.parts else ""
    return sum(numbers) / len(numbers), "", share


def _mean_points(rows: Sequence[ScoreRow]) -> float:
    return sum(points(row) for row in rows) / len(rows)


def points(row: ScoreRow) -> float:
    """A score in the unit that averages are taken in. Raises ValueError for a unit that is not known."""
    try:
        return row.score * _POINTS[row.unit]
    except KeyError:
        raise ValueError(f"{row.task}: no rule for averaging the unit {row.unit}") from None
