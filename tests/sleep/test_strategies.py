"""What each strategy is. What all promise is in `test_contracts.py`, how often they select what in `test_distributions.py`."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sleep_tune.sleep.strategies import SAMPLED, STRATEGIES, Pool, kth_smallest, quotas, smallest
from sleep_tune.streams import stream

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


@given(score=scores, data=st.data(), seed=st.integers(0, 2**32))
def test_weighted_takes_no_zero_while_a_positive_priority_is_left(score, data, seed):
    score = np.where(np.arange(len(score)) % 2, score, 0)
    k = data.draw(st.integers(1, len(score)))
    chosen = (STRATEGIES["weighted"](pool(score), k, stream(seed, "buffer")) - 5) // 2
    positive = np.flatnonzero(score > 0)
    assert (score[chosen] > 0).sum() == min(k, positive.size)


def test_temperature_makes_weighted_sampling_sharper_or_flatter():
    score = stream(0, "probe").lognormal(size=3000)

    def mean(t):
        return score[(STRATEGIES["weighted"](pool(score), 300, stream(1, "buffer"), temperature=t) - 5) // 2].mean()

    assert mean(0.2) > mean(1.0) > mean(100.0)


@given(hnp.arrays(np.int64, st.integers(1, 8), elements=st.integers(0, 40)), st.integers(0, 400))
def test_stratified_quotas_add_up_and_stay_within_one_of_their_share(size_d, k):
    k = min(k, int(size_d.sum()))
    quota_d = quotas(size_d, k, size_d)
    assert quota_d.sum() == k
    assert (quota_d <= size_d).all()
    if k:
        uncapped = quota_d < size_d
        assert (np.abs(quota_d - k * size_d / size_d.sum())[uncapped] <= 1).all()


def test_equal_quotas_give_what_a_small_domain_cannot_use_to_the_others():
    assert quotas(np.array([1, 10, 10]), 9, np.ones(3, int)).tolist() == [1, 4, 4]
    assert quotas(np.array([5, 0, 5]), 3, np.array([1, 0, 1])).tolist() == [2, 0, 1]


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


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["drawn", "ascending", "waves", "few", "constant"]),
    st.integers(SAMPLED, 5 * SAMPLED),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_a_threshold_bracketed_by_a_sample_is_exact(kind, n, share, seed):
    draws_n = stream(seed, "probe").standard_exponential(n)
    key_n = {
        "drawn": draws_n,
        "ascending": np.sort(draws_n),
        "waves": np.sin(np.arange(n) * (2 * np.pi / (n // SAMPLED))),  # every sampled key is the same: the bracket misses
        "few": np.floor(draws_n),
        "constant": np.ones(n),
    }[kind]
    k = min(n, 1 + int(share * n))
    assert kth_smallest(key_n, k) == np.sort(key_n)[k - 1]
    np.testing.assert_array_equal(smallest(key_n, k), np.sort(np.argsort(key_n, kind="stable")[:k]))


def test_a_zero_priority_is_not_taken_even_where_the_keys_of_others_overflow():
    tiny = np.array([0.0, 1e-310, 0.0, 1e-310, 1e-310])
    given_pool = Pool(np.arange(5), np.ones(5, np.float32), tiny, np.ones(5, np.uint32), np.zeros(5, np.uint8))
    assert set(STRATEGIES["weighted"](given_pool, 2, stream(0, "buffer"))) <= {1, 3, 4}


def test_a_low_temperature_takes_the_highest_priorities_as_strict_does():
    chosen = STRATEGIES["weighted"](pool([1, 2, 3, 4, 100]), 3, stream(0, "buffer"), temperature=0.004)
    assert ((chosen - 5) // 2).tolist() == [2, 3, 4]


def test_a_short_half_life_takes_the_youngest():
    chosen = STRATEGIES["recency"](pool(np.ones(6), age_n=[900, 3000, 2, 1, 2000, 5]), 3, stream(0, "buffer"), half_life=0.01)
    assert ((chosen - 5) // 2).tolist() == [2, 3, 5]
