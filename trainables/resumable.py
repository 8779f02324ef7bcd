"""Tune's searcher, scheduler and callback as readers and writers of the study's ledger.

Tune's own state is thrown away at each start: the searcher hands out what the ledger says is unfinished and then what is new, the
scheduler answers from rungs that were primed with every recorded report, and each event is on disk before it takes effect.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sleep_tune.config import configuration_id
from sleep_tune.data.token_store import Prepared
from sleep_tune.errors import RunError, UserError, one_line
from sleep_tune.study.calibration import record_calibration
from sleep_tune.study.console import Console
from sleep_tune.study.controls import pair_of, planned_trials
from sleep_tune.study.labels import control_label, describe, told_apart
from sleep_tune.study.ledger import Ledger, State, TrialRecord
from sleep_tune.study.spec import Study
from trainables.assignment import METRIC, STOP_FLAG, Assignment, assigned, raise_stop, write_control
from trainables.proposals import Proposals
from trainables.rungs import Deciding, Rungs

NODES_EVERY_S = 10.0


class Desk:
    """What the three share: the study, its open ledger, and whether the run is being ended before its time."""

    def __init__(self, study: Study, prepared: Prepared, directory: Path, ledger: Ledger, console: Console) -> None:
        self.study, self.prepared, self.directory, self.ledger, self.console = study, prepared, directory, ledger, console
        known = [*study.always(), *study.searched()]
        configs = {configuration_id(config, prepared.corpus_digest): config.model_dump(mode="json") for config in known}
        self._labels = told_apart(configs, study.spec.vary)
        self.interrupted = False
        self.failure: UserError | None = None

    def __reduce__(self) -> tuple[type[object], tuple[()]]:  # Tune pickles all it is given, into a file that nobody reads
        return object, ()

    def label(self, record: TrialRecord) -> str:
        """A trial's schedule in words."""
        pair = pair_of(self.ledger.view, record)
        if pair is not None:
            return control_label(self.label(pair))
        return self._labels.get(record.configuration) or describe(record.config, self.study.spec.vary)

    def interrupt(self) -> None:
        """Hand out nothing more, and ask the workers to checkpoint and leave. Safe in a signal handler."""
        self.interrupted = True
        with suppress(OSError):  # a full disk: the workers meet it themselves
            write_control(self.directory, self.ledger.view.attempt, interrupt=True)

    def halt(self, failure: UserError) -> None:
        """End the run for `failure`; the first one is what the user is told."""
        self.failure = self.failure or failure
        self.interrupt()

    def record(self, *events: tuple[str, dict[str, Any]]) -> bool:
        """Write events to the ledger; whether they are on disk. Where they are not, the run ends."""
        try:
            self.ledger.append_all(events)
        except RunError as error:
            self.halt(error)
            return False
        return True

    def failed(self, record: TrialRecord, message: str) -> None:
        """A trial failed for good; the others go on."""
        fields = {"trial": record.trial, "state": State.FAILED.value, "message": message}
        if record.state is State.RUNNING and self.record(("ended", fields)):
            self.console.planned = planned_trials(self.study, self.ledger.view)
            self.console.ended(record.trial, record.state, message)


class LedgerSearcher(Searcher):
    """Hands out unfinished trials in the ledger's order, then new ones; at most `concurrent` at a time."""

    def __init__(self, desk: Desk, concurrent: int) -> None:
        super().__init__()
        self._desk, self._concurrent = desk, concurrent
        view = desk.ledger.view
        self._unfinished = [record for record in view.trials.values() if record.unfinished]
        self._new = Proposals(desk.study, view, desk.prepared.corpus_digest)
        self._out: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The config of one Tune trial; None for later, FINISHED for never."""
        if self._desk.interrupted:
            return Searcher.FINISHED
        if len(self._out) >= self._concurrent:
            return None
        try:
            record = self._unfinished.pop(0) if self._unfinished else self._propose()
        except UserError as error:
            self._desk.halt(error)
            return Searcher.FINISHED
        if record is None:
            # Controls wait for their pairs; what runs nowhere will not end.
            return None if self._new.later and self._out and not self._desk.interrupted else Searcher.FINISHED
        self._out.add(trial_id)
        return {"assignment": self._assign(record)}

    def _propose(self) -> TrialRecord | None:
        proposal = self._new.next()
        if proposal is None:
            return None
        fields = {"trial": proposal.trial, "configuration": proposal.configuration, "seed": proposal.config.seed}
        config = proposal.config.model_dump(mode="json")
        if not self._desk.record(("proposed", {**fields, "config": config, "origin": proposal.origin})):
            return None
        return self._desk.ledger.view.trials[proposal.trial]

    def _assign(self, record: TrialRecord) -> Assignment:
        desk = self._desk
        assignment = Assignment(
            trial=record.trial,
            config=desk.study.as_run_now(record.config),
            prepared=desk.prepared,
            study=desk.study.name,
            study_directory=desk.directory,
            milestones=tuple(desk.study.milestones()),
            metric=desk.study.metric,
            mode=desk.study.mode,
            attempt=desk.ledger.view.attempt,
            reported=record.reports[-1].milestone if record.reports else 0,
            stop=record.stop_decided,
        )
        if not assignment.stop:  # a flag without a decision is left over from a ledger that is gone
            (assignment.directory / STOP_FLAG).unlink(missing_ok=True)
        return assignment

    def __getstate__(self) -> dict[str, Any]:  # as with `Desk`
        return {}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """A place is free."""
        self._out.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Tune's state is never restored."""


