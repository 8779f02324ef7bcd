"""Pictures of a study, from its tables: ranking, learning curves with wake and sleep shaded, score against each varied field.

Made for a page 7 inches wide at 8 points, in Okabe and Ito's colours, which colour-blind readers can tell apart.
"""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.loading import MOST_VALUES, REPOSITORY, StudyTables, common_words, comparable, dev_losses, final_scores
from sleep_tune.study.ledger import BESIDE
from sleep_tune.words import show_words

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#595959"
CURVES = (BLUE, RED, GREEN, PURPLE)
WAKE, SLEEP = "#F8E8B0", "#BBD7EC"
DOT: Any = {"marker": "o", "ms": 3.5, "color": BLUE, "alpha": 0.6, "mew": 0}
GREY_DOT: Any = {"marker": "o", "ms": 3.5, "mfc": "none", "mec": "#999999", "mew": 0.7}
WIDTH = 7.0  # inches
STYLE: Any = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.3, "legend.frameon": False,
    "figure.dpi": 110, "savefig.dpi": 220, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
}  # fmt: skip


def save(figure: Figure, name: str) -> Path:
    """Write a figure under $SLEEP_TUNE_PLOTS, by default `results/plots/`."""
    directory = Path(os.environ.get("SLEEP_TUNE_PLOTS") or REPOSITORY / "results" / "plots")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.png"
    with plt.rc_context(STYLE):
        figure.savefig(path)
    return path


def plot_ranking(study: StudyTables, best: int = 15) -> Figure:
    """Objective of the best configurations and of every baseline: a dot a seed, a bar at the mean, the baseline's range shaded."""
    outcome = study.outcome
    rows = [row for place, row in enumerate(outcome.ranking.ranked) if place < best or outcome.is_baseline(row.configuration)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.21 * max(2, len(rows))))
        if baseline := outcome.ranking.baseline:
            axes.axvspan(outcome.values[baseline].min(), outcome.values[baseline].max(), color=ORANGE, alpha=0.2, lw=0)
        for height, row in enumerate(rows):
            colour = ORANGE if outcome.is_baseline(row.configuration) else BLUE
            values_S = outcome.values[row.configuration]
            axes.plot(values_S, np.full(len(values_S), height), "o", ms=4, mfc="white", mec=colour, mew=1)
            axes.plot([row.objective.mean] * 2, [height - 0.3, height + 0.3], color=colour, lw=2.2)
        axes.set_yticks(range(len(rows)), [named(study, row.configuration) for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="x", lw=0.3, color="#CCCCCC")
        axes.set_axisbelow(True)
        better = "lower" if outcome.mode == "min" else "higher"
        axes.set_xlabel(f"{_spelt(outcome.metric)}{study.unit} at the full budget, {better} is better")
        _legend_of_seeds(axes, bool(outcome.ranking.baseline))
        title(figure, study)
    return figure


def title(figure: Figure, study: StudyTables) -> None:
    figure.suptitle(f"{study.name}: {study.standing}", fontsize=STYLE["axes.titlesize"], fontweight="bold")


def named(study: StudyTables, configuration: str) -> str:
    outcome = study.outcome
    mark = " (baseline)" if outcome.is_baseline(configuration) and not outcome.is_control(configuration) else ""
    return f"{outcome.entries[configuration].schedule}{mark}"


def _legend_of_seeds(axes: Axes, baseline: bool) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], marker="o", mfc="white", mec=GREY, ls="", ms=4, label="one seed"),
        Line2D([], [], color=GREY, lw=2.2, label="mean"),
    ]
    if baseline:
        handles.append(Patch(color=ORANGE, alpha=0.3, lw=0, label="seeds of the baseline"))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, borderaxespad=0.2)


