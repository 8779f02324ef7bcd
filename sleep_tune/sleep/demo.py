"""What a sleep schedule does, shown on a corpus: `python -m sleep_tune.sleep.demo [--data DIR] [--preset strict_replay]`.

Prints the folds, samples with their losses in a short real run, the planned phases, and for every strategy the mean loss of what it
replays; draws the phases. Ends in exit 1 where strict does not pick higher losses than weighted, and weighted than random.
"""

import argparse
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sleep_tune.config import Config, Sleep
from sleep_tune.errors import OneLineParser, RunError, UserError, run_main
from sleep_tune.sleep.candidates import Candidates, candidate_ids, choose
from sleep_tune.sleep.picture import Planned, draw_schedule
from sleep_tune.sleep.schedule import CorpusSize, Folds, buffer_size, cut_folds, outlook, phases
from sleep_tune.streams import stream
from sleep_tune.words import show_words

if TYPE_CHECKING:
    from rich.console import Console as Terminal

    from sleep_tune.data.token_store import Prepared, TokenStore
    from sleep_tune.study.spec import Study

PROFILE, FEW_WORDS = "tiny", 200_000  # of --data under the tiny profile: a demonstration needs no more
LEAST_STEPS, MOST_STEPS, FLOPS = 10, 300, 5e11  # of the short run
DRAWS = 200  # of a buffer, for the mean over what a strategy draws
MOST_SHARE = 0.5  # of what was read, in these draws: who replays nearly all has hardly a choice
HEAD, TAIL = 12, 4  # phases shown of a long schedule


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line. Raises UserError."""
    parser = OneLineParser(prog="python -m sleep_tune.sleep.demo", allow_abbrev=False, description=__doc__)
    parser.add_argument("--data", metavar="DIR|hub:ID", help="text to show it on, in BabyLM's layout (default: the embedded corpus)")
    parser.add_argument(
        "--preset", action="append", default=[], metavar="P", help="a schedule, a profile, or one of each (see launch.py --list)"
    )
    parser.add_argument("--out", default="results/plots", metavar="DIR", help="where schedule.png is written (default: results/plots)")
    return parser.parse_args(arguments)


def asked_for(options: argparse.Namespace) -> "Study":
    """The command line as a study of one trial; the profile is tiny unless one is named. Raises UserError."""
    from sleep_tune.presets import combine, preset
    from sleep_tune.study.request import Request, given_fields
    from sleep_tune.study.rules import check
    from sleep_tune.study.spec import Study, load_spec

    profiles = [name for name in options.preset if preset(name)["kind"] == "profile"]
    fields = dict(given_fields(Request(data=options.data)))
    if options.data is not None and not profiles:
        fields["data.words"] = FEW_WORDS
    base = options.preset if profiles else [PROFILE, *options.preset]
    combine(base)  # says which two are of a kind
    study = check(Study("demo", "", load_spec({"base": base, "set": fields, "seeds": [0]})))
    if study.first.sleep is None:
        raise UserError(f"--preset {options.preset[-1]}: plain epochs have no sleep to show; name a schedule that sleeps")
    return study


def main(arguments: list[str] | None = None) -> int:
    """Print and draw. Returns 0. Raises RunError (exit 1) where the strategies do not order as they must."""
    from rich.console import Console as Terminal

    options = parse(arguments)
    study = asked_for(options)
    from sleep_tune.data.token_store import open_store
    from sleep_tune.files import writable_directory
    from sleep_tune.study.labels import describe
    from sleep_tune.study.material import corpus_size, fits, prepared

    out, config, terminal = writable_directory(options.out, "--out"), study.first, Terminal(highlight=False)
    corpus = prepared(study, say=lambda line: print(line, flush=True))
    notes = fits(study, corpus)
    store, size, sleep = open_store(corpus.directory), corpus_size(corpus), config.sleep
    assert sleep is not None
    title = f"{describe(config.model_dump(mode='json'))}: {show_words(config.budget_words)} words seen"
    terminal.print(title, style="bold")
    for line in notes:
        terminal.print(f"note: {line}", style="dim")
    show_folds(cut_folds(store.samples, sleep, store.domain_N, config.seed), store, terminal)
    planned = Planned.of(list(phases(sleep, size, config.training.batch_rows, config.budget_words)), sleep, size)
    show_phases(planned, config, size, terminal)
    candidates, cycle = short_run(config, store, terminal)
    show_samples(candidates, cycle, store, corpus, sleep, terminal)
    means = show_strategies(candidates, cycle, store, sleep, terminal)
    draw(planned, title, out / "schedule.png", terminal)
    require_order(means)
    return 0


def show_folds(folds: Folds, store: "TokenStore", terminal: "Terminal") -> None:
    """Sizes of the folds, equal neighbours told together."""
    sizes = [int(folds.of(cycle).size) for cycle in range(folds.count)]
    words = [int(store.words_N[folds.of(cycle)].sum()) for cycle in range(folds.count)]
    told, first = [], 1
    for size, group in groupby(sizes):
        last = first + len(list(group)) - 1
        told.append(f"fold {first}: {size:,}" if first == last else f"folds {first} to {last}: {size:,} each")
        first = last + 1
    terminal.print(f"\n[bold]Folds[/bold] of {store.samples:,} samples, {store.words:,} words: {'; '.join(told)}")
    terminal.print(f"({min(words):,} to {max(words):,} words a fold; every sample is in one)", style="dim")


def show_phases(planned: Planned, config: Config, size: CorpusSize, terminal: "Terminal") -> None:
    """The schedule as a table: a row a phase, the middle of a long one left out."""
    table = _table("Phases", "cycle", "", "rows", "words", "words seen", "candidates", "buffer", "times each")
    count = len(planned.phases)
    hidden = range(HEAD, count - TAIL) if count > HEAD + TAIL + 1 else range(0)
    for place, phase in enumerate(planned.phases):
        if place in hidden:
            if place == HEAD:
                table.add_row("…")
            continue
        cells = [str(phase.cycle + 1), phase.kind, f"{phase.rows:,.0f}", f"{phase.words:,.0f}", f"{planned.end_P[place]:,.0f}"]
        if phase.kind == "sleep":
            cells += [f"{planned.candidates_P[place]:,}", f"{planned.buffer_P[place]:,}", f"{planned.replays_P[place]:.1f}"]
        table.add_row(*cells, style="yellow" if phase.kind == "wake" else "blue")
    terminal.print(table)
    assert config.sleep is not None
    told = outlook(config.sleep, size, config.training.batch_rows, config.budget_words)
    sleeps = f"{told.sleeps} sleep{'s' * (told.sleeps != 1)}"
    line = f"{told.coverage:.0%} of the samples are read awake; {sleeps}, {told.asleep_per_awake:.2g} words asleep to one awake"
    terminal.print(line, style="dim")


def short_run(config: Config, store: "TokenStore", terminal: "Terminal") -> tuple[Candidates, int]:
    """Train as the schedule says, losses as scores, until a wake ends after a few hundred steps: what was read, and the cycle."""
    import torch

    from sleep_tune.training.loop import Run, advance

    assert config.sleep is not None
    steps = affordable_steps(config, store)
    plain: dict[str, Any] = {"criterion": Sleep().criterion, "homeostasis": None, "freezing": None, "rescore": "none"}
    plain["max_wake_steps"] = min(steps, config.sleep.max_wake_steps or steps)
    torch.set_num_threads(max(1, int(config.resources.cpus)))
    run = Run(config.model_copy(update={"sleep": config.sleep.model_copy(update=plain)}), store, torch.device("cpu"))
    state = run.new_state()
    for record in advance(run, state, config.budget_words):
        if record.phase == "sleep" and record.step >= steps:
            break
    read = candidate_ids(state.candidates, state.cycle, Sleep()).size
    wakes = "one wake" if state.cycle == 0 else f"{state.cycle + 1} wakes"
    terminal.print(f"\nTrained for {state.step} steps: {read:,} samples read in {wakes}, each with its loss.", style="dim")
    return state.candidates, state.cycle


def affordable_steps(config: Config, store: "TokenStore") -> int:
    """Steps of the short run: seconds on one core for a small model, a minute for a large one."""
    model = config.model
    weights = model.layers * (4 * model.width**2 + 2 * model.width * model.ffn) + 2 * store.vocab_size * model.width
    step_flops = 6 * weights * config.training.batch_rows * len(store.tokens) / store.samples
    return int(min(MOST_STEPS, max(LEAST_STEPS, FLOPS / step_flops)))


def show_samples(candidates: Candidates, cycle: int, store: "TokenStore", corpus: "Prepared", sleep: Sleep, terminal: "Terminal") -> None:
    """Samples of the last wake, from the highest loss to the lowest, as text."""
    from sleep_tune.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(corpus.tokenizer_file)
    ids_n = np.flatnonzero(candidates.last_wake_N == candidates.last_wake_N.max())
    ids_n = ids_n[np.argsort(-candidates.score_N[ids_n], kind="stable")]
    table = _table("Samples of the last wake", "sample", "loss", "domain")
    table.add_column("text", overflow="ellipsis", no_wrap=True)
    for place in np.linspace(0, ids_n.size - 1, min(7, ids_n.size)).round().astype(int):
        i = int(ids_n[place])
        text = tokenizer.decode(store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist(), skip_special_tokens=True)
        table.add_row(str(i), f"{candidates.score_N[i]:.2f}", store.domains[store.domain_N[i]], " ".join(text.split()))
    terminal.print(table)


def show_strategies(candidates: Candidates, cycle: int, store: "TokenStore", sleep: Sleep, terminal: "Terminal") -> dict[str, float]:
    """What each strategy replays, of all that was read and with no decay: strategy -> mean loss over many draws of its buffer."""
    from sleep_tune.sleep.strategies import STRATEGIES

    known = candidate_ids(candidates, cycle, Sleep())
    share = min(sleep.replay_ratio, MOST_SHARE)
    k = buffer_size(share, known.size)
    loss, means = float(candidates.score_N[known].mean(dtype=np.float64)), {}
    table = _table(f"Strategies: a buffer of {k:,} of {known.size:,} samples", "strategy", "mean loss", "against all", "mean age")
    for name in STRATEGIES:
        rule = Sleep(replay_ratio=share, strategy=name, decay=0.0)  # type: ignore[arg-type]  # read by its validator
        buffers = [choose(candidates, store.domain_N, cycle, rule, stream(draw, "buffer", cycle)) for draw in range(DRAWS)]
        means[name] = float(np.mean([candidates.score_N[buffer_k].mean(dtype=np.float64) for buffer_k in buffers]))
        age = float(np.mean([cycle + 1 - candidates.last_wake_N[buffer_k].mean() for buffer_k in buffers]))
        table.add_row(name, f"{means[name]:.3f}", f"{means[name] - loss:+.3f}", f"{age:.2f}")
    terminal.print(table)
    less = f" and at {share:.0%}: a buffer of {sleep.replay_ratio:.0%} leaves hardly a choice" if share < sleep.replay_ratio else ""
    terminal.print(f"Means over {DRAWS} draws, without decay{less}; age in cycles since a sample was read.", style="dim")
    return means


def require_order(means: dict[str, float]) -> None:
    """Raises RunError unless strict > weighted > random > easy."""
    order = ("strict", "weighted", "random", "easy")
    told = " > ".join(f"{name} {means[name]:.3f}" for name in order)
    if not all(means[high] > means[low] for high, low in pairwise(order)):
        raise RunError(f"the mean losses of what is replayed must fall: {told} does not hold")
    print(f"{told}: holds")


def draw(planned: Planned, title: str, path: Path, terminal: "Terminal") -> None:
    """The picture of the phases, where matplotlib is installed."""
    try:
        draw_schedule(planned, title, path)
    except ModuleNotFoundError as error:
        terminal.print(f"No picture: {error.name} is not installed (pip install 'sleep-tune\\[analysis]').")
    else:
        terminal.print(f"written: {path}", soft_wrap=True)


def _table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in ("", "strategy", "domain") else "right")
    return table


if __name__ == "__main__":
    run_main(main)
