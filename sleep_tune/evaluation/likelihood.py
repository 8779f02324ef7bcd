"""Summed log-probabilities of candidates under a Hugging Face model: runs the rows of a plan, in batches of one length.

Masked models by pseudo-log-likelihood (Salazar et al. 2020): every scored token masked alone, no length normalisation. fp32; on request
the model in bfloat16, which changes decisions.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sleep_tune.evaluation.forwards import (
    SIDE_BY_SIDE,
    LogitsAt,
    check_vocabulary,
    declared_positions,
    exact_way,
    row_limit,
    sees_ahead,
    text_config,
    whole_forward,
)
from sleep_tune.evaluation.plan import Array, Bucket, Plan, masked_rows
from sleep_tune.evaluation.scores import CandidateScores
from sleep_tune.evaluation.side_by_side import each

BUDGET_BYTES = 256 << 20  # activations and logits of the batches that run at a time, estimated
BATCH_TOKENS = 3072  # of one batch on a CPU: larger ones leave its caches
_PROBE_ROWS, _PROBE_TOKENS = 4, 256
Progress = Callable[[int, int], None]  # rows done, rows in all
Show = Callable[[str], Progress]  # what is being done -> its progress


def score_candidates(
    model: Any,
    plan: Plan,
    progress: Progress | None = None,
    budget_bytes: int = BUDGET_BYTES,
    way: LogitsAt | None = None,
    bf16: bool = False,
) -> CandidateScores:
    """Score every candidate of `plan`. `way` is tried first for getting logits; it is checked against the model's own, in fp32 always.

    `bf16` is approximate: matrix products in bfloat16, log_softmax in fp32 all the same. On a CPU batches run side by side on the
    threads that torch has. The model's mode, random state and thread settings are as before afterwards. `progress(done, all)` counts rows.
    Raises UserError where the plan has tokens that the model does not know.
    """
    check_vocabulary(model, plan.highest_id)
    slots = np.full(len(plan.slot_candidate), np.nan, dtype=np.float32)
    done, ahead = 0, False
    with _evaluating(model):
        limit = row_limit(model, max((bucket.length for bucket in plan.buckets), default=0))
    fit = [bucket for bucket in plan.buckets if limit is None or bucket.length <= limit]
    with _evaluating(model):
        if fit:
            chosen, ahead = _probe(model, plan, max(fit, key=lambda bucket: len(bucket.row_mask_R)), way)
            for finished in _score_buckets(model, plan, fit, slots, budget_bytes, chosen, bf16):
                done += finished
                if progress:
                    progress(done, plan.n_rows)
    if progress:
        progress(plan.n_rows, plan.n_rows)
    # float64 sums rounded once: the closest to any order of adding in float32
    score = np.bincount(plan.slot_candidate, weights=slots, minlength=plan.n_candidates).astype(np.float32)
    fed = plan.candidate_tokens - (plan.backend == "causal")
    too_long = np.zeros(plan.n_candidates, bool) if limit is None else fed > limit
    declared = declared_positions(model)
    beyond = None if declared is None else (fed > declared) & ~too_long
    return CandidateScores(score, too_long, limit, ahead, plan.unknown, beyond, declared)


def _probe(model: Any, plan: Plan, bucket: Bucket, way: LogitsAt | None) -> tuple[LogitsAt, bool]:
    """The fastest exact way, tried on a few rows of the commonest length; and whether a left-to-right model sees ahead.

    Of long rows one, and of that a window: the yardstick is the model's whole forward, logits everywhere.
    """
    rows = max(1, min(_PROBE_ROWS, _PROBE_TOKENS // bucket.length))
    ids_BL, row_S, position_S, _ = _batch(model, plan, bucket, 0, min(rows, len(bucket.row_mask_R)))
    first = min(int(position_S.min()), max(0, bucket.length - _PROBE_TOKENS))
    ids_BL, position_S = ids_BL[:, first : first + _PROBE_TOKENS].contiguous(), position_S - first
    few = position_S < ids_BL.shape[1]
    return exact_way(model, ids_BL, row_S[few], position_S[few], way), plan.backend == "causal" and sees_ahead(model, ids_BL)


def _score_buckets(
    model: Any, plan: Plan, buckets: Sequence[Bucket], slots: Array, budget_bytes: int, way: LogitsAt, bf16: bool
) -> Iterator[int]:
    """Fill the slots of `buckets`; yields the rows of every batch that is done."""
    device = next(model.parameters()).device.type
    threads = torch.get_num_threads() if device == "cpu" and way in SIDE_BY_SIDE else 1
    fits = [_row_bytes(model, bucket, way) <= budget_bytes // threads for bucket in buckets]  # a row of it in a worker's part of the budget

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            yield

    for workers, side_by_side in ((threads, True), (1, False)):
        some = [bucket for bucket, small in zip(buckets, fits, strict=True) if small is side_by_side]
        batches = (batch for bucket in some for batch in _batches(model, bucket, budget_bytes // workers, way))
        yield from each(lambda batch: _score_batch(model, plan, batch, slots, way), batches, workers, within)


def _batches(model: Any, bucket: Bucket, budget_bytes: int, way: LogitsAt) -> Iterator[tuple[Bucket, int, int, int]]:
    """A bucket's batches: their first row, the row behind their last, and how many sites a head call may have."""
    rows, sites = _batch_sizes(model, bucket, budget_bytes, way)
    for start in range(0, len(bucket.row_mask_R), rows):
        yield bucket, start, min(start + rows, len(bucket.row_mask_R)), sites


