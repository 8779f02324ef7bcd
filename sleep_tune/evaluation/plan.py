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
from sleep_tune.evaluation.tasks import TASKS, TaskItems

Array = npt.NDArray[Any]
BACKENDS = {
    "mlm": "masked model: each token predicted where it is masked",
    "mntp": "masked next-token prediction: the masked token predicted one position to its left",
    "causal": "left-to-right model: each token predicted from those before it",
}
# Masks the rest of a word with each of its tokens, which else give it away (Kauf & Ivanova 2023). Not what BabyLM scores by.
WITHIN_WORD = "mlm_within_word_l2r"
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
    row_last_R: Array | None = None  # the last position masked in it, where that may be another

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
    unknown: Array  # (candidates,) bool: the tokenizer has no token for something in its sentence (reading: in the word)

    @property
    def n_rows(self) -> int:
        """Forward passes of one row."""
        return sum(len(bucket.row_sequence_R) for bucket in self.buckets)

    @property
    def highest_id(self) -> int:
        """The highest token id that a model meets; -1 where there is no row."""
        return max((int(bucket.ids_CL.max(initial=self.mask_id)) for bucket in self.buckets), default=-1)

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows: what scoring costs, up to a factor of the model's."""
        return sum(len(bucket.row_sequence_R) * bucket.length for bucket in self.buckets)


def make_plan(tokenizer: Any, items: Sequence[TaskItems], backend: str = "mlm") -> Plan:
    """Tokenise, deduplicate and bucket `items` for `backend`. Raises UserError for a tokenizer without offsets or mask.

    Not for reading, whose sentences are contexts: `evaluate.plan_items` makes the plan of any tasks.
    """
    if any(TASKS[task.task].aggregate == "reading" for task in items):
        raise ValueError("reading has no candidates to compare")
    mask_id = mask_token(tokenizer, backend)
    sentences: dict[str, int] = {}
    candidates: dict[tuple[int, int], int] = {}
    candidate_IC = tuple(_index_candidates(task.items, sentences, candidates) for task in items)
    ids, offsets, ends, lasts = _tokenise(tokenizer, list(sentences), backend == WITHIN_WORD)
    unknown_before = np.concatenate([[0], np.cumsum((ids == unknown_token(tokenizer)) & (ends > 0))])[offsets]
    pairs = np.array(list(candidates), dtype=np.int64).reshape(-1, 2)
    slot_candidate, slot_position = _scored_positions(pairs, offsets, ends, backend)
    length_of = np.diff(offsets)[pairs[:, 0]] if len(pairs) else np.zeros(0, np.int64)
    buckets = []
    for length in np.unique(length_of[slot_candidate]):
        slots = np.flatnonzero(length_of[slot_candidate] == length)
        sequences, sequence_of_slot = np.unique(pairs[slot_candidate[slots], 0], return_inverse=True)
        ids_CL = ids[offsets[sequences][:, None] + np.arange(length)]
        last = lasts[offsets[pairs[slot_candidate[slots], 0]] + slot_position[slots]] if len(lasts) else None
        buckets.append(_bucket(ids_CL, sequence_of_slot, slot_position[slots], slots, backend, mask_id, last))
    unknown = (np.diff(unknown_before) > 0)[pairs[:, 0]] if len(pairs) else np.zeros(0, bool)
    return Plan(backend, tuple(items), tuple(buckets), slot_candidate, len(candidates), candidate_IC, mask_id, length_of, unknown)


def labelled(backend: str, bf16: bool) -> str:
    """The backend as rows, files and directories name it: an approximate scoring never has the name of an exact one."""
    return f"{backend}_bf16" if bf16 else backend


def masked_rows(bucket: Bucket, start: int, stop: int, mask_id: int) -> Array:
    """Token ids (stop - start, L), int64, of a bucket's rows, each with its mask in place."""
    ids_RL = bucket.ids_CL[bucket.row_sequence_R[start:stop]].astype(np.int64)
    masked_R = bucket.row_mask_R[start:stop]
    rows = np.flatnonzero(masked_R >= 0)
    ids_RL[rows, masked_R[rows]] = mask_id
    if bucket.row_last_R is not None:
        place_L = np.arange(bucket.length)
        ids_RL[(place_L >= masked_R[:, None]) & (place_L <= bucket.row_last_R[start:stop, None])] = mask_id
    return ids_RL


