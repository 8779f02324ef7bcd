"""Fine-tunes a model to tell labels of pairs of texts, as the official pipeline of 2025 does, and remembers the best epoch's answers.

Draws are keyed by (seed, task, epoch or step): a run depends on nothing that ran before it. The loop is a plain supervised one: the
training loop of sleep is about a stream of samples, words seen and a network of our own, and the models here are anybody's.
Legend: B rows of a batch, L tokens, D width, I rows, C labels.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sleep_tune.errors import UserError
from sleep_tune.evaluation.finetune_settings import METRICS, Floats, Ints, Settings, chosen_labels, learning_rate
from sleep_tune.evaluation.forwards import row_limit
from sleep_tune.evaluation.tasks import Item, uid_key
from sleep_tune.streams import stream, torch_seed

_JUDGED_TOGETHER = 64  # rows of a batch without gradients
Progress = Callable[[int, int], None]  # rows done, rows in all


@dataclass(frozen=True)
class Encoded:
    """Rows as tokens, cut to the length allowed; `cut_I` says which were."""

    ids_I: tuple[tuple[int, ...], ...]
    label_I: Ints
    cut_I: np.ndarray
    pad: int


@dataclass(frozen=True)
class Epoch:
    """Mean loss over an epoch's batches in nats, and the metrics on the valid rows after it (fractions)."""

    loss: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """One fine-tuning: its epochs (fewer than asked for where the loss stopped being a number), and the best one's logits (I, C)."""

    epochs: tuple[Epoch, ...]
    best: int  # index into `epochs`
    logits_IC: Floats


class Classifier(nn.Module):
    """A base model (without its language head), and the official head over one token's last hidden state."""

    def __init__(self, base: nn.Module, width: int, settings: Settings):
        super().__init__()
        self.base, self.pooling, self.labels = base, settings.pooling, settings.labels
        self.head = nn.Sequential(
            nn.LayerNorm(width, settings.head_norm_eps, elementwise_affine=False),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, settings.head_norm_eps, elementwise_affine=False),
            nn.Dropout(settings.head_dropout),
            nn.Linear(width, settings.labels),
        )

    def forward(self, ids_BL: Tensor, length_B: Tensor) -> Tensor:
        """(B, C) logits; rows are padded on the right."""
        inside_BL = (torch.arange(ids_BL.shape[1], device=ids_BL.device) < length_B[:, None]).long()
        hidden_BLD = self.base(input_ids=ids_BL, attention_mask=inside_BL)[0]
        at_B = length_B - 1 if self.pooling == "last" else torch.zeros_like(length_B)
        return self.head(hidden_BLD[torch.arange(len(ids_BL), device=ids_BL.device), at_B])


def longest_row(model: Any, settings: Settings) -> int:
    """Tokens of the longest row: the official length, or the model's positions where it has fewer (the pipeline would crash)."""
    return min(settings.max_length, row_limit(model, settings.max_length) or settings.max_length)


def encode(tokenizer: Any, items: Sequence[Item], longest: int) -> Encoded:
    """Pairs as the tokenizer joins them, of at most `longest` tokens: the longer text is cut first, as officially.

    Raises UserError where the special tokens of a pair alone are more.
    """
    texts = [[item.sentences[side] for item in items] for side in (0, 1)]
    ids = [list(row) for row in tokenizer(*texts, verbose=False)["input_ids"]]
    cut_I = np.array([len(row) > longest for row in ids])
    for i in np.flatnonzero(cut_I):
        ids[i] = list(tokenizer(texts[0][i], texts[1][i], truncation=True, max_length=longest)["input_ids"])
        if len(ids[i]) > longest:
            raise UserError(f"model: takes rows of {longest} tokens, which the special tokens of a pair of texts fill")
    pad = next((int(number) for number in (tokenizer.pad_token_id, tokenizer.eos_token_id) if number is not None), 0)
    labels = np.array([int(item.numbers["label"]) for item in items], dtype=np.int64)
    return Encoded(tuple(tuple(row or [pad]) for row in ids), labels, cut_I, pad)


