"""Runs a study on Ray Tune. Every start is a resume: the ledger says what is left, and Tune's own state is thrown away.

Nothing here imports Ray before a trial has to run: a complete study prints its ranking at once.
"""

import logging
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sleep_tune.data.token_store import Prepared
from sleep_tune.disk import NEEDED_BYTES, free_bytes, full_line, is_full
from sleep_tune.errors import RunError, UserError, one_line
from sleep_tune.files import write_json
from sleep_tune.machine import environment
from sleep_tune.study.console import Console
from sleep_tune.study.controls import planned_trials
from sleep_tune.study.ledger import FILE, Ledger, LedgerView, State
from sleep_tune.study.spaces import save_study
from sleep_tune.study.spec import RunOptions, Study
from trainables.proposals import planned_out

if TYPE_CHECKING:
    from trainables.resumable import Desk

RETRIES = 3  # of a trial from its checkpoint; the loss of a node uses one up too
LEAVE_S = 20.0  # after a SIGTERM
OBJECT_STORE_BYTES = 100 << 20  # results are a few numbers; corpora and checkpoints go by path

# What has to be in the environment before Ray is imported.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's state is never restored: do not keep writing it
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
}
LOG_COLUMNS = 120  # of a ranking that is written to a file


def run_study(study: Study, prepared: Prepared, directory: Path, options: RunOptions) -> int:
    """Run what is left of `study` in `directory`. Returns 0, 1 where a trial failed for good, 130 where interrupted.

    Raises UserError where another process runs it, RunError where the disk is full.
    """
    directory = directory.resolve()
    interrupted = False
    if (directory / FILE).exists():  # what it holds decides whether Ray is needed at all
        with Ledger(directory) as ledger:
            _refuse_other_text(prepared, ledger.view)
            if not ledger.view.opened or not planned_out(study, ledger.view, prepared.corpus_digest):
                with _ray(study, options) as places:
                    interrupted = _attempt(Attempt(study, prepared, directory, ledger, places))
    else:  # nothing is written before Ray is there
        with _ray(study, options) as places, Ledger(directory) as ledger:
            interrupted = _attempt(Attempt(study, prepared, directory, ledger, places))
    if interrupted:
        print(_interrupted_line(directory), flush=True)
        return 130
    return conclude(directory)


def _refuse_other_text(prepared: Prepared, view: LedgerView) -> None:
    for kind in ("corpus_digest", "tokenizer_digest"):
        then = view.opened[-1][kind] if view.opened else getattr(prepared, kind)
        if then != getattr(prepared, kind):
            raise UserError(
                f"study {view.path.parent}: holds another text's results ({kind.replace('_', ' ')} {then[:12]}, "
                f"this text's is {getattr(prepared, kind)[:12]}); choose another --name or --storage"
            )


def conclude(directory: Path) -> int:
    """Write the tables of a study, print its ranking and name the trials that failed for good. Returns the exit code."""
    from rich.console import Console as Terminal

    from sleep_tune.study.ledger import read_ledger
    from sleep_tune.study.outcome import read_outcome
    from sleep_tune.study.outcome_view import print_outcome
    from sleep_tune.study.tables import write_tables

    written = write_tables(directory)
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else LOG_COLUMNS
    print_outcome(read_outcome(directory), written.values(), Terminal(file=sys.stdout, highlight=False, width=width))
    failed = [record for record in read_ledger(directory).trials.values() if record.state is State.FAILED]
    for record in failed:
        print(f"failed: trial {record.trial} (seed {record.seed}): {record.message}", file=sys.stderr)
    return 1 if failed else 0


@dataclass(frozen=True)
class Attempt:
    """One more start of a study: its open ledger, and how many trials Ray, which is running, holds at a time."""

    study: Study
    prepared: Prepared
    directory: Path
    ledger: Ledger
    places: int


def _attempt(attempt: Attempt) -> bool:
    """Open the study once more and run it. Returns whether the user interrupted it."""
    _open(attempt)
    try:
        return _run(attempt)
    except KeyboardInterrupt:
        return True


def _open(attempt: Attempt) -> None:
    """Write down what the study is and what it runs on."""
    study, prepared, directory = attempt.study, attempt.prepared, attempt.directory
    if free_bytes(directory) < NEEDED_BYTES:
        raise RunError(full_line(directory))
    found = environment()
    spec, precision = study.spec.plain(), study.first.training.precision
    digests = {"corpus_digest": prepared.corpus_digest, "tokenizer_digest": prepared.tokenizer_digest}
    save_study(study, directory)
    write_json(directory / "environment.json", found)
    attempt.ledger.append("opened", spec=spec, versions=found["versions"], precision=precision, **digests)


