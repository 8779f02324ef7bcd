"""`python -m sleep_tune.evaluation MODEL --data EVAL_DATA --tasks T,… --out DIR`: BabyLM scores of any Hugging Face model."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sleep_tune.digests import digest
from sleep_tune.errors import OneLineParser, UserError, nearest, one_line, run_main
from sleep_tune.evaluation.official_data import check_tasks, load_items
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.scores import ScoreRow
from sleep_tune.evaluation.tasks import TASKS, TaskItems
from sleep_tune.files import file_digest, writable_directory

BACKEND_NAMES = ("mlm", "mntp", "causal")
_HUB = "hub:"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge every argument, read the data, then load the model and score task by task."""
    options = _parse(arguments)
    tasks = [name.strip() for name in options.tasks.split(",") if name.strip()]
    check_tasks(tasks)
    _check_choice("--rules", options.rules, RULES)
    if options.backend is not None:
        _check_choice("--backend", options.backend, BACKEND_NAMES)
    _check_revision(options.revision)
    if options.items_per_uid is not None and options.items_per_uid < 1:
        raise UserError(f"--items-per-uid = {options.items_per_uid}: must be at least 1")
    config = _model_config(options.model)
    items = load_items(Path(options.data), tasks, options.fast, options.items_per_uid, options.seed, options.rules)
    writable_directory(options.out, "--out")
    options.backend = options.backend or _backend_of(config)
    rows, notes = _score(options, items)
    _finish(options, items, rows, notes)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation", description=__doc__)
    parser.add_argument("model", help="a model directory, or hub:ID for a model of the Hugging Face hub")
    parser.add_argument("--data", required=True, help="evaluation_data, its zip, or one task's directory or jsonl file")
    parser.add_argument("--tasks", required=True, help=f"comma-separated: {', '.join(TASKS)}")
    parser.add_argument("--out", required=True, help="where results go; the same command again goes on where it stopped")
    parser.add_argument("--fast", action="store_true", help="the fast set instead of the full one")
    parser.add_argument("--rules", default="honest", help=f"{', '.join(RULES)} (default: honest)")
    parser.add_argument("--backend", help=f"{', '.join(BACKEND_NAMES)} (default: by the model's class)")
    parser.add_argument("--items-per-uid", type=int, help="a seeded sample of so many items of every UID")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the 2026 rules' tie-break")
    parser.add_argument("--revision", default="main", help="names the results; of a hub model, also which revision is loaded")
    return parser.parse_args(arguments)


