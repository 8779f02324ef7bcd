"""Finds the results of one model and collates them as the official pipelines do, each file checked first.

Results lie at MODEL/REVISION/zero_shot/BACKEND and MODEL/REVISION/finetune below `results`. What is missing or wrong does not get into
the content: it is named, a line each. Approximate and non-official scorings are never taken.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sleep_tune.errors import UserError, nearest
from sleep_tune.evaluation.challenge import EDITIONS, GLUE, Edition, File, names_of, revision_of
from sleep_tune.evaluation.fast_scores import fast_score
from sleep_tune.evaluation.plan import BACKENDS
from sleep_tune.evaluation.prediction_checks import NO_NUMBER, step_of, wrong_predictions, wrong_score, wrong_surprisals
from sleep_tune.evaluation.questions import Questions
from sleep_tune.evaluation.result_records import PREDICTIONS, Record, models_in, read_record
from sleep_tune.evaluation.strict_json import BadJson, is_number, parse
from sleep_tune.evaluation.tasks import TASKS


@dataclass(frozen=True)
class Results:
    """Where the results of one model are. `alone`: no other model's lie below `root`, so checkpoints under names of their own are its."""

    root: Path
    model: str
    backend: str
    alone: bool = True

    def directories(self, revision: str) -> Iterator[Path]:
        """Where the results of a revision may be: as the model's revision, or as a model that is named by the checkpoint."""
        for name in names_of(revision):
            yield self.root / self.model / name
        if self.alone and revision != "main":
            yield from (self.root / model / name for model in names_of(revision) for name in ("main", *names_of(revision)))

    def place(self, revision: str, below: str) -> Path:
        """The directory of a revision's results that has a file in it, of those the first; where none has, where it is looked for first."""
        places = [directory / below for directory in self.directories(revision)]
        return next((place for place in places if place.is_dir() and any(place.glob("*.json"))), places[0])

    def zero_shot(self, revision: str, below: str) -> Path:
        """Of a dataset."""
        return self.place(revision, f"zero_shot/{self.backend}/{below}")

    def models(self, revision: str) -> dict[str, tuple[Path, str | None]]:
        """The models that the records of a revision's results know of: by digest, a directory of results and where the model was."""
        found: dict[str, tuple[Path, str | None]] = {}
        for directory in self.directories(revision):
            with suppress(UserError):  # a damaged record: named where its results are read
                found |= models_in(directory)
        return found


@dataclass
class Collation:
    """The content so far, what is missing or wrong and what else is to be known, a line each; tasks to be scored by revision."""

    results: Results
    edition: str
    questions: Questions
    content: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    unchecked: dict[str, list[str]] = field(default_factory=dict)  # why answers are not compared with the questions -> tasks
    absent: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # checkpoints without predictions -> tasks
    unscored: dict[str, list[str]] = field(default_factory=dict)  # why checkpoints' predictions are not scored -> tasks
    rules: dict[str, list[str]] = field(default_factory=dict)  # whose rules the final model's results are made under -> tasks
    foreign: Mapping[str, str] = field(default_factory=dict)  # revisions whose results are not of one model, the right one, and why

    def lack(self, revision: str, task: str) -> None:
        """The task is to be scored, or scored again."""
        of = self.missing.setdefault(revision, [])
        of += [task] if task not in of else []

    def shown(self, path: Path) -> str:
        """A path as lines show it."""
        return str(path.relative_to(self.results.root))


