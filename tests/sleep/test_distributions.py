"""How often what is selected, against exact probabilities by enumeration of every order of drawing (n <= 6). Seeds are fixed."""

from fractions import Fraction
from functools import reduce
from itertools import combinations, permutations, product

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare, norm

from sleep_tune.sleep.strategies import STRATEGIES, Pool, quotas
from sleep_tune.streams import stream

DRAWS = 5000
DOUBT = 1e-3  # chance that a true distribution fails a test


def pool(p, age=None, domain=None):
    """Candidates 0, 1, 2, .. of priorities `p`: half of it by score, the rest by factor."""
    n = len(p)
    factor_n = np.where(np.arange(n) % 2, 0.5, 1.0)
    return Pool(
        np.arange(n),
        (np.asarray(p, np.float64) / factor_n).astype(np.float32),
        factor_n,
        np.ones(n, np.uint32) if age is None else np.asarray(age, np.uint32),
        np.zeros(n, np.uint8) if domain is None else np.asarray(domain, np.uint8),
    )


def successive(weights, k):
    """{sorted ids: probability} of drawing k without replacement, each time in proportion to what is left; zeros last, evenly."""
    chances = dict.fromkeys(combinations(range(len(weights)), k), 0.0)
    for order in permutations(range(len(weights)), k):
        left, chance = dict(enumerate(weights)), 1.0
        for i in order:
            total = sum(left.values())
            chance *= left[i] / total if total > 0 else 1 / len(left)
            del left[i]
        chances[tuple(sorted(order))] += chance
    return chances


def drawn(name, given, k, seed=1, **parameters):
    """{sorted ids: times selected} in DRAWS draws."""
    generator, counts = stream(seed, "buffer"), {}
    for _ in range(DRAWS):
        ids = tuple(STRATEGIES[name](given, k, generator, **parameters).tolist())
        counts[ids] = counts.get(ids, 0) + 1
    return counts


def inclusion(of, n):
    """(n,) how much of `of` ({ids: amount}) holds each sample."""
    return np.array([sum(amount for ids, amount in of.items() if i in ids) for i in range(n)])


def agree(counts, chances, n):
    """Sets of ids come as often as they should, and none that should not; so does each sample."""
    possible = {ids: chance for ids, chance in chances.items() if chance > 0}
    assert set(counts) <= set(possible)
    assert sum(possible.values()) == pytest.approx(1)
    if len(possible) > 1:
        observed = [counts.get(ids, 0) for ids in possible]
        assert chisquare(observed, np.array(list(possible.values())) * DRAWS).pvalue > DOUBT
    expected_n = inclusion(possible, n)
    spread_n = np.sqrt(np.maximum(expected_n * (1 - expected_n), 0) / DRAWS) + 1e-12
    assert (np.abs(inclusion(counts, n) / DRAWS - expected_n) <= norm.isf(DOUBT / (2 * n)) * spread_n).all()


@pytest.mark.parametrize(
    ("p", "k"),
    [
        ([1, 2, 4], 1),
        ([1, 2, 4], 2),
        ([5, 1, 1, 3, 0.5], 3),
        ([2, 2, 2, 2, 2, 2], 2),
        ([8, 4, 2, 1, 0.5, 0.25], 5),
        ([1e-30, 1e-30, 4e-30], 2),
        ([1e30, 1e30, 4e30, 1e-30], 2),
        ([0, 3, 0, 1, 2], 2),
        ([0, 3, 0, 1, 2], 3),
        ([0, 3, 0, 1, 0], 4),
        ([0, 0, 0, 0], 2),
    ],
    ids=str,
)
def test_weighted_draws_sets_and_samples_as_often_as_enumeration_says(p, k):
    agree(drawn("weighted", pool(p), k), successive(p, k), len(p))


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
def test_temperature_raises_priorities_to_its_inverse(temperature):
    p = [4.0, 1.0, 0.0, 2.0, 9.0]
    expected = successive([value ** (1 / temperature) if value else 0.0 for value in p], 2)
    agree(drawn("weighted", pool(p), 2, temperature=temperature), expected, 5)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_random_draws_every_set_as_often_as_any_other_whatever_the_scores(k):
    agree(drawn("random", pool([0, 1, 1e30, 5, 0.1]), k), successive([1] * 5, k), 5)


