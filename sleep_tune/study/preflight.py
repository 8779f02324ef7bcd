"""What could stop a study, looked at before anything starts: earlier results of its name, the disk, the machine, evaluation data.

Nothing is written here. What is settled enters the study's `set`, so that it is stored resolved.
"""

import os
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from sleep_tune.config import Config
from sleep_tune.disk import existing
from sleep_tune.errors import UserError
from sleep_tune.machine import Machine, resolve_precision
from sleep_tune.study.extension import continued, earlier_spec, evaluated_otherwise
from sleep_tune.study.material import settle_evaluation
from sleep_tune.study.rules import warnings
from sleep_tune.study.spec import RunOptions, Study

ANSWER_S = 3.0  # for a cluster to take a connection


@dataclass(frozen=True)
class Ready:
    """A study that can run: all settled, with the lines that its user should see."""

    study: Study
    directory: Path
    options: RunOptions
    notes: tuple[str, ...]


def settle(study: Study, directory: Path, options: RunOptions, on: Machine) -> Ready:
    """The study with everything that depends on machine and disk decided. Raises UserError where it cannot run."""
    notes = warnings(study)
    earlier = earlier_spec(directory)
    if earlier is not None:
        study = continued(study, earlier, directory)
        notes += evaluated_otherwise(study.spec, earlier)
    probe(directory)
    if options.address is not None:
        reach(options.address)
    else:
        options = replace(options, concurrent=places(study.first, options.concurrent, on))
    study, left_out = settle_evaluation(study)
    return Ready(settle_precision(study, on), directory, options, (*notes, *left_out))


def settle_precision(study: Study, on: Machine) -> Study:
    """The study with `training.precision` resolved: stored so, and the same on every node."""
    if study.first.training.precision != "auto":
        return study
    return study.with_set({"training.precision": resolve_precision([*study.searched(), *study.always()], on)})


def probe(directory: Path) -> None:
    """Raises UserError where `directory`, or the nearest directory above it that is there, takes no file. Leaves nothing behind."""
    there = existing(directory)
    try:
        os.rmdir(tempfile.mkdtemp(dir=there, prefix=".sleep-tune-"))
    except OSError as error:
        raise UserError(f"--storage = {directory.parent}: {there} cannot be written to ({error.strerror})") from None


def reach(address: str) -> None:
    """Raises UserError where nobody answers at HOST:PORT: Ray itself would try for most of a minute. `auto` is Ray's to find."""
    asked = (os.environ.get("RAY_ADDRESS") or address) if address == "auto" else address
    host, _, port = asked.removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(f"--address = {asked}: nobody answers there ({getattr(error, 'strerror', None) or error})") from None


def places(config: Config, concurrent: int | None, on: Machine) -> int:
    """Trials side by side on this machine: `concurrent`, or as many as it holds. Raises UserError where it holds fewer."""
    cpus, gpus = config.resources.cpus, config.resources.gpus
    if cpus > on.cores:
        raise UserError(f"resources.cpus = {cpus:g}: must be <= {on.cores}, the cores of this machine")
    if gpus > len(on.gpus):
        has = f"{len(on.gpus)} GPU{'s' * (len(on.gpus) > 1)}" if on.gpus else "no GPU"
        raise UserError(f"resources.gpus = {gpus:g}: this machine has {has}")
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"resources.gpus = {gpus:g}: must be a whole number above 1 (a share of one GPU is below)")
    fit = int(on.cores / cpus + 1e-9)
    fit = min(fit, int(len(on.gpus) / gpus + 1e-9)) if gpus else fit
    if concurrent is not None and concurrent > fit:
        each = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise UserError(f"--concurrent = {concurrent}: must be <= {fit}, the trials of {each} that this machine holds")
    return concurrent or fit
