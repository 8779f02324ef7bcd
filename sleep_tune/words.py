"""Words: whitespace words of text, budgets as users write them, and the milestones at which a run stops to be looked at."""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from sleep_tune.errors import UserError

_BUDGET = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(?:e(\d{1,2}))?([kKmMbB]?)$")
_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def count_words(text: str) -> int:
    """Whitespace words of `text`."""
    return len(text.split())


def parse_words(value: str, field: str) -> int:
    """A positive number of words from `200000`, `200k`, `5M`, `1e6`. Raises UserError otherwise."""
    match = _BUDGET.match(value.strip().replace("_", "").replace(",", ""))
    if match:
        words = Fraction(match[1]) * 10 ** int(match[2] or 0) * _SUFFIX[match[3].lower()]
        if words.denominator == 1 and 0 < words < 10**15:
            return int(words)
    raise UserError(f"{field} = {value}: must be a whole number of words > 0, such as 200000, 200k or 5M")


def show_words(words: float) -> str:
    """Words as people read them: 940, 12.5k, 3.93M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if words >= size:
            return f"{words / size:.3g}{unit}"
    return f"{words:.0f}"


def checkpoint_name(words: int) -> str:
    """BabyLM's name of the model that has seen so many words: chck_10M; chck_250K and chck_1234 where these are no whole millions."""
    for unit, size in (("M", 10**6), ("K", 10**3)):
        if words >= size and words % size == 0:
            return f"chck_{words // size}{unit}"
    return f"chck_{words}"


def babylm_milestones(budget_words: int) -> list[int]:
    """Nominal words at which BabyLM asks for checkpoints, scaled: each 1 % of the budget to 10 %, then each 10 %.

    The strict track's tenfold budget has the same shares, and before them each 1M: 28 in all. So have all beyond strict-small's.
    """
    shares = [Fraction(i, 100) for i in range(1, 11)] + [Fraction(i, 10) for i in range(2, 11)]
    first = [i * 10**6 for i in range(1, 10)] if budget_words > 10**8 else []
    return sorted({*first, *(max(1, int(budget_words * share)) for share in shares)})


def rung_words(budget_words: int, rungs: Iterable[Fraction]) -> list[int]:
    """Nominal words of a scheduler's rungs, given as shares of the budget."""
    return sorted({max(1, int(budget_words * rung)) for rung in rungs})


def all_milestones(budget_words: int, rungs: Sequence[Fraction] = (), step_words: int = 0) -> list[int]:
    """BabyLM's milestones and the rungs, ascending; the last is the budget itself.

    Of BabyLM's, those are left out that a single step of `step_words` could cross together with another: they would report one state twice.
    """
    fixed = sorted({*rung_words(budget_words, rungs), budget_words})
    kept: list[int] = []
    for milestone in sorted({*babylm_milestones(budget_words), *fixed}):
        following = next(words for words in fixed if words >= milestone)
        apart = milestone - (kept[-1] if kept else 0) >= step_words and following - milestone >= step_words
        if milestone in fixed or apart:
            kept.append(milestone)
    return kept
