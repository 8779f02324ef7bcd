"""A study's outcome in the terminal: the ranking with the baselines in it, what was stopped, what the seeds can tell, what was written."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console as Terminal
from rich.table import Table
from rich.text import Text

from sleep_tune.study.labels import duration
from sleep_tune.study.outcome import LOSS_TASK, Entry, StudyOutcome, stopped_line, unequal_line, verdict
from sleep_tune.study.statistics import Estimate, Ranked
from sleep_tune.words import show_words

WIDE = 100  # columns from which spreads, seeds, words and time fit beside the scores,
WIDER = 112  # and where there are matched controls
SCHEDULE = 20  # columns of a schedule's name, at least,
NAME = 1  # and which of the table's it is


def print_outcome(outcome: StudyOutcome, written: Iterable[Path], terminal: Terminal, rows: int = 12) -> None:
    """Print the ranking (best `rows`, and every baseline), then what it means, then the paths."""
    if outcome.ranking.ranked:
        wide = terminal.width >= (WIDER if outcome.against_control else WIDE)
        tasks = fitting_tasks(outcome, wide, rows, terminal)
        terminal.print(ranking_table(outcome, wide, rows, tasks))
        terminal.print(Text(_legend(outcome, wide), "dim"))
        left_out = [task for task in outcome.tasks if task not in tasks]
        if left_out:
            terminal.print(Text(f"Scored too, for a wider terminal: {', '.join(left_out)} (tables/scores.parquet).", "dim"))
    for line in (unequal_line(outcome), hidden_line(outcome, rows), stopped_line(outcome)):
        if line:
            terminal.print(Text(line, "dim"))
    terminal.print(Text(verdict(outcome), "bold"))
    paths = list(written)
    if paths:
        terminal.print(Text("Written:"))
    for path in paths:
        terminal.print(Text(f"  {_near(path)}"), soft_wrap=True)


def _legend(outcome: StudyOutcome, wide: bool) -> str:
    """What the numbers of the table are."""
    means = f"{outcome.metric}: mean ± standard deviation over seeds; scores: mean ± standard error"
    half = " ± half its 95 % interval" if wide else ""
    control = f"; against control: mean difference to its matched control{half}, paired by seed" if outcome.against_control else ""
    time = "; time: of a trial's training" if _roomy(outcome, wide) else ""
    return f"{means}{control}{time}."


def _roomy(outcome: StudyOutcome, wide: bool) -> bool:
    """Whether there is room for words seen and time."""
    return wide or not outcome.against_control


def shown(outcome: StudyOutcome, rows: int) -> list[tuple[int, Ranked]]:
    """Rank and row of the best `rows` configurations, of every baseline, and of the matched controls of what is shown."""
    places = {row.configuration: place for place, row in enumerate(outcome.ranking.ranked, start=1)}
    best = {name for name, place in places.items() if place <= rows}
    kept = best | {name for name in places if outcome.is_baseline(name) and not outcome.is_control(name)}
    kept |= {control for pair, control in outcome.controls.items() if pair in best}
    return [(places[row.configuration], row) for row in outcome.ranking.ranked if row.configuration in kept]


def hidden_line(outcome: StudyOutcome, rows: int) -> str:
    """One line on ranked configurations that the table leaves out; empty where there are none."""
    hidden = len(outcome.ranking.ranked) - len(shown(outcome, rows))
    return f"{hidden} more are ranked: tables/trials.parquet has them all." if hidden else ""


def fitting_tasks(outcome: StudyOutcome, wide: bool, rows: int, terminal: Terminal) -> list[str]:
    """The first of the scored tasks, as many as there is room for beside the rest; names of schedules fold."""
    unbound = terminal.options.update(width=10_000)
    for count in range(len(outcome.tasks), 0, -1):
        tasks = list(outcome.tasks)[:count]
        table = ranking_table(outcome, wide, rows, tasks)
        table.columns[NAME].max_width = SCHEDULE
        if terminal.measure(table, options=unbound).maximum <= terminal.width:
            return tasks
    return []


def ranking_table(outcome: StudyOutcome, wide: bool, rows: int, tasks: Sequence[str]) -> Table:
    """One row a configuration: objective mean ± SD over seeds, final scores of `tasks` mean ± standard error, words seen and time of a
    trial."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("#", justify="right")
    table.add_column("schedule", min_width=SCHEDULE, overflow="fold")
    if wide:
        table.add_column("seeds", justify="right")
    unit = "\nnats" if outcome.metric == LOSS_TASK else ""
    table.add_column(f"{outcome.metric}{unit}", justify="right", no_wrap=True)
    if outcome.ranking.baseline:
        table.add_column("against\nbaseline", justify="right", no_wrap=True)
    if outcome.against_control:
        table.add_column("against\ncontrol", justify="right", no_wrap=True)
    for task in tasks:
        table.add_column(f"{task}\n{'%' if outcome.units[task] == 'percent' else outcome.units[task]}", justify="right", no_wrap=True)
    if _roomy(outcome, wide):
        table.add_column("words\nseen", justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
    for place, row in shown(outcome, rows):
        style = "yellow" if outcome.is_baseline(row.configuration) else "bold green" if place == 1 else ""
        table.add_row(*_cells(outcome, place, row, wide, tasks), style=style)
    return table


def _cells(outcome: StudyOutcome, place: int, row: Ranked, wide: bool, tasks: Sequence[str]) -> list[str]:
    entry: Entry = outcome.entries[row.configuration]
    mark = " (baseline)" if outcome.is_baseline(row.configuration) and not outcome.is_control(row.configuration) else ""
    cells = [str(place), f"{entry.schedule}{mark}"]
    if wide:
        cells.append(str(len(entry.seeds)))
    cells.append(_spread(row.objective.mean, row.objective.sd, 3))
    if outcome.ranking.baseline:
        cells.append(f"{row.difference.mean:+.3f}" if row.difference else "")
    if outcome.against_control:
        cells.append(_difference(outcome.against_control.get(row.configuration), wide))
    cells += [_score(entry.scores.get(task), outcome.units[task] == "percent") for task in tasks]
    return [*cells, show_words(entry.words_seen), duration(entry.wall_s)] if _roomy(outcome, wide) else cells


def _difference(difference: Estimate | None, wide: bool) -> str:
    if difference is None:
        return ""
    half = "" if not wide or np.isnan(difference.low) else f" ±{(difference.high - difference.low) / 2:.3f}"
    return f"{difference.mean:+.3f}{half}"


def _score(score: Estimate | None, percent: bool) -> str:
    return "-" if score is None else _spread(score.mean, score.stderr, 1 if percent else 3)


def _spread(mean: float, spread: float, digits: int) -> str:
    return f"{mean:.{digits}f}" + ("" if np.isnan(spread) else f" ±{spread:.{digits}f}")


def _near(path: Path) -> str:
    """A path as it is shortest to type from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
