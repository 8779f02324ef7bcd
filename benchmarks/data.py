"""How long real text takes to become a token store, how fast the store opens, and what a larger corpus costs a trial in memory.

Needs the real text: SLEEP_TUNE_DATA or ../shared/data. All in fresh processes with fresh caches, CPU only.
`memory_growth_percent` compares the private memory (RssAnon: what the process itself holds, without the mapped files that trials share)
of a process that opens the store, draws one whole epoch's batches and counts exposures, at 1M and at 4M words of corpus (the corpus holds
3.6M once cleaned): the largest value seen along the epoch. What grows is 4 bytes of exposures and 8 of permutation a sample.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROW_LENGTH, VOCABULARY, BATCH_ROWS = 128, 8192, 32


def main() -> None:
    """Run all, print a table, end with the claims as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=os.environ.get("SLEEP_TUNE_DATA", "../shared/data"))
    parser.add_argument("--child", choices=["build", "open", "trial"])
    parser.add_argument("--words", type=int)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments.data, arguments.words)))
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SLEEP_TUNE_CACHE"] = cache
        built = child("build", arguments.data)
        child("build", arguments.data, 1_000_000)
        opened = child("open", arguments.data)
        small, large = child("trial", arguments.data, 1_000_000), child("trial", arguments.data)
    growth = 100 * (large["anonymous_mb"] / small["anonymous_mb"] - 1)
    print(
        f"cleaning, tokenizer {VOCABULARY}, store    {built['seconds']:8.1f} s   {built['words']:,} words, peak {built['peak_mb']:.0f} MB"
    )
    print(f"opening the store                {opened['ms']:8.2f} ms  median of 50")
    for trial in (small, large):
        print(f"one epoch of batches             {trial['anonymous_mb']:8.1f} MB  private memory at {trial['words']:,} words")
    claims = {"store_build_seconds": built["seconds"], "store_open_ms": opened["ms"], "memory_growth_percent": growth}
    print(json.dumps({"claims": [{"claim": claim, "measured": round(value, 2)} for claim, value in claims.items()]}))


def child(task: str, data: Path, words: int | None = None) -> dict[str, float]:
    """Run one of CHILDREN in a process of its own."""
    command = [sys.executable, __file__, str(data), "--child", task, *(["--words", str(words)] if words else [])]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def build(data: Path, words: int | None) -> dict[str, float]:
    """Prepare the corpus."""
    from sleep_tune.data.token_store import Source, prepare

    start = time.perf_counter()
    prepared = prepare(Source("directory", str(data / "babylm")), words, "light", "packed", ROW_LENGTH, VOCABULARY)
    return {"seconds": time.perf_counter() - start, "words": prepared.train_words, "peak_mb": memory_mb("VmHWM")}


def open_(data: Path, words: int | None) -> dict[str, float]:
    """Open the store 50 times."""
    from sleep_tune.data.token_store import open_store

    directory = prepared_directory(data, words)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        open_store(directory)
        times.append(1000 * (time.perf_counter() - start))
    return {"ms": median(times)}


def trial(data: Path, words: int | None) -> dict[str, float]:
    """Draw every batch of an epoch, as a trial's data side does, with torch loaded as in a trial."""
    import numpy as np
    import torch

    from sleep_tune.data import collate
    from sleep_tune.data.token_store import open_store
    from sleep_tune.streams import stream

    store = open_store(prepared_directory(data, words))
    exposures_N = np.zeros(store.samples, np.uint32)
    order_N = stream(1, "wake").permutation(store.samples)
    seen, anonymous = 0, 0.0
    for step, first in enumerate(range(0, store.samples, BATCH_ROWS)):
        ids_B = order_N[first : first + BATCH_ROWS]
        tokens_BL, _ = collate.rows(store.tokens, store.offsets, ids_B)
        torch.from_numpy(tokens_BL)
        exposures_N[ids_B] += 1
        seen += int(store.words_N[ids_B].sum())
        if step % 100 == 0:
            anonymous = max(anonymous, memory_mb("RssAnon"))
    assert seen == store.words
    return {"words": seen, "anonymous_mb": anonymous}


def prepared_directory(data: Path, words: int | None) -> Path:
    """The store that `build` left."""
    from sleep_tune.data.token_store import Source, find_prepared

    prepared = find_prepared(Source("directory", str(data / "babylm")), words, "light", "packed", ROW_LENGTH, VOCABULARY)
    assert prepared is not None
    return prepared.directory


def memory_mb(field: str) -> float:
    """A field of this process's memory in MB: VmHWM (highest resident, mapped files included), RssAnon (private now)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


CHILDREN = {"build": build, "open": open_, "trial": trial}

if __name__ == "__main__":
    main()
