"""A command line as values, judged: which study, with what changes, run how, kept where. Only looks at the disk, writes nothing."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sleep_tune.errors import UserError
from sleep_tune.files import writable_directory
from sleep_tune.presets import parse_set
from sleep_tune.study.rules import Changes, change, check, root
from sleep_tune.study.spaces import read_space, read_study
from sleep_tune.study.spec import RunOptions, Study
from sleep_tune.words import parse_words

LONGEST_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What a resumed study may be given: how to run it, never what it is.
_HOW = ("evaluation_data", "cpus_per_trial", "gpus_per_trial", "concurrent", "address", "no_dashboard", "dry_run", "calibrate")
_WITH_RESUME = ("resume", *_HOW)


@dataclass(frozen=True)
class Request:
    """The options of `launch.py`, as typed; None where not given."""

    space: str | None = None
    resume: str | None = None
    profile: str | None = None
    data: str | None = None
    evaluation_data: str | None = None
    set: Sequence[str] = ()
    seeds: str | None = None
    budget: str | None = None
    name: str | None = None
    storage: str | None = None
    cpus_per_trial: str | None = None
    gpus_per_trial: str | None = None
    concurrent: str | None = None
    address: str | None = None
    no_dashboard: bool = False
    dry_run: bool = False
    calibrate: bool = False


def ask(request: Request) -> tuple[Study, Path]:
    """The study that is asked for, all of its spec checked, and the directory it is kept in. Raises UserError."""
    if request.resume is not None:
        _only_with_resume(request)
        if not request.resume.strip() or "\0" in request.resume:
            raise UserError(f"--resume = {request.resume!r}: must be a study's directory, such as runs/grid")
        directory = Path(request.resume)
        study = read_study(directory)
        name = study.name
    else:
        if request.space is None:
            raise UserError("--space NAME_OR_FILE, --resume DIR or --list: one is needed")
        stem, about, spec = read_space(request.space)
        name = _name(request, stem)
        directory = writable_directory("runs" if request.storage is None else request.storage, "--storage") / name
        study = Study(name, about, spec)
    changes = Changes(request.profile, dict(given_fields(request)), _seeds(request.seeds))
    asked = Study(name, study.about, change(study.spec, changes))
    try:
        return check(asked), directory
    except UserError as error:
        if asked.spec == study.spec:  # then it is the file that is at fault
            raise UserError(f"{request.space or directory}: {error}") from None
        raise


def run_options(request: Request) -> RunOptions:
    """How the study is to be run. Raises UserError."""
    text = request.concurrent
    if text is not None and not re.fullmatch(r"0*[1-9][0-9]{0,5}", text):
        raise UserError(f"--concurrent = {text}: must be a whole number >= 1")
    if request.address is not None and not re.fullmatch(r"auto|local|(ray://)?[\w.-]+:\d{1,5}", request.address):
        raise UserError(f"--address = {request.address}: must be auto, HOST:PORT, ray://HOST:PORT or local")
    address = None if request.address == "local" else request.address
    return RunOptions(None if text is None else int(text), address, not request.no_dashboard)


def _only_with_resume(request: Request) -> None:
    for option, value in vars(request).items():
        if option not in _WITH_RESUME and value not in (None, (), []):
            raise UserError(f"--{option} = {_shown(value)}: not with --resume, which runs the study as it is (--space extends one)")


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _name(request: Request, stem: str) -> str:
    if request.name is None:
        data = re.sub(r"[^A-Za-z0-9._-]+", "-", _data_name(request.data)).strip("-.") if request.data else ""
        return "-".join(part for part in (stem, request.profile, data) if part)[:LONGEST_NAME].rstrip("-.")
    if not _NAME.fullmatch(request.name) or len(request.name) > LONGEST_NAME:
        raise UserError(f"--name = {request.name}: must be one folder's name: letters, digits, . _ - (a letter or digit first)")
    return request.name


def _data_name(data: str) -> str:
    return data.rstrip("/").rpartition("/")[2] if data.startswith("hub:") else Path(os.path.abspath(data)).name


def given_fields(request: Request) -> Iterator[tuple[str, Any]]:
    """Dotted field -> value of every option that sets one, `--set` last. Raises UserError for one given twice."""
    taken: dict[str, str] = {}
    for option, field, value in _given(request):
        if root(field) in taken:
            raise UserError(f"{option}: {field} is given by {taken[root(field)]} too")
        taken[root(field)] = option
        yield field, value


def _given(request: Request) -> Iterator[tuple[str, str, Any]]:
    if request.budget is not None:
        yield "--budget", "budget_words", parse_words(request.budget, "--budget")
    if request.data is not None:
        yield "--data", "data.source", _source(request.data)
    if request.evaluation_data is not None:
        yield "--evaluation-data", "evaluation.data", _existing(request.evaluation_data)
    if request.cpus_per_trial is not None:
        yield "--cpus-per-trial", "resources.cpus", _number(request.cpus_per_trial, "--cpus-per-trial")
    if request.gpus_per_trial is not None:
        yield "--gpus-per-trial", "resources.gpus", _number(request.gpus_per_trial, "--gpus-per-trial")
    for text in request.set:
        field, value = parse_set(text)
        yield f"--set {text}", field, value


def _source(text: str) -> dict[str, str]:
    if text.startswith("hub:"):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text[4:]):
            raise UserError(f"--data = {text}: must be a directory or hub:OWNER/NAME")
        return {"hub": text[4:]}
    if not text.strip() or "://" in text or "\0" in text:
        raise UserError(f"--data = {text!r}: must be a directory or hub:OWNER/NAME")
    return {"directory": os.path.abspath(text)}


def _existing(text: str) -> str:
    if not text.strip() or not os.path.exists(text):
        from sleep_tune.evaluation.official_data import SOURCE

        raise UserError(f"--evaluation-data = {text}: no such file or directory; {SOURCE}")
    return os.path.abspath(text)


def _number(text: str, option: str) -> float:
    if not re.fullmatch(r"-?\d+(\.\d+)?|-?\.\d+", text):
        raise UserError(f"{option} = {text}: must be a number")
    return float(text)


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,18}", part) for part in parts):
        raise UserError(f"--seeds = {text}: must be whole numbers >= 0 with commas between, such as 1,2,3")
    seeds = tuple(int(part) for part in parts)
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"--seeds = {text}: {seed} is given twice")
    return seeds
