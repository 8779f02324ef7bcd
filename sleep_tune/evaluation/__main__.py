"""`python -m sleep_tune.evaluation MODEL --data EVAL_DATA --tasks T,… --out DIR`: BabyLM scores of any Hugging Face model."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sleep_tune.disk import full_disk_named
from sleep_tune.errors import OneLineParser, UserError, nearest, run_main
from sleep_tune.evaluation.finetune_command import add_options, check_options, settle_works, tune
from sleep_tune.evaluation.finished import Records, Subset, held
from sleep_tune.evaluation.model_source import HUB, ModelSource, backend_of
from sleep_tune.evaluation.plan import WITHIN_WORD
from sleep_tune.evaluation.result_records import refuse_other_model, refuse_other_scores
from sleep_tune.evaluation.rules import RULES
from sleep_tune.evaluation.task_names import HELP, read_names
from sleep_tune.evaluation.zero_shot_command import Asked, read_asked, score_zero_shot, settle_series
from sleep_tune.files import writable_directory

BACKEND_NAMES = ("mlm", "mntp", "causal")


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge every argument, read the data, then load the model and score task by task."""
    options = _parse(arguments)
    names = read_names(options.tasks, Path(options.data), options.fast)
    _check(options)
    source = ModelSource(options.model, options.revision, options.trust_remote_code)
    config = source.config()
    series = settle_series(options, names)
    asked = read_asked(options, names, series)
    out = writable_directory(options.out, "--out")
    if not source.hub and out.resolve() == Path(source.place).resolve():
        raise UserError(
            f"--out = {options.out}: is the model's own directory, which would become another model by it; choose one beside it"
        )
    backend = options.backend = options.backend or backend_of(config)
    works, skipped = settle_works(options, names)
    notes = [*_settle_kind(options), *skipped]
    records = Records(out, source, options.backend, options.rules, options.bf16)
    try:
        with _terminable(), full_disk_named(out), held(out, lambda line: print(line, file=sys.stderr, flush=True)):
            for target in (records.final, *asked.series.values()):  # before hours of scoring, not after
                refuse_other_model(out, source.name, target.revision, records.identity(target))
            refuse_other_scores(out, source.revision, records.identity(records.final))
            if asked.parts or asked.ages:
                score_zero_shot(asked, records)
            notes += tune(options, works, backend, records)
            _finish(options, asked, records, [*names.notes, *notes])
    except KeyboardInterrupt:
        print(f"interrupted: what is finished is kept in {out}: the same command goes on with the rest", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation", description=__doc__)
    parser.add_argument("model", help=f"a model directory, or {HUB}ID for a model of the Hugging Face hub")
    parser.add_argument("--data", required=True, help="evaluation_data, its zip, or one task's directory or jsonl file")
    parser.add_argument("--tasks", required=True, help=HELP)
    parser.add_argument("--out", required=True, help="where results go; the same command again goes on where it stopped")
    parser.add_argument("--fast", action="store_true", help="the fast set instead of the full one")
    parser.add_argument("--rules", default="honest", help=f"{', '.join(RULES)} (default: honest)")
    parser.add_argument("--backend", help=f"{', '.join(BACKEND_NAMES)} (default: by the model's class)")
    parser.add_argument("--items-per-uid", type=int, help="a seeded sample of so many items of every UID")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the 2026 rules' tie-break")
    parser.add_argument(
        "--checkpoints",
        help="the directory of the model's checkpoints, or each (hub: revisions): chck_1M,…; the zero-shot tasks are scored at every one, "
        "on the fast set, and aoa over all",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="approximate: the model in bfloat16; every result says so and none can be submitted"
    )
    parser.add_argument("--within-word-l2r", action="store_true", help="not official: the rest of a word is masked with each of its tokens")
    add_options(parser)
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that the model brings with it, as GPT-BERT does")
    parser.add_argument("--revision", default="main", help="names the results; of a hub model, also which revision is loaded")
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Raises UserError for a choice that there is not, or a number out of range."""
    _check_choice("--rules", options.rules, RULES)
    if options.backend is not None:
        _check_choice("--backend", options.backend, BACKEND_NAMES)
    if options.items_per_uid is not None and options.items_per_uid < 1:
        raise UserError(f"--items-per-uid = {options.items_per_uid}: must be at least 1")
    if options.seed < 0:
        raise UserError(f"--seed = {options.seed}: must be at least 0")
    check_options(options)


def _check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name} = {value}: unknown{nearest(value, allowed)}")


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


def _finish(options: argparse.Namespace, asked: Asked, records: Records, notes: Sequence[str]) -> None:
    """Publish and print everything that is finished in the directory, this command's and what lay there."""
    from sleep_tune.evaluation.printed_scores import print_scores
    from sleep_tune.evaluation.published import publish, scores_of

    usual = Subset("fast" if options.fast else "full", options.items_per_uid)
    scores = scores_of(records, records.gather([records.final, *asked.series.values()]), asked.subsets, usual)
    told = list(dict.fromkeys([*notes, *scores.notes]))
    publish(records, scores, options.seed, told)
    print_scores(records, scores, told)


if __name__ == "__main__":
    run_main(main)
