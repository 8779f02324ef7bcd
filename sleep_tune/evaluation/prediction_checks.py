"""What is wrong with the content of a file that goes to the challenge, a line each kind. Values in, lines out.

Legend: content is parsed JSON of any shape; a UID's candidates are the texts that may be an item's answer, in the order of the items.
"""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sleep_tune.evaluation.challenge import AOA_CONTEXTS, File, revision_of
from sleep_tune.evaluation.strict_json import is_number

_NO_PREVIOUS = 206  # words of the reading table with nothing before them in their sentence; with the one that pandas takes for missing
_SHOWN = 60  # characters of a name that the file gives


@dataclass(frozen=True)
class Gold:
    """What the official questions say of a file: candidates by UID in lower case; of reading, which words have none before them."""

    candidates: Mapping[str, Sequence[AbstractSet[str]]]
    no_previous: frozenset[int] = frozenset()


def wrong_predictions(file: File, sizes: Mapping[str, int], content: Any, gold: Gold | None = None) -> list[str]:
    """What is wrong with the content of a file of predictions; [] for one that is as it must be.

    Without `gold`, answers are judged by their form alone: of text, whether it can be this edition's.
    """
    if not isinstance(content, dict) or not all(
        isinstance(part, dict) and isinstance(part.get("predictions"), list) for part in content.values()
    ):
        return ['not of the form {UID: {"predictions": [...]}}']
    if "" in sizes:
        return _wrong_by_example(file, content, sizes[""])
    found = {uid.lower(): (uid, part["predictions"]) for uid, part in content.items()}
    expected = {uid.lower(): count for uid, count in sizes.items()}
    both = [key for key in found if key in expected]
    counts = [f"{found[key][0]} has {len(found[key][1])}, must be {expected[key]}" for key in both if len(found[key][1]) != expected[key]]
    wrong = [
        "a UID is given twice, in capitals and not" if len(found) < len(content) else "",
        _some("no predictions for", [uid for uid in sizes if uid.lower() not in found], len(sizes)),
        _some("predictions for unknown", [uid for key, (uid, _) in found.items() if key not in expected], len(found)),
        _some("wrong number of predictions:", counts, len(both)),
        _some("ids not numbered from 0:", [found[key][0] for key in both if not _numbered(*found[key])], len(both)),
    ]
    entries = [(f"{found[key][0]}_{i}", key, i, entry) for key in both for i, entry in enumerate(found[key][1])]
    bad = [name for name, _, _, entry in entries if not is_prediction(file, entry)]
    wrong.append(_some(f"predictions that are no {_WHAT[file.pred]}{' with a probability' * file.has_probability}:", bad, len(entries)))
    if not any(wrong):
        wrong += [*_foreign(file, entries, gold), _alike(file, [found[key] for key in both])]
    return [line for line in wrong if line]


_WHAT = {"text": "text", "label": "label of the task", "surprisal": "number"}


def _wrong_by_example(file: File, content: dict[str, Any], count: int) -> list[str]:
    if len(content) != count:
        return [f"{len(content)} examples, must be {count}"]
    single = all(len(part["predictions"]) == 1 and is_prediction(file, part["predictions"][0]) for part in content.values())
    return [] if single else ["must hold one prediction an example"]


def _alike(file: File, parts: Sequence[tuple[str, list[Any]]]) -> str:
    """Numbers that do not vary: their correlation with people's is not defined."""
    if not (file.has_probability or file.pred == "surprisal"):
        return ""
    key, what = ("prob", "probability") if file.has_probability else ("pred", "number")
    alike = [uid for uid, entries in parts if len({entry[key] for entry in entries}) == 1]
    return _some(f"every {what} is the same, so there is no score:", alike, len(parts))


def _foreign(file: File, entries: Sequence[tuple[str, str, int, Any]], gold: Gold | None) -> list[str]:
    """Answers to other questions than this edition's."""
    if file.pred == "label":
        return []
    if file.pred == "surprisal":
        missing = [(name, i) for name, _, i, entry in entries if math.isnan(entry["prev_pred"])]
        bad = [name for name, i in missing if gold is not None and i not in gold.no_previous]
        too_many = gold is None and len(missing) > _NO_PREVIOUS
        return [_some("no number for the word before", bad or ([name for name, _ in missing] if too_many else []), len(entries))]
    if gold is not None:
        others = [_named(name, entry) for name, key, i, entry in entries if entry["pred"].strip() not in gold.candidates[key][i]]
        return [_some("answers that are no candidate of this edition's item:", others, len(entries))]
    others = [
        _named(name, entry)
        for name, _, _, entry in entries
        if (file.starts and entry["pred"].startswith(" ") != (file.starts == "space")) or (file.never and file.never in entry["pred"])
    ]
    return [_some("answers that cannot be this edition's:", others, len(entries))]


