"""Batches hold the samples they name, padded, and the words in them add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.data import collate
from sleep_tune.data.collate import PAD

TOKENS = np.arange(10, 20, dtype=np.uint16)
OFFSETS = np.array([0, 3, 4, 10])


def test_rows_are_padded_to_the_longest_of_the_batch() -> None:
    tokens_BL, lengths_B = collate.rows(TOKENS, OFFSETS, np.array([1, 0]))
    assert tokens_BL.tolist() == [[13, PAD, PAD], [10, 11, 12]]
    assert lengths_B.tolist() == [1, 3]
    assert tokens_BL.dtype == np.int64


def test_no_samples_make_an_empty_batch() -> None:
    tokens_BL, lengths_B = collate.rows(TOKENS, OFFSETS, np.array([], np.int64))
    assert tokens_BL.shape == (0, 0)
    assert lengths_B.shape == (0,)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_id_that_is_no_sample_is_refused(wrong: int) -> None:
    with pytest.raises(IndexError, match=r"0\.\.2"):
        collate.rows(TOKENS, OFFSETS, np.array([0, wrong]))


def test_words_are_the_word_initial_tokens_of_a_row() -> None:
    word_initial_V = np.array([False, False, False, False, False, True, False, True])
    assert collate.words(np.array([[0, 5, 6, 7, 2], [6, 7, 2, 1, 1]]), word_initial_V).tolist() == [2, 1]


@given(st.lists(st.lists(st.integers(5, 60_000), min_size=1, max_size=9), min_size=1, max_size=9), st.data())
def test_every_row_is_its_sample(samples: list[list[int]], data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(samples) - 1), min_size=1, max_size=12))
    tokens = np.concatenate([np.array(sample, np.uint16) for sample in samples])
    offsets = np.concatenate([[0], np.cumsum([len(sample) for sample in samples])])
    tokens_BL, lengths_B = collate.rows(tokens, offsets, np.array(ids))
    assert tokens_BL.shape[1] == lengths_B.max()
    for row, length, sample in zip(tokens_BL, lengths_B, ids, strict=True):
        assert row[:length].tolist() == samples[sample]
        assert (row[length:] == PAD).all()
