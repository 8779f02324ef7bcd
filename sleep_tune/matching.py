"""What a matched control reads of the trial it is matched to: the files in that trial's directory, judged."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.config import WEIGHT_GROUPS, Config, load_config
from sleep_tune.errors import RunError, UserError, nearest
from sleep_tune.explain import flat
from sleep_tune.presets import SCHEDULES, read_yaml
from sleep_tune.sleep.matched import MatchedPlan

_ALIKE = ("seed", "budget_words", *(group for group in WEIGHT_GROUPS if group not in SCHEDULES))


def read_match(directory: Path, config: Config, samples: int) -> MatchedPlan:
    """The plan for a control with `config`, on a text of `samples` samples, from the finished trial in `directory`.

    Raises UserError where there is no such trial, it is not complete, does not sleep, or differs in more than its schedule; RunError
    where its records are damaged.
    """
    name = f"epochs.matched_to = {directory.name}"
    final = _final(directory, name)
    _refuse_unlike(_config(directory), config, name)
    exposures_N = _exposures(directory / "exposures.npy")
    if exposures_N.shape != (samples,):
        raise UserError(f"{name}: was trained on another text: {exposures_N.size:,} samples there, {samples:,} here")
    words_after_T = _words_after_steps(directory / "steps.jsonl")
    if not words_after_T.size or int(words_after_T[-1]) != final["words_seen"]:
        last = int(words_after_T[-1]) if words_after_T.size else 0
        raise RunError(f"{directory}/steps.jsonl: ends at {last:,} words, the trial at {final['words_seen']:,}: damaged")
    return MatchedPlan(np.flatnonzero(exposures_N).astype(np.int64), words_after_T)


def _config(directory: Path) -> Config:
    path = directory / "config.yaml"
    return load_config(read_yaml(path.read_text(), str(path)))


def _final(directory: Path, name: str) -> dict[str, Any]:
    """What the trial's end left behind. Raises UserError where it did not come to one."""
    if not (directory / "config.yaml").is_file():
        beside = [path.parent.name for path in directory.parent.glob("*/config.yaml")]
        raise UserError(f"{name}: there is no trial {directory}{nearest(directory.name, beside)}")
    if not all((directory / file).is_file() for file in ("final.json", "exposures.npy", "steps.jsonl")):
        raise UserError(f"{name}: the trial {directory} is not finished: only a complete one has a control")
    try:
        final: dict[str, Any] = json.loads((directory / "final.json").read_text())
    except ValueError as error:
        raise RunError(f"{directory}/final.json: damaged: {error}") from None
    if final.get("diverged"):
        raise UserError(f"{name}: the trial {directory} diverged: only a complete one has a control")
    return final


def _refuse_unlike(there: Config, here: Config, name: str) -> None:
    """Raises UserError unless the two differ in nothing but how they read: a control must be able to say what sleep alone does."""
    if there.sleep is None:
        raise UserError(f"{name}: does not sleep, so there is nothing to match")
    theirs, ours = flat(there), flat(here)
    for field in dict.fromkeys([*ours, *theirs]):
        if field.split(".")[0] not in _ALIKE or field == "data.source":
            continue  # the same text may lie elsewhere
        if ours.get(field) != theirs.get(field):
            raise UserError(f"{name}: {field} = {theirs.get(field)} there, {ours.get(field)} here: a control differs in its schedule alone")


def _exposures(path: Path) -> np.ndarray:
    """Exposures by sample. Raises RunError where the file is damaged."""
    try:
        return np.asarray(np.load(path))
    except (ValueError, EOFError, OSError) as error:
        raise RunError(f"{path}: damaged: {error}") from None


def _words_after_steps(path: Path) -> np.ndarray:
    """Words seen after each optimizer step (T,). Raises RunError at a line that is none, or where a step is missing or doubled."""
    words: list[int] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                step, seen = record["step"], int(record["words_seen"])
            except (ValueError, TypeError, KeyError):
                step, seen = None, 0
            if step != number:
                raise RunError(f"{path}, line {number}: damaged: must be the record of step {number}")
            words.append(seen)
    return np.array(words, np.int64)
