"""Weights & Biases and TensorBoard, each as a place that takes a trial's points; what is sent when is `tracking.py`'s.

W&B: one run per trial, id `<study>-<trial>`, grouped by study. Files land in the study's directory, none in the home or the working
directory. Measured offline on one core: import 0.6 s and first run 0.5 s once a process, then 0.02 s a trial and 0.4 ms a point.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from sleep_tune.config import Config, Tracking
from sleep_tune.errors import one_line
from sleep_tune.study.labels import describe

PROJECT = "sleep-tune"
ONLINE_TIMEOUT_S = 20


class WandbRun:
    """A W&B run of a trial; online where a key or the config says so and the server answers, else offline."""

    def __init__(self, config: Config, names: Mapping[str, str], root: Path, warn: Callable[[str], None]) -> None:
        for kind in ("CACHE", "CONFIG", "DATA"):
            os.environ.setdefault(f"WANDB_{kind}_DIR", str(root / "wandb" / "home"))
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode = wandb_mode(config.tracking, os.environ)
        options = {
            "project": os.environ.get("WANDB_PROJECT") or PROJECT, "group": names["study"], "name": run_name(config),
            "id": run_id(names["study"], names["trial"]), "config": config.model_dump(mode="json"), "dir": str(root),
            "resume": "allow" if mode == "online" else None, "reinit": "finish_previous", "settings": cheap_settings(),
        }  # fmt: skip
        try:
            self._run = wandb.init(mode=mode, **options)
        except wandb.Error as error:
            if mode == "offline":
                raise
            wandb.teardown()
            os.environ["WANDB_MODE"] = "offline"  # for the later trials of this process, too
            warn(f"W&B does not answer, runs are kept offline (`wandb sync {root / 'wandb'}/offline-run-*`): {one_line(error)[:120]}")
            self._run = wandb.init(mode="offline", **{**options, "resume": None})
        self._run.define_metric("*", step_metric="words_seen")

    def log(self, point: Mapping[str, float], step: int) -> None:
        self._run.log(dict(point), step=step)

    def flush(self) -> None:
        """Nothing: the service writes as it goes."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


class TensorBoardRun:
    """An event directory of a trial, over words seen. One event a point: an event a number would cost ten times as much."""

    def __init__(self, directory: Path) -> None:
        from tensorboardX import FileWriter

        start = len(list(directory.glob("events.*")))  # names hold seconds: two starts within one would share a file
        self._writer = FileWriter(str(directory), flush_secs=2, filename_suffix=f".{start}")
        self._words = 0

    def log(self, point: Mapping[str, float], step: int) -> None:
        self._words = int(point["words_seen"])
        self._add({name: value for name, value in point.items() if name != "words_seen"})

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._add({f"final/{name}": value for name, value in summary.items() if isinstance(value, int | float)})
        self._writer.close()

    def _add(self, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        if values:
            cells = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._writer.add_summary(Summary(value=cells), self._words)


def wandb_mode(tracking: Tracking, environment: Mapping[str, str]) -> Literal["online", "offline"]:
    """online | offline: `auto` is online with a key; WANDB_MODE=offline wins over both."""
    if environment.get("WANDB_MODE") == "offline" or tracking.wandb == "offline":
        return "offline"
    return "online" if tracking.wandb == "online" or environment.get("WANDB_API_KEY") else "offline"


def cheap_settings() -> Any:
    """Settings without what a trial does not need: console capture, machine statistics, git and code, and the list of all installed
    packages, which alone takes ten times as long as the rest of starting a run.
    """
    import wandb

    return wandb.Settings(
        silent=True, console="off", x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        disable_git=True, disable_code=True, init_timeout=ONLINE_TIMEOUT_S, finish_timeout=ONLINE_TIMEOUT_S, finish_timeout_raises=False,
    )  # fmt: skip


def run_id(study_name: str, trial_id: str) -> str:
    """The W&B id of a trial: equal at every start, within W&B's alphabet and length."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{study_name}-{trial_id}")[-120:]


def run_name(config: Config) -> str:
    """What W&B lists a trial as."""
    return f"{describe(config.model_dump(mode='json'))}, seed {config.seed}"
