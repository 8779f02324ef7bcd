"""Sizes and costs from numbers alone, against the networks themselves."""

import pytest
import torch

from sleep_tune.config import load_config
from sleep_tune.presets import combine, set_field
from sleep_tune.sleep.context import Rows
from sleep_tune.streams import stream
from sleep_tune.training.dropout import Dropout
from sleep_tune.training.models import losses, new_network
from sleep_tune.training.objectives import label_rows
from sleep_tune.training.sizes import flops_a_token, parameters

MODELS = [
    {"name": "roberta_pln_tiny"},
    {"name": "roberta_pln_tiny", "layers": 3, "width": 48, "heads": 4, "ffn": 100, "tied": True},
    {"name": "gpt2_tiny"},
    {"name": "gpt2_tiny", "layers": 3, "width": 48, "ffn": 100, "tied": True},
]


def config(model: dict, **fields):
    raw = combine(["tiny", "epochs"])
    changed = {"model": model, "objective": "clm" if "gpt2" in model["name"] else "mlm", "training.precision": "fp32", **fields}
    for field, value in changed.items():
        raw = set_field(raw, field, value)
    return load_config(raw)


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_counted_as_the_network_has_them(model):
    asked = config(model)
    network = new_network(asked.model, 500, 0, asked.training, torch.device("cpu"))
    assert parameters(asked.model, 500) == network.flat.numel()


@pytest.mark.parametrize("model", MODELS)
def test_the_products_of_a_step_are_counted_as_torch_counts_them(model):
    """With dropout, as attention is products then; of causal attention torch counts the unseen half too."""
    from torch.utils.flop_counter import FlopCounterMode

    length, batch = 32, 64
    asked = config({"dropout": 0.1, **model}, **{"masking.rate": 0.3, "data.row_length": length})
    network = new_network(asked.model, 500, 0, asked.training, torch.device("cpu"))
    tokens_BL = stream(0, "grammar").integers(5, 500, (batch, length))
    tokens_BL[:, 0] = 0
    rows = Rows(tokens_BL, torch.full((batch,), length).numpy(), torch.full((batch,), length).numpy(), None)
    labelled = label_rows(rows, asked, 0.0, 500, stream(0, "mask"), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        losses(network, labelled, Dropout(0.1, torch.device("cpu"), 0))[0].backward()
    counted = counter.get_total_flops() / tokens_BL.size
    assert flops_a_token(asked, 500, length) == pytest.approx(counted, rel=0.1)
