"""Progress bars of the evaluation command, on stderr: rows done, time left."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Show = Callable[[str], Callable[[int, int], None]]  # what is being done -> what to call with rows done and rows in all


@contextlib.contextmanager
def bars(console: Console) -> Iterator[Show]:
    """Bars, one for everything that is named to what this yields."""
    count, clock = (BarColumn(), MofNCompleteColumn(), TextColumn("rows")), (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *count, *clock, console=console) as shown:

        def show(what: str) -> Callable[[int, int], None]:
            bar = shown.add_task(what, total=None)
            return lambda done, of: shown.update(bar, completed=done, total=of)

        yield show
