"""Representations of samples against the network's states of one row at a time, and what computing them leaves alone."""

import numpy as np
import pytest
import torch

from sleep_tune.data.token_store import open_store
from sleep_tune.sleep.context import sample_rows
from sleep_tune.training.models import new_network
from sleep_tune.training.registry import MODELS
from sleep_tune.training.representations import representations

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(corpus):
    return open_store(corpus.directory)


@pytest.fixture(params=sorted(MODELS))
def network(request, micro, store):
    config = micro("epochs", model__name=request.param, objective=MODELS[request.param].objectives[0], model__layers=3, model__dropout=0.5)
    return new_network(config.model, store.vocab_size, 4, config.training, CPU)


@pytest.fixture
def ids_n(store):
    """Of many lengths, in no order, one of them twice."""
    ids_n = np.random.default_rng(0).permutation(store.samples)[:50]
    assert np.unique(np.diff(store.offsets)[ids_n]).size > 3
    return np.append(ids_n, ids_n[0])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_each_sample_has_the_direction_of_its_own_mean_state(network, store, ids_n, layers):
    z_nD = representations(network, store, ids_n, layers, batch_rows=8)
    assert z_nD.dtype == np.float32
    for z_D, sample in zip(z_nD, ids_n, strict=True):
        rows = sample_rows(store, np.array([sample]))
        state_D = network.states(torch.from_numpy(rows.tokens_BL), torch.from_numpy(rows.length_B), layers)[0].numpy()
        np.testing.assert_allclose(z_D, state_D / np.linalg.norm(state_D), atol=1e-5)


def test_the_order_of_the_samples_changes_no_bit_and_the_size_of_a_batch_next_to_nothing(network, store, ids_n):
    z_nD = representations(network, store, ids_n[:-1], 2, batch_rows=8)
    order_n = np.random.default_rng(1).permutation(ids_n.size - 1)
    np.testing.assert_array_equal(representations(network, store, ids_n[order_n], 2, batch_rows=8), z_nD[order_n])
    np.testing.assert_allclose(representations(network, store, ids_n[:-1], 2, batch_rows=31), z_nD, atol=1e-5)


def test_nothing_is_drawn_and_nothing_changed(network, store, ids_n):
    network.flat.grad.fill_(2.0)
    before = network.flat.detach().clone()
    drawn, training = torch.get_rng_state(), network.model.training
    z_nD = representations(network, store, ids_n, 2, batch_rows=8)
    np.testing.assert_array_equal(representations(network, store, ids_n, 2, batch_rows=8), z_nD)  # no dropout
    assert torch.equal(drawn, torch.get_rng_state())
    assert torch.equal(network.flat, before)
    assert (network.flat.grad == 2.0).all()
    assert network.model.training == training


@pytest.mark.parametrize("layers", [0, 4])
def test_more_layers_than_the_model_has_are_refused(network, store, ids_n, layers):
    with pytest.raises(ValueError, match=f"layers = {layers}: must be from 1 to the model's 3"):
        representations(network, store, ids_n, layers, 8)
