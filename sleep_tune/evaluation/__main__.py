"""`python -m sleep_tune.evaluation MODEL --data EVAL_DATA --tasks T,… --out DIR`: BabyLM scores of any Hugging Face model."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sleep_tune.digests import digest
from sleep_tune.errors import OneLineParser, UserError, nearest, one_line, run_main
from sleep_tune.evaluation.finetune_command import ALL, TUNED_HELP, add_options, settle_works, split_tasks, tune
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.plan import WITHIN_WORD, labelled
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.scores import ScoreRow
from sleep_tune.evaluation.tasks import TASKS, TaskItems
from sleep_tune.files import file_digest, writable_directory

BACKEND_NAMES = ("mlm", "mntp", "causal")
_HUB = "hub:"
_TASKS_HELP = f"comma-separated: {', '.join(TASKS)}, or {ALL} that there is data for; {TUNED_HELP}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge every argument, read the data, then load the model and score task by task."""
    options = _parse(arguments)
    tasks, tuned, left_out = split_tasks(options)
    _check_choice("--rules", options.rules, RULES)
    if options.backend is not None:
        _check_choice("--backend", options.backend, BACKEND_NAMES)
    _check_revision(options.revision)
    if options.items_per_uid is not None and options.items_per_uid < 1:
        raise UserError(f"--items-per-uid = {options.items_per_uid}: must be at least 1")
    config = _model_config(options.model)
    left_out += _settle_series(options, tasks, bool(tuned))
    items = load_items(Path(options.data), tasks, options.fast, options.items_per_uid, options.seed, options.rules) if tasks else []
    writable_directory(options.out, "--out")
    backend = options.backend = options.backend or _backend_of(config)
    works, skipped = settle_works(options, tuned, alone=not items) if tuned else ([], [])
    left_out += _settle_kind(options)
    rows, notes = _score(options, items) if items else ([], [])
    if works:
        source, name = options.model, _model_name(options.model)
        more, said = tune(options, works, backend, _identity(options), lambda: _load(options, source, options.revision), name)
        rows, notes = [*rows, *more], [*notes, *said]
    _finish(options, [*items, *(work.valid for work in works)], rows, [*left_out, *skipped, *notes])
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation", description=__doc__)
    parser.add_argument("model", help="a model directory, or hub:ID for a model of the Hugging Face hub")
    parser.add_argument("--data", required=True, help="evaluation_data, its zip, or one task's directory or jsonl file")
    parser.add_argument("--tasks", required=True, help=_TASKS_HELP)
    parser.add_argument("--out", required=True, help="where results go; the same command again goes on where it stopped")
    parser.add_argument("--fast", action="store_true", help="the fast set instead of the full one")
    parser.add_argument("--rules", default="honest", help=f"{', '.join(RULES)} (default: honest)")
    parser.add_argument("--backend", help=f"{', '.join(BACKEND_NAMES)} (default: by the model's class)")
    parser.add_argument("--items-per-uid", type=int, help="a seeded sample of so many items of every UID")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the 2026 rules' tie-break")
    parser.add_argument("--checkpoints", help="for aoa: the directory of the model's checkpoints, or each (hub: revisions): chck_1M,…")
    parser.add_argument(
        "--bf16", action="store_true", help="approximate: the model in bfloat16; every result says so and none can be submitted"
    )
    parser.add_argument("--within-word-l2r", action="store_true", help="not official: the rest of a word is masked with each of its tokens")
    add_options(parser)
    parser.add_argument("--revision", default="main", help="names the results; of a hub model, also which revision is loaded")
    return parser.parse_args(arguments)


def _settle_kind(options: argparse.Namespace) -> list[str]:
    """Name the backend by what is not official in it; lines that say so. Raises UserError where it is not for that backend."""
    notes = []
    if options.within_word_l2r:
        if options.backend != "mlm":
            raise UserError(f"--within-word-l2r: is for backend mlm, not {options.backend}")
        options.backend = WITHIN_WORD
        notes.append("scored within words from left to right (Kauf & Ivanova 2023): not the official scores")
    if options.bf16:
        notes.append("scored in bfloat16: approximate, some decisions differ from the exact ones")
    return notes


