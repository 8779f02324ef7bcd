"""How a study searches: its search, scheduler and objective, each kind as a study file writes it."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PlainSerializer, Tag
from pydantic_core import PydanticCustomError

from sleep_tune.choices import key_of
from sleep_tune.config import Frozen, Nothing
from sleep_tune.study.dimensions import Sampler

LOSSES = ("dev_loss", "perplexity", "train_loss")


def once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError("choice", "{value} is given twice", {"value": str(value)})
    return values


def list_of(what: str) -> BeforeValidator:
    """Reads a list with at least one entry; `what` names the entries."""

    def read(value: object) -> object:
        if not isinstance(value, list | tuple) or not value:
            raise PydanticCustomError("choice", "must be a list of {what}, at least one", {"what": what})
        return tuple(value)

    return BeforeValidator(read)


def _share(value: object) -> object:
    if isinstance(value, Fraction):
        return value
    try:
        share = Fraction(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else Fraction(0)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise PydanticCustomError("choice", "must be a share of the budget in (0, 1), such as 1/9")
    return share


def _kind(word: str, others: str) -> BeforeValidator:
    """Reads the bare `word` as the kind without parameters; `others` says how the kinds with parameters are written."""

    def read(value: object) -> object:
        if isinstance(value, str) and value != word:
            raise PydanticCustomError("choice", "must be {word} or {others}", {"word": word, "others": others})
        return {word: {}} if value == word else value

    return BeforeValidator(read)


MOST_POINTS = 10_000  # each is judged before the study starts: seconds
Points = Annotated[int, Field(ge=1, le=MOST_POINTS)]
Share = Annotated[Any, BeforeValidator(_share), PlainSerializer(str)]  # a Fraction: a rung is met exactly


class Grid(Frozen):
    """Every combination of the listed values."""

    grid: Nothing


class RandomRule(Frozen):
    trials: Points


class RandomSearch(Frozen):
    """`trials` points drawn independently, each on every seed."""

    random: RandomRule


class OptunaRule(Frozen):
    trials: Points
    sampler: Sampler = "tpe"


class OptunaSearch(Frozen):
    """`trials` points proposed by an Optuna sampler, each on every seed."""

    optuna: OptunaRule


class AshaRule(Frozen):
    """At each rung (share of the budget) a trial goes on if it is in the best 1/reduction of those that came by."""

    rungs: Annotated[tuple[Share, ...], list_of("shares of the budget"), AfterValidator(once)] = (Fraction(1, 9), Fraction(1, 3))
    reduction: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0


class Asha(Frozen):
    asha: AshaRule


class NoScheduler(Frozen):
    """Every trial uses its whole budget."""

    none: Nothing


class Objective(Frozen):
    """What search and scheduler see, at every milestone."""

    metric: Annotated[str, Field(min_length=1)] = "dev_loss"
    mode: Literal["min", "max"] = "min"


Search = Annotated[
    Annotated[Grid, Tag("grid")] | Annotated[RandomSearch, Tag("random")] | Annotated[OptunaSearch, Tag("optuna")],
    Discriminator(key_of),
    _kind("grid", "{random: {trials: n}} or {optuna: {trials: n}}"),
]
Scheduler = Annotated[
    Annotated[Asha, Tag("asha")] | Annotated[NoScheduler, Tag("none")],
    Discriminator(key_of),
    _kind("none", "{asha: {rungs: [1/9, 1/3], reduction: 3}}"),
]
