"""The gradient of one batch: computed whole or in parts one after another, by this process alone or by several workers together.

Legend: B rows of the batch, P parameters.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from sleep_tune.training.dropout import Dropout
from sleep_tune.training.objectives import LabelledRows
from sleep_tune.training.parallel import part_of
from sleep_tune.training.row_gradients import RowGradients
from sleep_tune.training.run import Run, State


def descend(run: Run, state: State, batch: LabelledRows) -> tuple[float, Tensor]:
    """(loss, gains or losses (B,) of the rows) of a batch, and its gradient in `flat.grad`; without where the loss is not finite."""
    part = None if run.team is None else run.team.part(batch)
    rows, grad_P = batch if part is None else part.rows, run.network.flat.grad
    assert grad_P is not None
    squares_P = None
    if run.fisher_step(state):
        squares_P = state.importance_P if part is None else torch.zeros_like(state.importance_P)
    value, measured_B = _own(run, state, rows, squares_P)
    if run.team is not None and part is not None:
        value, measured_B = run.team.join(part, value, measured_B, grad_P, squares_P)
        if squares_P is not None:
            state.importance_P += squares_P
    return value, measured_B


def _own(run: Run, state: State, rows: LabelledRows, squares_P: Tensor | None) -> tuple[float, Tensor]:
    """The same of the rows that this process computes, `training.accumulation` parts of them in turn."""
    dropout, grad_P, count = _dropout(run, state), run.network.flat.grad, min(run.config.training.accumulation, len(rows.tokens_BL))
    assert grad_P is not None
    if count == 1:
        return _at_once(run, state, rows, dropout, squares_P)
    value, measured, sum_P = 0.0, [], torch.zeros_like(grad_P)
    for nth in range(count):
        part = part_of(rows, nth, count)
        of_part, measured_b = _at_once(run, state, part.rows, dropout, squares_P)
        value += part.weight * of_part
        measured.append(measured_b)
        sum_P.add_(grad_P, alpha=part.weight)
    grad_P.copy_(sum_P)
    return value, torch.cat(measured)


def _at_once(run: Run, state: State, rows: LabelledRows, dropout: Dropout | None, squares_P: Tensor | None) -> tuple[float, Tensor]:
    gradients = _row_gradients(run, state, rows, squares_P)
    run.network.flat.grad.zero_()  # type: ignore[union-attr]
    with gradients or nullcontext():
        value, measured_B = run.network.descend(rows, dropout)
    if gradients is not None and "gain" in run.measures and math.isfinite(value):
        measured_B = gradients.gain_B()
    return value, measured_B


def _dropout(run: Run, state: State) -> Dropout | None:
    """What draws the step's masks: a function of seed, step and worker."""
    if not run.network.dropout:
        return None
    worker = () if run.team is None else run.team.dropout_stream()
    return Dropout(run.network.dropout, run.device, run.config.seed, state.step, *worker)


def _row_gradients(run: Run, state: State, rows: LabelledRows, squares_P: Tensor | None) -> RowGradients | None:
    """What watches the gradient of every row of a wake; None where nobody asks for it."""
    if state.phase == "sleep" or not (squares_P is not None or "gain" in run.measures):
        return None
    return RowGradients(run.network, rows, "gain" in run.measures, squares_P)
