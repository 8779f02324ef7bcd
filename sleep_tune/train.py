"""One run without Ray: `python -m sleep_tune.train --preset tiny --preset strict_replay --out out/strict`.

The same command goes on where an earlier one was killed or interrupted.
"""

import argparse
import functools
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sleep_tune.errors import OneLineParser, RunError, UserError, run_main

if TYPE_CHECKING:
    from sleep_tune.config import Config
    from sleep_tune.data.token_store import Prepared
    from sleep_tune.evaluation.likelihood import Progress
    from sleep_tune.study.spec import Study
    from sleep_tune.training.loop import StepRecord
    from sleep_tune.training.parallel import Team


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line. Raises UserError."""
    parser = OneLineParser(prog="python -m sleep_tune.train", allow_abbrev=False, description=__doc__)
    parser.add_argument(
        "--preset", action="append", default=[], metavar="P", help="a profile, a schedule, or one of each (see launch.py --list)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of the config, such as seed=1; may be repeated"
    )
    parser.add_argument("--data", metavar="DIR|hub:ID", help="text to train on, in BabyLM's layout")
    parser.add_argument("--evaluation-data", metavar="DIR|ZIP", help="BabyLM's evaluation_data (default: beside the data directory)")
    parser.add_argument("--budget", metavar="WORDS", help="words seen, wake and sleep: 200000, 200k, 5M")
    parser.add_argument("--workers", metavar="N", help="processes that train it together, each on its part of every batch (default 1)")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the run is written")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="--out again; it has to be there (the same command goes on by itself)")
    return parser.parse_args(arguments)


def one_trial(options: argparse.Namespace) -> "Study":
    """The command line as a study of one trial. Raises UserError."""
    from sleep_tune.study.request import Request, given_fields
    from sleep_tune.study.rules import check
    from sleep_tune.study.spec import Study, load_spec

    if not options.preset:
        raise UserError("--preset P: name a profile, such as --preset tiny, and a schedule beside it if you like")
    sets = [*options.set, *([f"resources.workers={options.workers}"] if options.workers is not None else [])]
    fields = dict(given_fields(Request(set=sets, data=options.data, evaluation_data=options.evaluation_data, budget=options.budget)))
    seed = fields.pop("seed", 0)
    return check(Study("run", "", load_spec({"base": options.preset, "set": fields, "seeds": [seed]})))


def check_out(out: str, resume: Path | None) -> Path:
    """Where the run is written. Raises UserError where it cannot be, or something is there that was not asked to go on."""
    from sleep_tune.files import writable_directory

    path = writable_directory(out, "--out")
    if resume is not None and resume.resolve() != path.resolve():
        raise UserError(f"--resume = {resume}: must be the directory of --out = {out}")
    if resume is not None and not resume.is_dir():
        raise UserError(f"--resume = {resume}: no such directory")
    found = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if found and "lock" not in found:
        raise UserError(f"--out = {out}: holds files of no run ({found[0]}): name another directory")
    return path


def check_same(out: Path, config: "Config") -> None:
    """Raises UserError that names the first difference if `out` holds a run of another config."""
    from sleep_tune.config import WEIGHT_GROUPS, load_config
    from sleep_tune.explain import flat
    from sleep_tune.presets import read_yaml

    written = out / "config.yaml"
    if not any(out.glob("checkpoint_*")) or not written.exists():
        return
    there, here = flat(load_config(read_yaml(written.read_text(), str(written)))), flat(config)
    for field in dict.fromkeys([*here, *there]):
        if field.split(".")[0] not in ("seed", "budget_words", *WEIGHT_GROUPS) or field == "data.source":
            continue  # the text itself is compared by its digest
        if here.get(field) != there.get(field):
            values = f"{field} = {here.get(field)} here, {there.get(field)} there"
            raise UserError(f"--out = {out}: holds another run: {values}; name another directory")


def check_match(config: "Config", corpus: "Prepared", out: Path) -> None:
    """Raises UserError where `config` is the control of a trial that has none."""
    from sleep_tune.data.token_store import open_store
    from sleep_tune.matching import read_match

    if config.epochs is not None and config.epochs.matched_to is not None:
        read_match(out.parent / config.epochs.matched_to, config, open_store(corpus.directory).samples)


def main(arguments: list[str] | None = None) -> int:
    """Train, score, write the model. Returns 0; 130 after Ctrl-C, with the state saved."""
    options = parse(arguments)
    study = one_trial(options)
    options.out = check_out(options.out, options.resume)
    from sleep_tune.disk import full_disk_named
    from sleep_tune.machine import machine
    from sleep_tune.study.live_scores import live_scores
    from sleep_tune.study.material import fits, prepared, settle_evaluation
    from sleep_tune.study.preflight import places, settle_precision

    places(study.first, None, machine())
    study, notes = settle_evaluation(study)
    study = settle_precision(study, machine())
    check_same(options.out, study.first)
    corpus = prepared(study, say=lambda line: print(line, flush=True))
    scored, warned = live_scores(study, corpus)
    for line in scored:
        print(f"scores at milestones: {line}", flush=True)
    for line in [*notes, *warned, *fits(study, corpus)]:
        print(f"note: {line}", flush=True)
    check_match(study.first, corpus, options.out)
    import torch

    from sleep_tune.training.parallel import WorkerLost
    from sleep_tune.workers import LocalWorkers

    torch.set_num_threads(study.first.resources.threads)
    with full_disk_named(options.out), LocalWorkers(study.first, corpus.directory) as others:
        try:
            return run(study, corpus, options, others.team)
        except WorkerLost as error:
            raise RunError(f"{options.out}: {others.why()}") from error


def run(study: "Study", corpus: object, options: argparse.Namespace, team: "Team | None" = None) -> int:
    """Train the one trial of `study` to its end, with progress in the terminal."""
    from rich.console import Console as Terminal

    from sleep_tune.evaluation.progress import bars
    from sleep_tune.scoring import score_texts
    from sleep_tune.study.labels import headline
    from sleep_tune.study.run_progress import RunProgress
    from sleep_tune.trial import Trial
    from sleep_tune.words import show_words

    config = study.first
    say = functools.partial(print, flush=True)
    trial = Trial(config, corpus, options.out, study.milestones(), say=say, team=team)  # type: ignore[arg-type]
    if options.resume is not None or trial.words_seen:
        at = f"from {show_words(trial.words_seen)} words" if trial.words_seen else "no finished checkpoint yet: starting at 0"
        print(f"resuming {options.out}: {at}", flush=True)
    print(f"{headline(config)}: {show_words(config.budget_words)} words seen, seed {config.seed}", flush=True)
    with interrupts() as interrupted:
        with RunProgress(config.budget_words, config.sleep is not None, trial.meters.brief) as progress:

            def on_step(record: "StepRecord") -> bool:
                progress.step(record)
                return bool(interrupted)

            while trial.next_milestone() is not None:
                if trial.advance(on_step, wait=False) is None:
                    return interrupted_at(trial.words_seen, options)

        try:
            with bars(Terminal(highlight=False)) as show:
                trial.finish(lambda task: until_interrupted(show(f"scoring {task}"), interrupted))
        except KeyboardInterrupt:
            return interrupted_at(trial.words_seen, options)
    print("final: " + ", ".join(score_texts(json.loads((options.out / "final.json").read_text())["rows"])))
    print(f"time: {trial.meters.summary()}")
    print(f"written: {options.out}/model, {options.out}/steps.jsonl, {options.out}/scores.jsonl, {options.out}/evaluation")
    if trial.state.diverged:
        raise RunError(
            f"{options.out}: diverged: the loss was not finite after {trial.words_seen:,} words (try a lower optimizer.learning_rate)"
        )
    return 0


def until_interrupted(progress: "Progress", interrupted: list[int]) -> "Progress":
    """`progress`, which ends in KeyboardInterrupt once something is noted in `interrupted`."""

    def tell(done: int, of: int) -> None:
        if interrupted:
            raise KeyboardInterrupt
        progress(done, of)

    return tell


def interrupted_at(words: int, options: argparse.Namespace) -> int:
    """Say how to go on; the exit code."""
    print(f"interrupted, saved at {words:,} words; go on with: {resume_line(options)}", flush=True)
    return 130


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM once: noted in the list, for the run to stop at the next step; twice: KeyboardInterrupt."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resume_line(options: argparse.Namespace) -> str:
    """The command that goes on with this run."""
    import shlex

    words = ["python", "-m", "sleep_tune.train"]
    for preset in options.preset:
        words += ["--preset", preset]
    for item in options.set:
        words += ["--set", item]
    for flag in ("data", "evaluation_data", "budget", "workers", "out"):
        if (value := getattr(options, flag)) is not None:
            words += [f"--{flag.replace('_', '-')}", str(value)]
    return shlex.join(words)


if __name__ == "__main__":
    run_main(main)
