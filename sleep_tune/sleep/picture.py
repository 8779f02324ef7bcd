"""The picture of a planned schedule: bars of wake and sleep over words seen, as high as the samples that they read or replay."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sleep_tune.config import Sleep
from sleep_tune.files import write_atomic
from sleep_tune.sleep.schedule import CorpusSize, Phase, buffer_size
from sleep_tune.words import show_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WAKE, SLEEP, GREY = "#E69F00", "#0072B2", "#595959"  # Okabe and Ito's: told apart by colour-blind readers, too
WIDTH_INCHES, DPI = 7.0, 220
CLOSE = 3  # cycles of the lower panel
ROOM = 1.2  # above the highest, for what is written there
NARROW = 0.22  # of a panel: a sleep that takes less has its text in two lines
STYLE: Any = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "legend.frameon": False,
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A planned run: P phases, with what each reads or chooses from in samples, and how often a sleep replays each of its buffer."""

    phases: Sequence[Phase]
    end_P: NDArray[np.float64]  # words seen
    candidates_P: NDArray[np.int64]
    buffer_P: NDArray[np.int64]
    replays_P: NDArray[np.float64]

    @classmethod
    def of(cls, phases: Sequence[Phase], sleep: Sleep, size: CorpusSize) -> "Planned":
        """The plan of `phases`; of wakes, buffer and replays mean nothing."""
        woken_P = np.array([phase.rows if phase.kind == "wake" else 0 for phase in phases])
        words_P = np.array([phase.words for phase in phases])
        of_wake = np.maximum.accumulate(np.where(woken_P > 0, np.arange(woken_P.size), 0))
        candidates_P = np.minimum(np.cumsum(woken_P), size.samples) if sleep.candidates == "seen" else woken_P[of_wake]
        candidates_P = candidates_P.round().astype(np.int64)
        buffer_P = np.array([buffer_size(sleep.replay_ratio, max(1, int(known))) for known in candidates_P])
        return cls(phases, np.cumsum(words_P), candidates_P, buffer_P, words_P / (buffer_P * size.row_words))

    def until(self, cycle: int) -> "Planned":
        """The part before `cycle`."""
        count = sum(phase.cycle < cycle for phase in self.phases)
        return Planned(self.phases[:count], self.end_P[:count], self.candidates_P[:count], self.buffer_P[:count], self.replays_P[:count])

    def places(self, kind: str) -> NDArray[np.intp]:
        """Of the phases of a kind."""
        return np.flatnonzero([phase.kind == kind for phase in self.phases])


def draw_schedule(planned: Planned, title: str, path: Path) -> None:
    """Write the picture to `path`: the whole run above, its first cycles below. Raises ModuleNotFoundError without matplotlib."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [planned] if len(planned.until(CLOSE).phases) == len(planned.phases) else [planned, planned.until(CLOSE)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.7 + 1.5 * len(panels)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, part in zip(grid, panels, strict=True):
            _bars(axes, part)
        _tell_replays(grid[-1], panels[-1])
        grid[-1].set_xlabel("words seen, wake and sleep")
        grid[0].set_title(title, loc="left")
        if len(panels) > 1:
            grid[1].set_title(f"its first {CLOSE} cycles", loc="left")
        figure.legend(handles=_handles(), loc="outside lower center", ncols=3)
        write_atomic(path, lambda file: figure.savefig(file, dpi=DPI, format="png"))


def _bars(axes: "Axes", planned: Planned) -> None:
    """A bar a phase, as wide as its words; over each sleep a line at the candidates it chooses from."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    start_P = np.append(0, planned.end_P[:-1])
    for kind, colour in (("wake", WAKE), ("sleep", SLEEP)):
        at = planned.places(kind)
        samples = planned.buffer_P[at] if kind == "sleep" else [planned.phases[place].rows for place in at]
        axes.bar(start_P[at], samples, (planned.end_P - start_P)[at], align="edge", color=colour, lw=0)
    at = planned.places("sleep")
    axes.hlines(planned.candidates_P[at], start_P[at], planned.end_P[at], color=GREY, lw=1)
    axes.set(xlim=(0, planned.end_P[-1]), ylabel="samples")
    axes.set_ylim(0, ROOM * planned.candidates_P.max())
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda words, _: show_words(words)))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda samples, _: f"{samples:,.0f}"))


def _tell_replays(axes: "Axes", planned: Planned) -> None:
    """Writes in each sleep how often it replays a sample of its buffer."""
    for place in planned.places("sleep"):
        middle = planned.end_P[place] - planned.phases[place].words / 2
        between = "\n" if planned.phases[place].words < NARROW * planned.end_P[-1] else " "
        told = f"{planned.buffer_P[place]:,} samples,{between}{planned.replays_P[place]:.3g} times each"
        axes.annotate(told, (middle, planned.buffer_P[place]), (0, 2), textcoords="offset points", ha="center", color=GREY, fontsize=6.5)


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(color=WAKE, lw=0, label="wake: samples read, once each"),
        Patch(color=SLEEP, lw=0, label="sleep: samples in the replay buffer"),
        Line2D([], [], color=GREY, lw=1, label="candidates that a sleep chooses from"),
    ]
