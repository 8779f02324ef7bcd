"""Study files become the trials they say, and what they may not say is one line."""

import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import Model, Ratio, configuration_id, trial_id
from sleep_tune.errors import UserError
from sleep_tune.sleep.schedule import CorpusSize, outlook
from sleep_tune.streams import stream
from sleep_tune.study.catalogue import shipped
from sleep_tune.study.dimensions import LogUniform, RandInt, Uniform
from sleep_tune.study.rules import Changes, change, check, warnings
from sleep_tune.study.spaces import read_space
from sleep_tune.study.spec import Study, load_spec

BASE: dict[str, Any] = {"base": ["tiny", "weighted_replay"], "seeds": [1, 2]}


def study(**fields: Any) -> Study:
    return check(Study("study", "", load_spec({**BASE, **fields})))


def shipped_study(name: str, changes: Changes | None = None) -> Study:
    stem, about, spec = read_space(name)
    return check(Study(stem, about, change(spec, changes or Changes())))


def line(**fields: Any) -> str:
    with pytest.raises(UserError) as refused:
        study(**fields)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_grid_space_is_the_published_comparison_of_52_trials() -> None:
    grid = shipped_study("grid")
    assert (len(grid.grid()), len(grid.always()), grid.trials_planned) == (48, 4, 52)
    assert {config.budget_words for config in (*grid.grid(), *grid.always())} == {200_000}
    assert grid.rungs() == [22_222, 66_666]
    assert grid.milestones()[-1] == 200_000
    assert set(grid.rungs()) <= set(grid.milestones())


def test_the_paper_grid_is_the_published_180_trials() -> None:
    paper = shipped_study("paper_grid")
    points = {(c.sleep.replay_ratio, c.sleep.folds, c.sleep.length.ratio, c.seed) for c in paper.grid() if c.sleep}  # type: ignore[union-attr]
    assert points == set(product((0.05, 0.1, 0.2, 0.4, 0.8), (50, 100, 200), (10.0, 20.0, 40.0, 80.0), (1, 2, 3)))
    sleep = paper.first.sleep
    assert sleep is not None
    assert (sleep.strategy.name, sleep.decay, sleep.decay_floor) == ("strict", 0.0533, 0.1)


def test_smoke_is_two_strategies_by_two_ratios_by_two_seeds_with_epochs_beside_them() -> None:
    smoke = shipped_study("smoke")
    assert {(c.sleep.strategy.name, c.sleep.replay_ratio, c.seed) for c in smoke.grid() if c.sleep} == set(
        product(("random", "weighted"), (0.1, 0.4), (1, 2))
    )
    assert [(c.sleep, c.seed) for c in smoke.always()] == [(None, 1), (None, 2)]
    assert smoke.budget_words == 40_000


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_space_asks_a_question_and_wakes_nearly_all_samples(name: str) -> None:
    asked = shipped_study(name)
    assert "?" in asked.about
    corpus_words = asked.first.data.words or {"tiny": 50_000, "strict-small": 10_000_000}[asked.spec.profile]
    samples = corpus_words // 6 if asked.first.data.rows == "lines" else corpus_words // 90
    for config in [*asked.searched(), *asked.always()]:
        if config.sleep is not None:
            size = CorpusSize(samples, corpus_words, corpus_words / samples)
            seen = outlook(config.sleep, size, config.training.batch_rows, config.budget_words)
            assert seen.coverage >= 0.98, config.sleep
            assert seen.sleeps > 0 or config.sleep.length == Ratio(ratio=0)


@pytest.mark.parametrize("name", shipped())
def test_a_stored_study_reads_back_as_itself(name: str) -> None:
    spec = shipped_study(name).spec
    assert load_spec(spec.plain()) == spec


def test_points_come_in_file_order_with_seeds_innermost() -> None:
    asked = study(vary={"sleep.folds": [5, 20], "sleep.strategy": ["strict", "random"]})
    order = [(c.sleep.folds, c.sleep.strategy.name, c.seed) for c in asked.grid() if c.sleep]
    assert order == [(folds, name, seed) for folds in (5, 20) for name in ("strict", "random") for seed in (1, 2)]


