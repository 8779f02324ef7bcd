"""The plan of a study as lines of text: what it will do, how long, how many words."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sleep_tune.config import Config, Directory, Embedded
from sleep_tune.fit import exposures
from sleep_tune.machine import Machine
from sleep_tune.study.calibration import read_speed, trial_memory
from sleep_tune.study.controls import planned_trials
from sleep_tune.study.estimate import Cost, Work, cost, memory_bytes, show_bytes, show_seconds
from sleep_tune.study.ledger import FILE, State, read_ledger
from sleep_tune.study.preflight import Ready
from sleep_tune.study.searches import Grid, OptunaSearch, RandomSearch
from sleep_tune.study.spec import Study
from sleep_tune.training.sizes import Memory
from sleep_tune.words import show_words

if TYPE_CHECKING:
    from sleep_tune.data.token_store import Prepared


NO_QUESTION = "(no comment on the file's first line)"
# Told by a line of its own, as the preflight decided it.
_SETTLED = ("evaluation.data", "evaluation.milestones.tasks", "evaluation.final.tasks", "training.precision")


def plan(ready: Ready, corpus: "Prepared | None", on: Machine, lines: Sequence[str], scored: Sequence[str] = ()) -> str:
    """The whole plan. `lines` are the warnings about the trials, `scored` says what they are scored on at milestones."""
    study = ready.study
    what, where = [*_question(study), *_search(study), *_done(ready)], [*_material(study, corpus), *_machine(ready, on, corpus)]
    rows = [*what, *_work(study, scored), *where]
    warned = [f"  warning      {line}" for line in (*ready.notes, *lines)]
    title = f"{study.name}: {study.about or NO_QUESTION}"
    return "\n".join([title, *(f"  {name:<12} {text}" for name, text in rows), *warned])


def _question(study: Study) -> Iterator[tuple[str, str]]:
    spec = study.spec
    yield "base", f"{spec.profile}, {spec.schedule}"
    for i, (field, dimension) in enumerate(spec.vary.items()):
        values = dimension.plain()
        yield "varies" if i == 0 else "", f"{field}: {', '.join(map(show, values)) if isinstance(values, list) else show(values)}"
    shown = {field: value for field, value in spec.set.items() if field not in _SETTLED}
    for i, (field, value) in enumerate(shown.items()):
        yield "fixed" if i == 0 else "", f"{field} = {show(value)}"


def _search(study: Study) -> Iterator[tuple[str, str]]:
    spec, seeds = study.spec, len(study.spec.seeds)
    kind = {Grid: "grid", RandomSearch: "random"}.get(type(spec.search), "")
    if isinstance(spec.search, OptunaSearch):
        kind = f"optuna, {spec.search.optuna.sampler}"
    points, names = study.points_planned, ", ".join(str(seed) for seed in spec.seeds)
    yield "search", f"{kind}: {_count(points, 'configuration')} x {_count(seeds, 'seed')} ({names}) = {_count(points * seeds, 'trial')}"
    if spec.beside:
        yield "always", f"{', '.join(spec.beside)}: {_count(len(study.always()), 'trial')}, in no rung, never stopped"
    if spec.matched:
        every = f" whose configuration completes on all seeds, about {estimated(study, None, 1).controls} expected"
        yield "matched", f"up to {_count(study.most_controls, 'control')}, one of each sleep{every if study.reduction else ''}"
    yield "objective", f"{study.metric}, {'lowest' if study.mode == 'min' else 'highest'} is best"
    if study.reduction is None:
        yield "scheduler", "none: every trial uses its whole budget"
    else:
        rungs = " and ".join(show_words(words) for words in study.rungs())
        yield "scheduler", f"asha: the best 1 in {study.reduction:g} go on at {rungs} words"


def _done(ready: Ready) -> Iterator[tuple[str, str]]:
    """How much of the study is behind it, where it was started before."""
    if not (ready.directory / FILE).exists():
        return
    view = read_ledger(ready.directory)
    states = Counter(record.state for record in view.trials.values())
    begun = states.pop(State.RUNNING, 0)
    ended = ", ".join(f"{count} {state}" for state, count in states.items())
    parts = [f"{states.total()} of {_count(planned_trials(ready.study, view), 'trial')}{f' ({ended})' if ended else ''}"]
    yield "done", "; ".join([*parts, f"{begun} begun"] if begun else parts)


def _work(study: Study, scored: Sequence[str]) -> Iterator[tuple[str, str]]:
    total = estimated(study, None, 1)
    words = f"{show_words(study.budget_words)} a trial, {show_words(total.most_words)} in {_count(total.trials, 'trial')}"
    yield "words", words + (f" at most, about {show_words(total.expected_words)} expected" if study.reduction is not None else "")
    milestones = study.milestones()
    yield "milestones", f"{len(milestones)}: {', '.join(show_words(words) for words in milestones[:3])} … {show_words(milestones[-1])}"
    evaluation = study.first.evaluation
    on_the_way, final = (["dev_loss", *part.tasks] for part in (evaluation.milestones, evaluation.final))
    whole = f" ({evaluation.final.set} sets)" if any(task not in ("dev_loss", "pairs") for task in final) else ""
    yield "scores", f"{', '.join(on_the_way)} at milestones; {', '.join(final)} at the end{whole} (rules {evaluation.rules})"
    yield from (("", line) for line in scored)
    if evaluation.data:
        yield "", f"evaluation data {evaluation.data}"


def _material(study: Study, corpus: "Prepared | None") -> Iterator[tuple[str, str]]:
    config = study.first
    data, model = config.data, config.model
    limit = f", its first {show_words(data.words)} words" if data.words is not None else ""
    yield "data", f"{_source(config)}{limit}; {data.rows} of {data.row_length} tokens, vocabulary {config.tokenizer.vocab_size}"
    if corpus is None:
        yield "corpus", "not prepared yet: coverage and exposures are told when it is"
    else:
        from sleep_tune.data.token_store import open_store

        samples = open_store(corpus.directory).samples
        often = f"{exposures(config, corpus.train_words):.3g} exposures of each word"
        yield "corpus", f"{show_words(corpus.train_words)} words, {samples:,} samples; {often}"
    batches = f"batches of {config.training.batch_rows}; {config.training.precision}"
    yield "model", f"{model.name}, {model.layers} layers of {model.width}, {config.objective}; {batches}"


def _machine(ready: Ready, on: Machine, corpus: "Prepared | None") -> Iterator[tuple[str, str]]:
    resources = ready.study.first.resources
    gpus = ", ".join(on.gpus) or "no GPU"
    yield "machine", f"{_count(on.cores, 'core')}, {show_bytes(on.memory_bytes)}, {gpus}"
    each = f"{resources.cpus:g} CPU" + (f", {resources.gpus:g} GPU" if resources.gpus else "")
    if ready.options.concurrent is None:
        yield "trials", f"{each} each, as many at a time as the cluster holds"
        yield "time", "uncalibrated (a cluster)"
        yield "memory", f"about {_each(trial_memory(ready.study, corpus))}"
    else:
        yield "trials", f"{each} each, {ready.options.concurrent} at a time"
        yield from _time(ready.study, ready.options.concurrent)
        yield from _memory(ready.study, ready.options.concurrent, on, corpus)
    yield "results", f"{ready.directory}"


def _time(study: Study, concurrent: int) -> Iterator[tuple[str, str]]:
    total = estimated(study, study.first, concurrent)
    if total.expected_s is None or total.most_s is None or total.trial_s is None:
        yield "time", "uncalibrated: no trial like these has run on this machine yet (--calibrate takes some seconds)"
        return
    most = f", at most {show_seconds(total.most_s)}" if study.reduction is not None else ""
    whole = " that runs to its end" if study.reduction is not None else ""
    yield "time", f"about {show_seconds(total.expected_s)}{most}; about {show_seconds(total.trial_s)} a trial{whole}"


def _memory(study: Study, concurrent: int, on: Machine, corpus: "Prepared | None") -> Iterator[tuple[str, str]]:
    each = trial_memory(study, corpus)
    total = memory_bytes(estimated(study, None, 1).trials, concurrent, each.host)
    tight = "; MORE THAN THIS MACHINE HAS: lower --concurrent" if total > on.memory_bytes else ""
    yield "memory", f"about {show_bytes(total)} at the peak; about {_each(each)}{tight}"


def _each(memory: Memory) -> str:
    return f"{show_bytes(memory.host)} a trial" + (f", {show_bytes(memory.gpu)} on its GPU" if memory.gpu else "")


def estimated(study: Study, config: Config | None, concurrent: int) -> Cost:
    """The study's cost; with a `config`, time and memory too, from what trials of its shape took here."""
    points, seeds = study.points_planned, len(study.spec.seeds)
    speed = read_speed(study) if config is not None else None
    work = Work(points, seeds, len(study.always()), study.budget_words, study.rungs(), study.reduction, study.spec.matched)
    return cost(work, concurrent, speed)


def _source(config: Config) -> str:
    source = config.data.source
    if isinstance(source, Embedded):
        return f"the embedded corpus of {show_words(source.embedded.words)} words"
    return f"directory {source.directory}" if isinstance(source, Directory) else f"hub {source.hub}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def show(value: Any) -> str:
    """A value on one line, as in a study file."""
    if isinstance(value, list):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
