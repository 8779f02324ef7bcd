"""What a study costs, checked by hand and against the rule it stands for."""

import json

import numpy as np
import pytest

from sleep_tune.config import load_config
from sleep_tune.machine import Machine, machine, resolve_precision
from sleep_tune.presets import combine, set_field
from sleep_tune.study.calibration import calibration_file, read_calibration, record_calibration
from sleep_tune.study.estimate import (
    DRIVER_BYTES,
    STUDY_SECONDS,
    Speed,
    Work,
    cost,
    expected_words,
    mean_speed,
    memory_bytes,
    passing,
    show_bytes,
    show_seconds,
)
from sleep_tune.training.sizes import RAY_BYTES, process_memory

TINY = load_config(combine(["tiny", "epochs"]))


def test_the_first_trial_passes_a_rung_and_the_second_in_half_of_all_orders() -> None:
    assert passing(1, 3) == 1
    assert passing(2, 3) == pytest.approx(1.5)
    # the third passes above 1/3 of the way from the second best to the best of two: on average 5/9 of all values lie below
    assert passing(3, 3) == pytest.approx(1.5 + 4 / 9)


def test_the_expectation_is_that_of_the_rule_it_describes() -> None:
    generator = np.random.default_rng(0)
    passed = 0
    for _ in range(300):
        values = generator.uniform(size=20)
        passed += sum(m == 0 or values[m] >= np.percentile(values[:m], 100 * 2 / 3) for m in range(20))
    assert passing(20, 3) == pytest.approx(passed / 300, abs=0.35)


def test_words_without_a_scheduler_are_all_words() -> None:
    assert expected_words(7, 1000, [], None) == 7000


def test_words_under_asha_add_up_rung_by_rung() -> None:
    # 2 trials to 100; 1.5 of them on to 300; of those 1 + 0.5 * 0.5 on to 900
    assert expected_words(2, 900, [100, 300], 3) == 2 * 100 + 1.5 * 200 + 1.25 * 600


def test_always_trials_cost_their_whole_budget_and_time_is_shared_by_trials_side_by_side() -> None:
    speed = Speed(words_per_s=100, overhead_s=2, rss_bytes=1 << 20, trials=4)
    total = cost(Work(points=2, seeds=1, always=1, budget_words=900, rungs=[100, 300], reduction=3), concurrent=2, speed=speed)
    assert (total.trials, total.most_words, total.expected_words) == (3, 2700, 1250 + 900)
    assert total.expected_s == STUDY_SECONDS + (21.5 + 6) / 2
    assert total.most_s == STUDY_SECONDS + (27 + 6) / 2
    assert total.trial_s == 9 + 2
    assert memory_bytes(total.trials, 2, speed.rss_bytes) == DRIVER_BYTES + (2 << 20)
    assert memory_bytes(1, 2, speed.rss_bytes) == DRIVER_BYTES + (1 << 20)


def test_seeds_of_a_configuration_pass_together() -> None:
    def work(points: int, seeds: int) -> int:
        return cost(Work(points, seeds, 0, 900, [100, 300], 3), concurrent=1, speed=None).expected_words

    assert work(2, 3) == 3 * work(2, 1) > work(6, 1)


def test_nothing_is_said_of_time_without_a_calibration() -> None:
    total = cost(Work(points=2, seeds=1, always=0, budget_words=900), concurrent=2, speed=None)
    assert (total.expected_s, total.most_s, total.trial_s) == (None, None, None)


def test_a_recorded_speed_is_found_for_trials_of_that_shape_only() -> None:
    config = load_config(set_field(combine(["tiny", "epochs"]), "model.layers", 3))
    assert read_calibration(config) is None
    record_calibration(config, 1000.0, 500 << 20, overhead_s=1.0)
    record_calibration(config, 2000.0, 400 << 20, overhead_s=1.0)
    speed = read_calibration(config)
    assert speed == Speed(words_per_s=pytest.approx(1300.0), overhead_s=pytest.approx(1.0), rss_bytes=500 << 20, trials=2)
    assert read_calibration(config.model_copy(update={"seed": 5, "budget_words": 7})) == speed
    assert read_calibration(load_config(set_field(combine(["tiny", "epochs"]), "model.layers", 4))) is None


