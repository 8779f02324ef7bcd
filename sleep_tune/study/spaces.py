"""Study files: those shipped in `search_spaces/`, those of users, and the `study.yaml` that a study keeps of itself."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sleep_tune.errors import UserError, nearest
from sleep_tune.files import write_text
from sleep_tune.presets import preset, read_yaml, write_yaml
from sleep_tune.study.catalogue import about, shipped
from sleep_tune.study.rules import check_always
from sleep_tune.study.spec import Study, StudySpec, load_spec

STUDY_FILE = "study.yaml"
_SUFFIXES = (".yaml", ".yml")
_MOST_VALUES = 20_000
_LARGEST = 1 << 20  # bytes; no study file is that long


def read_space(name: str) -> tuple[str, str, StudySpec]:
    """(name, about, spec) of a space: a shipped name, or the path of a YAML file. Raises UserError."""
    path = Path(name)
    if name in shipped():
        text, stem = shipped()[name], name
    elif path.suffix in _SUFFIXES or "/" in name:
        text, stem = _text(path, "--space"), re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "study"
    else:
        raise UserError(f"unknown space {name}{nearest(name, shipped())}; or a path that ends in .yaml")
    return stem, about(text), _spec(text, name)


def read_study(directory: Path) -> Study:
    """The study that `directory` holds. Raises UserError."""
    try:
        if not directory.exists():
            raise UserError(f"study {directory}: does not exist{_studies_beside(directory)}")
        if not directory.is_dir():
            raise UserError(f"study {directory}: is a file, must be a directory such as runs/grid")
        if not (directory / STUDY_FILE).is_file():
            raise UserError(f"study {directory}: holds no {STUDY_FILE}, so nothing to resume{_studies_beside(directory)}")
    except OSError as error:
        raise UserError(f"study {directory}: cannot be read ({error.strerror})") from None
    text = _text(directory / STUDY_FILE, "study")
    return Study(directory.resolve().name, about(text), _spec(text, str(directory / STUDY_FILE)))


def save_study(study: Study, directory: Path) -> None:
    """Publish the study in `directory`, resolved, so that it can be resumed from there alone."""
    write_text(directory / STUDY_FILE, (f"# {study.about}\n" if study.about else "") + write_yaml(study.spec.plain()))


def _studies_beside(directory: Path) -> str:
    parent = directory.absolute().parent
    names = [path.parent.name for path in parent.glob(f"*/{STUDY_FILE}")] if parent.is_dir() else []
    return nearest(directory.name, names).replace(" (allowed: ", " (studies there: ") if names else ""


def _text(path: Path, what: str) -> str:
    try:
        if path.is_dir():
            raise UserError(f"{what} {path}: is a directory, must be a YAML file")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UserError(f"{what} {path}: is no study file (over 1 MiB)")
        return content.decode("utf-8")
    except FileNotFoundError:
        near = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(f"{what} {path}: does not exist{nearest(path.name, near) if near else ''}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path}: is not UTF-8 text at byte {error.start}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _spec(text: str, name: str) -> StudySpec:
    raw = read_yaml(text, name)
    if not isinstance(raw, dict) or not raw:
        raise UserError(f"{name}: must be a mapping of {', '.join(StudySpec.model_fields)}, not {_kind(raw)}")
    _check_plain(raw, name)
    try:
        spec = load_spec(raw)
        for named in spec.base:
            preset(named)
        check_always(spec.always)
        return spec
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _kind(raw: Any) -> str:
    if raw is None or raw == {}:
        return "nothing"
    return "a list" if isinstance(raw, list) else f"the value {raw}"


def _check_plain(raw: Any, name: str) -> None:
    """YAML knows more than a study can hold: keys that are no text (1:, on:), dates, sets, values that contain themselves."""
    waiting: list[tuple[str, Any]] = [("", raw)]
    seen = 0
    while waiting:
        at, value = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise UserError(f"{name}: holds more than {_MOST_VALUES:,} values, or one that holds itself")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise UserError(f"{name}: key {at}{key}: must be text, not {type(key).__name__}")
            waiting += [(f"{at}{key}."[:200], item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(at, item) for item in value]
        elif not isinstance(value, str | int | float | None):
            raise UserError(f"{name}: {at.rstrip('.')} = {value}: must be text, a number, true, false, null, a list or a mapping")
