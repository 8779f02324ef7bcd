"""The zero-shot tasks of BabyLM: what an item of each is, and which candidates it asks a model to compare.

Files are `official_data.py`'s, decisions `rules.py`'s. The right candidate is always index 0. Two tasks compare a model with
people instead, word by word: `reading.py` and `age_of_acquisition.py` turn their items into scores.
"""

import math
import reprlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sleep_tune.digests import digest
from sleep_tune.evaluation.strict_json import is_number
from sleep_tune.streams import stream

Raw = Mapping[str, Any]  # one parsed line of a data file
Edition = Literal["2025", "2026"]  # which pipeline's candidates
_EDITIONS: tuple[Edition, ...] = ("2025", "2026")


class BadItem(ValueError):
    """An item that lacks a field or has one of the wrong kind; the message says which, `official_data` adds file and line."""


@dataclass(frozen=True)
class Item:
    """One question: candidates and what they are grouped by. `index` numbers the items of a UID in file order, from 0."""

    uid: str
    index: int
    sentences: tuple[str, ...]
    completions: tuple[str, ...]  # suffixes of `sentences`, one each: only their tokens are scored
    metadata: Mapping[str, str]  # the keys of the official report, in its order; UID among them
    ratio: float = 0.0  # human share of candidate 0 (WUG only)
    numbers: Mapping[str, float] = field(default_factory=dict)  # what people did and what explains it (reading, aoa); NaN: not measured


@dataclass(frozen=True)
class TaskItems:
    """The items of one task, as read; `sampled` if some were left out."""

    task: str
    dataset: str  # the data directory's name, part of the official layout
    rules: str
    seed: int
    items: tuple[Item, ...]
    sampled: bool = False


@dataclass(frozen=True)
class Task:
    """One row of `TASKS`. `read` turns (raw item, file stem, edition) into an `Item`, or None where that edition drops it."""

    name: str
    about: str
    read: Callable[[Raw, str, Edition], Item | None]
    full: str  # data directory under full_eval
    fast: str | None  # under fast_eval; None: not in the fast set
    files: tuple[str, ...] = ()  # file stems the official set has; () where any will do
    fast_files: tuple[str, ...] = ()  # stems of `full` that make up the fast set, where the fast set is a slice by file
    table: tuple[str, ...] = ()  # the files' names where they are not jsonl, all of them needed
    official: str = ""  # the official pipeline's name of the task where it differs
    aggregate: Literal["mean", "splits", "correlation", "reading", "ages"] = "mean"
    sentences_named: tuple[Edition, ...] = ()  # editions whose predictions.json stores whole sentences, not completions

    @property
    def official_name(self) -> str:
        """The task's name in the official layout: the supplement is scored as blimp."""
        return self.official or self.name

    @property
    def one_model(self) -> bool:
        """Whether one model has a score, so that a trial can be scored; age of acquisition is of a series of checkpoints."""
        return self.aggregate != "ages"


def text(raw: Raw, key: str) -> str:
    """A non-empty string field. Raises BadItem."""
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong(raw, key, "a non-empty text")
    return value


def _wrong(raw: Raw, key: str, must_be: str) -> BadItem:
    """What is wrong with a field: missing, or its value, shortened, is not what it must be."""
    return BadItem(f"field {key} " + (f"= {_SHORT.repr(raw[key])}: must be {must_be}" if key in raw else "missing"))


def _blimp(raw: Raw, stem: str, edition: Edition) -> Item:
    """BLiMP as it is; a file without `field` is the supplement, whose UID is its file's name."""
    pair = (text(raw, "sentence_good"), text(raw, "sentence_bad"))
    if "field" not in raw:
        return Item(stem, 0, pair, pair, {"field": "supplement", "UID": stem, "linguistics_term": "supplement"})
    group = text(raw, "field").replace("syntax_semantics", "syntax/semantics")
    uid = text(raw, "UID")
    return Item(uid, 0, pair, pair, {"field": group, "UID": uid, "linguistics_term": text(raw, "linguistics_term")})


def _pairs(raw: Raw, stem: str, edition: Edition) -> Item:
    pair = (text(raw, "sentence_good"), text(raw, "sentence_bad"))
    uid = text(raw, "UID")
    return Item(uid, 0, pair, pair, {"UID": uid})


