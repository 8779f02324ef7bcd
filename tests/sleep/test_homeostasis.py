"""Synaptic homeostasis: who is protected, what the others become, and that only they change."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sleep_tune.config import Homeostasis, Masking, Model, Optimizer, Training
from sleep_tune.sleep.context import Rows
from sleep_tune.sleep.homeostasis import fisher_steps, highest, importance, mean_gradient, shrink, targets
from sleep_tune.streams import stream
from sleep_tune.training.models import Network, losses, new_network
from sleep_tune.training.objectives import mask_rows, next_tokens
from sleep_tune.training.optimizer import moments, new_optimizer

CPU, VOCAB = torch.device("cpu"), 40
KINDS = ("roberta_pln_tiny", "gpt2_tiny")


def make_network(name: str = "roberta_pln_tiny", tied: bool = False) -> Network:
    torch.set_num_threads(1)
    model = Model.model_validate(
        {"name": name, "layers": 2, "heads": 2, "width": 8, "ffn": 12, "positions": 16, "init_std": 0.2, "tied": tied}
    )
    network = new_network(model, VOCAB, 3, Training(batch_rows=4, precision="fp32"), CPU)
    with torch.no_grad():  # biases and gains away from 0 and 1, as in a model that has trained
        network.flat.add_(torch.from_numpy(stream(0, "weights").normal(0, 0.1, network.flat.numel()).astype(np.float32)))
    return network


def labelled(network: Network, lengths: list[int], seed: int = 0):
    tokens = np.random.default_rng(seed).integers(5, VOCAB, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = 1
    rows = Rows(tokens, np.array(lengths), np.ones(len(lengths), int), np.arange(len(lengths)))
    if network.model.config.model_type == "gpt2":
        return next_tokens(rows, CPU)
    return mask_rows(rows, Masking(rate=0.4), VOCAB, stream(seed, "mask"), CPU)


def rule(**fields) -> Homeostasis:
    return Homeostasis(**{"importance": "magnitude", **fields})


def step(network: Network, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    network.flat.grad.zero_()
    losses(network, labelled(network, [9, 5, 7], seed))[0].backward()
    optimizer.step()


def by_sorting(importance_n: np.ndarray, k: int) -> np.ndarray:
    """The definition: descending, ties to the lower index, only what is > 0."""
    order = np.argsort(-importance_n, kind="stable")[:k]
    kept = np.zeros(importance_n.size, bool)
    kept[order] = True
    return kept & (importance_n > 0)


@given(
    value=hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf])),
    data=st.data(),
)
def test_the_highest_are_those_that_sorting_finds(value, data):
    k = data.draw(st.integers(0, value.size + 1))
    np.testing.assert_array_equal(highest(torch.from_numpy(value), k).numpy(), by_sorting(value, k))


def test_ties_go_to_the_lower_index_and_zero_is_never_among_the_highest():
    assert highest(torch.tensor([1.0, 2.0, 2.0, 1.0, 1.0]), 3).tolist() == [True, True, True, False, False]
    assert highest(torch.tensor([0.0, 0.0, 3.0, -1.0]), 3).tolist() == [False, False, True, False]
    assert highest(torch.tensor([float("nan"), 2.0, 1.0]), 2).tolist() == [False, True, True]
    assert highest(torch.tensor([5e-45, 1e-45]), 1).tolist() == [True, False]  # subnormal


def test_more_weights_than_quantile_takes_are_counted_exactly():
    many = torch.from_numpy(np.random.default_rng(0).random(2**24 + 3, dtype=np.float32))
    kept = highest(many, 3_355_444)
    assert int(kept.sum()) == 3_355_444  # floats of 24 bits repeat among so many: ties are cut exactly
    assert many[kept].min() >= many[~kept].max()


def test_shrinking_by_hand():
    network = make_network()
    with torch.no_grad():
        network.flat.fill_(2.0)
    chosen, optimizer = rule(shrink=0.5, protect=0.25), new_optimizer(network, Optimizer(learning_rate=0.1))
    value_P = torch.zeros_like(network.flat.detach())
    first, shape = network.places["lm_head.dense.bias"]  # 8 weights: two may stay, ties to the lower index
    assert shape == (8,)
    value_P[first : first + 8] = torch.tensor([0.0, 1.0, 3.0, 3.0, -9.0, 3.0, 0.0, 2.0])
    count = shrink(network, optimizer, chosen, value_P)
    assert network.flat[first : first + 8].tolist() == [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    assert count == network.flat.numel() - 2
    assert int((network.flat == 1.0).sum()) == count


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(KINDS),
    tied=st.booleans(),
    fields=st.fixed_dictionaries(
        {
            "protect": st.floats(0, 1),
            "shrink": st.floats(0.01, 1),
            "scope": st.sampled_from(["per_tensor", "global"]),
            "targets": st.sampled_from(["all", "matrices"]),
            "moments": st.sampled_from(["keep", "scale", "reset"]),
        }
    ),
)
def test_as_many_as_told_keep_their_bits_and_all_other_targets_shrink(data, name, tied, fields):
    network, chosen = make_network(name, tied), rule(**fields)
    optimizer = new_optimizer(network, Optimizer(learning_rate=0.1, weight_decay=data.draw(st.sampled_from([0.0, 0.1]))))
    step(network, optimizer)
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    size = network.flat.numel()
    value = (generator.integers(-2, 6, size) / 4).astype(np.float32)  # many ties, a third not > 0
    frozen = generator.random(size) < data.draw(st.sampled_from([0.0, 0.3]))
    before = network.flat.detach().clone()
    means = torch.cat([part.mean for part in moments(optimizer)]).clone()
    squares = torch.cat([part.square for part in moments(optimizer)]).clone()
    count = shrink(network, optimizer, chosen, torch.from_numpy(value), torch.from_numpy(frozen))

    pieces = [np.arange(first, first + shape.numel()) for first, shape in network.places.values()]
    wanted = [piece for piece, (_, shape) in zip(pieces, network.places.values(), strict=True) if chosen.targets == "all" or len(shape) > 1]
    shrunk = np.zeros(size, bool)
    for unit in wanted if chosen.scope == "per_tensor" else [np.sort(np.concatenate(wanted))]:
        unit = unit[~frozen[unit]]
        kept = by_sorting(value[unit], math.floor(chosen.protect * unit.size + 1e-9))
        assert kept.sum() == min(math.floor(chosen.protect * unit.size + 1e-9), (value[unit] > 0).sum())
        shrunk[unit[~kept]] = True
    if chosen.shrink == 1:
        shrunk[:] = False
    assert count == shrunk.sum()
    at = torch.from_numpy(shrunk)
    assert torch.equal(network.flat.detach(), torch.where(at, before * chosen.shrink, before))
    of_mean, of_square = {"keep": (1, 1), "scale": (chosen.shrink, chosen.shrink**2), "reset": (0, 0)}[chosen.moments]
    assert torch.equal(torch.cat([part.mean for part in moments(optimizer)]), torch.where(at, means * of_mean, means))
    assert torch.equal(torch.cat([part.square for part in moments(optimizer)]), torch.where(at, squares * of_square, squares))


def test_a_factor_of_one_changes_no_bit_of_weights_and_moments():
    network = make_network()
    optimizer = new_optimizer(network, Optimizer(learning_rate=0.1))
    step(network, optimizer)
    before, moved = network.flat.detach().clone(), moments(optimizer)[0].mean.clone()
    assert shrink(network, optimizer, rule(shrink=1.0, protect=0.0, moments="reset"), torch.zeros_like(before)) == 0
    assert torch.equal(before.view(torch.int32), network.flat.detach().view(torch.int32))
    assert torch.equal(moved, moments(optimizer)[0].mean)


@pytest.mark.parametrize("name", KINDS)
def test_tied_storage_shrinks_once(name):
    network = make_network(name, tied=True)
    optimizer = new_optimizer(network, Optimizer(learning_rate=0.1))
    before = network.model.get_input_embeddings().weight.clone()
    assert shrink(network, optimizer, rule(shrink=0.5, protect=0.0), torch.zeros_like(network.flat)) == network.flat.numel()
    assert torch.equal(network.model.get_output_embeddings().weight, before * 0.5)
    assert network.model.get_output_embeddings().weight is network.model.get_input_embeddings().weight


def test_before_the_first_step_there_are_no_moments_and_shrinking_works():
    network = make_network()
    optimizer = new_optimizer(network, Optimizer(learning_rate=0.1, weight_decay=0.1))
    assert moments(optimizer) == []
    assert shrink(network, optimizer, rule(moments="reset", protect=0.0), network.flat.detach().abs()) == network.flat.numel()
    step(network, optimizer)
    assert [(part.first, part.last) for part in moments(optimizer)] == [(0, network.decayed), (network.decayed, network.flat.numel())]


def test_matrices_are_all_tensors_of_two_dimensions_embeddings_among_them():
    network = make_network()
    at = targets(network, rule(targets="matrices"))
    assert int(at.sum()) == network.decayed
    first, shape = network.places["roberta_prelayernorm.embeddings.word_embeddings.weight"]
    assert at[first : first + shape.numel()].all()


def test_importance_of_another_network_or_none_is_refused():
    network = make_network()
    optimizer = new_optimizer(network, Optimizer(learning_rate=0.1))
    with pytest.raises(ValueError, match="importance of 5 weights"):
        shrink(network, optimizer, rule(), torch.ones(5))
    network.places = {name: place for name, place in network.places.items() if len(place[1]) < 2}
    with pytest.raises(ValueError, match="targets = matrices: no weight is one"):
        shrink(network, optimizer, rule(targets="matrices"), network.flat.detach().abs())
    for kind in ("fisher", "taylor_signed"):
        with pytest.raises(ValueError, match=kind):
            importance(rule(importance=kind), network, None, None, stream(0, "homeostasis"))


def test_importances_are_their_formulas():
    network, generator = make_network(), stream(1, "homeostasis", 2)
    weight, gradient = network.flat.detach(), torch.linspace(-1, 1, network.flat.numel())
    squares = gradient**2

    def of(kind: str) -> torch.Tensor:
        return importance(rule(importance=kind), network, squares, gradient, generator)

    assert torch.equal(of("fisher"), squares)
    assert torch.equal(of("taylor_signed"), -(weight * gradient))
    assert torch.equal(of("taylor_abs"), (weight * gradient).abs())
    assert torch.equal(of("magnitude"), weight.abs())
    drawn = of("random")
    again = importance(rule(importance="random"), network, None, None, stream(1, "homeostasis", 2))
    assert torch.equal(drawn, again)
    assert drawn.min() > 0
    assert drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_the_mean_gradient_is_the_mean_of_the_rows_own_and_leaves_the_buffer(name, tied):
    network = make_network(name, tied)
    network.flat.grad.copy_(torch.linspace(-2, 3, network.flat.numel()))
    left = network.flat.grad.clone()
    found = mean_gradient(network, [labelled(network, [9, 4, 7], 1), labelled(network, [6, 6], 2)])
    assert torch.equal(left.view(torch.int32), network.flat.grad.view(torch.int32))

    wanted = torch.zeros_like(found)
    for batch in (labelled(network, [9, 4, 7], 1), labelled(network, [6, 6], 2)):
        for row in range(len(batch.tokens_BL)):
            network.flat.grad.zero_()
            logits = network.logits_at(batch)[batch.row_M == row]
            torch.nn.functional.cross_entropy(logits, batch.target_M[batch.row_M == row]).backward()
            wanted += network.flat.grad / 5
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match="no rows"):
        mean_gradient(network, [])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_changes_by_the_first_order_and_a_rest_of_the_second(name, tied):
    """l(w - e x) - l(w) = -e g.x + O(e^2), x the shrunk weights, e = 1 - shrink: signed Taylor importance is what shrinking costs."""
    batches = [labelled(make_network(name), [9, 4, 7], 1), labelled(make_network(name), [8, 8], 2)]

    def mean_loss(network: Network) -> float:
        with torch.no_grad():
            return float(torch.cat([losses(network, batch)[1].double() for batch in batches]).mean())

    for rest in (0.04, 0.02, 0.01, 0.005):
        network = make_network(name, tied)
        chosen = rule(importance="taylor_signed", shrink=1 - rest, protect=0.3)
        before, weight = mean_loss(network), network.flat.detach().clone()
        value_P = importance(chosen, network, None, mean_gradient(network, batches), stream(0, "homeostasis"))
        shrink(network, new_optimizer(network, Optimizer(learning_rate=0.1)), chosen, value_P)
        first_order = rest * float(value_P[network.flat.detach() != weight].double().sum())
        change = mean_loss(network) - before
        assert change < -2 * rest  # what stays is what shrinking would have cost most
        assert abs(change - first_order) < 15 * rest**2


@given(batches=st.integers(1, 300), wanted=st.integers(1, 300) | st.none())
def test_fisher_batches_are_evenly_spaced(batches, wanted):
    chosen = np.flatnonzero(fisher_steps(batches, wanted))
    assert len(chosen) == (batches if wanted is None else min(wanted, batches))
    gaps = np.diff(chosen)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    assert abs(chosen[0] - (batches - 1 - chosen[-1])) <= 1  # as far from the beginning as from the end


def test_fisher_batches_by_hand():
    assert np.flatnonzero(fisher_steps(10, 2)).tolist() == [2, 7]
    assert np.flatnonzero(fisher_steps(7, 3)).tolist() == [1, 3, 5]
    assert fisher_steps(3, 32).all()
