"""The ledger of a study: a file of events, and every rule for how a trial changes state.

What runs, scores or stops a trial is elsewhere; what is true about a trial is here. Format: one JSON object a line,
`{"schema": 1, "seq": n, "at": ISO time, "attempt": k, "event": ...}`, `seq` being the line's number.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from sleep_tune.errors import RunError, UserError
from sleep_tune.study.append_log import AppendLog, whole_lines

SCHEMA = 1
FILE = "ledger.jsonl"
CONTINUE, STOP = "CONTINUE", "STOP"
ORIGINS = ("grid", "random", "optuna", "always", "matched", "confirm")
BESIDE = ("always", "matched")  # what the search does not judge


class State(StrEnum):
    """What a trial is. It starts as running, which also says "waiting to be run on"; the others are final."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Reported:
    """One milestone of a trial: nominal words, words seen, what was measured, the objective, the scheduler's decision."""

    milestone: int
    words_seen: int
    metrics: dict[str, float | None]
    value: float
    decision: str


@dataclass
class TrialRecord:
    """All that the ledger knows of one trial."""

    trial: str
    configuration: str
    seed: int
    config: dict[str, Any]
    origin: str
    state: State = State.RUNNING
    reports: list[Reported] = field(default_factory=list)
    scores: dict[str, float | None] | None = None
    message: str | None = None

    @property
    def stop_decided(self) -> bool:
        """Whether the scheduler's last word on this trial is STOP."""
        return bool(self.reports) and self.reports[-1].decision == STOP

    @property
    def unfinished(self) -> bool:
        """Whether something is left to do: training, or the final scores of a trial that ended without them."""
        return self.state is State.RUNNING or (self.scores is None and self.state is not State.FAILED)


