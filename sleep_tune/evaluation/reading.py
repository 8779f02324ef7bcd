"""Reading: how much better reading times are explained once a model's surprisal of every word is known (de Varda et al. 2024).

Owns the rows that a model runs, the regressions and the texts of the official files. As in the official pipelines, a word is
tokenised without the space before it, whatever the rules: published scores rest on that.
Legend: N words of the table, P distinct pairs of context and next word, R rows, L tokens of a row.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sleep_tune.errors import UserError
from sleep_tune.evaluation.plan import Array, Bucket, Plan, mask_token, unknown_token
from sleep_tune.evaluation.regression import Fit, design, jackknife_stderr, least_squares, partial_r2, partial_r2_without
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.scores import CandidateScores, ScoreRow, Texts
from sleep_tune.evaluation.tasks import BRAIN_POTENTIALS, MISSING_VALUES, READING_TIMES, TaskItems

_WHOLE = {"return_attention_mask": False, "return_token_type_ids": False, "truncation": False, "padding": False, "verbose": False}
_MASKS = 3  # behind a context: room for the words to come, of which only the first is read
EYE_TRACKING, SELF_PACED = READING_TIMES[:4], READING_TIMES[4]
_BASE = ("Subtlex_log10", "length", "context_length")
_SPILL_OVER = (*_BASE, "prev_length", "prev_pred")
_SCORES = {"eye_tracking": (EYE_TRACKING, _BASE), "self_paced": ((SELF_PACED,), _SPILL_OVER)}


def reading_plan(tokenizer: Any, items: TaskItems, backend: str) -> Plan:
    """The rows of every distinct (context, next word), each distinct row once. Raises UserError for a tokenizer without a mask.

    A word of several tokens takes several rows: each token joins the context, as text, before the next is predicted.
    """
    mask_id = mask_token(tokenizer, backend)
    pairs: dict[tuple[str, str], int] = {}
    candidate_IC = np.full((len(items.items), 2), -1, dtype=np.int64)
    for i, item in enumerate(items.items):
        for c, pair in enumerate(zip(item.sentences, item.completions, strict=True)):
            candidate_IC[i, c] = pairs.setdefault(pair, len(pairs))
    texts: dict[str, int] = {}
    slots = [  # pair, row, target; a word that has no token keeps a slot that nothing fills: NaN
        (p, texts.setdefault(context, len(texts)) if target >= 0 else -1, target)
        for p, steps in enumerate(_steps(tokenizer, list(pairs)))
        for context, target in steps or [("", -1)]
    ]
    suffix = "" if backend == "causal" else _MASKS * str(tokenizer.mask_token)
    # honest: a left-to-right model reads a context that the tokenizer has not closed
    opened = backend == "causal" and items.rules == "honest"
    rows = _encode_open(tokenizer, list(texts)) if opened else _encode(tokenizer, [text + suffix for text in texts])
    slot_pair, slot_row, slot_target = np.array(slots, dtype=np.int64).reshape(-1, 3).T
    buckets, fed_R = _buckets(rows, slot_row, slot_target, [_position(ids, mask_id, backend) for ids in rows])
    tokens_P = np.zeros(len(pairs), dtype=np.int64)
    known = slot_row >= 0
    np.maximum.at(tokens_P, slot_pair[known], fed_R[slot_row[known]] + (backend == "causal"))
    unknown_P = np.zeros(len(pairs), dtype=bool)
    unknown_P[slot_pair[slot_target == unknown_token(tokenizer)]] = True
    return Plan(backend, (items,), buckets, slot_pair.astype(np.int32), len(pairs), (candidate_IC,), mask_id, tokens_P, unknown_P)


def _steps(tokenizer: Any, pairs: list[tuple[str, str]]) -> list[list[tuple[str, int]]]:
    """For every (context, word), the contexts that its tokens are predicted from, each with the token's id.

    From the second token on the official pipeline tokenises anew what the token spells, and takes the first id of that.
    """
    words = list(dict.fromkeys(word for _, word in pairs))
    tokens = dict(zip(words, _encode(tokenizer, words, special=False), strict=True))
    spelled = {token: str(tokenizer.decode([token])) for ids in tokens.values() if len(ids) > 1 for token in ids}
    again = dict(zip(spelled.values(), _encode(tokenizer, list(spelled.values()), special=False), strict=True))
    chains = []
    for context, word in pairs:
        steps = []
        for k, token in enumerate(tokens[word]):
            steps.append((context, token if k == 0 else (again[spelled[token]] or [token])[0]))
            context += spelled.get(token, "")
        chains.append(steps)
    return chains


def _encode(tokenizer: Any, texts: list[str], special: bool = True) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=special, **_WHOLE)["input_ids"]
    return ids


def _encode_open(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids without what the tokenizer appends; a first token stays."""
    if not texts:
        return []
    encoded, rows = tokenizer(texts, return_special_tokens_mask=True, **_WHOLE), []
    for ids, added in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        end = len(ids)
        while end > 1 and added[end - 1]:
            end -= 1
        rows.append(ids[:end])
    return rows