@pytest.mark.parametrize("k", [1, 3])
def test_equal_priorities_are_drawn_as_random_draws(k):
    weighted, random = (drawn(name, pool([3.0] * 5), k, seed) for name, seed in (("weighted", 1), ("random", 2)))
    sets = sorted(set(weighted) | set(random))
    table = [[counts.get(ids, 0) for ids in sets] for counts in (weighted, random)]
    assert chi2_contingency(table).pvalue > DOUBT
    # and with one key they are the same sets: all E/p are ordered as E
    np.testing.assert_array_equal(
        STRATEGIES["weighted"](pool([2.0] * 999), 99, stream(4, "buffer")), STRATEGIES["random"](pool([2.0] * 999), 99, stream(4, "buffer"))
    )


@pytest.mark.parametrize(("p", "middle_rank"), [([8, 1, 4, 2], [1, 4, 2, 3]), ([8, 1, 8, 1, 2], [1.5, 4.5, 1.5, 4.5, 3])], ids=str)
@pytest.mark.parametrize("exponent", [0.7, 2.0])
def test_rank_draws_by_a_power_of_the_mean_rank_of_equals(p, middle_rank, exponent):
    expected = successive([r**-exponent for r in middle_rank], 2)
    agree(drawn("rank", pool(p), 2, exponent=exponent), expected, len(p))


def test_rank_counts_priorities_in_one_bucket_of_less_than_a_hundredth_as_equal():
    near, far = [1.0, 1.001, 1.003, 1.005], [1.0, 1.01, 1.03, 1.05]
    agree(drawn("rank", pool(near), 1), successive([1] * 4, 1), 4)
    agree(drawn("rank", pool(far), 1), successive([r**-0.7 for r in (4, 3, 2, 1)], 1), 4)


def test_recency_halves_the_weight_for_each_half_life():
    expected = successive([2 ** (-a / 3) for a in (0, 3, 6, 1)], 2)
    agree(drawn("recency", pool([1] * 4, age=[0, 3, 6, 1]), 2), expected, 4)


@pytest.mark.parametrize("by", ["size", "equal"])
def test_stratified_draws_its_quota_of_each_domain_and_weighted_inside(by):
    p, domain, k = [1, 5, 2, 2, 0, 4], [0, 0, 0, 0, 1, 1], 4
    quota = {"size": (3, 1), "equal": (2, 2)}[by]  # shares 4 x 4/6 = 2.67 and 4 x 2/6 = 1.33, or halves
    inside = [
        {tuple(members[i] for i in ids): chance for ids, chance in successive([p[i] for i in members], size).items()}
        for members, size in zip(((0, 1, 2, 3), (4, 5)), quota, strict=True)
    ]
    expected = {
        tuple(sorted(sum(parts, ()))): reduce(lambda a, b: a * b, (each[ids] for each, ids in zip(inside, parts, strict=True)))
        for parts in product(*inside)
    }
    agree(drawn("stratified", pool(p, domain=domain), k, by=by), expected, 6)


def largest_remainder(size_d, k):
    """Quotas in exact fractions, for domains that are all large enough."""
    share_d = [Fraction(k * int(size), int(sum(size_d))) for size in size_d]
    quota_d = [int(share) for share in share_d]
    by_rest = sorted(range(len(size_d)), key=lambda d: (quota_d[d] - share_d[d], d))
    for d in by_rest[: k - sum(quota_d)]:
        quota_d[d] += 1
    return quota_d


@pytest.mark.parametrize("seed", range(20))
def test_stratified_quotas_are_those_of_exact_fractions(seed):
    generator = stream(seed, "probe")
    for _ in range(50):
        size_d = generator.integers(1, 30, generator.integers(2, 6))
        k = int(generator.integers(1, size_d.sum() + 1))
        assert quotas(size_d, k, size_d).tolist() == largest_remainder(size_d, k)


def test_quotas_with_equal_remainders_go_to_the_smaller_domain_number():
    # 7 of 21: shares 2, 4/3, 1/3, 10/3; the odd one to the first of the three thirds, which floating point gave to the last
    assert quotas(np.array([6, 4, 1, 10]), 7, np.array([6, 4, 1, 10])).tolist() == [2, 2, 0, 3]


@pytest.mark.parametrize("spread", [0.01, 0.3, 2.0])
def test_mean_score_of_a_selection_falls_from_strict_over_weighted_and_random_to_easy(spread):
    score_n = stream(0, "probe").lognormal(sigma=spread, size=400).astype(np.float32)
    given = Pool(np.arange(400), score_n, np.ones(400), np.ones(400, np.uint32), np.zeros(400, np.uint8))

    def mean(name):
        generator = stream(1, "buffer")
        return np.mean([score_n[STRATEGIES[name](given, 80, generator)].mean(dtype=np.float64) for _ in range(1500)])

    assert mean("strict") > mean("weighted") > mean("random") > mean("easy")
