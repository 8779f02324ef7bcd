"""Gradients of rows seen in one backward pass, against `torch.func.vmap(grad)` of the transformers model in float64."""

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

from sleep_tune.config import Masking
from sleep_tune.data.collate import PAD
from sleep_tune.sleep.context import Rows
from sleep_tune.streams import stream
from sleep_tune.training.dropout import Dropout
from sleep_tune.training.models import losses, new_network
from sleep_tune.training.objectives import label_rows, labelled, next_tokens
from sleep_tune.training.registry import MODELS
from sleep_tune.training.row_gradients import RowGradients, gains

CPU = torch.device("cpu")
VOCAB = 60
NAMES = ["roberta_pln_tiny", "gpt2_tiny"]
LENGTHS = [14, 5, 2, 9]  # up to 11 positions a row the micro model's maps all go by inner products, from 12 on the smallest do not


def config_of(micro, name, **fields):
    return micro("epochs", model__name=name, objective=MODELS[name].objectives[0], **fields)


def network_of(config, vocab=VOCAB):
    return new_network(config.model, vocab, 4, config.training, CPU)


def rows(lengths, seed=0, vocab=20):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, vocab, (len(lengths), max(lengths)))  # so few that rows hold tokens twice
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = PAD
    tokens[:, 0] = 0
    return Rows(tokens, np.array(lengths), np.ones(len(lengths), int), np.arange(len(lengths)))


def batch_of(config, lengths, seed=0, rate=0.3):
    asked = config.model_copy(update={"masking": Masking(rate=rate)})
    return label_rows(rows(lengths, seed), asked, 0.0, VOCAB, stream(seed, "mask"), CPU)


def row_of(batch, i):
    """Row `i` of a batch as a batch of its own, cut to its length."""
    is_i = batch.row_M == i
    length = batch.tokens_BL.shape[1] if batch.bias_B11L is None else int((batch.bias_B11L[i] == 0).sum())
    column_m = (batch.at_M[is_i] % batch.tokens_BL.shape[1]).numpy()
    tokens_1L = batch.tokens_BL[i : i + 1, :length].numpy()
    return labelled(tokens_1L, np.array([length]), batch.target_M[is_i].numpy(), np.zeros_like(column_m), column_m, CPU)


def gradients_by_row(network, batch):
    """Transformers' name of a tensor -> (B, ...) float64 gradients of each row's mean loss, one backward pass a row."""
    model, (size, length) = network.model, batch.tokens_BL.shape
    model.set_attn_implementation("eager")  # the other ones cannot be batched by vmap
    label_BL = torch.full((size, length), -1)
    label_BL.view(-1)[batch.at_M] = batch.target_M
    seen_B1LL = torch.ones(size, 1, length, length, dtype=torch.bool)
    if batch.bias_B11L is not None:
        seen_B1LL &= batch.bias_B11L == 0
    if model.config.model_type == "gpt2":
        seen_B1LL = seen_B1LL.tril()
    hidden_B1LL = torch.zeros(seen_B1LL.shape, dtype=torch.float64).masked_fill_(~seen_B1LL, -1e300)
    weights = {name: weight.detach().double() for name, weight in model.named_parameters()}

    def loss(weights, tokens_L, label_L, hidden_1LL):
        logits_LV = functional_call(model, weights, (tokens_L[None],), {"attention_mask": hidden_1LL[None]}).logits[0]
        loss_L = -logits_LV.log_softmax(1).gather(1, label_L.clamp(min=0)[:, None])[:, 0]
        return (loss_L * (label_L >= 0)).sum() / (label_L >= 0).sum().clamp(min=1)

    return vmap(grad(loss), (None, 0, 0, 0))(weights, batch.tokens_BL, label_BL, hidden_B1LL)


def recorded(network, batch, squares_P=None, scale=1.0, dropout=None):
    """(B,) gain of one step's forward and backward pass."""
    network.flat.grad.zero_()
    with RowGradients(network, batch, gain=True, squares_P=squares_P) as gradients:
        (losses(network, batch, dropout)[0] * scale).backward()
    return gradients.gain_B()


