"""What is kept of the past: loss on fixed probes of the folds read so far, so that forgetting can be seen as fold by time.

Legend: C folds, F samples of a fold, R rows of a fold's probe.
"""

import math

import numpy as np
import torch

from sleep_tune.config import Config
from sleep_tune.sleep.context import Corpus, sample_rows
from sleep_tune.sleep.schedule import CorpusSize, Folds, as_sleep, phases, wake_order
from sleep_tune.streams import stream
from sleep_tune.training.models import Network, losses
from sleep_tune.training.objectives import LabelledRows, label_rows
from sleep_tune.training.probe import probe_config

FORWARD_COST = 1 / 3  # of a row's forward and backward
LEAST_ROWS, MOST_ROWS = 16, 128  # of a fold's probe; fewer take hardly less time
PROBES_A_CYCLE = 8  # that the rows of a probe leave room for, or as many as there are folds


class Retention:
    """The probes of a run's folds. Each is R samples of the fold, under masks of its own (clm: the next token), the same at every look.

    R is as many rows as let `PROBES_A_CYCLE` folds be probed in an average cycle within `evaluation.retention`, the share of training that
    the forwards may cost by their rows; 16 to 128, at most the fold.
    """

    def __init__(self, config: Config, store: Corpus, folds: Folds, device: torch.device):
        self.share = config.evaluation.retention or 0.0
        self.config, self.store, self.folds, self.device = config, store, folds, device
        fitting = self._affordable(_rows_of_a_cycle(config, store)) // min(PROBES_A_CYCLE, folds.count)
        self.rows = min(max(LEAST_ROWS, min(MOST_ROWS, fitting)), max(1, folds.size))
        self._probes: dict[int, LabelledRows] = {}

    def losses(self, network: Network, cycle: int, trained_rows: int) -> list[tuple[int, float]]:
        """(fold, mean loss in nats per labelled token) at the end of `cycle`, which trained on `trained_rows`, in evaluation mode.

        First the fold of the cycle itself, then the one before it, and so on; every T-th where not all can be afforded. Draws nothing
        from a stream in use and leaves the network as it is.
        """
        ages = probed_ages(cycle, self.folds.count, self._affordable(trained_rows) // self.rows)
        return [(fold, self._loss(network, fold)) for fold in ((cycle - age) % self.folds.count for age in ages)]

    def _affordable(self, trained_rows: float) -> int:
        """Probe rows that cost at most the share of training on `trained_rows`."""
        return int(self.share * trained_rows / FORWARD_COST + 1e-9)

    def _loss(self, network: Network, fold: int) -> float:
        if fold not in self._probes:
            self._probes[fold] = self._probe(fold)
        with torch.inference_mode():
            return float(losses(network, self._probes[fold])[0])

    def _probe(self, fold: int) -> LabelledRows:
        """The first R of a permutation of what the fold's wake reads, and their masks, both from the fold's own stream."""
        config, generator = self.config, stream(self.config.seed, "probe", fold + 1)
        sleep = as_sleep(config.sleep, config.epochs)
        read_F = np.sort(wake_order(self.folds.of(fold), fold, sleep, config.training.batch_rows, config.seed))
        ids_R = generator.permutation(read_F)[: self.rows]
        return label_rows(sample_rows(self.store, ids_R), probe_config(config), 0.0, self.store.vocab_size, generator, self.device)


def probed_ages(cycle: int, folds: int, probes: int) -> range:
    """Ages in cycles of the folds to probe, at most `probes`: 0, the fold just read, and the multiples of T up to the oldest.

    T is the least power of two that keeps the number. So every fold is looked at when it is 0, T, 2T, … cycles old; as the past grows, T
    doubles and the ages that remain were looked at before, too. Where a single fold can be afforded it is one of the past.
    """
    oldest = min(cycle, folds - 1)
    if probes < 1:
        return range(0)
    apart, wanted = 1, max(1, probes - 1)
    while oldest // apart > wanted:
        apart *= 2
    return range(apart if probes == 1 and oldest else 0, oldest + 1, apart)


def _rows_of_a_cycle(config: Config, store: Corpus) -> float:
    """Rows that an average cycle trains on, as planned."""
    words = int(store.words_N.sum(dtype=np.int64))
    recut_words = (store.row_length - 1) * words / max(1, int(store.offsets[-1]))
    size = CorpusSize(store.samples, max(1, words), max(1e-9, recut_words))
    planned = list(phases(as_sleep(config.sleep, config.epochs), size, config.training.batch_rows, config.budget_words))
    return math.fsum(phase.rows for phase in planned) / max(1, planned[-1].cycle + 1)