def test_what_was_tried_out_gives_way_to_the_first_trial_and_never_to_what_ran() -> None:
    config = load_config(set_field(combine(["tiny", "epochs"]), "model.layers", 5))
    record_calibration(config, 1000.0, 500 << 20, overhead_s=1.0, trials=0)
    record_calibration(config, 1100.0, 400 << 20, overhead_s=3.0, trials=0)
    assert read_calibration(config) == Speed(1100.0, 3.0, 400 << 20, 0)
    record_calibration(config, 2000.0, 450 << 20, overhead_s=2.0)
    record_calibration(config, 9.0, 9, overhead_s=9.0, trials=0)
    assert read_calibration(config) == Speed(2000.0, 2.0, 450 << 20, 1)


def test_trials_of_several_shapes_are_expected_to_take_their_mean_time_and_the_memory_of_the_largest() -> None:
    mean = mean_speed([(Speed(100, 1, 5, 2), 3), (Speed(50, 5, 9, 0), 1)])
    assert 1 / mean.words_per_s == pytest.approx((3 / 100 + 1 / 50) / 4)
    assert (mean.overhead_s, mean.rss_bytes, mean.trials) == (2, 9, 0)


@pytest.mark.parametrize(
    ("presets", "fields", "words", "measured_mib"),
    [  # the peaks of runs on two cores of an AMD EPYC, without Ray
        (["tiny", "default"], {"training.precision": "fp32"}, 50_000, 496),
        (["pilot", "default"], {"training.precision": "bf16", "evaluation.final.tasks": ["blimp"]}, 300_000, 1205),
        (["strict-small", "default"], {"training.precision": "bf16", "evaluation.final.tasks": ["blimp"]}, 300_000, 2166),
        (["strict-small", "default"], {"training.precision": "fp32", "evaluation.final.tasks": ["blimp"]}, 300_000, 2161),
    ],
)
def test_memory_is_known_from_sizes_to_within_a_fifth(presets: list[str], fields: dict, words: int, measured_mib: int) -> None:
    raw = combine(presets)
    for field, value in fields.items():
        raw = set_field(raw, field, value)
    config = load_config(raw)
    memory = process_memory(config, config.tokenizer.vocab_size, words // 10, words * 3 // 2)
    assert (memory.host - RAY_BYTES) / (measured_mib << 20) == pytest.approx(1, abs=0.2)
    assert memory.gpu == 0


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"x": 1}), "\x00"])
def test_a_damaged_calibration_counts_as_none(content: str) -> None:
    calibration_file().parent.mkdir(parents=True, exist_ok=True)
    calibration_file().write_text(content)
    assert read_calibration(TINY) is None
    record_calibration(TINY, 10.0, 1)
    assert read_calibration(TINY) == Speed(10.0, 0.0, 1, 1)


def test_times_and_sizes_are_said_as_people_say_them() -> None:
    assert [show_seconds(s) for s in (40, 300, 11_520, 181_440)] == ["40 s", "5 min", "3.2 h", "2.1 days"]
    assert [show_bytes(b) for b in (800 << 20, 1288490189)] == ["800 MiB", "1.2 GiB"]


def on(cpu_bf16: bool, gpus: tuple[str, ...] = (), gpu_bf16: bool = False) -> Machine:
    return Machine("a processor", 2, 8 << 30, gpus, gpu_bf16, cpu_bf16)


def test_bf16_is_for_wide_models_on_processors_that_have_it() -> None:
    pilot = load_config(combine(["pilot", "epochs"]))
    assert resolve_precision([pilot], on(cpu_bf16=True)) == "bf16"
    assert resolve_precision([pilot], on(cpu_bf16=False)) == "fp32"
    assert resolve_precision([pilot, TINY], on(cpu_bf16=True)) == "fp32"
    on_gpu = load_config(set_field(combine(["tiny", "epochs"]), "resources.gpus", 1))
    assert resolve_precision([on_gpu], on(cpu_bf16=False, gpus=("H100",), gpu_bf16=True)) == "bf16"
    assert resolve_precision([on_gpu], on(cpu_bf16=True, gpus=("P100",))) == "fp32"


def test_this_machine_has_a_core_and_some_memory() -> None:
    assert machine().cores >= 1
    assert machine().memory_bytes > 1 << 28
