"""The step that is written out, against autograd over the forward of every architecture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleep_tune.config import Masking
from sleep_tune.data.collate import PAD
from sleep_tune.sleep.context import Rows
from sleep_tune.streams import stream
from sleep_tune.training.dropout import Dropout
from sleep_tune.training.models import Network, new_network
from sleep_tune.training.objectives import mask_rows
from sleep_tune.training.parallel import part_of

CPU = torch.device("cpu")


def network_of(micro, **fields):
    config = micro("epochs", model__name="roberta_pln_tiny", **fields)
    return new_network(config.model, 60, 4, config.training, CPU)


def batch_of(lengths, rate=0.3, seed=0):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, 60, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = PAD
    tokens[:, 0] = 0
    rows = Rows(tokens, np.array(lengths), np.ones(len(lengths), int), np.arange(len(lengths)))
    return mask_rows(rows, Masking(rate=rate), 60, stream(seed, "mask"), CPU)


def descended(step, network, batch, dropout=None):
    network.flat.grad.zero_()
    loss, loss_B = step(network, batch, dropout)
    return loss, loss_B, network.flat.grad.clone()


def both(network, batch, rate=0.0):
    steps = (type(network).descend, Network.descend)
    return [descended(step, network, batch, Dropout(rate, CPU, 0, 1) if rate else None) for step in steps]


@given(
    lengths=st.lists(st.integers(2, 16), min_size=1, max_size=6),
    layers=st.integers(1, 3),
    tied=st.booleans(),
    rate=st.sampled_from([0.05, 0.4, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_loss_and_gradients_are_autograds(micro, lengths, layers, tied, rate, seed):
    network, batch = network_of(micro, model__layers=layers, model__tied=tied), batch_of(lengths, rate, seed)
    (loss, loss_B, grad_P), (own, own_B, own_P) = both(network, batch)
    assert loss == pytest.approx(own, abs=1e-6)
    torch.testing.assert_close(loss_B, own_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(grad_P, own_P, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 3])
def test_with_dropout_the_same_masks_fall_in_the_same_places(micro, layers):
    network, batch = network_of(micro, model__layers=layers), batch_of([12] * 5)
    (loss, _, grad_P), (own, _, own_P) = both(network, batch, rate=0.3)
    assert loss == pytest.approx(own, abs=1e-6)
    torch.testing.assert_close(grad_P, own_P, atol=1e-6, rtol=1e-4)
    assert loss != both(network, batch)[0][0]


def test_with_dropout_and_padding_the_gradient_is_that_of_the_loss(micro):
    """Masks are not drawn for padding: autograd's fall elsewhere, so the loss itself is followed a little way down its gradient."""
    network, batch = network_of(micro, model__layers=2), batch_of([12, 3, 7])
    loss, _, grad_P = descended(type(network).descend, network, batch, Dropout(0.3, CPU, 0, 1))
    step = 1e-2 / float(grad_P.norm())
    with torch.no_grad():
        network.flat += step / 2 * grad_P
        above, *_ = descended(type(network).descend, network, batch, Dropout(0.3, CPU, 0, 1))
        network.flat -= step * grad_P
        below, *_ = descended(type(network).descend, network, batch, Dropout(0.3, CPU, 0, 1))
    assert above > loss > below
    assert (above - below) / step == pytest.approx(float(grad_P.square().sum()), rel=1e-2)


def test_bf16_is_as_near_to_fp32_as_autocast_is(micro):
    exact, half = (network_of(micro, model__layers=3, training__precision=precision) for precision in ("fp32", "bf16"))
    batch = batch_of([16] * 8)
    (_, _, true_P), _ = both(exact, batch)
    (loss, loss_B, grad_P), (own, own_B, own_P) = both(half, batch)
    assert loss == pytest.approx(own, rel=2e-3)
    torch.testing.assert_close(loss_B, own_B, rtol=0.02, atol=0)
    assert (grad_P - true_P).norm() <= 1.2 * (own_P - true_P).norm()


def test_what_a_step_leaves_in_the_gradient_does_not_depend_on_the_step_before(micro):
    network = network_of(micro, model__tied=False)
    long, short = batch_of([16] * 4), batch_of([5] * 4, seed=1)
    fresh = descended(type(network).descend, network, short)[2]
    descended(type(network).descend, network, long)
    assert torch.equal(descended(type(network).descend, network, short)[2], fresh)
    changed = network_of(micro, model__tied=False)
    with torch.no_grad():
        changed.flat.copy_(network.flat * 2)
        network.flat.mul_(2)
    assert torch.equal(descended(type(network).descend, network, short)[2], descended(type(network).descend, changed, short)[2])


def test_a_part_without_labels_has_loss_and_gradient_zero(micro):
    network, batch = network_of(micro), batch_of([9, 4], rate=0.3)
    nothing = part_of(batch, 0, 2).rows
    nothing = type(nothing)(
        nothing.tokens_BL, *(each[:0] for each in (nothing.target_M, nothing.row_M, nothing.at_M, nothing.slot_M)), None, 1
    )
    loss, loss_B, grad_P = descended(type(network).descend, network, nothing)
    assert loss == 0
    assert loss_B.tolist() == [0.0]
    assert not grad_P.any()


def test_a_loss_that_is_not_finite_leaves_no_gradient(micro):
    network = network_of(micro)
    with torch.no_grad():
        network.leaves["head.weight"].fill_(torch.inf)
    loss, _, grad_P = descended(type(network).descend, network, batch_of([9, 4]))
    assert not np.isfinite(loss)
    assert not grad_P.any()
