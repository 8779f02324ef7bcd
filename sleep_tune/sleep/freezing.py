"""Neuron freezing: at waking, units of linear maps stop to train, a few more each time (Zhu & Warstadt, as in CLIMB-Sleep).

A neuron is an output unit of a map: a weight row (a column, where the map is a Conv1D) and its bias. State is one array: frozen_U bool,
the units of all maps that the rule targets, in the order of `network.maps`; it only grows.
Legend: U units of all targeted maps, n of one map, T positions that a map sees, S midpoints, P parameters, Z weights of frozen units.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from sleep_tune.config import Freezing
from sleep_tune.training.models import LinearMap, Network, row_losses
from sleep_tune.training.objectives import LabelledRows
from sleep_tune.training.optimizer import moments

MIDPOINTS = 16  # of the path from a unit's output for zero embeddings to its own
ROWS_AT_ONCE = 32  # a forward of the path is no larger than a training step
PARTIAL = 0.1  # share of an update that a partly frozen weight takes


def freezable(network: Network, rule: Freezing) -> dict[str, LinearMap]:
    """The maps whose units may freeze. Raises ValueError where there is none."""
    found = {name: each for name, each in network.maps.items() if rule.targets in ("all", each.group)}
    if not found:
        raise ValueError(f"sleep.freezing.targets = {rule.targets}: the model has no such map")
    return found


def freezable_units(network: Network, rule: Freezing) -> int:
    """U."""
    return sum(len(each.units) for each in freezable(network, rule).values())


def growth(rule: Freezing, units: int, frozen: int) -> int:
    """How many more of a map's units freeze: min(cap - F, max(1, floor(rate (cap - F)))), cap = floor(ceiling n)."""
    left = int(np.floor(rule.ceiling * units + 1e-9)) - frozen
    return max(0, min(left, max(1, int(np.floor(rule.rate * left + 1e-9)))))


def freeze(network: Network, rule: Freezing, frozen_U: np.ndarray, generator: Generator, effect_U: np.ndarray | None) -> np.ndarray:
    """frozen_U after one more event, map by map: at random, or the units of largest `effect_U`, ties to the lower unit."""
    grown_U, first = frozen_U.copy(), 0
    for each in freezable(network, rule).values():
        last = first + len(each.units)
        free_n = first + np.flatnonzero(~frozen_U[first:last])
        more = growth(rule, len(each.units), len(each.units) - free_n.size)
        if effect_U is None:
            grown_U[generator.choice(free_n, more, replace=False)] = True
        else:
            grown_U[free_n[np.argsort(-effect_U[free_n], kind="stable")[:more]]] = True
        first = last
    return grown_U


