"""Batches out of a token store's arrays: rows padded to the longest, and the words in them. Special tokens have their numbers here.

Legend: T tokens of the store, N samples, B rows of a batch, L positions, V vocabulary.
"""

import numpy as np
from numpy.typing import NDArray

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BOS, PAD, EOS, UNK, MASK = range(5)
N_SPECIAL = len(SPECIAL_TOKENS)


def rows(
    tokens_T: NDArray[np.uint16], offsets: NDArray[np.int64], ids_B: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples `ids_B` as tokens_BL int64, padded with PAD to the longest of them, and their lengths_B in tokens.

    `offsets` (N+1,) says where a sample begins and where the last ends. Raises IndexError for an id outside 0..N-1.
    """
    if ids_B.size == 0:
        return np.empty((0, 0), np.int64), np.empty(0, np.int64)
    if ids_B.min() < 0 or ids_B.max() >= len(offsets) - 1:
        raise IndexError(f"sample ids must be in 0..{len(offsets) - 2}")
    starts_B = offsets[ids_B]
    lengths_B = offsets[ids_B + 1] - starts_B
    positions_L = np.arange(lengths_B.max())
    inside_BL = positions_L < lengths_B[:, None]
    tokens_BL = np.full(inside_BL.shape, PAD, np.int64)
    tokens_BL[inside_BL] = tokens_T[(starts_B[:, None] + positions_L)[inside_BL]]
    return tokens_BL, lengths_B


def words(tokens_BL: NDArray[np.integer], word_initial_V: NDArray[np.bool_]) -> NDArray[np.int64]:
    """words_B: a row's words are those whose first token lies in it."""
    return word_initial_V[tokens_BL].sum(axis=-1, dtype=np.int64)