def mask_token(tokenizer: Any, backend: str) -> int:
    """The id that masks a token; -1 for causal. Raises UserError for a tokenizer without offsets or mask."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"tokenizer = {type(tokenizer).__name__}: must give character offsets (a fast tokenizer, tokenizer.json)")
    if backend == "causal":
        return -1
    if tokenizer.mask_token_id is None:
        raise UserError(f"backend = {backend}: the model's tokenizer has no mask token (a left-to-right model? use causal)")
    return int(tokenizer.mask_token_id)


def unknown_token(tokenizer: Any) -> int:
    """The id of what the tokenizer has no token for; -1 where it has no such token."""
    return -1 if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)


def _index_candidates(items: Sequence[Any], sentences: dict[str, int], candidates: dict[tuple[int, int], int]) -> Array:
    """Number the distinct sentences and (sentence, first scored character) pairs; the items' candidates by number (I, C), -1 pads."""
    index_IC = np.full((len(items), max((len(item.sentences) for item in items), default=2)), -1, dtype=np.int64)
    for i, item in enumerate(items):
        for c, (sentence, completion) in enumerate(zip(item.sentences, item.completions, strict=True)):
            key = (sentences.setdefault(sentence, len(sentences)), len(sentence) - len(completion))
            index_IC[i, c] = candidates.setdefault(key, len(candidates))
    return index_IC


def _tokenise(tokenizer: Any, sentences: Sequence[str], words: bool) -> tuple[Array, Array, Array, Array]:
    """Token ids int32 and character ends int32 of all sentences, packed, with offsets; special tokens in, nothing cut off.

    With `words` also the position of the last token of each token's word; else nothing.
    """
    ids, ends, lasts, lengths = [], [], [], [np.zeros(1, np.int64)]
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
        if words:
            texts = sentences[start : start + _TOKENISE]
            lasts += [_last_of_word(batch.word_ids(i), batch["offset_mapping"][i], text) for i, text in enumerate(texts)]
    empty = [np.zeros(0, np.int32)]
    return np.concatenate(ids or empty), np.cumsum(np.concatenate(lengths)), np.concatenate(ends or empty), np.concatenate(lasts or empty)


def _last_of_word(word_L: Sequence[int | None], offset_L: Sequence[tuple[int, int]], text: str) -> Array:
    """For every token the position of the last one of its word (L,); a token of no word is its own.

    A word ends where the tokenizer says so, and before white space: some tokenizers take a whole text for one word. White space that is a
    token of its own, and the bytes of one character, are parted from nothing that follows.
    """
    last_L = np.arange(len(word_L), dtype=np.int32)
    for i in range(len(word_L) - 2, -1, -1):
        if word_L[i] is not None and word_L[i] == word_L[i + 1] and not _parted(text, offset_L[i], offset_L[i + 1][0]):
            last_L[i] = last_L[i + 1]
    return last_L


def _parted(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether white space parts a token that starts at `start` from the one at `before`; tokenizers may leave it out of a token's place."""
    if before[0] == start or not text[before[0] : before[1]].strip():
        return False
    return any(map(str.isspace, text[max(0, start - 1) : start + 1]))


def _scored_positions(pairs: Array, offsets: Array, ends: Array, backend: str) -> tuple[Array, Array]:
    """Candidate and position of every scored token: those that end behind the completion's first character.

    Special tokens have offset (0, 0) and are never scored; a token that straddles the boundary is. Backends that read to the
    left of a token cannot score the first.
    """
    lengths = np.diff(offsets)[pairs[:, 0]] if len(pairs) else np.zeros(0, np.int64)
    candidate = np.repeat(np.arange(len(pairs), dtype=np.int32), lengths)
    position = np.arange(len(candidate), dtype=np.int32) - np.repeat((np.cumsum(lengths) - lengths).astype(np.int32), lengths)
    scored = ends[offsets[pairs[candidate, 0]] + position] > pairs[candidate, 1]
    if backend not in ("mlm", WITHIN_WORD):
        scored &= position > 0
    return candidate[scored], position[scored]


def _bucket(ids_CL: Array, sequence: Array, position: Array, slots: Array, backend: str, mask_id: int, last: Array | None) -> Bucket:
    """The rows, sites and targets of sequences of one length; equal rows become one. From `position` to `last` a row is masked."""
    targets = ids_CL[sequence, position]
    if backend == "causal":  # one row a sequence, less its last token; read one to the left of every target
        row_of, rows = _distinct(ids_CL[:, :-1], np.arange(len(ids_CL)), np.full(len(ids_CL), -1), 0)
        ids_CL, row_sequence, row_mask = ids_CL[:, :-1], rows, np.full(len(rows), -1)
        sites, site_of = np.unique(np.stack([row_of[sequence], position - 1]), axis=1, return_inverse=True)
    else:  # one row a scored token, which is masked in it
        row_of, rows = _distinct(ids_CL, sequence, position, mask_id, last)
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
        None if last is None else last[rows].astype(narrow),
    )


