"""Which rows a model has to run to score candidates: tokenised once, deduplicated, in buckets of one length. Numpy only.

A plan depends on the tokenizer, the items and the backend, not on a model: build it once, score every checkpoint with it.
Masked rows are not stored: a bucket holds the token sequences and which position each row masks, and makes rows by the chunk.
Legend: C sequences of a bucket, L its length, R rows (forward passes), S sites (a row and the position read), T targets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from sleep_tune.errors import UserError
from sleep_tune.evaluation.tasks import TaskItems

Array = npt.NDArray[Any]
BACKENDS = {
    "mlm": "masked model: each token predicted where it is masked",
    "mntp": "masked next-token prediction: the masked token predicted one position to its left",
    "causal": "left-to-right model: each token predicted from those before it",
}
_TOKENISE = 512  # sentences at a time: their encodings are Python lists until they are packed


@dataclass(frozen=True)
class Bucket:
    """Rows of one length. Sites are sorted by row, targets by site."""

    ids_CL: Array  # int32
    row_sequence_R: Array  # which sequence of ids_CL a row is
    row_mask_R: Array  # the position masked in it, -1 for none
    site_row_S: Array
    site_position_S: Array
    target_site_T: Array
    target_T: Array  # token ids
    slot_T: Array  # where in the flat array of token log-probabilities a target's goes

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.ids_CL.shape[1]


@dataclass(frozen=True)
class Plan:
    """Everything that scoring needs but the model."""

    backend: str
    items: tuple[TaskItems, ...]
    buckets: tuple[Bucket, ...]
    slot_candidate: Array  # (slots,) the candidate whose sum a token log-probability enters
    n_candidates: int  # distinct (sentence, completion) of all tasks
    candidate_IC: tuple[Array, ...]  # per task: index of an item's candidates, -1 pads
    mask_id: int  # -1 for causal
    candidate_tokens: Array  # (candidates,) tokens of each candidate's sentence, special tokens included

    @property
    def n_rows(self) -> int:
        """Forward passes of one row."""
        return sum(len(bucket.row_sequence_R) for bucket in self.buckets)


def make_plan(tokenizer: Any, items: Sequence[TaskItems], backend: str = "mlm") -> Plan:
    """Tokenise, deduplicate and bucket `items` for `backend`. Raises UserError for a tokenizer without offsets or mask."""
    mask_id = _mask_id(tokenizer, backend)
    sentences: dict[str, int] = {}
    candidates: dict[tuple[int, int], int] = {}
    candidate_IC = tuple(_index_candidates(task.items, sentences, candidates) for task in items)
    ids, offsets, ends = _tokenise(tokenizer, list(sentences))
    pairs = np.array(list(candidates), dtype=np.int64).reshape(-1, 2)
    slot_candidate, slot_position = _scored_positions(pairs, offsets, ends, backend)
    length_of = np.diff(offsets)[pairs[:, 0]] if len(pairs) else np.zeros(0, np.int64)
    buckets = []
    for length in np.unique(length_of[slot_candidate]):
        slots = np.flatnonzero(length_of[slot_candidate] == length)
        sequences, sequence_of_slot = np.unique(pairs[slot_candidate[slots], 0], return_inverse=True)
        ids_CL = ids[offsets[sequences][:, None] + np.arange(length)]
        buckets.append(_bucket(ids_CL, sequence_of_slot, slot_position[slots], slots, backend, mask_id))
    return Plan(backend, tuple(items), tuple(buckets), slot_candidate, len(candidates), candidate_IC, mask_id, length_of)


def masked_rows(bucket: Bucket, start: int, stop: int, mask_id: int) -> Array:
    """Token ids (stop - start, L), int64, of a bucket's rows, each with its mask in place."""
    ids_RL = bucket.ids_CL[bucket.row_sequence_R[start:stop]].astype(np.int64)
    masked_R = bucket.row_mask_R[start:stop]
    rows = np.flatnonzero(masked_R >= 0)
    ids_RL[rows, masked_R[rows]] = mask_id
    return ids_RL


def _mask_id(tokenizer: Any, backend: str) -> int:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"tokenizer = {type(tokenizer).__name__}: must give character offsets (a fast tokenizer, tokenizer.json)")
    if backend == "causal":
        return -1
    if tokenizer.mask_token_id is None:
        raise UserError(f"backend = {backend}: the model's tokenizer has no mask token (a left-to-right model? use causal)")
    return int(tokenizer.mask_token_id)


def _index_candidates(items: Sequence[Any], sentences: dict[str, int], candidates: dict[tuple[int, int], int]) -> Array:
    """Number the distinct sentences and (sentence, first scored character) pairs; the items' candidates by number (I, C), -1 pads."""
    index_IC = np.full((len(items), max((len(item.sentences) for item in items), default=2)), -1, dtype=np.int64)
    for i, item in enumerate(items):
        for c, (sentence, completion) in enumerate(zip(item.sentences, item.completions, strict=True)):
            key = (sentences.setdefault(sentence, len(sentences)), len(sentence) - len(completion))
            index_IC[i, c] = candidates.setdefault(key, len(candidates))
    return index_IC


