"""The study: what is asked, as a file says it (`StudySpec`) and as the trials that follow from it (`Study`).

Files are `spaces.py`'s, the machine and the disk `preflight.py`'s. Precedence, later ones win: defaults, profile, schedule preset, a row of
`vary` or `always`, `set`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from sleep_tune.choices import tuples
from sleep_tune.config import Config, Count, Frozen, Nothing, configuration_id, load_config
from sleep_tune.explain import load
from sleep_tune.presets import SCHEDULES, combine, preset, set_field
from sleep_tune.streams import stream
from sleep_tune.study.dimensions import Dimension, Values, combinations, nth
from sleep_tune.study.searches import Asha, Grid, NoScheduler, Objective, OptunaSearch, RandomSearch, Scheduler, Search, list_of, once
from sleep_tune.words import all_milestones, rung_words

MOST_SHUFFLED = 1_000_000  # points of a space; of a larger one, points drawn one by one hardly ever repeat
MATCHED = "matched"  # the word of `always` that asks for a control beside each sleep of the search
HOW_GROUPS = ("evaluation", "checkpoint", "resources", "tracking")  # equal in all trials, and in no trial's id


def _mapping(value: object) -> object:
    if not isinstance(value, dict):
        raise PydanticCustomError("choice", "must be a mapping, each `field: …`")
    return value


def _words(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _base(value: object) -> object:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 2:
        raise PydanticCustomError("choice", "must be [PROFILE, SCHEDULE], such as [tiny, weighted_replay]")
    return tuple(value)


class StudySpec(Frozen):
    """A study file. `set` holds what is the same in every trial, the `always` ones included.

    `always`: schedule presets, and `matched`, in any order; one of them alone needs no list.
    """

    base: Annotated[tuple[str, ...], BeforeValidator(_base)]
    set: Annotated[dict[str, Any], BeforeValidator(_mapping)] = Field(default={})
    vary: Annotated[dict[str, Dimension], BeforeValidator(_mapping)] = Field(default={})
    always: Annotated[tuple[str, ...], tuples, BeforeValidator(_words), AfterValidator(once)] = ()
    search: Search = Grid(grid=Nothing())
    scheduler: Scheduler = NoScheduler(none=Nothing())
    objective: Objective = Objective()
    seeds: Annotated[tuple[Count, ...], list_of("whole numbers"), AfterValidator(once)]

    def plain(self) -> dict[str, Any]:
        """As it is written in a file; `load_spec` reads it back."""
        raw = self.model_dump(mode="json", exclude={"vary"})
        raw["vary"] = {field: dimension.plain() for field, dimension in self.vary.items()}
        raw["search"] = "grid" if isinstance(self.search, Grid) else raw["search"]
        raw["scheduler"] = "none" if isinstance(self.scheduler, NoScheduler) else raw["scheduler"]
        return {field: raw[field] for field in type(self).model_fields}

    @property
    def profile(self) -> str:
        """The name of the base's profile."""
        return next(name for name in self.base if preset(name)["kind"] == "profile")

    @property
    def schedule(self) -> str:
        """The name of the base's schedule preset."""
        return next((name for name in self.base if preset(name)["kind"] == "schedule"), "default")

    @property
    def beside(self) -> tuple[str, ...]:
        """The names of the schedule presets that run beside the search."""
        return tuple(name for name in self.always if name != MATCHED)

    @property
    def matched(self) -> bool:
        """Whether the sleep that the search completes gets matched controls."""
        return MATCHED in self.always


def load_spec(raw: Mapping[str, Any]) -> StudySpec:
    """The spec that a study file's content says. Raises UserError, one line."""
    return load(StudySpec, dict(raw))


@dataclass(frozen=True)
class RunOptions:
    """How a study is run; nothing here changes a result. `concurrent`: trials at a time, None: as many as a cluster holds."""

    concurrent: int | None = None
    address: str | None = None
    dashboard: bool = True