def _check_revision(revision: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", revision):
        raise UserError(f"--revision = {revision}: must be a branch or tag: letters, digits, . _ -")


def _check_choice(name: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise UserError(f"{name} = {value}: unknown{nearest(value, allowed)}")


def _model_config(model: str) -> dict[str, Any]:
    """The config.json of a model directory; {} for a hub id. Raises UserError for what is neither."""
    if model.startswith(_HUB):
        return {}
    directory = Path(model)
    if not directory.is_dir():
        raise UserError(f"model = {model}: no such model directory (a model of the Hugging Face hub is written {_HUB}{model})")
    try:
        config = json.loads((directory / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"model = {model}: no config.json in it; must be a directory that save_pretrained wrote") from None
    except ValueError as error:
        raise UserError(f"{directory / 'config.json'}: not JSON ({error})") from None
    return config if isinstance(config, dict) else {}


def _backend_of(config: dict[str, Any]) -> str:
    """mlm, unless the model says that it reads from left to right."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    return "causal" if name.endswith(("LMHeadModel", "ForCausalLM")) else "mlm"


def _score(options: argparse.Namespace, items: Sequence[TaskItems]) -> tuple[list[ScoreRow], list[str]]:
    """Score what is not scored yet, task by task; rows and notes of all of them."""
    from rich.console import Console

    from sleep_tune.evaluation.result_files import read_finished, work_key

    console = Console(stderr=True)
    identity = _identity(options)
    keys = {task.task: work_key(identity, task, options.backend) for task in items}
    finished = {task.task: read_finished(Path(options.out), task.task, keys[task.task]) for task in items}
    todo = [task for task in items if finished[task.task] is None]
    for name in sorted(set(finished) - {task.task for task in todo}):
        console.print(f"{name}: already scored in {options.out}")
    if todo:
        _score_tasks(options, todo, keys, console)
    done = [read_finished(Path(options.out), task.task, keys[task.task]) or ([], []) for task in items]
    return [row for rows, _ in done for row in rows], [note for _, notes in done for note in notes]


def _score_tasks(options: argparse.Namespace, items: Sequence[TaskItems], keys: dict[str, str], console: Any) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from sleep_tune.evaluation.evaluate import score_plan
    from sleep_tune.evaluation.official_layout import write_results
    from sleep_tune.evaluation.plan import make_plan
    from sleep_tune.evaluation.result_files import write_finished

    model, tokenizer = _load(options)
    counter = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    with Progress(*counter, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        for task in items:
            plan = make_plan(tokenizer, [task], options.backend)
            bar = bars.add_task(task.task, total=plan.n_rows)
            [result] = score_plan(model, plan, progress=lambda done, _, bar=bar: bars.update(bar, completed=done))  # type: ignore[misc]
            write_results(result, Path(options.out), _model_name(options.model), options.revision)
            write_finished(Path(options.out), keys[task.task], result)


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    """Model (fp32, on a GPU if there is one) and tokenizer. Raises UserError where they cannot be had or have no head for the backend."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source = options.model.removeprefix(_HUB)
    where = {"revision": options.revision} if options.model.startswith(_HUB) else {}
    kind = AutoModelForCausalLM if options.backend == "causal" else AutoModelForMaskedLM
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        loaded: Any = kind.from_pretrained(source, output_loading_info=True, **where)
    except Exception as error:  # transformers raises nearly anything for a directory that is not what it says
        raise UserError(f"model = {options.model}: cannot be loaded for backend {options.backend} ({one_line(error)[:300]})") from None
    model, loading = loaded
    if loading["missing_keys"]:
        first = sorted(loading["missing_keys"])[0]
        raise UserError(f"model = {options.model}: has no weights for {first}, which backend {options.backend} needs (another backend?)")
    return model.float().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _model_name(model: str) -> str:
    """As the official pipeline names a model's results: the last part of its path, less what follows a dot."""
    return Path(model.removeprefix(_HUB)).stem if model.startswith(_HUB) else Path(model).resolve().stem


def _identity(options: argparse.Namespace) -> str:
    """A digest of the model's files; of id and revision for a hub model."""
    if options.model.startswith(_HUB):
        return digest(options.model, options.revision)
    files = sorted(path for path in Path(options.model).iterdir() if path.is_file())
    return digest(*(part for path in files for part in (path.name, file_digest(path))), options.revision)


def _finish(options: argparse.Namespace, items: Sequence[TaskItems], rows: Sequence[ScoreRow], notes: Sequence[str]) -> None:
    """Publish the tables and print one line a task."""
    from rich.console import Console
    from rich.table import Table

    from sleep_tune.evaluation.result_files import summary, write_all

    sampled = f", {options.items_per_uid} items of every UID" if any(task.sampled for task in items) else ""
    about = {
        "model": options.model,
        "revision": options.revision,
        "backend": options.backend,
        "rules": options.rules,
        "reproduces": RULES[options.rules].reproduces,
        "datasets": {task.task: task.dataset for task in items},
        "items_per_uid": options.items_per_uid,
        "seed": options.seed,
        "notes": list(notes),
    }
    write_all(Path(options.out), rows, about)
    table = Table(title=f"{options.model} · {options.backend} · rules {options.rules}{sampled}", title_justify="left")
    for column in ("task", "UIDs", "items", "score", "± s.e.", "unit", "ties", "NaN"):
        table.add_column(column, justify="left" if column in ("task", "unit") else "right")
    for task, line in summary(rows).items():
        digits = 2 if line["unit"] == "percent" else 3
        numbers = (f"{line['score']:.{digits}f}", f"{line['stderr']:.{digits}f}")
        table.add_row(task, str(line["uids"]), str(line["n"]), *numbers, line["unit"], str(line["ties"]), str(line["nans"]))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    console.print(f"written: {options.out}/scores.json, scores.parquet, items.parquet, results/", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_main(main)
