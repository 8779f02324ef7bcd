"""Whether a trial kept to the challenge's budget: words of data, words seen with repeats, and the text its tokenizer was trained on.

The text is read as it lies prepared today, and only where the trial's own record says that it is what was trained on.
Words are whitespace words. Data are judged by the source text as it is distributed, words seen by the cleaned text, which is what the
model reads; the other count stands beside each. What cannot be told any more is null, never taken for granted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from sleep_tune.config import Config, load_config, trial_id
from sleep_tune.data.token_store import StoreDamaged, TokenStore, find_prepared, open_store
from sleep_tune.errors import UserError
from sleep_tune.evaluation.challenge import Track, names_of
from sleep_tune.evaluation.collation import Results
from sleep_tune.evaluation.model_source import ModelSource
from sleep_tune.evaluation.raw_words import Kept, kept_words
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.files import file_digest
from sleep_tune.fit import MOST_EXPOSURES
from sleep_tune.presets import read_yaml

Words = dict[str, int | None]  # of a text once cleaned and raw; None: unknown
_CUT = 0.5  # share of the words seen that samples, counted whole, may be off by: of re-cut rows and the last one only a part is read


@dataclass(frozen=True)
class _Text:
    """The trial's text: the words of its domains, its samples, and the tokenizer that it makes."""

    kept: tuple[Kept, ...]
    store: TokenStore
    tokenizer_digest: str


def is_trial(directory: Path) -> bool:
    """Whether a trial was written there."""
    return (directory / "config.yaml").is_file() and (directory / "steps.jsonl").is_file()


def trial_config(trial: Path) -> Config:
    """The trial's configuration. Raises UserError for a damaged one."""
    path = trial / "config.yaml"
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: damaged; must be the configuration of a trial")
    return load_config(raw)


