"""Loss on held-out text: rows spread over the dev store, labels fixed by one seed for every trial, in evaluation mode.

mlm and clm answer different questions: their losses do not compare.
"""

import math

import numpy as np
import torch

from sleep_tune.config import Config, Masking
from sleep_tune.sleep.context import Corpus, sample_rows
from sleep_tune.streams import stream
from sleep_tune.training.models import Network, losses
from sleep_tune.training.objectives import LabelledRows, label_rows

_ROWS = 128
PROBE_MASKING = Masking(rate=0.15)  # BERT's, whatever a trial trains with: all trials answer the same question


class DevProbe:
    """The dev rows of a config, labelled once."""

    def __init__(self, config: Config, dev: Corpus, device: torch.device):
        ids = spread(dev.words_N, config.evaluation.milestones.dev_words)
        ids = ids[np.argsort(np.diff(dev.offsets)[ids], kind="stable")]  # rows of like lengths together: less padding
        generator, asked = stream(0, "probe"), probe_config(config)
        self.words = int(dev.words_N[ids].sum())
        self.batches: list[LabelledRows] = [
            label_rows(sample_rows(dev, ids[start : start + _ROWS]), asked, 0.0, dev.vocab_size, generator, device)
            for start in range(0, ids.size, _ROWS)
        ]

    def loss(self, network: Network) -> float:
        """Mean cross-entropy over all labelled tokens, nats; NaN or infinite where the network is broken."""
        total = labels = 0.0
        with torch.inference_mode():
            for batch in self.batches:
                total += float(losses(network, batch)[0]) * len(batch.target_M)
                labels += len(batch.target_M)
        return total / labels if labels else math.nan


def probe_config(config: Config) -> Config:
    """`config` with the masking of probes: a loss that compares between trials of one objective."""
    return config.model_copy(update={"masking": PROBE_MASKING})


def spread(words_N: np.ndarray, words: int) -> np.ndarray:
    """Ascending ids of samples at even distances that hold about `words` words; all where there are fewer."""
    share = min(1.0, words / max(1, int(words_N.sum(dtype=np.int64))))
    count = max(1, round(share * words_N.size))
    return np.linspace(0, words_N.size - 1, count).round().astype(np.int64)
