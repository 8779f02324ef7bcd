"""Decisions under every rule set, against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.evaluation.rules import RULES, decide, margin, probability_of_first
from sleep_tune.streams import stream

NAN, INF = float("nan"), float("inf")


def draw(i: int) -> np.random.Generator:
    return stream(0, "ties", i)


def run(scores: list[list[float]], rules: str) -> tuple[list[int], list[float], int, int]:
    table = np.array(scores, dtype=np.float32)
    decided = decide(table, np.ones(table.shape, bool), rules, draw)
    return decided.chosen_I.tolist(), decided.credit_I.tolist(), int(decided.tie_I.sum()), int(decided.nan_I.sum())


@pytest.mark.parametrize("rules", list(RULES))
def test_the_higher_score_wins_under_all_rules(rules: str) -> None:
    assert run([[-1, -2], [-2, -1], [-INF, -5], [-5, -INF]], rules) == ([0, 1, 1, 0], [1, 0, 0, 1], 0, 0)


def test_2025_counts_ties_and_nan_models_as_right() -> None:
    assert run([[-1, -1], [NAN, NAN], [-1, NAN], [NAN, -1], [-INF, -INF]], "2025") == ([0, 0, 1, 0, 0], [1, 1, 0, 1, 1], 2, 3)


def test_honest_rules_share_ties_and_give_nothing_for_nan() -> None:
    chosen, credit, ties, nans = run([[-1, -1], [NAN, NAN], [-1, NAN], [NAN, -1], [-INF, -INF]], "honest")
    assert (credit, ties, nans) == ([0.5, 0, 0, 0, 0.5], 2, 3)
    assert chosen == [0, 0, 0, 1, 0]


def test_honest_rules_share_a_tie_among_those_tied_only() -> None:
    assert run([[-1, -1, -1, -2, -3], [-2, -1, -1, -3, -4]], "honest")[1] == pytest.approx([1 / 3, 0])


def test_2026_makes_nan_the_worst_and_breaks_ties_by_a_seeded_draw() -> None:
    assert run([[NAN, -1], [-1, NAN]], "2026")[:2] == ([1, 0], [0, 1])
    many = [[-1.0, -1.0, -9.0]] * 2000 + [[NAN, NAN, NAN]] * 2000
    chosen, credit, _, _ = run(many, "2026")
    assert run(many, "2026")[0] == chosen
    assert set(chosen[:2000]) == {0, 1}
    assert np.mean(credit[:2000]) == pytest.approx(1 / 2, abs=0.05)  # 4.5 standard errors
    assert np.mean(credit[2000:]) == pytest.approx(1 / 3, abs=0.05)


def test_every_rule_set_names_the_pipeline_and_what_of_its_commit_is_known() -> None:
    commits = {"honest": "evaluation-pipeline-2025@bf55c11", "2025": "evaluation-pipeline-2025@bf55c11", "2026": "6f825c2"}
    assert all(commit in RULES[rules].reproduces for rules, commit in commits.items())
    assert "commit not known" in RULES["2026"].reproduces


@pytest.mark.parametrize(("rules", "expected"), [("2025", 1.0), ("honest", 0.0)])
def test_a_model_of_nans_scores_100_officially_and_0_honestly(rules: str, expected: float) -> None:
    assert np.mean(run([[NAN, NAN]] * 50, rules)[1]) == expected


@pytest.mark.parametrize("rules", list(RULES))
def test_missing_candidates_are_never_chosen(rules: str) -> None:
    scores = np.array([[-INF, -INF, 5.0], [NAN, -3.0, 7.0]], dtype=np.float32)
    valid = np.array([[True, True, False]] * 2)
    decided = decide(scores, valid, rules, draw)
    assert (decided.chosen_I < 2).all()


@given(st.lists(st.lists(st.sampled_from([-3.0, -2.0, -1.0, -INF]), min_size=3, max_size=3), min_size=1, max_size=8))
def test_honest_credit_is_what_random_tie_breaking_earns_on_average(scores: list[list[float]]) -> None:
    best = [[value == max(row) for value in row] for row in scores]
    assert run(scores, "honest")[1] == pytest.approx([row[0] / sum(row) for row in best])


def test_probability_and_margin_by_hand() -> None:
    scores, valid = np.array([[0.0, np.log(3.0), 99.0], [-2.0, -2.0, -2.0]]), np.array([[True, True, False], [True, True, True]])
    assert probability_of_first(scores, valid) == pytest.approx([0.25, 1 / 3])
    assert margin(scores, valid) == pytest.approx([-np.log(3.0), 0])