def _position(ids: list[int], mask_id: int, backend: str) -> int:
    """Where the next token is read: at the first of the masks behind the context, one before it, or at the end; -1: nowhere."""
    if backend == "causal":
        return len(ids) - 1
    masks = [i for i, token in enumerate(ids) if token == mask_id]
    if len(masks) < _MASKS:
        raise UserError(f"tokenizer: does not read {_MASKS} mask tokens behind a text as masks, which the task reading needs")
    return masks[-_MASKS] - (backend == "mntp")


def _buckets(rows: list[list[int]], slot_row: Array, slot_target: Array, positions: list[int]) -> tuple[tuple[Bucket, ...], Array]:
    """Rows with equal tokens become one; by length. Also the number of tokens by row."""
    distinct: dict[tuple[int, ...], int] = {}
    number_R = np.array([distinct.setdefault(tuple(ids), len(distinct)) for ids in rows], dtype=np.int64)
    position_R = np.zeros(len(distinct), dtype=np.int64)
    position_R[number_R] = positions
    length_R = np.array([len(ids) for ids in distinct], dtype=np.int64)
    ids_R = list(distinct)
    row_S = np.where(slot_row >= 0, number_R[slot_row], -1) if len(rows) else slot_row
    length_S = np.where((row_S >= 0) & (position_R[row_S] >= 0), length_R[row_S], -1) if len(rows) else slot_row
    buckets = []
    for length in np.unique(length_S[length_S > 0]):
        slots = np.flatnonzero(length_S == length)
        chosen, site = np.unique(row_S[slots], return_inverse=True)
        order = np.argsort(site, kind="stable")
        all_rows = np.arange(len(chosen), dtype=np.int32)
        ids_CL = np.array([ids_R[r] for r in chosen], dtype=np.int32)
        targets = slot_target[slots][order].astype(np.int32)
        position = position_R[chosen].astype(np.int32)
        buckets.append(
            Bucket(ids_CL, all_rows, np.full_like(all_rows, -1), all_rows, position, site[order].astype(np.int32), targets, slots[order])
        )
    return tuple(buckets), length_R[number_R] if len(rows) else length_R


