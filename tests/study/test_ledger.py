"""The ledger: what may follow what, what survives a cut at any byte, and who may write."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sleep_tune.disk import full_line, is_full
from sleep_tune.errors import RunError, UserError
from sleep_tune.study.ledger import CONTINUE, FILE, STOP, Ledger, State, read_ledger

OPENED = {"spec": {"seeds": [1]}, "versions": {}, "precision": "fp32", "corpus_digest": "c", "tokenizer_digest": "t"}


def proposed(trial: str = "a", **changes: Any) -> dict[str, Any]:
    return {"trial": trial, "configuration": "k", "seed": 1, "config": {"x": 1}, "origin": "grid", **changes}


def reported(trial: str = "a", milestone: int = 10, **changes: Any) -> dict[str, Any]:
    fields = {"trial": trial, "milestone": milestone, "words_seen": milestone + 1, "metrics": {"dev_loss": 2.0}, "value": 2.0}
    return {**fields, "decision": CONTINUE, **changes}


def ended(trial: str = "a", state: str = "complete", message: str | None = None) -> dict[str, Any]:
    return {"trial": trial, "state": state, "message": message}


def scored(trial: str = "a") -> dict[str, Any]:
    return {"trial": trial, "words_seen": 11, "tasks": {"pairs": 80.0}}


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger(tmp_path / "study") as opened:
        opened.append("opened", **OPENED)
        opened.append("proposed", **proposed())
        yield opened


def lines(ledger: Ledger) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ledger.view.path).read_text().splitlines()]


def test_each_line_carries_schema_number_time_and_attempt(ledger: Ledger) -> None:
    ledger.append("opened", **OPENED)
    ledger.append("reported", **reported())
    assert [(line["schema"], line["seq"], line["attempt"], line["event"]) for line in lines(ledger)] == [
        (1, 1, 1, "opened"),
        (1, 2, 1, "proposed"),
        (1, 3, 2, "opened"),
        (1, 4, 2, "reported"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["at"]) for line in lines(ledger))


def test_a_trial_is_known_as_its_events_tell_it(ledger: Ledger) -> None:
    ledger.append("reported", **reported(decision=STOP))
    ledger.append("scored", **scored())
    ledger.append("ended", **ended(state="stopped"))
    record = read_ledger(ledger.view.path).trials["a"]
    assert (record.state, record.scores, record.stop_decided, record.unfinished) == (State.STOPPED, {"pairs": 80.0}, True, False)
    assert record.reports[0].metrics == {"dev_loss": 2.0}


@pytest.mark.parametrize(
    ("before", "event", "fields", "said"),
    [
        ([], "proposed", proposed(), "cannot be proposed: it is running already"),
        ([("ended", ended())], "proposed", proposed(), "cannot be proposed: it is complete already"),
        ([], "reported", reported("b"), "trial b cannot be reported at milestone 10: it was never proposed"),
        ([("reported", reported())], "reported", reported(), "it has reported 10 already"),
        ([("reported", reported(milestone=20))], "reported", reported(), "it has reported 20 already"),
        ([("reported", reported(decision=STOP))], "reported", reported(milestone=20), "it was told to stop at milestone 10"),
        ([("ended", ended(state="failed", message="boom"))], "reported", reported(), "it is failed"),
        ([("ended", ended())], "ended", ended(state="failed"), "cannot be ended as failed: it is complete already"),
        ([], "ended", ended(state="running"), "must be one of complete, stopped, diverged, failed"),
        ([], "ended", ended(state="stopped"), "no decision to stop it is recorded"),
        ([("reported", reported(decision=STOP))], "ended", ended(), "it was told to stop at milestone 10"),
        ([("scored", scored())], "scored", scored(), "it is scored already"),
        ([("ended", ended(state="failed"))], "scored", scored(), "it is failed"),
        ([], "reported", reported(value=float("nan")), "must be a finite number"),
        ([], "reported", reported(decision="PAUSE"), "decision = PAUSE"),
        ([], "proposed", proposed("b", origin="dice"), "origin = dice"),
        ([], "forgotten", {"trial": "a"}, "event forgotten: must be one of opened, proposed"),
        ([], "ended", {"trial": "a"}, "event ended: state is missing"),
    ],
)
def test_what_may_not_follow_is_refused_by_the_state_found(
    ledger: Ledger, before: list[Any], event: str, fields: dict[str, Any], said: str
) -> None:
    for name, values in before:
        ledger.append(name, **values)
    text = ledger.view.path.read_text()
    with pytest.raises(RunError, match=re.escape(said)):
        ledger.append(event, **fields)
    assert ledger.view.path.read_text() == text
    assert read_ledger(ledger.view.path) == ledger.view


def test_of_several_events_none_is_added_where_one_is_refused(ledger: Ledger) -> None:
    with pytest.raises(RunError):
        ledger.append_all([("scored", scored()), ("ended", ended(state="stopped"))])
    assert ledger.view.trials["a"].scores is None
    ledger.append_all([("scored", scored()), ("ended", ended())])
    assert read_ledger(ledger.view.path).trials["a"].state is State.COMPLETE


def test_a_number_that_is_none_is_written_as_null(ledger: Ledger) -> None:
    ledger.append("reported", **reported(metrics={"dev_loss": float("inf"), "pairs": float("nan"), "ok": 1.5}))
    assert lines(ledger)[-1]["metrics"] == {"dev_loss": None, "pairs": None, "ok": 1.5}


events = st.lists(st.sampled_from(["opened", "proposed", "reported", "stop", "scored", "ended"]), max_size=25)


@settings(max_examples=40, deadline=None)
@given(names=events, data=st.data())
def test_a_file_cut_at_any_byte_is_a_valid_prefix_that_goes_on(
    names: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("cut")
    with Ledger(directory) as ledger:
        ledger.append("opened", **OPENED)
        for number, name in enumerate(names):
            _try(ledger, name, number, data.draw(st.integers(0, 2)))
    whole = (directory / FILE).read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    (directory / FILE).write_bytes(whole[:size])
    kept = whole[: whole.rfind(b"\n", 0, size) + 1]
    assert read_ledger(directory).seq == kept.count(b"\n")
    with Ledger(directory) as ledger:
        assert (directory / FILE).read_bytes() == kept
        ledger.append("opened", **OPENED)
        assert read_ledger(directory) == ledger.view
    assert (directory / FILE).read_bytes().startswith(kept)


def _try(ledger: Ledger, name: str, number: int, which: int) -> None:
    trial = "abc"[which]
    fields: dict[str, Callable[[], dict[str, Any]]] = {
        "opened": lambda: OPENED,
        "proposed": lambda: proposed(trial),
        "reported": lambda: reported(trial, number + 1),
        "stop": lambda: reported(trial, number + 1, decision=STOP),
        "scored": lambda: scored(trial),
        "ended": lambda: ended(trial, "diverged"),
    }
    try:
        ledger.append(name.replace("stop", "reported"), **fields[name]())
    except RunError:
        assert read_ledger(ledger.view.path) == ledger.view


@pytest.mark.parametrize("tail", [b'{"schema": 1, "se', b"\0\0\0\0", b'{"schema": 1, "seq": 3}garbage\n', b"\xff\xfe\n"])
def test_a_torn_last_line_is_cut_at_opening_and_ignored_by_readers(ledger: Ledger, tail: bytes) -> None:
    ledger.close()
    path = ledger.view.path
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert read_ledger(path).seq == 2
    assert path.read_bytes() == whole + tail
    with Ledger(path.parent):
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not json", "line 2: corrupt"),
        (b'{"schema": 1, "seq": 2, "event": "proposed"}', "line 2: event proposed: trial is missing"),
        (b'{"schema": 1, "seq": 7, "event": "opened"}', "line 2: seq = 7: must be 2"),
        (b'{"schema": 9, "seq": 2, "event": "opened"}', "line 2: schema = 9: this version reads 1"),
        (b"[1, 2]", "line 2: not a JSON object"),
        (b'{"schema": 1, "seq": 2, "event": "reported", "value": NaN}', "line 2: corrupt: NaN"),
    ],
)
def test_a_corrupt_line_in_the_middle_is_one_line_that_names_it(ledger: Ledger, line: bytes, said: str) -> None:
    ledger.append("reported", **reported())
    ledger.close()
    path = ledger.view.path
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(rows[0] + line + b"\n" + rows[2])
    for attempt in (read_ledger, lambda where: Ledger(where.parent)):
        with pytest.raises(RunError, match=re.escape(said)) as caught:
            attempt(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_second_process_is_refused_with_the_first_ones_id_and_host(ledger: Ledger) -> None:
    code = "import sys, pathlib; from sleep_tune.study.ledger import Ledger; Ledger(pathlib.Path(sys.argv[1]))"
    second = subprocess.run([sys.executable, "-c", code, str(ledger.view.path.parent)], capture_output=True, text=True)
    assert second.returncode == 1
    assert f"is being run by process {os.getpid()} on host {os.uname().nodename}" in second.stderr
    ledger.close()
    assert subprocess.run([sys.executable, "-c", code, str(ledger.view.path.parent)]).returncode == 0


FULL = """
import pathlib, resource, signal, sys
from sleep_tune.errors import RunError
from sleep_tune.study.ledger import Ledger, read_ledger
directory = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Ledger(directory) as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (ledger.view.path.stat().st_size + 40, resource.RLIM_INFINITY))
    try:
        ledger.append("proposed", trial="b", configuration="k", seed=1, config={}, origin="grid")
    except RunError as error:
        print(error)
    assert "b" not in ledger.view.trials
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.append("proposed", trial="c", configuration="k", seed=1, config={}, origin="grid")
assert list(read_ledger(directory).trials) == ["a", "c"]
"""


def test_a_write_that_fails_half_way_leaves_the_ledger_as_it_was(ledger: Ledger) -> None:
    ledger.close()
    ran = subprocess.run([sys.executable, "-c", FULL, str(ledger.view.path.parent)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "cannot be written: File too large" in ran.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_full_disk_is_named_with_what_is_free_and_needed(tmp_path: Path) -> None:
    inner = OSError(errno.ENOSPC, "No space left on device")
    outer = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    assert is_full(inner, tmp_path)
    assert is_full(outer, tmp_path)
    assert not is_full(ValueError("no space"), tmp_path)
    assert re.fullmatch(
        r"disk full: /\S*, where .* lies, has [\d.]+ MB free of the 3.0 MB needed; .*same command again", full_line(tmp_path, 3_000_000)
    )


def test_a_missing_ledger_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_ledger(tmp_path / FILE)
