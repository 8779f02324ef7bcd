"""`python -m sleep_tune.evaluation.submission TRIAL_OR_RESULTS --out FILE`: the file that is uploaded to the BabyLM challenge, checked.

It holds what the official collation puts into it: the predictions of the final model on the full sets, the surprisals of all checkpoints
for aoa, and the scores of every checkpoint on the fast sets, computed here from its predictions. Nothing that is missing or wrong gets in:
it is named, a line each, and stands as null (2026) or not at all (2025, whose own collation refuses it). Beside it
FILE.legality.json says whether the run kept to the challenge's budget. Approximate and non-official scorings are never taken.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sleep_tune.errors import OneLineParser, UserError, nearest, one_line, run_main
from sleep_tune.evaluation.challenge import EDITIONS, TRACKS
from sleep_tune.evaluation.collation import collate, find_results
from sleep_tune.evaluation.legality import is_trial, legality, lines, trial_config, wrong_models
from sleep_tune.evaluation.plan import BACKENDS
from sleep_tune.evaluation.questions import Questions
from sleep_tune.evaluation.submission_to_do import Known, to_do
from sleep_tune.files import writable_directory, write_json, write_text

_UNKNOWN = "legality: unknown: the results are of no trial that is named (--trial)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Collate, check, write; 1 where the submission is not complete or not legal."""
    options = _parse(arguments)
    for name, value, allowed in (("--edition", options.edition, EDITIONS), ("--track", options.track, TRACKS)):
        if value not in allowed:
            raise UserError(f"{name} = {value}: unknown{nearest(value, allowed)}")
    try:
        return _submit(options)
    except OSError as error:  # a directory that may not be entered, a name too long, a disk that is full
        raise UserError(f"{error.filename or options.directory}: {error.strerror or one_line(error)}") from None


def _submit(options: argparse.Namespace) -> int:
    directory, out = Path(options.directory), Path(options.out)
    results, notes = find_results(directory, options.model, options.backend)
    trial = _trial(directory, options.trial)
    if out.exists() and not out.is_file():
        what = "a directory" if out.is_dir() else "a device or pipe"
        raise UserError(f"--out = {out}: {what}; must be a file, such as submission.json")
    writable_directory(str(out.parent), "--out")
    data = _data(options, trial)
    questions = Questions(data, options.edition)
    track = TRACKS[options.track]
    wrong, unknown = wrong_models(trial, results, track.revisions) if trial else ({}, [])
    made = collate(results, options.edition, track.revisions, questions, wrong)
    missing = [_plain(line) for line in to_do(made, Known(options.edition, data, trial))]
    if not any(made.content.values()):
        for line in [*map(_plain, made.problems), *missing]:
            print(line)
        why = next((line for line in made.problems if ": missing" not in line), made.problems[0])
        raise UserError(f"{directory}: nothing there that belongs into a submission of {options.edition}: {_plain(why)}")
    budget = legality(trial, options.track, track) if trial else None
    if budget and "main" in made.foreign:
        budget |= {"legal": None, "unknown": [*budget["unknown"], "the words above are of the trial, the results of another model"]}
    problems, notes = [_plain(line) for line in made.problems], [_plain(line) for line in [*notes, *made.notes, *unknown]]
    write_text(out, json.dumps(made.content))
    about = {"edition": options.edition, "track": options.track, "model": _plain(results.model), "backend": results.backend}
    about |= {"complete": not problems, "problems": problems, "notes": notes}
    write_json(out.with_name(f"{out.name}.legality.json"), about | {"legality": budget or {"legal": None, "unknown": [_UNKNOWN]}})
    for line in [*problems, *missing, *(f"note: {note}" for note in notes), *(lines(budget) if budget else [_UNKNOWN])]:
        print(line)
    return _say(options, len(problems), budget["legal"] if budget else None)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation.submission", description=__doc__)
    parser.add_argument("directory", metavar="TRIAL_OR_RESULTS", help="a trial, an evaluation's --out, or a directory results/")
    parser.add_argument("--out", required=True, help="the file to write; FILE.legality.json goes beside it")
    parser.add_argument("--edition", default="2025", help=f"{', '.join(EDITIONS)}: whose collation (default: 2025)")
    parser.add_argument("--track", default="strict-small", help=f"{', '.join(TRACKS)} (default: strict-small)")
    parser.add_argument("--data", help="evaluation_data, to check answers by and score the checkpoints' (default: the trial's own)")
    parser.add_argument("--trial", help="the trial that trained the model, for its legality (default: the directory, if it is in one)")
    parser.add_argument("--model", help="which model's results, where there are several")
    parser.add_argument("--backend", help=f"{', '.join(BACKENDS)}: which backend's results, where there are several")
    return parser.parse_args(arguments)


def _trial(directory: Path, given: str | None) -> Path | None:
    """The trial that is named, or the one that the results lie in."""
    if given is None:
        place = directory.resolve()
        return next((path for path in (directory, *place.parents[:2]) if is_trial(path)), None)
    if not is_trial(Path(given)):
        raise UserError(f"--trial = {given}: no trial there (config.yaml and steps.jsonl)")
    return Path(given)


def _data(options: argparse.Namespace, trial: Path | None) -> Path | None:
    """Where the official questions are, if anywhere."""
    data, name = options.data, "--data"
    if data is None and trial is not None:
        data, name = trial_config(trial).evaluation.data, f"evaluation.data of {trial}"
    if data is None:
        return None
    if not Path(data).exists():
        raise UserError(f"{name} = {data}: no such file or directory" + ("" if options.data else "; say by --data where it is now"))
    return Path(data)


def _plain(line: str) -> str:
    """On one line, and of characters that every terminal and file takes: names of files may hold any bytes."""
    return " ".join(line.split()).encode("utf-8", "backslashreplace").decode()


def _say(options: argparse.Namespace, problems: int, legal: bool | None) -> int:
    """The last line, and the exit code."""
    state = "complete" if not problems else f"NOT complete: {problems} problem{'s' * (problems > 1)}"
    verdict = {True: "legal", False: "NOT legal", None: "not known to be legal"}[legal]
    where = _plain(f"{options.out} ({options.edition}, {options.track}) and {options.out}.legality.json")
    print(f"written: {where}: {state}; {verdict}")
    return 0 if legal and not problems else 1


if __name__ == "__main__":
    run_main(main)
