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

from analysis.loading import REPOSITORY, StudyTables, common_words, dev_losses, final_scores
from sleep_tune.words import show_words

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#595959"
CURVES = (BLUE, RED, GREEN, PURPLE)
WAKE, SLEEP = "#F8E8B0", "#BBD7EC"
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
        axes.set_yticks(range(len(rows)), [outcome.entries[row.configuration].schedule for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="x", lw=0.3, color="#CCCCCC")
        axes.set_axisbelow(True)
        better = "lower" if outcome.mode == "min" else "higher"
        axes.set_xlabel(f"{_spelt(outcome.metric)}{study.unit} at the full budget, {better} is better")
        _legend_of_seeds(axes, bool(outcome.ranking.baseline))
    return figure


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
            mark = " (baseline)" if name == baseline else ""
            _band(above, losses, colour, f"{outcome.entries[name].schedule}{mark}")
            if name != baseline and len(against):
                losses.index = against.index[: len(losses)].append(losses.index[len(against) :])  # equal milestones, met a few words apart
                _band(middle, (losses - against).dropna(how="all").dropna(axis=1), colour, "")
        middle.axhline(0, color=ORANGE, lw=1.3)
        if searched:
            _training_curve(below, study, searched[0], BLUE, shade=True)
        if baseline:
            _training_curve(below, study, baseline, ORANGE, shade=not searched)
        _curve_axes(study, above, middle, below)
    return figure


def _curve_axes(study: StudyTables, above: Axes, middle: Axes, below: Axes) -> None:
    above.set_ylabel("dev loss\n(nats per token)")
    middle.set_ylabel("dev loss less\nthe baseline's (nats)")
    below.set_ylabel("training loss\n(nats per token)")
    below.set_xlabel("words seen, wake and sleep")
    below.set_xlim(0, study.trials.words_seen.max())
    below.xaxis.set_major_formatter(FuncFormatter(lambda words, _: show_words(words)))
    if above.get_legend_handles_labels()[0]:
        above.legend(loc="upper right")
        below.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none")


def _band(axes: Axes, losses: pd.DataFrame, colour: str, label: str) -> None:
    """Mean over seeds, the range between them shaded. losses: a row a milestone (index words), a column a seed."""
    if losses.empty:
        return
    axes.fill_between(losses.index, losses.min(axis=1), losses.max(axis=1), color=colour, alpha=0.2, lw=0)
    axes.plot(losses.index, losses.mean(axis=1), color=colour, marker="o", ms=2.2, label=label or None)


def _training_curve(axes: Axes, study: StudyTables, configuration: str, colour: str, shade: bool) -> None:
    trial = study.trials[study.trials.configuration == configuration].sort_values("seed").iloc[0]
    steps = study.steps[study.steps.trial == trial.trial]
    if shade:
        shade_phases(axes, steps)
    window = max(5, len(steps) // 150)
    axes.plot(steps.words_seen, steps.loss, color=colour, alpha=0.15, lw=0.4)
    axes.plot(
        steps.words_seen,
        steps.loss.rolling(window, min_periods=1).mean(),
        color=colour,
        lw=1.0,
        label=f"{trial.schedule}, seed {trial.seed} (mean of {window} steps)",
    )
    axes.set_ylim(*_room(steps.loss))


def _room(loss: pd.Series) -> tuple[float, float]:
    """Limits that leave out the few extreme steps."""
    low, high = np.nanquantile(loss, [0.002, 0.998])
    return float(low - 0.05 * (high - low)), float(high + 0.05 * (high - low))


def shade_phases(axes: Axes, steps: pd.DataFrame) -> None:
    """Shade wake and sleep along words seen."""
    phase = steps.phase.to_numpy()
    words = np.concatenate([[0], steps.words_seen.to_numpy()])
    edges = [0, *(np.flatnonzero(phase[1:] != phase[:-1]) + 1), len(phase)]
    named: set[str] = set()
    for start, end in pairwise(edges):
        kind = phase[start]
        axes.axvspan(
            words[start], words[end], color=SLEEP if kind == "sleep" else WAKE, lw=0, zorder=0, label=kind if kind not in named else None
        )
        named.add(kind)


def plot_fields(study: StudyTables, task: str | None = None) -> Figure:
    """A column a varied field. Above: the objective (or a task's final score) of completed trials at the full budget.
    Below, where trials were stopped: dev loss of all trials at the words the first ones were stopped at, so at equal words.
    """
    fields, complete = study.varied, study.trials[study.trials.state == "complete"]
    label = f"{_spelt(study.outcome.metric)}{study.unit}" if task is None else f"{task} ({_unit(study, task)})"
    values = complete.set_index("trial").objective if task is None else final_scores(study, task)
    rows = [(complete, values.reindex(complete.trial), f"{label}\nat the full budget")]
    words = common_words(study)
    early = study.dev_loss[study.dev_loss.words_seen.between(words * 0.98, words * 1.02)].groupby("trial").score.last()
    if task is None and (study.trials.state == "stopped").any():
        some = study.trials[study.trials.trial.isin(early.index)]
        rows.append((some, early.reindex(some.trial), f"dev loss (nats)\nof all trials at {show_words(words)} words"))
    with plt.rc_context(STYLE):
        size = (max(2.4, min(WIDTH, 1.9 * max(1, len(fields)))), 2.1 * len(rows) + 0.3)
        figure, grid = plt.subplots(len(rows), max(1, len(fields)), figsize=size, sharey="row", squeeze=False)
        for line, (trials, trial_values, name) in zip(grid, rows, strict=True):
            line[0].set_ylabel(name)
            for axes, field in zip(line, fields, strict=False):
                kinds = sorted(study.trials[field][study.trials.origin != "always"].dropna().unique())
                _field_panel(axes, trials.assign(value=trial_values.to_numpy()), field, kinds, study.outcome.ranking.baseline)
        figure.legend(handles=_field_handles(study), loc="outside upper center", ncols=3 if len(fields) > 2 else 1)
    return figure


def _field_panel(axes: Axes, trials: pd.DataFrame, field: str, kinds: list[Any], baseline: str | None) -> None:
    """Trials as dots over the field's values (as categories, or on an axis where there are many numbers), with their means."""
    searched = trials[(trials.origin != "always") & trials[field].notna()].dropna(subset="value")
    beside = trials[trials.configuration == baseline].value.dropna()
    if len(beside):
        axes.axhspan(beside.min(), beside.max(), color=ORANGE, alpha=0.25, lw=0)
        axes.axhline(beside.mean(), color=ORANGE, lw=1.2)
    axes.set_xlabel(field)
    axes.grid(axis="y", lw=0.3, color="#CCCCCC")
    axes.set_axisbelow(True)
    numbers = not any(isinstance(kind, str) for kind in kinds)
    if len(kinds) > 8 and numbers:
        axes.plot(searched[field].astype(float), searched.value, "o", ms=3, color=BLUE, alpha=0.6, mew=0, zorder=3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    place = searched[field].map({kind: index for index, kind in enumerate(kinds)}).astype(float)
    groups = searched.groupby(place).value
    aside = (groups.cumcount() + 0.5) / groups.transform("size") - 0.5  # side by side, so that no dot hides another
    axes.plot(place + 0.4 * aside, searched.value, "o", ms=3, color=BLUE, alpha=0.6, mew=0, zorder=3)
    axes.plot(groups.mean().index, groups.mean(), "_-" if numbers else "_", color="black", ms=16, mew=1.6, lw=0.6)
    axes.set_xticks(range(len(kinds)), [f"{kind:g}" if isinstance(kind, float) else str(kind) for kind in kinds])
    axes.set_xlim(-0.5, len(kinds) - 0.5)


def _field_handles(study: StudyTables) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], marker="o", color=BLUE, alpha=0.6, ls="", ms=4, mew=0, label="a trial (one seed)"),
        Line2D([], [], marker="_", color="black", ms=12, mew=1.6, ls="", label="mean"),
    ]
    if baseline := study.outcome.ranking.baseline:
        handles.append(Patch(color=ORANGE, alpha=0.5, lw=0, label=f"baseline ({study.outcome.entries[baseline].schedule}), its seeds"))
    return handles


def _unit(study: StudyTables, task: str) -> str:
    unit = study.outcome.units.get(task, "")
    return "%" if unit == "percent" else unit


def _spelt(metric: str) -> str:
    return metric.replace("_", " ")