def test_later_levels_win_over_earlier_ones() -> None:
    asked = study(base=["tiny", "baseline"], vary={"optimizer.learning_rate": [1e-4]}, set={"optimizer.eps": 1e-6})
    optimizer = asked.first.optimizer
    assert optimizer.betas == (0.9, 0.98)  # the profile's, not the default's
    assert optimizer.warmup == 0.187  # the schedule's
    assert optimizer.learning_rate == 1e-4  # the row's, not the profile's
    assert optimizer.eps == 1e-6  # `set`'s


def test_a_set_field_is_pinned_and_reaches_every_trial() -> None:
    asked = shipped_study("grid", Changes(fields={"sleep.length.ratio": 2, "masking.rate": 0.2}))
    assert "sleep.length" not in asked.spec.vary
    assert asked.trials_planned == 28
    assert {c.sleep.length.ratio for c in (*asked.grid(), *asked.always()) if c.sleep} == {2}  # type: ignore[union-attr]
    assert {c.masking.rate for c in (*asked.grid(), *asked.always())} == {0.2}


def test_a_set_field_of_sleep_leaves_plain_epochs_alone() -> None:
    plain = shipped_study("smoke").always()
    assert shipped_study("smoke", Changes(fields={"sleep.decay": 0.3})).always() == plain


def test_a_profile_replaces_the_spaces_own() -> None:
    asked = shipped_study("grid", Changes(profile="pilot", fields={"data.source": {"directory": "/somewhere"}}))
    assert asked.spec.base == ("pilot", "weighted_replay")
    assert {c.model.width for c in (*asked.grid(), *asked.always())} == {192}


def test_equal_configurations_run_once() -> None:
    spelled = study(vary={"sleep.strategy": ["weighted", {"weighted": {"temperature": 1.0}}, "strict"]})
    assert spelled.points_planned == 2
    beside = study(base=["tiny", "baseline_like"], vary={"sleep.folds": [1, 2]}, always=["baseline_like"])
    ids = [configuration_id(config, "") for config in (*beside.grid(), *beside.always())]
    assert [len(beside.grid()), len(beside.always()), len(set(ids))] == [2, 2, 2]


def test_random_points_are_the_same_in_any_process_and_do_not_repeat() -> None:
    code = (
        "from sleep_tune.study.spec import *\n"
        "spec = load_spec({'base': ['tiny', 'default'], 'seeds': [1], 'search': {'random': {'trials': 16}},"
        " 'vary': {'sleep.folds': {'randint': [2, 9]}, 'sleep.strategy': ['random', 'strict']}})\n"
        "print([Study('', '', spec).random_point(i) for i in range(16)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    vary = {"sleep.folds": {"randint": [2, 9]}, "sleep.strategy": ["random", "strict"]}
    points = [study(vary=vary, search={"random": {"trials": 16}}).random_point(index) for index in range(16)]
    assert str(points) == other
    assert len({tuple(point.items()) for point in points}) == 16


def test_ten_thousand_random_points_of_a_large_space_take_no_time_each() -> None:
    vary = {"sleep.folds": {"randint": [1, 900]}, "sleep.cooldown": {"randint": [0, 899]}}
    asked = Study("study", "", load_spec({**BASE, "vary": vary, "search": {"random": {"trials": 10_000}}}))
    began = time.process_time()
    points = {tuple(asked.random_point(index).values()) for index in range(10_000)}
    assert time.process_time() - began < 5  # a shuffle of the space for each point takes minutes
    assert len(points) == 10_000


def test_a_recorded_trial_runs_as_the_study_says_now() -> None:
    recorded = study(vary={"sleep.folds": [5]}).grid()[0]
    how = {"resources.cpus": 2.0, "evaluation.data": "/moved", "checkpoint.keep": 3, "tracking.wandb": "offline"}
    now = study(vary={"sleep.folds": [20]}, set=how).as_run_now(recorded.model_dump(mode="json"))
    assert (now.resources.cpus, now.evaluation.data, now.checkpoint.keep, now.tracking.wandb) == (2.0, "/moved", 3, "offline")
    assert trial_id(now, "") == trial_id(recorded, "")


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e3), st.integers(0, 2**32))
def test_every_draw_lies_within_its_bounds(low: float, factor: float, seed: int) -> None:
    generator = stream(seed, "search")
    bounds = [low, low * factor]
    for kind in (Uniform.model_validate({"uniform": bounds}), LogUniform.model_validate({"log_uniform": bounds})):
        assert low <= kind.draw(generator) <= low * factor
    assert 2 <= RandInt.model_validate({"randint": [2, 3]}).draw(generator) <= 3


