"""What `python -m sleep_tune.evaluation` does with the fine-tuned tasks: its options, what they ask for, progress on the way."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sleep_tune.errors import UserError
from sleep_tune.evaluation.finetune_settings import GROUP, OFFICIAL_SEED
from sleep_tune.evaluation.model_source import uncollected
from sleep_tune.evaluation.task_names import Names

if TYPE_CHECKING:
    from sleep_tune.evaluation.finished import Records

_MOST_DIGITS = 18  # of a seed


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


def check_options(options: argparse.Namespace) -> None:
    """Raises UserError for what they cannot be; `options.seeds` afterwards are whole numbers."""
    if options.finetune_rows is not None and options.finetune_rows < 1:
        raise UserError(f"--finetune-rows = {options.finetune_rows}: must be at least 1")
    parts = [part.strip() for part in options.finetune_seeds.split(",")]
    whole = all(part.isascii() and part.isdigit() and len(part) <= _MOST_DIGITS for part in parts)
    if not whole or len(set(map(int, parts))) < len(parts):
        raise UserError(
            f"--finetune-seeds = {options.finetune_seeds[:80]}: must be whole numbers separated by commas, each once, "
            f"of at most {_MOST_DIGITS} digits"
        )
    options.seeds = tuple(map(int, parts))


def settle_works(options: argparse.Namespace, names: Names) -> tuple[list[Any], list[str]]:
    """The work there is data for, and a line for each task that is skipped.

    Raises UserError for a task without data that was named by its own name, and where nothing else was asked for.
    """
    if not names.tuned:
        return [], []
    with uncollected():
        from sleep_tune.evaluation.finetune_data import load_works

    rows, per_uid, seed = options.finetune_rows, options.items_per_uid, options.seed
    works, skipped = load_works(Path(options.data), names.tuned, options.backend, options.rules, rows, per_uid, seed, names.named)
    if not works and not names.zero_shot:
        raise UserError("; ".join(skipped))
    return works, skipped


def tune(options: argparse.Namespace, works: Sequence[Any], backend: str, records: "Records") -> list[str]:
    """Fine-tune what is not done yet, publish each task as it is done; what the reader has to know of this command's way."""
    if not works:
        return []
    from rich.console import Console

    from sleep_tune.evaluation.finetune_data import How, finetune_works
    from sleep_tune.evaluation.finetune_results import items_of, notes, score_row, write_tuned
    from sleep_tune.evaluation.finished import Part, Subset
    from sleep_tune.evaluation.progress import bars
    from sleep_tune.evaluation.result_files import item_columns
    from sleep_tune.evaluation.result_records import Identity

    source = records.source
    how = How(options.seeds, backend, source.digest, records.out)
    with bars(Console(stderr=True)) as show:
        for tuned in finetune_works(works, how, lambda: source.load(backend), show):
            write_tuned(tuned, source.name, source.revision, Identity.of(source.digest, source.place))
            valid = tuned.work.valid
            subset = Subset("pilot" if tuned.work.pilot else "full", options.items_per_uid if valid.sampled else None)
            records.keep_tuned(score_row(tuned), notes([tuned]), Part(valid, subset), item_columns(items_of(tuned)))
    return [f"{GROUP}: fine-tuned in fp32 all the same"] if options.bf16 else []
