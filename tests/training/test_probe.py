"""Held-out loss: of the objective that trains, on the same tokens for every trial."""

import pytest
import torch
import torch.nn.functional as F

from sleep_tune.config import LinearRate, Masking
from sleep_tune.data.token_store import open_store
from sleep_tune.training.models import new_network
from sleep_tune.training.probe import DevProbe

CPU = torch.device("cpu")


def probe_and_network(config, corpus):
    dev = open_store(corpus.dev_directory)
    return DevProbe(config, dev, CPU), new_network(config.model, dev.vocab_size, 3, config.training, CPU), dev


def test_a_causal_dev_loss_is_the_mean_over_all_next_tokens(micro, corpus):
    config = micro("epochs", model__name="gpt2_tiny", objective="clm", evaluation__milestones__dev_words=10**9)
    probe, network, dev = probe_and_network(config, corpus)
    loss = count = 0.0
    for start, end in zip(dev.offsets[:-1], dev.offsets[1:], strict=True):  # every sample alone, by the transformers model itself
        ids = torch.from_numpy(dev.tokens[start:end].astype("int64"))[None]
        with torch.no_grad():
            logits = network.model(ids).logits
        loss += F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
        count += ids.numel() - 1
    assert probe.words == dev.words
    assert probe.loss(network) == pytest.approx(loss / count, rel=1e-5)


def test_every_masked_trial_answers_the_same_question(micro, corpus):
    plain, _, _ = probe_and_network(micro("epochs"), corpus)
    other = micro("epochs", seed=7).model_copy(update={"masking": Masking(rate=LinearRate(linear=(0.4, 0.1)), split=(1.0, 0.0, 0.0))})
    others, _, _ = probe_and_network(other, corpus)
    for one, two in zip(plain.batches, others.batches, strict=True):
        assert torch.equal(one.tokens_BL, two.tokens_BL)
        assert torch.equal(one.at_M, two.at_M)
