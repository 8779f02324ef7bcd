"""Pictures of a study's cycles, from its table `cycles`: what sleep replays by age, and what is kept of the folds read before."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.loading import StudyTables, replays_by_age, retention
from analysis.plots import CURVES, GREY, STYLE, WIDTH, named, title
from sleep_tune.words import show_words

NO_CYCLES = "no ranked schedule has slept, or its cycles were not recorded"


def plot_replays(study: StudyTables, best: int = 4) -> Figure:
    """Of the best schedules: replays of candidates by their age, over those by random choice; how much of each buffer is new; what a
    buffer sample scores against the mean of all candidates.
    """
    shown = _sleepers(study)[:best]
    with plt.rc_context(STYLE):
        figure, (by_age, turnover, contrast) = plt.subplots(1, 3, figsize=(WIDTH, 2.7))
        for configuration, colour in zip(shown, CURVES, strict=False):
            rates = replays_by_age(study, configuration)
            cycles = _cycles(study, configuration).groupby("cycle")[["turnover", "score_mean", "buffer_score_mean"]].mean()
            mark = {"color": colour, "marker": "o", "ms": 2.2}
            by_age.plot(rates.index, rates, label=named(study, configuration), **mark)
            turnover.plot(cycles.index + 1, cycles.turnover, **mark)
            contrast.plot(cycles.index + 1, cycles.buffer_score_mean / cycles.score_mean, **mark)
        by_age.set(xlabel="age (cycles since it was read)", ylabel="replays, over those\nby random choice")
        by_age.axhline(1, color=GREY, lw=0.6, zorder=0)
        turnover.set(xlabel="cycle", ylabel="share of the buffer that was\nnot in the one before", ylim=(0, 1.05))
        contrast.set(xlabel="cycle", ylabel="mean score: buffer\nover all candidates")
        by_age.set_ylim(bottom=0)
        contrast.axhline(1, color=GREY, lw=0.6, zorder=0)
        for axes in (by_age, turnover, contrast):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _legend(figure, by_age)
        title(figure, study)
    return figure


def plot_retention(study: StudyTables, best: int = 3) -> Figure:
    """Left: loss of the best schedule on the probe of each fold, at the end of each cycle. Right: by age, how much higher the loss on a
    fold is than it was at its first look, of the best schedules: above 0 it was forgotten, below 0 it still improved.
    """
    shown = _sleepers(study)[:best]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.1), width_ratios=(1.25, 1))
        if shown:
            _heat_map(figure, left, retention(study, shown[0]))
            left.set_title(named(study, shown[0]), fontsize=7, color=GREY)
        for configuration, colour in zip(shown, CURVES, strict=False):
            lost = forgotten(retention(study, configuration))
            right.plot(lost.index, lost, color=colour, marker="o", ms=2.2, label=named(study, configuration))
        right.axhline(0, color=GREY, lw=0.6, zorder=0)
        right.set(xlabel="age (cycles since it was read)", ylabel="loss on a fold less that at its\nfirst look (nats per token)")
        right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _legend(figure, right)
        title(figure, study)
    return figure


def forgotten(kept: pd.DataFrame) -> pd.Series:
    """age -> mean difference (nats) between the loss on a fold at that age and on the same fold at its first look, the mean over folds.

    Folds are looked at again in a later pass; ages count from their last reading.
    """
    first = kept.sort_values("cycle").groupby("fold").loss.first()
    difference = kept.loss - kept.fold.map(first)
    return difference.groupby(kept.age).mean().dropna()


def _heat_map(figure: Figure, axes: Axes, kept: pd.DataFrame) -> None:
    """Fold by time, a column a cycle, the loss being that at its end; white where the fold was not read yet, or not probed."""
    loss = kept.pivot(index="fold", columns="cycle", values="loss").sort_index()
    edges = np.append(0, kept.groupby("cycle").words_seen.first().to_numpy())
    rows = np.arange(int(loss.index.max()) + 1)
    mesh = axes.pcolormesh(edges, np.append(rows, rows.size) + 0.5, loss.reindex(rows).to_numpy(), cmap="cividis_r", rasterized=True)
    figure.colorbar(mesh, ax=axes, pad=0.02, label="loss (nats per token)").outline.set_linewidth(0.6)
    axes.set(xlabel="words seen, wake and sleep", ylabel="fold, in the order of reading")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda words, _: show_words(words)))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _sleepers(study: StudyTables) -> list[str]:
    """Ranked configurations whose recorded cycles slept, the best first."""
    slept = study.cycles[study.cycles.replays > 0].trial.unique()
    ids = set(study.trials.configuration[study.trials.trial.isin(slept)])
    return [row.configuration for row in study.outcome.ranking.ranked if row.configuration in ids]


def _cycles(study: StudyTables, configuration: str) -> pd.DataFrame:
    return study.cycles[study.cycles.trial.isin(study.trials.trial[study.trials.configuration == configuration])]


def _legend(figure: Figure, axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    else:
        axes.text(0.5, 0.5, NO_CYCLES, transform=axes.transAxes, ha="center", color=GREY, wrap=True)
