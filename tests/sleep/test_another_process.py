"""What is selected depends on inputs and key alone: another process selects the same."""

import hashlib
import os
import subprocess
import sys

import numpy as np

from sleep_tune.sleep.strategies import STRATEGIES, Pool
from sleep_tune.streams import stream


def selections() -> str:
    """A digest of what every strategy selects of one pool."""
    n = 50_000
    score_n = stream(3, "probe").lognormal(size=n).astype(np.float32)
    score_n[::7] = 0
    age_n = np.arange(n) % 6 + 1
    pool = Pool(np.arange(n) * 3, score_n, 0.9**age_n, age_n, np.arange(n) % 5)
    chosen = [STRATEGIES[name](pool, n // 5, stream(3, "buffer", 2)).astype(np.int64) for name in sorted(STRATEGIES)]
    return hashlib.blake2b(np.concatenate(chosen).tobytes()).hexdigest()


def test_another_process_selects_the_same():
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.strip() == selections()


if __name__ == "__main__":
    print(selections())
