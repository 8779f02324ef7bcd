"""How far an evaluation is: bars on a terminal with rows done and time left, lines in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sleep_tune.evaluation.likelihood import Show

_LINE_EVERY_S = 30.0  # of a log


@contextlib.contextmanager
def bars(console: Console, unit: str = "rows") -> "Iterator[Show]":
    """Bars, one for everything that is named to what this yields, of so many `unit`; where the console is no terminal, lines: at the end
    of each, and on the way of what takes long."""
    if not console.is_terminal:
        yield partial(_lines, console, unit)
        return
    count, clock = (BarColumn(), MofNCompleteColumn(), TextColumn(unit)), (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *count, *clock, console=console) as shown:

        def show(what: str) -> Callable[[int, int], None]:
            bar = shown.add_task(what, total=None)
            return lambda done, of: shown.update(bar, completed=done, total=of)

        yield show


def _lines(console: Console, unit: str, what: str, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    began = told = clock()
    over = False

    def tell(done: int, of: int) -> None:
        nonlocal told, over
        now = clock()
        if over or (done < of and now - told < _LINE_EVERY_S):
            return
        told, over = now, done >= of
        spent = f"{now - began:.0f} s" + ("" if over or not done else f", about {(now - began) * (of - done) / done:.0f} s left")
        console.print(f"{what}: {done:,} of {of:,} {unit}, {spent}", soft_wrap=True, highlight=False)

    return tell
