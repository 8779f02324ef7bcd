"""Which candidates are replayed: from a pool and a number k to k distinct sample ids, sorted.

A strategy gives every candidate a key; the k smallest keys win, ties to the lower id. All are O(n); none changes its input.
Shapes: n candidates in ascending id, k of them chosen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

Floats = NDArray[np.floating]
Ids = NDArray[np.integer]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

SAMPLED = 1 << 14  # keys that bracket a threshold


@dataclass(frozen=True)
class Pool:
    """The eligible candidates: ids ascending, score >= 0, factor in [0, 1], age in cycles since their last wake, domain."""

    id_n: Ids
    score_n: Floats
    factor_n: Floats
    age_n: Ids
    domain_n: Ids

    @property
    def size(self) -> int:
        return int(self.id_n.size)

    @property
    def priority_n(self) -> NDArray[np.float64]:
        """p = score x factor, in double precision."""
        return np.multiply(self.score_n, self.factor_n, dtype=np.float64)


def smallest(key_n: Floats, k: int) -> NDArray[np.intp]:
    """Ascending indices of the k smallest keys, ties to the lower index."""
    if k >= key_n.size:
        return np.arange(key_n.size)
    threshold = kth_smallest(key_n, k)
    chosen_n = key_n < threshold
    tied = np.flatnonzero(key_n == threshold)
    chosen_n[tied[: k - np.count_nonzero(chosen_n)]] = True
    return np.flatnonzero(chosen_n)


def kth_smallest(key_n: Floats, k: int) -> np.floating:
    """The k-th smallest key, exactly, 1 <= k <= n.

    Floyd & Rivest 1975: a sorted sample brackets it, so that only the keys within the bracket (4 standard deviations to each side,
    2.5 % of the keys at k = n/5) are partitioned: at n 1e7 a third of the time. Where the bracket missed, all are.
    """
    n = key_n.size
    if n > SAMPLED:
        sample = np.sort(key_n[:: n // SAMPLED])
        middle, margin = sample.size * k / n, 4 * math.sqrt(sample.size * k / n * (1 - k / n)) + 1
        low, high = sample[max(0, int(middle - margin))], sample[min(sample.size - 1, int(middle + margin))]
        inside = key_n[(key_n >= low) & (key_n <= high)]
        place = k - 1 - int(np.count_nonzero(key_n < low))
        if 0 <= place < inside.size:
            return np.partition(inside, place)[place]
    return np.partition(key_n, k - 1)[k - 1]


def _exponential(pool: Pool, generator: Generator) -> NDArray[np.float32]:
    return generator.standard_exponential(pool.size, dtype=np.float32)


def random(pool: Pool, k: int, generator: Generator) -> Ids:
    """Uniform without replacement; score and factor play no part."""
    return pool.id_n[smallest(_exponential(pool, generator), k)]


def weighted(pool: Pool, k: int, generator: Generator, *, temperature: Positive = 1.0) -> Ids:
    """Successive sampling without replacement, proportional to p^(1/temperature); p = 0 only after all p > 0.

    Efraimidis & Spirakis 2006: the k smallest E/p, E exponential.
    """
    draw_n, priority_n = _exponential(pool, generator), pool.priority_n
    positive_n = priority_n > 0
    positive = int(np.count_nonzero(positive_n))
    if k > positive:
        zero = np.flatnonzero(~positive_n)
        positive_n[zero[smallest(draw_n[zero], k - positive)]] = True
        return pool.id_n[positive_n]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # one draw in 2^24 is 0, p may be
        if temperature == 1.0:
            key_n = np.divide(draw_n, priority_n, out=priority_n)
        else:  # the same order by logarithms, which no temperature takes out of range
            key_n = np.log(draw_n, dtype=np.float64) - np.log(priority_n) / temperature
    if positive < pool.size:
        key_n[~positive_n] = np.nan  # after all others, an overflown E/p too
    return pool.id_n[smallest(key_n, k)]


def strict(pool: Pool, k: int, generator: Generator) -> Ids:
    """The k of highest priority."""
    priority_n = pool.priority_n
    return pool.id_n[smallest(np.negative(priority_n, out=priority_n), k)]


def rank(pool: Pool, k: int, generator: Generator, *, exponent: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7) -> Ids:
    """Weighted by rank^-exponent (Schaul et al. 2016), ranks being those of p's bucket: the upper 16 bits of its float32."""
    bucket_n = pool.priority_n.astype(np.float32).view(np.uint32)
    bucket_n >>= 16
    bucket_n -= bucket_n.min()
    size_b = np.bincount(bucket_n)
    higher_b = size_b[::-1].cumsum()[::-1] - size_b
    middle_b = higher_b + (size_b + 1) / 2
    return pool.id_n[smallest(_exponential(pool, generator) * (middle_b**exponent)[bucket_n], k)]


