"""The demonstration as a user runs it: what it prints, what it draws, what it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from sleep_tune.config import Sleep
from sleep_tune.errors import RunError, UserError
from sleep_tune.sleep.demo import main, require_order
from sleep_tune.sleep.picture import Planned, draw_schedule
from sleep_tune.sleep.schedule import CorpusSize, phases

STRATEGIES = ("random", "weighted", "strict", "rank", "stratified", "recency", "easy")


def planned(**fields: object) -> Planned:
    """Ten folds of a thousand samples of five words, in a budget of 20,000 words."""
    sleep, size = Sleep(folds=10, **fields), CorpusSize(1000, 5000, 8.0)
    return Planned.of(list(phases(sleep, size, 10, 20_000)), sleep, size)


def test_the_demonstration_shows_folds_samples_phases_and_strategies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    total, first, last = (
        int(number.replace(",", "")) for number in re.search(r"Folds of ([\d,]+) .*?: (\d+) each; fold 50: (\d+)", said).groups()
    )
    assert (first, last) == (total // 50, total - 49 * (total // 50))
    assert all(re.search(rf"^ {name} +\d", said, re.M) for name in STRATEGIES)
    assert re.search(r"^ +1 +wake +", said, re.M)
    assert re.search(r"^ +1 +sleep +", said, re.M)
    means = {name: float(re.search(rf"^ {name} +([\d.]+)", said, re.M)[1]) for name in STRATEGIES}
    assert means["strict"] > means["weighted"] > means["random"] > means["easy"]
    assert said.rstrip().endswith("holds")
    picture = imread(tmp_path / "schedule.png")
    assert 1400 < picture.shape[1] < 1600
    assert picture.min() < 0.5  # something is drawn


def test_without_matplotlib_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    absent = tmp_path / "without" / "matplotlib"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError('No module named matplotlib', name='matplotlib')\n")
    places = {**os.environ, "PYTHONPATH": str(absent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sleep_tune.sleep.demo", "--preset", "baseline_like", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=places, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 0, done.stderr
    assert "No picture: matplotlib is not installed (pip install 'sleep-tune[analysis]')." in done.stdout
    assert not (tmp_path / "schedule.png").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--preset", "epochs"], "plain epochs have no sleep"),
        (["--preset", "strict_repaly"], "unknown preset strict_repaly (did you mean strict_replay?)"),
        (["--preset", "default", "--preset", "test"], "default and test are both schedules"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--data", "hub:a b"], "must be a directory or hub:OWNER/NAME"),
        (["--out", "/proc/x"], "--out = /proc/x: cannot be written to"),
        (["--dtaa", "x"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)) as error:
        main(words)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_an_order_that_does_not_hold_ends_in_exit_1() -> None:
    with pytest.raises(RunError, match=r"random 2\.000 > easy 1\.000 does not hold") as error:
        require_order({"strict": 3.0, "weighted": 2.0, "random": 2.0, "easy": 1.0})
    assert error.value.exit_code == 1


def test_the_picture_knows_what_each_sleep_chooses_from() -> None:
    """Ratio 1: 100 rows of a fold, then as many asleep: 50 + 50 words x 10; a tenth of the candidates, so 100/(10 c) times each."""
    plan = planned(length={"ratio": 1.0}, replay_ratio=0.1)
    asleep = plan.places("sleep")
    assert plan.candidates_P[asleep][:10].tolist() == list(range(100, 1001, 100))
    assert plan.buffer_P[asleep][:10].tolist() == list(range(10, 101, 10))
    assert plan.replays_P[asleep][:3] == pytest.approx([10, 5, 10 / 3])
    assert plan.end_P[:2].tolist() == [500.0, 1000.0]
    assert np.diff(plan.end_P) == pytest.approx(500.0)


def test_candidates_of_one_fold_do_not_grow() -> None:
    plan = planned(length={"ratio": 1.0}, replay_ratio=0.1, candidates="fold")
    assert set(plan.candidates_P.tolist()) == {100}


@pytest.mark.parametrize("fields", [{"length": {"ratio": 1.0}}, {"length": {"ratio": 200.0}}, {"length": {"fill": {}}}])
def test_every_schedule_can_be_drawn(tmp_path: Path, fields: dict[str, object]) -> None:
    draw_schedule(planned(**fields), "a schedule", tmp_path / "schedule.png")
    assert 1400 < imread(tmp_path / "schedule.png").shape[1] < 1600
