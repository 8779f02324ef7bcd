"""`python -m sleep_tune.evaluation.submission TRIAL_OR_RESULTS --out FILE`: the file that is uploaded to the BabyLM challenge, checked.

It holds what the official collation puts into it: the predictions of the final model on the full sets, the surprisals of all checkpoints
for aoa, and the scores of every checkpoint on the fast sets, computed here from its predictions. Nothing that is missing or wrong gets in:
it is named, a line each, and stands as null (2026) or not at all (2025, whose own collation refuses it). Beside it
FILE.legality.json says whether the run kept to the challenge's budget. Approximate and non-official scorings are never taken.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sleep_tune.errors import OneLineParser, UserError, nearest, run_main
from sleep_tune.evaluation.challenge import EDITIONS, GLUE, TRACKS, Edition, File, wrong_predictions, wrong_surprisals
from sleep_tune.evaluation.fast_scores import fast_score, gold
from sleep_tune.evaluation.legality import is_trial, legality, lines
from sleep_tune.evaluation.margins import find_items, read_items
from sleep_tune.evaluation.plan import BACKENDS
from sleep_tune.evaluation.tasks import TaskItems
from sleep_tune.files import writable_directory, write_json, write_text

_PREDICTIONS = "predictions.json"
_UNKNOWN = "legality: unknown: the results are of no trial that is named (--trial)"


@dataclass(frozen=True)
class Results:
    """Where the results of one model are: `root` holds MODEL/REVISION/zero_shot/BACKEND and MODEL/REVISION/finetune."""

    root: Path
    model: str
    backend: str

    def zero_shot(self, revision: str) -> Path:
        """Of the model, or where it has no such revision, of the one other model there that has."""
        own = self.root / self.model / revision
        others = [path for path in self.root.glob(f"*/{revision}") if path.is_dir()]
        return (own if own.is_dir() or len(others) != 1 else others[0]) / "zero_shot" / self.backend

    @property
    def finetune(self) -> Path:
        """Of the final model."""
        return self.root / self.model / "main" / "finetune"


@dataclass
class Collation:
    """The file's content so far, from results below `root`, and what is missing from it or wrong, a line each."""

    root: Path
    content: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Collate, check, write; 1 where the submission is not complete or not legal."""
    options = _parse(arguments)
    for name, value, allowed in (("--edition", options.edition, EDITIONS), ("--track", options.track, TRACKS)):
        if value not in allowed:
            raise UserError(f"{name} = {value}: unknown{nearest(value, allowed)}")
    directory, out = Path(options.directory), Path(options.out)
    results, notes = find_results(directory, options.model, options.backend)
    trial = _trial(directory, options.trial)
    if out.is_dir():
        raise UserError(f"--out = {out}: a directory; must be a file, such as submission.json")
    writable_directory(str(out.parent), "--out")
    collation = collate(results, EDITIONS[options.edition], TRACKS[options.track].revisions, _gold(options, trial))
    if not any(collation.content.values()):
        raise UserError(f"{directory}: nothing there that belongs into a submission of {options.edition}: {collation.problems[0]}")
    budget = legality(trial, options.track, TRACKS[options.track]) if trial else None
    notes += _undecided(directory)
    write_text(out, json.dumps(collation.content))
    beside = out.with_name(f"{out.name}.legality.json")
    about = {"edition": options.edition, "track": options.track, "model": results.model, "backend": results.backend}
    about |= {"complete": not collation.problems, "problems": collation.problems, "notes": notes}
    write_json(beside, about | {"legality": budget or {"legal": None, "unknown": [_UNKNOWN]}})
    for line in [*collation.problems, *(f"note: {note}" for note in notes), *(lines(budget) if budget else [_UNKNOWN])]:
        print(line)
    return _say(options, len(collation.problems), budget["legal"] if budget else None)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation.submission", description=__doc__)
    parser.add_argument("directory", metavar="TRIAL_OR_RESULTS", help="a trial, an evaluation's --out, or a directory results/")
    parser.add_argument("--out", required=True, help="the file to write; FILE.legality.json goes beside it")
    parser.add_argument("--edition", default="2025", help=f"{', '.join(EDITIONS)}: whose collation (default: 2025)")
    parser.add_argument("--track", default="strict-small", help=f"{', '.join(TRACKS)} (default: strict-small)")
    parser.add_argument("--data", help="evaluation_data, to score the checkpoints' fast predictions by (default: the trial's own)")
    parser.add_argument("--trial", help="the trial that trained the model, for its legality (default: the directory, if it is one)")
    parser.add_argument("--model", help="which model's results, where there are several")
    parser.add_argument("--backend", help=f"{', '.join(BACKENDS)}: which backend's results, where there are several")
    return parser.parse_args(arguments)


def find_results(directory: Path, model: str | None, backend: str | None) -> tuple[Results, list[str]]:
    """The results in a directory, and notes on what was passed over. Raises UserError where there are none, or several to choose from."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory")
    places = [directory / "results", directory / "evaluation" / "results", *([directory] if directory.name == "results" else [])]
    root = next((place for place in places if place.is_dir()), None)
    if root is None:
        raise UserError(f"{directory}: holds no results of an evaluation: must have results/ or evaluation/results/")
    models = sorted(path.parent.name for path in root.glob("*/main") if path.is_dir())
    name = _one("--model", model, models, f"{root}: no results of a final model (MODEL/main)")
    scored = sorted(path.name for path in (root / name / "main" / "zero_shot").glob("*") if path.is_dir())
    official, other = [kind for kind in scored if kind in BACKENDS], [kind for kind in scored if kind not in BACKENDS]
    if other and not official:
        raise UserError(f"{root / name}: only {', '.join(other)}: approximate and non-official scorings are never submitted")
    chosen = _one("--backend", backend, official, f"{root / name}/main: no zero-shot results")
    return Results(root, name, chosen), [f"{kind}: approximate or not official, passed over" for kind in other]


