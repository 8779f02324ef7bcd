"""What one varied field may be: a list of values or a distribution, and how a value is drawn from it."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from numpy.random import Generator
from pydantic import BeforeValidator, Discriminator, Tag, model_validator
from pydantic_core import PydanticCustomError

from sleep_tune.choices import key_of
from sleep_tune.config import Frozen
from sleep_tune.digests import canonical_json

_LARGEST = 2**53  # beyond it, a float is no exact whole number


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Bounds(Frozen):
    """Lowest and highest value, both possible."""

    low: float
    high: float

    @model_validator(mode="before")
    @classmethod
    def _from_a_list(cls, raw: Any) -> Any:
        numbers = list(raw) if isinstance(raw, list | tuple) else []
        if len(numbers) != 2 or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
            raise PydanticCustomError("choice", "must be [lowest, highest], two numbers")
        if not all(abs(number) <= _LARGEST for number in numbers):
            raise PydanticCustomError("choice", "must be [lowest, highest], two numbers between -2**53 and 2**53")
        return {"low": numbers[0], "high": numbers[1]}

    @model_validator(mode="after")
    def _ascending(self) -> "Bounds":
        if not self.low < self.high:
            raise PydanticCustomError("choice", "must be [lowest, highest], the first below the second")
        return self


class Values(Frozen):
    """One of these, in this order in a grid."""

    choice: Annotated[tuple[Any, ...], BeforeValidator(_pair)]

    @model_validator(mode="after")
    def _some_and_different(self) -> "Values":
        if not self.choice:
            raise PydanticCustomError("choice", "must be a list of at least one value")
        written = [canonical_json(value) for value in self.choice]
        for text in written:
            if written.count(text) > 1:
                raise PydanticCustomError("choice", "{value} is given twice", {"value": text})
        return self

    def draw(self, generator: Generator) -> Any:
        """A uniformly chosen value."""
        return self.choice[int(generator.integers(len(self.choice)))]

    @property
    def corners(self) -> tuple[Any, ...]:
        """The values that a field has to accept."""
        return self.choice

    def plain(self) -> Any:
        """As in a study file."""
        return list(self.choice)


def _rounded(value: float, low: float, high: float) -> float:
    """Six digits are as many as anyone reads, and keep ids free of noise."""
    return min(max(float(f"{value:.6g}"), low), high)


class Uniform(Frozen):
    uniform: Bounds

    def draw(self, generator: Generator) -> float:
        """Uniform between the bounds."""
        low, high = self.uniform.low, self.uniform.high
        return _rounded(generator.uniform(low, high), low, high)

    @property
    def corners(self) -> tuple[Any, ...]:
        """The bounds."""
        return (self.uniform.low, self.uniform.high)

    def plain(self) -> Any:
        """As in a study file."""
        return {"uniform": [self.uniform.low, self.uniform.high]}


class LogUniform(Frozen):
    log_uniform: Bounds

    @model_validator(mode="after")
    def _positive(self) -> "LogUniform":
        if self.log_uniform.low <= 0:
            raise PydanticCustomError("choice", "must be [lowest, highest], both above 0")
        return self

    def draw(self, generator: Generator) -> float:
        """Uniform in the logarithm."""
        low, high = self.log_uniform.low, self.log_uniform.high
        return _rounded(math.exp(generator.uniform(math.log(low), math.log(high))), low, high)

    @property
    def corners(self) -> tuple[Any, ...]:
        """The bounds."""
        return (self.log_uniform.low, self.log_uniform.high)

    def plain(self) -> Any:
        """As in a study file."""
        return {"log_uniform": [self.log_uniform.low, self.log_uniform.high]}


class RandInt(Frozen):
    """A whole number, both bounds possible."""

    randint: Bounds

    @model_validator(mode="after")
    def _whole(self) -> "RandInt":
        if self.randint.low != int(self.randint.low) or self.randint.high != int(self.randint.high):
            raise PydanticCustomError("choice", "must be [lowest, highest], whole numbers")
        return self

    def draw(self, generator: Generator) -> int:
        """Uniform over the whole numbers between the bounds."""
        return int(generator.integers(int(self.randint.low), int(self.randint.high), endpoint=True))

    @property
    def corners(self) -> tuple[Any, ...]:
        """The bounds."""
        return (int(self.randint.low), int(self.randint.high))

    def plain(self) -> Any:
        """As in a study file."""
        return {"randint": [int(self.randint.low), int(self.randint.high)]}


def _listed(value: object) -> object:
    if isinstance(value, list | tuple):
        return {"choice": value}
    if not isinstance(value, dict | Frozen) or (isinstance(value, dict) and len(value) != 1):
        kinds = "{choice: […]}, {uniform: …}, {log_uniform: …}, {randint: …}"
        raise PydanticCustomError("choice", "must be a list of values, or one of {kinds}", {"kinds": kinds})
    return value


Dimension = Annotated[
    Annotated[Values, Tag("choice")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("log_uniform")]
    | Annotated[RandInt, Tag("randint")],
    Discriminator(key_of),
    BeforeValidator(_listed),
]
Sampler = Literal["tpe", "gp", "random"]


def combinations(dimensions: dict[str, Dimension]) -> int | None:
    """How many points there are; None where a distribution makes them countless."""
    lists = [_listed_values(dimension) for dimension in dimensions.values()]
    return None if None in lists else math.prod(_size(values) for values in lists if values is not None)


def nth(dimensions: dict[str, Dimension], index: int) -> dict[str, Any]:
    """Point `index` of a countable space, in the order of a grid: the last field turns fastest."""
    point: dict[str, Any] = {}
    for field, dimension in reversed(dimensions.items()):
        values = _listed_values(dimension) or ()
        index, place = divmod(index, _size(values))
        point[field] = values[place]
    return {field: point[field] for field in dimensions}


def _size(values: Sequence[Any]) -> int:
    """`len`, which refuses ranges beyond what a machine word counts."""
    return values.stop - values.start if isinstance(values, range) else len(values)


def _listed_values(dimension: Dimension) -> Sequence[Any] | None:
    if isinstance(dimension, Values):
        return dimension.choice
    return range(int(dimension.randint.low), int(dimension.randint.high) + 1) if isinstance(dimension, RandInt) else None