@dataclass(frozen=True)
class ReadingResult:
    """A model's surprisals of the words of the table, in nats, and what they explain."""

    items: TaskItems
    backend: str
    surprisal_N: Array  # NaN: the model gave none
    previous_N: Array  # of the word before; NaN also where there is none
    nan_I: Array  # a surprisal that should be there is not
    too_long_I: Array
    positions: int | None
    sees_ahead: bool
    texts: Texts | None = None

    @property
    def log_probability_I(self) -> Array:
        """Of each word, nats."""
        return -self.surprisal_N

    @cached_property
    def columns(self) -> dict[str, Array]:
        """The table's numbers with the model's as `pred` and `prev_pred`.

        Honest: a surprisal that the model owes is its mean surprisal, which explains nothing, and the word stays.
        """
        names = list(dict.fromkeys(name for item in self.items.items for name in item.numbers))
        table = {name: np.array([item.numbers.get(name, math.nan) for item in self.items.items]) for name in names}
        pred_N, previous_N = self.surprisal_N, self.previous_N
        if self.items.rules == "honest":
            there_N = _read_before(self.items)
            pred_N, previous_N = _owed(pred_N, np.ones_like(there_N)), _owed(previous_N, there_N)
        return table | {"pred": pred_N, "prev_pred": previous_N}

    @cached_property
    def rows(self) -> list[ScoreRow]:
        """Eye tracking and self-paced reading: percent of the variance that the word's own properties leave."""
        return [self._row(uid, measures, names) for uid, (measures, names) in _SCORES.items()]

    def _row(self, uid: str, measures: tuple[str, ...], names: tuple[str, ...]) -> ScoreRow:
        """`n`: the words that at least one measure is explained of; `nans`: those without a surprisal that the row asks for."""
        n = int(np.logical_or.reduce([self._complete(measure, names) for measure in measures]).sum())
        nan_N = np.isnan(self.surprisal_N) | (self._owed_before_N if "prev_pred" in names else False)
        score, stderr = self._score(measures, names), self._stderr(measures, names)
        return ScoreRow(self.items.task, uid, n, score, "percent", stderr, 0, int(nan_N.sum()), self.items.rules, self.backend)

    @property
    def _owed_before_N(self) -> Array:
        """A word before, which the rules read, has no surprisal."""
        return np.isnan(self.previous_N) & _read_before(self.items)

    def notes(self) -> list[str]:
        """What the reader of the scores has to know, a line each."""
        notes, task, rules = [], self.items.task, self.items.rules
        long, words = int(self.too_long_I.sum()), len(self.nan_I)
        owed, before = int(np.isnan(self.surprisal_N).sum()), int(self._owed_before_N.sum())
        if owed or before:
            fate = "count as the mean surprisal" if rules == "honest" else "are left out"
            why = f" ({long} words have a text longer than its {self.positions} positions)" if long else ""
            notes.append(
                f"{task}: the model has no surprisal for {owed} of {words} words and for {before} that come before a word{why}; "
                f"they {fate} under rules {rules}"
            )
        if self.sees_ahead:
            notes.append(f"{task}: scored from left to right by a model that sees the tokens it is to predict: no probabilities")
        return notes + (self.texts.notes(self.items) if self.texts else [])

    def fits(self, measure: str, names: tuple[str, ...]) -> tuple[Fit | None, Fit | None]:
        """Regressions of `measure` on `names` and their products, and on these and the surprisal."""
        y_N, base_NK, pred_N = self.columns[measure], design(self.columns, names), self.columns["pred"]
        base_N = np.isfinite(y_N) & ~np.isnan(base_NK).any(1)
        full_N = base_N & ~np.isnan(pred_N)
        full_NK = np.column_stack([base_NK, pred_N])
        return least_squares(base_NK[base_N], y_N[base_N]), least_squares(full_NK[full_N], y_N[full_N])

    def _score(self, measures: tuple[str, ...], names: tuple[str, ...]) -> float:
        score = 100 * sum(partial_r2(*self.fits(measure, names)) for measure in measures) / len(measures)
        return RULES[self.items.rules].broken_rho if math.isnan(score) else score

    def _complete(self, measure: str, names: tuple[str, ...]) -> Array:
        return np.isfinite(np.column_stack([design(self.columns, names), self.columns[measure], self.columns["pred"]])).all(1)

    def _stderr(self, measures: tuple[str, ...], names: tuple[str, ...]) -> float:
        """Jackknife over sentences: their words share readers and topic. The most it can be where they are too few to tell."""
        complete_N = np.logical_and.reduce([self._complete(measure, names) for measure in measures])
        if complete_N.sum() <= design(self.columns, names).shape[1] + 1:
            return 50.0
        sentences = [item.metadata.get("sentence", str(i)) for i, item in enumerate(self.items.items) if complete_N[i]]
        _, group_N = np.unique(sentences, return_inverse=True)
        base_NK, pred_N = design(self.columns, names)[complete_N], self.columns["pred"][complete_N]
        values_MG = [partial_r2_without(base_NK, pred_N, self.columns[measure][complete_N], group_N) for measure in measures]
        stderr = 100 * jackknife_stderr(np.mean(values_MG, axis=0))
        return 50.0 if math.isnan(stderr) else stderr


