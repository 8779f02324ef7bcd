#!/usr/bin/env python3
"""Run, resume or look at a study: parses the command line and calls. `python launch.py --space grid`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sleep_tune.errors import OneLineParser, UserError, run_main

if TYPE_CHECKING:
    from sleep_tune.study.request import Request


def parser() -> OneLineParser:
    """All options. Values stay text: they are judged where they are used, in one form."""
    about = "Search wake/sleep schedules of small language models. Run the same command again to resume."
    options = OneLineParser(prog="launch.py", allow_abbrev=False, description=about)
    add = options.add_argument
    add("--space", metavar="NAME_OR_FILE", help="the study: a name from --list, or a YAML file")
    add("--resume", metavar="DIR", help="go on with the study in runs/STUDY as it is")
    add("--list", action="store_true", help="show spaces, presets, strategies, models and tasks")
    add("--dry-run", action="store_true", help="show the plan and its cost, start nothing")
    add("--calibrate", action="store_true", help="try the trials for some seconds first, so that the plan can tell the time")
    add("--profile", metavar="P", help="another profile than the space's: tiny, pilot, strict-small, strict")
    add("--data", metavar="DIR|hub:ID", help="text to train on, in BabyLM's layout")
    add("--evaluation-data", metavar="DIR|ZIP", help="BabyLM's evaluation_data (default: beside the data directory)")
    add("--set", metavar="FIELD=VALUE", action="append", default=[], help="a field of every trial, such as sleep.folds=10; may be repeated")
    add("--seeds", metavar="1,2,3", help="the seeds of every configuration")
    add("--budget", metavar="WORDS", help="words each trial sees: 200000, 200k, 5M")
    add("--name", metavar="STUDY", help="the study's folder (default: SPACE[-PROFILE][-DATA])")
    add("--storage", metavar="DIR", help="where studies are kept (default: runs)")
    add("--cpus-per-trial", metavar="N", help="cores of a trial (default 1)")
    add("--gpus-per-trial", metavar="X", help="GPUs of a trial, or a share of one (default 0)")
    add("--concurrent", metavar="N", help="trials at a time (default: as many as fit)")
    add("--address", metavar="ADDR", help="a running Ray cluster, such as auto")
    add("--no-dashboard", action="store_true", help="without Ray's dashboard")
    return options


def run(arguments: Sequence[str] | None = None) -> int:
    """The command line (`sys.argv` unless given); returns the exit code."""
    options = vars(parser().parse_args(arguments))
    if options.pop("list"):
        given = [name for name, value in options.items() if value not in (None, False, [])]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')}: not with --list, which stands alone")
        from sleep_tune.study.catalogue import catalogue

        print(catalogue())
        return 0
    from sleep_tune.study.request import Request

    return study(Request(**options))


def study(request: "Request") -> int:
    """Check everything, show the plan, and run it unless only the plan was asked for. Returns the exit code."""
    from sleep_tune.machine import machine
    from sleep_tune.study.calibration import calibrate
    from sleep_tune.study.live_scores import live_scores
    from sleep_tune.study.material import fits, found, prepared, read_items
    from sleep_tune.study.plan import plan
    from sleep_tune.study.preflight import settle
    from sleep_tune.study.request import ask, run_options

    options = run_options(request)
    if request.calibrate and options.address is not None:
        raise UserError(f"--calibrate: not with --address = {request.address}: it tries this machine")
    ready = settle(*ask(request), options, machine())
    if request.calibrate:
        corpus = prepared(ready.study, say=lambda line: print(line, flush=True))
        for line in calibrate(ready.study, corpus, ready.options.concurrent or 1):
            print(line, flush=True)
    if request.dry_run:
        corpus = found(ready.study)
        scored, warned = live_scores(ready.study, corpus) if corpus else ([], [])
        print(plan(ready, corpus, machine(), [*warned, *(fits(ready.study, corpus) if corpus else [])], scored))
        return 0
    for line in read_items(ready.study):
        print(line, flush=True)
    corpus = prepared(ready.study, say=lambda line: print(line, flush=True))
    scored, warned = live_scores(ready.study, corpus)
    print(plan(ready, corpus, machine(), [*warned, *fits(ready.study, corpus)], scored), flush=True)
    from trainables.tuner import run_study

    return int(run_study(ready.study, corpus, ready.directory, ready.options))


def main() -> None:
    """What `python launch.py` and the console script `sleep-tune` call."""
    run_main(run)


if __name__ == "__main__":
    main()
