"""AdamW on the flat parameter and its moments, its learning rate a function of words seen, and clipping by the global norm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sleep_tune.config import Optimizer
from sleep_tune.training.models import Network


def learning_rate(optimizer: Optimizer, words_before: int, words_after: int, budget_words: int) -> float:
    """lr_max min(u/h, (1-u)/(1-h)), u the share of the budget in the middle of the step, h the warm-up share; never 0."""
    done = (words_before + words_after) / (2 * budget_words)
    rise = done / optimizer.warmup if optimizer.warmup else 1.0
    return optimizer.learning_rate * min(1.0, rise, (1 - done) / (1 - optimizer.warmup))


def new_optimizer(network: Network, optimizer: Optimizer) -> torch.optim.AdamW:
    """Fused AdamW over the flat parameter; weight decay, where there is any, on matrices and embeddings only."""
    parts = [network.flat]
    if optimizer.weight_decay:
        split = network.decayed
        parts = [torch.nn.Parameter(network.flat.data[:split]), torch.nn.Parameter(network.flat.data[split:])]
        for part, grad in zip(parts, (network.flat.grad[:split], network.flat.grad[split:]), strict=True):  # type: ignore[index]
            part.grad = grad
    groups = [{"params": [part], "weight_decay": decay} for part, decay in zip(parts, (optimizer.weight_decay, 0.0), strict=False)]
    return torch.optim.AdamW(groups, lr=optimizer.learning_rate, betas=optimizer.betas, eps=optimizer.eps, fused=True)


@dataclass(frozen=True)
class Moments:
    """AdamW's moments of `flat[first:last]`: tensors (last - first,) that may be changed in place."""

    first: int
    last: int
    mean: Tensor
    square: Tensor


def moments(optimizer: torch.optim.Optimizer) -> list[Moments]:
    """The moments as they are now, in the order of `flat`; none before the first step. Loading a state replaces them: ask anew."""
    found, first = [], 0
    for part in (part for group in optimizer.param_groups for part in group["params"]):
        last, state = first + part.numel(), optimizer.state.get(part)
        if state:
            found.append(Moments(first, last, state["exp_avg"], state["exp_avg_sq"]))
        first = last
    return found


def clip(grad_P: Tensor, most: float | None) -> float:
    """Scale the gradient in place so that its norm is at most `most`; returns the norm before."""
    norm = float(torch.linalg.vector_norm(grad_P))
    if most is not None and norm > most:
        grad_P.mul_(most / norm)
    return norm