def quotas(size_d: Ids, k: int, share_d: Ids) -> NDArray[np.int64]:
    """(D,) whole numbers that add up to min(k, sum of sizes), in proportion to `share_d`, none over its size.

    By largest remainder, ties to the smaller d; what a full domain cannot take goes to the others. Exact: whole numbers throughout.
    """
    quota_d = np.zeros(size_d.size, dtype=np.int64)
    left = min(k, int(size_d.sum()))
    while left:
        open_d = quota_d < size_d
        weight_d = np.where(open_d, share_d, 0).astype(np.int64)
        part_d, rest_d = np.divmod(left * weight_d, weight_d.sum())
        order = np.argsort(-rest_d, kind="stable")
        order = order[open_d[order]][: left - int(part_d.sum())]
        part_d[order] += 1
        quota_d = np.minimum(quota_d + part_d, size_d)
        left = min(k, int(size_d.sum())) - int(quota_d.sum())
    return quota_d


def stratified(
    pool: Pool,
    k: int,
    generator: Generator,
    *,
    within: Literal["random", "weighted", "strict", "rank"] = "weighted",
    by: Literal["size", "equal"] = "size",
) -> Ids:
    """Quotas by domain, in proportion to the domain's candidates (`size`) or `equal`; `within` chooses inside a domain."""
    size_d = np.bincount(pool.domain_n)
    quota_d = quotas(size_d, k, size_d if by == "size" else np.sign(size_d))
    priority_n = pool.priority_n
    chosen_n = np.zeros(pool.size, bool)
    for d in np.flatnonzero(quota_d):
        place_m = np.flatnonzero(pool.domain_n == d)
        fixed = [np.broadcast_to(value, place_m.size) for value in (1.0, 0, d)]  # nothing but p counts within a domain
        chosen_n[STRATEGIES[within](Pool(place_m, priority_n[place_m], *fixed), int(quota_d[d]), generator)] = True
    return pool.id_n[chosen_n]


def recency(pool: Pool, k: int, generator: Generator, *, half_life: Positive = 3.0) -> Ids:
    """Weight halves with every `half_life` cycles since the last wake."""
    with np.errstate(divide="ignore"):  # a draw of 0: the first
        key_n = np.log2(_exponential(pool, generator), dtype=np.float64)
    key_n += pool.age_n / half_life
    return pool.id_n[smallest(key_n, k)]


def easy(pool: Pool, k: int, generator: Generator) -> Ids:
    """Control: the k of lowest score; the factor plays no part."""
    return pool.id_n[smallest(pool.score_n, k)]


STRATEGIES: dict[str, Callable[..., Ids]] = {
    "random": random,
    "weighted": weighted,
    "strict": strict,
    "rank": rank,
    "stratified": stratified,
    "recency": recency,
    "easy": easy,
}

IGNORE_SCORES = frozenset({"random", "recency"})  # of them, those to which a score is nothing
IGNORE_DECAY = IGNORE_SCORES | {"easy"}  # and those to which a candidate's factor is
