"""Schedules and values in words, as tables, terminal and plots show them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from sleep_tune.config import WEIGHT_GROUPS, Config, Freezing, Homeostasis, load_config
from sleep_tune.config import varied as differing

# Fields that `describe` already says; what else a study varies is appended by name.
_SAID = {"sleep", "epochs", "sleep.strategy", "sleep.folds", "sleep.length", "sleep.replay_ratio"}
_RULES: dict[str, type[BaseModel]] = {"sleep.homeostasis": Homeostasis, "sleep.freezing": Freezing}
_GROUPS = [group for group in WEIGHT_GROUPS if group not in ("data", "tokenizer")]  # in which configurations of a study may differ


def describe(config: Mapping[str, Any], varied: Iterable[str] = ()) -> str:
    """A trial's schedule in a few words: `strict, 20 folds, ratio 3, replay 10 %`, `plain epochs` or `matched control of strict`.

    config: a config as a nested dict. varied: dotted fields of the study; those the words leave out follow by name.
    """
    sleep = config.get("sleep")
    if not sleep:
        pair = field(config, "epochs.matched_to")
        words = [control_label(pair) if pair else "plain epochs"]
    else:
        folds = sleep.get("folds", 50)
        words = [
            readable(sleep.get("strategy", "weighted")),
            f"{folds} fold{'s' if folds != 1 else ''}",
            readable(sleep.get("length", {"ratio": 9})).replace(":", ""),
            f"replay {100 * sleep.get('replay_ratio', 0.2):.3g} %",
        ]
    for name in varied:
        value = field(config, name)
        if name not in _SAID and value is not None and (sleep or not name.startswith("sleep.")):
            words.append(_named(name, value))
    return ", ".join(words)


def headline(config: Config) -> str:
    """`describe` for a run of its own, with all that decides its weights and is not the rule."""
    dumped = config.model_dump(mode="json")
    usual = {"sleep.criterion": "loss", "sleep.rescore": "none", "sleep.homeostasis": None, "sleep.freezing": None, "objective": "mlm"}
    special = [name for name, value in usual.items() if field(dumped, name) != value]
    return describe(dumped, special if "objective" not in special else [*special, "model.name"])


def control_label(schedule: str) -> str:
    """What the matched control of a schedule is called."""
    return f"matched control of {schedule}"


def told_apart(
    configs: Mapping[str, Mapping[str, Any]], varied: Iterable[str] = (), controls: Mapping[str, str] | None = None
) -> dict[str, str]:
    """configuration -> schedule in words, for the configurations of a study (nested dicts) by id: different ones are called differently.

    Those that `describe` calls the same are followed by the fields in which they differ: `plain epochs, warmup 0.187`.
    controls: configuration of a matched control -> that of its pair, after which it is called.
    """
    controls = controls or {}
    labels = {name: describe(config, varied) for name, config in configs.items() if name not in controls}
    alike: dict[str, list[str]] = defaultdict(list)
    for name, label in labels.items():
        alike[label].append(name)
    for names in alike.values():
        if len(names) > 1:
            fields = [each for each in differing([load_config(dict(configs[name])) for name in names]) if each.split(".")[0] in _GROUPS]
            for name in names:
                labels[name] = ", ".join([labels[name], *(_named(each, field(configs[name], each)) for each in fields)])
    return labels | {name: control_label(labels[pair]) for name, pair in controls.items()}


def _named(name: str, value: Any) -> str:
    if name in _RULES and isinstance(value, Mapping):  # its kind, and what differs from the defaults: `homeostasis fisher, shrink 0.8`
        kind, *others = _RULES[name].model_validate(dict(value)).model_dump(mode="json", exclude_defaults=True).items()
        return ", ".join([f"{name.rpartition('.')[2]} {kind[1]}", *(f"{key.replace('_', ' ')} {readable(item)}" for key, item in others)])
    called = name.removesuffix(".name").rpartition(".")[2]
    return f"{called.replace('_', ' ')} {readable(value)}"


def field(config: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted field in a nested dict; None where it is not set."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def readable(value: Any) -> str:
    """A config value as people write it: `ratio: 3`, `strict`, `fill`, `0.1`, `[0.8, 0.1, 0.1]`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {readable(item)}" if item != {} else str(key) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(readable(item) for item in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds as people read them: `48 s`, `3:20`, `2:05:00`; `-` where unknown."""
    if not 0 <= seconds < 1e7:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
