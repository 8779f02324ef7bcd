"""A trial's curves and scores for Weights & Biases and TensorBoard, beside the trial's own records and never in their way.

What is sent is a function of `steps.jsonl`: means over 1/200 of the budget, cut where wake turns to sleep, so a trial costs a fixed few
hundred points. The file `tracked` in the trial's directory says up to which step they were sent: a resumed trial makes up what a kill left
unsent and sends nothing twice. Whatever goes wrong here is one warning; the trial goes on.

The services themselves are `tracking_services.py`'s.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sleep_tune.config import Config
from sleep_tune.errors import one_line
from sleep_tune.study.tracking_services import TensorBoardRun, WandbRun

if TYPE_CHECKING:
    from sleep_tune.training.loop import StepRecord
    from sleep_tune.trial import Report

POINTS = 200  # of a curve over the whole budget
MARK = "tracked"


class Sink(Protocol):
    """Where points go."""

    def log(self, point: Mapping[str, float], step: int) -> None: ...
    def flush(self) -> None: ...
    def finish(self, summary: Mapping[str, Any]) -> None: ...


@dataclasses.dataclass
class Mark:
    """How far a trial was sent: optimizer step of the last point, last milestone, whether its run was finished."""

    step: int = 0
    milestone: int = 0
    finished: bool = False


def warn_on_stderr(line: str) -> None:
    """Where warnings go if nobody says otherwise."""
    print(f"warning: {line}", file=sys.stderr)


class Tracker:
    """Sends one trial. directory: the trial's own; the study's is two levels up where the trial lies in `trials/`."""

    def __init__(
        self, config: Config, study_name: str, trial_id: str, directory: Path, warn: Callable[[str], None] = warn_on_stderr
    ) -> None:
        self._config, self._study, self._trial, self._directory, self._warn = config, study_name, trial_id, directory, warn
        self._root = directory.parent.parent if directory.parent.name == "trials" else directory
        self._mark = read_mark(directory / MARK)
        self._bucket: list[StepRecord] = []
        self._sinks: dict[str, Sink] | None = None  # opened with the first point: a trial that adds none costs nothing
        self._last_step = self._mark.step
        self.log(read_steps(directory / "steps.jsonl", self._mark.step))

    @property
    def on(self) -> bool:
        """Whether anything is to be sent at all."""
        return self._config.tracking.wandb != "off" or self._config.tracking.tensorboard

    def log(self, records: Iterable["StepRecord"]) -> None:
        """Take in step records; those that were sent by an earlier start are left out."""
        if not self.on:
            return
        for record in records:
            if record.step <= self._last_step:
                continue
            if self._bucket and self._key(self._bucket[-1]) != self._key(record):
                self._send_bucket()
            self._bucket.append(record)
            self._last_step = record.step

    def report(self, report: "Report") -> None:
        """Send the numbers of a milestone, once."""
        if not self.on or report.milestone <= self._mark.milestone:
            return
        if self._bucket:
            self._send_bucket()
        self._send({**report.metrics, "words_seen": report.words_seen}, self._last_step)
        self._each(lambda sink: sink.flush())
        self._note(dataclasses.replace(self._mark, milestone=report.milestone))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Send what is left and the final scores, and end the run, once."""
        if not self.on or self._mark.finished:
            return
        self.log(read_steps(self._directory / "steps.jsonl", self._last_step))  # what the caller still held back
        if self._bucket:
            self._send_bucket()
        self._each(lambda sink: sink.finish(summary))
        self._sinks = {}
        self._note(dataclasses.replace(self._mark, finished=True))

    def close(self) -> None:
        """Let go of a run that is not finished; a later start goes on with it."""
        if self._sinks:
            self._each(lambda sink: sink.finish({}))
        self._sinks = None

    def _key(self, record: "StepRecord") -> tuple[int, str, int]:
        return record.cycle, record.phase, record.words_seen * POINTS // self._config.budget_words

    def _send_bucket(self) -> None:
        records, self._bucket = self._bucket, []
        last, n = records[-1], len(records)
        loss = sum(record.loss for record in records) / n
        point = {
            "loss": loss, f"{last.phase}/loss": loss, "sleeping": float(last.phase == "sleep"), "cycle": last.cycle, "lr": last.lr,
            "grad_norm": sum(record.grad_norm for record in records) / n, "words_seen": last.words_seen,
        }  # fmt: skip
        self._send(point, last.step)
        self._note(dataclasses.replace(self._mark, step=last.step))

    def _send(self, point: Mapping[str, float], step: int) -> None:
        self._each(lambda sink: sink.log(point, step))

    def _each(self, call: Callable[[Sink], None]) -> None:
        """Call every sink; one that fails is warned of and left out from then on."""
        if self._sinks is None:
            self._sinks = {}
            self._open("wandb", self._config.tracking.wandb != "off", self._open_wandb)
            self._open("tensorboard", self._config.tracking.tensorboard, self._open_tensorboard)
        for name, sink in list(self._sinks.items()):
            try:
                call(sink)
            except Exception as error:  # whatever it is: curves are not worth a trial
                self._lost(name, error)

    def _open(self, name: str, wanted: bool, make: Callable[[], Sink]) -> None:
        if not wanted or self._sinks is None:
            return
        try:
            self._sinks[name] = make()
        except Exception as error:
            self._lost(name, error)

    def _open_wandb(self) -> Sink:
        names = {"study": self._study, "trial": self._trial}
        return WandbRun(self._config, names, self._root, self._warn)

    def _open_tensorboard(self) -> Sink:
        return TensorBoardRun(self._root / "tensorboard" / self._trial)

    def _lost(self, name: str, error: Exception) -> None:
        if self._sinks:
            self._sinks.pop(name, None)
        if name == "wandb" and "wandb" in sys.modules:
            with contextlib.suppress(Exception):  # a dead service: the next trial starts a fresh one
                sys.modules["wandb"].teardown()
        self._warn(f"trial {self._trial}: {name} is lost for this trial, which goes on: {one_line(error)[:160]}")

    def _note(self, mark: Mark) -> None:
        self._mark = mark
        with contextlib.suppress(OSError):  # a full disk is the trial's to report
            (self._directory / MARK).write_text(json.dumps(dataclasses.asdict(mark)))


def read_mark(path: Path) -> Mark:
    """How far a trial was sent; from the beginning where that is not known."""
    try:
        return Mark(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Mark()


def read_steps(path: Path, after_step: int) -> Iterable["StepRecord"]:
    """The whole lines of a trial's step records after a step."""
    from sleep_tune.training.loop import StepRecord  # brings torch: nothing else here needs it

    data = path.read_bytes() if path.exists() else b""
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            record = StepRecord(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if record.step > after_step:
            yield record