def plot_learning_curves(study: StudyTables, best: int = 3) -> Figure:
    """Dev loss of the best schedules and the baseline, mean and range over seeds; their differences to the baseline, paired by seed;
    training loss of the best schedule's first trial, wake and sleep shaded, with the baseline's.
    """
    outcome = study.outcome
    searched = [row.configuration for row in outcome.ranking.ranked if not outcome.is_baseline(row.configuration)][:best]
    baseline = outcome.ranking.baseline
    with plt.rc_context(STYLE):
        figure, (above, middle, below) = plt.subplots(3, 1, figsize=(WIDTH, 6.4), sharex=True, height_ratios=(1, 1, 1.2))
        against = dev_losses(study, baseline) if baseline else pd.DataFrame()
        for name, colour in [*zip(searched, CURVES, strict=False), *([(baseline, ORANGE)] if baseline else [])]:
            losses = dev_losses(study, name)
            _band(above, losses, colour, named(study, name))
            if name != baseline and len(against):
                losses.index = against.index[: len(losses)].append(losses.index[len(against) :])  # equal milestones, met a few words apart
                _band(middle, (losses - against).dropna(how="all").dropna(axis=1), colour, "")
        middle.axhline(0, color=ORANGE, lw=1.3)
        if not (searched and baseline):
            text = "no schedule to compare: none, or no baseline, is ranked"
            middle.text(0.5, 0.6, text, transform=middle.transAxes, ha="center", color=GREY)
        shown = [*((name, BLUE) for name in searched[:1]), *((name, ORANGE) for name in [baseline] if name)]
        smooth = [_training_curve(below, study, name, colour, shade=name == shown[0][0]) for name, colour in shown]
        if smooth:
            below.set_ylim(*_room(pd.concat(smooth)))
        _curve_axes(study, above, middle, below)
        title(figure, study)
    return figure


def _curve_axes(study: StudyTables, above: Axes, middle: Axes, below: Axes) -> None:
    above.set_ylabel("dev loss\n(nats per token)")
    middle.set_ylabel("dev loss less\nthe baseline's (nats)")
    below.set_ylabel("training loss\n(nats per token)")
    below.set_xlabel("words seen, wake and sleep")
    below.set_xlim(0, study.trials.words_seen.max())
    below.xaxis.set_major_formatter(FuncFormatter(lambda words, _: show_words(words)))
    if above.get_legend_handles_labels()[0]:
        for axes in (above, below):
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _band(axes: Axes, losses: pd.DataFrame, colour: str, label: str) -> None:
    """Mean over seeds, the range between them shaded. losses: a row a milestone (index words), a column a seed."""
    if losses.empty:
        return
    axes.fill_between(losses.index, losses.min(axis=1), losses.max(axis=1), color=colour, alpha=0.2, lw=0)
    axes.plot(losses.index, losses.mean(axis=1), color=colour, marker="o", ms=2.2, label=label or None)


