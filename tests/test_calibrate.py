"""`--calibrate`: a few seconds of a study's trials, and the plan can tell the time; how the parts make a whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from sleep_tune.calibrate import Pace, short, training_seconds, words_of
from sleep_tune.config import Config, load_config
from sleep_tune.errors import UserError
from sleep_tune.presets import combine, set_field
from sleep_tune.sleep.schedule import CorpusSize
from sleep_tune.study.calibration import Asked

LAUNCH = Path(launch.__file__)


def plan(folder: Path, *more: str) -> dict[str, str]:
    """The plan's lines by their names."""
    words = [sys.executable, str(LAUNCH), "--space", "smoke", "--dry-run", "--concurrent", "1", *more]
    environment = {**os.environ, "SLEEP_TUNE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line.strip() for line in done.stdout.splitlines() if line.strip()}


def test_after_a_calibration_the_plan_tells_the_time(tmp_path: Path) -> None:
    said = plan(tmp_path, "--calibrate")
    assert said["calibrated:"].endswith("1 side by side")
    assert said["time"].startswith("time         about ")
    assert "a trial that runs to its end" in said["time"]
    assert {name: plan(tmp_path)[name] for name in ("time", "memory")} == {name: said[name] for name in ("time", "memory")}
    assert not (tmp_path / "runs").exists()


def test_a_cluster_is_not_calibrated() -> None:
    with pytest.raises(UserError, match="--calibrate: not with --address"):
        launch.run(["--space", "smoke", "--dry-run", "--calibrate", "--address", "ray://127.0.0.1:1"])


def asked(**fields: object) -> Asked:
    raw = combine(["tiny", "default" if any(name.startswith("sleep") for name in fields) else "epochs"])
    for field, value in {"budget_words": 100_000, **{name.replace("__", "."): value for name, value in fields.items()}}.items():
        raw = set_field(raw, field, value)
    config: Config = load_config(raw)
    return Asked(config, None, CorpusSize(1000, 50_000, 100.0), (100_000,))  # type: ignore[arg-type]


def test_a_word_awake_and_one_asleep_take_their_own_time() -> None:
    pace = Pace(wake_s=1.0, sleep_s=3.0, night_s=0.0)
    assert training_seconds(asked(), pace) == pytest.approx(100_000)
    told = asked(sleep__folds=10, sleep__context=None, sleep__length={"ratio": 1}, evaluation__retention=None)
    assert training_seconds(told, pace) == pytest.approx(200_000, rel=0.05)
    assert words_of(told) == pytest.approx(100_000)


def test_scoring_all_candidates_anew_counts_as_forwards() -> None:
    pace = Pace(wake_s=1.0, sleep_s=1.0, night_s=0.0)
    fields = {"sleep__folds": 10, "sleep__context": None, "sleep__length": {"ratio": 1}, "evaluation__retention": None}
    more = training_seconds(asked(**fields, sleep__rescore="all"), pace) - training_seconds(asked(**fields), pace)
    assert more == pytest.approx(sum((cycle + 1) * 5000 for cycle in range(9)) / 3, rel=0.01)


def test_what_is_tried_is_the_schedule_with_short_phases() -> None:
    config = asked(sleep__criterion="gain").config
    tried = short(config)
    assert tried.sleep is not None
    assert (tried.sleep.criterion, tried.sleep.context) == (config.sleep.criterion, config.sleep.context)  # type: ignore[union-attr]
    assert tried.sleep.max_wake_steps == tried.sleep.length.steps  # type: ignore[union-attr]
    assert short(asked().config) == asked().config
