"""Neuron freezing: how many and which units freeze, what the causal effect of one is, and that the frozen keep their bits."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleep_tune.config import Freezing, Masking, Model, Optimizer, Training
from sleep_tune.data.collate import PAD
from sleep_tune.sleep.context import Rows
from sleep_tune.sleep.freezing import Hold, causal_scores, freezable, freezable_units, freeze, frozen_weights, growth
from sleep_tune.streams import stream
from sleep_tune.training.models import Network, losses, new_network
from sleep_tune.training.objectives import mask_rows, next_tokens
from sleep_tune.training.optimizer import clip, moments, new_optimizer

CPU, VOCAB = torch.device("cpu"), 40
KINDS = ("roberta_pln_tiny", "gpt2_tiny")
kinds = pytest.mark.parametrize("name", KINDS)


def make_network(name: str = "roberta_pln_tiny", tied: bool = False, precision: str = "fp32") -> Network:
    torch.set_num_threads(1)
    model = Model.model_validate(
        {"name": name, "layers": 2, "heads": 2, "width": 8, "ffn": 12, "positions": 16, "init_std": 0.2, "tied": tied}
    )
    network = new_network(model, VOCAB, 3, Training(batch_rows=4, precision=precision), CPU)
    with torch.no_grad():
        network.flat.add_(torch.from_numpy(stream(0, "weights").normal(0, 0.1, network.flat.numel()).astype(np.float32)))
    return network


def labelled(network: Network, lengths: list[int], seed: int = 0):
    tokens = np.random.default_rng(seed).integers(5, VOCAB, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = PAD
    rows = Rows(tokens, np.array(lengths), np.ones(len(lengths), int), np.arange(len(lengths)))
    if network.model.config.model_type == "gpt2":
        return next_tokens(rows, CPU)
    return mask_rows(rows, Masking(rate=0.4), VOCAB, stream(seed, "mask"), CPU)


def rule(**fields) -> Freezing:
    return Freezing(**{"choice": "random", **fields})


def some_frozen(network: Network, chosen: Freezing, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(freezable_units(network, chosen)) < 0.4


def test_growth_by_hand():
    published = rule()  # ceiling .5, rate .1
    assert growth(published, 2048, 0) == 102  # floor(.1 * 1024)
    assert growth(published, 2048, 102) == 92  # floor(.1 * 922)
    assert growth(published, 12, 5) == 1  # at least one
    assert growth(published, 12, 6) == 0  # the ceiling
    assert growth(published, 1, 0) == 0  # half a unit is none
    assert growth(rule(ceiling=0.29, rate=1.0), 100, 0) == 29  # not 28: .29 * 100 is 28.999.. in floating point
    assert growth(rule(ceiling=1.0, rate=0.7), 10, 0) == 7


@kinds
def test_which_maps_a_target_means(name):
    network = make_network(name)
    mlp, attention, both = (set(freezable(network, rule(targets=target))) for target in ("mlp", "attention", "all"))
    assert mlp | attention == both == set(network.maps)
    assert not mlp & attention
    assert len(mlp) == 2 * 2  # layers x (up, down)
    assert len(attention) == 2 * 4  # layers x (query, key, value, out)
    assert freezable_units(network, rule(targets="mlp")) == 2 * (12 + 8)
    assert freezable_units(network, rule(targets="attention")) == 2 * 4 * 8
    network.maps = {}
    with pytest.raises(ValueError, match="targets = mlp: the model has no such map"):
        freezable(network, rule())


NETWORKS = {name: make_network(name) for name in KINDS}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(KINDS),
    choice=st.sampled_from(["random", "causal"]),
    target=st.sampled_from(["mlp", "attention", "all"]),
    ceiling=st.floats(0.01, 1),
    rate=st.floats(0.01, 1),
    seed=st.integers(0, 2**32),
)
def test_frozen_sets_only_grow_map_by_map_to_their_ceiling(name, choice, target, ceiling, rate, seed):
    network, chosen = NETWORKS[name], rule(choice=choice, targets=target, ceiling=ceiling, rate=rate)
    frozen_U = np.zeros(freezable_units(network, chosen), np.bool_)
    sizes = [len(each.units) for each in freezable(network, chosen).values()]
    cuts = np.cumsum([0, *sizes])
    effect_U = np.random.default_rng(seed).integers(0, 4, frozen_U.size).astype(float) if choice == "causal" else None
    for cycle in range(30):
        given_U = frozen_U.copy()
        grown_U = freeze(network, chosen, frozen_U, stream(seed, "freeze", cycle), effect_U)
        np.testing.assert_array_equal(frozen_U, given_U)
        np.testing.assert_array_equal(grown_U, freeze(network, chosen, frozen_U, stream(seed, "freeze", cycle), effect_U))
        assert (grown_U >= frozen_U).all()
        for n, first, last in zip(sizes, cuts[:-1], cuts[1:], strict=True):
            before, after = int(frozen_U[first:last].sum()), int(grown_U[first:last].sum())
            cap = int(np.floor(ceiling * n + 1e-9))
            assert after - before == (0 if before >= cap else min(cap - before, max(1, int(np.floor(rate * (cap - before) + 1e-9)))))
            if effect_U is not None:  # who freezes had the largest effect of those left, the lower unit first
                key = [(-effect_U[unit], unit) for unit in range(first, last)]
                new = [key[unit - first] for unit in range(first, last) if grown_U[unit] > frozen_U[unit]]
                left = [key[unit - first] for unit in range(first, last) if not grown_U[unit]]
                assert not new or not left or max(new) < min(left)
        frozen_U = grown_U
    # 30 events are enough for maps of at most 12 units
    assert np.add.reduceat(frozen_U, cuts[:-1], dtype=int).tolist() == [int(np.floor(ceiling * n + 1e-9)) for n in sizes]


def test_a_random_event_is_uniform_over_the_units_that_still_train():
    network, chosen = NETWORKS["roberta_pln_tiny"], rule(rate=0.34)
    frozen_U = np.zeros(freezable_units(network, chosen), np.bool_)
    frozen_U[:3] = True  # of the first map's 12; cap 6, so one more
    times = sum(freeze(network, chosen, frozen_U, stream(seed, "freeze"), None)[:12].astype(int) for seed in range(1800))
    assert times[:3].tolist() == [1800] * 3
    assert times[3:].sum() == 1800
    assert ((times[3:] - 200) ** 2 / 200).sum() < 26.1  # chi-square, 8 degrees of freedom, p = .001


def frozen_in(network: Network, chosen: Freezing, frozen_U: np.ndarray) -> dict[str, torch.Tensor]:
    """Name of a parameter of the transformers model -> mask of the weights of frozen units, from the layout that transformers has."""
    masks = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in network.model.named_parameters()}
    first = 0
    for name, each in freezable(network, chosen).items():
        unit_n = torch.from_numpy(frozen_U[first : first + len(each.units)])
        first += len(each.units)
        if network.model.config.model_type == "gpt2":
            part = {"query": 0, "key": 8, "value": 16}.get(name.rsplit(".", 1)[1], 0)
            module = name.rsplit(".", 1)[0] if name.rsplit(".", 1)[1] in ("query", "key", "value") else name
            masks[f"{module}.weight"][:, part : part + len(unit_n)] = unit_n
            masks[f"{module}.bias"][part : part + len(unit_n)] = unit_n
        else:
            masks[f"{name}.weight"][unit_n] = True
            masks[f"{name}.bias"][unit_n] = True
    return masks


def train(network: Network, optimizer: torch.optim.Optimizer, seed: int, hold: Hold | None) -> None:
    network.flat.grad.zero_()
    losses(network, labelled(network, [9, 5, 7], seed))[0].backward()
    clip(network.flat.grad, 1.0)
    if hold is not None:
        hold.before_step()
    optimizer.step()
    if hold is not None:
        hold.after_step()


@kinds
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("target", ["mlp", "attention", "all"])
def test_frozen_units_keep_their_bits_over_steps_and_all_others_train(name, decay, target):
    network, chosen = make_network(name), rule(targets=target)
    optimizer = new_optimizer(network, Optimizer(learning_rate=0.05, weight_decay=decay))
    for seed in range(3):  # so that there is momentum, which would move them on
        train(network, optimizer, seed, None)
    frozen_U = some_frozen(network, chosen)
    hold = Hold(network, optimizer, chosen, frozen_U)
    before = {key: weight.clone() for key, weight in network.model.named_parameters()}
    for seed in range(3, 8):
        train(network, optimizer, seed, hold)
    masks = frozen_in(network, chosen, frozen_U)
    for key, weight in network.model.named_parameters():
        assert torch.equal(weight[masks[key]].view(torch.int32), before[key][masks[key]].view(torch.int32))
        if "weight" in key and "embeddings" not in key and "wte" not in key and "wpe" not in key:
            assert (weight != before[key])[~masks[key]].float().mean() > 0.9
    flat_mask = torch.cat([masks[key].flatten() for key in network.places])
    assert torch.equal(hold.weights(), flat_mask)
    assert np.array_equal(frozen_weights(network, chosen, frozen_U), np.flatnonzero(flat_mask.numpy()))
    assert (torch.cat([part.mean for part in moments(optimizer)])[flat_mask] == 0).all()
    assert (torch.cat([part.square for part in moments(optimizer)])[flat_mask] == 0).all()
    assert (torch.cat([part.square for part in moments(optimizer)])[~flat_mask] > 0).float().mean() > 0.5


@kinds
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_partly_frozen_units_take_a_tenth_of_the_update(name, decay):
    settings_ = Optimizer(learning_rate=0.05, weight_decay=decay)
    free, held = make_network(name), make_network(name)
    chosen = rule(mode="partial")
    free_optimizer, held_optimizer = new_optimizer(free, settings_), new_optimizer(held, settings_)
    hold = Hold(held, held_optimizer, chosen, some_frozen(held, chosen))
    before = free.flat.detach().clone()
    train(free, free_optimizer, 0, None)
    train(held, held_optimizer, 0, hold)
    share = torch.where(hold.weights(), 0.1, 1.0)
    torch.testing.assert_close(held.flat - before, share * (free.flat - before), atol=1e-7, rtol=1e-4)
    assert torch.equal(held.flat[~hold.weights()], free.flat[~hold.weights()])
    for ours, theirs in zip(moments(held_optimizer), moments(free_optimizer), strict=True):
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.square, theirs.square)


def test_a_hold_follows_moments_that_were_loaded():
    network, chosen = make_network(), rule()
    optimizer = new_optimizer(network, Optimizer(learning_rate=0.05, weight_decay=0.1))
    hold = Hold(network, optimizer, chosen, some_frozen(network, chosen))
    train(network, optimizer, 0, None)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(network, optimizer, 1, hold)
    assert (torch.cat([part.mean for part in moments(optimizer)])[hold.weights()] == 0).all()


def test_where_nothing_is_frozen_a_hold_changes_nothing():
    network, other = make_network(), make_network()
    optimizers = [new_optimizer(each, Optimizer(learning_rate=0.05)) for each in (network, other)]
    train(network, optimizers[0], 0, Hold(network, optimizers[0], rule(), np.zeros(freezable_units(network, rule()), np.bool_)))
    train(other, optimizers[1], 0, None)
    assert torch.equal(network.flat, other.flat)


def own_forward(network: Network, batch, row: int) -> torch.Tensor:
    """Mean loss of one row by the transformers model's own forward."""
    length = int((batch.tokens_BL[row] != PAD).sum())
    logits_LV = network.model(input_ids=batch.tokens_BL[row : row + 1, :length]).logits[0]
    mine = batch.row_M == row
    return torch.nn.functional.cross_entropy(logits_LV[batch.at_M[mine] - row * batch.tokens_BL.shape[1]], batch.target_M[mine])


