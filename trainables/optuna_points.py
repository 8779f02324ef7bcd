"""Optuna's proposals: a point from a sampler that has been told what the ledger knows.

The Optuna study is built anew at each proposal, and its sampler seeded by (index, try): nothing of it is stored, so a resumed search
goes on as if it had not been interrupted.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sleep_tune.digests import canonical_json
from sleep_tune.streams import torch_seed
from sleep_tune.study.dimensions import Dimension, LogUniform, RandInt, Uniform, Values
from sleep_tune.study.ledger import State, TrialRecord
from sleep_tune.study.spec import Study


def ask(study: Study, sampler: str, history: Sequence[Sequence[TrialRecord]], index: int, retry: int) -> dict[str, Any]:
    """The point (dotted field -> value) that `sampler` proposes after `history`, the records of each configuration, one per seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {field: _distribution(dimension) for field, dimension in study.spec.vary.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental" ones of options that are years old
        optimisation = optuna.create_study(
            direction="minimize" if study.mode == "min" else "maximize",
            sampler=_sampler(sampler, torch_seed(0, "search", index, retry) % 2**32),
        )
        known = _Known(study)
        told = [known.told(records, space, study.spec.seeds) for records in history]
        optimisation.add_trials([trial for trial in told if trial is not None])
        asked = optimisation.ask(fixed_distributions=space).params
    return {field: _value(dimension, asked[field]) for field, dimension in study.spec.vary.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    match dimension:
        case Values():
            return CategoricalDistribution([canonical_json(value) for value in dimension.choice])
        case Uniform():
            return FloatDistribution(dimension.uniform.low, dimension.uniform.high)
        case LogUniform():
            return FloatDistribution(dimension.log_uniform.low, dimension.log_uniform.high, log=True)
        case RandInt():
            return IntDistribution(int(dimension.randint.low), int(dimension.randint.high))


def _value(dimension: Dimension, asked: Any) -> Any:
    """What the config is given for a parameter: the value behind a category, a number of six digits."""
    if isinstance(dimension, Values):
        return next(value for value in dimension.choice if canonical_json(value) == asked)
    if isinstance(dimension, RandInt):
        return int(asked)
    low, high = dimension.corners
    return min(max(float(f"{asked:.6g}"), low), high)


def _sampler(name: str, seed: int) -> BaseSampler:
    match name:
        case "tpe":
            return TPESampler(seed=seed, constant_liar=True)  # points that still run count as bad ones: the next goes elsewhere
        case "gp":
            return GPSampler(seed=seed)
        case _:
            return RandomSampler(seed=seed)


class _Known:
    """Recorded configurations as trials that Optuna can be told."""

    def __init__(self, study: Study) -> None:
        self._study = study
        listed = {field: dimension for field, dimension in study.spec.vary.items() if isinstance(dimension, Values)}
        self._categories = {field: self._forms(field, dimension) for field, dimension in listed.items()}

    def _forms(self, field: str, dimension: Values) -> list[tuple[Any, str]]:
        """Each value as a config holds it (`{ratio: 1}` as `{ratio: 1.0}`), with its category."""
        corner = next(self._study.corners())
        forms = []
        for value in dimension.choice:
            config = self._study.config_at({**corner, field: value}, self._study.spec.seeds[0])
            forms.append((_at(config.model_dump(mode="json"), field), canonical_json(value)))
        return forms

    def told(self, records: Sequence[TrialRecord], space: Mapping[str, BaseDistribution], seeds: Sequence[int]) -> FrozenTrial | None:
        """One configuration: complete with the mean over its seeds only where all of them used their whole budget, so that no values at
        unequal words are compared; otherwise pruned at the last milestone that all of them reported, running, or failed.

        None where it does not lie in the space.
        """
        params = self._params(records[0].config, space)
        if params is None:
            return None
        states = {record.state for record in records}
        if State.RUNNING in states or len(records) < len(seeds):
            return create_trial(state=TrialState.RUNNING, params=params, distributions=dict(space))
        if State.FAILED in states:
            return create_trial(state=TrialState.FAIL, params=params, distributions=dict(space))
        if states == {State.COMPLETE}:
            value = _mean([record.reports[-1].value for record in records])
            return create_trial(state=TrialState.COMPLETE, value=value, params=params, distributions=dict(space))
        common = set.intersection(*[{report.milestone for report in record.reports} for record in records])
        values = {m: _mean([r.value for record in records for r in record.reports if r.milestone == m]) for m in common}
        return create_trial(state=TrialState.PRUNED, intermediate_values=values, params=params, distributions=dict(space))

    def _params(self, config: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any] | None:
        params: dict[str, Any] = {}
        for field, distribution in space.items():
            value = _at(config, field)
            if field in self._categories:
                value = next((category for form, category in self._categories[field] if form == value), None)
            elif not isinstance(value, int | float):
                return None
            if value is None or not distribution._contains(distribution.to_internal_repr(value)):
                return None
            params[field] = value
        return params


def _at(config: Any, field: str) -> Any:
    """The value of a dotted field in a dumped config; None where there is none."""
    for part in field.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
