"""Criteria by their laws: percentiles as bounds, gain and need combined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sleep_tune.sleep.criteria import CRITERIA, between_percentiles, gain, measures, need, utility

gains = st.floats(0, 1e6, width=32)
needs = st.floats(-1, 1, width=32)


def of_size(elements, n):
    return hnp.arrays(np.float32, n, elements=elements)


@st.composite
def measured(draw):
    """Gain and need of the samples of a fold."""
    size = draw(st.integers(1, 80))
    return draw(of_size(gains, size)), draw(of_size(needs, size))


def test_values_are_placed_between_the_first_and_the_ninety_ninth_percentile():
    value_n = np.arange(201)  # percentiles 1 and 99 are 2 and 198
    scaled_n = between_percentiles(value_n)
    assert scaled_n[[0, 1, 2]].tolist() == [0, 0, 0]
    assert scaled_n[[198, 199, 200]].tolist() == [1, 1, 1]
    assert scaled_n[100] == 0.5
    assert scaled_n[51] == 49 / 196


def test_one_outlier_does_not_flatten_all_others():
    value_n = np.append(np.arange(200.0), 1e9)
    assert between_percentiles(value_n)[100] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value_n", [[3.0], [0.0, 0.0], [5.0] * 9, [1e20] * 4, [1.0, 1.0 + 1e-13], [0.0, 1e-13]])
def test_where_nothing_differs_all_are_one(value_n):
    value_n = np.array(value_n)
    assert (between_percentiles(value_n) == 1).all()
    assert (gain(value_n) == 1).all()
    assert (need(value_n) == 1).all()
    assert (utility(value_n, value_n) == 1).all()


def test_where_no_sample_has_both_utility_is_one_for_all():
    assert utility(np.array([0.0, 0.0, 7.0]), np.array([0.5, 0.1, 0.1])).tolist() == [1, 1, 1]


@given(measured())
def test_gain_need_and_utility_lie_between_0_and_1_and_not_all_are_0(pair):
    for values_n in (gain(pair[0]), need(pair[1]), utility(*pair)):
        assert ((values_n >= 0) & (values_n <= 1)).all()
        assert values_n.max() > 0


@given(measured(), gains)
def test_a_constant_gain_keeps_the_order_of_need_and_a_constant_need_that_of_gain(pair, constant):
    gain_n, need_n = pair
    np.testing.assert_array_equal(utility(np.full_like(gain_n, constant), need_n), need(need_n))
    np.testing.assert_array_equal(utility(gain_n, np.full_like(need_n, 0.25)), gain(gain_n))


@given(measured())
def test_criteria_keep_the_order_of_what_they_measure(pair):
    for criterion, values_n in ((gain, pair[0]), (need, pair[1])):
        assert (np.diff(criterion(values_n)[np.argsort(values_n)]) >= 0).all()


@given(measured(), st.randoms(use_true_random=False))
def test_criteria_follow_a_permutation_of_the_samples(pair, random):
    order_n = np.array(random.sample(range(pair[0].size), pair[0].size), int)
    np.testing.assert_array_equal(utility(pair[0][order_n], pair[1][order_n]), utility(*pair)[order_n])


@given(measured(), st.integers(-20, 20))
def test_the_scale_of_gain_does_not_matter(pair, power):
    gain_n = pair[0].astype(np.float64) + 1.0  # well apart from the absolute tolerance for constants
    if np.ptp(gain_n) > 1e-3:
        np.testing.assert_allclose(between_percentiles(gain_n * 2.0**power), between_percentiles(gain_n), atol=1e-9)


def test_what_a_criterion_asks_to_be_measured_is_read_from_its_parameters():
    assert {name: measures(name) for name in CRITERIA} == {
        "loss": ("loss",),
        "gain": ("gain",),
        "need": ("need",),
        "utility": ("gain", "need"),
    }
