"""What a study hands out: each trial once, `always` first, every seed of a point, and the same points after any kill."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sleep_tune.config import Config
from sleep_tune.study.ledger import CONTINUE, STOP, Ledger, State
from sleep_tune.study.spec import Study, load_spec
from trainables.optuna_points import ask
from trainables.proposals import Proposal, Proposals, planned_out

OPENED = {"spec": {}, "versions": {}, "precision": "fp32", "corpus_digest": "c", "tokenizer_digest": "t"}
DIGEST = "corpus"
BUDGET = 200_000


def study(search: Any = "grid", seeds: tuple[int, ...] = (1, 2), **fields: Any) -> Study:
    lists = {"sleep.strategy": ["random", "weighted"], "sleep.length": [{"ratio": 1}, {"ratio": 3}]}
    spec = {"base": ["tiny", "weighted_replay"], "vary": lists, "always": ["epochs"], "search": search, "seeds": list(seeds)}
    return Study("test", "", load_spec({**spec, **fields}))


WIDE = {
    "sleep.replay_ratio": {"uniform": [0.1, 0.9]},
    "sleep.folds": {"randint": [2, 20]},
    "optimizer.learning_rate": {"log_uniform": [1e-4, 1e-2]},
}


def take(ledger: Ledger, proposal: Proposal) -> None:
    fields = {"trial": proposal.trial, "configuration": proposal.configuration, "seed": proposal.config.seed, "origin": proposal.origin}
    ledger.append("proposed", config=proposal.config.model_dump(mode="json"), **fields)


def complete(ledger: Ledger, trial: str, value: float) -> None:
    ledger.append("reported", trial=trial, milestone=BUDGET, words_seen=BUDGET, metrics={}, value=value, decision=CONTINUE)
    ledger.append("ended", trial=trial, state="complete", message=None)


def run(ledger: Ledger, asked: Study, most: int = 1000, value: Callable[[Config], float] = lambda config: 1.0) -> list[Proposal]:
    """Propose and complete trials one after the other, as a study of one worker does."""
    proposals, taken = Proposals(asked, ledger.view, DIGEST), []
    while len(taken) < most and (proposal := proposals.next()) is not None:
        take(ledger, proposal)
        complete(ledger, proposal.trial, value(proposal.config))
        taken.append(proposal)
    return taken


def open_ledger(directory: Path) -> Ledger:
    ledger = Ledger(directory)
    ledger.append("opened", **OPENED)
    return ledger


def test_a_grid_comes_in_order_with_always_first_and_seeds_innermost(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        taken = run(ledger, study())
    assert [proposal.origin for proposal in taken] == ["always"] * 2 + ["grid"] * 8
    assert [proposal.config.seed for proposal in taken] == [1, 2] * 5
    shown = [(p.config.sleep.strategy.name, p.config.sleep.length.ratio) for p in taken[2::2] if p.config.sleep]  # type: ignore[union-attr]
    assert shown == [("random", 1), ("random", 3), ("weighted", 1), ("weighted", 3)]


@pytest.mark.parametrize("search", ["grid", {"random": {"trials": 5}}, {"optuna": {"trials": 5}}])
@pytest.mark.parametrize("killed_after", [0, 1, 4, 9])
def test_a_killed_search_proposes_what_an_undisturbed_one_does(search: Any, killed_after: int, tmp_path: Path) -> None:
    vary = {} if search == "grid" else {"vary": WIDE}
    value = lambda config: config.optimizer.learning_rate + config.seed  # noqa: E731
    with open_ledger(tmp_path / "calm") as ledger:
        calm = [proposal.trial for proposal in run(ledger, study(search, **vary), value=value)]
    with open_ledger(tmp_path / "killed") as ledger:
        before = run(ledger, study(search, **vary), killed_after, value)
    with open_ledger(tmp_path / "killed") as ledger:
        after = run(ledger, study(search, **vary), value=value)
    assert [proposal.trial for proposal in before + after] == calm
    assert len(set(calm)) == len(calm) == (10 if search == "grid" else 12)


def test_more_seeds_extend_every_known_point_before_new_ones(tmp_path: Path) -> None:
    search = {"random": {"trials": 3}}
    with open_ledger(tmp_path) as ledger:
        first = run(ledger, study(search, seeds=(1,), vary=WIDE))
        more = run(ledger, study({"random": {"trials": 4}}, seeds=(1, 2), vary=WIDE))
    assert len(first) == 4
    assert [p.config.seed for p in more] == [2, 2, 2, 2, 1, 2]
    assert [p.configuration for p in more[:4]] == [p.configuration for p in first]


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        taken = run(ledger, study({"optuna": {"trials": 50}}, seeds=(1,)))
        assert len(taken) == 5
        for proposal in taken:
            ledger.append("scored", trial=proposal.trial, words_seen=BUDGET, tasks={"pairs": 80.0})
        assert planned_out(study({"optuna": {"trials": 50}}, seeds=(1,)), ledger.view, DIGEST)


def test_a_study_is_planned_out_only_when_every_trial_has_ended_and_is_scored(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        taken = run(ledger, study())
        assert not planned_out(study(), ledger.view, DIGEST)  # complete, without final scores
        for proposal in taken:
            ledger.append("scored", trial=proposal.trial, words_seen=BUDGET, tasks={"pairs": 80.0})
        assert planned_out(study(), ledger.view, DIGEST)
        assert not planned_out(study(seeds=(1, 2, 3)), ledger.view, DIGEST)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_optuna_asks_for_the_same_point_in_any_process_and_another_at_each_index(sampler: str, tmp_path: Path) -> None:
    asked = study({"optuna": {"trials": 9}}, vary=WIDE)
    points = [ask(asked, sampler, [], index, 0) for index in (0, 1, 0)]
    assert points[0] == points[2] != points[1]
    for point in points:
        config = asked.config_at(point, 1)
        assert config.sleep is not None
        assert 0.1 <= config.sleep.replay_ratio <= 0.9
        assert 2 <= config.sleep.folds <= 20
        assert 1e-4 <= config.optimizer.learning_rate <= 1e-2


def test_tpe_proposes_nearer_the_best_once_it_knows_configurations(tmp_path: Path) -> None:
    asked = study({"optuna": {"trials": 30}}, vary={"optimizer.learning_rate": {"log_uniform": [1e-5, 1e-1]}}, always=[])

    def decades_off(config: Config) -> float:
        return abs(math.log10(config.optimizer.learning_rate / 1e-4))

    with open_ledger(tmp_path) as ledger:
        taken = run(ledger, asked, value=lambda config: decades_off(config) + config.seed)
    off = [decades_off(proposal.config) for proposal in taken[::2]]
    assert sum(off[20:]) < 0.6 * sum(off[:10])  # its first ten points are random


def test_optuna_is_told_means_over_seeds_at_equal_words_only(tmp_path: Path) -> None:
    from optuna.trial import TrialState

    from trainables.optuna_points import _distribution, _Known

    asked = study({"optuna": {"trials": 9}})
    space = {field: _distribution(dimension) for field, dimension in asked.spec.vary.items()}
    with open_ledger(tmp_path) as ledger:
        proposals = Proposals(asked, ledger.view, DIGEST)
        taken = [proposals.next() for _ in range(2)]
        groups = []
        for strategy in ("random", "weighted"):
            for length in ({"ratio": 1}, {"ratio": 3}):
                taken = [_proposal(asked, {"sleep.strategy": strategy, "sleep.length": length}, seed) for seed in (1, 2)]
                for proposal in taken:
                    take(ledger, proposal)
                groups.append([proposal.trial for proposal in taken])
        complete(ledger, groups[0][0], 2.0)
        complete(ledger, groups[0][1], 4.0)
        complete(ledger, groups[1][0], 2.0)  # its other seed is stopped at the second of two rungs
        for milestone, value, decision in ((100, 5.0, CONTINUE), (300, 3.0, STOP)):
            ledger.append(
                "reported", trial=groups[1][1], milestone=milestone, words_seen=milestone, metrics={}, value=value, decision=decision
            )
        ledger.append("ended", trial=groups[1][1], state="stopped", message=None)
        complete(ledger, groups[2][0], 2.0)  # its other seed still runs
        for trial in groups[3]:
            ledger.append("ended", trial=trial, state="failed", message="boom")
        records = [[ledger.view.trials[trial] for trial in group] for group in groups]
        assert records[1][1].state is State.STOPPED
        told = [_Known(asked).told(group, space, asked.spec.seeds) for group in records]
    assert [trial.state for trial in told if trial] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL]
    assert told[0] is not None
    assert told[0].value == 3.0
    assert told[0].params == {"sleep.strategy": '"random"', "sleep.length": '{"ratio":1}'}
    assert told[1] is not None
    assert told[1].intermediate_values == {}  # the two have no milestone in common


def _proposal(asked: Study, point: dict[str, Any], seed: int) -> Proposal:
    from sleep_tune.config import configuration_id, trial_id

    config = asked.config_at(point, seed)
    return Proposal(trial_id(config, DIGEST), configuration_id(config, DIGEST), config, "optuna")
