"""One training run in the terminal: a line that moves there, a line every few seconds in a log."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from rich.console import Console as Terminal
from rich.live import Live
from rich.text import Text

from sleep_tune.study.console import REFRESH_EVERY_S, SIGNS, STYLES
from sleep_tune.study.labels import duration
from sleep_tune.words import show_words

if TYPE_CHECKING:
    from sleep_tune.training.loop import StepRecord

PLAIN_EVERY_S = 5.0
SMOOTHING = 0.98  # of the loss, per step
SPEED_WINDOW_S = 10.0


class RunProgress:
    """Progress of one run, as a context manager; `step` is called after every optimizer step and costs about a microsecond.

    sleeps: whether the run has a sleep at all; plain epochs show no phase. instruments: what more the line says of its speed.
    """

    def __init__(
        self,
        budget_words: int,
        sleeps: bool = True,
        instruments: Callable[[], str] = str,
        terminal: Terminal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget_words, self.sleeps, self._instruments = budget_words, sleeps, instruments
        self.terminal = terminal or Terminal(file=sys.stdout, highlight=False)
        self._clock, self._due = clock, clock() + (REFRESH_EVERY_S if self.terminal.is_terminal else PLAIN_EVERY_S)
        self._live = Live(console=self.terminal, auto_refresh=False, transient=True) if self.terminal.is_terminal else None
        self._marks: deque[tuple[float, int]] = deque()  # (time, words seen) of the recent draws, for the speed
        self._loss_sum = self._weight = 0.0
        self._last: StepRecord | None = None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        if self._last:
            self._marks.append((self._clock(), self._last.words_seen))
            self.terminal.print(self.line(), soft_wrap=True)

    def step(self, record: "StepRecord") -> None:
        """Take in an optimizer step."""
        self._loss_sum = SMOOTHING * self._loss_sum + (1 - SMOOTHING) * record.loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        changed = self._last is not None and self._last.phase != record.phase
        first, self._last = self._last is None, record
        now = self._clock()
        if first:
            self._marks.append((now, record.words_seen))
        if now < self._due and not (changed and self._live):
            return
        self._due = now + (REFRESH_EVERY_S if self._live else PLAIN_EVERY_S)
        self._marks.append((now, record.words_seen))
        while len(self._marks) > 2 and now - self._marks[0][0] > SPEED_WINDOW_S:
            self._marks.popleft()
        if self._live:
            self._live.update(self.line(), refresh=True)
        else:
            self.terminal.print(self.line(), soft_wrap=True)

    @property
    def words_per_s(self) -> float:
        """Over the last seconds; 0 while unknown."""
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def line(self) -> Text:
        """Phase, cycle, words, loss, speed, time left."""
        record, speed = self._last, self.words_per_s if self._marks else 0.0
        if record is None:
            return Text("starting")
        line = Text()
        if self.sleeps:
            line.append(f"{SIGNS.get(record.phase, ' ')} {record.phase:<5}", STYLES.get(record.phase, "")).append(
                f" cycle {record.cycle} · "
            )
        line.append(f"{show_words(record.words_seen)} of {show_words(self.budget_words)} words · loss {self._loss_sum / self._weight:.3f}")
        if speed:
            left = (self.budget_words - record.words_seen) / speed
            told = self._instruments()
            line.append(f" · {speed:,.0f} words/s" + (f" ({told})" if told else "") + (f" · {duration(left)} left" if left >= 1 else ""))
        return line
