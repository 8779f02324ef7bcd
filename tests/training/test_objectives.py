"""Labels by hand and by law: which tokens are predicted, and what stands in their place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import LinearRate, Masking
from sleep_tune.data.collate import EOS, MASK, PAD
from sleep_tune.sleep.context import Rows
from sleep_tune.streams import stream
from sleep_tune.training.objectives import label_rows, mask_rows, next_tokens, rate_at

CPU = torch.device("cpu")
V = 60


def rows(lengths, seed=0):
    """Rows of `<s>` and random words, padded."""
    tokens = np.random.default_rng(seed).integers(5, V, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = PAD
    tokens[:, 0] = 0
    return Rows(tokens, np.array(lengths), np.ones(len(lengths), int), np.arange(len(lengths)))


def masked(plain, rate=0.15, split=(0.8, 0.1, 0.1), progress=0.0):
    return mask_rows(plain, Masking(rate=rate, split=split), V, stream(0, "mask"), CPU, progress)


def test_next_tokens_by_hand():
    plain = Rows(np.array([[0, 10, 11, 2], [0, 12, 1, 1]]), np.array([4, 2]), np.array([1, 1]), None)
    batch = next_tokens(plain, CPU)
    assert batch.tokens_BL.tolist() == plain.tokens_BL.tolist()
    assert batch.target_M.tolist() == [10, 11, EOS, 12]
    assert batch.row_M.tolist() == [0, 0, 0, 1]
    assert batch.at_M.tolist() == [0, 1, 2, 4]
    assert batch.slot_M.tolist() == [0, 1, 2, 3]
    assert batch.most == 3


lengths_of = st.lists(st.integers(2, 12), min_size=1, max_size=6)


@given(lengths_of)
def test_every_token_but_the_first_is_a_target_once_and_no_padding_is(lengths):
    plain = rows(lengths)
    batch = next_tokens(plain, CPU)
    for row, length in enumerate(lengths):
        assert batch.target_M[batch.row_M == row].tolist() == plain.tokens_BL[row, 1:length].tolist()


@given(lengths_of, st.floats(0.01, 1.0), st.integers(0, 5))
def test_a_slot_is_a_rows_place_and_masking_labels_words_only_at_least_one_a_row(lengths, rate, seed):
    plain = rows(lengths, seed)
    batch = masked(plain, rate)
    assert set(batch.row_M.tolist()) == set(range(len(lengths)))
    assert batch.most == np.bincount(batch.row_M.numpy()).max()
    assert (batch.slot_M // batch.most == batch.row_M).all()
    assert (batch.slot_M.diff() > 0).all()
    assert (batch.target_M >= 5).all()
    assert batch.target_M.tolist() == plain.tokens_BL.reshape(-1)[batch.at_M.numpy()].tolist()
    unlabelled = np.ones(plain.tokens_BL.size, bool)
    unlabelled[batch.at_M] = False
    assert (batch.tokens_BL.numpy().reshape(-1)[unlabelled] == plain.tokens_BL.reshape(-1)[unlabelled]).all()


def test_masked_tokens_are_shown_in_the_configured_split():
    batch = masked(rows([101] * 300), rate=0.5)
    shown = batch.tokens_BL.view(-1)[batch.at_M].numpy()
    target = batch.target_M.numpy()
    assert len(target) / (100 * 300) == pytest.approx(0.5, abs=0.01)
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown == target).mean() == pytest.approx(0.1 + 0.1 / 55, abs=0.01)


def test_all_mask_shows_the_mask_at_every_label():
    batch = masked(rows([50] * 20), rate=0.4, split=(1.0, 0.0, 0.0))
    assert (batch.tokens_BL.view(-1)[batch.at_M] == MASK).all()


def test_a_linear_rate_goes_from_the_first_to_the_second():
    falling = LinearRate(linear=(0.3, 0.1))
    assert [rate_at(falling, progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.3, 0.2, 0.1])
    assert rate_at(0.15, 0.7) == 0.15
    many = rows([101] * 300)
    for progress, share in ((0.0, 0.3), (0.25, 0.25), (1.0, 0.1)):
        assert len(masked(many, falling, progress=progress).target_M) / (100 * 300) == pytest.approx(share, abs=0.01)


def test_a_falling_rate_labels_a_subset_of_what_a_higher_one_labels():
    plain = rows([30] * 40)
    low, high = (masked(plain, rate) for rate in (0.1, 0.3))
    assert set(low.at_M.tolist()) <= set(high.at_M.tolist())


def test_the_objective_decides_and_clm_draws_nothing(micro):
    plain = rows([9, 4])
    mlm = micro("epochs")
    clm = micro("epochs", objective="clm", model__name="gpt2_tiny")
    generator = stream(0, "mask")
    before = generator.bit_generator.state["state"]["counter"].copy()
    batch = label_rows(plain, clm, 0.5, V, generator, CPU)
    assert batch.target_M.tolist() == next_tokens(plain, CPU).target_M.tolist()
    assert (generator.bit_generator.state["state"]["counter"] == before).all()
    same = label_rows(plain, mlm, 0.5, V, stream(0, "mask"), CPU)
    assert same.tokens_BL.tolist() == mask_rows(plain, mlm.masking, V, stream(0, "mask"), CPU).tokens_BL.tolist()
