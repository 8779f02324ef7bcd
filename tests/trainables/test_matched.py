"""Matched controls are handed out as their pairs complete: after the search, once each, and never while a worker could wait for ever."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from sleep_tune.config import Config
from sleep_tune.data.token_store import Prepared
from sleep_tune.study.console import Console
from sleep_tune.study.ledger import CONTINUE, STOP, Ledger
from sleep_tune.study.spec import Study, load_spec
from trainables.assignment import Assignment
from trainables.optuna_points import ask
from trainables.proposals import Proposal, Proposals, planned_out
from trainables.resumable import Desk, LedgerSearcher

OPENED: dict[str, Any] = {"spec": {}, "versions": {}, "precision": "fp32", "corpus_digest": "corpus", "tokenizer_digest": "tokenizer"}
NOWHERE = Path("nowhere")
PREPARED = Prepared("corpus", "tokenizer", NOWHERE, NOWHERE, NOWHERE, (), 50_000, None)
BUDGET = 200_000


def study(**fields: Any) -> Study:
    spec = {"base": ["tiny", "weighted_replay"], "vary": {"sleep.strategy": ["random", "strict"]}, "always": ["epochs", "matched"]}
    return Study("test", "", load_spec({**spec, "seeds": [1, 2], **fields}))


def open_ledger(directory: Path) -> Ledger:
    ledger = Ledger(directory)
    ledger.append("opened", **OPENED)
    return ledger


def take(ledger: Ledger, proposal: Proposal) -> str:
    fields = {"trial": proposal.trial, "configuration": proposal.configuration, "seed": proposal.config.seed, "origin": proposal.origin}
    ledger.append("proposed", config=proposal.config.model_dump(mode="json"), **fields)
    return proposal.trial


def report(ledger: Ledger, trial: str, milestone: int, value: float, decision: str = CONTINUE) -> None:
    ledger.append("reported", trial=trial, milestone=milestone, words_seen=milestone, metrics={}, value=value, decision=decision)


def complete(ledger: Ledger, trial: str, value: float = 1.0) -> None:
    report(ledger, trial, BUDGET, value)
    ledger.append("scored", trial=trial, words_seen=BUDGET, tasks={})
    ledger.append("ended", trial=trial, state="complete", message=None)


def run(ledger: Ledger, asked: Study, most: int = 1000, value: Callable[[Config], float] = lambda config: 1.0) -> list[Proposal]:
    """Propose and complete trials one after the other, as a study of one worker does."""
    proposals, taken = Proposals(asked, ledger.view, "corpus"), []
    while len(taken) < most and (proposal := proposals.next()) is not None:
        complete(ledger, take(ledger, proposal), value(proposal.config))
        taken.append(proposal)
    return taken


def test_controls_come_last_one_for_each_sleep_of_the_search(tmp_path: Path) -> None:
    asked = study(always=["epochs", "baseline_like", "matched"])
    with open_ledger(tmp_path) as ledger:
        taken = run(ledger, asked)
        assert [proposal.origin for proposal in taken] == ["always"] * 4 + ["grid"] * 4 + ["matched"] * 4
        assert [proposal.config.epochs.matched_to for proposal in taken[8:] if proposal.config.epochs] == [p.trial for p in taken[4:8]]
        assert [proposal.config.seed for proposal in taken[8:]] == [1, 2, 1, 2]
        assert len({proposal.configuration for proposal in taken[8:]}) == 2
        assert planned_out(asked, ledger.view, "corpus")


@pytest.mark.parametrize("search", ["grid", {"random": {"trials": 3}}, {"optuna": {"trials": 3}}])
@pytest.mark.parametrize("killed_after", [0, 3, 7, 9])
def test_a_study_killed_anywhere_has_the_same_controls(search: Any, killed_after: int, tmp_path: Path) -> None:
    vary = {"optimizer.learning_rate": [1e-3, 2e-3, 3e-3]} if search == "grid" else {"optimizer.learning_rate": {"uniform": [1e-3, 9e-3]}}
    asked = study(search=search, vary=vary)
    value = lambda config: config.optimizer.learning_rate + config.seed  # noqa: E731
    with open_ledger(tmp_path / "calm") as ledger:
        calm = [proposal.trial for proposal in run(ledger, asked, value=value)]
    with open_ledger(tmp_path / "killed") as ledger:
        before = run(ledger, asked, killed_after, value)
    with open_ledger(tmp_path / "killed") as ledger:
        after = run(ledger, asked, value=value)
    assert [proposal.trial for proposal in before + after] == calm
    assert len(set(calm)) == len(calm) == 2 + 6 + 6


def test_a_finished_study_is_extended_by_controls_and_by_those_of_new_seeds(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        first = run(ledger, study(always=["epochs"]))
        assert planned_out(study(always=["epochs"]), ledger.view, "corpus")
        controls = run(ledger, study())
        assert [(proposal.origin, proposal.config.seed) for proposal in controls] == [("matched", 1), ("matched", 2)] * 2
        more = run(ledger, study(seeds=[1, 2, 3]))
    assert len(first) == 6
    assert [(proposal.origin, proposal.config.seed) for proposal in more] == [("always", 3), ("grid", 3), ("grid", 3)] + [
        ("matched", 3)
    ] * 2
    assert {proposal.configuration for proposal in more[3:]} == {proposal.configuration for proposal in controls}


def test_what_was_stopped_gets_no_control(tmp_path: Path) -> None:
    asked = study()
    with open_ledger(tmp_path) as ledger:
        proposals = Proposals(asked, ledger.view, "corpus")
        trials = []
        while (proposal := proposals.next()) is not None:
            trials.append(take(ledger, proposal))
        assert (len(trials), proposals.later) == (6, True)  # the search is used up, and all run
        for trial in trials[2:4]:
            report(ledger, trial, 22_222, 9.0, STOP)
            ledger.append("ended", trial=trial, state="stopped", message=None)
        complete(ledger, trials[4])
        assert (proposals.next(), proposals.later) == (None, True)
        complete(ledger, trials[5])
        due = []
        while (proposal := proposals.next()) is not None:
            due.append(proposal)
            take(ledger, proposal)
        assert [proposal.config.epochs.matched_to for proposal in due if proposal.config.epochs] == trials[4:]
        assert not proposals.later


def test_optuna_is_told_nothing_of_controls(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"vary": {"optimizer.learning_rate": {"log_uniform": [1e-4, 1e-2]}}, "search": {"optuna": {"trials": 12}}}
    with open_ledger(tmp_path / "with") as ledger:
        controlled = run(ledger, study(**fields), value=lambda config: config.optimizer.learning_rate if config.sleep else 1e-9)
        groups = Proposals(study(**fields), ledger.view, "corpus")._known("optuna")
        point = ask(study(**fields), "tpe", groups, 12, 0)
    with open_ledger(tmp_path / "without") as ledger:
        alone = run(
            ledger, study(**fields, always=["epochs"]), value=lambda config: config.optimizer.learning_rate if config.sleep else 1e-9
        )
        same = ask(study(**fields), "tpe", Proposals(study(**fields), ledger.view, "corpus")._known("optuna"), 12, 0)
    assert [proposal.trial for proposal in controlled if proposal.origin != "matched"] == [proposal.trial for proposal in alone]
    assert point == same


class Handing:
    """A searcher over a ledger, as Tune asks it."""

    def __init__(self, directory: Path, ledger: Ledger, asked: Study, concurrent: int = 2) -> None:
        self.desk = Desk(asked, PREPARED, directory, ledger, Console("test", asked.trials_planned, asked.budget_words, directory))
        self.searcher, self._asked = LedgerSearcher(self.desk, concurrent), 0

    def ask(self) -> Assignment | str | None:
        self._asked += 1
        given = self.searcher.suggest(str(self._asked))
        return given["assignment"] if isinstance(given, dict) else given

    def over(self, tune_trial: int) -> None:
        self.searcher.on_trial_complete(str(tune_trial))


def test_a_searcher_waits_for_the_last_pairs_and_then_ends(tmp_path: Path) -> None:
    asked = study(always="matched", vary={"sleep.folds": [5]})
    with open_ledger(tmp_path) as ledger:
        handing = Handing(tmp_path, ledger, asked, concurrent=4)
        first, second = handing.ask(), handing.ask()
        assert isinstance(first, Assignment)
        assert isinstance(second, Assignment)
        assert handing.ask() is None  # later
        complete(ledger, first.trial)
        handing.over(1)
        assert handing.ask() is None
        complete(ledger, second.trial)
        handing.over(2)
        controls = [handing.ask(), handing.ask()]
        assert [control.config.epochs.matched_to for control in controls if isinstance(control, Assignment) and control.config.epochs] == [
            first.trial,
            second.trial,
        ]
        assert handing.ask() == Searcher.FINISHED
        record = ledger.view.trials[controls[0].trial]  # type: ignore[union-attr]
        assert handing.desk.label(record) == "matched control of weighted, 5 folds, ratio 5, replay 30 %"


def test_a_searcher_does_not_wait_for_what_no_worker_runs(tmp_path: Path) -> None:
    asked = study(always="matched", vary={"sleep.folds": [5]}, seeds=[1])
    with open_ledger(tmp_path) as ledger:
        handing = Handing(tmp_path, ledger, asked)
        handing.ask()
        handing.over(1)  # it left without having ended
        assert handing.ask() == Searcher.FINISHED


def test_a_searcher_that_is_interrupted_waits_for_nothing(tmp_path: Path) -> None:
    asked = study(always="matched", vary={"sleep.folds": [5]}, seeds=[1])
    with open_ledger(tmp_path) as ledger:
        handing = Handing(tmp_path, ledger, asked)
        handing.ask()
        assert handing.ask() is None
        handing.desk.interrupt()
        assert handing.ask() == Searcher.FINISHED


def test_an_unfinished_control_goes_on_like_any_trial(tmp_path: Path) -> None:
    asked = study(always="matched", vary={"sleep.folds": [5]}, seeds=[1])
    with open_ledger(tmp_path) as ledger:
        run(ledger, asked, most=1)
        control = Proposals(asked, ledger.view, "corpus").next()
        assert control is not None
        take(ledger, control)
        report(ledger, control.trial, 2_000, 5.0)
        given = Handing(tmp_path, ledger, asked.with_set({"tracking.wandb": "off"})).ask()
        assert isinstance(given, Assignment)
        assert (given.trial, given.reported, given.config.tracking.wandb) == (control.trial, 2_000, "off")
        assert given.config.epochs == control.config.epochs