def module_of(network: Network, name: str) -> tuple[torch.nn.Module, slice]:
    """The transformers module that a map is, or is a part of, and which of its output columns are the map's."""
    last = name.rsplit(".", 1)[1]
    if network.model.config.model_type == "gpt2" and last in ("query", "key", "value"):
        first = {"query": 0, "key": 8, "value": 16}[last]
        return network.model.get_submodule(name.rsplit(".", 1)[0]), slice(first, first + 8)
    return network.model.get_submodule(name), slice(None)


def blank_module(network: Network) -> torch.nn.Module:
    """What the sum of the embeddings goes into."""
    base = network.model.base_model
    return base.drop if network.model.config.model_type == "gpt2" else base.embeddings.LayerNorm


def integrated_gradients(network: Network, name: str, batch, row: int) -> torch.Tensor:
    """(n,) the definition, by hooks on the transformers model, one row and one midpoint at a time."""
    module, columns = module_of(network, name)
    seen: list[torch.Tensor] = []
    watch = module.register_forward_hook(lambda _, __, output: seen.append(output.detach()[..., columns]))
    with torch.no_grad():
        own_forward(network, batch, row)
        blank = blank_module(network).register_forward_pre_hook(lambda _, inputs: (torch.zeros_like(inputs[0]),))
        own_forward(network, batch, row)
        blank.remove()
    watch.remove()
    own, zero = seen
    slope = torch.zeros_like(own)
    for midpoint in range(16):
        path = (zero + (midpoint + 0.5) / 16 * (own - zero)).requires_grad_()

        def lead(_, __, output, path=path):
            output = output.clone()
            output[..., columns] = path
            return output

        handle = module.register_forward_hook(lead)
        slope += torch.autograd.grad(own_forward(network, batch, row), path)[0]
        handle.remove()
    return ((own - zero) * slope / 16).abs().sum((0, 1))


