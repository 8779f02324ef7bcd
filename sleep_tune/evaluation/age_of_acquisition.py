"""Age of acquisition: when a model learns a word, over its checkpoints, and whether children learn it then (Chang & Bergen 2022).

A sigmoid is fitted to a word's surprisal over log10(words seen); the age is where it crosses half way between chance and the
lowest surprisal. Children's age: where half of them say the word. The score is Pearson's r of the two.
Legend: K checkpoints, I items (a word in a context), X contexts of a word, P points (all contexts at all checkpoints).
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.scores import CandidateScores, ScoreRow, Texts
from sleep_tune.evaluation.tasks import TaskItems

MIN_CHECKPOINTS = 3  # of the official pipelines; also the least words that a correlation is taken over
_CHANCE_2025 = math.log2(300_000)  # bits beside nats: as in the pipeline that published scores come from
_FITS = 1000  # calls of the function, after which the 2025 pipeline gives a word up
_SIGNIFICANT_2026 = 0.1
_NUMBER = re.compile(r"[A-Za-z_-]*(\d+(?:\.\d+)?)\s*([KMB]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Checkpoint:
    """A model of the series: its official name (chck_10M) and the words it has seen."""

    name: str
    words_seen: float


@dataclass(frozen=True)
class Vocabulary:
    """What the 2026 rules take chance from: the tokenizer's size and the tokens of each word."""

    size: int
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Acquisition:
    """Ages of the words that have both: log10 of the words a model has seen, and months. `r` is NaN where it does not exist."""

    words: tuple[str, ...]
    model: tuple[float, ...]
    child: tuple[float, ...]
    without_child: int  # words that the children's table lacks, or of which no age can be told from it
    without_model: int  # words whose surprisal has no curve that crosses the threshold
    r: float
    p: float


def words_seen(name: str) -> float | None:
    """The number that a checkpoint's name ends in, with its unit (chck_10M: 10,000,000); None for other names, as trials have."""
    match = _NUMBER.fullmatch(name)
    return float(match[1]) * _UNITS[match[2].upper()] if match else None


def acquisition(
    words_seen_K: Array,
    surprisal_of: Mapping[str, Array],
    children: Mapping[str, Mapping[str, float]],
    edition: str,
    vocabulary: Vocabulary | None = None,
) -> Acquisition:
    """Ages from surprisals, nats (K, X) by word, and the children's shares by word and month. `vocabulary` is for 2026 only."""
    ages: list[tuple[str, float, float]] = []
    without_child = without_model = 0
    for word, surprisal_KX in surprisal_of.items():
        months = children.get(word, {})
        child = child_age(tuple(map(float, months)), tuple(months.values()))
        if child is None:
            without_child += 1
            continue
        if edition == "2026":
            if vocabulary is None:
                raise ValueError("the 2026 rules need the tokenizer's vocabulary")
            model = model_age_2026(words_seen_K, surprisal_KX.mean(1), vocabulary.tokens[word] * math.log(vocabulary.size))
        else:
            model = model_age(np.repeat(words_seen_K, surprisal_KX.shape[1]), surprisal_KX.ravel(), _CHANCE_2025)
        if model is None:
            without_model += 1
        else:
            ages.append((word, model, child))
    words, models, childs = zip(*ages, strict=True) if ages else ((), (), ())
    return Acquisition(words, models, childs, without_child, without_model, *_correlation(models, childs))


def model_age(words_seen_P: Array, surprisal_P: Array, chance: float) -> float | None:
    """log10 of the words seen at the crossing, by the 2025 pipeline's unbounded fit; None where there is no crossing in the series."""
    words_seen_P, surprisal_P = _known(words_seen_P, surprisal_P)
    if len(surprisal_P) < MIN_CHECKPOINTS:
        return None
    log_P = np.log10(words_seen_P + 1)
    start = (np.ptp(surprisal_P), 1.0, log_P.mean(), (-surprisal_P).min())
    fit = _fit(log_P, -surprisal_P, start, maxfev=_FITS)
    return _crossing(fit, words_seen_P, surprisal_P, chance, 0.0)


def model_age_2026(words_seen_K: Array, surprisal_K: Array, chance: float) -> float | None:
    """The same by the 2026 pipeline's bounded fit, of one mean surprisal a checkpoint."""
    words_seen_K, surprisal_K = _known(words_seen_K, surprisal_K)
    if len(surprisal_K) < MIN_CHECKPOINTS:
        return None
    log_K, curve_K, spread = np.log10(words_seen_K + 1), -surprisal_K, float(np.ptp(surprisal_K))
    low = (0.0, 0.0, log_K.min() - 1, curve_K.min() - 2 * spread - 1)
    high = (10 * spread + 1, 100.0, log_K.max() + 1, curve_K.max() + 1)
    fit = _fit(log_K, curve_K, (spread, 1.0, log_K.mean(), curve_K.min()), bounds=(low, high), maxfev=20 * _FITS)
    return _crossing(fit, words_seen_K, surprisal_K, chance, 1e-6)