@dataclass(frozen=True)
class Study:
    """A named study. Its fields were judged by `rules.check`."""

    name: str
    about: str
    spec: StudySpec

    @cached_property
    def _base(self) -> dict[str, Any]:
        return combine(self.spec.base)

    def config_at(self, values: Mapping[str, Any], seed: int) -> Config:
        """The trial at a point of the space: dotted field -> value. Raises UserError where the values do not go together."""
        return self._built(self._base, values, seed)

    def always_at(self, schedule: str, seed: int) -> Config:
        """The trial of a schedule preset of `always`."""
        return self._built(combine([self.spec.profile, schedule]), {}, seed)

    def _built(self, raw: dict[str, Any], values: Mapping[str, Any], seed: int) -> Config:
        told = {**values, **self.spec.set}
        for field, value in sorted(told.items(), key=lambda each: each[0] != "model.name"):  # the model first: it brings sizes of its own
            if field not in SCHEDULES or raw.get(field) is not None:  # a schedule of the other kind stays what it is
                raw = set_field(raw, field, value)
        return load_config({**raw, "seed": seed})

    def as_run_now(self, recorded: Mapping[str, Any]) -> Config:
        """A recorded trial's config (nested dict) with this study's say in how it runs and is scored: nothing of that decides weights."""
        how = {group: getattr(self.first, group) for group in HOW_GROUPS}
        return load_config(dict(recorded)).model_copy(update=how)

    def grid_points(self) -> Iterator[dict[str, Any]]:
        """Every point of a space of lists, in file order, the last field turning fastest."""
        fields = self.spec.vary
        lists = [dimension.choice for dimension in fields.values() if isinstance(dimension, Values)]
        for values in product(*lists):
            yield dict(zip(fields, values, strict=True))

    def grid(self) -> list[Config]:
        """Every point on every seed, seeds innermost. Points that are one configuration, or one of `always`, count once."""
        return list(self._grid)

    @cached_property
    def _grid(self) -> list[Config]:
        taken = {configuration_id(config, "") for config in self.always()}
        configs: list[Config] = []
        for point in self.grid_points():
            first = self.config_at(point, self.spec.seeds[0])
            if (key := configuration_id(first, "")) not in taken:
                taken.add(key)
                configs += [first.model_copy(update={"seed": seed}) for seed in self.spec.seeds]
        return configs

    def always(self) -> list[Config]:
        """The schedules that run beside the search, on the same seeds. Presets that are one configuration here count once."""
        return list(self._always)

    @cached_property
    def _always(self) -> list[Config]:
        taken: set[str] = set()
        configs: list[Config] = []
        for schedule in self.spec.beside:
            first = self.always_at(schedule, self.spec.seeds[0])
            if (key := configuration_id(first, "")) not in taken:
                taken.add(key)
                configs += [first.model_copy(update={"seed": seed}) for seed in self.spec.seeds]
        return configs

    def random_point(self, index: int) -> dict[str, Any]:
        """Point `index` of random search, equal in any process; points of a countable space do not repeat."""
        vary = self.spec.vary
        count = combinations(vary)
        if count is not None and count <= MOST_SHUFFLED:
            return nth(vary, int(self._shuffled[index % count]))
        generator = stream(0, "search", index)
        return {field: dimension.draw(generator) for field, dimension in vary.items()}

    @cached_property
    def _shuffled(self) -> NDArray[np.int64]:
        """The points of a countable space by number, in the order in which random search takes them."""
        return stream(0, "search").permutation(combinations(self.spec.vary) or 0)

    def corners(self) -> Iterator[dict[str, Any]]:
        """Points at which every listed value and every bound occurs at least once."""
        first = {field: dimension.corners[0] for field, dimension in self.spec.vary.items()}
        yield first
        for field, dimension in self.spec.vary.items():
            for value in dimension.corners[1:]:
                yield {**first, field: value}

    def searched(self) -> list[Config]:
        """One config for every point that is known beforehand (first seed): all of a grid or random search, the corners for Optuna."""
        return list(self._searched)

    @cached_property
    def _searched(self) -> list[Config]:
        match self.spec.search:
            case Grid():
                return self.grid()[:: len(self.spec.seeds)]
            case RandomSearch(random=rule):
                points: Iterator[dict[str, Any]] = (self.random_point(index) for index in range(rule.trials))
            case _:
                points = self.corners()
        return [self.config_at(point, self.spec.seeds[0]) for point in points]

    @cached_property
    def first(self) -> Config:
        """A config of the search, for everything that all trials share: data, tokenizer, budget, evaluation."""
        return self.config_at(next(self.corners()), self.spec.seeds[0])

    @property
    def budget_words(self) -> int:
        """Words that every trial sees at most."""
        return self.first.budget_words

    def rungs(self) -> list[int]:
        """Nominal words at which the scheduler decides."""
        scheduler = self.spec.scheduler
        return rung_words(self.budget_words, scheduler.asha.rungs) if isinstance(scheduler, Asha) else []

    def milestones(self) -> list[int]:
        """Nominal words at which every trial checkpoints, is scored and reports; the last is the budget."""
        return list(self._milestones)

    @cached_property
    def _milestones(self) -> list[int]:
        scheduler = self.spec.scheduler
        rows = max(config.training.batch_rows for config in [*self.searched(), *self.always()])
        step_words = rows * self.first.data.row_length  # a token begins at most one word
        return all_milestones(self.budget_words, scheduler.asha.rungs if isinstance(scheduler, Asha) else (), step_words)

    @property
    def reduction(self) -> float | None:
        """ASHA's reduction factor; None without it."""
        return self.spec.scheduler.asha.reduction if isinstance(self.spec.scheduler, Asha) else None

    @cached_property
    def points_planned(self) -> int:
        """Points of the search, each on every seed."""
        match self.spec.search:
            case Grid():
                return len(self.grid()) // len(self.spec.seeds)
            case RandomSearch(random=rule):
                return rule.trials
            case OptunaSearch(optuna=rule):
                return rule.trials

    @property
    def trials_planned(self) -> int:
        """All trials that are known beforehand: points and `always`, on every seed."""
        return self.points_planned * len(self.spec.seeds) + len(self.always())

    @property
    def most_controls(self) -> int:
        """Matched controls, where every configuration of the search completes on every seed."""
        return self.points_planned * len(self.spec.seeds) if self.spec.matched else 0

    @property
    def metric(self) -> str:
        """What the search sees."""
        return self.spec.objective.metric

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether less or more of it is better."""
        return self.spec.objective.mode

    def with_set(self, fields: Mapping[str, Any]) -> "Study":
        """The study with more fields the same in every trial."""
        return replace(self, spec=self.spec.model_copy(update={"set": {**self.spec.set, **fields}}))
