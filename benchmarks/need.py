"""What need costs: mean cosine with the 50 nearest of n samples in 256 dimensions, for each of the n, on one thread.

Seconds are CPU seconds of that thread: what other work on the machine takes is not in them. Vectors are made to be like a network's: topics
of very unequal sizes, variance falling along the dimensions, a direction common to all. The index, which takes over beyond 100k, is run
at 100k and 200k. From there 1M is extrapolated by n^2, not by the slope (the power of n) between the two: with n a query meets more
cells, and they outgrow the caches. `--members 1000000` measures it instead (697 s on an EPYC whose two cores were shared by five jobs).
"""

import argparse
import json
import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sleep_tune.sleep.neighbours import Search, exact, indexed, need_and_recall

WIDTH, K, LARGE = 256, 50, 1_000_000


def main() -> None:
    """Run all, print a table, end with the claims as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, help="measure this many alone, as a trial would")
    members = parser.parse_args().members
    if members:
        z_nD, ids_n = vectors(members), np.arange(members)
        measured("need", members, lambda: need_and_recall(z_nD, ids_n, z_nD, ids_n, K, 1))
        return
    exact(among_all(2_000))  # the library's first call takes longer
    exact_s = {n: run_exact(n)[0] for n in (10_000, 100_000)}
    index = {n: run_index(n) for n in (100_000, 200_000)}
    claims = {
        "need_10k_seconds": exact_s[10_000],
        "need_100k_seconds": exact_s[100_000],
        "need_exact_slope": slope(exact_s),
        "need_index_100k_seconds": index[100_000][0],
        "need_index_recall": min(recall for _, recall in index.values()),
        "need_index_slope": slope({n: seconds for n, (seconds, _) in index.items()}),
    }
    claims["need_1m_minutes_extrapolated"] = index[200_000][0] * (LARGE / 200_000) ** 2 / 60
    print(f"index {LARGE:>11,} {60 * claims['need_1m_minutes_extrapolated']:8.1f} s  extrapolated")
    print(json.dumps({"claims": [{"claim": claim, "measured": round(value, 2)} for claim, value in claims.items()]}))


def run_exact(members: int) -> tuple[float, float]:
    """Every sample against every other."""
    search = among_all(members)
    return measured("exact", members, lambda: (exact(search), 1.0))


def run_index(members: int) -> tuple[float, float]:
    """Through the index, whatever the size."""
    search = among_all(members)
    return measured("index", members, lambda: indexed(search, 1))


def among_all(members: int) -> Search:
    """The vectors, each a query among all."""
    z_nD = vectors(members)
    return Search(z_nD, np.arange(members), z_nD, K)


def measured(name: str, members: int, run: Callable[[], tuple[NDArray[np.float32], float]]) -> tuple[float, float]:
    """CPU seconds and recall of a search, printed."""
    start, wall = time.process_time(), time.perf_counter()
    _, recall = run()
    seconds, wall_s = time.process_time() - start, time.perf_counter() - wall
    print(f"{name:<7} {members:>9,} {seconds:8.1f} s  recall {recall:.3f}  ({wall_s:.1f} s wall)", flush=True)
    return seconds, recall


def slope(seconds: dict[int, float]) -> float:
    """The power of n with which time grows, between the smallest and the largest."""
    small, large = min(seconds), max(seconds)
    return math.log(seconds[large] / seconds[small]) / math.log(large / small)


def vectors(members: int) -> NDArray[np.float32]:
    """(n, WIDTH) of length 1: one topic per 250 samples, sizes by rank^-.7; variance 1/(1 + d/8) between topics and within them alike."""
    generator = np.random.default_rng(0)
    topics = max(16, members // 250)
    scale_D = (1 / np.sqrt(1 + np.arange(WIDTH) / 8)).astype(np.float32)
    centre_tD = 0.5 * generator.standard_normal(WIDTH, np.float32) + scale_D * generator.standard_normal((topics, WIDTH), np.float32)
    share_t = np.arange(1, topics + 1) ** -0.7
    topic_n = generator.choice(topics, members, p=share_t / share_t.sum())
    z_nD = np.empty((members, WIDTH), np.float32)
    for start in range(0, members, 1 << 16):
        topic_b = topic_n[start : start + (1 << 16)]
        z_bD = centre_tD[topic_b] + scale_D * generator.standard_normal((topic_b.size, WIDTH), np.float32)
        z_nD[start : start + topic_b.size] = z_bD / np.linalg.norm(z_bD, axis=1, keepdims=True)
    return z_nD


if __name__ == "__main__":
    main()
