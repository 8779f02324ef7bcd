"""How fast trials of a shape ran on this machine, remembered in the cache for the next study's estimate.

A calibration is a convenience: one that cannot be read counts as none, and one that cannot be written is left out.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from sleep_tune.config import Config
from sleep_tune.files import cache_directory, locked, write_json
from sleep_tune.machine import machine
from sleep_tune.study.estimate import Speed, shape_key

_NEWEST_SHARE = 0.3  # of a new trial in the remembered mean: the last half dozen trials count


def calibration_file() -> Path:
    """Where calibrations are kept."""
    return cache_directory() / "calibration.json"


def record_calibration(config: Config, words_per_s: float, rss_bytes: int, overhead_s: float = 0.0) -> None:
    """Remember a trial that ended: training words a second, its process's peak bytes, seconds beside training (set-up, scores)."""
    if not words_per_s > 0:
        return
    with contextlib.suppress(OSError), locked(calibration_file().with_suffix(".lock")):
        known = _read()
        speeds = known.setdefault(machine().key, {})
        old = _speed(speeds.get(shape_key(config)))
        share = 1.0 if old is None else _NEWEST_SHARE
        before = old or Speed(words_per_s, overhead_s, rss_bytes, 0)
        speeds[shape_key(config)] = {
            "words_per_s": before.words_per_s * (1 - share) + words_per_s * share,
            "overhead_s": before.overhead_s * (1 - share) + overhead_s * share,
            "rss_bytes": max(before.rss_bytes, rss_bytes),
            "trials": before.trials + 1,
        }
        write_json(calibration_file(), known)


def read_calibration(config: Config) -> Speed | None:
    """What trials of this config's shape took on this machine; None where none ran."""
    speeds = _read().get(machine().key)
    return _speed(speeds.get(shape_key(config))) if isinstance(speeds, dict) else None


def _read() -> dict[str, Any]:
    try:
        known = json.loads(calibration_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _speed(row: Any) -> Speed | None:
    try:
        speed = Speed(float(row["words_per_s"]), float(row["overhead_s"]), int(row["rss_bytes"]), int(row["trials"]))
    except (TypeError, KeyError, ValueError):
        return None
    return speed if speed.words_per_s > 0 else None
