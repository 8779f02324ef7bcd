"""One worker of a study: Ray Tune's class API around `sleep_tune.trial.Trial`. A step is a milestone; the last one, the final scores.

An actor is reused for many trials: torch and transformers are imported once. Whatever can fail happens in `step`, where Tune retries it
on another worker; a trial then goes on from its own checkpoint.
"""

import resource
import time
import traceback
from contextlib import suppress
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from sleep_tune.disk import full_line, is_full
from sleep_tune.errors import UserError, one_line
from sleep_tune.study.tracking import Tracker
from sleep_tune.trial import WORST_LOSS, Report, Trial
from trainables.assignment import METRIC, Assignment, assigned, stop_raised, told_to_leave
from trainables.progress import Progress
from trainables.workers import Workers, bundles


class Leaving(Exception):
    """The driver asked this worker to leave in the middle of something that can be done again."""


class SleepTrainable(Trainable):
    """Trains the trial it is assigned, from milestone to milestone."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """What the trial's config asks for."""
        return PlacementGroupFactory(bundles(assigned(config).config.resources))

    def setup(self, config: dict[str, Any]) -> None:
        """Take the assignment. The trial is opened in the first step, where an error is retried."""
        self._trial: Trial | None = None
        self._workers: Workers | None = None
        self._assign(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next assignment in the same process."""
        self._close()
        self._assign(new_config)
        return True

    def _assign(self, config: dict[str, Any]) -> None:
        self._told = assigned(config)
        self._reported = self._told.reported
        self._began = time.perf_counter()
        self._notes: list[str] = []  # what the trial says of its files; the driver prints it

    def __repr__(self) -> str:  # names the actor in Ray's dashboard and logs
        return f"trial {self._told.trial}"

    def step(self) -> dict[str, Any]:
        """The next milestone that the ledger lacks, or the final scores. Errors that another try cannot mend end the trial."""
        try:
            result = self._next()
            return {**result, "notes": "; ".join(self._notes)} if self._notes else result
        except Leaving:
            return self._left({})
        except Exception as raised:
            error = self._workers.cause(raised) if self._workers is not None else raised
            if is_full(error, self._told.directory):
                return self._left({"halt": full_line(self._told.directory)})
            if isinstance(error, UserError):
                return self._left({"failed": one_line(error)})
            if (line := out_of_memory(error)) is not None:
                return self._left({"failed": line})
            self._close()  # the lock is free for the worker that tries again
            with suppress(OSError):
                (self._told.directory / "error.txt").write_text("".join(traceback.format_exception(error)))
            if error is raised:
                raise
            raise error from raised

    def _next(self) -> dict[str, Any]:
        if told_to_leave(self._told):
            raise Leaving
        trial = self._trial or self._open()
        report = next((report for report in trial.reports if report.milestone > self._reported), None)
        # behind the ledger, as after a damaged checkpoint: a stop counts from the milestone at which it was decided
        behind = not trial.reports or trial.reports[-1].milestone < self._told.reported
        if report is None and (behind or not stop_raised(self._told)) and trial.next_milestone() is not None:
            report = trial.advance(self._progress.on_step)
            if report is None:
                raise Leaving
        return self._finish(trial) if report is None else self._report(report)

    def _open(self) -> Trial:
        told = self._told
        set_threads(told.config.resources.threads)
        self._workers = Workers(told) if told.config.resources.workers > 1 else None
        team = None if self._workers is None else self._workers.meet()
        self._trial = trial = Trial(told.config, told.prepared, told.directory, told.milestones, told.attempt, self._notes.append, team)
        self._tracker = Tracker(told.config, told.study, told.trial, told.directory)
        self._progress = Progress(told.directory, self._tracker.log, lambda: told_to_leave(told))
        return trial

    def _report(self, report: Report) -> dict[str, Any]:
        self._reported = report.milestone
        self._progress.flush()
        self._tracker.report(report)
        metrics = {f"{METRIC}{name}": value for name, value in report.metrics.items()}
        return {"milestone": report.milestone, "words_seen": report.words_seen, "value": objective(report, self._told), **metrics}

    def _finish(self, trial: Trial) -> dict[str, Any]:
        def on_progress(done: int, total: int) -> None:
            if self._progress.scoring(done, total, trial.words_seen):
                raise Leaving

        scores = trial.finish(lambda task: on_progress)
        self._progress.flush()
        self._tracker.finish(scores)
        last = trial.reports[-1]
        took_s = time.perf_counter() - self._began
        measured = {
            "words_per_s": trial.words_seen / trial.wall_s if trial.wall_s else 0.0,
            "overhead_s": max(0.0, took_s - trial.wall_s),
            "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * trial.config.resources.workers,
        }
        said = {"milestone": last.milestone, "words_seen": trial.words_seen, "value": objective(last, self._told)}
        self._close()
        metrics = {f"{METRIC}{name}": value for name, value in scores.items()}
        return {**said, **measured, "final": True, "done": True, "diverged": last.diverged, **metrics}

    def _left(self, why: dict[str, Any]) -> dict[str, Any]:
        self._close()
        return {"done": True, "milestone": self._reported, "words_seen": 0, "value": 0.0, **why}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: checkpoints are the trial's own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial finds its newest checkpoint itself."""

    def cleanup(self) -> None:
        """The actor ends."""
        self._close()

    def _close(self) -> None:
        if self._trial is not None:
            trial, self._trial = self._trial, None
            self._tracker.close()
            with suppress(Exception):  # a checkpoint that was not told of, and the trial goes on from the one before
                trial.close()
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def objective(report: Report, told: Assignment) -> float:
    """The number that search and scheduler see; for a diverged trial the worst there is, finite so that every scheduler ranks it.

    Raises UserError where the trial does not measure it.
    """
    if report.diverged:
        return WORST_LOSS if told.mode == "min" else -WORST_LOSS
    if told.metric not in report.metrics:
        known = ", ".join(report.metrics)
        raise UserError(f"objective.metric = {told.metric}: not measured at milestone {report.milestone}; measured there: {known}")
    return report.metrics[told.metric]


def set_threads(threads: int) -> None:
    """As many torch threads as the trial's cores give each worker; in a reused actor nothing else would change them."""
    import torch

    torch.set_num_threads(threads)


def out_of_memory(error: BaseException) -> str | None:
    """A line that names the setting to lower where memory ran out; None for other errors."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory ({one_line(error)[:160]}): lower training.batch_rows, data.row_length or --concurrent"
    return None
