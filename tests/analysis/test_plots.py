"""A study's frames and pictures, and the notebook that shows them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.image import imread

from analysis.cycle_plots import forgotten, plot_replays, plot_retention
from analysis.loading import (
    StudyTables,
    common_words,
    comparable,
    dev_losses,
    find_study,
    load_study,
    ranking_frame,
    replays_by_age,
    retention,
)
from analysis.plots import plot_fields, plot_learning_curves, plot_ranking, save, shade_phases
from sleep_tune.errors import UserError

NOTEBOOK = Path(__file__).resolve().parents[2] / "analysis" / "study.ipynb"


@pytest.fixture(scope="session")
def study(made_study: Path) -> StudyTables:
    return load_study(made_study)


@pytest.fixture
def plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLEEP_TUNE_PLOTS", str(tmp_path / "plots"))
    return tmp_path / "plots"


def test_the_named_study_is_found(made_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_TUNE_STUDY", str(made_study))
    assert find_study() == made_study.resolve()


def test_the_study_that_changed_last_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLEEP_TUNE_STUDY", raising=False)
    monkeypatch.chdir(tmp_path)
    for name, changed in (("old", 10**9), ("new", 4 * 10**9)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "ledger.jsonl").touch()
        os.utime(tmp_path / "runs" / name / "ledger.jsonl", (changed, changed))
    assert find_study().name == "new"


def test_a_directory_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load_study(tmp_path)


def test_the_ranking_frame_is_ordered_and_marks_baselines(study: StudyTables) -> None:
    frame = ranking_frame(study)
    assert frame.dev_loss.is_monotonic_increasing
    assert frame.baseline.sum() == 2
    assert frame.loc[frame.schedule == "plain epochs", "against baseline"].isna().all()


def test_dev_losses_have_a_row_a_milestone_and_a_column_a_seed(study: StudyTables) -> None:
    losses = dev_losses(study, study.outcome.ranking.ranked[0].configuration)
    assert list(losses.columns) == [1, 2]
    assert losses.index[-1] == 200_000
    assert (np.diff(losses.mean(axis=1)) < 0).all()


def test_stopped_trials_are_compared_at_the_words_all_reached(study: StudyTables) -> None:
    assert common_words(study) == 22_222


def test_every_plot_is_a_picture_of_the_width_of_a_page(study: StudyTables, plots: Path) -> None:
    figures = {
        "ranking": plot_ranking(study),
        "curves": plot_learning_curves(study),
        "fields": plot_fields(study),
        "pairs": plot_fields(study, "pairs"),
        "replays": plot_replays(study),
        "retention": plot_retention(study),
    }
    for name, figure in figures.items():
        path = save(figure, name)
        assert path == plots / f"{name}.png"
        height, width = imread(path).shape[:2]
        assert 1000 < width < 1700
        assert height > 300
        assert [axes for axes in figure.axes if axes.get_label() != "<colorbar>"][-1].get_xlabel()
        plt.close(figure)


def test_every_plot_says_which_study_and_how_much_of_it_is_there(study: StudyTables) -> None:
    assert study.planned == 20
    fields = plot_fields(study), plot_fields(study, "pairs")
    for figure in (plot_ranking(study), plot_learning_curves(study), *fields, plot_replays(study), plot_retention(study)):
        assert figure.get_suptitle() == f"made: 18 of 20 trials; {len(study.outcome.ranking.stopped)} configurations not ranked yet"
    plt.close("all")


def test_all_of_the_smoothed_training_loss_is_in_the_picture(study: StudyTables) -> None:
    axes = plot_learning_curves(study).axes[2]
    low, high = axes.get_ylim()
    smoothed = [line.get_ydata() for line in axes.lines if "mean of" in str(line.get_label())]
    assert len(smoothed) == 2
    assert all(low < np.min(loss) < np.max(loss) < high for loss in smoothed)
    plt.close("all")


def trials(*rows: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["strategy", "folds", "seed"])


def test_only_trials_with_equal_partners_are_compared() -> None:
    some = trials(("strict", 5, 1), ("strict", 20, 1), ("random", 5, 1), ("random", 5, 2))
    assert comparable(some, "strategy", ["folds"]).tolist() == [True, False, True, False]
    assert comparable(some, "folds", ["strategy"]).tolist() == [True, True, False, False]


def test_a_value_without_partners_does_not_hinder_the_comparison_of_others() -> None:
    some = trials(("strict", 5, 1), ("random", 5, 1), ("weighted", 20, 1))
    assert comparable(some, "strategy", ["folds"]).tolist() == [True, True, False]


def test_survivors_that_differ_in_everything_are_not_compared() -> None:
    assert not comparable(trials(("strict", 5, 1), ("random", 20, 1)), "strategy", ["folds"]).any()
    assert not comparable(trials(("strict", 5, 1)), "strategy", ["folds"]).any()
    assert not comparable(trials(), "strategy", ["folds"]).any()


def test_means_of_two_values_are_not_joined(study: StudyTables) -> None:
    means = [line for axes in plot_fields(study).axes for line in axes.lines if line.get_marker() == "_" and len(line.get_xdata())]
    assert means
    assert {line.get_linestyle() for line in means} == {"None"}
    plt.close("all")


def test_phases_are_shaded_where_they_were(study: StudyTables) -> None:
    trial = study.trials[(study.trials["sleep.folds"] == 5) & (study.trials["sleep.length"] == "ratio: 1")].iloc[0]
    steps = study.steps[study.steps.trial == trial.trial]
    _, axes = plt.subplots()
    shade_phases(axes, steps)
    shaded = sum(patch.get_width() for patch in axes.patches)
    changes = int((steps.phase.to_numpy()[1:] != steps.phase.to_numpy()[:-1]).sum())
    assert len(axes.patches) == changes + 1
    assert shaded == steps.words_seen.max()
    plt.close("all")


def test_retention_is_a_row_a_probe_with_its_age(study: StudyTables) -> None:
    """The made-up trials probe every second fold before the one just read; after the last fold the first is read again."""
    configuration = ranked_with(study, 5)
    kept = retention(study, configuration)
    after_seven = kept[kept.cycle == 6]  # cycle 6 of five folds reads fold 1
    assert dict(zip(after_seven.fold, after_seven.age, strict=True)) == {1: 0, 4: 2, 2: 4}
    assert (np.diff(kept.groupby("cycle").words_seen.first()) > 0).all()
    assert kept.groupby("cycle").words_seen.nunique().eq(1).all()
    losses = dict(zip(after_seven.age, after_seven.loss, strict=True))
    assert [losses[age] - losses[0] for age in (2, 4)] == pytest.approx([0.2, 0.4])


def test_what_was_forgotten_is_told_against_the_same_fold_at_its_first_look() -> None:
    """By hand: fold 0 goes from 3.0 to 2.8 to 3.3, fold 1 from 3.5 to 3.6; that fold 1 is the harder one says nothing."""
    looks = [(0, 0, 0, 3.0), (1, 0, 1, 2.8), (2, 0, 2, 3.3), (1, 1, 0, 3.5), (2, 1, 1, 3.6)]
    lost = forgotten(pd.DataFrame(looks, columns=["cycle", "fold", "age", "loss"]))
    assert lost.index.tolist() == [0, 1, 2]
    assert lost.tolist() == pytest.approx([0.0, -0.05, 0.3])


def test_replays_by_age_are_told_against_random_choice(study: StudyTables) -> None:
    """By hand: 10 of 20 candidates are one cycle old. Of 30 replays random choice gives them 15, and of 40 among 40 it gives 10."""
    configuration = ranked_with(study, 5)
    trial = study.trials.trial[study.trials.configuration == configuration].iloc[0]
    cycles = pd.DataFrame(
        {
            "trial": trial,
            "replays": [30, 40, 0],
            "candidates": [20, 40, 50],
            "replays_by_age": [[25, 5], [10, 20, 10], [0, 0, 0]],
            "candidates_by_age": [[10, 10], [20, 10, 10], [30, 10, 10]],
        }
    )
    rates = replays_by_age(replace(study, cycles=cycles), configuration)
    assert rates.tolist() == pytest.approx([35 / 35, 25 / 25, 10 / 10])
    cycles.replays_by_age = [[30, 0], [40, 0, 0], [0, 0, 0]]
    assert replays_by_age(replace(study, cycles=cycles), configuration).tolist() == pytest.approx([70 / 35, 0, 0])


def test_a_study_without_cycles_is_shown_all_the_same(study: StudyTables) -> None:
    none = replace(study, cycles=study.cycles[:0])
    for figure in (plot_replays(none), plot_retention(none)):
        assert any("no ranked schedule" in text.get_text() for axes in figure.axes for text in axes.texts)
    plt.close("all")


def ranked_with(study: StudyTables, folds: int) -> str:
    """A ranked configuration with so many folds."""
    chosen = set(study.trials.configuration[study.trials["sleep.folds"] == folds])
    return next(row.configuration for row in study.outcome.ranking.ranked if row.configuration in chosen)


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


def test_the_notebook_runs_and_saves_its_plots(made_study: Path, plots: Path, tmp_path: Path) -> None:
    places = {"SLEEP_TUNE_STUDY": str(made_study), "SLEEP_TUNE_PLOTS": str(plots), "IPYTHONDIR": str(tmp_path / "ipython")}
    command = [sys.executable, "-m", "jupyter", "execute", str(NOTEBOOK), "--output", str(tmp_path / "out.ipynb")]
    subprocess.run(command, check=True, env={**os.environ, **places}, capture_output=True, timeout=120)
    assert {path.name for path in plots.iterdir()} == {
        "made-ranking.png", "made-learning_curves.png", "made-fields.png", "made-fields-pairs.png",
        "made-replays.png", "made-retention.png",
    }  # fmt: skip
