"""Synaptic homeostasis: at waking, weights of low importance shrink (Tononi & Cirelli 2014); which ones, and what becomes of their moments.

Of the n_w weights of a tensor (or of all, where the scope is global) the floor(protect n_w + 1e-9) of highest importance > 0 stay, ties to
the lower index; all others w <- shrink w. Frozen weights are spared and do not count: a share of what can move is protected.
Tied storage is in `network.places` once, so it shrinks once, by the sum of its gradients.
Legend: P parameters, n weights of one tensor or pool, M labelled positions of a batch, B rows.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from sleep_tune.config import Homeostasis
from sleep_tune.training.models import Network, row_losses
from sleep_tune.training.objectives import LabelledRows
from sleep_tune.training.optimizer import moments


def fisher_steps(wake_batches: int, wanted: int | None) -> np.ndarray:
    """(wake_batches,) bool: the `wanted` evenly spaced batches of a wake, each in the middle of its part; null or too many: all."""
    chosen = np.full(wake_batches, wanted is None or wanted >= wake_batches)
    if wanted is not None and wanted < wake_batches:
        chosen[(2 * np.arange(wanted) + 1) * wake_batches // (2 * wanted)] = True
    return chosen


def mean_gradient(network: Network, batches: Iterable[LabelledRows]) -> Tensor:
    """(P,) mean over all rows of the gradient of the row's mean loss, in evaluation mode. `network.flat.grad` is left as it was.

    Raises ValueError where there is no row.
    """
    grad_P, rows = network.flat.grad, 0
    assert grad_P is not None
    before_P = grad_P.clone()
    grad_P.zero_()
    try:
        for batch in batches:
            row_losses(network, batch).sum().backward()
            rows += len(batch.tokens_BL)
        if not rows:
            raise ValueError("no rows to take a gradient of")
        return grad_P / rows
    finally:
        grad_P.copy_(before_P)


def importance(rule: Homeostasis, network: Network, fisher_P: Tensor | None, gradient_P: Tensor | None, generator: Generator) -> Tensor:
    """(P,) float32 importance of every weight; only its order matters, and its sign: what is not > 0 is never protected.

    fisher_P: mean over samples of the squared gradient (Kirkpatrick et al. 2017, online). gradient_P: mean over samples of the gradient
    g; shrinking changes the loss by -(1 - shrink) w g, so signed Taylor importance is -w g, the absolute its magnitude (Molchanov et al.
    2017). Raises ValueError where what the rule needs is missing.
    """
    weight_P = network.flat.detach()
    if rule.importance == "magnitude":
        return weight_P.abs()
    if rule.importance == "random":
        drawn_P = 1 - generator.random(weight_P.numel(), dtype=np.float32)  # in (0, 1]: each may be protected
        return torch.from_numpy(drawn_P).to(weight_P.device)
    measured_P = fisher_P if rule.importance == "fisher" else gradient_P
    if measured_P is None or measured_P.shape != weight_P.shape:
        raise ValueError(f"{rule.importance} importance needs a measured gradient, or square of one, for every weight")
    if rule.importance == "fisher":
        return measured_P
    signed_P = -weight_P * measured_P
    return signed_P if rule.importance == "taylor_signed" else signed_P.abs_()


def shrink(
    network: Network, optimizer: torch.optim.Optimizer, rule: Homeostasis, importance_P: Tensor, frozen_P: Tensor | None = None
) -> int:
    """Shrink in place all that is neither protected nor frozen; returns how many weights that were.

    Their moments are kept, scaled (m shrink, v shrink^2: the next update stays as long), or reset. `shrink` 1 changes nothing at all.
    Raises ValueError where no weight is a target, or `importance_P` is another network's.
    """
    flat_P = network.flat.detach()
    if importance_P.shape != flat_P.shape:
        raise ValueError(f"importance of {importance_P.numel()} weights, the network has {flat_P.numel()}")
    open_P = targets(network, rule)
    if not bool(open_P.any()):
        raise ValueError(f"sleep.homeostasis.targets = {rule.targets}: no weight is one")
    if frozen_P is not None:
        open_P &= ~frozen_P
    if rule.shrink == 1:
        return 0
    for part in _parts(network, rule):
        some_n = open_P[part]
        keep = int(np.floor(rule.protect * int(some_n.sum()) + 1e-9))
        some_n &= ~highest(importance_P[part].where(some_n, 0), keep)
        flat_P[part].mul_(torch.where(some_n, rule.shrink, 1.0))
    _follow(optimizer, rule, open_P)
    return int(open_P.sum())


def targets(network: Network, rule: Homeostasis) -> Tensor:
    """(P,) bool: all weights, or those of matrices, embeddings among them."""
    target_P = torch.zeros_like(network.flat, dtype=torch.bool)
    for first, shape in network.places.values():
        target_P[first : first + shape.numel()] = rule.targets == "all" or len(shape) > 1
    return target_P


def highest(importance_n: Tensor, k: int) -> Tensor:
    """(n,) bool: the k of highest importance > 0, all of them where there are fewer; ties to the lower index. Exact, O(n), any n.

    A positive float32 sorts as its bits do: two counts, of the upper 15 of them and of the lower 16, find the k-th highest.
    (`quantile` and `topk` have limits of size, `kthvalue` has no deterministic form on GPUs.)
    """
    positive_n = importance_n > 0  # neither 0, nor what is not a number
    if k <= 0 or k >= int(positive_n.sum()):
        return positive_n if k > 0 else torch.zeros_like(positive_n)
    bits_n = importance_n.float().view(torch.int32).where(positive_n, 0)
    upper, k_there = _kth_highest(torch.bincount(bits_n >> 16, minlength=1 << 15), k)
    lower, ties = _kth_highest(torch.bincount(bits_n[bits_n >> 16 == upper] & 0xFFFF, minlength=1 << 16), k_there)
    threshold = upper << 16 | lower
    kept_n = bits_n > threshold
    kept_n[(bits_n == threshold).nonzero()[:ties, 0]] = True
    return kept_n


def _kth_highest(count_b: Tensor, k: int) -> tuple[int, int]:
    """(bucket of the k-th highest, which of its own it is, from 1) where `count_b` lie in ascending buckets."""
    at_least_b = count_b.flip(0).cumsum(0).flip(0)
    bucket = int((at_least_b >= k).sum()) - 1
    return bucket, k - int(at_least_b[bucket] - count_b[bucket])


def _parts(network: Network, rule: Homeostasis) -> list[slice]:
    """What a share is taken of: each tensor, or everything at once."""
    if rule.scope == "global":
        return [slice(0, network.flat.numel())]
    return [slice(first, first + shape.numel()) for first, shape in network.places.values()]


def _follow(optimizer: torch.optim.Optimizer, rule: Homeostasis, shrunk_P: Tensor) -> None:
    """The moments of shrunk weights, as the rule says."""
    if rule.moments == "keep":
        return
    for part in moments(optimizer):
        shrunk_n = shrunk_P[part.first : part.last]
        if rule.moments == "reset":
            part.mean.masked_fill_(shrunk_n, 0)
            part.square.masked_fill_(shrunk_n, 0)
        else:
            part.mean.mul_(torch.where(shrunk_n, rule.shrink, 1.0))
            part.square.mul_(torch.where(shrunk_n, rule.shrink**2, 1.0))
