"""Instruments of a training run: where its time goes, how fast it is, how much of the machine's matrix products it reaches, its memory.

They follow step records and cost about a microsecond a step. Utilisation is the floating-point operations that the model needs
(`sizes.flops_a_token`) a second of wake and sleep, over what a large matrix product of the same precision reaches here on as many threads.
"""

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sleep_tune.config import Config
from sleep_tune.files import cache_directory, locked, write_json
from sleep_tune.machine import machine
from sleep_tune.training.sizes import flops_a_token

if TYPE_CHECKING:
    from sleep_tune.training.loop import StepRecord

PARTS = ("wake", "sleep", "selection", "evaluation", "checkpoint")
MEASURED_S = 0.1  # of products for the ceiling
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices multiplied


class Meters:
    """Seconds by part, words and tokens of a trial, over all processes that trained it; `ceiling` in floating-point operations a second."""

    def __init__(self, config: Config, vocab_size: int, ceiling: float) -> None:
        self._config, self._vocab_size, self._sleeps = config, vocab_size, config.sleep is not None
        self.ceiling = ceiling
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.writing_s = 0.0  # of checkpoints, beside the training
        self.words = self.tokens = self.steps = self.peak_before = 0
        self._phase: tuple[int, str] | None = None
        self._lap = time.perf_counter()
        self._aside = 0.0
        reset_peak()

    def begin(self) -> None:
        """Training goes on from here."""
        self._lap, self._aside = time.perf_counter(), 0.0

    def step(self, record: "StepRecord") -> None:
        """A step is over. What passed since the one before is its phase's; where that began, all but the step itself is the selection's."""
        now = time.perf_counter()
        took = now - self._lap - self._aside
        self._lap, self._aside = now, 0.0
        phase = (record.cycle, record.phase)
        if self._sleeps and self._phase is not None and phase != self._phase:
            self.seconds["selection"] += max(0.0, took - record.wall_s)
            took = record.wall_s
        self._phase = phase
        self.seconds[record.phase] += took
        self.words, self.tokens, self.steps = record.words_seen, self.tokens + record.tokens, self.steps + 1

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time in here is that part's, and no step's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.seconds[name] += took
            self._aside += took

    @property
    def training_s(self) -> float:
        """Seconds of steps."""
        return self.seconds["wake"] + self.seconds["sleep"]

    @property
    def flops(self) -> float:
        """Floating-point operations a second of training."""
        if not self.training_s:
            return 0.0
        length = min(self._config.data.row_length, max(2.0, self.tokens / (self.steps * self._config.training.batch_rows)))
        return flops_a_token(self._config, self._vocab_size, length) * self.tokens / self.training_s

    def row(self) -> dict[str, Any]:
        """All of it as a flat row: totals since the trial's first step."""
        seconds = {f"{name}_s": round(value, 4) for name, value in self.seconds.items()}
        training_s = self.training_s or 1.0
        return {
            "words_seen": self.words,
            "tokens": self.tokens,
            "steps": self.steps,
            **seconds,
            "writing_s": round(self.writing_s, 4),
            "words_per_s": self.words / training_s,
            "tokens_per_s": self.tokens / training_s,
            "flops": self.flops,
            "ceiling_flops": self.ceiling,
            "utilisation": self.flops / self.ceiling if self.ceiling else 0.0,
            "peak_bytes": max(self.peak_before, peak_bytes()),
            "gpu_peak_bytes": gpu_peak_bytes(),
        }

    def take_up(self, row: dict[str, Any]) -> None:
        """Go on from the row of an earlier process."""
        self.seconds = {name: float(row[f"{name}_s"]) for name in PARTS}
        self.writing_s, self.peak_before = float(row["writing_s"]), int(row["peak_bytes"])
        self.words, self.tokens, self.steps = (int(row[name]) for name in ("words_seen", "tokens", "steps"))

    def brief(self) -> str:
        """Speed and utilisation for a line of progress; empty before the first step."""
        if not self.training_s:
            return ""
        used = f", {self.flops / self.ceiling:.0%} of peak" if self.ceiling else ""
        return f"{self.tokens / self.training_s:,.0f} tokens/s{used}"

    def summary(self) -> str:
        """One line for the end of a run."""
        total = sum(self.seconds.values()) or 1.0
        shares = ", ".join(f"{name} {value / total:.1%}" for name, value in self.seconds.items() if value)
        ceiling = f" of {self.ceiling / 1e9:,.0f} GFLOP/s" if self.ceiling else ""
        return f"{shares}; {self.brief()}{ceiling}; peak memory {max(self.peak_before, peak_bytes()) / (1 << 20):,.0f} MiB"


def matmul_ceiling(device: torch.device, precision: str, workers: int = 1) -> float:
    """What products of large square matrices reach here, in floating-point operations a second, on this process's threads times `workers`.

    Measured once for a machine, precision and number of threads, then kept in the cache; 0 where it cannot be measured.
    """
    key = " | ".join([machine().key, device.type, precision, f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"])
    path = cache_directory() / "ceilings.json"
    known = _ceilings(path)
    if key not in known:
        known[key] = measure_ceiling(device, precision)
        with suppress(OSError), locked(path.with_suffix(".lock")):
            write_json(path, {**_ceilings(path), key: known[key]})
    return known[key] * workers


def _ceilings(path: Path) -> dict[str, float]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def measure_ceiling(device: torch.device, precision: str) -> float:
    """The best of products for `MEASURED_S`, at least three; on one thread by its own time, which others on the machine do not lengthen."""
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    side, kind = _SIDE[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.full((side, side), 0.5, dtype=kind, device=device) for _ in range(2))
    out = torch.empty_like(left)
    best, began, done = float("inf"), time.perf_counter(), 0
    while done < 4 or time.perf_counter() - began < MEASURED_S:
        start = clock()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if done:  # the first one sets the library up
            best = min(best, clock() - start)
        done += 1
    return 2 * side**3 / best


def reset_peak() -> None:
    """Let this process's peak of memory begin here, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """This process's peak of resident memory."""
    return _status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if os.uname().sysname == "Linux" else 1)


def present_bytes() -> int:
    """This process's resident memory; 0 where the system does not say."""
    return _status("VmRSS:")


def gpu_peak_bytes() -> int:
    """The peak of what torch has allocated on this process's GPU."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() and torch.cuda.is_initialized() else 0


def _status(name: str) -> int:
    with suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
