"""What a study runs next, as a function of its ledger: `always` first, then the search, each point on every seed, nothing twice; last
the matched controls, as their pairs complete.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sleep_tune.config import Config, configuration_id, trial_id
from sleep_tune.errors import UserError
from sleep_tune.study.controls import control_config, control_configuration, due, may_come
from sleep_tune.study.dimensions import combinations
from sleep_tune.study.ledger import LedgerView, TrialRecord
from sleep_tune.study.spec import Grid, OptunaSearch, RandomSearch, Study

TRIES = 20  # draws in a row that only repeat known configurations: the sampler is stuck, or the space used up


@dataclass(frozen=True)
class Proposal:
    """A trial that the ledger does not have yet."""

    trial: str
    configuration: str
    config: Config
    origin: str


class Proposals:
    """A study's new trials, one after the other. The ledger is looked at whenever the next one is asked for, so results so far count."""

    def __init__(self, study: Study, view: LedgerView, corpus_digest: str) -> None:
        self._study, self._view, self._digest = study, view, corpus_digest
        self._iterator = self._all()

    def next(self) -> Proposal | None:
        """The next new trial; None where there is none now: `later` says whether one may come."""
        return next(self._iterator, None) or next(self._controls(), None)

    @property
    def later(self) -> bool:
        """Whether a trial that runs may still bring a new one, its matched control."""
        return self._study.spec.matched and may_come(self._view, self._study.spec.seeds)

    def _all(self) -> Iterator[Proposal]:
        yield from self._new(self._study.always(), "always")
        match self._study.spec.search:
            case Grid():
                yield from self._new(self._study.grid(), "grid")
            case RandomSearch(random=rule):
                yield from self._points("random", rule.trials, "")
            case OptunaSearch(optuna=rule):
                yield from self._points("optuna", rule.trials, rule.sampler)

    def _controls(self) -> Iterator[Proposal]:
        """Matched controls that are due. They tell the search nothing, so the search goes first."""
        for pair in due(self._view, self._study.spec.seeds) if self._study.spec.matched else ():
            config = control_config(self._study.as_run_now(pair.config), pair.trial)
            if (trial := trial_id(config, self._digest)) not in self._view.trials:
                yield Proposal(trial, control_configuration(pair.configuration), config, "matched")

    def _new(self, configs: list[Config], origin: str) -> Iterator[Proposal]:
        for config in configs:
            trial = trial_id(config, self._digest)
            if trial not in self._view.trials:
                yield Proposal(trial, configuration_id(config, self._digest), config, origin)

    def _points(self, origin: str, count: int, sampler: str) -> Iterator[Proposal]:
        """Known points on seeds they lack, then new points until there are `count`."""
        for records in self._known(origin):
            yield from self._new(self._on_every_seed(self._study.as_run_now(records[0].config)), origin)
        while (index := len(self._known(origin))) < count:
            config = self._new_point(origin, index, sampler)
            if config is None:
                return
            yield from self._new(self._on_every_seed(config), origin)

    def _new_point(self, origin: str, index: int, sampler: str) -> Config | None:
        """The next configuration that the ledger does not have; None where none is found."""
        taken = {record.configuration for record in self._view.trials.values()}
        for point in self._points_from(origin, index, sampler):
            try:
                config = self._study.config_at(point, self._study.spec.seeds[0])
            except UserError:  # values that do not go together
                continue
            if configuration_id(config, self._digest) not in taken:
                return config
        return None

    def _points_from(self, origin: str, index: int, sampler: str) -> Iterator[dict[str, Any]]:
        """Points to try: the sampler's, then random ones, which in a space that can be counted are all there are."""
        if origin == "optuna":
            from trainables.optuna_points import ask

            for retry in range(TRIES):
                yield ask(self._study, sampler, self._known(origin), index, retry)
        for further in range(max(TRIES, combinations(self._study.spec.vary) or 0)):
            yield self._study.random_point(index + further)

    def _on_every_seed(self, config: Config) -> list[Config]:
        return [config.model_copy(update={"seed": seed}) for seed in self._study.spec.seeds]

    def _known(self, origin: str) -> list[list[TrialRecord]]:
        groups: dict[str, list[TrialRecord]] = defaultdict(list)
        for record in self._view.trials.values():
            if record.origin == origin:
                groups[record.configuration].append(record)
        return list(groups.values())


def planned_out(study: Study, view: LedgerView, corpus_digest: str) -> bool:
    """Whether nothing is left to run: no trial unfinished, none new."""
    return not any(record.unfinished for record in view.trials.values()) and Proposals(study, view, corpus_digest).next() is None