NO_NUMBER = "surprisals that are no number"


def wrong_surprisals(content: Any, revisions: tuple[str, ...], contexts: AbstractSet[tuple[str, str]] | None = None) -> list[str]:
    """The same for aoa's surprisal.json, which holds every checkpoint. A checkpoint may have a trial's own name.

    `contexts`: words and the ids of their contexts, as the official questions have them; without, only their number is judged.
    """
    entries = content.get("results") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "step" in entry and "surprisal" in entry for entry in entries):
        return ['not of the form {"results": [{"step": ..., "surprisal": ...}]}']
    counts: dict[str, int] = {}
    bad: dict[str, int] = {}
    seen: set[tuple[str, ...]] = set()
    foreign: dict[str, None] = {}
    twice = False
    for entry in entries:
        name = step_of(entry)
        counts[name] = counts.get(name, 0) + 1
        bad[name] = bad.get(name, 0) + (not is_number(entry["surprisal"]))
        if "target_word" in entry and "context_id" in entry:
            context = (str(entry["target_word"]), str(entry["context_id"]))
            twice |= (name, *context) in seen
            seen.add((name, *context))
            if contexts is not None and context not in contexts:
                foreign[" ".join(context)] = None
    here = [name for name in counts if name in revisions]
    wrong = [
        _some("no surprisals at", [name for name in revisions if name not in counts], len(revisions)),
        _some("surprisals at unknown", [name for name in counts if name not in revisions], len(counts)),
        _some(f"not {AOA_CONTEXTS} surprisals at", [name for name in here if counts[name] != AOA_CONTEXTS], len(counts)),
        _some(f"{NO_NUMBER} (contexts longer than the model's positions?) at", [name for name in here if bad[name]], len(counts)),
        "a context of a word is given twice at a checkpoint" if twice else "",
        _some("surprisals of what are no contexts of the official questions:", list(foreign), len(foreign)),
    ]
    return [line for line in wrong if line]


def wrong_score(content: Any) -> list[str]:
    """The same for aoa_score.json."""
    return [] if isinstance(content, dict) and _within(content.get("aoa"), -1, 1) else ['not of the form {"aoa": correlation}']


def step_of(entry: Mapping[str, Any]) -> str:
    """The branch that an entry of surprisal.json is about; what it says where that is no checkpoint's name."""
    return revision_of(str(entry["step"])) or str(entry["step"])


def _within(value: Any, low: float, high: float) -> bool:
    return is_number(value) and low <= value <= high


def is_prediction(file: File, entry: Any) -> bool:
    """Whether an entry is of the file's form. A word before may be missing (NaN): how often, `wrong_predictions` knows."""
    if not isinstance(entry, dict) or "pred" not in entry:
        return False
    value = entry["pred"]
    if file.pred == "text":
        probable = not file.has_probability or _within(entry.get("prob"), 0, 1)
        return isinstance(value, str) and value.strip() != "" and probable
    if file.pred == "label":
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < file.labels
    previous = entry.get("prev_pred")
    return is_number(value) and (is_number(previous) or (isinstance(previous, float) and math.isnan(previous)))


def _numbered(uid: str, entries: list[Any]) -> bool:
    ids = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
    return all(name in (i, f"{uid}_{i}") and not isinstance(name, bool) for i, name in enumerate(ids))


def _some(what: str, names: list[str], of: int) -> str:
    """`what` with the first of `names` and how many there are; "" for none."""
    if not names:
        return ""
    first = names[0] if names[0].isprintable() and len(names[0]) <= 3 * _SHOWN else _shown(names[0])
    return f"{what} {first}" + (f" and {len(names) - 1:,} more of {of:,}" if len(names) > 1 else "")


def _named(name: str, entry: Mapping[str, Any]) -> str:
    return f"{name} {_shown(entry['pred'])}"


def _shown(text: str) -> str:
    """A text of the file's on one line, cut, in quotes."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
