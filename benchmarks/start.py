"""How long until something happens: the list, the plan, and the first optimizer step of a trial in a worker that has run one before.

`list_seconds` and `dry_run_seconds` are whole processes, medians over `RUNS`, taken in turn. `reused_actor_first_step_seconds` is the time
from a reused actor's next assignment to the answer that its first optimizer step is done, evaluated and saved: an upper bound.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RUNS = 7
TRIALS = 5
LAUNCH = Path(__file__).resolve().parent.parent / "launch.py"


def process_seconds(arguments: Sequence[str]) -> float:
    """Wall seconds of a whole `launch.py` process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, str(LAUNCH), *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_step_seconds(directory: Path) -> tuple[float, list[float]]:
    """Seconds to the first step: of an actor's first trial, imports included, and of each that follows in the same actor."""
    import ray

    from sleep_tune.study.material import prepared
    from sleep_tune.study.request import Request, ask
    from trainables.assignment import Assignment, write_control
    from trainables.sleep_trainable import SleepTrainable

    study, _ = ask(Request(space="smoke", seeds=",".join(str(seed) for seed in range(TRIALS + 1)), set=["training.precision=fp32"]))
    corpus = prepared(study, say=lambda line: None)
    write_control(directory, 1, interrupt=False)
    # one word is a milestone: the first step passes it, and the trial reports
    configs = study.grid()[: TRIALS + 1]
    told = [
        Assignment(f"trial{i}", config, corpus, "start", directory, (1, study.budget_words), "dev_loss", "min", 1, 0, False)
        for i, config in enumerate(configs)
    ]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        began = time.perf_counter()
        actor = ray.remote(num_cpus=1)(SleepTrainable).remote(config={"assignment": told[0]})
        ray.get(actor.step.remote())
        first = time.perf_counter() - began
        later = []
        for assignment in told[1:]:
            began = time.perf_counter()
            ray.get(actor.reset_config.remote({"assignment": assignment}))
            ray.get(actor.step.remote())
            later.append(time.perf_counter() - began)
        return first, later
    finally:
        ray.shutdown()


def main() -> None:
    """Measure, print the table and the claims."""
    timed: dict[str, list[float]] = {"list": [], "dry_run": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for arguments in (["--list"], ["--space", "grid", "--dry-run"]):
            process_seconds(arguments)  # byte code and page cache
        for _ in range(RUNS):
            timed["list"].append(process_seconds(["--list"]))
            timed["dry_run"].append(process_seconds(["--space", "grid", "--dry-run"]))
        first, later = first_step_seconds(Path(folder) / "study")
    rows = {**timed, "first step, reused actor": later, "first step, new actor": [first]}
    print(f"{'what':<26}{'median':>9}{'least':>9}{'most':>9}  seconds, 2 x {RUNS} processes, {TRIALS} trials")
    for name, seconds in rows.items():
        print(f"{name:<26}{statistics.median(seconds):>9.2f}{min(seconds):>9.2f}{max(seconds):>9.2f}")
    claims = {
        "list_seconds": statistics.median(timed["list"]),
        "dry_run_seconds": statistics.median(timed["dry_run"]),
        "reused_actor_first_step_seconds": statistics.median(later),
    }
    print(json.dumps({"claims": [{"claim": claim, "measured": round(seconds, 3)} for claim, seconds in claims.items()]}))


if __name__ == "__main__":
    main()
