"""How long choosing a replay buffer takes: 20 % of 1M, 3M and 10M candidates, by every strategy, on one core.

What is measured is all that a falling asleep does to choose (`candidates.choose`): who is a candidate, ages, decay factors, priorities, the
strategy. `strategy` is its share: the time from the finished pool to the ids. Scores are log-normal, of six domains and 50 wakes.
Seconds are of CPU time of this one thread, the least of `REPEATS` runs: what else the machine does is left out as far as can be.
`growth` is the worst strategy's time at 10M over ten times its time at 1M: 1 is linear.
`bytes_per_candidate` is what is kept of a sample between cycles, its count of exposures included.
"""

import json
import time
from collections.abc import Callable

import numpy as np

from sleep_tune.choices import Choice
from sleep_tune.config import Sleep
from sleep_tune.sleep.candidates import Candidates, choose, pool_of
from sleep_tune.sleep.strategies import STRATEGIES
from sleep_tune.streams import stream

SIZES = (1_000_000, 3_000_000, 10_000_000)
REPEATS = 7
CYCLES, DOMAINS, RATIO = 50, 6, 0.2


def read_awake(samples: int) -> tuple[Candidates, np.ndarray]:
    """Candidates after `CYCLES` wakes, all of them read, and their domains."""
    generator = stream(0, "probe")
    candidates = Candidates.none_yet(samples)
    candidates.score_N[:] = generator.lognormal(1.0, 0.3, samples)
    candidates.last_wake_N[:] = generator.integers(1, CYCLES + 1, samples)
    return candidates, generator.integers(0, DOMAINS, samples).astype(np.uint8)


def least_seconds(task: Callable[[], object], repeats: int) -> tuple[float, float]:
    """CPU and wall seconds, each the least of `repeats` runs."""
    cpu, wall = [], []
    for _ in range(repeats):
        began = time.process_time(), time.perf_counter()
        task()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return min(cpu), min(wall)


def measured(samples: int) -> dict[str, tuple[float, float, float]]:
    """{strategy: seconds of CPU for the whole choice and for the strategy alone, and of wall time for the whole}."""
    candidates, domain_N = read_awake(samples)
    found = {}
    for name, strategy in STRATEGIES.items():
        sleep = Sleep(strategy=Choice(name=name), replay_ratio=RATIO)
        whole, wall = least_seconds(lambda: choose(candidates, domain_N, CYCLES - 1, sleep, stream(0, "buffer")), REPEATS)  # noqa: B023
        pool = pool_of(candidates, np.arange(samples), domain_N, CYCLES - 1, sleep)
        alone, _ = least_seconds(lambda: strategy(pool, samples // 5, stream(0, "buffer")), REPEATS)  # noqa: B023
        found[name] = (whole, alone, wall)
    return found


def main() -> None:
    """Measure all, print a table, end with the claims as JSON."""
    table = {samples: measured(samples) for samples in SIZES}
    small, _, large = SIZES
    growth = {name: table[large][name][0] / table[small][name][0] * small / large for name in STRATEGIES}
    print(f"{'20 % of':<12}" + "".join(f"{samples / 1e6:>7.0f}M" for samples in SIZES) + f"{'strategy':>12}{'wall':>8}{'growth':>8}")
    for name in STRATEGIES:
        whole = "".join(f"{table[samples][name][0]:8.3f}" for samples in SIZES)
        print(f"{name:<12}{whole}{table[large][name][1]:12.3f}{table[large][name][2]:8.3f}{growth[name]:8.2f}")
    candidates = Candidates.none_yet(1000)
    size = sum(array.nbytes for array in vars(candidates).values()) / 1000 + np.dtype(np.uint32).itemsize
    claims = {
        "slowest_strategy_10m_seconds": max(whole for whole, _, _ in table[large].values()),
        "bytes_per_candidate": size,
        "growth_1m_to_10m_over_linear": max(growth.values()),
    }
    print(json.dumps({"claims": [{"claim": claim, "measured": round(value, 3)} for claim, value in claims.items()]}))


if __name__ == "__main__":
    main()