@dataclass
class LedgerView:
    """The state that a sequence of events adds up to."""

    path: Path
    opened: list[dict[str, Any]] = field(default_factory=list)
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    history: list[tuple[str, int]] = field(default_factory=list)  # (trial, milestone) of every report, in the order they came
    seq: int = 0

    @property
    def attempt(self) -> int:
        """How often the study was started; 0 before the first `opened`."""
        return len(self.opened)

    @property
    def spec(self) -> dict[str, Any]:
        """The study file's resolved content at the latest start; {} before the first."""
        return dict(self.opened[-1]["spec"]) if self.opened else {}

    def check(self, event: Mapping[str, Any]) -> None:
        """Raises RunError, naming the state found, unless `event` may come next."""
        kind = event["event"]
        if kind not in _RULES:
            raise RunError(f"event {kind}: must be one of {', '.join(_RULES)}")
        needed = _RULES[kind][0]
        missing = [name for name in needed if name not in event]
        if missing:
            raise RunError(f"event {kind}: {missing[0]} is missing")
        fault = _RULES[kind][1](self, event)
        if fault:
            raise RunError(f"trial {event['trial']} cannot be {kind}{_target(event)}: {fault}")

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in `event`, which `check` has passed."""
        self.seq += 1
        _RULES[event["event"]][2](self, event)


def read_ledger(path: Path) -> LedgerView:
    """The state a ledger file (or the study directory that holds it) tells, for readers; a torn last line is ignored.

    Raises UserError where there is none, RunError naming the line where one is corrupt.
    """
    path = path / FILE if path.is_dir() else path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    view, _ = _replay(path, data)
    return view


class Ledger:
    """The ledger opened for writing by the one process that may, its torn last line cut.

    Raises UserError naming the process that holds it, RunError naming a corrupt line.
    """

    def __init__(self, directory: Path) -> None:
        self._log = AppendLog(directory / FILE)
        try:
            self.view = self._reread()
        except BaseException:
            self._log.close()
            raise

    def append(self, event: str, **fields: Any) -> None:
        """Add one event and return once it is on disk. Raises RunError where it may not come next, or the disk is full."""
        self.append_all([(event, fields)])

    def append_all(self, events: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add `events` with one fsync: all of them or, after a crash, the first few. Raises RunError, none added."""
        lines = bytearray()
        try:
            for name, fields in events:
                event = self._stamped(name, fields)
                self.view.check(event)
                lines += (json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n").encode()
                self.view.apply(event)
            self._log.append(bytes(lines))
        except RunError:
            if lines:
                self.view = self._reread()  # it has taken in what the file has not
            raise

    def close(self) -> None:
        """Let the next process have it."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stamped(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        attempt = self.view.attempt + (name == "opened")
        return {"schema": SCHEMA, "seq": self.view.seq + 1, "at": now, "attempt": attempt, "event": name, **_finite(fields)}

    def _reread(self) -> LedgerView:
        view, size = _replay(self._log.path, self._log.read())
        self._log.cut(size)
        return view


def _replay(path: Path, data: bytes) -> tuple[LedgerView, int]:
    """The state that the whole lines of `data` tell, and their length in bytes. Raises RunError naming a corrupt line."""
    view, size = LedgerView(path), 0
    lines, torn = whole_lines(data)
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            if number == len(lines) and not torn:
                break
            raise RunError(f"{path}, line {number}: corrupt: {error}") from None
        try:
            _check_head(event, number)
            view.check(event)
        except (RunError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}, line {number}: {error}") from None
        view.apply(event)
        size += len(line) + 1
    return view, size


def _check_head(event: Any, number: int) -> None:
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")
    if event.get("schema") != SCHEMA:
        raise ValueError(f"schema = {event.get('schema')}: this version reads {SCHEMA}")
    if event.get("seq") != number:
        raise ValueError(f"seq = {event.get('seq')}: must be {number}, a line is missing or doubled")
    if not isinstance(event.get("event"), str):
        raise ValueError("event is missing")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(value: Any) -> Any:
    """`value` with every number that is not finite as null: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# The rules: for each event its fields, what forbids it (a fault or ""), and what it changes.


def _target(event: Mapping[str, Any]) -> str:
    if event["event"] == "reported":
        return f" at milestone {event['milestone']}"
    return f" as {event['state']}" if event["event"] == "ended" else ""


def matched_to(config: Mapping[str, Any]) -> str | None:
    """The trial that a config (nested dict) is the control of."""
    return (config.get("epochs") or {}).get("matched_to")


def _never(view: LedgerView, event: Mapping[str, Any]) -> str:
    return ""


def _open(view: LedgerView, event: Mapping[str, Any]) -> None:
    view.opened.append(dict(event))


def _proposed_fault(view: LedgerView, event: Mapping[str, Any]) -> str:
    if event["trial"] in view.trials:
        return f"it is {view.trials[event['trial']].state} already"
    if event["origin"] == "matched":
        pair = view.trials.get(matched_to(event["config"]) or "")
        if pair is None or pair.state is not State.COMPLETE:
            return f"the trial it is the control of is {'unknown' if pair is None else pair.state}"
    return "" if event["origin"] in ORIGINS else f"origin = {event['origin']}: must be one of {', '.join(ORIGINS)}"


def _propose(view: LedgerView, event: Mapping[str, Any]) -> None:
    names = ("trial", "configuration", "seed", "config", "origin")
    view.trials[event["trial"]] = TrialRecord(**{name: event[name] for name in names})


def _reported_fault(view: LedgerView, event: Mapping[str, Any]) -> str:
    record = view.trials.get(event["trial"])
    if record is None:
        return "it was never proposed"
    if record.state is not State.RUNNING:
        return f"it is {record.state}"
    last = record.reports[-1] if record.reports else None
    if last and event["milestone"] <= last.milestone:
        return f"it has reported {last.milestone} already"
    if last and last.decision == STOP:
        return f"it was told to stop at milestone {last.milestone}"
    if not isinstance(event["value"], int | float):
        return f"value = {event['value']}: must be a finite number"
    return "" if event["decision"] in (CONTINUE, STOP) else f"decision = {event['decision']}: must be {CONTINUE} or {STOP}"


def _report(view: LedgerView, event: Mapping[str, Any]) -> None:
    names = ("milestone", "words_seen", "metrics", "value", "decision")
    view.trials[event["trial"]].reports.append(Reported(**{name: event[name] for name in names}))
    view.history.append((event["trial"], event["milestone"]))


def _ended_fault(view: LedgerView, event: Mapping[str, Any]) -> str:
    record = view.trials.get(event["trial"])
    if record is None:
        return "it was never proposed"
    if record.state is not State.RUNNING:
        return f"it is {record.state} already"
    final = [state.value for state in State if state is not State.RUNNING]
    if event["state"] not in final:
        return f"must be one of {', '.join(final)}"
    if event["state"] == State.STOPPED and not record.stop_decided:
        return "it is running and no decision to stop it is recorded"
    if event["state"] == State.COMPLETE and record.stop_decided:
        return f"it was told to stop at milestone {record.reports[-1].milestone}"
    return ""


def _end(view: LedgerView, event: Mapping[str, Any]) -> None:
    record = view.trials[event["trial"]]
    record.state, record.message = State(event["state"]), event["message"]


def _scored_fault(view: LedgerView, event: Mapping[str, Any]) -> str:
    record = view.trials.get(event["trial"])
    if record is None:
        return "it was never proposed"
    if record.state is State.FAILED:
        return f"it is {record.state}"
    return "it is scored already" if record.scores is not None else ""


def _score(view: LedgerView, event: Mapping[str, Any]) -> None:
    view.trials[event["trial"]].scores = dict(event["tasks"])


_Fault = Callable[[LedgerView, Mapping[str, Any]], str]
_Change = Callable[[LedgerView, Mapping[str, Any]], None]

_RULES: dict[str, tuple[tuple[str, ...], _Fault, _Change]] = {
    "opened": (("spec", "versions", "precision", "corpus_digest", "tokenizer_digest"), _never, _open),
    "proposed": (("trial", "configuration", "seed", "config", "origin"), _proposed_fault, _propose),
    "reported": (("trial", "milestone", "words_seen", "metrics", "value", "decision"), _reported_fault, _report),
    "ended": (("trial", "state", "message"), _ended_fault, _end),
    "scored": (("trial", "words_seen", "tasks"), _scored_fault, _score),
}
