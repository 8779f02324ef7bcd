"""What makes a sample worth replaying: one function and one row of `CRITERIA` each.

A criterion's positional parameters name what has to be measured of the fold's samples (n,): `loss_n`, mean cross-entropy in nats of a row's
labelled tokens in the training forward, before the update; `gain_n`, squared norm of the gradient of that loss; `need_n`, mean cosine
with the nearest other candidates. Its keyword parameters are fields of the config. Scores are finite and >= 0.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Floats = NDArray[np.floating]
PositiveInt = Annotated[int, Field(ge=1)]


def between_percentiles(value_n: Floats) -> NDArray[np.float64]:
    """(n,) in [0, 1]: where a value lies between the 1st and 99th percentile of all; 1 for all where these are one."""
    value_n = np.asarray(value_n, np.float64)
    low, high = np.percentile(value_n, (1, 99))
    if high - low <= 1e-12 * max(1.0, abs(high)):
        return np.ones(value_n.size)
    scaled_n: NDArray[np.float64] = (np.clip(value_n, low, high) - low) / (high - low)
    return scaled_n


def loss(loss_n: Floats) -> Floats:
    """What is predicted badly."""
    return loss_n


def gain(gain_n: Floats) -> Floats:
    """What would change the model most: the first-order drop of a sample's loss, its squared gradient norm (Mattar & Daw 2018)."""
    return between_percentiles(gain_n)


def need(need_n: Floats, *, k: PositiveInt = 50, layers: PositiveInt | None = None, among: Literal["fold", "seen"] = "fold") -> Floats:
    """What is like much else: mean cosine with its k nearest other samples (Mattar & Daw 2018)."""
    return between_percentiles(need_n)


def utility(
    gain_n: Floats, need_n: Floats, *, k: PositiveInt = 50, layers: PositiveInt | None = None, among: Literal["fold", "seen"] = "fold"
) -> Floats:
    """Gain times need; 1 for all where no sample has both (Mattar & Daw 2018)."""
    utility_n = between_percentiles(gain_n) * between_percentiles(need_n)
    return utility_n if utility_n.sum() > 0 else np.ones(utility_n.size)


CRITERIA: dict[str, Callable[..., Floats]] = {"loss": loss, "gain": gain, "need": need, "utility": utility}


def measures(criterion: str) -> tuple[str, ...]:
    """What a criterion asks to be measured: some of `loss`, `gain`, `need`."""
    parameters = inspect.signature(CRITERIA[criterion]).parameters.values()
    return tuple(each.name.removesuffix("_n") for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY)