def causal_scores(network: Network, rule: Freezing, rows: LabelledRows) -> np.ndarray:
    """effect_U float64: sum over tokens of |(h - h0) mean_s dl/dh at h0 + s (h - h0)|: layer integrated gradients (Dhamdhere et al. 2019).

    h is the unit's output for `rows`, h0 for embeddings that are zero, l each row's own mean loss, in evaluation mode. One map at a time
    is led along the path, the rest sees the rows as they are: for each map MIDPOINTS forwards of the rows, and backwards down to the map.
    Weights and `network.flat.grad` stay as they are.
    """
    own, zero = outputs(network, rows, blank=False), outputs(network, rows, blank=True)
    share_S = (torch.arange(MIDPOINTS, device=network.device) + 0.5) / MIDPOINTS
    effects = []
    for each in freezable(network, rule).values():
        zero_Tn = zero[each.key][:, slice(*each.part)].float()
        change_Tn = own[each.key][:, slice(*each.part)].float() - zero_Tn
        slope_Tn = torch.zeros_like(change_Tn)
        for some_S in share_S.split(max(1, ROWS_AT_ONCE // len(rows.tokens_BL))):
            path_STn = zero_Tn + some_S[:, None, None] * change_Tn
            slope_STn = gradient_at(network, repeated(rows, len(some_S)), each, path_STn.flatten(0, 1)).view_as(path_STn)
            slope_Tn += slope_STn.sum(0)
        effects.append((change_Tn * slope_Tn / MIDPOINTS).abs().sum(0, dtype=torch.float64))
    return torch.cat(effects).cpu().numpy()


class _Watch:
    """A tape that keeps what every linear map puts out."""

    def __init__(self) -> None:
        self.output: dict[str, Tensor] = {}

    def linear(self, key: str, inputs: Tensor, output: Tensor, at: Tensor | None) -> None:
        self.output[key] = output

    def norm(self, key: str, inputs: Tensor, output: Tensor, at: Tensor | None) -> None: ...

    def embedding(self, tokens_BL: Tensor, output_TD: Tensor) -> None: ...


class _Lead(_Watch):
    """A tape that writes `path_Tn` over one map's output, and lets the graph begin there: nothing before it needs one."""

    def __init__(self, each: LinearMap, path_Tn: Tensor) -> None:
        super().__init__()
        self.each, self.path_Tn = each, path_Tn

    def linear(self, key: str, inputs: Tensor, output: Tensor, at: Tensor | None) -> None:
        if key == self.each.key:
            torch.set_grad_enabled(True)
            output[:, slice(*self.each.part)] = self.path_Tn


@contextmanager
def _taped(network: Network, tape: _Watch) -> Iterator[None]:
    """`network.tape` for what is inside, which has no graph unless the tape begins one."""
    before, network.tape = network.tape, tape
    try:
        with torch.no_grad():
            yield
    finally:
        network.tape = before


def outputs(network: Network, rows: LabelledRows, blank: bool) -> dict[str, Tensor]:
    """Key of a linear map -> what it puts out for `rows`, or, if `blank`, for embeddings that are zero."""
    watch = _Watch()
    start_TD = torch.zeros(rows.tokens_BL.numel(), network.width, device=network.device) if blank else None
    with _taped(network, watch), network.precision():
        network.logits_at(rows, start_TD=start_TD)
    return watch.output


def gradient_at(network: Network, rows: LabelledRows, each: LinearMap, path_Tn: Tensor) -> Tensor:
    """(T, n) gradient, by what a map puts out, of the sum of the rows' mean losses, where it puts out `path_Tn`."""
    path_Tn.requires_grad_()
    with _taped(network, _Lead(each, path_Tn)):
        return torch.autograd.grad(row_losses(network, rows).sum(), path_Tn)[0]


def repeated(rows: LabelledRows, times: int) -> LabelledRows:
    """The same rows `times` times, one after another."""
    batch, length = rows.tokens_BL.shape

    def shifted(place_M: Tensor, by: int) -> Tensor:
        return (place_M + by * torch.arange(times, device=place_M.device)[:, None]).flatten()

    return replace(
        rows,
        tokens_BL=rows.tokens_BL.repeat(times, 1),
        target_M=rows.target_M.repeat(times),
        row_M=shifted(rows.row_M, batch),
        at_M=shifted(rows.at_M, batch * length),
        slot_M=shifted(rows.slot_M, batch * rows.most),
        bias_B11L=None if rows.bias_B11L is None else rows.bias_B11L.repeat(times, 1, 1, 1),
    )


class Hold:
    """Keeps the weights of frozen units as they are over an optimizer step: complete, their values restored and their moments zero, so
    that neither momentum nor weight decay moves them; partial, PARTIAL of the step. Clipping still counts their gradients.
    """

    def __init__(self, network: Network, optimizer: torch.optim.Optimizer, rule: Freezing, frozen_U: np.ndarray):
        self._flat_P, self._optimizer, self._partial = network.flat.detach(), optimizer, rule.mode == "partial"
        index_Z = frozen_weights(network, rule, frozen_U)
        parts = [part.numel() for group in optimizer.param_groups for part in group["params"]]
        first_p = np.cumsum([0, *parts])
        cuts = np.searchsorted(index_Z, first_p)
        self._index_Z = torch.from_numpy(index_Z).to(network.device)
        pieces = zip(cuts[:-1], cuts[1:], first_p, strict=False)
        self._in_parts = [self._index_Z[start:end] - int(first) for start, end, first in pieces]  # within each part of the optimizer
        self._kept_Z = torch.empty(0)

    def before_step(self) -> None:
        """Remember the frozen weights."""
        self._kept_Z = self._flat_P.index_select(0, self._index_Z)

    def after_step(self) -> None:
        """Put them back, or all but PARTIAL of the way."""
        if self._partial:
            self._kept_Z.lerp_(self._flat_P.index_select(0, self._index_Z), PARTIAL)
        self._flat_P.index_copy_(0, self._index_Z, self._kept_Z)
        if self._partial:
            return
        for part, index_z in zip(moments(self._optimizer), self._in_parts, strict=True):
            part.mean.index_fill_(0, index_z, 0)
            part.square.index_fill_(0, index_z, 0)

    def weights(self) -> Tensor:
        """(P,) bool: the weights of frozen units."""
        frozen_P = torch.zeros_like(self._flat_P, dtype=torch.bool)
        frozen_P[self._index_Z] = True
        return frozen_P


def frozen_weights(network: Network, rule: Freezing, frozen_U: np.ndarray) -> np.ndarray:
    """(Z,) ascending places in `network.flat` of the weights and biases of frozen units."""
    found, first = [], 0
    for each in freezable(network, rule).values():
        unit_z = each.units.start + np.flatnonzero(frozen_U[first : first + len(each.units)])
        start, (rows, columns) = network.places[each.weight]
        across = np.arange(columns) if each.unit_axis == 0 else np.arange(rows) * columns
        found.append((start + unit_z[:, None] * (columns if each.unit_axis == 0 else 1) + across).ravel())
        found.append(network.places[each.bias][0] + unit_z)
        first += len(each.units)
    return np.sort(np.concatenate(found))