def _training_curve(axes: Axes, study: StudyTables, configuration: str, colour: str, shade: bool) -> pd.Series:
    """Draw a configuration's training loss; returns the smoothed one."""
    trial = study.trials[study.trials.configuration == configuration].sort_values("seed").iloc[0]
    steps = study.steps[study.steps.trial == trial.trial]
    if shade:
        shade_phases(axes, steps)
    window = max(5, len(steps) // 150)
    smooth = steps.loss.rolling(window, min_periods=1).mean()
    axes.plot(steps.words_seen, steps.loss, color=colour, alpha=0.15, lw=0.4)
    label = f"{trial.schedule}, seed {trial.seed} (mean of {window} steps)"
    axes.plot(steps.words_seen, smooth, color=colour, lw=1.0, label=label)
    return smooth


def _room(loss: pd.Series) -> tuple[float, float]:
    """Limits with all of the smoothed lines in them, which leave out what single steps do beyond."""
    finite = loss[np.isfinite(loss)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    room = 0.08 * (high - low) or 1.0
    return float(low - room), float(high + room)


def shade_phases(axes: Axes, steps: pd.DataFrame) -> None:
    """Shade wake and sleep along words seen."""
    phase = steps.phase.to_numpy()
    words = np.concatenate([[0], steps.words_seen.to_numpy()])
    edges = [0, *(np.flatnonzero(phase[1:] != phase[:-1]) + 1), len(phase)]
    told: set[str] = set()
    for start, end in pairwise(edges):
        kind = phase[start]
        axes.axvspan(
            words[start], words[end], color=SLEEP if kind == "sleep" else WAKE, lw=0, zorder=0, label=kind if kind not in told else None
        )
        told.add(kind)


def plot_fields(study: StudyTables, task: str | None = None) -> Figure:
    """A column a varied field. Above: the objective (or a task's final score) of completed trials at the full budget.
    Below, where trials were stopped: dev loss of all trials at the words the first ones were stopped at, so at equal words.
    Means are over trials that have partners, equal but for the field, at the values compared; the others are grey.
    """
    complete = study.trials[study.trials.state == "complete"]
    label = f"{_spelt(study.outcome.metric)}{study.unit}" if task is None else f"{task} ({_unit(study, task)})"
    values = complete.set_index("trial").objective if task is None else final_scores(study, task)
    rows = [(complete, values.reindex(complete.trial), f"{label}\nat the full budget")]
    words = common_words(study)
    early = study.dev_loss[study.dev_loss.words_seen.between(words * 0.98, words * 1.02)].groupby("trial").score.last()
    if task is None and (study.trials.state == "stopped").any():
        some = study.trials[study.trials.trial.isin(early.index)]
        rows.append((some, early.reindex(some.trial), f"dev loss (nats)\nof all trials at {show_words(words)} words"))
    fields = study.varied or [""]
    with plt.rc_context(STYLE):
        size = (max(3.6, min(WIDTH, 1.9 * len(fields))), 2.1 * len(rows) + 0.8)
        figure, grid = plt.subplots(len(rows), len(fields), figsize=size, sharey="row", squeeze=False)
        for line, (trials, trial_values, name) in zip(grid, rows, strict=True):
            line[0].set_ylabel(name)
            for axes, field in zip(line, study.varied, strict=False):
                _field_panel(axes, study, trials.assign(value=trial_values.to_numpy()), field)
        figure.legend(handles=_field_handles(study), loc="outside lower center", ncols=2 if len(fields) > 2 else 1)
        title(figure, study)
    return figure


def _field_panel(axes: Axes, study: StudyTables, trials: pd.DataFrame, field: str) -> None:
    """Trials as dots over the field's values (as categories, or on an axis where there are many numbers), with their means."""
    searched = trials[(~trials.origin.isin(BESIDE)) & trials[field].notna()].dropna(subset="value")
    beside = trials[trials.configuration == study.outcome.ranking.baseline].value.dropna()
    if len(beside):
        axes.axhspan(beside.min(), beside.max(), color=ORANGE, alpha=0.25, lw=0)
        axes.axhline(beside.mean(), color=ORANGE, lw=1.2)
    axes.set_xlabel(field)
    axes.grid(axis="y", lw=0.3, color="#CCCCCC")
    axes.set_axisbelow(True)
    kinds = sorted(study.searched[field].dropna().unique())
    numbers = not any(isinstance(kind, str) for kind in kinds)
    if len(kinds) > MOST_VALUES and numbers:
        axes.plot(searched[field].astype(float), searched.value, "o", ms=3, color=BLUE, alpha=0.6, mew=0, zorder=3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    place = searched[field].map({kind: index for index, kind in enumerate(kinds)}).astype(float)
    groups = searched.groupby(place).value
    aside = (groups.cumcount() + 0.5) / groups.transform("size") - 0.5  # side by side, so that no dot hides another
    like = _like(study, searched, field)
    for chosen, look in ((like, DOT), (~like, GREY_DOT)):
        axes.plot((place + 0.4 * aside)[chosen], searched.value[chosen], ls="", zorder=3, **look)
    means = searched[like].groupby(place[like]).value.mean()
    axes.plot(means.index, means, "_-" if numbers and len(means) > 2 else "_", color="black", ms=16, mew=1.6, lw=0.6)
    axes.set_xticks(range(len(kinds)), [f"{kind:g}" if isinstance(kind, float) else str(kind) for kind in kinds])
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    for index in set(range(len(kinds))) - set(place):
        axes.text(index, 0.04, "none", transform=axes.get_xaxis_transform(), ha="center", color=GREY, fontsize=7)


def _like(study: StudyTables, trials: pd.DataFrame, field: str) -> pd.Series:
    """Which of the shown trials may be averaged. All, where a random search lost none: its values met equal partners on average."""
    if len(trials) == len(study.searched[field].dropna()) and set(trials.origin) == {"random"}:
        return pd.Series(data=True, index=trials.index)
    return comparable(trials, field, [name for name in study.varied if name != field])


def _field_handles(study: StudyTables) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], ls="", label="a trial (one seed)", **DOT),
        Line2D([], [], ls="", label="one without an equal partner at the other values: not compared", **GREY_DOT),
        Line2D([], [], marker="_", color="black", ms=12, mew=1.6, ls="", label="mean over trials with equal partners"),
    ]
    if baseline := study.outcome.ranking.baseline:
        handles.append(Patch(color=ORANGE, alpha=0.5, lw=0, label=f"baseline ({study.outcome.entries[baseline].schedule}), its seeds"))
    return handles


def _unit(study: StudyTables, task: str) -> str:
    unit = study.outcome.units.get(task, "")
    return "%" if unit == "percent" else unit


def _spelt(metric: str) -> str:
    return metric.replace("_", " ")