def find_results(directory: Path, model: str | None, backend: str | None) -> tuple[Results, list[str]]:
    """The results in a directory, and notes on what was passed over. Raises UserError where there are none, or several to choose from."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory")
    places = [directory / "results", directory / "evaluation" / "results", directory]
    root = next((place for place in places if any(place.glob("*/*/zero_shot")) or any(place.glob("*/*/finetune"))), None)
    if root is None:
        raise UserError(f"{directory}: holds no results of an evaluation: must have results/ or evaluation/results/ with MODEL/main in it")
    there = sorted(path.parent.name for path in root.glob("*/main") if path.is_dir())
    models = [name for name in there if not revision_of(name)] or there
    name = _one("--model", model, models, f"{root}: no results of a final model (MODEL/main)")
    scored = sorted(path.name for path in (root / name / "main" / "zero_shot").glob("*") if path.is_dir())
    official, other = [kind for kind in scored if kind in BACKENDS], [kind for kind in scored if kind not in BACKENDS]
    if other and not official:
        raise UserError(f"{root / name}: only {', '.join(other)}: approximate and non-official scorings are never submitted")
    chosen = _one("--backend", backend, official, f"{root / name}/main: no zero-shot results")
    notes = [f"{kind}: approximate or not official, passed over" for kind in other]
    others = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name != name)
    strangers = [name for name in others if not revision_of(name)]
    if strangers:
        whose = f" (of {name} are its own revisions alone, {name}/chck_1M and so on)"
        notes.append(f"{', '.join(others)}: other models' results or of which model cannot be told, passed over{whose}")
    return Results(root, name, chosen, not strangers), notes


def _one(option: str, asked: str | None, there: list[str], nothing: str) -> str:
    if not there:
        raise UserError(nothing)
    if asked is not None and asked not in there:
        raise UserError(f"{option} = {asked}: no results{nearest(asked, there)}")
    if asked is None and len(there) > 1:
        raise UserError(f"{option}: must be given, there are results of {', '.join(there)}")
    return asked or there[0]


def collate(
    results: Results, edition_name: str, revisions: Sequence[str], questions: Questions, foreign: Mapping[str, str] | None = None
) -> Collation:
    """All of a submission that is there, in the official order of keys. Of revisions in `foreign` (with what is wrong with their models)
    nothing is taken, nor of those whose results are of several models."""
    edition = EDITIONS[edition_name]
    made = Collation(results, edition_name, questions, foreign={**_mixed(results, revisions), **(foreign or {})})
    made.problems += dict.fromkeys(made.foreign.values())
    for file in edition.files:
        _put(made, edition, file.key, _full(made, file))
    for key, name in zip(edition.aoa, ("surprisal.json", "aoa_score.json"), strict=True):
        if key:
            _put(made, edition, key, _aoa(made, name, tuple(revisions)))
    made.content["glue"] = {}
    for file in GLUE:
        made.content["glue"] |= _tuned(made, file) or {}
    scores = {file.key: _fast(made, file, revisions) for file in edition.files if file.fast}
    if any(row is not None for rows in scores.values() for row in rows):
        made.content["fast_eval_results"] = scores
    for names, tasks in made.absent.items():
        which = f"{names[0]} … {names[-1]}" if len(names) == len(revisions) else ", ".join(names)
        made.problems.append(f"{', '.join(tasks)} of checkpoints: missing for {len(names)} of {len(revisions)}: {which}")
    made.problems += [f"{', '.join(tasks)} of checkpoints: not scored: {why_not}" for why_not, tasks in made.unscored.items()]
    lines = (f"{', '.join(tasks)}: answers not compared with the questions: {why_not}" for why_not, tasks in made.unchecked.items())
    made.notes += lines
    if len(made.rules) > 1:  # no file tells how a tie was answered
        which = "; ".join(f"{rules}: {', '.join(tasks)}" for rules, tasks in made.rules.items())
        made.notes.append(f"not all under the same rules: {which}")
    return made


def _put(made: Collation, edition: Edition, key: str, content: Any) -> None:
    if content is not None or edition.null:
        made.content[key] = content


def _full(made: Collation, file: File) -> Any:
    place = made.results.zero_shot("main", file.full)
    fast = made.results.zero_shot("main", file.fast) / PREDICTIONS
    hint = " (only the fast set is there)" if file.fast and not (place / PREDICTIONS).exists() and fast.exists() else ""

    def wrong(content: Any) -> list[str]:
        gold, why_not = made.questions.gold(file, fast=False)
        if gold is None and file.pred == "text":
            made.unchecked.setdefault(why_not, []).append(file.task)
        return wrong_predictions(file, file.sizes, content, gold)

    return _checked(made, file.task, file.task, place / PREDICTIONS, wrong, hint)


def _aoa(made: Collation, name: str, revisions: tuple[str, ...]) -> Any:
    def wrong(content: Any) -> list[str]:
        if name != "surprisal.json":
            return wrong_score(content)
        contexts, why_not = made.questions.contexts()
        if contexts is None:
            made.unchecked.setdefault(why_not, []).append("aoa")
        return wrong_surprisals(content, revisions, contexts)

    content = _checked(made, f"aoa {name}", "aoa", made.results.zero_shot("main", "AoA_word") / name, wrong)
    if content is None or name != "surprisal.json":
        return content
    return content | {"results": [entry | {"step": step_of(entry)} for entry in content["results"]]}


def _tuned(made: Collation, file: File) -> Any:
    place = made.results.place("main", f"finetune/{file.full}")
    pilot = made.results.root.parent / "glue" / file.full
    unofficial = not (place / PREDICTIONS).exists() and pilot.is_dir()
    hint = " (fine-tuned, but on a part of the rows or not to the official settings: no official files)" if unofficial else ""
    return _checked(made, f"glue {file.key}", file.key, place / PREDICTIONS, partial(wrong_predictions, file, file.sizes), hint)


def _checked(made: Collation, name: str, task: str, path: Path, wrong: Callable[[Any], list[str]], hint: str = "") -> Any:
    """The content of a file of the final model that is as it must be; else None, and problems."""
    if "main" in made.foreign:
        return None
    content, found = read_file(path)
    found = found or _wrong_record(made, name, path.parent)
    if not found and content is None:
        found = [f"missing{hint}"]
    elif not found:
        found = wrong(content)
    made.problems += [f"{name}: {line}: {made.shown(path)}" for line in found]
    if found and not all(line.startswith(NO_NUMBER) for line in found):  # which the same command would write again
        made.lack("main", task)
    return None if found else content


def _wrong_record(made: Collation, name: str, place: Path) -> list[str]:
    """What the record beside a result has against it. What else it has to tell of the final model goes into the notes."""
    try:
        record = read_record(place)
    except UserError as error:
        return [str(error).removeprefix(f"{place}/")]
    if record is None:
        return []
    if name in TASKS:
        made.rules.setdefault(record.rules, []).append(name)
    wrong = [f"not official: {reason}" for reason in record.unofficial]
    if record.edition not in ("", made.edition):
        wrong.append(f"made under rules {record.rules}, which have the questions of {record.edition}, not of {made.edition}")
    if record.nans and record.rules == "2025" and "zero_shot" in place.parts:
        wrong.append(f"the model has no score (NaN) for {record.nans:,} of {record.items:,} items, which rules 2025 count as right")
    elif not wrong and name in TASKS:
        made.notes += _undecided(name, record)
    return wrong


def _undecided(name: str, record: Record) -> list[str]:
    """Ties and NaNs, which a file of predictions cannot show."""
    fate = {"honest": ("an answer is drawn", "answered wrong"), "2026": ("an answer is drawn", "the lowest score")}
    tie, nan = fate.get(record.rules, ("the right answer is taken", "counted as right"))
    counts = [f"ties: {record.ties:,}, {tie}"] * (record.ties > 0) + [f"NaN: {record.nans:,}, {nan}"] * (record.nans > 0)
    return [f"{name}: {'; '.join(counts)} (of {record.items:,} items)"] if counts else []


def _fast(made: Collation, file: File, revisions: Sequence[str]) -> list[Mapping[str, float] | None]:
    """Scores by UID at every checkpoint, None where there are none, with one line on all that are missing."""
    rows: list[Mapping[str, float] | None] = []
    missing: list[str] = []
    wrong: dict[str, list[str]] = {}
    unread: dict[str, None] = {}
    for revision in revisions:
        if revision in made.foreign:
            rows.append(None)
            continue
        path = made.results.zero_shot(revision, file.fast) / PREDICTIONS
        content, found = read_file(path)
        found = found or _wrong_record(made, f"{file.task} of {revision}", path.parent)
        gold, why_not = made.questions.gold(file, fast=True) if content is not None and not found else (None, "")
        if content is not None and not found:
            found = wrong_predictions(file, file.fast_sizes, content, gold)
            unread |= {why_not: None} if gold is None else {}
        usable = content is not None and not found and gold is not None
        row = _scored(made, file, content) if usable else None
        if row is not None and not all(map(is_number, row.values())):
            row, found = None, ["no score can be told from its predictions"]
        rows.append(row)
        for line in found:
            wrong.setdefault(line, []).append(revision)
        missing += [revision] if content is None and not found else []
        if row is None and (found or content is None):
            made.lack(revision, file.task)
    for line, names in wrong.items():  # one that all share is told once
        path = made.results.zero_shot(names[0], file.fast) / PREDICTIONS
        which = names[0] if len(names) == 1 else f"{len(names)} of {len(revisions)} checkpoints"
        made.problems.append(f"{file.task} of {which}: {line}: {made.shown(path)}{' and so on' * (len(names) > 1)}")
    if missing:
        made.absent.setdefault(tuple(missing), []).append(file.task)
    for why_not in unread:
        made.unscored.setdefault(why_not, []).append(file.task)
    return rows


def _scored(made: Collation, file: File, content: Any) -> Mapping[str, float]:
    items = made.questions.items(file, fast=True)[0]
    assert items is not None  # there is gold
    return fast_score(file, content, items)


def _mixed(results: Results, revisions: Sequence[str]) -> dict[str, str]:
    """Revisions whose results the records beside them know to be of several models, or of another checkpoint's, with a line on each."""
    lines: dict[str, str] = {}
    of_model: dict[str, str] = {}
    for revision in ("main", *revisions):
        models = results.models(revision)
        if len(models) > 1:
            places = ", ".join(str(place.relative_to(results.root)) for place, _ in models.values())
            lines[revision] = f"{revision}: results of {len(models)} models: {places}: score one of them again with another --out"
        for model in models if revision != "main" else ():
            other = of_model.setdefault(model, revision)
            if other != revision:
                line = f"{other} and {revision}: results of the very same model: one is not that checkpoint"
                lines |= {name: line for name in (other, revision) if name not in lines}
    return lines


def read_file(path: Path) -> tuple[Any, list[str]]:
    """The content of a JSON file, None where there is no file; and what is wrong with it."""
    try:
        if not path.exists():
            return None, []
        content = parse(path.read_bytes())
        return content, [] if content is not None else ["holds null, and nothing else"]
    except BadJson as error:
        return None, [str(error)]
    except OSError as error:
        return None, [f"cannot be read ({error.strerror})"]
