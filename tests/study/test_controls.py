"""Matched controls in a study: which trials are due one, how many there will be, and what the outcome says of them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as Terminal

from sleep_tune.config import configuration_id, load_config, trial_id
from sleep_tune.errors import RunError, UserError
from sleep_tune.presets import combine, set_field
from sleep_tune.study.controls import control_config, control_configuration, controlled, due, may_come, planned_trials
from sleep_tune.study.estimate import Work, cost, expected_words, passing
from sleep_tune.study.extension import continued
from sleep_tune.study.labels import describe, told_apart
from sleep_tune.study.ledger import CONTINUE, STOP, Ledger, read_ledger
from sleep_tune.study.outcome import StudyOutcome, read_outcome, verdict
from sleep_tune.study.outcome_view import print_outcome
from sleep_tune.study.plan import estimated
from sleep_tune.study.rules import check
from sleep_tune.study.spaces import read_space
from sleep_tune.study.spec import Study, load_spec
from sleep_tune.study.tables import write_tables

OPENED: dict[str, Any] = {"spec": {}, "versions": {}, "precision": "fp32", "corpus_digest": "c", "tokenizer_digest": "t"}
BASE: dict[str, Any] = {"base": ["tiny", "weighted_replay"], "seeds": [1, 2], "vary": {"sleep.strategy": ["random", "strict"]}}
ASHA = {"asha": {"rungs": ["1/9", "1/3"], "reduction": 3}}
BUDGET = 200_000


def study(**fields: Any) -> Study:
    return check(Study("study", "", load_spec({**BASE, "always": ["epochs", "matched"], **fields})))


def open_ledger(directory: Path, **spec: Any) -> Ledger:
    ledger = Ledger(directory)
    ledger.append("opened", **{**OPENED, "spec": spec})
    return ledger


def propose(ledger: Ledger, schedule: str, seed: int, origin: str = "grid", **fields: Any) -> str:
    """A trial of `schedule` with further fields of it, proposed."""
    raw = combine(["tiny", schedule])
    for name, value in fields.items():
        raw = set_field(raw, f"sleep.{name}", value)
    config = load_config({**raw, "seed": seed})
    fields = {"trial": trial_id(config, "c"), "configuration": configuration_id(config, "c"), "seed": seed, "origin": origin}
    ledger.append("proposed", config=config.model_dump(mode="json"), **fields)
    return str(fields["trial"])


def propose_control(ledger: Ledger, trial: str) -> str:
    pair = ledger.view.trials[trial]
    config = control_config(load_config(pair.config), trial)
    fields = {"trial": trial_id(config, "c"), "configuration": control_configuration(pair.configuration), "seed": pair.seed}
    ledger.append("proposed", config=config.model_dump(mode="json"), origin="matched", **fields)
    return str(fields["trial"])


def end(ledger: Ledger, trial: str, state: str = "complete", value: float = 2.0) -> None:
    if state in ("complete", "stopped"):
        milestone, decision = (BUDGET, CONTINUE) if state == "complete" else (BUDGET // 9, STOP)
        ledger.append(
            "reported", trial=trial, milestone=milestone, words_seen=milestone, metrics={"dev_loss": value}, value=value, decision=decision
        )
    ledger.append("ended", trial=trial, state=state, message=None)


# Which trials.


def test_a_configuration_gets_its_controls_once_it_is_complete_on_every_seed(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        end(ledger, propose(ledger, "epochs", 1, "always"))
        end(ledger, propose(ledger, "baseline_like", 1, "always"))
        trials = [propose(ledger, "strict_replay", seed) for seed in (2, 1)]
        end(ledger, trials[0])
        assert (list(due(ledger.view, (1, 2))), may_come(ledger.view, (1, 2))) == ([], True)
        end(ledger, trials[1])
        assert [record.trial for record in due(ledger.view, (1, 2))] == trials[::-1]
        assert not may_come(ledger.view, (1, 2))
        assert list(due(ledger.view, (1, 2, 3))) == []  # a study that more seeds extend


@pytest.mark.parametrize("state", ["stopped", "diverged", "failed"])
def test_a_configuration_that_broke_on_a_seed_gets_none(state: str, tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        end(ledger, propose(ledger, "strict_replay", 1), state)
        other = propose(ledger, "strict_replay", 2)
        assert not may_come(ledger.view, (1, 2))
        end(ledger, other)
        assert list(due(ledger.view, (1, 2))) == []


def test_a_control_differs_in_its_schedule_alone_and_is_one_group_over_seeds(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        trials = [propose(ledger, "strict_replay", seed) for seed in (1, 2)]
        for trial in trials:
            end(ledger, trial)
        controls = [propose_control(ledger, trial) for trial in trials]
        pairs, records = ([ledger.view.trials[trial] for trial in names] for names in (trials, controls))
        assert len({record.configuration for record in records}) == 1
        assert controlled(ledger.view) == {records[0].configuration: pairs[0].configuration}
    for trial, pair, record in zip(trials, pairs, records, strict=True):
        assert record.config["epochs"] == {"matched_to": trial}
        assert {**record.config, "sleep": pair.config["sleep"], "epochs": None} == pair.config
        assert load_config(record.config).seed == record.seed == pair.seed
        assert record.configuration != pair.configuration


def test_a_control_of_what_is_not_complete_does_not_enter_the_ledger(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        running = propose(ledger, "strict_replay", 1)
        with pytest.raises(RunError, match="cannot be proposed: the trial it is the control of is running"):
            propose_control(ledger, running)
        config = control_config(load_config(ledger.view.trials[running].config), "nowhere").model_dump(mode="json")
        with pytest.raises(RunError, match="the trial it is the control of is unknown"):
            ledger.append("proposed", trial="x", configuration="x", seed=1, config=config, origin="matched")
        assert list(read_ledger(tmp_path).trials) == [running]


# How many.


def test_the_plan_counts_controls_as_far_as_they_are_known(tmp_path: Path) -> None:
    calm, pruned = study(), study(scheduler=ASHA)
    assert (calm.trials_planned, calm.most_controls) == (6, 4)
    with open_ledger(tmp_path) as ledger:
        assert [planned_trials(asked, ledger.view) for asked in (calm, pruned)] == [10, 6]
        trials = [propose(ledger, "weighted_replay", seed, strategy=name) for name in ("random", "strict") for seed in (1, 2)]
        assert [planned_trials(asked, ledger.view) for asked in (calm, pruned)] == [10, 6]
        end(ledger, trials[0], "diverged")
        assert [planned_trials(asked, ledger.view) for asked in (calm, pruned)] == [8, 6]
        for trial in trials[1:]:
            end(ledger, trial)
        assert [planned_trials(asked, ledger.view) for asked in (calm, pruned)] == [8, 8]
        assert planned_trials(study(always=["epochs"]), ledger.view) == 6


def test_controls_cost_their_whole_budget_for_what_is_expected_to_complete() -> None:
    # 2 points: 1.5 pass the first rung, 1 + 0.5 * 0.5 = 1.25 the second, on 2 seeds each: 2.5 controls, told as whole trials
    total = cost(Work(2, 2, 1, 900, [100, 300], 3, matched=True), concurrent=1, speed=None)
    assert passing(passing(2, 3), 3) == 1.25
    assert (total.trials, total.controls) == (2 * 2 + 1 + 2 * 2, 2)
    assert total.most_words == 9 * 900
    assert total.expected_words == 2 * expected_words(2, 900, [100, 300], 3) + 900 + 2 * 900
    assert estimated(study(), None, 1).controls == 4
    assert estimated(study(always=["epochs"]), None, 1).controls == 0


# What a study file says.


def test_one_word_is_a_list_of_one_and_reads_back() -> None:
    for word, beside, controls in (("matched", (), 4), ("epochs", ("epochs",), 0)):
        asked = study(always=word)
        assert (asked.spec.always, asked.spec.beside, asked.most_controls) == ((word,), beside, controls)
        assert load_spec(asked.spec.plain()) == asked.spec
    assert [config.sleep for config in study(always=["matched", "epochs"]).always()] == [None, None]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"base": ["tiny", "epochs"], "vary": {}},
            "always = matched: the base's schedule epochs does not sleep, so there is nothing to match",
        ),
        ({"always": ["matched", "matched"]}, "always = [matched, matched]: matched is given twice"),
        ({"always": ["mached"]}, "unknown schedule mached (did you mean matched?)"),
        ({"always": "epoch"}, "unknown schedule epoch (did you mean epochs?)"),
        (
            {"vary": {"epochs.matched_to": ["a", "b"]}},
            "vary.epochs.matched_to: cannot vary: the controls of a study are asked for by always: [matched]",
        ),
        (
            {"set": {"epochs.matched_to": "a"}},
            "epochs.matched_to = a: is for one run (sleep_tune.train): the controls of a study are asked for by always: [matched]",
        ),
        (
            {"base": ["tiny", "epochs"], "vary": {}, "always": [], "seeds": [1], "set": {"epochs.match_to": "a"}},
            "unknown field epochs.match_to (did you mean epochs.matched_to?)",
        ),
    ],
)
def test_what_a_study_may_not_say_of_controls_is_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        study(**fields)
    assert str(refused.value) == line


def test_a_file_may_ask_for_controls_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: [tiny, strict_replay]\nalways: matched\nseeds: [1]\n")
    assert read_space(str(tmp_path / "mine.yaml"))[2].matched


def test_one_run_names_the_trial_it_is_the_control_of() -> None:
    spec = {"base": ["tiny", "epochs"], "set": {"epochs.matched_to": "strict"}, "seeds": [0]}
    config = check(Study("run", "", load_spec(spec))).first
    assert config.epochs is not None
    assert config.epochs.matched_to == "strict"
    assert describe(config.model_dump(mode="json")) == "matched control of strict"


def test_an_old_study_is_extended_by_controls_and_not_cut() -> None:
    before, after = study(always=["epochs"]), study()
    assert continued(after, before.spec, Path("there")).spec.matched
    with pytest.raises(UserError, match=r"always = \[\"epochs\"\] here, \[\"epochs\",\"matched\"\] there"):
        continued(before, after.spec, Path("there"))


# What the outcome says.


def make(directory: Path, values: dict[str, tuple[float, ...]], controls: dict[str, tuple[float, ...]]) -> StudyOutcome:
    """The outcome of a study: strategy (or `epochs`) -> objective of the seeds, and of the controls of strategies."""
    seeds = tuple(range(1, 1 + len(next(iter(values.values())))))
    with open_ledger(directory, seeds=seeds, vary={"sleep.strategy": []}) as ledger:
        for name, values_S in values.items():
            searched = name != "epochs"
            named = {"strategy": name} if searched else {}
            trials = [
                propose(ledger, "weighted_replay" if searched else "epochs", seed, "grid" if searched else "always", **named)
                for seed in seeds
            ]
            for trial, value in zip(trials, values_S, strict=True):
                end(ledger, trial, value=value)
            for trial, value in zip(trials, controls.get(name, ()), strict=False):
                end(ledger, propose_control(ledger, trial), value=value)
    write_tables(directory)
    return read_outcome(directory)


VALUES = {"epochs": (2.60, 2.62), "strict": (2.50, 2.54), "random": (2.70, 2.70)}
CONTROLS = {"strict": (2.59, 2.61), "random": (2.58, 2.60)}


def test_differences_to_controls_are_paired_by_seed(tmp_path: Path) -> None:
    outcome = make(tmp_path, VALUES, CONTROLS)
    by_label = {outcome.entries[name].schedule: difference for name, difference in outcome.against_control.items()}
    strict = by_label["strict, 50 folds, ratio 5, replay 30 %"]
    assert (strict.mean, strict.n) == (pytest.approx(-0.08), 2)  # -0.09 and -0.07
    # Student's t with one degree of freedom: 12.706 times .01, the standard error of two values .02 apart
    assert strict.high - strict.mean == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert by_label["random, 50 folds, ratio 5, replay 30 %"].mean == pytest.approx(0.11)
    labels = [entry.schedule for entry in outcome.entries.values()]
    assert labels[2:] == [
        "matched control of strict, 50 folds, ratio 5, replay 30 %",
        "random, 50 folds, ratio 5, replay 30 %",
        "matched control of random, 50 folds, ratio 5, replay 30 %",
    ]
    assert [outcome.is_baseline(name) for name in outcome.entries] == [True, False, True, False, True]


def test_the_verdict_names_the_control_of_the_best(tmp_path: Path) -> None:
    told = verdict(make(tmp_path, VALUES, CONTROLS))
    assert told.startswith("Best schedule: strict, 50 folds, ratio 5, replay 30 %: against plain epochs -0.090 nats, ")
    assert told.endswith(
        " Against its matched control (same words, samples and steps, no sleep): -0.080 nats, 95 % interval [-0.207, +0.047] "
        "(2 seeds, paired, not corrected for picking the best of 2): not distinguishable from it with these seeds."
    )
    better = make(tmp_path / "better", {**VALUES, "strict": (2.50, 2.52)}, {"strict": (2.59, 2.611)})
    assert verdict(better).endswith("[-0.097, -0.084] (2 seeds, paired, not corrected for picking the best of 2): better.")


def test_a_control_that_leads_is_named_as_what_ran_beside(tmp_path: Path) -> None:
    told = verdict(make(tmp_path, VALUES, {"strict": (2.40, 2.45)}))
    assert " matched control of strict, 50 folds, ratio 5, replay 30 %, which ran beside the search, is 0.095 nats better still." in told
    assert "Best searched schedule: strict" in told


def test_without_another_baseline_the_control_is_what_there_is_to_compare_with(tmp_path: Path) -> None:
    outcome = make(tmp_path, {name: VALUES[name] for name in ("strict", "random")}, CONTROLS)
    assert outcome.ranking.baseline is None  # a control is one schedule's, not everyone's
    assert verdict(outcome).startswith("Best schedule: strict, 50 folds, ratio 5, replay 30 %. Against its matched control")


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    told = verdict(make(tmp_path, {name: values[:1] for name, values in VALUES.items()}, {"strict": (2.59,)}))
    assert told.endswith("Against its matched control (same words, samples and steps, no sleep): -0.090 nats, with one seed.")


def test_controls_on_some_seeds_only_are_not_compared_with(tmp_path: Path) -> None:
    outcome = make(tmp_path, VALUES, {"strict": (2.59,)})
    assert outcome.against_control == {}
    assert verdict(outcome).endswith(" Its matched control did not complete on all seeds.")


def test_where_more_is_better_a_control_is_beaten_upwards(tmp_path: Path) -> None:
    outcome = make(tmp_path, {**VALUES, "random": (2.61, 2.63)}, {"random": (2.50, 2.521)})
    ranking = dataclasses.replace(outcome.ranking, ranked=tuple(sorted(outcome.ranking.ranked, key=lambda row: -row.objective.mean)))
    told = verdict(dataclasses.replace(outcome, metric="pairs", mode="max", ranking=ranking))
    # .11 and .109: 12.706 times .0005, the standard error of two values .001 apart
    assert told.endswith("+0.109, 95 % interval [+0.103, +0.116] (2 seeds, paired, not corrected for picking the best of 2): better.")


def printed(outcome: StudyOutcome, width: int, rows: int = 12) -> str:
    terminal = Terminal(width=width, highlight=False, force_terminal=False)
    with terminal.capture() as capture:
        print_outcome(outcome, (), terminal, rows)
    return capture.get()


@pytest.mark.parametrize(("width", "cell"), [(80, " -0.080 "), (100, " -0.080 "), (112, " -0.080 ±0.127 ")])
def test_the_ranking_shows_the_difference_beside_each_schedule_and_fits(width: int, cell: str, tmp_path: Path) -> None:
    text = printed(make(tmp_path, VALUES, CONTROLS), width)
    table = text.split("dev_loss: mean")[0]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= width
    assert cell in table
    assert " ".join(table.split()).count("matched control") == 2
    assert table.count("(baseline)") == 1
    assert "paired by seed" in " ".join(text.split())


def test_controls_are_shown_with_what_they_control(tmp_path: Path) -> None:
    many = {name: (2.5 + place / 100, 2.5 + place / 100) for place, name in enumerate(("strict", "random", "weighted"))}
    outcome = make(tmp_path, many, dict.fromkeys(many, (3.0, 3.1)))
    text = printed(outcome, 120, rows=1)
    assert [name in text for name in ("control of strict", "control of random", "control of weighted")] == [True, False, False]
    assert "4 more are ranked" in text


def test_controls_are_called_after_the_label_of_their_pair_even_where_it_had_to_be_told_apart() -> None:
    raw = combine(["tiny", "strict_replay"])
    configs = {"a": load_config(raw), "b": load_config(set_field(raw, "masking.rate", 0.2))}
    plain = {name: config.model_dump(mode="json") for name, config in configs.items()}
    plain |= {f"c{name}": control_config(config, "t").model_dump(mode="json") for name, config in configs.items()}
    labels = told_apart(plain, (), {"ca": "a", "cb": "b"})
    assert _ends(labels.values()) == ["rate 0.3", "rate 0.2"] * 2
    assert labels["cb"] == f"matched control of {labels['b']}"


def _ends(labels: Iterable[str]) -> list[str]:
    return [label.rpartition(", ")[2] for label in labels]
