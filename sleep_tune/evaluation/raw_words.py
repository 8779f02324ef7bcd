"""Words of the raw text behind the cleaned ones that a run trains on: cleaning takes speakers' marks, markup and repeats away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sleep_tune.data.cleaning import Tally, clean
from sleep_tune.data.corpora import Part, find_corpus
from sleep_tune.data.text import CorpusReport, quotas
from sleep_tune.errors import UserError


@dataclass(frozen=True)
class Kept:
    """A domain's words that are trained on, and how many words of its raw text they were made from."""

    domain: str
    words: int
    raw_words: int


def kept_words(report: Sequence[CorpusReport], recipe: Mapping[str, Any]) -> tuple[Kept, ...]:
    """The training text's domains, in the store's order. Under a limit on words, the raw text is read once more up to that limit.

    `recipe` is what the text was prepared by (`study.material.recipe`). Raises UserError where the raw text is no longer there.
    """
    train = [entry for entry in report if entry.split == "train"]
    taken = quotas([entry.words for entry in train], recipe["words"])
    if taken == [entry.words for entry in train]:
        return tuple(Kept(entry.domain, entry.words, entry.raw_words) for entry in train)
    corpus = find_corpus(recipe["source"])
    parts = {part.domain: part for part in corpus.split("train")} if corpus else {}
    if set(parts) != {entry.domain for entry in train}:
        raise UserError("the raw text is not what was prepared")
    raw = [_raw_words(parts[entry.domain], recipe["cleaning"], words) for entry, words in zip(train, taken, strict=True)]
    return tuple(Kept(entry.domain, words, count) for entry, words, count in zip(train, taken, raw, strict=True))


def _raw_words(part: Part, cleaning: str, words: int) -> int:
    """Raw words up to the line that has the last of so many cleaned ones."""
    tally, left = Tally(), words
    lines = clean(part.domain, cleaning, part.lines(), tally)
    while left > 0:
        line = next(lines, None)
        if line is None:
            break
        left -= line.count(" ") + 1 if line else 0
    return tally.raw_words
