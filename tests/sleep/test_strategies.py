"""Every replay strategy: what all of them promise, and what each one is."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import chisquare

from sleep_tune.sleep.strategies import STRATEGIES, Pool, quotas, smallest
from sleep_tune.streams import stream

names = pytest.mark.parametrize("name", sorted(STRATEGIES))
scores = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 100, width=32))


def pool(score_n, factor_n=None, age_n=None, domain_n=None):
    n = len(score_n)
    return Pool(
        np.arange(n) * 2 + 5,
        np.asarray(score_n, np.float32),
        np.ones(n) if factor_n is None else np.asarray(factor_n),
        np.ones(n, np.int64) if age_n is None else np.asarray(age_n),
        np.zeros(n, np.uint8) if domain_n is None else np.asarray(domain_n),
    )


@names
@given(score=scores, data=st.data(), seed=st.integers(0, 2**32))
def test_selected_ids_are_distinct_sorted_and_equal_for_an_equal_key(name, score, data, seed):
    k = data.draw(st.integers(1, len(score)))
    given_pool = pool(score, domain_n=np.arange(len(score)) % 3, age_n=1 + np.arange(len(score)) % 5)
    before = [values.copy() for values in vars(given_pool).values()]
    chosen = STRATEGIES[name](given_pool, k, stream(seed, "buffer", 1))
    assert chosen.size == k
    assert (np.diff(chosen) > 0).all()
    assert set(chosen) <= set(given_pool.id_n)
    np.testing.assert_array_equal(chosen, STRATEGIES[name](given_pool, k, stream(seed, "buffer", 1)))
    for values, old in zip(vars(given_pool).values(), before, strict=True):
        np.testing.assert_array_equal(values, old)


@names
@given(score=scores, seed=st.integers(0, 2**32))
def test_everything_is_selected_where_k_is_everything(name, score, seed):
    np.testing.assert_array_equal(STRATEGIES[name](pool(score), len(score), stream(seed, "buffer")), pool(score).id_n)


@names
@given(score=scores, power=st.integers(-8, 8), data=st.data())
def test_scaling_all_scores_by_a_power_of_two_changes_no_selection(name, score, power, data):
    score = np.where(score < 1e-30, 0, score).astype(np.float32)  # subnormals lose bits when scaled
    k = data.draw(st.integers(1, len(score)))
    scaled = STRATEGIES[name](pool(score * np.float32(2.0**power)), k, stream(1, "buffer"))
    np.testing.assert_array_equal(STRATEGIES[name](pool(score), k, stream(1, "buffer")), scaled)


@given(score=scores, data=st.data())
def test_strict_takes_the_highest_priorities_and_easy_the_lowest_scores(score, data):
    k = data.draw(st.integers(1, len(score)))
    factor = 1 / (1 + np.arange(len(score)) % 4)
    p = dict(zip(pool(score).id_n, score.astype(np.float64) * factor, strict=True))
    s = dict(zip(pool(score).id_n, score, strict=True))
    strict = set(STRATEGIES["strict"](pool(score, factor), k, stream(0, "buffer")))
    easy = set(STRATEGIES["easy"](pool(score, factor), k, stream(0, "buffer")))
    assert min(p[i] for i in strict) >= max((p[i] for i in p if i not in strict), default=0)
    assert max(s[i] for i in easy) <= min((s[i] for i in s if i not in easy), default=np.inf)


def successive_inclusion(priority, k):
    """Exact inclusion probabilities of successive sampling without replacement, by enumeration."""
    inclusion = np.zeros(len(priority))
    for order in permutations(range(len(priority)), k):
        probability, left = 1.0, sum(priority)
        for i in order:
            probability *= priority[i] / left
            left -= priority[i]
        inclusion[list(order)] += probability
    return inclusion


@pytest.mark.parametrize(("priority", "k"), [([1, 2, 4], 1), ([1, 2, 4], 2), ([5, 1, 1, 3, 0.5], 3), ([2, 2, 2, 2, 2, 2], 2)])
def test_weighted_inclusion_matches_enumeration(priority, k):
    draws, generator = 20_000, stream(7, "buffer")
    counts = np.zeros(len(priority))
    for _ in range(draws):
        counts[(STRATEGIES["weighted"](pool(priority), k, generator) - 5) // 2] += 1
    expected = successive_inclusion(priority, k) * draws
    # with k of n drawn together the counts vary less than independent ones: the test is conservative
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 0.001


@given(score=scores, data=st.data(), seed=st.integers(0, 2**32))
def test_weighted_takes_no_zero_while_a_positive_priority_is_left(score, data, seed):
    score = np.where(np.arange(len(score)) % 2, score, 0)
    k = data.draw(st.integers(1, len(score)))
    chosen = (STRATEGIES["weighted"](pool(score), k, stream(seed, "buffer")) - 5) // 2
    positive = np.flatnonzero(score > 0)
    assert (score[chosen] > 0).sum() == min(k, positive.size)


def test_mean_score_of_a_selection_falls_from_strict_over_weighted_and_random_to_easy():
    score = stream(0, "probe").lognormal(size=3000)
    mean = {
        name: np.mean([score[(STRATEGIES[name](pool(score), 300, stream(s, "buffer")) - 5) // 2].mean() for s in range(20)])
        for name in STRATEGIES
    }
    assert mean["strict"] > mean["rank"] > mean["random"]
    assert mean["strict"] > mean["weighted"] > mean["random"] > mean["easy"]


def test_temperature_makes_weighted_sampling_sharper_or_flatter():
    score = stream(0, "probe").lognormal(size=3000)

    def mean(t):
        return score[(STRATEGIES["weighted"](pool(score), 300, stream(1, "buffer"), temperature=t) - 5) // 2].mean()

    assert mean(0.2) > mean(1.0) > mean(100.0)


@given(hnp.arrays(np.int64, st.integers(1, 8), elements=st.integers(0, 40)), st.integers(0, 400))
def test_stratified_quotas_add_up_and_stay_within_one_of_their_share(size_d, k):
    k = min(k, int(size_d.sum()))
    quota_d = quotas(size_d, k, size_d.astype(float))
    assert quota_d.sum() == k
    assert (quota_d <= size_d).all()
    if k:
        uncapped = quota_d < size_d
        assert (np.abs(quota_d - k * size_d / size_d.sum())[uncapped] <= 1).all()


def test_equal_quotas_give_what_a_small_domain_cannot_use_to_the_others():
    assert quotas(np.array([1, 10, 10]), 9, np.ones(3)).tolist() == [1, 4, 4]
    assert quotas(np.array([5, 0, 5]), 3, np.array([1.0, 0.0, 1.0])).tolist() == [2, 0, 1]


def test_stratified_draws_each_domain_in_proportion():
    domain = np.repeat([0, 1, 2], [60, 30, 10])
    chosen = STRATEGIES["stratified"](pool(np.ones(100), domain_n=domain), 20, stream(0, "buffer"))
    assert np.bincount(domain[(chosen - 5) // 2]).tolist() == [12, 6, 2]


def test_recency_prefers_the_young_by_half_for_each_half_life():
    age = np.repeat([0, 3], 5000)
    chosen = STRATEGIES["recency"](pool(np.ones(10_000), age_n=age), 100, stream(0, "buffer"))
    old = (age[(chosen - 5) // 2] == 3).mean()
    assert 0.2 < old < 0.47  # one in three, within three standard errors


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([0.0, 1.0, 2.0])), st.data())
def test_ties_go_to_the_lower_index(key, data):
    k = data.draw(st.integers(1, len(key)))
    np.testing.assert_array_equal(smallest(key, k), np.sort(np.argsort(key, kind="stable")[:k]))


def test_a_low_temperature_takes_the_highest_priorities_as_strict_does():
    chosen = STRATEGIES["weighted"](pool([1, 2, 3, 4, 100]), 3, stream(0, "buffer"), temperature=0.004)
    assert ((chosen - 5) // 2).tolist() == [2, 3, 4]


def test_a_short_half_life_takes_the_youngest():
    chosen = STRATEGIES["recency"](pool(np.ones(6), age_n=[900, 3000, 2, 1, 2000, 5]), 3, stream(0, "buffer"), half_life=0.01)
    assert ((chosen - 5) // 2).tolist() == [2, 3, 5]
