"""What the driver tells a worker: the assignment of one trial, and the signals that reach it while it runs (two kinds of file).

Files, because they outlive either process and cross nodes with the study's directory; both are derived from the ledger or disposable.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sleep_tune.config import Config
from sleep_tune.data.token_store import Prepared

CONTROL = "ray/control.json"
STOP_FLAG = "stop"
METRIC = "metrics/"  # prefix of the names of a report's numbers in a flat result


@dataclass(frozen=True)
class Assignment:
    """One trial to run or to run on, from where its own checkpoint left it."""

    trial: str
    config: Config
    prepared: Prepared
    study: str  # its name
    study_directory: Path
    milestones: tuple[int, ...]  # nominal words, ascending
    metric: str
    mode: str
    attempt: int  # of the study
    reported: int  # the last milestone that the ledger holds; 0: none
    stop: bool  # the ledger's last decision on it is STOP

    @property
    def directory(self) -> Path:
        """`trials/<id>/`."""
        return self.study_directory / "trials" / self.trial

    def __repr__(self) -> str:  # Tune puts it into names and messages
        return self.trial


def assigned(trainable_config: Mapping[str, Any]) -> Assignment:
    """The assignment inside the config that Tune hands around."""
    assignment = trainable_config["assignment"]
    assert isinstance(assignment, Assignment)
    return assignment


def raise_stop(assignment: Assignment) -> None:
    """Tell the worker of a trial that its training is over: the scheduler decided so, and the ledger says so."""
    assignment.directory.mkdir(parents=True, exist_ok=True)
    (assignment.directory / STOP_FLAG).touch()


def stop_raised(assignment: Assignment) -> bool:
    """Whether the scheduler has stopped the trial, in this attempt or an earlier one."""
    return assignment.stop or (assignment.directory / STOP_FLAG).exists()


def write_control(study_directory: Path, attempt: int, interrupt: bool) -> None:
    """Say which attempt is alive, and whether its workers are asked to checkpoint and leave."""
    path = study_directory / CONTROL
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"attempt": attempt, "interrupt": interrupt}))
    fresh.replace(path)


def told_to_leave(assignment: Assignment) -> bool:
    """Whether a worker should checkpoint and leave: interrupted, or its driver is gone and another has started."""
    try:
        said = json.loads((assignment.study_directory / CONTROL).read_text())
    except (OSError, ValueError):  # a new start is clearing up, or the study was deleted
        return True
    return bool(said["interrupt"] or said["attempt"] != assignment.attempt)
