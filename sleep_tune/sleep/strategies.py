"""Which candidates are replayed: from a pool and a number k to k distinct sample ids, sorted.

A strategy gives every candidate a key; the k smallest keys win, ties to the lower id. All are O(n); none changes its input.
Shapes: n candidates in ascending id, k of them chosen.
"""

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

    def only(self, where_n: NDArray) -> "Pool":
        """The candidates where `where_n` (mask or ascending indices) says so."""
        return Pool(*(values[where_n] for values in (self.id_n, self.score_n, self.factor_n, self.age_n, self.domain_n)))


def smallest(key_n: Floats, k: int) -> NDArray[np.intp]:
    """Ascending indices of the k smallest keys, ties to the lower index."""
    if k >= key_n.size:
        return np.arange(key_n.size)
    threshold = np.partition(key_n, k - 1)[k - 1]
    below = np.flatnonzero(key_n < threshold)
    tied = np.flatnonzero(key_n == threshold)[: k - below.size]
    return np.sort(np.concatenate([below, tied]))


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
    positive = np.flatnonzero(priority_n > 0)
    if k > positive.size:
        zero = np.flatnonzero(priority_n <= 0)
        return pool.id_n[np.sort(np.concatenate([positive, zero[smallest(draw_n[zero], k - positive.size)]]))]
    with np.errstate(divide="ignore"):  # p = 0: an infinite key, last
        if temperature == 1.0:
            key_n = draw_n / priority_n
        else:  # the same order by logarithms, which no temperature takes out of range
            key_n = np.log(draw_n, dtype=np.float64) - np.log(priority_n) / temperature
    return pool.id_n[smallest(key_n, k)]


def strict(pool: Pool, k: int, generator: Generator) -> Ids:
    """The k of highest priority."""
    return pool.id_n[smallest(-pool.priority_n, k)]


def rank(pool: Pool, k: int, generator: Generator, *, exponent: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7) -> Ids:
    """Weighted by rank^-exponent (Schaul et al. 2016), ranks being those of p's bucket: the upper 16 bits of its float32."""
    bucket_n = pool.priority_n.astype(np.float32).view(np.uint32) >> 16
    size_b = np.bincount(bucket_n, minlength=1 << 16)
    higher_b = size_b[::-1].cumsum()[::-1] - size_b
    middle_b = higher_b + (size_b + 1) / 2
    return pool.id_n[smallest(_exponential(pool, generator) * (middle_b**exponent)[bucket_n], k)]


def quotas(size_d: NDArray[np.integer], k: int, share_d: Floats) -> NDArray[np.int64]:
    """(D,) whole numbers that add up to min(k, sum of sizes), in proportion to `share_d`, none over its size.

    By largest remainder, ties to the smaller d; what a full domain cannot take goes to the others.
    """
    quota_d = np.zeros(size_d.size, dtype=np.int64)
    left = min(k, int(size_d.sum()))
    while left:
        open_d = quota_d < size_d
        weight_d = np.where(open_d, share_d, 0.0)
        exact_d = left * weight_d / weight_d.sum()
        part_d = np.floor(exact_d + 1e-9).astype(np.int64)
        order = np.argsort(-(exact_d - part_d), kind="stable")
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
    share_d = size_d.astype(np.float64) if by == "size" else (size_d > 0).astype(np.float64)
    quota_d = quotas(size_d, k, share_d)
    chosen = [STRATEGIES[within](pool.only(pool.domain_n == d), int(quota), generator) for d, quota in enumerate(quota_d) if quota]
    return np.sort(np.concatenate(chosen))


def recency(pool: Pool, k: int, generator: Generator, *, half_life: Positive = 3.0) -> Ids:
    """Weight halves with every `half_life` cycles since the last wake."""
    return pool.id_n[smallest(np.log2(_exponential(pool, generator), dtype=np.float64) + pool.age_n / half_life, k)]


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