def wrong_models(trial: Path, results: Results, revisions: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The revisions whose results are known to be of another model than the trial's own, with a line on each; and a note on checkpoints
    of which that cannot be told, as the trial has kept none of their name."""
    wrong: dict[str, str] = {}
    unknown: list[str] = []
    for revision in ("main", *revisions):
        found = results.models(revision)
        own = trial / "model" if revision == "main" else next(iter(_kept(trial, revision)), None)
        if not found or (own == trial / "model" and not own.is_dir()):
            continue
        if own is None:
            strangers = [place for _, place in found.values() if place and _other_trial(trial, Path(place))]
            if strangers:
                wrong[revision] = f"{revision}: the results are of {strangers[0]}, a model of another trial than {trial}"
            unknown += [] if strangers else [revision]
        elif ModelSource(str(own)).digest not in found:
            which = results.model if revision == "main" else revision
            wrong[revision] = f"{which}: the results are of another model than {own}: score that one, or name its own trial (--trial)"
    return wrong, [
        f"{', '.join(unknown)}: not known to be of {trial}: it has kept no models of these names in milestones/"
    ] if unknown else []


def _kept(trial: Path, revision: str) -> list[Path]:
    """Where the trial has kept the model of a revision."""
    return [path for name in names_of(revision) if (path := trial / "milestones" / name).is_dir()]


def _other_trial(trial: Path, place: Path) -> bool:
    """Whether a model is a checkpoint that another trial has kept."""
    owner = place.parent.parent
    return place.parent.name == "milestones" and is_trial(owner) and not owner.samefile(trial)


def legality(trial: Path, track: str, limits: Track) -> dict[str, Any]:
    """What the run used of its budget and the verdicts; `legal` is null where one cannot be told. Raises UserError for a damaged trial."""
    config = trial_config(trial)
    final = _final(trial)
    seen, finished = _words_seen(trial, final), final is not None
    text, unknown = _text(trial, config, final or {})
    exposures_N = _exposures(trial, text.store, seen if finished else None) if text else None
    data_words: Words = {"words": None, "raw_words": None}
    seen_words: Words = {"words": seen, "raw_words": None}
    if text is not None:
        data_words = {"words": sum(part.words for part in text.kept), "raw_words": sum(part.raw_words for part in text.kept)}
        seen_words["raw_words"] = _raw_words_seen(seen, exposures_N, text)
        unknown += [] if exposures_N is not None else ["the raw words seen are unknown: no exposures.npy"]
    own_tokenizer = _own_tokenizer(trial, text)
    verdicts = {
        "words_of_data": _within(data_words, limits.data_words),
        "words_seen": _read_within(seen_words, limits.seen_words) if finished else None,
        "tokenizer_text": own_tokenizer or None,  # what another one was trained on, nobody knows
    }
    return {
        "trial": str(trial),
        "track": track,
        "legal": False if False in verdicts.values() else None if None in verdicts.values() else True,
        "verdicts": verdicts,
        "words_of_data": {"limit": limits.data_words, **data_words, "limited_to": config.data.words},
        "words_seen": {"limit": limits.seen_words, **seen_words, "finished": finished},
        "exposures": _summary(exposures_N, text.store) if exposures_N is not None and text is not None else None,
        "times_read": {"allowed": MOST_EXPOSURES, "mean": seen / data_words["words"] if data_words["words"] else None},
        # the trial's own is trained on the very words that are trained on, after cleaning and the limit
        "tokenizer_text": {
            **(data_words if own_tokenizer else dict.fromkeys(data_words)),
            "beside_the_data": 0 if own_tokenizer else None,
            "trained_on_the_data": own_tokenizer,
            "vocabulary": config.tokenizer.vocab_size,
        },
        "dev_text": "read for dev_loss alone, never trained on",
        "checkpoints": _checkpoints(trial, limits),
        "unknown": unknown,
    }


def _within(words: Words, limit: int) -> bool | None:
    """Whether the raw words are within the limit; where they are unknown, cleaned ones can still be over it: cleaning takes away."""
    raw, cleaned = words["raw_words"], words["words"]
    if raw is not None:
        return raw <= limit
    return False if cleaned is not None and cleaned > limit else None


def _read_within(words: Words, limit: int) -> bool | None:
    """The same of words seen: what cleaning takes away is not read. Budgets and checkpoints count these, too."""
    return None if words["words"] is None else words["words"] <= limit


def lines(found: dict[str, Any]) -> list[str]:
    """The verdicts as people read them."""
    said = {True: "within", False: "OVER", None: "cannot be told to be within"}
    table = []
    for name, what in (("words_of_data", "words of data"), ("words_seen", "words seen, repeats counted")):
        counts = [None if found[name][key] is None else f"{found[name][key]:,}" for key in ("raw_words", "words")]
        shown = f"{counts[0] or 'unknown'} of the raw text ({counts[1] or 'unknown'} once cleaned)"
        table.append(f"{what}: {shown}, {said[found['verdicts'][name]]} the {found[name]['limit']:,} of {found['track']}")
    exposures, seen = found["exposures"], found["words_seen"]
    if seen["raw_words"] and seen["raw_words"] > seen["limit"] and seen["words"]:
        allowed = seen["limit"] * seen["words"] // seen["raw_words"]
        table.append(
            f"with what cleaning took out, {seen['raw_words']:,} words: should the challenge count those, too, "
            f"a run over this text may see {allowed:,} cleaned words (budget_words)"
        )
    if exposures:
        table.append(
            f"exposures: {exposures['mean']:.2f} a sample on average, {exposures['most']} at most, {exposures['never']:,} samples never "
            "(limited are the words seen, and so the mean; a single sample may be replayed more often)"
        )
    times, allowed = found["times_read"]["mean"], found["times_read"]["allowed"]
    if times is not None and times > allowed + 1e-4:
        both = f"{seen['words']:,} words seen of {found['words_of_data']['words']:,} words of data"
        table.append(
            f"TOO MANY exposures: the text was read {times:.3g} times on average ({both}, once cleaned), BabyLM allows {allowed}; "
            "the verdict at the end is about words alone"
        )
    table.append(_TOKENIZER[found["tokenizer_text"]["trained_on_the_data"]])
    return table + list(found["unknown"])


_TOKENIZER = {
    True: "tokenizer: trained on the words of data, no other text",
    False: "tokenizer: model/tokenizer.json is not the one that the words of data make: the text it was trained on is unknown",
    None: "tokenizer: the text it was trained on is unknown: no model/tokenizer.json, or nothing to compare it with",
}


def _text(trial: Path, config: Config, final: dict[str, Any]) -> tuple[_Text | None, list[str]]:
    """The text that the trial read, or why it cannot be told."""
    from sleep_tune.study.material import recipe

    try:
        asked = recipe(config)
        prepared = find_prepared(**asked)
        if prepared is None:
            return None, ["the words of data are unknown: the prepared text is no longer in the cache"]
        store = open_store(prepared.directory)
        same = _read_by(trial, trial_id(config, prepared.corpus_digest), (prepared.corpus_digest, store.digest), final)
        if same:
            return _Text(kept_words(prepared.report, asked), store, prepared.tokenizer_digest), []
    except (UserError, StoreDamaged) as error:
        return None, [f"the words of data are unknown: {error}"]
    if same is None:
        return None, ["the words of data are unknown: neither final.json nor a checkpoint tells which text the trial read"]
    return None, ["the words of data are unknown: the text or config.yaml has been changed since the trial read it"]


def _read_by(trial: Path, identity: str, digests: tuple[str, str], final: dict[str, Any]) -> bool | None:
    """Whether the trial was trained on a text, given the identity it would have and the digests of corpus and store; None: not told."""
    told = (final.get("corpus_digest"), final.get("store_digest"))
    if told != (None, None):
        return told == digests
    from sleep_tune.training.checkpoint import checkpoints, identity_of  # imports torch: only for a trial that is not over, or an old one

    found = [one for path in checkpoints(trial) if (one := identity_of(path)) is not None]
    return found[0] == identity if found else None


def _own_tokenizer(trial: Path, text: _Text | None) -> bool | None:
    """Whether the model's tokenizer is the one that is trained on the trial's text; None where either is not there."""
    path = trial / "model" / "tokenizer.json"
    if text is None or not path.is_file():
        return None
    return file_digest(path) == text.tokenizer_digest


def _final(trial: Path) -> dict[str, Any] | None:
    """What the trial wrote when it was over; None before. Raises UserError for a damaged record."""
    path = trial / "final.json"
    if not path.exists():
        return None
    try:
        found = parse(path.read_bytes())
    except BadJson:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged; the words seen cannot be read")
    return found


def _words_seen(trial: Path, final: dict[str, Any] | None) -> int:
    """Words seen, of a run that is not over so far. Raises UserError where the records are damaged."""
    path = trial / ("steps.jsonl" if final is None else "final.json")
    try:
        if final is not None:
            return _count(final)
        steps = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return _count(parse(steps[-1])) if steps else 0
    except (BadJson, KeyError, TypeError):
        raise UserError(f"{path}: damaged; the words seen cannot be read") from None


def _count(record: Any) -> int:
    words = record["words_seen"]
    if type(words) is not int or words < 0:
        raise TypeError("no number of words")
    return words


def _exposures(trial: Path, store: TokenStore, seen: int | None) -> Any:
    """How often each sample was trained on (N,); None for a trial that is not over. Raises UserError for a damaged file, and for counts
    that cannot add up to the words `seen`."""
    path = trial / "exposures.npy"
    if not path.exists():
        return None
    try:
        exposures_N = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, BadZipFile):
        raise UserError(f"{path}: damaged; not an array of counts") from None
    if not isinstance(exposures_N, np.ndarray) or exposures_N.dtype.kind not in "iu":
        raise UserError(f"{path}: damaged; not an array of counts")
    if exposures_N.shape != store.words_N.shape:
        raise UserError(f"{path}: of {exposures_N.size:,} samples, the text has {len(store.words_N):,}: damaged, or another text")
    if (exposures_N.astype(np.int64) < 0).any():
        raise UserError(f"{path}: damaged; a sample was trained on less than 0 times")
    words = float(exposures_N.astype(np.float64) @ store.words_N)
    if seen is not None and abs(words - seen) > _CUT * seen:
        raise UserError(f"{path}: its samples have {words:,.0f} words, the trial has seen {seen:,}: damaged, or another run's")
    return exposures_N.astype(np.int64)


def _raw_words_seen(seen: int, exposures_N: Any, text: _Text) -> int | None:
    """Words of the raw text that stand behind the cleaned ones seen, domain by domain: cleaning takes more from one than from another."""
    if exposures_N is None:
        return None
    ratio_D = np.array([part.raw_words / max(1, part.words) for part in text.kept])
    words_N = exposures_N * text.store.words_N.astype(np.int64)
    if not words_N.sum():
        return seen
    return round(seen * float(words_N @ ratio_D[text.store.domain_N]) / float(words_N.sum()))


def _summary(exposures_N: Any, store: TokenStore) -> dict[str, Any]:
    times, samples = np.unique(exposures_N, return_counts=True)
    return {
        "samples": len(exposures_N),
        "mean": float(exposures_N.mean()),
        "most": int(exposures_N.max()),
        "never": int((exposures_N == 0).sum()),
        "words": int(exposures_N @ store.words_N.astype(np.int64)),
        "samples_by_exposures": {int(count): int(number) for count, number in zip(times, samples, strict=True)},
    }


def _checkpoints(trial: Path, limits: Track) -> dict[str, list[str]]:
    """The challenge's checkpoints of which the trial has kept a model, and the others."""
    there = [name for name in limits.revisions if _kept(trial, name)]
    return {"kept": there, "missing": [name for name in limits.revisions if name not in there]}