def _ewok(raw: Raw, stem: str, edition: Edition) -> Item:
    """2025 compares two targets after one context, 2026 one target after two contexts."""
    context_1, context_2, target_1, target_2 = (text(raw, key) for key in ("Context1", "Context2", "Target1", "Target2"))
    if edition == "2025":
        sentences, targets = (f"{context_1} {target_1}", f"{context_1} {target_2}"), (target_1, target_2)
    else:
        sentences, targets = (f"{context_1} {target_1}", f"{context_2} {target_1}"), (target_1, target_1)
    metadata = {
        "UID": text(raw, "Domain"),
        "context_type": text(raw, "ContextType"),
        "context_contrast": text(raw, "ContextDiff"),
        "target_contrast": text(raw, "TargetDiff"),
    }
    return Item(metadata["UID"], 0, sentences, tuple(f" {target}" for target in targets), metadata)


def _entity_tracking(raw: Raw, stem: str, edition: Edition) -> Item | None:
    """2026 drops the items in which an option contains "nothing"."""
    prefix, options, operations = text(raw, "input_prefix"), raw.get("options"), raw.get("numops")
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(option, str) and option for option in options):
        raise _wrong(raw, "options", "a list of at least two texts")
    if not isinstance(operations, int) or isinstance(operations, bool) or operations < 0:
        raise _wrong(raw, "numops", "a whole number from 0 on")
    if edition == "2026" and any("nothing" in option for option in options):
        return None
    uid = f"{stem}_{operations}_ops"
    return Item(uid, 0, tuple(prefix + option for option in options), tuple(options), {"UID": uid})


def _wug(uid: str) -> Callable[[Raw, str, Edition], Item]:
    def read(raw: Raw, stem: str, edition: Edition) -> Item:
        sentences = tuple(text(raw, "sentences").split("\t"))
        if len(sentences) < 2 or not all(sentences):
            raise _wrong(raw, "sentences", "at least two texts separated by tabs")
        return Item(uid, 0, sentences, sentences, {"UID": uid}, ratio=_finite(raw, "ratio"))

    return read


def _finite(raw: Raw, key: str) -> float:
    """A number of a JSON item. Raises BadItem, for NaN and infinity too, and for whole numbers that a float cannot hold."""
    value = raw.get(key)
    if is_number(value):
        return float(value)
    raise _wrong(raw, key, "a number, not NaN or infinite")


def _comps(raw: Raw, stem: str, edition: Edition) -> Item:
    phrase = text(raw, "property_phrase")
    sentences = tuple(f"{text(raw, key)} {phrase}" for key in ("prefix_acceptable", "prefix_unacceptable"))
    uid = stem.removeprefix("comps_").replace("-", "_")
    return Item(uid, 0, sentences, (phrase, phrase), {"UID": uid})


def _reading(raw: Raw, stem: str, edition: Edition) -> Item:
    """A word with what was read before it; behind it the word before that, where there is one. `sentences` are contexts here.

    The pipelines read an empty context as "None", which is the word that is meant: a spreadsheet took it for a missing value.
    """
    contexts, words = [raw["item"] or "None"], [text(raw, "word")]
    if raw["prev_item"]:
        contexts.append(raw["prev_item"])
        words.append(text(raw, "prev_word"))
    metadata = {"UID": "reading"} | {key: raw[key] for key in ("sentence",) if key in raw}
    numbers = {key: number(raw, key) for key in (*REGRESSORS, *READING_TIMES, *BRAIN_POTENTIALS) if key in raw}
    return Item("reading", 0, tuple(contexts), tuple(words), metadata, numbers=numbers)


def number(raw: Raw, key: str) -> float:
    """A number in a table's cell, NaN for a missing value. Raises BadItem."""
    if raw[key] in MISSING_VALUES:
        return math.nan
    try:
        value = float(raw[key])
    except ValueError:
        raise BadItem(f"column {key} = {_SHORT.repr(raw[key])}: must be a number") from None
    if not math.isfinite(value):
        raise BadItem(f"column {key} = {_SHORT.repr(raw[key])}: must be a number, not infinite (an empty cell is a missing value)")
    return value


def _aoa(raw: Raw, stem: str, edition: Edition) -> Item | None:
    """A word behind one of its contexts, with the share of children who say it by month. Words of one letter are left out."""
    word, context = text(raw, "word"), raw.get("context")
    if not isinstance(context, str):
        raise _wrong(raw, "context", "a text")
    if len(word) < 2:
        return None
    sentence = f"{context.strip()} {word.strip()}"
    return Item(word, 0, (sentence,), (word.strip(),), {"UID": word, "context": context}, numbers=raw["ages"])


