"""Stock ASHA behind the ledger: rungs are met exactly, `always` and controls are in none, and a replay decides as the first run did."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler

from sleep_tune.errors import RunError
from sleep_tune.study.ledger import CONTINUE, FILE, STOP, Ledger, read_ledger
from trainables.rungs import Deciding, Rungs

OPENED = {"spec": {}, "versions": {}, "precision": "fp32", "corpus_digest": "c", "tokenizer_digest": "t"}
RUNGS = [100, 300]
MILESTONES = [50, 100, 200, 300, 900]


def propose(ledger: Ledger, trial: str, origin: str = "grid") -> None:
    ledger.append("proposed", trial=trial, configuration=trial, seed=1, config={}, origin=origin)


def report(ledger: Ledger, trial: str, milestone: int, value: float, decision: str) -> None:
    fields: dict[str, Any] = {"words_seen": milestone, "metrics": {}, "value": value, "decision": decision}
    ledger.append("reported", trial=trial, milestone=milestone, **fields)


def play(ledger: Ledger, deciding: Deciding, values: list[list[float]], order: list[int]) -> None:
    """Trials report in `order` (numbers of trials), each milestone by milestone, until stopped."""
    for number in order:
        trial = f"t{number}"
        if trial not in ledger.view.trials:
            propose(ledger, trial, "always" if number == 0 else "grid")
        record = ledger.view.trials[trial]
        if record.stop_decided or len(record.reports) == len(MILESTONES):
            continue
        milestone, value = MILESTONES[len(record.reports)], values[number][len(record.reports)]
        report(ledger, trial, milestone, value, deciding.decide(record.origin, trial, milestone, value))


numbers = st.lists(st.lists(st.floats(0, 9), min_size=5, max_size=5), min_size=8, max_size=8)


@settings(max_examples=25, deadline=None)
@given(values=numbers, order=st.lists(st.integers(0, 7), max_size=60), cut=st.floats(0, 1))
def test_a_study_killed_anywhere_decides_as_an_undisturbed_one(
    values: list[list[float]], order: list[int], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    calm, killed = tmp_path_factory.mktemp("calm"), tmp_path_factory.mktemp("killed")
    with Ledger(calm) as ledger:
        ledger.append("opened", **OPENED)
        play(ledger, Deciding(Rungs(RUNGS, 3, "min")), values, order)
    whole = (calm / FILE).read_bytes()
    (killed / FILE).write_bytes(whole[: max(len(whole.splitlines()[0]) + 1, round(cut * len(whole)))])
    with Ledger(killed) as ledger:
        deciding = Deciding(Rungs(RUNGS, 3, "min"))
        deciding.replay(ledger.view)
        done = {trial: len(record.reports) for trial, record in ledger.view.trials.items()}
        rest = []
        for number in order:  # what each trial had reported before the kill is not played again
            if done.get(f"t{number}", 0) > 0:
                done[f"t{number}"] -= 1
            else:
                rest.append(number)
        play(ledger, deciding, values, rest)
    strip = [{k: v for k, v in json.loads(line).items() if k not in ("at", "seq")} for line in (killed / FILE).read_text().splitlines()]
    assert strip == [{k: v for k, v in json.loads(line).items() if k not in ("at", "seq")} for line in whole.decode().splitlines()]


def test_decisions_are_stock_ashas_on_nominal_words_where_its_rungs_are_ours() -> None:
    generator = np.random.default_rng(0)
    stock = ASHAScheduler(
        time_attr="milestone", metric="value", mode="min", grace_period=100, max_t=899, reduction_factor=3, stop_last_trials=False
    )
    ours = Rungs(RUNGS, 3, "min")
    for number in range(40):
        trial: Any = SimpleNamespace(trial_id=str(number))
        stock.on_trial_add(None, trial)  # type: ignore[arg-type]
        for milestone in MILESTONES[:-1]:
            value = float(generator.normal())
            theirs = stock.on_trial_result(None, trial, {"milestone": milestone, "value": value})  # type: ignore[arg-type]
            assert ours.decide(str(number), milestone, value) == theirs
            if theirs == STOP:
                break


def test_any_rungs_and_any_reduction_have_a_decision_at_each_rung() -> None:
    for count in range(1, 7):
        for reduction in (1.5, 2, 3, 4, 10):
            milestones = [7 * (k + 1) ** 3 for k in range(count)]
            for place, milestone in enumerate(milestones):
                rungs = Rungs(milestones, reduction, "min")
                for trial in range(12):  # all but the first few of ever worse trials are stopped at whatever rung they meet first
                    last = rungs.decide(str(trial), milestone, float(trial))
                assert last == STOP, (count, reduction, place)


def test_the_best_third_goes_on() -> None:
    rungs = Rungs([100], 3, "max")
    assert [rungs.decide(str(value), 100, float(value)) for value in (5, 1, 9, 2, 3, 8)] == [CONTINUE, STOP, CONTINUE, STOP, STOP, CONTINUE]


def test_seeds_of_a_configuration_stand_or_fall_together() -> None:
    rungs = Rungs([100, 300], 3, "min")
    seeds = [("good", 1.0), ("bad", 5.0), ("bad", 0.0), ("good", 9.0)]  # the first of each is judged, whatever the second brings
    assert [rungs.decide(configuration, 100, value) for configuration, value in seeds] == [CONTINUE, STOP, STOP, CONTINUE]
    assert rungs.decide("good", 300, 1.0) == CONTINUE


def test_a_milestone_that_is_no_rung_decides_nothing() -> None:
    rungs = Rungs([100], 3, "min")
    assert {rungs.decide(str(trial), milestone, trial) for trial in range(9) for milestone in (50, 101, 900)} == {CONTINUE}


def test_what_runs_beside_the_search_is_in_no_rung() -> None:
    deciding = Deciding(Rungs([100], 3, "min"))
    for origin in ("always", "matched"):
        assert {deciding.decide(origin, f"{origin}{number}", 100, 1e4) for number in range(9)} == {CONTINUE}
    assert deciding.decide("grid", "g", 100, 9e3) == CONTINUE  # the first to come by, though all of `always` are worse or better


def test_a_diverged_trials_worst_value_is_stopped_where_others_came_by() -> None:
    rungs = Rungs([100], 3, "min")
    assert [rungs.decide(str(n), 100, value) for n, value in enumerate((2.0, 3.0, 1e4))] == [CONTINUE, STOP, STOP]
    assert math.isfinite(1e4)


def test_a_recorded_decision_that_does_not_come_out_again_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append("opened", **OPENED)
        for trial, decision in (("a", CONTINUE), ("b", CONTINUE)):
            propose(ledger, trial)
            report(ledger, trial, 100, float(ord(trial)), decision)
    with pytest.raises(RunError, match=r"trial b at milestone 100: CONTINUE is recorded and the scheduler now decides STOP"):
        Deciding(Rungs(RUNGS, 3, "min")).replay(read_ledger(tmp_path))