def _run(attempt: Attempt) -> bool:
    """Run trials until none is left. Returns whether the user interrupted it. Raises RunError where it had to end for all trials."""
    from trainables.assignment import write_control
    from trainables.resumable import Desk

    study, directory, ledger = attempt.study, attempt.directory, attempt.ledger
    shutil.rmtree(directory / "ray", ignore_errors=True)
    write_control(directory, ledger.view.attempt, interrupt=False)
    ended: dict[str, int] = {}
    for record in ledger.view.trials.values():
        if record.state is not State.RUNNING:
            ended[record.state] = ended.get(record.state, 0) + 1
    with Console(study.name, planned_trials(study, ledger.view), study.budget_words, directory, ended) as console:
        desk = Desk(study, attempt.prepared, directory, ledger, console)
        with _interruptible(desk):  # Ray put handlers of its own in place when it started
            try:
                _fit(desk, attempt.places)
            except Exception as error:
                if desk.failure is None:
                    line = full_line(directory) if is_full(error, directory) else f"Ray Tune ended the study: {last_line(error)}"
                    raise RunError(line) from error
    if desk.failure is not None:
        raise desk.failure
    lost = [record.trial for record in ledger.view.trials.values() if record.unfinished]
    if lost and not desk.interrupted:
        raise RunError(f"{len(lost)} trials did not end (first {lost[0]}), and Ray Tune does not say why: run the same command again")
    return desk.interrupted


def _fit(desk: "Desk", places: int) -> None:
    from ray import tune

    from trainables.resumable import Events, LedgerScheduler, LedgerSearcher
    from trainables.sleep_trainable import SleepTrainable

    tuner = tune.Tuner(
        SleepTrainable,
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(desk, places),
            scheduler=LedgerScheduler(desk),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"attempt_{desk.ledger.view.attempt}",
            storage_path=str((desk.directory / "ray").resolve()),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Events(desk)],
            verbose=0,
        ),
    )
    tuner.fit()


def _trial_name(trial: Any) -> str:
    return str(trial.config["assignment"].trial)


@contextmanager
def _ray(study: Study, options: RunOptions) -> Iterator[int]:
    """Ray, started here or joined at an address; quiet, and the way to its dashboard said in one line. Yields how many trials it holds.

    Raises UserError where a cluster cannot be reached or holds no trial.
    """
    os.environ.update(_QUIET)
    import ray

    resources = study.first.resources
    print("starting Ray", flush=True)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if options.address is not None:
        try:
            context = ray.init(address=options.address, **quiet)
        except (Exception, SystemExit) as error:  # Ray ends the process where it finds no cluster that it can use
            raise UserError(f"--address = {options.address}: {one_line(error)[:200]}") from None
    else:
        context = ray.init(
            address="local",
            num_cpus=math.ceil((options.concurrent or 1) * resources.cpus),
            include_dashboard=options.dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if options.dashboard and context.dashboard_url:
            token = _near(Path(sys.executable).parent / "ray")
            print(f"Ray dashboard: http://{context.dashboard_url} (it asks for a token: {token} get-auth-token prints it)", flush=True)
        yield _places(study, options, ray.cluster_resources())
    finally:
        ray.shutdown()


def _places(study: Study, options: RunOptions, cluster: Mapping[str, float]) -> int:
    """Trials that run side by side. Raises UserError where not one fits: Tune would wait for ever."""
    resources = study.first.resources
    fit = int(cluster.get("CPU", 0) / resources.cpus + 1e-9)
    if resources.gpus:
        fit = min(fit, int(cluster.get("GPU", 0) / resources.gpus + 1e-9))
    if fit < 1:
        has = f"{cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs"
        raise UserError(f"resources = {resources.cpus:g} CPUs and {resources.gpus:g} GPUs a trial: Ray has {has}")
    return min(fit, options.concurrent or fit)


@contextmanager
def _interruptible(desk: "Desk") -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the trials to checkpoint and leave; the second ends at once.

    A SIGTERM often reaches Ray's own processes, too (`timeout`, a batch system), and Tune then waits for them in vain: after `LEAVE_S`
    the driver leaves without them. The ledger and the trials' checkpoints are on disk.
    """

    def leave() -> None:
        print(_interrupted_line(desk.directory), flush=True)
        os._exit(130)

    watch = threading.Timer(LEAVE_S, leave)
    watch.daemon = True

    def handle(number: int, frame: FrameType | None) -> None:
        if desk.interrupted:
            raise KeyboardInterrupt
        desk.interrupt()
        if number == signal.SIGTERM:
            watch.start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        watch.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted_line(directory: Path) -> str:
    return f"interrupted; go on with: python launch.py --resume {_near(directory)}"


def last_line(error: BaseException) -> str:
    """The last line of an exception's text: of a traceback that Tune wraps into a message, the exception itself."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else one_line(error)


def _near(path: Path) -> str:
    """The path as one types it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
