"""What the terminal shows of a study and of a run: whole pictures at 80 and 120 columns, plain lines elsewhere."""

import dataclasses
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from sleep_tune.config import load_config
from sleep_tune.presets import combine, preset
from sleep_tune.study.console import Console
from sleep_tune.study.labels import describe, duration, readable, told_apart
from sleep_tune.study.outcome import StudyOutcome, read_outcome, stopped_line, unequal_line, verdict
from sleep_tune.study.outcome_view import print_outcome
from sleep_tune.study.run_progress import RunProgress
from sleep_tune.study.statistics import estimate
from sleep_tune.study.tables import write_tables


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def screen(width: int, is_terminal: bool = False) -> Terminal:
    return Terminal(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None, highlight=False, legacy_windows=False)


def shown(terminal: Terminal) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def say(directory: Path, trial: str, **progress: object) -> None:
    path = directory / "trials" / trial / "progress.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"phase": "wake", "cycle": 0, "words_seen": 0, "loss": 4.0, "words_per_s": 20_000.0, **progress}))


@pytest.mark.parametrize(
    ("values", "label"),
    [
        (("strict", 20, {"ratio": 3.0}, 0.1), "strict, 20 folds, ratio 3, replay 10 %"),
        (({"weighted": {"power": 2}}, 1, {"fill": {}}, 1.0), "weighted: power: 2, 1 fold, fill, replay 100 %"),
        (("random", 5, {"repeats": 1.5}, 0.025), "random, 5 folds, repeats 1.5, replay 2.5 %"),
    ],
)
def test_schedules_in_words(values: tuple, label: str) -> None:
    assert describe({"sleep": dict(zip(("strategy", "folds", "length", "replay_ratio"), values, strict=True))}) == label


def test_a_run_without_sleep_is_plain_epochs() -> None:
    assert describe({"sleep": None, "epochs": {}}) == "plain epochs"


def test_other_varied_fields_are_named_too() -> None:
    config = {
        "sleep": {"strategy": "strict", "folds": 5, "length": {"ratio": 1}, "replay_ratio": 0.1, "decay": 0.2},
        "model": {"width": 64},
    }
    assert describe(config, ["sleep.folds", "sleep.decay", "model.width"]) == "strict, 5 folds, ratio 1, replay 10 %, decay 0.2, width 64"


def test_configurations_that_differ_are_called_differently() -> None:
    epochs, longer = (load_config(combine(["tiny", name])).model_dump(mode="json") for name in ("epochs", "baseline"))
    labels = told_apart({"one": epochs, "other": longer})
    assert labels == {"one": "plain epochs, warmup 0.1", "other": "plain epochs, warmup 0.187"}
    assert told_apart({"one": epochs}) == {"one": "plain epochs"}


@pytest.mark.parametrize("name", ["epochs", "default", "baseline_like", "strict_replay"])
def test_every_schedule_preset_has_a_short_label(name: str) -> None:
    assert preset(name)["kind"] == "schedule"
    assert 5 < len(describe(load_config(combine(["tiny", name])).model_dump(mode="json"))) < 50


def test_values_and_times_as_people_write_them() -> None:
    assert [readable(value) for value in ({"ratio": 3.0}, {"fill": {}}, 0.1, True, None, [1, 2.5])] == [
        "ratio: 3", "fill", "0.1", "true", "null", "[1, 2.5]",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (3.4, 59.7, 200, 7500, float("nan"))] == ["3 s", "1:00", "3:20", "2:05:00", "-"]


