"""How fast trials of a shape are on this machine, and how much memory they take: remembered in the cache for the next study's estimate.

Known from trials that ended, and from `calibrate`, which tries a few seconds of one. A calibration is a convenience: one that cannot be
read counts as none, and one that cannot be written is left out.
"""

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sleep_tune.config import Config
from sleep_tune.errors import RunError
from sleep_tune.files import cache_directory, locked, write_json
from sleep_tune.machine import machine
from sleep_tune.sleep.schedule import CorpusSize
from sleep_tune.study.estimate import Speed, mean_speed, shape_key
from sleep_tune.study.material import corpus_size
from sleep_tune.study.spec import Study
from sleep_tune.training.sizes import BASE_BYTES, Memory, process_memory

if TYPE_CHECKING:
    from sleep_tune.data.token_store import Prepared

_NEWEST_SHARE = 0.3  # of a new trial in the remembered mean: the last half dozen trials count
_SHAPED_BY = ("model", "objective", "masking", "training")  # groups of the fields that `shape_key` reads and a study may vary
_BASE = "base_bytes"
_TOKENS_A_WORD = 1.4
MOST_SHAPES = 4  # that are tried out
MOST_TOGETHER = 4  # processes that try one side by side, as trials will run


@dataclass(frozen=True)
class Asked:
    """What `python -m sleep_tune.calibrate` is asked: a config, its corpus, the text in numbers, the milestones."""

    config: Config
    prepared: "Prepared"
    size: CorpusSize
    milestones: tuple[int, ...]


def calibration_file() -> Path:
    """Where calibrations are kept."""
    return cache_directory() / "calibration.json"


def record_calibration(config: Config, words_per_s: float, rss_bytes: int, overhead_s: float = 0.0, trials: int = 1) -> None:
    """Remember a trial that ended: training words a second, its processes' peak bytes, seconds beside training (set-up, scores).

    What was only tried out (`trials` 0) gives way to the first that ran, and never to what did.
    """
    if not words_per_s > 0:
        return
    with contextlib.suppress(OSError), locked(calibration_file().with_suffix(".lock")):
        known = _read()
        speeds = known.setdefault(machine().key, {})
        old = _speed(speeds.get(shape_key(config)))
        if not trials and old is not None and old.trials:
            return
        share = 1.0 if old is None or not old.trials else _NEWEST_SHARE
        before = old or Speed(words_per_s, overhead_s, rss_bytes, 0)
        speeds[shape_key(config)] = {
            "words_per_s": before.words_per_s * (1 - share) + words_per_s * share,
            "overhead_s": before.overhead_s * (1 - share) + overhead_s * share,
            "rss_bytes": max(before.rss_bytes, rss_bytes) if trials else rss_bytes,
            "trials": before.trials + trials,
        }
        write_json(calibration_file(), known)


def read_calibration(config: Config) -> Speed | None:
    """What trials of this config's shape took on this machine; None where none ran."""
    return _speed(_here().get(shape_key(config)))


def read_speed(study: Study) -> Speed | None:
    """What a trial of `study` takes on average; None where one of its shapes never ran here."""
    known = [(read_calibration(config), times) for config, times in shapes(study)]
    found = [(speed, times) for speed, times in known if speed is not None]
    return mean_speed(found) if len(found) == len(known) else None


def trial_memory(study: Study, corpus: "Prepared | None") -> Memory:
    """The peak of a trial with all its workers, the largest of the study's shapes: as measured here, else by its sizes."""
    base_bytes = _here().get(_BASE)
    hosts, gpus = [0], [0]
    for config, _ in shapes(study):
        samples, tokens = _sizes(study, corpus)
        base = base_bytes if isinstance(base_bytes, int) else BASE_BYTES
        by_size = process_memory(config, config.tokenizer.vocab_size, samples, tokens, base)
        speed = read_calibration(config)
        host = by_size.host * config.resources.workers
        tried = 0 if speed is None else speed.rss_bytes
        hosts.append(tried if speed is not None and speed.trials else max(host, tried))  # some seconds do not show all
        gpus.append(by_size.gpu)
    return Memory(max(hosts), max(gpus))


def shapes(study: Study) -> list[tuple[Config, int]]:
    """A config of each shape that the study's trials have, and how many points have it."""
    if not any(field.split(".")[0] in _SHAPED_BY for field in study.spec.vary):
        return [(study.first, 1)]
    found: dict[str, tuple[Config, int]] = {}
    for config in study.searched():
        key = shape_key(config)
        found[key] = (found[key][0] if key in found else config, found.get(key, (config, 0))[1] + 1)
    return list(found.values())


def calibrate(study: Study, corpus: "Prepared", concurrent: int) -> Iterator[str]:
    """Try a few seconds of each shape of `study`, as many side by side as trials will be; a line for each. Raises RunError."""
    for config, _ in shapes(study)[:MOST_SHAPES]:
        if config.resources.workers > 1:
            yield "calibrated: not trials of several workers; the first that ends tells"
            continue
        together = max(1, min(concurrent, study.trials_planned, MOST_TOGETHER))
        told = _tried(config, corpus, study, together)
        speed, overhead_s = (sum(row[name] for row in told) / together for name in ("words_per_s", "overhead_s"))
        record_calibration(config, speed, int(max(row["rss_bytes"] for row in told)), overhead_s, trials=0)
        _record_base(int(told[0]["base_bytes"]))
        yield f"calibrated: {speed:,.0f} words/s in training and {overhead_s:.1f} s beside it, {together} side by side"


def _tried(config: Config, corpus: "Prepared", study: Study, together: int) -> list[dict[str, float]]:
    """What `sleep_tune.calibrate` says of a config, by `together` processes at once."""
    asked = pickle.dumps(Asked(config, corpus, corpus_size(corpus), tuple(study.milestones())))
    path = [str(Path(__file__).resolve().parent.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": str(config.resources.threads)}
    command, pipe = [sys.executable, "-m", "sleep_tune.calibrate"], subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) for _ in range(together)]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(asked)
            process.stdin.close()
            process.stdin = None
        said = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, said, strict=True):
        if process.returncode:
            last = (errors.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise RunError(f"--calibrate: {last}")
    return [json.loads(output) for output, _ in said]


def _record_base(size: int) -> None:
    with contextlib.suppress(OSError), locked(calibration_file().with_suffix(".lock")):
        known = _read()
        known.setdefault(machine().key, {})[_BASE] = size
        write_json(calibration_file(), known)


def _sizes(study: Study, corpus: "Prepared | None") -> tuple[int, int]:
    """(samples, tokens) of the training text; by its words where it is not prepared."""
    if corpus is not None:
        from sleep_tune.data.token_store import open_store

        store = open_store(corpus.directory)
        return store.samples, len(store.tokens)
    data = study.first.data
    embedded = getattr(data.source, "embedded", None)
    words = min(data.words or study.budget_words, embedded.words if embedded is not None else study.budget_words)
    return int(words * _TOKENS_A_WORD / (data.row_length if data.rows == "packed" else data.row_length / 2)), int(words * _TOKENS_A_WORD)


def _here() -> dict[str, Any]:
    """What is known of this machine."""
    speeds = _read().get(machine().key)
    return speeds if isinstance(speeds, dict) else {}


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