@kinds
@pytest.mark.parametrize("tied", [False, True])
def test_causal_effects_are_layer_integrated_gradients_of_the_models_own_forward(name, tied):
    network = make_network(name, tied)
    batch = labelled(network, [9, 4, 7])
    found = causal_scores(network, rule(choice="causal", targets="all"), batch)
    wanted = [sum(integrated_gradients(network, each, batch, row) for row in range(3)) for each in network.maps]
    assert min(float(effect.max()) for effect in wanted[:-1]) > 1e-3
    np.testing.assert_allclose(found, torch.cat(wanted).numpy(), atol=2e-6, rtol=2e-3)


@kinds
def test_measuring_causal_effects_changes_nothing(name):
    network, chosen = make_network(name), rule(choice="causal")
    network.flat.grad.copy_(torch.linspace(-2, 3, network.flat.numel()))
    weights, gradients = network.flat.detach().clone(), network.flat.grad.clone()
    drawn = torch.get_rng_state()
    batch = labelled(network, [9, 4, 7])
    first = causal_scores(network, chosen, batch)
    assert torch.is_grad_enabled()
    assert network.tape is None
    assert torch.equal(weights, network.flat.detach())
    assert torch.equal(gradients, network.flat.grad)
    assert torch.equal(drawn, torch.get_rng_state())
    np.testing.assert_array_equal(first, causal_scores(network, chosen, batch))


@kinds
def test_causal_effects_in_bf16_stay_near_those_in_fp32(name):
    exact, half = make_network(name), make_network(name, precision="bf16")
    chosen = rule(choice="causal", targets="all")
    effects = [causal_scores(network, chosen, labelled(network, [9, 9, 9])) for network in (exact, half)]
    assert np.corrcoef(*effects)[0, 1] > 0.99
