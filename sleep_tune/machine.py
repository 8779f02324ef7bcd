"""What this machine has: cores, memory, GPUs, processor flags, versions. Nothing here imports torch.

Limits of a container count (affinity, cgroup), as Ray would otherwise be told of cores that nobody gets.
"""

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from sleep_tune.config import Config

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
BF16_WIDTH = 128  # narrower models are bound by call overhead, where bf16 only adds casts (tiny: 0.84-0.94 of fp32's speed)
_BF16_CAPABILITY = 8.0  # Ampere
_VERSIONS = ("torch", "transformers", "tokenizers", "datasets", "ray", "optuna", "numpy", "scipy", "pydantic", "pyarrow")


@dataclass(frozen=True)
class Machine:
    """Cores and bytes that a process here may use; GPUs by name; `bf16` says whether the processor multiplies it."""

    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    gpu_bf16: bool
    cpu_bf16: bool

    @property
    def key(self) -> str:
        """What a calibration depends on."""
        return " | ".join([self.processor, f"{self.cores} cores", *self.gpus])


@cache
def machine() -> Machine:
    """This machine."""
    processor, flags = _processor()
    gpus = _gpus()
    return Machine(
        processor=processor,
        cores=cores(),
        memory_bytes=memory_bytes(),
        gpus=tuple(name for name, _ in gpus),
        gpu_bf16=bool(gpus) and all(capability >= _BF16_CAPABILITY for _, capability in gpus),
        cpu_bf16=any(flag in flags for flag in BF16_FLAGS),
    )


def cores() -> int:
    """Cores that this process may use: the smaller of its affinity and its cgroup's quota, at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota() or affinity))


def _quota() -> int | None:
    """Whole cores of a cgroup's CPU quota (version 2, then 1); None where there is no limit."""
    for limit, period in ((_read("/sys/fs/cgroup/cpu.max"), ""), (_read(f"{_V1}/cpu.cfs_quota_us"), _read(f"{_V1}/cpu.cfs_period_us"))):
        numbers = f"{limit} {period}".split()
        if len(numbers) == 2 and all(number.isdigit() for number in numbers) and int(numbers[1]):
            return max(1, math.floor(int(numbers[0]) / int(numbers[1]) + 0.01))
    return None


_V1 = "/sys/fs/cgroup/cpu"


def memory_bytes() -> int:
    """Memory that this process may use: the smaller of the machine's and its cgroup's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _processor() -> tuple[str, frozenset[str]]:
    """Name and flags."""
    text = _read("/proc/cpuinfo")
    name = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1] if name else platform.processor() or platform.machine(), frozenset(flags[1].split() if flags else ())


def _gpus() -> list[tuple[str, float]]:
    """Name and compute capability of each GPU that this process may see. The driver is asked only where it is loaded."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return []
    if not (Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists()) or shutil.which("nvidia-smi") is None:
        return []
    try:
        question = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(question, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.rpartition(",") for line in answer.stdout.splitlines() if "," in line] if answer.returncode == 0 else []
    found = [(name.strip(), float(capability) if re.fullmatch(r"\s*\d+\.\d+\s*", capability) else 0.0) for name, _, capability in rows]
    return found if visible is None else found[: len(visible.split(","))]


def resolve_precision(configs: Sequence[Config], on: Machine) -> Literal["fp32", "bf16"]:
    """What `auto` means for a study of `configs` on this machine: one precision for all, so that they can be compared."""
    if all(config.resources.gpus > 0 for config in configs):
        return "bf16" if on.gpu_bf16 else "fp32"
    wide = all(config.model.width >= BF16_WIDTH for config in configs)
    return "bf16" if on.cpu_bf16 and wide else "fp32"


def environment() -> dict[str, Any]:
    """What `environment.json` keeps: program and library versions, the state of the code, the machine."""
    return {
        "sleep_tune": _version("sleep-tune"),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in _VERSIONS},
        "git": _git(),
        "platform": platform.platform(),
        "machine": asdict(machine()),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the code's checkout, and whether files differ from it; None where it is no checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    try:
        said = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"commit": said[0].stdout.strip() or None, "changed": bool(said[1].stdout.strip())} if said[0].returncode == 0 else None
