"""What W&B and TensorBoard get, read back from the files they wrote: every point once, whatever is killed in between."""

import dataclasses
import json
import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sleep_tune.config import Config, Tracking, load_config
from sleep_tune.presets import combine
from sleep_tune.study.tracking import POINTS, Tracker, read_mark
from sleep_tune.study.tracking_services import run_id, wandb_mode
from sleep_tune.training.loop import StepRecord

BUDGET = 20_000


@dataclass
class Report:
    milestone: int
    words_seen: int
    metrics: dict[str, float]


def config(wandb: str = "off", tensorboard: bool = True) -> Config:
    raw = combine(["tiny", "weighted_replay"])
    return load_config({**raw, "seed": 1, "budget_words": BUDGET, "tracking": {"wandb": wandb, "tensorboard": tensorboard}})


def steps(first: int, last: int) -> list[StepRecord]:
    """Steps of 50 words, two to a point; cycles of 40 steps, the second half asleep."""
    return [
        StepRecord(n, n // 40, "sleep" if n % 40 >= 20 else "wake", n * 50, 5 - n / 400, 1e-3, 1.0, 130, 0.01)
        for n in range(first, last + 1)
    ]


def append(directory: Path, records: list[StepRecord]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "steps.jsonl").open("a") as file:
        file.writelines(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)


def tensorboard_points(directory: Path) -> list[tuple[int, dict[str, float]]]:
    """(words, values) of every event: TFRecords of length, crc, data, crc."""
    from tensorboardX.proto.event_pb2 import Event

    points = []
    for path in sorted(directory.glob("events.*"), key=lambda path: int(path.suffix[1:])):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            if event.summary.value:
                points.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
    return points


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: blocks of 32 KiB with pieces of crc, length, kind (whole, first, middle, last), data."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, held = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        held, place = held + data[place + 7 : place + 7 + length], place + 7 + length
        if kind in (1, 4):
            yield Record.FromString(held)
            held = b""


def wandb_history(root: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(root.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                found.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return found


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "study" / "trials" / "t1").mkdir(parents=True)
    return tmp_path / "study" / "trials" / "t1"


def test_points_are_means_cut_where_the_phase_changes(trial: Path) -> None:
    tracker = Tracker(config(), "study", "t1", trial)
    tracker.log(steps(1, 100))
    tracker.finish({"pairs": 81.0})
    points = tensorboard_points(trial.parent.parent / "tensorboard" / "t1")
    curve = [(words, values) for words, values in points if "loss" in values]
    assert curve[0][0] == 50  # step 1 alone: words 0 to 99 are the first cell of 20,000 / 200
    assert curve[1][1]["loss"] == pytest.approx(5 - 2.5 / 400)  # steps 2 and 3
    assert [words for words, _ in curve] == sorted({words for words, _ in curve})
    assert all(("sleep/loss" in values) == (values["sleeping"] == 1.0) for _, values in curve)
    assert points[-1][1] == {"final/pairs": 81.0}


def test_the_number_of_points_does_not_grow_with_the_steps(trial: Path) -> None:
    tracker = Tracker(config(), "study", "t1", trial)
    fine = [dataclasses.replace(step, step=n, words_seen=step.words_seen // 10) for n, step in enumerate(steps(1, 4000), start=1)]
    tracker.log([dataclasses.replace(step, phase="wake", cycle=0) for step in fine])
    tracker.finish({})
    assert len(tensorboard_points(trial.parent.parent / "tensorboard" / "t1")) <= POINTS + 2


def test_a_killed_trial_sends_every_step_once(trial: Path) -> None:
    """Steps 1 to 60 are under a checkpoint, 61 to 90 were sent as far as points were full and are trained again."""
    append(trial, steps(1, 60))
    killed = Tracker(config(), "study", "t1", trial)
    killed.log(steps(61, 90))
    killed.close()  # what is not a whole point yet is lost with the process
    resumed = Tracker(config(), "study", "t1", trial)
    resumed.log(steps(61, 120))
    resumed.finish({})
    once = trial.parent / "t2"
    calm = Tracker(config(), "study", "t2", once)
    once.mkdir()
    calm.log(steps(1, 120))
    calm.finish({})
    root = trial.parent.parent / "tensorboard"
    assert tensorboard_points(root / "t1") == tensorboard_points(root / "t2")


def test_a_milestone_is_sent_once(trial: Path) -> None:
    for _ in range(2):  # a resumed trial reports again what the ledger lacks
        tracker = Tracker(config(), "study", "t1", trial)
        tracker.log(steps(1, 40))
        tracker.report(Report(2000, 2010, {"dev_loss": 4.5}))
        tracker.close()
    points = tensorboard_points(trial.parent.parent / "tensorboard" / "t1")
    assert [words for words, values in points if "dev_loss" in values] == [2010]
    assert read_mark(trial / "tracked").milestone == 2000


def test_a_finished_trial_that_is_looked_at_again_costs_nothing(trial: Path) -> None:
    tracker = Tracker(config(), "study", "t1", trial)
    tracker.log(steps(1, 10))
    tracker.finish({"pairs": 80.0})
    before = {path: path.stat().st_mtime_ns for path in trial.parent.parent.rglob("*")}
    Tracker(config(), "study", "t1", trial).finish({"pairs": 80.0})
    assert {path: path.stat().st_mtime_ns for path in trial.parent.parent.rglob("*")} == before


def test_what_is_off_writes_nothing(trial: Path) -> None:
    tracker = Tracker(config(tensorboard=False), "study", "t1", trial)
    tracker.log(steps(1, 100))
    tracker.report(Report(2000, 2010, {"dev_loss": 4.5}))
    tracker.finish({})
    assert [path.name for path in trial.parent.parent.rglob("*")] == ["trials", "t1"]


def test_a_place_that_cannot_be_written_is_one_warning(trial: Path) -> None:
    (trial.parent.parent / "tensorboard").write_text("a file where a directory should be")
    warnings: list[str] = []
    tracker = Tracker(config(), "study", "t1", trial, warn=warnings.append)
    tracker.log(steps(1, 100))
    tracker.report(Report(2000, 2010, {"dev_loss": 4.5}))
    tracker.finish({})
    assert len(warnings) == 1
    assert "tensorboard is lost for this trial, which goes on" in warnings[0]


@pytest.mark.parametrize(
    ("setting", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("online", {}, "online"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
    ],
)
def test_wandb_is_online_only_where_it_can_be(setting: Any, environment: dict[str, str], mode: str) -> None:
    assert wandb_mode(Tracking(wandb=setting), environment) == mode


def test_run_ids_are_equal_at_every_start_and_in_wandbs_alphabet() -> None:
    assert run_id("grid-pilot", "a1b2") == "grid-pilot-a1b2"
    assert run_id("a b/c", "x" * 200)[-120:] == "x" * 120
    assert run_id("a b/c", "x") == "a-b-c-x"


def test_a_wandb_run_holds_the_curve_the_milestones_and_the_final_scores(
    trial: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.delenv(f"WANDB_{kind}_DIR", raising=False)
    study = trial.parent.parent
    for half in (steps(1, 60), steps(61, 120)):  # two starts, the second goes on with the run
        tracker = Tracker(config("offline", tensorboard=False), "study", "t1", trial)
        tracker.log(half)
        tracker.report(Report(half[-1].words_seen, half[-1].words_seen, {"dev_loss": 4.0}))
        if half[-1].step == 60:
            tracker.close()
    tracker.finish({"pairs": 81.5})
    history = wandb_history(study)
    sent = [point["_step"] for point in history if "loss" in point]
    assert sent == sorted(set(sent))
    assert sent[-1] == 120
    assert [point["words_seen"] for point in history if "dev_loss" in point] == [3000, 6000]
    files = list(study.glob("wandb/offline-run-*/run-study-t1.wandb"))
    records = [record for path in files for record in wandb_records(path)]
    assert {record.run.run_group for record in records if record.WhichOneof("record_type") == "run"} == {"study"}
    summaries = [item for record in records if record.WhichOneof("record_type") == "summary" for item in record.summary.update]
    assert {json.loads(item.value_json) for item in summaries if (item.key or ".".join(item.nested_key)) == "pairs"} == {81.5}
    assert list(home.iterdir()) == []


def services() -> list[int]:
    """Process ids of this process's W&B services."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name == "wandb-core" and int(rest.split()[1]) == os.getpid():
            found.append(int(path.parent.name))
    return found


def test_the_death_of_wandb_is_one_warning_and_the_next_trial_has_it_again(trial: Path) -> None:
    warnings: list[str] = []
    tracker = Tracker(config("offline", tensorboard=False), "study", "t1", trial, warn=warnings.append)
    tracker.log(steps(1, 40))
    for process in services():
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    tracker.log(steps(41, 400))
    tracker.finish({"pairs": 80.0})
    assert len(warnings) == 1
    assert "wandb is lost for this trial, which goes on" in warnings[0]
    following = trial.parent / "t2"
    following.mkdir()
    tracker = Tracker(config("offline", tensorboard=False), "study", "t2", following, warn=warnings.append)
    tracker.log(steps(1, 40))
    tracker.finish({"pairs": 80.0})
    assert len(warnings) == 1
    assert list(trial.parent.parent.glob("wandb/offline-run-*/run-study-t2.wandb"))


@pytest.mark.slow
def test_a_server_that_does_not_answer_leaves_the_run_offline(trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    warnings: list[str] = []
    tracker = Tracker(config("auto", tensorboard=False), "study", "t1", trial, warn=warnings.append)
    tracker.log(steps(1, 40))
    tracker.finish({"pairs": 80.0})
    assert len(warnings) == 1
    assert "W&B does not answer, runs are kept offline" in warnings[0]
    assert [point["_step"] for point in wandb_history(trial.parent.parent) if "loss" in point][-1] == 40
