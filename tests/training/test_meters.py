"""Instruments: time goes to the part it was spent in, and totals go on where an earlier process left them."""

import time

import pytest
import torch

from sleep_tune.training import meters
from sleep_tune.training.loop import StepRecord
from sleep_tune.training.meters import Meters, matmul_ceiling, peak_bytes, present_bytes, reset_peak


def spend(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def record(step: int, phase: str, cycle: int, wall_s: float) -> StepRecord:
    return StepRecord(step, cycle, phase, 100 * step, 1.0, 1e-3, 1.0, 130, wall_s)


def test_time_goes_to_the_part_it_was_spent_in(micro):
    told, began = Meters(micro("default"), 400, 1e9), time.perf_counter()
    told.begin()
    for step, (phase, cycle, took, wall_s) in enumerate(
        [("wake", 0, 0.02, 0.02), ("wake", 0, 0.02, 0.02), ("sleep", 0, 0.05, 0.01), ("sleep", 0, 0.03, 0.03), ("wake", 1, 0.02, 0.01)], 1
    ):
        spend(took)
        if step == 4:
            with told.part("evaluation"):
                spend(0.04)
        told.step(record(step, phase, cycle, wall_s))
    with told.part("checkpoint"):
        spend(0.01)
    passed = time.perf_counter() - began
    spent = {"wake": 0.05, "sleep": 0.04, "selection": 0.05, "evaluation": 0.04, "checkpoint": 0.01}
    assert all(told.seconds[part] >= seconds - 1e-6 for part, seconds in spent.items())
    assert sum(told.seconds.values()) <= passed + 1e-6  # so nothing is counted twice, however busy the machine
    row = told.row()
    assert row["words_seen"] == 500
    assert row["tokens_per_s"] == pytest.approx(650 / told.training_s)
    assert row["utilisation"] == pytest.approx(row["flops"] / 1e9)
    assert told.summary().startswith("wake ")


def test_plain_epochs_select_nothing(micro):
    told = Meters(micro("epochs"), 400, 0.0)
    told.begin()
    for step in range(1, 4):
        spend(0.005)
        told.step(record(step, "wake", step, 0.001))
    assert told.seconds["selection"] == 0
    assert told.seconds["wake"] >= 0.015
    assert (told.row()["utilisation"], "peak" in told.brief()) == (0.0, False)


def test_totals_go_on_where_an_earlier_process_left_them(micro):
    first, second = (Meters(micro("default"), 400, 1e9) for _ in range(2))
    first.begin()
    spend(0.005)
    first.step(record(1, "wake", 0, 0.005))
    second.take_up(first.row())
    assert {**second.row(), "peak_bytes": 0} == {**first.row(), "peak_bytes": 0} | {
        key: pytest.approx(first.row()[key], rel=0.05) for key in ("words_per_s", "tokens_per_s", "flops", "utilisation")
    }
    assert second.row()["peak_bytes"] >= first.row()["peak_bytes"]


def test_the_ceiling_is_measured_once_and_kept(micro, cache):
    first = matmul_ceiling(torch.device("cpu"), "fp32")
    assert 1e8 < first < 1e14
    assert matmul_ceiling(torch.device("cpu"), "fp32", workers=2) == 2 * first
    kept = cache / "ceilings.json"
    assert "fp32" in kept.read_text()
    kept.write_text("{damaged")
    assert matmul_ceiling(torch.device("cpu"), "fp32") > 0
    assert kept.read_text().startswith("{\n")


def test_a_peak_of_memory_is_of_the_present_trial():
    reset_peak()
    held = torch.ones(10 << 20)
    peak = peak_bytes()
    assert peak >= present_bytes() >= held.numel() * 4
    del held
    reset_peak()
    assert peak_bytes() <= peak
    assert meters.gpu_peak_bytes() == 0 or torch.cuda.is_available()
