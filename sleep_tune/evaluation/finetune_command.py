"""What `python -m sleep_tune.evaluation` does with the fine-tuned tasks: its options, what they ask for, progress on the way."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sleep_tune.errors import UserError, nearest
from sleep_tune.evaluation.finetune_settings import GLUE, GROUP, OFFICIAL_SEED
from sleep_tune.evaluation.official_data import all_tasks
from sleep_tune.evaluation.scores import ScoreRow
from sleep_tune.evaluation.tasks import TASKS

ALL = "all"  # zero-shot tasks that there is data for
TUNED_HELP = f"fine-tuned: {', '.join(GLUE)}, or all of them: {GROUP}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only fine-tuning has."""
    parser.add_argument(
        "--finetune-rows", type=int, help="a pilot on a seeded sample of so many training rows (--items-per-uid: scored rows)"
    )
    parser.add_argument(
        "--finetune-seeds",
        default=str(OFFICIAL_SEED),
        help=f"comma-separated (default: {OFFICIAL_SEED}, the official one); the first one's answers become the official files",
    )


def split_tasks(options: argparse.Namespace) -> tuple[list[str], list[str], list[str]]:
    """Zero-shot and fine-tuned tasks that `options.tasks` names, and notes on what `all` does not hold.

    Raises UserError for a name that is neither, and for bad options.
    """
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    known = (*TASKS, *GLUE, GROUP, ALL)
    for name in names:
        if name not in known:
            raise UserError(f"task = {name}: unknown{nearest(name, known)}")
    if not names:
        raise UserError(f"tasks = : name at least one (allowed: {', '.join(known)})")
    tuned = [task for task in GLUE if task in names or GROUP in names]
    if options.finetune_rows is not None and options.finetune_rows < 1:
        raise UserError(f"--finetune-rows = {options.finetune_rows}: must be at least 1")
    options.seeds = _seeds(options.finetune_seeds)
    if tuned and options.fast:
        raise UserError(f"--fast: {', '.join(tuned)} is not part of the fast set")
    if ALL not in names:
        return [name for name in names if name in TASKS], tuned, []
    there, notes = all_tasks(Path(options.data), options.fast)
    hint = [] if tuned or options.fast else [f"{GROUP}: fine-tuned only where it is named: --tasks {ALL},{GROUP}"]
    return there, tuned, [*notes, *hint]


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise UserError(f"--finetune-seeds = {text}: must be whole numbers separated by commas, each once")
    return tuple(map(int, parts))


def settle_works(options: argparse.Namespace, tuned: Sequence[str], alone: bool) -> tuple[list[Any], list[str]]:
    """The work there is data for, and a line for each task that is skipped. Raises UserError where nothing else was asked for."""
    from sleep_tune.evaluation.finetune_data import load_works

    works, skipped = load_works(
        Path(options.data), tuned, options.backend, options.rules, options.finetune_rows, options.items_per_uid, options.seed
    )
    if alone and not works:
        raise UserError("; ".join(skipped))
    return works, skipped


def tune(
    options: argparse.Namespace, works: Sequence[Any], backend: str, identity: str, load: Callable[[], Any], model_name: str
) -> tuple[list[ScoreRow], list[str]]:
    """Fine-tune what is not done yet, publish all of it; rows and notes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from sleep_tune.evaluation.finetune_data import How, finetune_works
    from sleep_tune.evaluation.finetune_results import notes, score_row, write_tuned

    how = How(options.seeds, backend, identity, Path(options.out))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def show(what: str) -> Callable[[int, int], None]:
            bar = bars.add_task(what, total=None)
            return lambda done, of: bars.update(bar, completed=done, total=of)

        results = finetune_works(works, how, load, show)
    for tuned in results:
        write_tuned(tuned, model_name, options.revision)
    precision = [f"{GROUP}: fine-tuned in fp32 all the same"] if options.bf16 else []
    return [score_row(tuned) for tuned in results], [*notes(results), *precision]