def test_a_study_that_steers_by_the_test_says_so() -> None:
    asked = study(vary={"sleep.folds": [5]}, objective={"metric": "pairs", "mode": "max"}, set={"evaluation.milestones.tasks": ["pairs"]})
    assert warnings(asked) == ["objective.metric = pairs: the search sees the test; its scores are no longer those of unseen data"]
    assert warnings(shipped_study("grid")) == []


ONE = {"sleep.folds": [5, 20]}
MODEL_FIELDS = ", ".join(sorted(f"model.{name}" for name in Model.model_fields))
REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"vary": {"sleep.fold": [5]}}, "unknown field vary.sleep.fold (did you mean sleep.folds?)"),
    ({"vary": {"folds": [5]}}, "unknown field vary.folds (did you mean sleep.folds?)"),
    ({"vary": {"sleep.folds": []}}, "vary.sleep.folds = []: must be a list of at least one value"),
    (
        {"vary": {"sleep.folds": 5}},
        "vary.sleep.folds = 5: must be a list of values, or one of {choice: […]}, {uniform: …}, {log_uniform: …}, {randint: …}",
    ),
    ({"vary": {"sleep.folds": [5, 5]}}, "vary.sleep.folds = [5, 5]: 5 is given twice"),
    ({"vary": {"sleep.folds": [5, 0]}}, "sleep.folds = 0: must be a whole number >= 1"),
    (
        {"vary": {"sleep.replay_ratio": {"uniform": [0, 1]}}, "search": {"random": {"trials": 3}}},
        "sleep.replay_ratio = 0.0: must be in (0, 1]",
    ),
    (
        {"vary": {"sleep.replay_ratio": {"uniform": [0.1, 1]}}},
        "vary.sleep.replay_ratio: a grid needs a list of values, no distribution (or search: {random: {trials: n}})",
    ),
    (
        {"vary": {"sleep.folds": {"randint": [9, 5]}}},
        "vary.sleep.folds.randint = [9, 5]: must be [lowest, highest], the first below the second",
    ),
    ({"vary": {"sleep.decay": {"log_uniform": [0, 1]}}}, "vary.sleep.decay.log_uniform = [0, 1]: must be [lowest, highest], both above 0"),
    ({"vary": {"budget_words": [1000]}}, "vary.budget_words: cannot vary: all trials of a study have one budget (--budget)"),
    ({"vary": {"data.words": [1000]}}, "vary.data.words: cannot vary: all trials of a study read one corpus (--data)"),
    ({"vary": {"seed": [1]}}, "vary.seed: seeds are listed under seeds (--seeds 1,2)"),
    (
        {"vary": {"sleep.length": [{"ratio": 1}], "sleep.length.ratio": [2]}},
        "vary.sleep.length: is given by sleep.length.ratio too",
    ),
    ({"vary": ONE, "set": {"sleep.folds": 3}}, "vary.sleep.folds: is under set too"),
    ({"base": ["tiny", "epochs"], "vary": ONE}, "vary.sleep.folds: the base's schedule epochs does not sleep"),
    ({"base": ["tiny", "epochs"], "vary": {"sleep": [{"folds": 5}]}}, "vary.sleep: the base's schedule epochs does not sleep"),
    (
        {"vary": {"training.precision": ["fp32", "auto"]}},
        "vary.training.precision = auto: must be fp32 or bf16 where it varies (auto is one of them, by machine)",
    ),
    ({"base": ["tiny", "epochs"], "set": {"sleep.folds": 3}}, "sleep.folds = 3: no schedule of this study is of kind sleep (epochs)"),
    ({"base": ["default"]}, "preset default: a profile is needed beside it (one of pilot, strict-small, strict, tiny)"),
    ({"base": []}, "base = []: must be [PROFILE, SCHEDULE], such as [tiny, weighted_replay]"),
    ({"base": ["tiny", "defalt"]}, "unknown preset defalt (did you mean default?)"),
    ({"always": ["epoch"]}, "unknown schedule epoch (did you mean epochs?)"),
    ({"always": ["epochs", "epochs"]}, "always = [epochs, epochs]: epochs is given twice"),
    ({"seeds": []}, "seeds = []: must be a list of whole numbers, at least one"),
    ({"seeds": [1, 1]}, "seeds = [1, 1]: 1 is given twice"),
    ({"seeds": [-1]}, "seeds.0 = -1: must be a whole number in [0, 9223372036854775808)"),
    ({"seeds": [2**63]}, "seeds.0 = 9223372036854775808: must be a whole number in [0, 9223372036854775808)"),
    ({"vry": ONE}, "unknown field vry (did you mean vary?)"),
    ({"search": "gird"}, "search = gird: must be grid or {random: {trials: n}} or {optuna: {trials: n}}"),
    ({"vary": ONE, "search": "random"}, "search = random: must be grid or {random: {trials: n}} or {optuna: {trials: n}}"),
    ({"vary": ONE, "scheduler": "asha"}, "scheduler = asha: must be none or {asha: {rungs: [1/9, 1/3], reduction: 3}}"),
    ({"vary": ONE, "set": {"model.zzz": 3}}, f"unknown field model.zzz (allowed: {MODEL_FIELDS})"),
    ({"vary": ONE, "search": {"random": {"trials": 3}}}, "search.random.trials = 3: must be <= 2, the points of the space"),
    ({"search": {"random": {"trials": 3}}}, "vary = {}: a random search needs at least one varied field"),
    (
        {"vary": ONE, "search": {"optuna": {"trials": 3, "sampler": "tpr"}}},
        "search.optuna.sampler = tpr: must be tpe | gp | random (did you mean tpe?)",
    ),
    (
        {"vary": {f"sleep.{field}": list(range(1, 30)) for field in ("folds", "cooldown", "max_selections")}},
        "vary: a grid of 24,389 points: must be <= 10,000 (or search: {random: {trials: n}})",
    ),
    (
        {"scheduler": {"asha": {"rungs": [2], "reduction": 3}}},
        "scheduler.asha.rungs.0 = 2: must be a share of the budget in (0, 1), such as 1/9",
    ),
    ({"scheduler": {"asha": {"rungs": ["1/9", "1/9"]}}}, "scheduler.asha.rungs = [1/9, 1/9]: 1/9 is given twice"),
    ({"scheduler": {"asha": {"reduction": 1}}}, "scheduler.asha.reduction = 1: must be a number > 1"),
    ({"objective": {"metric": "dev_los", "mode": "min"}}, "objective.metric = dev_los: unknown (did you mean dev_loss?)"),
    ({"objective": {"metric": "dev_loss", "mode": "max"}}, "objective.mode = max: must be min for dev_loss, which is better when lower"),
    (
        {"objective": {"metric": "blimp", "mode": "max"}},
        "objective.metric = blimp: must be among evaluation.milestones.tasks = [] (allowed: dev_loss, perplexity, train_loss; "
        "to search by blimp add set: {evaluation.milestones.tasks: [blimp]})",
    ),
]


@pytest.mark.parametrize(("fields", "expected"), REFUSED, ids=[expected[:40] for _, expected in REFUSED])
def test_what_a_study_may_not_say_is_one_line(fields: Mapping[str, Any], expected: str) -> None:
    assert line(**fields) == expected


def test_an_unknown_preset_in_a_file_names_the_file(tmp_path: Path) -> None:
    for text, fault in (
        ("base: [tinyy, default]\nseeds: [1]\n", "unknown preset tinyy (did you mean tiny?)"),
        ("base: [tiny]\nseeds: [1]\nalways: [epoch]\n", "unknown schedule epoch (did you mean epochs?)"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(UserError) as refused:
            read_space(str(tmp_path / "mine.yaml"))
        assert str(refused.value) == f"{tmp_path}/mine.yaml: {fault}"