def _distinct(ids_CL: Array, sequence_N: Array, masked_N: Array, mask_id: int, last_N: Array | None = None) -> tuple[Array, Array]:
    """For N rows, each a sequence with one position masked (-1: none): the number of its distinct row (N,), and one N of each.

    With `last_N` all positions up to that one are masked.

    Rows are grouped by a 64-bit hash that is updated, not recomputed, for the mask; the groups are then compared token by
    token, and hashed anew with another salt should two different rows ever share a hash.
    """
    for salt in count():
        hash_N = _row_hashes(ids_CL, sequence_N, masked_N, mask_id, salt)
        if last_N is not None:
            hash_N = _further_masked(hash_N, ids_CL, sequence_N, masked_N, last_N, mask_id, salt)
        _, first, group_N = np.unique(hash_N, return_index=True, return_inverse=True)
        # numbered in order of appearance, so that the rows of one candidate stay together
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first, kind="stable")] = np.arange(len(first))
        representative = np.sort(first)
        group_N = rank[group_N]
        if _all_equal(ids_CL, sequence_N, masked_N, representative[group_N], masked_N if last_N is None else last_N):
            return group_N, representative
    raise AssertionError("unreachable")


def _position_keys(length: int, salt: int) -> Array:
    """A random number a position, and one for none."""
    return np.asarray(_mix(np.arange(length + 1, dtype=np.uint64) + np.uint64(1 + (salt << 32))))


def _further_masked(hash_N: Array, ids_CL: Array, sequence_N: Array, first_N: Array, last_N: Array, mask_id: int, salt: int) -> Array:
    """The hashes of rows that are masked behind their first mask too, up to `last_N`, which is part of a row."""
    keys_L = _position_keys(ids_CL.shape[1], salt)
    change_CL = _mix(np.uint64(mask_id) ^ keys_L[None, :-1]) - _mix(ids_CL.astype(np.uint64) ^ keys_L[None, :-1])
    until_CL = np.cumsum(change_CL, axis=1, dtype=np.uint64)
    change_N = until_CL[sequence_N, last_N] - until_CL[sequence_N, first_N]
    return np.asarray(((hash_N ^ keys_L[first_N]) + change_N) ^ keys_L[first_N] ^ _mix(keys_L[last_N]))


def _row_hashes(ids_CL: Array, sequence_N: Array, masked_N: Array, mask_id: int, salt: int) -> Array:
    keys_L = _position_keys(ids_CL.shape[1], salt)
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


def _all_equal(ids_CL: Array, sequence_N: Array, masked_N: Array, other_N: Array, last_N: Array) -> bool:
    """Whether every row equals row `other_N` of its own."""
    doubles = np.flatnonzero(other_N != np.arange(len(other_N)))
    for chunk in _chunks(doubles, max(1, (1 << 20) // max(1, ids_CL.shape[1]))):
        one, two = chunk, other_N[chunk]
        if (masked_N[one] != masked_N[two]).any() or (last_N[one] != last_N[two]).any():
            return False
        place_L = np.arange(ids_CL.shape[1])
        shown = (place_L < masked_N[one, None]) | (place_L > last_N[one, None])
        if ((ids_CL[sequence_N[one]] != ids_CL[sequence_N[two]]) & shown).any():
            return False
    return True


def _chunks(values: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