def _tokenise(tokenizer: Any, sentences: Sequence[str]) -> tuple[Array, Array, Array]:
    """Token ids int32 and character ends int32 of all sentences, packed, with offsets; special tokens in, nothing cut off."""
    ids, ends, lengths = [], [], [np.zeros(1, np.int64)]
    for start in range(0, len(sentences), _TOKENISE):
        batch = tokenizer(
            list(sentences[start : start + _TOKENISE]),
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            padding=False,
            verbose=False,
        )
        lengths.append(np.array([len(row) for row in batch["input_ids"]], dtype=np.int64))
        ids.append(np.fromiter((token for row in batch["input_ids"] for token in row), dtype=np.int32))
        ends.append(np.fromiter((end for row in batch["offset_mapping"] for _, end in row), dtype=np.int32))
    empty = [np.zeros(0, np.int32)]
    return np.concatenate(ids or empty), np.cumsum(np.concatenate(lengths)), np.concatenate(ends or empty)


def _scored_positions(pairs: Array, offsets: Array, ends: Array, backend: str) -> tuple[Array, Array]:
    """Candidate and position of every scored token: those that end behind the completion's first character.

    Special tokens have offset (0, 0) and are never scored; a token that straddles the boundary is. Backends that read to the
    left of a token cannot score the first.
    """
    lengths = np.diff(offsets)[pairs[:, 0]] if len(pairs) else np.zeros(0, np.int64)
    candidate = np.repeat(np.arange(len(pairs), dtype=np.int32), lengths)
    position = np.arange(len(candidate), dtype=np.int32) - np.repeat((np.cumsum(lengths) - lengths).astype(np.int32), lengths)
    scored = ends[offsets[pairs[candidate, 0]] + position] > pairs[candidate, 1]
    if backend != "mlm":
        scored &= position > 0
    return candidate[scored], position[scored]


def _bucket(ids_CL: Array, sequence: Array, position: Array, slots: Array, backend: str, mask_id: int) -> Bucket:
    """The rows, sites and targets of sequences of one length; equal rows become one."""
    targets = ids_CL[sequence, position]
    if backend == "causal":  # one row a sequence, less its last token; read one to the left of every target
        row_of, rows = _distinct(ids_CL[:, :-1], np.arange(len(ids_CL)), np.full(len(ids_CL), -1), 0)
        ids_CL, row_sequence, row_mask = ids_CL[:, :-1], rows, np.full(len(rows), -1)
        sites, site_of = np.unique(np.stack([row_of[sequence], position - 1]), axis=1, return_inverse=True)
    else:  # one row a scored token, which is masked in it
        row_of, rows = _distinct(ids_CL, sequence, position, mask_id)
        row_sequence, row_mask = sequence[rows], position[rows]
        sites, site_of = np.stack([np.arange(len(rows)), row_mask - (backend == "mntp")]), row_of
    order = np.argsort(site_of, kind="stable")
    narrow = np.int32
    return Bucket(
        np.ascontiguousarray(ids_CL, dtype=narrow),
        row_sequence.astype(narrow),
        row_mask.astype(narrow),
        sites[0].astype(narrow),
        sites[1].astype(narrow),
        site_of[order].astype(narrow),
        targets[order].astype(narrow),
        slots[order],
    )


def _distinct(ids_CL: Array, sequence_N: Array, masked_N: Array, mask_id: int) -> tuple[Array, Array]:
    """For N rows, each a sequence with one position masked (-1: none): the number of its distinct row (N,), and one N of each.

    Rows are grouped by a 64-bit hash that is updated, not recomputed, for the mask; the groups are then compared token by
    token, and hashed anew with another salt should two different rows ever share a hash.
    """
    for salt in count():
        hash_N = _row_hashes(ids_CL, sequence_N, masked_N, mask_id, salt)
        _, first, group_N = np.unique(hash_N, return_index=True, return_inverse=True)
        # numbered in order of appearance, so that the rows of one candidate stay together
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first, kind="stable")] = np.arange(len(first))
        representative = np.sort(first)
        group_N = rank[group_N]
        if _all_equal(ids_CL, sequence_N, masked_N, representative[group_N], mask_id):
            return group_N, representative
    raise AssertionError("unreachable")


def _row_hashes(ids_CL: Array, sequence_N: Array, masked_N: Array, mask_id: int, salt: int) -> Array:
    keys_L = _mix(np.arange(ids_CL.shape[1] + 1, dtype=np.uint64) + np.uint64(1 + (salt << 32)))
    token_CL = _mix(ids_CL.astype(np.uint64) ^ keys_L[None, :-1])
    hash_N = token_CL.sum(1, dtype=np.uint64)[sequence_N] ^ keys_L[masked_N]  # the masked position is part of a row; -1 has the last key
    masked = masked_N >= 0
    at = masked_N[masked]
    hash_N[masked] = (
        token_CL.sum(1, dtype=np.uint64)[sequence_N[masked]] - token_CL[sequence_N[masked], at] + _mix(np.uint64(mask_id) ^ keys_L[at])
    ) ^ keys_L[at]
    return hash_N


def _mix(value: Any) -> Any:
    """splitmix64's finaliser: every input bit moves every output bit (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _all_equal(ids_CL: Array, sequence_N: Array, masked_N: Array, other_N: Array, mask_id: int) -> bool:
    """Whether every row equals row `other_N` of its own."""
    doubles = np.flatnonzero(other_N != np.arange(len(other_N)))
    for chunk in _chunks(doubles, max(1, (1 << 20) // max(1, ids_CL.shape[1]))):
        one, two = chunk, other_N[chunk]
        if (masked_N[one] != masked_N[two]).any():
            return False
        differs = ids_CL[sequence_N[one]] != ids_CL[sequence_N[two]]
        at, rows = masked_N[one], np.arange(len(one))
        differs[rows[at >= 0], at[at >= 0]] = False
        if differs.any():
            return False
    return True


def _chunks(values: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