@lru_cache(maxsize=4096)
def child_age(months: tuple[float, ...], shares: tuple[float, ...]) -> float | None:
    """The age in months at which half of the children say a word; None where that is outside the months asked."""
    months_M, shares_M = _known(np.array(months), np.array(shares))
    if len(shares_M) < 3:
        return None
    first, last = months_M[0], months_M[-1]
    fit = _fit(months_M, shares_M, (1.0, 0.1, months_M.mean(), 0.0), bounds=((0, 0, first, -0.5), (2.0, 1.0, last, 0.5)), maxfev=_FITS)
    age = _solve(fit, 0.5, 0.0)
    return age if age is not None and first <= age <= last else None


def _known(x_P: Array, y_P: Array) -> tuple[Array, Array]:
    known_P = ~np.isnan(y_P)
    return x_P[known_P], y_P[known_P]


def sigmoid(x_P: Array, height: float, steepness: float, middle: float, offset: float) -> Array:
    """height / (1 + exp(-steepness (x - middle))) + offset."""
    return np.asarray(height / (1 + np.exp(-steepness * (x_P - middle))) + offset)


def _fit(x_P: Array, y_P: Array, start: Sequence[float], **options: Any) -> tuple[float, ...] | None:
    """Least-squares parameters of `sigmoid`; None where the search fails: too few points, infinite ones, no convergence."""
    from scipy.optimize import curve_fit  # half a second, for few tasks

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found, _ = curve_fit(sigmoid, x_P, y_P, p0=start, **options)
    except (RuntimeError, ValueError, TypeError):
        return None
    return tuple(float(value) for value in found)


def _solve(fit: tuple[float, ...] | None, level: float, least: float) -> float | None:
    """Where the curve has the value `level`; None where it does not rise or never has."""
    if fit is None or not np.isfinite(fit).all():
        return None
    height, steepness, middle, offset = fit
    if steepness <= least or height <= least or not offset < level < height + offset:
        return None
    with np.errstate(all="ignore"):
        return float(middle - np.log(height / (level - offset) - 1) / steepness)


def _crossing(fit: tuple[float, ...] | None, words_seen_P: Array, surprisal_P: Array, chance: float, least: float) -> float | None:
    """log10 of the words seen half way between chance and the lowest surprisal, if that is within the series."""
    age = _solve(fit, -(chance - 0.5 * (chance - surprisal_P.min())), least)
    if age is None:
        return None
    with np.errstate(all="ignore"):
        seen = np.power(10.0, age) - 1
    return age if words_seen_P[0] <= seen <= words_seen_P[-1] else None


def _correlation(model: Sequence[float], child: Sequence[float]) -> tuple[float, float]:
    """Pearson's r and its p; 0 and 1 where fewer than three words have both ages, NaN where all ages are one."""
    if len(model) < MIN_CHECKPOINTS:
        return 0.0, 1.0
    if np.ptp(model) == 0 or np.ptp(child) == 0:
        return math.nan, math.nan
    from scipy.stats import pearsonr

    found = pearsonr(model, child)
    return float(found.statistic), float(found.pvalue)


