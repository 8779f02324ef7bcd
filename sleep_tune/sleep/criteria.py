"""What makes a sample worth replaying: a function of what its training step showed, one row of `CRITERIA` each."""

from collections.abc import Callable

from numpy.typing import NDArray


def loss(loss_B: NDArray) -> NDArray:
    """(B,) mean cross-entropy in nats of each row's labelled tokens, from the training forward, before the update."""
    return loss_B


CRITERIA: dict[str, Callable[..., NDArray]] = {"loss": loss}
