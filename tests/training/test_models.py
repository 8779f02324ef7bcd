"""Each network's shortcut forward against its transformers model's own, and its one flat parameter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sleep_tune.config import Masking
from sleep_tune.data.collate import PAD
from sleep_tune.errors import UserError
from sleep_tune.sleep.context import Rows
from sleep_tune.streams import stream
from sleep_tune.training.dropout import Dropout
from sleep_tune.training.models import losses, new_model, new_network
from sleep_tune.training.objectives import label_rows, labelled, mask_rows, next_tokens
from sleep_tune.training.registry import MODELS

CPU = torch.device("cpu")
LENGTHS = [[9, 9, 9], [9, 4, 2, 7]]


def config_of(micro, name, **fields):
    return micro("epochs", model__name=name, objective=MODELS[name].objectives[0], **fields)


def network_of(config, seed=4):
    return new_network(config.model, 60, seed, config.training, CPU)


@pytest.fixture(params=sorted(MODELS))
def config(request, micro):
    return config_of(micro, request.param, model__layers=3)


@pytest.fixture
def network(config):
    return network_of(config)


def rows(lengths, seed=0):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, 60, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = PAD
    tokens[:, 0] = 0
    return Rows(tokens, np.array(lengths), np.ones(len(lengths), int), np.arange(len(lengths)))


def batch_of(config, lengths, rate=0.3):
    asked = config.model_copy(update={"masking": Masking(rate=rate)})
    return label_rows(rows(lengths), asked, 0.0, 60, stream(0, "mask"), CPU)


def own_logits(network, tokens_BL, lengths):
    """The transformers model's own forward, at every position."""
    attention = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return network.model(input_ids=tokens_BL, attention_mask=attention).logits


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_loss_and_gradients_equal_those_of_the_models_own_forward(micro, name, tied, lengths):
    config = config_of(micro, name, model__layers=3, model__tied=tied)
    network, batch = network_of(config), batch_of(config, lengths)
    loss, loss_B = losses(network, batch)
    loss.backward()
    ours = network.flat.grad.clone()

    labels = torch.full(batch.tokens_BL.shape, -100)
    labels.view(-1)[batch.at_M] = batch.target_M
    for parameter in network.model.parameters():
        parameter.requires_grad_()
    logits = own_logits(network, batch.tokens_BL, lengths)
    own = F.cross_entropy(logits.view(-1, 60), labels.view(-1))
    own.backward()
    assert loss.item() == pytest.approx(own.item(), abs=1e-6)
    own_B = [F.cross_entropy(logits[i], labels[i]).item() for i in range(len(lengths))]
    np.testing.assert_allclose(loss_B.numpy(), own_B, atol=1e-5)
    for name_, parameter in network.model.named_parameters():
        start, shape = network.places[name_]
        torch.testing.assert_close(ours[start : start + shape.numel()].view(shape), parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_causal_loss_is_transformers_own(micro):
    network = network_of(config_of(micro, "gpt2_tiny"))
    plain = rows([9, 9, 9])
    tokens_BL = torch.from_numpy(plain.tokens_BL)
    own = network.model(input_ids=tokens_BL, labels=tokens_BL).loss.item()
    assert losses(network, next_tokens(plain, CPU))[0].item() == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_transformers_model_is_at_every_moment_the_trained_one(micro, name, tied):
    network = network_of(config_of(micro, name, model__tied=tied))
    with torch.no_grad():
        network.flat.fill_(0.25)
    assert all((parameter == 0.25).all() for parameter in network.model.parameters())
    assert sum(parameter.numel() for parameter in network.model.parameters()) == network.flat.numel()
    head = network.model.get_output_embeddings().weight
    assert (head is network.model.get_input_embeddings().weight) == tied == network.tied
    assert network.linears["decoder"].weight == ("word" if tied else "decoder.weight")


def test_places_leaves_and_spans_each_cover_the_flat_parameter_once(network):
    size = network.flat.numel()
    places = sorted((start, start + shape.numel()) for start, shape in network.places.values())
    for pieces in (places, sorted(network.spans.values())):
        assert [start for start, _ in pieces] == [0, *(end for _, end in pieces[:-1])]
        assert pieces[-1][1] == size
    for key, leaf in network.leaves.items():
        start, end = network.spans[key]
        assert leaf.data_ptr() == network.flat.data[start:].data_ptr()
        assert leaf.grad.data_ptr() == network.flat.grad[start:].data_ptr()
        assert leaf.numel() == end - start
    named = dict(network.model.named_parameters())
    assert set(named) == set(network.places)
    matrices = [name for name, (start, _) in network.places.items() if start < network.decayed]
    assert {name for name, parameter in named.items() if parameter.ndim > 1} == set(matrices)


class Recorder:
    """A tape that keeps what it is shown."""

    def __init__(self):
        self.linears, self.norms, self.embeddings = {}, {}, []

    def linear(self, key, inputs, output, at):
        self.linears[key] = (inputs, output, at)

    def norm(self, key, inputs, output, at):
        self.norms[key] = (inputs, output, at)

    def embedding(self, tokens_BL, output_TD):
        self.embeddings.append((tokens_BL, output_TD))


def taped(network, batch):
    network.tape = Recorder()
    try:
        logits = network.logits_at(batch)
    finally:
        tape, network.tape = network.tape, None
    return tape, logits


def test_a_tape_sees_every_map_and_every_map_is_what_its_leaves_say(config, network):
    batch = batch_of(config, [9, 4, 2, 7])
    tape, logits = taped(network, batch)
    leaves = network.leaves
    assert set(tape.linears) == set(network.linears)
    seen = {f"{key}.{kind}" for key in tape.norms for kind in ("weight", "bias")}
    seen |= {leaf for linear in network.linears.values() for leaf in (linear.weight, linear.bias) if leaf}
    assert seen | {"word", "position", "type"} >= set(leaves) >= seen
    for key, (inputs, output, at) in tape.linears.items():
        linear = network.linears[key]
        weight = leaves[linear.weight] if linear.unit_axis == 0 else leaves[linear.weight].T
        bias = 0 if linear.bias is None else leaves[linear.bias]
        torch.testing.assert_close(inputs @ weight.T + bias, output, atol=1e-5, rtol=1e-4)
        assert len(inputs) == (batch.tokens_BL.numel() if at is None else len(batch.target_M))
        assert at is None or at is batch.slot_M
    for key, (inputs, output, _) in tape.norms.items():
        normal = (inputs - inputs.mean(1, keepdim=True)) / (inputs.var(1, keepdim=True, unbiased=False) + network.norm_eps).sqrt()
        torch.testing.assert_close(normal * leaves[f"{key}.weight"] + leaves[f"{key}.bias"], output, atol=1e-5, rtol=1e-4)
    [(tokens_BL, output_TD)] = tape.embeddings
    place_L = torch.arange(9) + network.first_position
    summed = leaves["word"][tokens_BL] + leaves["position"][place_L] + (leaves["type"][0] if "type" in leaves else 0)
    torch.testing.assert_close(summed.view(36, -1), output_TD)
    assert torch.equal(logits, tape.linears["decoder"][1])


def test_maps_name_the_columns_that_the_transformers_model_computes(config, network):
    batch = batch_of(config, [9, 9])
    shown = {}
    for name, module in network.model.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: shown.update({name: output}))
    own_logits(network, batch.tokens_BL, [9, 9])
    tape, _ = taped(network, batch)
    assert len(network.maps) == 6 * network.layers
    for name, map_ in network.maps.items():
        of_model = name.rsplit(".", 1)[0] if map_.weight.rsplit(".", 1)[0] != name else name
        output_TU = shown[of_model].reshape(18, -1)[:, map_.units.start : map_.units.stop]
        _, output, at = tape.linears[map_.key]
        wanted = output_TU if at is None else output_TU[batch.at_M]
        torch.testing.assert_close(output[:, slice(*map_.part)], wanted, atol=1e-5, rtol=1e-4)
        shape = network.places[map_.weight][1]
        assert shape[map_.unit_axis] >= map_.units.stop
        assert network.places[map_.bias][1] == (shape[map_.unit_axis],)
        assert map_.group == ("attention" if "att" in name else "mlp")


