"""Probes of past folds: what they read, what they may cost, in which turn, and that looking changes nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.data.collate import PAD
from sleep_tune.data.token_store import open_store
from sleep_tune.sleep.schedule import cut_folds
from sleep_tune.training.models import new_network
from sleep_tune.training.retention import Retention, probed_ages

CPU = torch.device("cpu")
SLEEPY = {"sleep__folds": 5, "sleep__length": {"ratio": 3}, "budget": 12_000}
CAUSAL = {"model__name": "gpt2_tiny", "objective": "clm"}


def probed(config, corpus):
    store = open_store(corpus.directory)
    network = new_network(config.model, store.vocab_size, config.seed, config.training, CPU)
    return Retention(config, store, cut_folds(store.samples, config.sleep, store.domain_N, config.seed), CPU), network, store


@given(st.integers(0, 300), st.integers(1, 60), st.integers(0, 70))
def test_the_folds_probed_are_different_ones_no_more_than_can_be_afforded(cycle, folds, probes):
    ages = probed_ages(cycle, folds, probes)
    assert len(ages) <= probes
    assert len({(cycle - age) % folds for age in ages}) == len(ages)
    assert all(0 <= age <= min(cycle, folds - 1) for age in ages)
    if probes >= 2:
        assert ages[0] == 0
        assert len(ages) >= min(cycle + 1, folds, 2)


def test_all_folds_are_probed_where_that_can_be_afforded():
    assert list(probed_ages(7, 50, 8)) == list(range(8))
    assert list(probed_ages(60, 50, 50)) == list(range(50))


def test_otherwise_they_take_turns_at_regular_ages():
    assert list(probed_ages(7, 50, 5)) == [0, 2, 4, 6]
    assert list(probed_ages(8, 50, 5)) == [0, 2, 4, 6, 8]
    assert list(probed_ages(30, 50, 5)) == [0, 8, 16, 24]


@given(st.integers(2, 40), st.integers(1, 12))
def test_every_fold_of_the_past_has_its_turn(folds, probes):
    looked_at = {(cycle - age) % folds for cycle in range(2 * folds) for age in probed_ages(cycle, folds, probes) if age or folds == 1}
    assert looked_at == set(range(folds))


def test_one_affordable_probe_looks_back():
    assert list(probed_ages(0, 9, 1)) == [0]
    assert list(probed_ages(5, 9, 1)) == [4]
    assert list(probed_ages(5, 9, 0)) == []


def test_probing_costs_at_most_its_share(micro, corpus):
    retention, network, _ = probed(micro("default", **SLEEPY), corpus)
    for trained_rows in (0, 50, 100, 400, 1000, 5000):
        folds = len(retention.losses(network, 4, trained_rows))
        assert folds * retention.rows / 3 <= 0.03 * trained_rows
    assert folds == 5


@pytest.mark.parametrize("fields", [{}, CAUSAL])
def test_a_probe_is_the_same_samples_under_the_same_labels_at_every_look(micro, corpus, fields):
    config = micro("default", **SLEEPY, **fields)
    retention, network, _ = probed(config, corpus)
    first = retention.losses(network, 4, 4000)
    assert [fold for fold, _ in first] == [4, 3, 2, 1, 0]
    np.random.seed(1)  # noqa: NPY002 a global generator that must not matter
    torch.manual_seed(1)
    again, _, _ = probed(config, corpus)
    assert again.losses(network, 5, 4000)[1:] == first[:4]  # one cycle later fold 0 is new, the others are those of before
    assert again.losses(network, 5, 4000)[0][1] == first[4][1]


def test_a_probe_reads_samples_of_its_fold_alone(micro, corpus):
    config = micro("default", **SLEEPY)
    retention, network, store = probed(config, corpus)
    retention.losses(network, 4, 4000)
    for fold, probe in retention._probes.items():
        samples = {tuple(store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist()) for i in retention.folds.of(fold)}
        shown = probe.tokens_BL.clone().reshape(-1)
        shown[probe.at_M] = probe.target_M  # unmasked
        rows = {tuple(t for t in row if t != PAD) for row in shown.reshape(probe.tokens_BL.shape).tolist()}
        assert len(probe.tokens_BL) == retention.rows
        assert rows <= samples


def test_only_what_a_cut_wake_reads_is_probed(micro, corpus):
    config = micro("default", **SLEEPY, sleep__max_wake_steps=1)
    retention, network, _ = probed(config, corpus)
    assert retention.rows <= 16
    retention.losses(network, 2, 4000)
    assert all(len(probe.tokens_BL) <= 16 for probe in retention._probes.values())


def test_the_loss_is_the_mean_over_labelled_tokens(micro, corpus):
    config = micro("default", **SLEEPY)
    retention, network, _ = probed(config, corpus)
    ((fold, loss),) = retention.losses(network, 0, 4000)
    probe = retention._probes[fold]
    with torch.no_grad():
        logits = network.model(input_ids=probe.tokens_BL, attention_mask=(probe.tokens_BL != PAD).long()).logits
    expected = F.cross_entropy(logits.reshape(-1, logits.shape[-1])[probe.at_M], probe.target_M)
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_probing_changes_neither_the_network_nor_a_generator(micro, corpus):
    config = micro("default", **SLEEPY, model__dropout=0.1)
    retention, network, _ = probed(config, corpus)
    weights, gradient = network.flat.detach().clone(), network.flat.grad.clone()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    losses = retention.losses(network, 3, 4000)
    assert retention.losses(network, 3, 4000) == losses  # no dropout
    assert torch.equal(network.flat, weights)
    assert torch.equal(network.flat.grad, gradient)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_nothing_is_probed_where_that_is_not_wanted(micro, corpus):
    retention, network, _ = probed(micro("default", **SLEEPY, evaluation__retention=None), corpus)
    assert retention.losses(network, 4, 10**6) == []
