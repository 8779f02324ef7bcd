"""What a row asks of the model: which positions are labelled, and what is shown there. The loss is the network's.

Legend: B rows, L positions, M labelled positions of the batch, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from sleep_tune.config import Config, LinearRate, Masking
from sleep_tune.data.collate import MASK, N_SPECIAL
from sleep_tune.sleep.context import Rows


@dataclass(frozen=True)
class LabelledRows:
    """A batch as the model sees it, and where it is labelled; `most` is the largest number of labels in a row.

    mlm: the labelled positions are predicted themselves. clm: each predicts the token after it.
    """

    tokens_BL: Tensor  # int64, with masks
    target_M: Tensor  # int64, the tokens to predict
    row_M: Tensor  # int64, ascending
    at_M: Tensor  # int64, place in the flattened (B L) rows
    slot_M: Tensor  # int64, place in (B most): the row's labels, padded
    bias_B11L: Tensor | None  # fp32, 0 or -inf where a key is padding; None without padding
    most: int


def label_rows(rows: Rows, config: Config, progress: float, vocab_size: int, generator: Generator, device: torch.device) -> LabelledRows:
    """The labels that `config.objective` asks for at `progress`, the share of the budget that is used, in [0, 1]. clm draws nothing."""
    if config.objective == "clm":
        return next_tokens(rows, device)
    return mask_rows(rows, config.masking, vocab_size, generator, device, progress)


def next_tokens(rows: Rows, device: torch.device) -> LabelledRows:
    """Label every token of a row but its last with the one that follows; nothing is hidden. The first token and padding are no targets."""
    row_M, column_M = np.nonzero(np.arange(1, rows.tokens_BL.shape[1]) < rows.length_B[:, None])
    return labelled(rows.tokens_BL, rows.length_B, rows.tokens_BL[row_M, column_M + 1], row_M, column_M, device)


def mask_rows(
    rows: Rows, masking: Masking, vocab_size: int, generator: Generator, device: torch.device, progress: float = 0.0
) -> LabelledRows:
    """Label each non-special token with probability `masking.rate`, at least one a row that has any; show mask, random token or itself."""
    tokens_BL = rows.tokens_BL
    draw_BL = generator.random(tokens_BL.shape, np.float32)
    draw_BL[tokens_BL < N_SPECIAL] = 2.0  # padding and other special tokens are never labelled
    labelled_BL = draw_BL < rate_at(masking.rate, progress)
    least_B = draw_BL.argmin(1)
    unlabelled_B = ~labelled_BL.any(1)
    if unlabelled_B.any():
        which = np.flatnonzero(unlabelled_B)
        labelled_BL[which, least_B[which]] = draw_BL[which, least_B[which]] < 2.0
    row_M, column_M = np.nonzero(labelled_BL)
    target_M = tokens_BL[row_M, column_M]
    kind_M = generator.random(row_M.size, np.float32)
    other_M = generator.integers(N_SPECIAL, vocab_size, row_M.size)
    as_mask, as_random, _ = masking.split
    shown_BL = tokens_BL.copy()
    shown_BL[row_M, column_M] = np.where(kind_M < as_mask, MASK, np.where(kind_M < as_mask + as_random, other_M, target_M))
    return labelled(shown_BL, rows.length_B, target_M, row_M, column_M, device)


def rate_at(rate: float | LinearRate, progress: float) -> float:
    """The share of tokens to label when `progress` of the budget is used."""
    if not isinstance(rate, LinearRate):
        return rate
    first, last = rate.linear
    return first + (last - first) * progress


def labelled(
    tokens_BL: np.ndarray, length_B: np.ndarray, target_M: np.ndarray, row_M: np.ndarray, column_M: np.ndarray, device: torch.device
) -> LabelledRows:
    """Arrays as tensors on `device`, with the places that the last layer needs."""
    batch, length = tokens_BL.shape
    count_B = np.bincount(row_M, minlength=batch)
    most = max(1, int(count_B.max(initial=0)))
    order_M = np.arange(row_M.size) - (np.cumsum(count_B) - count_B)[row_M]
    padded = length_B.min() < length
    bias = np.where(np.arange(length) < length_B[:, None], np.float32(0), np.float32(-np.inf))[:, None, None] if padded else None

    def put(values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    return LabelledRows(
        put(tokens_BL),
        put(target_M),
        put(row_M),
        put(row_M * length + column_M),
        put(row_M * most + order_M),
        None if bias is None else put(bias),
        most,
    )