@dataclass(frozen=True)
class AgeResult:
    """Surprisals of a task's items at each checkpoint of a series, by words seen, and the score if there are enough of them."""

    items: TaskItems
    backend: str
    checkpoints: tuple[Checkpoint, ...]
    surprisal_KI: Array  # nats; NaN: the model gave none
    too_long_I: Array
    positions: int | None
    sees_ahead: bool
    vocabulary: Vocabulary | None = None
    texts: Texts | None = None

    @property
    def log_probability_I(self) -> Array:
        """Of each word in its context at the last checkpoint, nats."""
        return -self.surprisal_KI[-1]

    @property
    def nan_I(self) -> Array:
        """No surprisal at a checkpoint."""
        return np.asarray(np.isnan(self.surprisal_KI).any(0))

    @property
    def defined(self) -> bool:
        """Whether there are checkpoints enough for an age."""
        return len({checkpoint.words_seen for checkpoint in self.checkpoints}) >= MIN_CHECKPOINTS

    @cached_property
    def acquisition(self) -> Acquisition:
        """The ages of the words."""
        contexts: dict[str, list[int]] = {}
        for i, item in enumerate(self.items.items):
            contexts.setdefault(item.uid, []).append(i)
        children = {item.uid: item.numbers for item in self.items.items}
        seen_K = np.array([checkpoint.words_seen for checkpoint in self.checkpoints], dtype=float)
        surprisal_of = {word: self.surprisal_KI[:, chosen] for word, chosen in contexts.items()}
        return acquisition(seen_K, surprisal_of, children, RULES[self.items.rules].edition, self.vocabulary)

    @property
    def rows(self) -> list[ScoreRow]:
        """One row, r of the words' ages; none where the series is too short. 2026 counts an r with p above 0.1 as 0."""
        if not self.defined:
            return []
        found, rules = self.acquisition, self.items.rules
        r = RULES[rules].broken_rho if math.isnan(found.r) else found.r
        r = 0.0 if RULES[rules].edition == "2026" and found.p > _SIGNIFICANT_2026 else r
        n = len(found.words)
        stderr = (1 - r**2) / math.sqrt(n - 3) if n > 3 and not math.isnan(r) else 1.0
        return [ScoreRow(self.items.task, self.items.task, n, r, "r", stderr, 0, int(self.nan_I.sum()), rules, self.backend)]

    def notes(self) -> list[str]:
        """What the reader of the score has to know, a line each."""
        task, k = self.items.task, len(self.checkpoints)
        if not self.defined:
            return [f"{task}: not defined for {k} checkpoint{'s' * (k != 1)}: an age needs a series of at least {MIN_CHECKPOINTS}"]
        found = self.acquisition
        total = len(found.words) + found.without_child + found.without_model
        notes = [
            f"{task}: r over {len(found.words)} of {total} words and {k} checkpoints; {found.without_child} have no age in the children's "
            f"table, {found.without_model} none in the model"
        ]
        if RULES[self.items.rules].edition == "2026" and found.p > _SIGNIFICANT_2026:
            notes.append(f"{task}: r = {found.r:.3f} (p = {found.p:.2f}) counts as 0 under rules {self.items.rules}")
        if self.nan_I.any():
            nans, long = int(self.nan_I.sum()), int(self.too_long_I.sum())
            why = f" ({long} are longer than its {self.positions} positions)" if long else ""
            notes.append(f"{task}: the model has no surprisal for {nans} of {len(self.nan_I)} items{why}; they are left out")
        if self.sees_ahead:
            notes.append(f"{task}: scored from left to right by a model that sees the tokens it is to predict: no probabilities")
        return notes + (self.texts.notes(self.items) if self.texts else [])


def age_result(items: TaskItems, backend: str, scored: CandidateScores, candidate_IC: Array) -> AgeResult:
    """The surprisals of one model: a series of one checkpoint, to be joined with others by `joined`."""
    score_I = scored.score[candidate_IC[:, 0]].astype(np.float64)
    surprisal_I = np.where(np.isfinite(score_I), -score_I, np.nan)
    too_long_I = scored.too_long[candidate_IC[:, 0]]
    once, texts = (Checkpoint("main", 0.0),), scored.texts(candidate_IC, candidate_IC >= 0)
    return AgeResult(items, backend, once, surprisal_I[None], too_long_I, scored.positions, scored.sees_ahead, texts=texts)


def joined(results: Sequence[AgeResult], checkpoints: Sequence[Checkpoint], vocabulary: Vocabulary | None = None) -> AgeResult:
    """One series of results of single models, in order of the words they have seen."""
    order = sorted(range(len(checkpoints)), key=lambda k: checkpoints[k].words_seen)
    first, rows = results[0], [results[k].surprisal_KI for k in order]
    too_long_I = np.logical_or.reduce([result.too_long_I for result in results])
    return AgeResult(
        first.items,
        first.backend,
        tuple(checkpoints[k] for k in order),
        np.concatenate(rows),
        too_long_I,
        first.positions,
        any(result.sees_ahead for result in results),
        vocabulary,
        first.texts,
    )


def surprisal_file(result: AgeResult, model: str) -> dict[str, Any]:
    """The content of the official surprisal.json."""
    entries = [
        {"step": checkpoint.name, "word_count": int(checkpoint.words_seen), "target_word": item.uid, "context_id": item.index}
        | {"context": item.metadata["context"], "surprisal": float(surprisal)}
        for checkpoint, surprisal_I in zip(result.checkpoints, result.surprisal_KI, strict=True)
        for item, surprisal in zip(result.items.items, surprisal_I, strict=True)
    ]
    steps = len(result.checkpoints)
    about = {"model_name": model, "use_bos_only": False, "total_steps": steps, "completed_steps": steps}
    return {"metadata": about, "results": entries}