def squared_norms(gradients):
    return sum(each.flatten(1).square().sum(1) for each in gradients.values())


@given(
    name=st.sampled_from(NAMES),
    tied=st.booleans(),
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5),
    rate=st.sampled_from([0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_gain_equals_vmap_of_grad(micro, name, tied, lengths, rate, seed):
    config = config_of(micro, name, model__tied=tied)
    network, batch = network_of(config), batch_of(config, lengths, seed, rate)
    wanted_B = squared_norms(gradients_by_row(network, batch)).numpy()
    for gain_B in (recorded(network, batch), gains(network, batch)):
        assert gain_B.dtype == torch.float32
        np.testing.assert_allclose(gain_B.numpy(), wanted_B, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_squares_are_summed_over_rows_onto_what_is_there_for_every_tensor(micro, name, tied):
    config = config_of(micro, name, model__tied=tied)
    network, batch = network_of(config), batch_of(config, LENGTHS)
    squares_P = torch.zeros_like(network.flat.data)
    recorded(network, batch, squares_P)
    once_P = squares_P.clone()
    recorded(network, batch, squares_P)
    torch.testing.assert_close(squares_P, 2 * once_P)
    wanted = {key: each.square().sum(0) for key, each in gradients_by_row(network, batch).items()}
    largest = max(float(each.max()) for each in wanted.values())
    for key, (start, shape) in network.places.items():
        got = once_P[start : start + shape.numel()].view(shape).double()
        torch.testing.assert_close(got, wanted[key], rtol=1e-4, atol=1e-9 * largest)
        assert ((got == 0) == (wanted[key] == 0)).all()  # what no row uses, such as a place beyond all rows, stays exactly 0


def test_squares_alone_are_the_same_as_with_the_gain_and_many_rows_are_those_of_their_parts(micro):
    vocab = 5000  # 52 rows' gradients of the decoder at once are more than a block holds
    network = network_of(config_of(micro, "roberta_pln_tiny"), vocab)
    config = config_of(micro, "roberta_pln_tiny")
    batch = label_rows(rows([8] * 60, vocab=vocab), config, 0.0, vocab, stream(0, "mask"), CPU)
    with_gain_P, alone_P, parts_P = (torch.zeros_like(network.flat.data) for _ in range(3))
    recorded(network, batch, with_gain_P)
    with RowGradients(network, batch, squares_P=alone_P):
        losses(network, batch)[0].backward()
    assert torch.equal(alone_P, with_gain_P)
    for i in range(60):
        recorded(network, row_of(batch, i), parts_P)
    torch.testing.assert_close(alone_P, parts_P, rtol=1e-4, atol=1e-8 * float(parts_P.max()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gain_does_not_depend_on_batch_mates(micro, name, tied):
    config = config_of(micro, name, model__tied=tied)
    network, batch = network_of(config), batch_of(config, LENGTHS)
    alone_B = [float(recorded(network, row_of(batch, i))) for i in range(len(LENGTHS))]
    np.testing.assert_allclose(recorded(network, batch).numpy(), alone_B, rtol=1e-5)


def test_gain_of_rows_that_fill_several_blocks_is_that_of_their_parts(micro):
    fields = {"model__tied": True, "model__layers": 1, "model__width": 64, "model__ffn": 256}
    network = network_of(config_of(micro, "gpt2_tiny", **fields))
    many = rows([60] * 600)  # 2 x 60 x 60 x 600 numbers are more than a block holds
    whole_B = gains(network, next_tokens(many, CPU))
    parts_B = [
        gains(network, next_tokens(Rows(*(each[first : first + 100] for each in vars(many).values())), CPU)) for first in range(0, 600, 100)
    ]
    torch.testing.assert_close(whole_B, torch.cat(parts_B), rtol=1e-5, atol=0)


@given(scale=st.floats(1e-3, 1e3))
@settings(max_examples=10, deadline=None)
def test_a_scaled_loss_scales_the_gain_by_its_square(micro, scale):
    config = config_of(micro, "roberta_pln_tiny")
    network, batch = network_of(config), batch_of(config, LENGTHS)
    torch.testing.assert_close(recorded(network, batch, scale=scale), recorded(network, batch) * scale**2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_recording_changes_no_bit_of_the_step_with_dropout(micro, name):
    config = config_of(micro, name, model__dropout=0.2)
    network, batch = network_of(config), batch_of(config, LENGTHS)
    network.flat.grad.zero_()
    losses(network, batch, Dropout(0.2, CPU, 3))[0].backward()
    plain_P = network.flat.grad.clone()
    recorded(network, batch, torch.zeros_like(plain_P), dropout=Dropout(0.2, CPU, 3))
    assert torch.equal(network.flat.grad, plain_P)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_with_dropout_the_gain_is_that_of_what_was_trained(micro, name, tied):
    config = config_of(micro, name, model__tied=tied, model__dropout=0.2)
    network, batch = network_of(config), batch_of(config, [14])
    gain_1 = recorded(network, batch, dropout=Dropout(0.2, CPU, 3))
    assert float(gain_1) == pytest.approx(float(network.flat.grad.double().square().sum()), rel=1e-5)


def test_a_row_without_labels_has_no_gain(micro):
    config = config_of(micro, "roberta_pln_tiny")
    network = network_of(config)
    only_special = Rows(np.array([[0, 2, 2], [0, 7, 2]]), np.array([3, 3]), np.array([0, 1]), np.array([0, 1]))
    batch = label_rows(only_special, config, 0.0, VOCAB, stream(0, "mask"), CPU)
    gain_B = recorded(network, batch)
    assert gain_B[0] == 0
    assert float(gain_B[1]) == pytest.approx(float(squared_norms(gradients_by_row(network, batch))[1]), rel=1e-5)
    none = label_rows(Rows(*(each[:1] for each in vars(only_special).values())), config, 0.0, VOCAB, stream(0, "mask"), CPU)
    assert recorded(network, none).tolist() == [0.0]


def test_gains_outside_training_leave_the_gradient_and_the_random_stream_alone_and_draw_no_dropout(micro):
    config = config_of(micro, "roberta_pln_tiny", model__dropout=0.3)
    network, batch = network_of(config), batch_of(config, LENGTHS)
    network.flat.grad.fill_(7.0)
    before = torch.get_rng_state()
    assert torch.equal(gains(network, batch), gains(network, batch))
    assert torch.equal(torch.get_rng_state(), before)
    assert (network.flat.grad == 7.0).all()
    assert all(leaf.grad.data_ptr() >= network.flat.grad.data_ptr() for leaf in network.leaves.values())
    assert network.tape is None


def test_bf16_gives_fp32_gains_near_those_of_fp32(micro):
    exact, half = (config_of(micro, "roberta_pln_tiny", training__precision=precision) for precision in ("fp32", "bf16"))
    batch = batch_of(exact, LENGTHS)
    network = network_of(half)
    squares_P = torch.zeros_like(network.flat.data)
    gain_B = recorded(network, batch, squares_P)
    assert gain_B.dtype == torch.float32
    torch.testing.assert_close(gain_B, recorded(network_of(exact), batch), rtol=0.05, atol=0)
    assert float(squares_P.sum()) == pytest.approx(float(gain_B.sum()), rel=0.02)


def test_a_record_is_freed_with_its_last_name(micro):
    config = config_of(micro, "roberta_pln_tiny")
    network, batch = network_of(config), batch_of(config, LENGTHS)
    gc.disable()  # a cycle through autograd's graph would keep every step's record
    try:
        with RowGradients(network, batch, gain=True) as gradients:
            losses(network, batch)[0].backward()
        gone = weakref.ref(gradients)
        del gradients
        assert gone() is None
    finally:
        gc.enable()