def reading_result(items: TaskItems, backend: str, scored: CandidateScores, candidate_IC: Array) -> ReadingResult:
    """The surprisals of a table's words, given the scores of a plan's pairs and which of them are an item's (-1: none)."""
    there_IC = candidate_IC >= 0
    there_IC[:, 1] &= _read_before(items)
    surprisal_IC = np.where(there_IC, -scored.score[candidate_IC].astype(np.float64), np.nan)
    surprisal_IC[np.isinf(surprisal_IC)] = np.nan  # a probability of 0: the pipelines end in a crash
    owed_I = np.asarray((np.isnan(surprisal_IC) & there_IC).any(1))
    too_long_I = np.asarray((scored.too_long[candidate_IC] & there_IC).any(1))
    surprisals, texts = (surprisal_IC[:, 0], surprisal_IC[:, 1]), scored.texts(candidate_IC, there_IC)
    return ReadingResult(items, backend, *surprisals, owed_I, too_long_I, scored.positions, scored.sees_ahead, texts)


def _read_before(items: TaskItems) -> Array:
    """Where a word before the word is read too (I,), so that the model owes its surprisal.

    2025 and 2026 read their table with pandas, which takes a previous context of the one word None for a missing value.
    """
    missing = frozenset() if items.rules == "honest" else MISSING_VALUES
    return np.array([len(item.sentences) > 1 and item.sentences[1] not in missing for item in items.items], dtype=bool)


def _owed(surprisal_N: Array, there_N: Array) -> Array:
    """The mean where a surprisal is missing that should be there."""
    known_N = surprisal_N[there_N & ~np.isnan(surprisal_N)]
    return np.where(there_N & np.isnan(surprisal_N), known_N.mean() if len(known_N) else 0.0, surprisal_N)


def official_files(result: ReadingResult) -> dict[str, str]:
    """The texts of the files that the official pipeline writes for the task, by name."""
    measures = [name for name in (*READING_TIMES, *BRAIN_POTENTIALS) if name in result.columns]
    eye, self_paced = (row.score for row in result.rows)
    predictions = [
        {"id": item.index, "pred": float(pred), "prev_pred": float(previous)}
        for item, pred, previous in zip(result.items.items, result.surprisal_N, result.previous_N, strict=True)
    ]
    lines = [
        {"Index": entry["id"], "Sentence": item.sentences[0], "Word": item.completions[0]}
        | {"Logprob": entry["pred"], "Prev_Logprob": entry["prev_pred"]}
        for item, entry in zip(result.items.items, predictions, strict=True)
    ]
    return {
        "report.txt": f"EYE TRACKING SCORE: {eye:.2f}\nSELF-PACED READING SCORE: {self_paced:.2f}\n",
        "predictions.json": json.dumps({"reading": {"predictions": predictions}}),
        "prediction.jsonl": _jsonl(lines),
        "correlations.txt": "".join(f"{name}\t{_correlation(result.columns, name):.4f}\n" for name in measures),
        "predictive_power.jsonl": _jsonl([_power(result, name, _BASE) for name in measures]),
        "predictive_power_spillover.jsonl": _jsonl([_power(result, name, _SPILL_OVER) for name in measures]),
    }


def _power(result: ReadingResult, measure: str, names: tuple[str, ...]) -> dict[str, Any]:
    nothing = Fit(math.nan, math.nan, math.nan, math.nan, math.nan)
    base, full = (fit or nothing for fit in result.fits(measure, names))
    return {
        "Predicted variable": measure,
        "Coefficient": full.coefficient,
        "Number of standard deviations": full.t,
        "P-value": full.p,
        "R2": full.r2,
        "Change in R2 from baseline": full.r2 - base.r2,
        "AIC": full.aic,
        "Change in AIC from baseline": full.aic - base.aic,
    }


def _correlation(columns: Mapping[str, Array], measure: str) -> float:
    pair_2N = np.stack([columns["pred"], columns[measure]])
    pair_2N = pair_2N[:, np.isfinite(pair_2N).all(0)]
    if pair_2N.shape[1] < 2 or (np.ptp(pair_2N, axis=1) == 0).any():
        return math.nan
    return float(np.corrcoef(pair_2N)[0, 1])


def _jsonl(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)
