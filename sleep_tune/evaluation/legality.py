"""Whether a trial kept to the challenge's budget: words of data, words seen with repeats, and the text its tokenizer was trained on.

Words are whitespace words of the cleaned text that was trained on; those of the raw text stand beside them. What cannot be told any more
is null, never taken for granted.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.config import Config, load_config
from sleep_tune.data.token_store import Prepared, find_prepared, open_store
from sleep_tune.errors import UserError
from sleep_tune.evaluation.challenge import MILLION, Track
from sleep_tune.presets import read_yaml


def is_trial(directory: Path) -> bool:
    """Whether a trial was written there."""
    return (directory / "config.yaml").is_file() and (directory / "steps.jsonl").is_file()


def legality(trial: Path, track: str, limits: Track) -> dict[str, Any]:
    """What the run used of its budget and the verdicts; `legal` is null where one cannot be told. Raises UserError for a damaged trial."""
    config = load_config(read_yaml((trial / "config.yaml").read_text(), str(trial / "config.yaml")))
    prepared, why_not = _prepared(config)
    seen, finished = _words_seen(trial)
    data: dict[str, Any] = {"limit": limits.data_words, "words": None, "raw_words": None}
    if prepared is not None:
        data |= {"words": prepared.train_words, "raw_words": sum(part.raw_words for part in prepared.report if part.split == "train")}
        data["limited_to"] = config.data.words
    verdicts = {
        "words_of_data": None if prepared is None else prepared.train_words <= limits.data_words,
        "words_seen": seen <= limits.seen_words if finished else None,
    }
    return {
        "trial": str(trial),
        "track": track,
        "legal": False if False in verdicts.values() else None if None in verdicts.values() else True,
        "verdicts": verdicts,
        "words_of_data": data,
        "words_seen": {"limit": limits.seen_words, "words": seen, "finished": finished},
        "exposures": _exposures(trial, prepared),
        # it is trained on the very words that are trained on, after cleaning and the limit
        "tokenizer_text": {"words": data["words"], "beside_the_data": 0, "vocabulary": config.tokenizer.vocab_size},
        "dev_text": "read for dev_loss alone, never trained on",
        "checkpoints": _checkpoints(trial, limits),
        "unknown": [why_not] if why_not else [],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The verdicts as people read them."""
    said = {True: "within", False: "OVER", None: "cannot be told to be within"}
    table = []
    for name, what in (("words_of_data", "words of data"), ("words_seen", "words seen, repeats counted")):
        words, verdict = found[name]["words"], found["verdicts"][name]
        table.append(
            f"{what}: {'unknown' if words is None else f'{words:,}'}, {said[verdict]} the {found[name]['limit']:,} of {found['track']}"
        )
    exposures = found["exposures"]
    if exposures:
        table.append(
            f"exposures: {exposures['mean']:.2f} a sample on average, {exposures['most']} at most, {exposures['never']:,} samples never"
        )
    table.append("tokenizer: trained on the words of data, no other text")
    return table + list(found["unknown"])


def _prepared(config: Config) -> tuple[Prepared | None, str]:
    from sleep_tune.study.material import recipe

    try:
        prepared = find_prepared(**recipe(config))
    except UserError as error:
        return None, f"the words of data are unknown: {error}"
    return prepared, "" if prepared is not None else "the words of data are unknown: the prepared text is no longer in the cache"


def _words_seen(trial: Path) -> tuple[int, bool]:
    """Words seen, and whether the run is over. Raises UserError where the records are damaged."""
    final = trial / "final.json"
    path = final if final.exists() else trial / "steps.jsonl"
    try:
        if final.exists():
            return int(json.loads(final.read_text())["words_seen"]), True
        steps = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return (int(json.loads(steps[-1])["words_seen"]) if steps else 0), False
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; the words seen cannot be read") from None


def _exposures(trial: Path, prepared: Prepared | None) -> dict[str, Any] | None:
    """How often samples were trained on; None for a trial that is not over, or whose text is gone."""
    path = trial / "exposures.npy"
    if not path.exists() or prepared is None:
        return None
    exposures_N, words_N = np.load(path), open_store(prepared.directory).words_N
    if exposures_N.shape != words_N.shape:
        raise UserError(f"{path}: of {len(exposures_N):,} samples, the text has {len(words_N):,}: damaged, or another text")
    times, samples = np.unique(exposures_N, return_counts=True)
    return {
        "samples": len(exposures_N),
        "mean": float(exposures_N.mean()),
        "most": int(exposures_N.max()),
        "never": int((exposures_N == 0).sum()),
        "words": int(exposures_N.astype(np.int64) @ words_N.astype(np.int64)),
        "samples_by_exposures": {int(count): int(number) for count, number in zip(times, samples, strict=True)},
    }


def _checkpoints(trial: Path, limits: Track) -> dict[str, list[str]]:
    """The challenge's checkpoints of which the trial has kept a model, and the others."""
    words = {f"chck_{million}M": million * MILLION for million in limits.millions}
    there = [name for name, count in words.items() if (trial / "milestones" / f"words_{count}").is_dir()]
    return {"kept": there, "missing": [name for name in words if name not in there]}
