"""The network's shortcut forward against the model's own, and its one flat parameter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sleep_tune.config import Masking
from sleep_tune.data.collate import PAD
from sleep_tune.sleep.context import Rows
from sleep_tune.streams import stream
from sleep_tune.training.models import Network, losses, new_model
from sleep_tune.training.objectives import mask_rows
from sleep_tune.training.registry import MODELS

CPU = torch.device("cpu")


@pytest.fixture(params=sorted(MODELS))
def network(request, micro):
    config = micro("epochs", model__name=request.param, model__layers=3)
    return Network(new_model(config.model, 60, seed=4), config.training, CPU)


def rows(lengths, seed=0):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, 60, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = PAD
    tokens[:, 0] = 0
    return Rows(tokens, np.array(lengths), np.ones(len(lengths), int), np.arange(len(lengths)))


@pytest.mark.parametrize("lengths", [[9, 9, 9], [9, 4, 2, 7]])
def test_loss_and_gradients_equal_those_of_the_models_own_forward(network, lengths):
    batch = mask_rows(rows(lengths), Masking(rate=0.3), 60, stream(0, "mask"), CPU)
    loss, loss_B = losses(network, batch, training=False)
    loss.backward()
    ours = network.flat.grad.clone()

    labels = torch.full(batch.tokens_BL.shape, -100)
    labels.view(-1)[batch.at_M] = batch.target_M
    attention = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    for parameter in network.model.parameters():
        parameter.requires_grad_()
    logits = network.model(input_ids=batch.tokens_BL, attention_mask=attention).logits
    own = F.cross_entropy(logits.view(-1, 60), labels.view(-1))
    own.backward()
    assert loss.item() == pytest.approx(own.item(), abs=1e-6)
    own_B = [F.cross_entropy(logits[i], labels[i]).item() for i in range(len(lengths))]
    np.testing.assert_allclose(loss_B.numpy(), own_B, atol=1e-5)
    for name, parameter in network.model.named_parameters():
        start, shape = network._at[name]
        torch.testing.assert_close(ours[start : start + shape.numel()].view(shape), parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_transformers_model_is_at_every_moment_the_trained_one(network):
    with torch.no_grad():
        network.flat.fill_(0.25)
    assert all((parameter == 0.25).all() for parameter in network.model.parameters())
    assert sum(parameter.numel() for parameter in network.model.parameters()) == network.flat.numel()
    assert sum(leaf.numel() for leaf in network.leaves.values()) == network.flat.numel()


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_global_stream_alone(micro):
    model = micro("epochs").model
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (new_model(model, 60, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_padding_changes_no_other_row(network):
    alone = losses(network, unmasked(rows([4])), training=False)[1]
    beside = losses(network, unmasked(rows([4, 9])), training=False)[1]
    assert beside[0].item() == pytest.approx(alone[0].item(), abs=1e-5)


def unmasked(batch):
    """Every token labelled and shown as it is."""
    return mask_rows(batch, Masking(rate=1.0, split=(0.0, 0.0, 1.0)), 60, stream(0, "mask"), CPU)


def test_masking_labels_at_least_one_token_a_row_and_never_a_special_one():
    batch_rows = rows([9, 3, 2, 9] * 50)
    batch = mask_rows(batch_rows, Masking(rate=0.01), 60, stream(0, "mask"), CPU)
    assert np.bincount(batch.row_M.numpy(), minlength=200).min() >= 1
    assert (batch.target_M >= 5).all()
    column = batch.at_M % batch.tokens_BL.shape[1]
    assert (column >= 1).all()
    assert (column < torch.tensor(batch_rows.length_B)[batch.row_M]).all()


def test_masked_tokens_are_shown_in_the_configured_split():
    many = rows([101] * 300)
    batch = mask_rows(many, Masking(rate=0.5, split=(0.8, 0.1, 0.1)), 60, stream(0, "mask"), CPU)
    shown = batch.tokens_BL.view(-1)[batch.at_M].numpy()
    target = batch.target_M.numpy()
    assert len(target) / (100 * 300) == pytest.approx(0.5, abs=0.01)
    assert (shown == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown == target).mean() == pytest.approx(0.1 + 0.1 / 55, abs=0.01)


def test_bf16_stays_near_fp32(micro):
    config = micro("epochs")
    batch = mask_rows(rows([16] * 8), Masking(rate=0.3), 60, stream(0, "mask"), CPU)
    exact = Network(new_model(config.model, 60, seed=4), config.training, CPU)
    half = Network(new_model(config.model, 60, seed=4), config.training.model_copy(update={"precision": "bf16"}), CPU)
    assert half.flat.dtype == torch.float32
    values = [losses(network, batch, training=False)[0].item() for network in (exact, half)]
    assert values[0] == pytest.approx(values[1], rel=0.02)
    assert values[0] != values[1]


def test_a_row_of_special_tokens_alone_has_no_label_and_no_loss(network):
    only = Rows(np.array([[0, 2, 2], [0, 7, 2]]), np.array([3, 3]), np.array([0, 1]), np.array([0, 1]))
    batch = mask_rows(only, Masking(rate=0.5), 60, stream(0, "mask"), CPU)
    assert batch.row_M.tolist() == [1]
    loss, loss_B = losses(network, batch, training=False)
    assert loss_B[0] == 0
    assert torch.isfinite(loss)