def _one(option: str, asked: str | None, there: list[str], nothing: str) -> str:
    if not there:
        raise UserError(nothing)
    if asked is not None and asked not in there:
        raise UserError(f"{option} = {asked}: no results{nearest(asked, there)}")
    if asked is None and len(there) > 1:
        raise UserError(f"{option}: must be given, there are results of {', '.join(there)}")
    return asked or there[0]


def _trial(directory: Path, given: str | None) -> Path | None:
    trial = Path(given) if given is not None else directory
    if given is not None and not is_trial(trial):
        raise UserError(f"--trial = {given}: no trial there (config.yaml and steps.jsonl)")
    return trial if is_trial(trial) else None


def _gold(options: argparse.Namespace, trial: Path | None) -> Callable[[File], TaskItems | None]:
    """The fast items of a file's task, where there is data for it."""
    data = options.data
    if data is None and trial is not None:
        from sleep_tune.config import load_config
        from sleep_tune.presets import read_yaml

        data = load_config(read_yaml((trial / "config.yaml").read_text(), str(trial / "config.yaml"))).evaluation.data
    if data is None:
        return lambda file: None
    if not Path(data).exists():
        raise UserError(f"--data = {data}: no such file or directory")
    return gold(Path(data), options.edition)


def collate(results: Results, edition: Edition, revisions: Sequence[str], items_of: Callable[[File], TaskItems | None]) -> Collation:
    """All of a submission that is there, in the official order of keys."""
    made = Collation(results.root)
    main_place = results.zero_shot("main")
    for file in edition.files:
        _put(made, edition, file.key, _full(made, file, main_place))
    for key, name in zip(edition.aoa, ("surprisal.json", "aoa_score.json"), strict=True):
        if key:
            _put(made, edition, key, _aoa(made, key, main_place / "AoA_word" / name, tuple(revisions)))
    tuned: dict[str, Any] = {}
    for file in GLUE:
        path = results.finetune / file.full / _PREDICTIONS
        tuned |= _read_checked(made, f"glue {file.key}", path, partial(wrong_predictions, file, file.sizes)) or {}
    made.content["glue"] = tuned
    scores = {file.key: _fast(made, file, results, revisions, items_of) for file in edition.files if file.fast}
    if any(row is not None for rows in scores.values() for row in rows):
        made.content["fast_eval_results"] = scores
    return made


