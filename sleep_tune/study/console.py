"""A study in the terminal while it runs: which trials train, awake or asleep, how far, how fast, how long still.

In a terminal a live table, elsewhere plain lines, few enough for a log. The outcome is `outcome_view.py`'s, one run `run_progress.py`'s.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sleep_tune.study.labels import duration
from sleep_tune.words import show_words

STYLES = {"wake": "yellow", "sleep": "blue", "complete": "green", "stopped": "cyan", "diverged": "magenta", "failed": "red"}
SIGNS = {"wake": "☀", "sleep": "☾"}
ENDS = ("complete", "stopped", "diverged", "failed")
BAR_CELLS = 16
# name, width (None: what is left), to the right, only where the terminal is wide
COLUMNS = (
    ("trial", 6, False, True),
    ("schedule", None, False, False),
    ("seed", 4, True, False),
    ("phase", 7, False, False),
    ("cycle", 5, True, True),
    ("budget", BAR_CELLS, False, True),
    ("words", 5, True, False),
    ("loss", 5, True, False),
    ("words/s", 7, True, True),
    ("left", 6, True, False),
)
STARTING = "starting Ray's workers"
PLAIN_EVERY_S = 10.0  # of a log, at first; rarer the longer it gets
PLAIN_SHARE, PLAIN_MOST_S = 0.1, 600.0  # of the time since the start
LAST_BYTES = 4096  # of step records, in which their last line lies
REFRESH_EVERY_S = 0.25
SOUND_SHARE = 0.02  # of the words to train at most, from which on the time left is told


@dataclass
class Running:
    """What is shown of a running trial; `seen` remembers in which phase each cell of its bar was passed."""

    trial: str
    label: str
    seed: int | None  # None: of a trial that ended unseen
    began: float
    words_before: int = 0  # that it had seen when it went on
    phase: str = ""
    cycle: int = 0
    words_seen: int = 0
    loss: float | None = None
    words_per_s: float = 0.0
    seen: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Which trial it is: its schedule and its seed."""
        return self.label if self.seed is None else f"{self.label}, seed {self.seed}"

    def take(self, progress: Mapping[str, Any], budget_words: int) -> None:
        """Take in a trial's progress file."""
        self.phase, self.cycle = str(progress.get("phase", "")), int(progress.get("cycle", 0))
        self.words_seen = int(progress.get("words_seen", 0))
        self.loss = progress.get("loss")
        self.words_per_s = float(progress.get("words_per_s") or 0)
        if self.phase in SIGNS:
            self.seen[min(BAR_CELLS - 1, BAR_CELLS * self.words_seen // max(1, budget_words))] = self.phase


class Console:
    """Progress of a study. Use as a context manager; `tick()` is called about once a second and may be called at any time.

    ended: trials that ended before this start, by state; they count as done and say nothing about speed.
    """

    def __init__(
        self,
        study_name: str,
        planned_trials: int,
        budget_words: int,
        directory: Path,
        ended: Mapping[str, int] | None = None,
        terminal: Terminal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study_name, self.planned, self.budget_words, self.directory = study_name, planned_trials, budget_words, directory
        self.counts = dict.fromkeys(ENDS, 0) | dict(ended or {})
        self.terminal = terminal or Terminal(file=sys.stdout, highlight=False)
        self.running: dict[str, Running] = {}
        self._clock, self._began, self._before = clock, clock(), sum(self.counts.values())
        self._words_ended = 0  # words of the trials that ended under our eyes
        self._words_trained = 0  # those of them that were trained under our eyes, too
        self._drawn = -float("inf")
        self._last_plain = clock()
        self._started = False  # whether a trial has
        self._live = Live(console=self.terminal, auto_refresh=False, transient=True) if self.terminal.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._live.update(self.view(), refresh=True)
        else:
            self._line(Text(STARTING))
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def trial_started(self, trial: str, label: str, seed: int) -> None:
        """A trial begins, or goes on, in a worker."""
        words = self._recorded(trial)
        self.running[trial] = Running(trial, label, seed, self._clock(), words, words_seen=words)
        self._started = True

    def reported(self, trial: str, milestone: int, words_seen: int, metrics: Mapping[str, float], decision: str) -> None:
        """A trial reached a milestone and the scheduler decided."""
        if trial in self.running:
            self.running[trial].words_seen = max(words_seen, self.running[trial].words_seen)
        if self._live is None and decision != "CONTINUE":
            label = self.running[trial].name if trial in self.running else trial
            shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name in ("dev_loss", "train_loss"))
            self._line(Text(f"{trial[:6]}  {label}: {shown} at {show_words(words_seen)} words: stop"))

    def ended(self, trial: str, state: str, message: str | None = None) -> None:
        """A trial is over."""
        run = self.running.pop(trial, None) or Running(trial, trial, None, self._clock())
        run.words_seen = max(run.words_seen, self._recorded(trial))
        self.counts[state] = self.counts.get(state, 0) + 1
        self._words_ended += run.words_seen
        self._words_trained += run.words_seen - run.words_before
        done = sum(self.counts.values())
        line = Text(f"[{done:>{len(str(self.planned))}}/{self.planned}] ").append(f"{state:<8}", STYLES.get(state, ""))
        line.append(f"  {run.name}  {show_words(run.words_seen)} words, {duration(self._clock() - run.began)}")
        self._line(line.append(f"  {message}", "red") if message and state in ("failed", "diverged") else line)

    def tick(self) -> None:
        """Read what the running trials say of themselves and draw it."""
        now = self._clock()
        every = max(PLAIN_EVERY_S, min(PLAIN_SHARE * (now - self._began), PLAIN_MOST_S))
        plain_due = self._live is None and now - self._last_plain >= every
        if not plain_due and (self._live is None or now - self._drawn < REFRESH_EVERY_S):
            return
        self._drawn = now
        for run in self.running.values():
            if progress := read_progress(self.directory / "trials" / run.trial / "progress.json"):
                run.take(progress, self.budget_words)
        if self._live:
            self._live.update(self.view(), refresh=True)
        else:
            self._last_plain = now
            self._line(self._summary())
            for run in self.running.values():
                self._line(Text("    ").append_text(_words_of(run, self.budget_words)))

    def view(self) -> Group:
        """The live picture: one row per running trial, counts below."""
        wide = self.terminal.width >= 110
        table = Table(box=None, padding=(0, 1), expand=True, pad_edge=False, header_style="dim")
        for name, width, right, only_wide in COLUMNS:
            if wide or not only_wide:
                table.add_column(
                    name, width=width, ratio=None if width else 1, justify="right" if right else "left", no_wrap=True, overflow="ellipsis"
                )
        for run in self.running.values():
            cells = self._row(run)
            table.add_row(*[cell for cell, column in zip(cells, COLUMNS, strict=True) if wide or not column[3]])
        title = Text(self.study_name, "bold").append(f"  {show_words(self.budget_words)} words a trial", "dim")
        return Group(title, table if self._started else Text(STARTING), self._summary())

    def _row(self, run: Running) -> list[Text]:
        style = STYLES.get(run.phase, "")
        left = duration((self.budget_words - run.words_seen) / run.words_per_s) if run.words_per_s else "-"
        return [
            Text(run.trial[:6], "dim"),
            Text(run.label),
            Text("" if run.seed is None else str(run.seed)),
            Text(f"{SIGNS.get(run.phase, ' ')} {run.phase or 'start'}", style),
            Text(str(run.cycle)),
            _bar(run),
            Text(show_words(run.words_seen)),
            Text("-" if run.loss is None else f"{run.loss:.2f}"),
            Text(f"{run.words_per_s:,.0f}" if run.words_per_s else "-"),
            Text(left),
        ]

    def _summary(self) -> Text:
        done = sum(self.counts.values())
        line = Text(f"{done}/{self.planned} trials")
        for state, count in self.counts.items():
            if count or state == "complete":
                line.append(" · ").append(f"{count} {state}", STYLES.get(state, ""))
        line.append(f" · {len(self.running)} running · {max(0, self.planned - done - len(self.running))} pending")
        left = self.seconds_left()
        return line.append(f" · {duration(self._clock() - self._began)}" + ("" if math.isnan(left) else f", about {duration(left)} left"))

    def seconds_left(self) -> float:
        """Time still needed, from the words trained since the start and those a trial took on average.

        NaN while too few words were trained to tell: the first seconds go into starting workers.
        """
        elapsed = self._clock() - self._began
        ended = sum(self.counts.values()) - self._before
        trained = self._words_trained + sum(max(0, run.words_seen - run.words_before) for run in self.running.values())
        if elapsed < 1 or trained < SOUND_SHARE * (self.planned - self._before) * self.budget_words:
            return float("nan")
        typical = self._words_ended / ended if ended else self.budget_words
        waiting = max(0, self.planned - sum(self.counts.values()) - len(self.running))
        aims = (
            typical if run.words_seen < typical else self.budget_words for run in self.running.values()
        )  # past the typical end: to the budget
        open_words = sum(aim - run.words_seen for aim, run in zip(aims, self.running.values(), strict=True))
        return elapsed * (waiting * typical + open_words) / trained

    def _recorded(self, trial: str) -> int:
        return words_recorded(self.directory / "trials" / trial / "steps.jsonl")

    def _line(self, text: Text) -> None:
        if self._live:
            self.terminal.print(text, no_wrap=True, overflow="ellipsis")
        else:
            self.terminal.print(text, soft_wrap=True)


def words_recorded(path: Path) -> int:
    """Words seen at the last whole line of a trial's step records; 0 where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            return int(json.loads(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])["words_seen"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def read_progress(path: Path) -> dict[str, Any]:
    """What a trial last said of itself; empty where it said nothing yet or the file is half written."""
    try:
        progress = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


def _bar(run: Running) -> Text:
    """The budget as cells: yellow where the trial was awake, blue where it slept, dim what is still to come."""
    bar, last = Text(), ""
    reached = max(run.seen, default=-1)
    for cell in range(BAR_CELLS):
        last = run.seen.get(cell, last)
        bar.append("█" if cell <= reached else "░", STYLES.get(last, "yellow") if cell <= reached else "dim")
    return bar


def _words_of(run: Running, budget_words: int) -> Text:
    text = Text(f"{run.trial[:6]}  {run.name}: ").append(f"{run.phase or 'starting'}", STYLES.get(run.phase, ""))
    text.append(f" (cycle {run.cycle}), {show_words(run.words_seen)} of {show_words(budget_words)} words")
    text.append("" if run.loss is None else f", loss {run.loss:.2f}")
    return text.append(f", {run.words_per_s:,.0f} words/s" if run.words_per_s else "")