def finetune(
    model: Any, train: Encoded, valid: Encoded, settings: Settings, seed: int, rules: str, progress: Progress | None = None
) -> Outcome:
    """Fine-tune a copy of `model`'s base on `train`; after every epoch, answer `valid`. `model` stays as it is.

    `rules` say what a NaN counts where epochs are compared. The valid rows choose the epoch and are what is scored, officially so.
    """
    base = model.base_model
    device = next(base.parameters()).device
    rows = settings.epochs * (_trained_on(train, settings) + len(valid.ids_I))
    tell = _counting(progress, rows)
    epochs: list[Epoch] = []
    best = 0
    best_logits_IC: Floats = np.zeros((0, settings.labels), dtype=np.float32)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(torch_seed(seed, "finetune_weights", uid_key("glue", settings.task)))
        classifier = Classifier(copy.deepcopy(base), base.config.hidden_size, settings).to(device)
        optimizer = torch.optim.AdamW(
            classifier.parameters(), settings.learning_rate, settings.betas, settings.eps, settings.weight_decay, fused=True
        )
        for epoch in range(settings.epochs):
            loss = _train_epoch(classifier, optimizer, train, settings, seed, epoch, tell)
            logits_IC = _answer(classifier, valid, tell)
            chosen_I = chosen_labels(logits_IC, rules)
            epochs.append(Epoch(loss, {name: METRICS[name](valid.label_I, chosen_I) for name in settings.metrics}))
            if epoch == 0 or epochs[epoch].metrics[settings.selection] > epochs[best].metrics[settings.selection]:
                best, best_logits_IC = epoch, logits_IC
            if not math.isfinite(loss):  # its weights are NaN: later epochs would answer the same
                break
    tell(rows)
    return Outcome(tuple(epochs), best, best_logits_IC)


def _train_epoch(
    classifier: Classifier, optimizer: torch.optim.Optimizer, train: Encoded, settings: Settings, seed: int, epoch: int, tell: Callable
) -> float:
    """One pass in an order of its own; returns the mean of the batches' losses."""
    key = uid_key("glue", settings.task)
    order = stream(seed, "finetune_order", key, epoch).permutation(len(train.ids_I))[: _trained_on(train, settings)]
    firsts = range(0, len(order), settings.batch_rows)
    steps = len(firsts)
    device = next(classifier.parameters()).device
    total = torch.zeros((), device=device)
    classifier.train()
    for i, first in enumerate(firsts):
        step, chosen = epoch * steps + i, order[first : first + settings.batch_rows]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, settings.epochs * steps)
        torch.manual_seed(torch_seed(seed, "finetune_dropout", key, step))
        logits_BC = classifier(*_padded(train, chosen, device))
        loss = nn.functional.cross_entropy(logits_BC, torch.from_numpy(train.label_I[chosen]).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(classifier.parameters(), settings.clip)
        optimizer.step()
        total += loss.detach()
        tell(len(chosen))
    return float(total) / steps


def _trained_on(train: Encoded, settings: Settings) -> int:
    """Rows of an epoch: whole batches, where there is one."""
    rows = len(train.ids_I)
    return rows - rows % settings.batch_rows if settings.drop_last and rows >= settings.batch_rows else rows


@torch.no_grad()
def _answer(classifier: Classifier, rows: Encoded, tell: Callable[[int], None]) -> Floats:
    """(I, C) float32 logits, rows of like length together."""
    classifier.eval()
    device = next(classifier.parameters()).device
    order = np.argsort([len(row) for row in rows.ids_I], kind="stable")
    logits_IC = np.zeros((len(order), classifier.labels), dtype=np.float32)
    for first in range(0, len(order), _JUDGED_TOGETHER):
        chosen = order[first : first + _JUDGED_TOGETHER]
        logits_IC[chosen] = classifier(*_padded(rows, chosen, device)).float().cpu().numpy()
        tell(len(chosen))
    return logits_IC


def _padded(rows: Encoded, chosen: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids_BL, length_B) of some rows."""
    length_B = np.array([len(rows.ids_I[i]) for i in chosen])
    ids_BL = np.full((len(chosen), int(length_B.max())), rows.pad, dtype=np.int64)
    for place, i in enumerate(chosen):
        ids_BL[place, : len(rows.ids_I[i])] = rows.ids_I[i]
    return torch.from_numpy(ids_BL).to(device), torch.from_numpy(length_B).to(device)


def _counting(progress: Progress | None, rows: int) -> Callable[[int], None]:
    """Adds up the rows that are done."""
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done = min(rows, done + more)
        if progress is not None:
            progress(done, rows)

    return tell