LABEL = "weighted, 20 folds, ratio 3, replay 40 %"


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_picture_fits_and_shows_phases(tmp_path: Path, width: int) -> None:
    terminal, clock = screen(width, is_terminal=True), Clock()
    with Console("grid", 52, 200_000, tmp_path, terminal=terminal, clock=clock) as console:
        console.trial_started("a1b2c3d4e5f6", LABEL, 1)
        console.trial_started("0f9e8d7c6b5a", "plain epochs", 1)
        for words, phase in ((50_000, "wake"), (100_000, "sleep")):
            clock.now += 2
            say(tmp_path, "a1b2c3d4e5f6", words_seen=words, phase=phase, cycle=1, loss=3.25)
            console.tick()
        picture = screen(width)
        picture.print(console.view())
    lines = shown(picture).splitlines()
    assert max(len(line) for line in lines) <= width
    assert LABEL in lines[2]
    assert "☾ sleep" in lines[2]
    assert "100k" in lines[2]
    assert "3.25" in lines[2]
    assert "5 s" in lines[2]  # 100k words at 20k words a second
    assert ("████" in lines[2]) == (width == 120)
    assert "2 running" in " ".join(lines)
    assert "50 pending" in " ".join(lines)


def test_where_there_is_no_terminal_a_trial_is_one_line_and_progress_is_rare(tmp_path: Path) -> None:
    terminal, clock = screen(80), Clock()
    with Console("grid", 3, 200_000, tmp_path, terminal=terminal, clock=clock) as console:
        console.trial_started("a1b2c3d4e5f6", LABEL, 1)
        say(tmp_path, "a1b2c3d4e5f6", words_seen=60_000, phase="sleep", cycle=2)
        for _ in range(25):
            clock.now += 1
            console.tick()
        console.reported("a1b2c3d4e5f6", 66_666, 66_700, {"dev_loss": 3.2}, "STOP")
        console.ended("a1b2c3d4e5f6", "stopped", None)
        console.trial_started("0f9e8d7c6b5a", "plain epochs", 1)
        console.ended("0f9e8d7c6b5a", "failed", "disk full")
    lines = shown(terminal).splitlines()
    progress = [line for line in lines if "sleep (cycle 2), 60k of 200k words" in line]
    assert len(progress) == 2  # one per ten seconds
    assert f"a1b2c3  {LABEL}, seed 1: dev_loss 3.200 at 66.7k words: stop" in lines
    assert f"[1/3] stopped   {LABEL}, seed 1  66.7k words, 25 s" in lines
    assert lines[-1].startswith("[2/3] failed    plain epochs, seed 1")
    assert lines[-1].endswith("disk full")


def test_a_long_log_grows_ever_more_slowly(tmp_path: Path) -> None:
    terminal, clock = screen(80), Clock()
    counts = []
    with Console("grid", 3, 200_000, tmp_path, terminal=terminal, clock=clock) as console:
        for _ in range(3):
            for _ in range(3600):
                clock.now += 1
                console.tick()
            counts.append(shown(terminal).count("0/3 trials"))
    assert 20 < counts[0] < 60
    assert counts[2] - counts[1] < counts[1] - counts[0] < 10


def test_a_trial_that_goes_on_counts_from_where_it_was(tmp_path: Path) -> None:
    terminal, clock = screen(80), Clock()
    (tmp_path / "trials" / "a").mkdir(parents=True)
    (tmp_path / "trials" / "a" / "steps.jsonl").write_text('{"step": 1, "words_seen": 88}\n{"step": 51, "words_seen": 4499}\n{"step": 5')
    with Console("grid", 3, 200_000, tmp_path, ended={"complete": 1}, terminal=terminal, clock=clock) as console:
        console.trial_started("a", LABEL, 1)
        clock.now += 9
        console.ended("a", "stopped")  # it had been stopped before: only its scores were missing
        assert console.seconds_left() != console.seconds_left()  # NaN: nothing was trained yet
    assert f"[2/3] stopped   {LABEL}, seed 1  4.5k words, 9 s" in shown(terminal).splitlines()