def sample(items: Sequence[Item], task: str, per_uid: int, seed: int) -> tuple[Item, ...]:
    """At most `per_uid` items of every UID, in order, drawn without replacement by (seed, task, text).

    A smaller sample is part of a larger one. An item's text tells its place in the draw, not its place in the file: what is drawn of the
    full set and lies in the fast one is also drawn of that.
    """
    if not items:
        return ()
    key, times = stream(seed, "items", uid_key(task, "")).bytes(16), Counter[tuple[str, ...]]()
    drawn_I = np.empty(len(items), np.uint64)
    for i, item in enumerate(items):
        text = (item.uid, *item.sentences, *item.completions)
        times[text] += 1  # a few official items are there twice
        drawn_I[i] = int(digest(key, str(times[text]), *text, size=8), 16)
    _, uid_I, count_U = np.unique([item.uid for item in items], return_inverse=True, return_counts=True)
    order_I = np.lexsort((drawn_I, uid_I))  # by UID, as drawn
    rank_I = np.empty(len(items), np.int64)
    rank_I[order_I] = np.arange(len(items)) - np.repeat(count_U.cumsum() - count_U, count_U)
    return tuple(items[i] for i in np.flatnonzero(rank_I < per_uid).tolist())


def uid_key(task: str, uid: str) -> int:
    """The counter that keys the random streams of one UID."""
    return zlib.crc32(f"{task}/{uid}".encode())


@dataclass
class Numbering:
    """Gives every item of a UID the next number."""

    next_of: dict[str, int] = field(default_factory=dict)

    def number(self, item: Item) -> Item:
        """The item with its index."""
        index = self.next_of.get(item.uid, 0)
        self.next_of[item.uid] = index + 1
        return Item(item.uid, index, item.sentences, item.completions, item.metadata, item.ratio, item.numbers)


REGRESSORS = ("Subtlex_log10", "length", "context_length", "prev_length")
READING_TIMES = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound", "self_paced_reading_time")
BRAIN_POTENTIALS = ("ELAN", "LAN", "N400", "P600", "EPNP", "PNP")  # in the official table and reports, in no score
MONTHS = tuple(range(16, 31))
# What pandas 2, which the pipelines read tables with, takes for a missing value.
MISSING_VALUES = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
    | {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlist = 80, 8
_SPLITS = ("regular", "ambiref", "move_contents")
_COMPS = ("comps_base", "comps_wugs", "comps_wugs_dist-before", "comps_wugs_dist-in-between")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("blimp", "grammatical minimal pairs, 67 paradigms", _blimp, "blimp_filtered", "blimp_fast"),
        Task(
            "supplement",
            "BLiMP supplement: dialogue and questions, 5 sets",
            _blimp,
            "supplement_filtered",
            "supplement_fast",
            official="blimp",
        ),
        Task("ewok", "world knowledge, 11 domains", _ewok, "ewok_filtered", "ewok_fast", sentences_named=("2026",)),
        Task(
            "entity_tracking",
            "which box holds what after 0 to 5 operations, 5 options",
            _entity_tracking,
            "entity_tracking",
            "entity_tracking_fast",
            files=_SPLITS,
            fast_files=("regular",),
            aggregate="splits",
        ),
        Task(
            "wug_adj",
            "nominalisation of new adjectives: rank correlation with people",
            _wug("wug_adj"),
            "wug_adj_nominalization",
            "wug_adj_nominalization",
            aggregate="correlation",
        ),
        Task(
            "wug_past",
            "past tense of new verbs: rank correlation with people",
            _wug("wug_past"),
            "wug_past_tense",
            "wug_past_tense",
            aggregate="correlation",
        ),
        Task("comps", "properties of concepts and their inheritance", _comps, "comps", None, files=_COMPS, sentences_named=_EDITIONS),
        Task(
            "reading",
            "eye movements and self-paced reading times explained by surprisal",
            _reading,
            "reading",
            "reading",
            table=("reading_data.csv",),
            aggregate="reading",
        ),
        Task(
            "aoa",
            "when a word is learned, over a model's checkpoints: correlation with children",
            _aoa,
            "cdi_childes",
            None,
            table=("cdi_childes.json", "cdi_human.csv"),
            official="AoA_word",
            aggregate="ages",
        ),
        Task("pairs", "the embedded corpus' own minimal pairs", _pairs, "pairs", None),
    )
}