def _score_batch(model: Any, plan: Plan, batch: tuple[Bucket, int, int, int], slots: Array, way: LogitsAt) -> int:
    """Fill the slots of one batch; its number of rows."""
    bucket, start, stop, sites = batch
    ids_BL, row_S, position_S, first = _batch(model, plan, bucket, start, stop)
    for site in range(0, len(row_S), sites):
        chunk = slice(site, min(site + sites, len(row_S)))
        logits_SV = way(model, ids_BL, row_S[chunk], position_S[chunk])
        _gather(logits_SV, bucket, slice(first + chunk.start, first + chunk.stop), slots)
    return stop - start


def _batch(model: Any, plan: Plan, bucket: Bucket, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Rows start to stop: their ids, the rows and positions of their sites, and the number of the first site."""
    device = next(model.parameters()).device
    first, last = (int(site) for site in np.searchsorted(bucket.site_row_S, [start, stop]))
    row_S, position_S = bucket.site_row_S[first:last].astype(np.int64) - start, bucket.site_position_S[first:last].astype(np.int64)
    ids_BL = masked_rows(bucket, start, stop, plan.mask_id)
    return torch.from_numpy(ids_BL).to(device), torch.from_numpy(row_S).to(device), torch.from_numpy(position_S).to(device), first


def _gather(logits_SV: Tensor, bucket: Bucket, sites: slice, slots: Array) -> None:
    """log_softmax in fp32, and the original token's at every target of these sites."""
    first, last = np.searchsorted(bucket.target_site_T, [sites.start, sites.stop])
    site_T = torch.from_numpy(bucket.target_site_T[first:last].astype(np.int64) - sites.start).to(logits_SV.device)
    target_T = torch.from_numpy(bucket.target_T[first:last].astype(np.int64)).to(logits_SV.device)
    slots[bucket.slot_T[first:last]] = torch.log_softmax(logits_SV.float(), -1)[site_T, target_T].cpu().numpy()


def _batch_sizes(model: Any, bucket: Bucket, budget_bytes: int, way: LogitsAt) -> tuple[int, int]:
    """Rows of a batch and sites of a head call that keep within `budget_bytes` by estimate; at least one of each."""
    rows = budget_bytes // _row_bytes(model, bucket, way)
    if next(model.parameters()).device.type == "cpu":
        rows = min(rows, BATCH_TOKENS // bucket.length)
    return max(1, rows), max(1, budget_bytes // _site_bytes(model))


def _row_bytes(model: Any, bucket: Bucket, way: LogitsAt) -> int:
    """Activations and logits of one row, estimated."""
    config = text_config(model)
    width = getattr(config, "hidden_size", 768)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    heads = getattr(config, "num_attention_heads", 12)
    attention = 0 if getattr(config, "_attn_implementation", "") == "sdpa" else 8 * heads * bucket.length**2
    sites_per_row = -(-len(bucket.site_row_S) // len(bucket.row_mask_R))
    logits = _site_bytes(model) * (bucket.length if way is whole_forward else sites_per_row)
    return int(4 * bucket.length * (10 * width + 4 * inner) + attention + logits)


def _site_bytes(model: Any) -> int:
    return 4 * 3 * int(getattr(text_config(model), "vocab_size", 32768))  # logits, log_softmax and a copy


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast; every module's own mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device.type
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
