"""Folds, wakes, lengths of sleep, planned phases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.config import Context, Fill, Nothing, Ratio, Repeats, Sleep, Steps
from sleep_tune.sleep.schedule import (
    CorpusSize,
    Phase,
    SleepPlan,
    buffer_size,
    cut_folds,
    fill_share,
    outlook,
    phases,
    plan_sleep,
    total_cycles,
    wake_order,
)

orders = st.sampled_from(["shuffled", "corpus", "domain"])


@given(st.integers(1, 300), st.data(), orders, st.integers(0, 2**32))
def test_folds_partition_the_samples_and_all_but_the_last_are_equal(samples, data, order, seed):
    count = data.draw(st.integers(1, samples))
    folds = cut_folds(samples, Sleep(folds=count, fold_order=order), np.arange(samples) % 3, seed)
    parts = [folds.of(cycle) for cycle in range(count)]
    assert sorted(np.concatenate(parts)) == list(range(samples))
    assert {part.size for part in parts[:-1]} <= {samples // count}
    assert parts[-1].size == samples - (count - 1) * (samples // count) > 0
    np.testing.assert_array_equal(folds.of(count), folds.of(0))


def test_folds_by_domain_follow_the_domains_and_keep_the_order_inside():
    folds = cut_folds(6, Sleep(folds=2, fold_order="domain"), np.array([1, 0, 1, 0, 2, 0]), seed=0)
    assert folds.of(0).tolist() == [1, 3, 5]
    assert folds.of(1).tolist() == [0, 2, 4]


@given(
    st.integers(1, 50), st.integers(0, 5), st.sampled_from(["shuffled", "kept"]), st.integers(1, 8), st.one_of(st.none(), st.integers(1, 4))
)
def test_a_wake_reads_each_sample_of_its_fold_once_up_to_its_limit(size, cycle, within, rows, limit):
    fold = np.arange(100, 100 + size)
    order = wake_order(fold, cycle, Sleep(within=within, max_wake_steps=limit), rows, seed=3)
    expected = size if limit is None else min(size, limit * rows)
    assert order.size == expected == np.unique(order).size
    assert set(order) <= set(fold)
    if within == "kept":
        np.testing.assert_array_equal(order, fold[:expected])


def test_lengths_are_those_worked_out_by_hand():
    # a wake of 33 rows in batches of 8 is 5 steps; a pass of the buffer has 7 rows
    def rows(length):
        return plan_sleep(length, wake_rows=33, pass_rows=7, batch_rows=8, fill_words=11).rows

    assert rows(Ratio(ratio=9.0)) == 45 * 8
    assert rows(Ratio(ratio=0.5)) == 3 * 8  # 2.5 steps: halves are rounded up
    assert rows(Ratio(ratio=0.01)) == 8  # at least one
    assert rows(Ratio(ratio=0.0)) == 0
    assert rows(Repeats(repeats=3.5)) == 25  # 24.5
    assert rows(Repeats(repeats=3.0)) == 21
    assert rows(Steps(steps=200)) == 1600
    plan = plan_sleep(Fill(fill=Nothing()), 33, 7, 8, fill_words=11)
    assert (plan.rows, plan.words) == (None, 11)
    assert plan_sleep(Fill(fill=Nothing()), 33, 7, 8, fill_words=None) == SleepPlan()  # to the budget
    for nothing in (0, -100):  # wakes to come need all that is left: no row, not even one without words
        assert plan_sleep(Fill(fill=Nothing()), 33, 7, 8, fill_words=nothing).rows == 0


def test_fill_shares_what_the_wakes_leave_and_the_last_sleep_runs_to_the_budget():
    assert fill_share(budget_words=1000, words_seen=100, words_of_wakes_to_come=300, sleeps_left=4) == 150
    assert fill_share(1000, 900, 300, 2) == -100
    assert fill_share(1000, 990, 0, 1) is None


@given(st.floats(0.001, 1), st.integers(1, 10_000))
def test_the_buffer_holds_the_replay_ratio_of_the_candidates(ratio, candidates):
    k = buffer_size(ratio, candidates)
    assert 1 <= k <= candidates
    assert k == candidates if ratio == 1 else abs(k - ratio * candidates) <= 1


def test_cycles_go_on_until_the_budget_unless_passes_or_fill_say_otherwise():
    assert total_cycles(Sleep(folds=5)) is None
    assert total_cycles(Sleep(folds=5, passes=2)) == 10
    assert total_cycles(Sleep(folds=5, length=Fill(fill=Nothing()))) == 5


def size(samples: int, words: int = 0, recut: float = 0.0) -> CorpusSize:
    return CorpusSize(samples, words or samples, recut or 1.0)


def test_planned_phases_of_a_tiny_schedule_are_those_written_out_by_hand():
    # 10 samples of 3 words in 2 folds of 5, batches of 2: a wake is 3 steps, ratio 1 sleeps 3 full batches
    plan = list(phases(Sleep(folds=2, length=Ratio(ratio=1.0), passes=1), size(10, 30), batch_rows=2, budget_words=60))
    assert plan == [Phase(0, "wake", 5, 15), Phase(0, "sleep", 6, 18), Phase(1, "wake", 5, 15), Phase(1, "sleep", 4, 12)]


def test_the_rows_of_a_recut_sleep_hold_more_words_than_short_lines():
    # as above, but a re-cut row holds 7.5 words: 6 rows are 45 words, and the budget ends in the second wake
    sleep = Sleep(folds=2, length=Ratio(ratio=1.0), context=Context(shuffles=1))
    plan = outlook(sleep, size(10, 30, 7.5), batch_rows=2, budget_words=66)
    assert (plan.coverage, plan.sleeps, plan.used) == (0.7, 1, 1.0)
    assert plan.asleep_per_awake == pytest.approx(45 / 21)


lengths = st.sampled_from([Ratio(ratio=2.0), Steps(steps=3), Repeats(repeats=1.5)])


@given(st.integers(2, 60), st.integers(1, 60), st.integers(1, 9), st.integers(1, 500), lengths)
def test_planned_phases_use_the_budget_and_never_more(samples, folds, rows, budget, length):
    sleep = Sleep(folds=min(folds, samples), length=length)
    plan = list(phases(sleep, size(samples), rows, budget))
    assert sum(phase.words for phase in plan) == pytest.approx(budget)
    ahead = outlook(sleep, size(samples), rows, budget)
    assert 0 < ahead.coverage <= 1
    woken = sum(phase.rows for phase in plan if phase.kind == "wake" and phase.cycle < sleep.folds)
    assert ahead.coverage == pytest.approx(min(1, woken / samples))
    assert (ahead.sleeps == 0) == (not any(phase.kind == "sleep" for phase in plan))


def test_a_schedule_of_one_pass_may_end_before_its_budget():
    ahead = outlook(Sleep(folds=1, passes=1, length=Repeats(repeats=1.0), replay_ratio=0.5), size(10), 2, 60)
    assert ahead.used == pytest.approx(15 / 60)
    assert outlook(Sleep(folds=1, passes=1, length=Fill(fill=Nothing())), size(10), 2, 60).used == 1.0
