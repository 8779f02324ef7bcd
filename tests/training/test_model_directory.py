"""A saved model loads by transformers' own classes as what was trained."""

import json

import pytest
import torch

from sleep_tune.data.token_store import open_store
from sleep_tune.training.model_directory import save_model
from sleep_tune.training.models import new_network
from sleep_tune.training.registry import MODELS

CPU = torch.device("cpu")
WORDS = {"mlm": ("fill-mask", "masked language model"), "clm": ("text-generation", "causal language model")}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["roberta_pln_tiny", "gpt2_tiny"])
def test_a_saved_model_and_its_tokenizer_load_and_the_card_says_what_it_is(micro, corpus, tmp_path, name, tied):
    import transformers

    row = MODELS[name]
    config = micro("epochs", model__name=name, objective=row.objectives[0], model__tied=tied)
    network = new_network(config.model, open_store(corpus.directory).vocab_size, 3, config.training, CPU)
    with torch.no_grad():
        network.flat += 0.01 * torch.randn(network.flat.shape, generator=torch.Generator().manual_seed(0))
    save_model(network.model, corpus.tokenizer_file, tmp_path / "model", config, {"dev_loss": 1.5})

    loaded, told = getattr(transformers, row.auto_class).from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.model_max_length == config.model.positions - row.reserved_positions
    ids = torch.tensor([tokenizer("the dog").input_ids])
    assert ids[0, 0] == 0
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(ids).logits, network.model(ids).logits)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == [type(network.model).__name__]
    pipeline, kind = WORDS[config.objective]
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"pipeline_tag: {pipeline}\n" in card
    assert f"# A {name} {kind} trained by" in card