class LedgerScheduler(FIFOScheduler):
    """Records each report with its decision before the decision acts; a stopped trial goes on for the one step that scores it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        study = desk.study
        self._deciding = Deciding(Rungs(study.rungs(), study.reduction, study.mode) if study.reduction else None)
        self._deciding.replay(desk.ledger.view)
        self._said: set[tuple[str, str]] = set()

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """CONTINUE always: a STOP reaches the worker as a flag, so that its next step is the final evaluation."""
        assignment = assigned(trial.config)
        record = self._desk.ledger.view.trials[assignment.trial]
        milestone, value = int(result["milestone"]), float(result["value"])
        if record.state is State.RUNNING and all(report.milestone != milestone for report in record.reports):
            decision = self._deciding.decide(record.origin, record.configuration, milestone, value)
            metrics = {name.removeprefix(METRIC): number for name, number in result.items() if name.startswith(METRIC)}
            fields = {"trial": record.trial, "milestone": milestone, "words_seen": int(result["words_seen"]), "metrics": metrics}
            if self._desk.record(("reported", {**fields, "value": value, "decision": decision})):
                self._desk.console.reported(record.trial, milestone, int(result["words_seen"]), metrics, decision)
        self._say_notes(record, result)
        if record.stop_decided:
            raise_stop(assignment)
        return TrialScheduler.CONTINUE

    def _say_notes(self, record: TrialRecord, result: dict[str, Any]) -> None:
        """What a worker found in its trial's files, once."""
        notes = result.get("notes")
        if notes and (record.trial, notes) not in self._said:
            self._said.add((record.trial, notes))
            self._desk.console.terminal.print(f"trial {record.trial}: {notes}", soft_wrap=True)

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """The trial's last step: scores and end, unless it left early because it was asked to."""
        record = self._desk.ledger.view.trials[assigned(trial.config).trial]
        if result.get("halt"):
            self._desk.halt(RunError(str(result["halt"])))
        elif result.get("failed"):
            self._desk.failed(record, str(result["failed"]))
        elif result.get("final"):
            self._finished(record, result)

    def _finished(self, record: TrialRecord, result: dict[str, Any]) -> None:
        events: list[tuple[str, dict[str, Any]]] = []
        if record.scores is None:
            tasks = {name.removeprefix(METRIC): number for name, number in result.items() if name.startswith(METRIC)}
            events.append(("scored", {"trial": record.trial, "words_seen": int(result["words_seen"]), "tasks": tasks}))
        if record.state is State.RUNNING:
            state = State.DIVERGED if result["diverged"] else State.STOPPED if record.stop_decided else State.COMPLETE
            events.append(("ended", {"trial": record.trial, "state": state.value, "message": None}))
        if self._desk.record(*events):
            self._desk.console.planned = planned_trials(self._desk.study, self._desk.ledger.view)
            self._desk.console.ended(record.trial, record.state)
            config = self._desk.study.as_run_now(record.config)
            record_calibration(config, result["words_per_s"], int(result["rss_bytes"]), result["overhead_s"])


class Events(Callback):
    """Tells the console what happens, and the ledger of trials that failed for good."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._said, self._looked = False, time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A worker has it."""
        record = self._desk.ledger.view.trials[assigned(trial.config).trial]
        self._desk.console.trial_started(record.trial, self._desk.label(record), record.seed)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """All retries are used up."""
        record = self._desk.ledger.view.trials[assigned(trial.config).trial]
        if not self._desk.interrupted:
            self._desk.failed(record, failure_line(trial.get_pickled_error(), str(trial.get_error() or "")))

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Several times a second while the run lasts."""
        if self._desk.interrupted and not self._said:
            self._said = True
            why = "the study cannot go on" if self._desk.failure else "interrupted (again: stop at once)"
            self._desk.console.terminal.print(f"{why}: running trials write a checkpoint and stop", soft_wrap=True)
        if time.monotonic() - self._looked > NODES_EVERY_S:
            self._looked = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):  # Tune would wait for ever
                self._desk.halt(RunError("Ray's processes on this machine died: run the same command again"))
                raise self._desk.failure or AssertionError
        self._desk.console.tick()


def failure_line(error: Exception | None, trace: str) -> str:
    """One line on why a trial failed: the error inside the worker, not Ray's words around it."""
    cause = getattr(error, "cause", None) or error
    if cause is None:
        return one_line(Exception((trace or "unknown error").strip().splitlines()[-1]))
    kind = type(cause).__name__
    if kind == "OutOfMemoryError":
        return "out of memory: the machine killed its worker; lower training.batch_rows or --concurrent"
    if kind in ("ActorDiedError", "RayActorError", "ActorUnavailableError", "WorkerCrashedError"):
        return f"its worker died again and again ({one_line(cause)[:200]})"
    text = one_line(cause)
    return text if isinstance(cause, UserError) else f"{kind.removeprefix('RayTaskError(').removesuffix(')')}: {text}"