def test_until_the_first_trial_starts_the_terminal_says_what_is_waited_for(tmp_path: Path) -> None:
    plain, live = screen(80), screen(80, is_terminal=True)
    with Console("grid", 3, 200_000, tmp_path, terminal=plain, clock=Clock()):
        assert shown(plain) == "starting Ray's workers\n"
    with Console("grid", 3, 200_000, tmp_path, terminal=live, clock=Clock()) as console:
        assert "starting Ray's workers" in shown(live)
        console.trial_started("a", LABEL, 1)
        picture = screen(80)
        picture.print(console.view())
    assert "starting" not in shown(picture).replace("start ", "")
    assert LABEL in shown(picture)


def test_the_time_left_follows_from_what_trials_took(tmp_path: Path) -> None:
    clock = Clock()
    console = Console("grid", 12, 200_000, tmp_path, ended={"complete": 2}, terminal=screen(80), clock=clock)
    assert console.seconds_left() != console.seconds_left()  # NaN: nothing is known yet
    for trial in ("a", "b"):  # 100k words each, 20 s together: 10 s a trial, 8 to come
        console.trial_started(trial, LABEL, 1)
        clock.now += 10
        console.reported(trial, 100_000, 100_000, {}, "CONTINUE")
        console.ended(trial, "complete")
    assert console.seconds_left() == pytest.approx(80)


def test_no_time_left_is_told_before_there_is_a_ground_for_it(tmp_path: Path) -> None:
    terminal, clock = screen(120), Clock()
    with Console("grid", 52, 200_000, tmp_path, terminal=terminal, clock=clock) as console:
        console.trial_started("a", LABEL, 1)
        for words in (16_000, 120_000, 208_000):  # of 10.4M; the workers took most of the first ten seconds to start
            clock.now += 10
            console.reported("a", words, words, {}, "CONTINUE")
            console.tick()
    told = [line.partition(" pending")[2] for line in shown(terminal).splitlines() if "52 trials" in line]
    assert told == [" · 10 s", " · 20 s", " · 30 s, about 24:30 left"]


def test_seeds_of_a_schedule_are_told_apart_in_the_live_picture(tmp_path: Path) -> None:
    console = Console("grid", 52, 200_000, tmp_path, terminal=screen(80), clock=Clock())
    for seed in (1, 12):
        console.trial_started(f"trial{seed}", LABEL, seed)
    picture = screen(80)
    picture.print(console.view())
    assert [re.findall(rf"{LABEL} +(\d+) ", line) for line in shown(picture).splitlines()[2:4]] == [["1"], ["12"]]


def test_a_half_written_progress_file_is_passed_over(tmp_path: Path) -> None:
    clock, terminal = Clock(), screen(120, is_terminal=True)
    with Console("grid", 1, 200_000, tmp_path, terminal=terminal, clock=clock) as console:
        console.trial_started("a", LABEL, 1)
        say(tmp_path, "a", words_seen=50_000)
        clock.now += 1
        console.tick()
        (tmp_path / "trials" / "a" / "progress.json").write_text('{"phase": "sl')
        clock.now += 1
        console.tick()
        assert console.running["a"].words_seen == 50_000


@dataclass
class Step:
    cycle: int
    phase: str
    words_seen: int
    loss: float


