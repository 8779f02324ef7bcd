"""Masks of dropout: their distribution and their stream."""

import numpy as np
import pytest
import torch
from scipy import stats

from sleep_tune.training.dropout import Dropout, dropped

CPU = torch.device("cpu")


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.25, 1e-3, 1 - 1e-3, 3e-6])
def test_a_number_is_dropped_with_the_probability_asked_for_and_the_mean_is_kept(rate):
    count = 8_000_000
    mask = Dropout(rate, CPU, 0, 1).mask(torch.Size([count]), torch.float32)
    gone = int((mask == 0).sum())
    assert stats.binomtest(gone, count, rate).pvalue > 1e-4
    assert torch.equal(mask[mask > 0].unique(), torch.tensor([1 / (1 - rate)]))


def test_what_sixteen_bits_cannot_say_is_drawn_again():
    rate, count = 0.4 / 65536, 100_000_000  # below the smallest step of sixteen bits
    gone = int((Dropout(rate, CPU, 0).mask(torch.Size([count]), torch.bfloat16) == 0).sum())
    assert stats.binomtest(gone, count, rate).pvalue > 1e-3


def test_neighbours_are_independent():
    gone = (Dropout(0.3, CPU, 5).mask(torch.Size([1000, 1000]), torch.float32) == 0).numpy()
    for shift in (1, 2, 3, 4):
        together = (gone[:, shift:] & gone[:, :-shift]).sum()
        assert stats.binomtest(int(together), gone[:, shift:].size, 0.09).pvalue > 1e-4
    assert stats.kstest(gone.sum(0), stats.binom(1000, 0.3).cdf).pvalue > 1e-4


def test_masks_are_a_function_of_seed_and_counters_and_move_no_global_state():
    shape = torch.Size([7, 9])
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, other_step, other_seed = (Dropout(0.5, CPU, *key) for key in ((1, 2), (1, 3), (2, 2)))
    masks = [[each.mask(shape, torch.float32) for _ in range(2)] for each in (first, other_step, other_seed, Dropout(0.5, CPU, 1, 2))]
    assert torch.equal(masks[0][0], masks[3][0])
    assert torch.equal(masks[0][1], masks[3][1])
    assert len({each.numpy().tobytes() for pair in masks[:3] for each in pair}) == 6
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_without_dropout_values_are_themselves():
    values = torch.randn(3)
    assert dropped(values, None) is values
    assert set((dropped(values, Dropout(0.5, CPU, 0)) / values).tolist()) <= {0.0, 2.0}
