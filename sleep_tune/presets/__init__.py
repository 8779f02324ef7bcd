"""Presets as files beside this one, and how they, study rows and `--set` merge into one nested dict.

A profile says how big (data, model, budget), a schedule how to read (sleep or epochs). A schedule replaces the one before it whole.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from sleep_tune.errors import UserError, nearest

# Fields that come in kinds: setting one replaces it whole, as `sleep.length.ratio=5` does with `sleep.length`.
KINDS = frozenset({"data.source", "sleep.length", "sleep.criterion", "sleep.recurrence", "sleep.rescore", "sleep.strategy", "masking.rate"})
SCHEDULES = ("sleep", "epochs")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that reads 1e-3 as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {  # on, off, yes and no stay text (YAML 1.2): `tracking.wandb: off` means the word
    first: [rule for rule in rules if rule[0] not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")]
    for first, rules in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_EXPONENT = ("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))
_Loader.add_implicit_resolver(*_EXPONENT)


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads back: text that looks like its numbers in quotes."""


_Dumper.add_implicit_resolver(*_EXPONENT)


def read_yaml(text: str, name: str) -> Any:
    """The value of YAML `text`. Raises UserError with the line of a syntax error."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{name}{f', line {mark.line + 1}' if mark else ''}: broken YAML: {problem}") from None
    except (ValueError, RecursionError) as error:  # a value that its tag does not take, such as !!int abc
        raise UserError(f"{name}: broken YAML: {error}") from None


def write_yaml(value: Any) -> str:
    """`value` as YAML text, keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140))


@cache
def presets() -> dict[str, dict[str, Any]]:
    """All presets by name: `{kind: profile | schedule, about: line, ...fields}`, profiles first, in file-name order."""
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".yaml")]
    found = {file.name.removesuffix(".yaml"): read_yaml(file.read_text(), file.name) for file in sorted(files, key=lambda file: file.name)}
    return dict(sorted(found.items(), key=lambda row: row[1]["kind"]))


def preset(name: str, kind: str | None = None) -> dict[str, Any]:
    """The preset called `name`. Raises UserError with the nearest name."""
    names = [key for key, row in presets().items() if kind in (None, row["kind"])]
    if name not in names:
        raise UserError(f"unknown {kind or 'preset'} {name}{nearest(name, names)}")
    return presets()[name]


def merge(base: Mapping[str, Any], over: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """`base` with the fields of `over`: groups merge, kinds and values are replaced, a schedule replaces the schedule."""
    merged = dict(base)
    for key, value in over.items():
        if not at and key in ("kind", "about"):
            continue
        if not at and key in SCHEDULES:
            for schedule in SCHEDULES:
                merged.pop(schedule, None)
            merged[key] = value
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and f"{at}{key}" not in KINDS:
            merged[key] = merge(merged[key], value, f"{at}{key}.")
        else:
            merged[key] = value
    return merged


def combine(names: Iterable[str]) -> dict[str, Any]:
    """The nested dict of one profile and one schedule preset, in any order; `default` where no schedule is named.

    Raises UserError for an unknown name, two of a kind, or no profile.
    """
    rows = [(name, preset(name)) for name in names]
    for kind in ("profile", "schedule"):
        same = [name for name, row in rows if row["kind"] == kind]
        if len(same) > 1:
            raise UserError(f"presets {same[0]} and {same[1]} are both {kind}s: name one")
    chosen = {row["kind"]: row for _, row in rows}
    if "profile" not in chosen:
        profiles = [name for name, row in presets().items() if row["kind"] == "profile"]
        raise UserError(f"preset {rows[0][0] if rows else ''}: a profile is needed beside it (one of {', '.join(profiles)})")
    return merge(merge({}, chosen["profile"]), chosen.get("schedule", presets()["default"]))


def parse_set(text: str) -> tuple[str, Any]:
    """`field=value` of the command line, the value read as YAML. Raises UserError."""
    field, equals, value = text.partition("=")
    if not equals or not field.strip():
        raise UserError(f"--set {text}: must be field=value, such as sleep.replay_ratio=0.4")
    if field.strip() == "epochs.matched_to" and value.strip():
        return "epochs.matched_to", value.strip()  # a name, though 12345678e901 would be a number
    return field.strip(), read_yaml(value, f"--set {field}") if value.strip() else None


def set_field(raw: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """`raw` with the dotted `field` set. A part of a kind replaces the kind; `sleep.…` leaves a run without sleep as it is."""
    parts = field.split(".")
    if field == "model.name" and (raw.get("model") or {}).get("name") != value:
        return {**raw, "model": {"name": value}}  # its own sizes, not the profile's: what is named is what runs
    if parts[0] in SCHEDULES and len(parts) > 1 and raw.get(parts[0]) is None:
        return dict(raw)
    for depth in range(1, len(parts)):
        if ".".join(parts[:depth]) in KINDS:
            for part in reversed(parts[depth:]):
                value = {part: value}
            parts = parts[:depth]
            break
    return _set(dict(raw), parts, value, field)


def _set(raw: dict[str, Any], parts: list[str], value: Any, field: str) -> dict[str, Any]:
    head, rest = parts[0], parts[1:]
    if not rest:
        return {**raw, head: value}
    below = raw.get(head)
    if below is not None and not isinstance(below, Mapping):
        raise UserError(f"unknown field {field}: {head} has no parts")
    return {**raw, head: _set(dict(below or {}), rest, value, field)}