def test_states_are_the_mean_residual_stream_over_tokens_and_last_layers(network):
    lengths = [9, 4, 7]
    plain = rows(lengths)
    tokens_BL = torch.from_numpy(plain.tokens_BL)
    streams = []
    blocks = network.model.base_model
    for block in blocks.h if hasattr(blocks, "h") else blocks.encoder.layer:
        block.register_forward_hook(lambda module, inputs, output: streams.append(output[0] if isinstance(output, tuple) else output))
    own_logits(network, tokens_BL, lengths)
    for last in (1, 2, 3):
        wanted = [sum(stream[i, :length].mean(0) for stream in streams[-last:]) / last for i, length in enumerate(lengths)]
        states = network.states(tokens_BL, torch.from_numpy(plain.length_B), last)
        torch.testing.assert_close(states, torch.stack(wanted), atol=1e-5, rtol=1e-4)
        assert not states.requires_grad


def test_a_forward_from_the_embeddings_themselves_is_the_forward_and_from_zeros_it_knows_no_tokens(config, network):
    batch, other = batch_of(config, [9, 9]), batch_of(config, [9, 9])
    own = network.logits_at(batch)
    assert torch.equal(network.logits_at(batch, None, network.embed(batch.tokens_BL)), own)
    other.tokens_BL[:, 1:] = 7
    zeros = torch.zeros(18, network.width)
    assert torch.equal(network.logits_at(batch, None, zeros), network.logits_at(other, None, zeros))


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_global_stream_alone(config):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (new_model(config.model, 60, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_padding_changes_no_other_row(config, network):
    def shown(plain):
        """Every token labelled and shown as it is."""
        asked = config.model_copy(update={"masking": Masking(rate=1.0, split=(0.0, 0.0, 1.0))})
        return label_rows(plain, asked, 0.0, 60, stream(0, "mask"), CPU)

    alone = losses(network, shown(rows([4])))[1]
    beside = losses(network, shown(rows([4, 9])))[1]
    assert beside[0].item() == pytest.approx(alone[0].item(), abs=1e-5)


def test_gpt2_sees_nothing_to_the_right(micro):
    network = network_of(config_of(micro, "gpt2_tiny"))
    tokens_BL = rows([9]).tokens_BL

    def logits_3(last):
        changed = tokens_BL.copy()
        changed[:, 4:] = last
        place = np.array([3])
        return network.logits_at(labelled(changed, np.array([9]), place, np.array([0]), place, CPU))

    assert torch.equal(logits_3(7), logits_3(8))


def test_dropout_is_drawn_while_training_only(micro):
    for name in ("roberta_pln_tiny", "gpt2_tiny"):
        config = config_of(micro, name, model__dropout=0.3)
        network, batch = network_of(config), batch_of(config, [9, 4])
        values = [losses(network, batch, each)[0].item() for each in (None, None, Dropout(0.3, CPU, 0, 1), Dropout(0.3, CPU, 0, 2))]
        assert values[0] == values[1]
        assert len(set(values)) == 3


def test_bf16_stays_near_fp32(config):
    batch = batch_of(config, [16] * 8)
    exact = network_of(config)
    half = network_of(config.model_copy(update={"training": config.training.model_copy(update={"precision": "bf16"})}))
    assert half.flat.dtype == torch.float32
    values = [losses(network, batch)[0].item() for network in (exact, half)]
    assert values[0] == pytest.approx(values[1], rel=0.02)
    assert values[0] != values[1]


def test_a_row_of_special_tokens_alone_has_no_label_and_no_loss(micro):
    network = network_of(config_of(micro, "roberta_pln_tiny"))
    only = Rows(np.array([[0, 2, 2], [0, 7, 2]]), np.array([3, 3]), np.array([0, 1]), np.array([0, 1]))
    batch = mask_rows(only, Masking(rate=0.5), 60, stream(0, "mask"), CPU)
    assert batch.row_M.tolist() == [1]
    loss, loss_B = losses(network, batch)
    assert loss_B[0] == 0
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("name", "millions"), [("roberta_pln", 14.9), ("roberta_pln_medium", 38.8), ("roberta_pln_large", 98.6), ("gpt2", 98.4)]
)
def test_the_registrys_sizes_give_the_published_numbers_of_parameters(name, millions):
    """Of models that are never allocated; transformers 5's dead second bias of RoBERTa's head apart."""
    from sleep_tune.config import Model

    with torch.device("meta"):
        model = new_model(Model.model_validate({"name": name}), 8192, 0)
    count = sum(parameter.numel() for parameter_name, parameter in model.named_parameters() if parameter_name != "lm_head.bias")
    assert round(count / 1e6, 1) == millions


def test_a_model_that_is_named_takes_the_registrys_sizes():
    from sleep_tune.config import load_config
    from sleep_tune.presets import combine, set_field

    named = set_field(set_field(combine(["tiny"]), "model.name", "gpt2"), "objective", "clm")
    config = load_config(named)
    assert (config.model.layers, config.model.width, config.model.positions, config.model.dropout) == (12, 768, 1024, 0.1)
    with pytest.raises(UserError, match=r"objective = mlm: model.name = gpt2 is trained by clm \(for mlm: roberta_pln"):
        load_config({**named, "objective": "mlm"})
