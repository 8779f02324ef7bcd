"""Means, intervals, differences, ranking: hand-worked values, published tables, laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sleep_tune.study.statistics import Outcome, against_baseline, dunnett_critical, estimate, paired_difference, pooled_sd, rank

T_1, T_2 = 12.70620, 4.30265  # Student's t at 97.5 %, 1 and 2 degrees of freedom


def test_three_seeds_by_hand() -> None:
    found = estimate(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.sd, found.n) == (2.0, 1.0, 3)
    assert found.stderr == pytest.approx(1 / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((2 - T_2 / math.sqrt(3), 2 + T_2 / math.sqrt(3)), abs=1e-4)


def test_two_seeds_give_the_wide_interval_they_deserve() -> None:
    found = estimate(np.array([2.0, 2.2]))
    assert found.stderr == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((2.1 - T_1 * 0.1, 2.1 + T_1 * 0.1), abs=1e-4)


def test_one_seed_claims_no_spread() -> None:
    found = estimate(np.array([2.0]))
    assert found.mean == 2.0
    assert all(math.isnan(value) for value in (found.sd, found.stderr, found.low, found.high))


def test_a_difference_is_paired_by_the_seeds_both_have() -> None:
    found = paired_difference({1: 2.0, 2: 2.2, 5: 7.0}, {2: 2.6, 1: 2.5, 3: 9.0})  # -0.5 and -0.4
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(-0.45), 2)
    assert (found.low, found.high) == pytest.approx((-0.45 - T_1 * 0.05, -0.45 + T_1 * 0.05), abs=1e-4)


def test_without_common_seeds_there_is_no_difference() -> None:
    assert paired_difference({1: 2.0}, {2: 2.0}) is None


def test_pooled_spread_by_hand() -> None:
    sd, freedom = pooled_sd([np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0]), np.array([5.0])])  # squares 2 + 2, freedom 1 + 2
    assert (sd, freedom) == (pytest.approx(math.sqrt(4 / 3)), 3)


@pytest.mark.parametrize(("comparisons", "freedom", "critical"), [(2, 10, 2.57), (4, 10, 2.89), (2, 5, 3.03), (9, 20, 2.95), (1, 10, 2.23)])
def test_critical_values_are_those_of_dunnetts_tables(comparisons: int, freedom: int, critical: float) -> None:
    assert dunnett_critical(comparisons, freedom) == pytest.approx(critical, abs=0.006)  # Dunnett 1964, table II, two-sided 95 %


def test_one_comparison_is_students_t() -> None:
    assert dunnett_critical(1, 1) == pytest.approx(T_1, rel=1e-3)


def test_the_interval_agrees_with_scipys_dunnett() -> None:
    generator = np.random.default_rng(7)
    groups = [generator.normal(size=3) for _ in range(5)]
    reference = stats.dunnett(*groups[:4], control=groups[4], rng=np.random.default_rng(1)).confidence_interval(0.95)
    for place in range(4):
        found = against_baseline(groups[place], groups[4], groups, comparisons=4)
        assert (found.low, found.high) == pytest.approx((reference.low[place], reference.high[place]), abs=0.01)


def test_more_comparisons_widen_the_interval() -> None:
    groups = [np.array([1.0, 1.1]), np.array([2.0, 2.2])]
    few, many = (against_baseline(groups[0], groups[1], groups, comparisons) for comparisons in (1, 20))
    assert many.high - many.low > few.high - few.low
    assert many.mean == few.mean == pytest.approx(-1.05)


def test_with_one_seed_everywhere_no_interval_is_given() -> None:
    groups = [np.array([1.0]), np.array([2.0])]
    assert math.isnan(against_baseline(groups[0], groups[1], groups, 1).low)


def _outcomes() -> list[Outcome]:
    rows = [
        ("a", 1, 3.0),
        ("a", 2, 3.2),
        ("b", 1, 2.0),
        ("b", 2, 2.4),
        ("epochs", 1, 2.5),
        ("epochs", 2, 2.6),
        ("c", 1, 1.0),
        ("c", 2, None),
    ]
    return [Outcome(name, seed, value, 200 if value else 66) for name, seed, value in rows]


def test_the_ranking_by_hand() -> None:
    ranking = rank(_outcomes(), "min", seeds=(1, 2), baseline="epochs")
    assert [(row.configuration, row.objective.mean) for row in ranking.ranked] == [
        ("b", pytest.approx(2.2)),
        ("epochs", pytest.approx(2.55)),
        ("a", pytest.approx(3.1)),
    ]
    assert ranking.ranked[0].difference is not None
    assert ranking.ranked[0].difference.mean == pytest.approx(-0.35)  # -0.5 and -0.2
    assert ranking.ranked[1].difference is None


def test_a_configuration_is_ranked_only_if_all_its_seeds_completed() -> None:
    ranking = rank(_outcomes(), "min", seeds=(1, 2))
    assert [(row.configuration, row.completed, row.words_seen) for row in ranking.stopped] == [("c", 1, (66,))]


def test_a_seed_that_was_not_run_yet_keeps_a_configuration_out() -> None:
    assert rank(_outcomes(), "min", seeds=(1, 2, 3)).ranked == ()


def test_more_is_better_where_the_mode_says_so() -> None:
    assert [row.configuration for row in rank(_outcomes(), "max").ranked] == ["a", "epochs", "b"]


def test_an_incomplete_baseline_is_no_baseline() -> None:
    ranking = rank(_outcomes(), "min", baseline="c")
    assert ranking.baseline is None
    assert all(row.difference is None for row in ranking.ranked)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.floats(-5, 5))
def test_a_shift_moves_the_mean_and_nothing_else(values: list[float], shift: float) -> None:
    before, after = estimate(np.array(values)), estimate(np.array(values) + shift)
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
    assert after.sd == pytest.approx(before.sd, abs=1e-9)


@given(st.permutations(_outcomes()))
def test_the_order_of_trials_does_not_matter(outcomes: list[Outcome]) -> None:
    assert [row.configuration for row in rank(outcomes, "min").ranked] == ["b", "epochs", "a"]