def _settle_series(options: argparse.Namespace, tasks: list[str], others: bool) -> list[str]:
    """Find aoa's checkpoints; without any, leave it out of `tasks` and say so. Raises UserError where nothing else was asked for."""
    if "aoa" not in tasks:
        return []
    if options.checkpoints is not None:
        from sleep_tune.evaluation.checkpoint_series import find_checkpoints

        options.series = find_checkpoints(options.checkpoints, options.model.startswith(_HUB))
        return []
    missing = "aoa: not defined for one checkpoint: name the series by --checkpoints"
    tasks[:] = [name for name in tasks if name != "aoa"]
    if not tasks and not others:
        raise UserError(missing)
    return [missing]


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
    keys = {
        task.task: work_key(_series_identity(options) if task.task == "aoa" else identity, task, labelled(options.backend, options.bf16))
        for task in items
    }
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

    from sleep_tune.evaluation.checkpoint_series import score_series
    from sleep_tune.evaluation.evaluate import plan_items, score_plan
    from sleep_tune.evaluation.official_layout import write_results
    from sleep_tune.evaluation.result_files import write_finished

    model, tokenizer = _load(options, options.model, options.revision) if {task.task for task in items} != {"aoa"} else (None, None)
    counter = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    with Progress(*counter, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        for task in items:
            bar = bars.add_task(task.task, total=None)

            def show(done: int, of: int, bar: Any = bar) -> None:
                bars.update(bar, completed=done, total=of)

            if task.task == "aoa":
                result: Any = score_series(
                    lambda source: _load_checkpoint(options, source), options.series, task, options.backend, show, options.bf16
                )
            else:
                [result] = score_plan(model, plan_items(tokenizer, [task], options.backend), show, bf16=options.bf16)
            write_results(result, Path(options.out), _model_name(options.model), options.revision)
            write_finished(Path(options.out), keys[task.task], result)


def _load_checkpoint(options: argparse.Namespace, source: str) -> tuple[Any, Any]:
    """A model of aoa's series: a directory, or a revision of the hub model."""
    hub = options.model.startswith(_HUB)
    return _load(options, options.model if hub else source, source)


def _load(options: argparse.Namespace, name: str, revision: str) -> tuple[Any, Any]:
    """Model (fp32, on a GPU if there is one) and tokenizer. Raises UserError where they cannot be had or have no head for the backend."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source = name.removeprefix(_HUB)
    where = {"revision": revision} if name.startswith(_HUB) else {}
    kind = AutoModelForCausalLM if options.backend == "causal" else AutoModelForMaskedLM
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        loaded: Any = kind.from_pretrained(source, output_loading_info=True, **where)
    except Exception as error:  # transformers raises nearly anything for a directory that is not what it says
        raise UserError(f"model = {name}: cannot be loaded for backend {options.backend} ({one_line(error)[:300]})") from None
    model, loading = loaded
    if loading["missing_keys"]:
        first = sorted(loading["missing_keys"])[0]
        raise UserError(f"model = {name}: has no weights for {first}, which backend {options.backend} needs (another backend?)")
    return model.float().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _model_name(model: str) -> str:
    """As the official pipeline names a model's results: the last part of its path, less what follows a dot."""
    return Path(model.removeprefix(_HUB)).stem if model.startswith(_HUB) else Path(model).resolve().stem


def _identity(options: argparse.Namespace) -> str:
    """A digest of the model's files; of id and revision for a hub model."""
    if options.model.startswith(_HUB):
        return digest(options.model, options.revision)
    return digest(*_contents(options.model), options.revision)


def _series_identity(options: argparse.Namespace) -> str:
    """The same of aoa's checkpoints."""
    if options.model.startswith(_HUB):
        return digest(options.model, *options.series)
    return digest(*(part for source, checkpoint in options.series.items() for part in (checkpoint.name, *_contents(source))))


def _contents(directory: str) -> list[str]:
    """Names and digests of a directory's files."""
    files = sorted(path for path in Path(directory).iterdir() if path.is_file())
    return [part for path in files for part in (path.name, file_digest(path))]


def _finish(options: argparse.Namespace, items: Sequence[TaskItems], rows: Sequence[ScoreRow], notes: Sequence[str]) -> None:
    """Publish the tables and print one line a task."""
    from rich.console import Console
    from rich.table import Table

    from sleep_tune.evaluation.averages import averages
    from sleep_tune.evaluation.result_files import summary, write_all

    means = averages(rows)
    sampled = f", {options.items_per_uid} items of every UID" if any(task.sampled for task in items) else ""
    about = {
        "model": options.model,
        "revision": options.revision,
        "backend": labelled(options.backend, options.bf16),
        "rules": options.rules,
        "reproduces": RULES[options.rules].reproduces,
        "datasets": {task.task: task.dataset for task in items},
        "items_per_uid": options.items_per_uid,
        "seed": options.seed,
        "notes": list(notes),
        "averages": [asdict(mean) for mean in means],
    }
    write_all(Path(options.out), rows, about)
    table = Table(
        title=f"{options.model} · {labelled(options.backend, options.bf16)} · rules {options.rules}{sampled}", title_justify="left"
    )
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
    for mean in (mean for mean in means if mean.value is not None):
        console.print(str(mean), soft_wrap=True, highlight=False)
    console.print(f"written: {options.out}/scores.json, scores.parquet, items.parquet, results/", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_main(main)