def test_a_run_without_a_terminal_is_a_line_every_few_seconds() -> None:
    terminal, clock = screen(80), Clock()
    with RunProgress(100_000, terminal=terminal, clock=clock) as progress:
        for step in range(1, 201):
            clock.now += 0.125
            progress.step(Step(step // 100, "sleep" if step % 100 >= 50 else "wake", step * 500, 3.0))
    lines = shown(terminal).splitlines()
    assert len(lines) == 6  # at 5, 10, 15, 20, 25 s and at the end
    assert lines[1] == "☾ sleep cycle 0 · 40k of 100k words · loss 3.000 · 4,000 words/s · 15 s left"


def test_plain_epochs_show_no_phase() -> None:
    terminal = screen(80)
    with RunProgress(100_000, sleeps=False, terminal=terminal, clock=Clock()) as progress:
        progress.step(Step(0, "wake", 500, 3.0))
    assert shown(terminal) == "500 of 100k words · loss 3.000\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_outcome_fits_and_says_what_was_found(small_study: Path, width: int) -> None:
    paths = write_tables(small_study)
    outcome, terminal = read_outcome(small_study), screen(width)
    print_outcome(outcome, paths.values(), terminal)
    text = shown(terminal)
    table = text.split("dev_loss: mean")[0]
    assert max(len(line) for line in table.splitlines()) <= width
    assert table.count("(baseline)") == 2
    assert "The nearest, weighted, 50 folds, ratio 1, replay 30 %, is" in " ".join(text.split())
    assert str(paths["trials"]) in text
    assert outcome.states == {"complete": 10, "stopped": 2}


def test_every_baseline_is_shown_however_short_the_table(small_study: Path) -> None:
    write_tables(small_study)
    outcome, terminal = read_outcome(small_study), screen(120)
    print_outcome(outcome, (), terminal, rows=1)
    assert "plain epochs (baseline)" in shown(terminal)
    assert "more are ranked" in shown(terminal)


def test_the_verdict_says_when_seeds_cannot_tell(study_maker: Callable[..., Path], tmp_path: Path) -> None:
    one_seed = study_maker(tmp_path / "one", {"sleep.folds": [5, 20]}, seeds=(1,))
    write_tables(one_seed)
    assert "With one seed each, no spread is known" in verdict(read_outcome(one_seed))


def test_a_study_without_a_complete_schedule_ranks_nothing(study_maker: Callable[..., Path], tmp_path: Path) -> None:
    study = study_maker(tmp_path / "early", {"sleep.folds": [5, 20]}, running=4)
    write_tables(study)
    outcome = read_outcome(study)
    assert verdict(outcome) == "No searched schedule completed on all its seeds: nothing is ranked."
    labels = [f"weighted, {folds} folds, ratio 5, replay 30 %" for folds in (5, 20)]
    assert all(f"{label} (running at about 50.1k words)" in stopped_line(outcome) for label in labels)


def better_by(outcome: StudyOutcome, nats: float, of: Callable[[str], bool]) -> StudyOutcome:
    """The outcome with the values of some ranked configurations lowered."""
    values = {name: value_S - nats * of(name) for name, value_S in outcome.values.items()}
    rows = [dataclasses.replace(row, objective=estimate(values[row.configuration])) for row in outcome.ranking.ranked]
    ranked = tuple(sorted(rows, key=lambda row: row.objective.mean))
    return dataclasses.replace(outcome, values=values, ranking=dataclasses.replace(outcome.ranking, ranked=ranked))


@pytest.fixture
def outcome(small_study: Path) -> StudyOutcome:
    write_tables(small_study)
    return read_outcome(small_study)


@pytest.mark.parametrize(("width", "left_out"), [(80, 5), (200, 0)])
def test_of_many_tasks_the_ranking_shows_those_it_has_room_for_and_names_the_rest(outcome: StudyOutcome, width: int, left_out: int) -> None:
    tasks = ("blimp", "supplement", "entity_tracking", "wug_adj", "wug_past", "reading")
    [own] = outcome.tasks
    units = dict.fromkeys(tasks, outcome.units[own])
    entries = {
        name: dataclasses.replace(entry, scores=dict.fromkeys(tasks, entry.scores[own]) if own in entry.scores else {})
        for name, entry in outcome.entries.items()
    }
    terminal = screen(width)
    print_outcome(dataclasses.replace(outcome, tasks=tasks, units=units, entries=entries), (), terminal)
    text = shown(terminal)
    table = text.split("dev_loss: mean")[0]
    assert "…" not in table
    assert "weighted, 50" in table
    assert table.split().count("baseline") >= 1
    named = [task for task in tasks if task in table.split()]
    assert len(named) == len(tasks) - left_out
    rest = ", ".join(tasks[len(named) :])
    assert (f"Scored too, for a wider terminal: {rest} (tables/scores.parquet)." in " ".join(text.split())) == bool(left_out)


def test_where_the_baseline_leads_the_verdict_says_so(outcome: StudyOutcome) -> None:
    led = better_by(outcome, 0.9, outcome.is_baseline)
    assert re.fullmatch(
        r"No schedule beat plain epochs\. The nearest, weighted, 50 folds, ratio 1, replay 30 %, is 0\.\d{3} nats worse, "
        r"95 % interval \[\+0\.\d{3}, \+\d\.\d{3}\] \(best of 4, 2 seeds, Dunnett\)\.",
        verdict(led),
    )
    hardly = better_by(outcome, 0.02, lambda name: not outcome.is_baseline(name))
    assert verdict(hardly).endswith(": not distinguishable from the baseline with these seeds.")
    assert verdict(better_by(outcome, 0.9, lambda name: not outcome.is_baseline(name))).startswith("Best schedule: weighted, 50 folds")


def test_what_a_higher_score_lacks_is_told_as_worse(outcome: StudyOutcome) -> None:
    scores = {name: 100 - value_S for name, value_S in better_by(outcome, 0.9, outcome.is_baseline).values.items()}
    rows = [dataclasses.replace(row, objective=estimate(scores[row.configuration])) for row in outcome.ranking.ranked]
    ranking = dataclasses.replace(outcome.ranking, ranked=tuple(sorted(rows, key=lambda row: -row.objective.mean)))
    told = verdict(dataclasses.replace(outcome, metric="pairs", mode="max", values=scores, ranking=ranking))
    assert re.match(r"No schedule beat plain epochs\..* is 0\.\d{3} worse, 95 % interval \[\+0\.", told)


def test_a_schedule_beside_the_search_that_leads_is_named(outcome: StudyOutcome) -> None:
    beside = next(name for name in outcome.values if outcome.is_baseline(name) and name != outcome.ranking.baseline)
    told = verdict(better_by(better_by(outcome, 0.9, beside.__eq__), 0.3, lambda name: not outcome.is_baseline(name)))
    assert told.startswith("Best searched schedule: ")
    assert re.search(rf" {outcome.entries[beside].schedule}, which ran beside the search, is \d\.\d{{3}} nats better still\.$", told)


def test_with_one_seed_a_leading_baseline_has_no_interval(study_maker: Callable[..., Path], tmp_path: Path) -> None:
    one_seed = study_maker(tmp_path / "one", {"sleep.folds": [5, 20]}, seeds=(1,))
    write_tables(one_seed)
    outcome = read_outcome(one_seed)
    told = verdict(better_by(outcome, 0.9, outcome.is_baseline))
    assert re.search(r"is \d\.\d{3} nats worse\. With one seed each, no spread is known: this may be chance\.$", told)


def test_what_is_not_ranked_is_named_where_it_is_few_and_counted_where_it_is_many(
    outcome: StudyOutcome, study_maker: Callable[..., Path], tmp_path: Path
) -> None:
    assert stopped_line(outcome) == "Not ranked: random, 50 folds, ratio 3, replay 30 % (stopped at about 66.7k words)."
    many = study_maker(tmp_path / "many", {"sleep.folds": [1, 2, 5, 10, 20, 50, 100, 200, 300, 400]})
    write_tables(many)
    assert re.fullmatch(r"4 configurations are not ranked \(stopped at 22\.3k to 66\.7k words\)\.", stopped_line(read_outcome(many)))


def test_a_ranking_that_is_not_at_equal_words_says_so(small_study: Path) -> None:
    write_tables(small_study)
    outcome = read_outcome(small_study)
    assert unequal_line(outcome) == ""
    last = outcome.ranking.ranked[-1].configuration
    short = dataclasses.replace(outcome.entries[last], words_seen=120_000)
    ended_early = dataclasses.replace(outcome, entries={**outcome.entries, last: short})
    assert unequal_line(ended_early) == "Not at equal words: what is ranked saw 120k to 200k words."