def _put(made: Collation, edition: Edition, key: str, content: Any) -> None:
    if content is not None or edition.null:
        made.content[key] = content


def _full(made: Collation, file: File, place: Path) -> Any:
    path = place / file.full / _PREDICTIONS
    hint = " (only the fast set is there)" if not path.exists() and file.fast and (place / file.fast / _PREDICTIONS).exists() else ""
    return _read_checked(made, file.task, path, partial(wrong_predictions, file, file.sizes), hint)


def _aoa(made: Collation, key: str, path: Path, revisions: tuple[str, ...]) -> Any:
    def wrong(content: Any) -> list[str]:
        if path.name == "surprisal.json":
            return wrong_surprisals(content, revisions)
        number = content.get("aoa") if isinstance(content, dict) else None
        return [] if isinstance(number, int | float) else ['not of the form {"aoa": number}']

    return _read_checked(made, f"aoa {path.name}", path, wrong)


def _read_checked(made: Collation, name: str, path: Path, wrong: Callable[[Any], list[str]], hint: str = "") -> Any:
    """The content of a file that is as it must be; else None, and a problem."""
    content, line = _read(path)
    found = [line] if line else wrong(content)
    if line is None and content is None:
        made.problems.append(f"{name}: missing{hint}: {path.relative_to(made.root)}")
        return None
    made.problems += [f"{name}: {entry}: {path.relative_to(made.root)}" for entry in found]
    return None if found else content


def _read(path: Path) -> tuple[Any, str | None]:
    """The content of a JSON file, None where there is no file; or what is wrong with it."""
    try:
        return json.loads(path.read_text(encoding="utf-8")), None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError):
        return None, "not JSON (a truncated file?)"


def _fast(
    made: Collation, file: File, results: Results, revisions: Sequence[str], items_of: Callable[[File], TaskItems | None]
) -> list[Mapping[str, float] | None]:
    """Scores by UID at every checkpoint, None where there are none, with one line on all that are missing."""
    rows: list[Mapping[str, float] | None] = []
    missing, items = [], None
    for revision in revisions:
        content, line = _read(results.zero_shot(revision) / file.fast / _PREDICTIONS)
        found = [line] if line else wrong_predictions(file, file.fast_sizes, content) if content is not None else []
        made.problems += [f"{file.task} of {revision}: {entry}" for entry in found]
        missing += [revision] if content is None and not line else []
        usable = content is not None and not found
        items = items or (items_of(file) if usable else None)
        rows.append(fast_score(file, content, items) if usable and items else None)
    if missing:
        which = f"{revisions[0]} … {revisions[-1]}" if len(missing) == len(revisions) else ", ".join(missing)
        made.problems.append(f"{file.task} of checkpoints: missing for {len(missing)} of {len(revisions)}: {which}")
    if items is None and len(missing) < len(revisions):
        made.problems.append(f"{file.task} of checkpoints: no fast data to score the predictions by (--data)")
    return rows


def _undecided(directory: Path) -> list[str]:
    """Ties and NaNs in the final model's items, which a predictions file cannot show."""
    try:
        items = read_items(find_items(str(directory), "results"))
    except UserError:
        return []
    notes = []
    for task in dict.fromkeys(items.task):
        of = items.task == task
        counts = {"ties": int(items.tie[of].sum()), "NaN": int(items.nan[of].sum())}
        if any(counts.values()):
            notes.append(f"{task}: {' and '.join(f'{name}: {count:,}' for name, count in counts.items())} among {int(of.sum()):,} items")
    return notes


def _say(options: argparse.Namespace, problems: int, legal: bool | None) -> int:
    """The last line, and the exit code."""
    state = "complete" if not problems else f"NOT complete: {problems} problem{'s' * (problems > 1)}"
    verdict = {True: "legal", False: "NOT legal", None: "not known to be legal"}[legal]
    print(f"written: {options.out} ({options.edition}, {options.track}) and {options.out}.legality.json: {state}; {verdict}")
    return 0 if legal and not problems else 1


if __name__ == "__main__":
    run_main(main)
