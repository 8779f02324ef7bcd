"""Averages over tasks, against published ones, and what they say when tasks are missing."""

import math

import pytest

from sleep_tune.evaluation.averages import COMPONENTS, Average, averages
from sleep_tune.evaluation.scores import ScoreRow

# Published scores of GPT-BERT on strict-small (2025.babylm-main.31); reading is the mean of eye tracking and self-paced reading.
CAUSAL_FOCUS = {"blimp": 71.7, "supplement": 63.2, "ewok": 49.5, "entity_tracking": 34.6, "wug_adj": 0.592, "wug_past": 0.129}
CAUSAL_FOCUS |= {"comps": 52.8, "reading": 6.7, "aoa": -0.039, "glue": 65.1}
UIDS = {"entity_tracking": ["regular_0_ops", "ambiref_0_ops", "move_contents_0_ops"]}
UNITS = {"wug_adj": "rho", "wug_past": "rho", "aoa": "r"}


def row(task: str, uid: str, score: float, rules: str = "2025", n: int = 100_000) -> ScoreRow:
    return ScoreRow(task, uid, n, score, UNITS.get(task, "percent"), 1.0, 0, 0, rules, "mlm")


def rows(scores: dict[str, float], rules: str = "2025") -> list[ScoreRow]:
    """Every part of every task has the task's score."""
    parts = {name: UIDS.get(name, [str(i) for i in range(COMPONENTS[name].parts)]) for name in scores}
    return [row(name, uid, score, rules) for name, score in scores.items() for uid in parts[name]]


def by_name(table: list[ScoreRow]) -> dict[str, Average]:
    return {average.name: average for average in averages(table)}


def test_the_2025_text_average_is_the_published_one() -> None:
    average = by_name(rows(CAUSAL_FOCUS))["2025 text average"]
    assert average.value == pytest.approx(41.2, abs=0.05)
    assert (len(average.entered), average.missing, average.partial) == (10, (), ())


def test_findings_is_the_mean_of_two_means() -> None:
    table = by_name(rows(CAUSAL_FOCUS))
    nlp, human = (71.7 + 63.2 + 49.5 + 34.6 + 52.8 + 65.1) / 6, (6.7 + 59.2 + 12.9 - 3.9) / 4
    assert table["Findings NLP"].value == pytest.approx(nlp)
    assert table["Findings human-likeness"].value == pytest.approx(human)
    assert table["Findings"].value == pytest.approx((nlp + human) / 2)


def test_a_missing_task_is_named_and_not_counted_as_0() -> None:
    average = by_name(rows({"blimp": 70.0, "aoa": 0.1}))["2025 text average"]
    assert average.value == pytest.approx(40.0)
    assert average.entered == ("blimp", "aoa")
    assert average.missing == ("supplement", "ewok", "entity_tracking", "comps", "glue", "reading", "wug_adj", "wug_past")
    assert (average.name, average.partial, average.marks) == ("2025 text average", (), ())


def test_a_task_that_is_there_in_part_is_named_with_its_part() -> None:
    table = [row("blimp", "a", 60.0), row("blimp", "b", 80.0), row("mrpc", "mrpc", 50.0), row("rte", "rte", 70.0)]
    table += [row("entity_tracking", "regular_0_ops", 30.0), row("entity_tracking", "regular_1_ops", 50.0)]
    average = by_name(table)["Findings NLP (in part)"]
    assert average.value == pytest.approx((70 + 60 + 40) / 3)
    assert average.partial == ("blimp (2 of 67 UIDs)", "entity_tracking (1 of 3 splits)", "glue (2 of 7 tasks)")


def test_a_score_that_is_no_number_is_missing_and_says_so() -> None:
    average = by_name([row("wug_adj", "wug_adj", math.nan), row("wug_past", "wug_past", 0.2)])["Findings human-likeness"]
    assert average.value == pytest.approx(20.0)
    assert "wug_adj (no number)" in average.missing


def test_averages_over_nothing_have_no_value() -> None:
    assert all(average.value is None and not average.entered for average in averages([]))
    assert by_name(rows({"blimp": 70.0}))["Findings"].value is None


def test_2026_overall_is_over_nine_and_says_whose_candidates_were_scored() -> None:
    average = by_name(rows({"blimp": 70.0, "ewok": 50.0, "comps": 60.0}, "honest"))["2026 overall"]
    assert len(average.entered) + len(average.missing) == 9
    assert average.notes == ("ewok with the candidates of 2025, not 2026",)
    assert by_name(rows({"ewok": 50.0}, "2026"))["2026 overall"].notes == ()


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="unit furlong"):
        averages([ScoreRow("blimp", "a", 1, 1.0, "furlong", 1.0, 0, 0, "2025", "mlm")])


def test_averages_over_approximate_scores_say_so_in_their_name() -> None:
    table = [ScoreRow("blimp", "a", 1, 50.0, "percent", 1.0, 0, 0, "2025", "mlm_bf16"), row("wug_adj", "wug_adj", 0.1)]
    averages_of = by_name(table)
    assert averages_of["2025 text average (in part, mlm_bf16)"].notes == ("scored by mlm_bf16: not the official scoring",)
    assert averages_of["Findings human-likeness"].notes == ()


def test_averages_over_parts_of_the_official_sets_are_called_so() -> None:
    table = [*rows({"blimp": 70.0, "wug_adj": 0.1}), row("mrpc", "mrpc", 50.0)]
    marks = {"blimp": ("fast", "20 items of every UID"), "wug_adj": ("fast",), "mrpc": ("pilot",)}
    assert [average.name for average in averages(table, marks)] == [
        "2025 text average (fast, 20 items of every UID, pilot, in part)",  # in part: one of seven fine-tuned tasks
        "Findings NLP (fast, 20 items of every UID, pilot, in part)",
        "Findings human-likeness (fast)",
        "Findings (fast, 20 items of every UID, pilot, in part)",
        "2026 overall (fast, 20 items of every UID, pilot, in part)",
    ]
    human = averages(table, marks)[2]
    assert (human.kind, human.value, human.entered) == ("Findings human-likeness", pytest.approx(10.0), ("wug_adj",))


def test_a_task_with_fewer_items_than_the_official_files_is_there_in_part() -> None:
    uids = [str(i) for i in range(67)]
    for n, partial, mark in ((200, ("blimp (13,400 of 59,875 items)",), " (in part)"), (900, (), "")):
        average = by_name([row("blimp", uid, 50.0, n=n) for uid in uids])[f"Findings NLP{mark}"]
        assert average.partial == partial


def test_a_fast_set_with_fewer_uids_than_it_has_is_in_part_and_its_one_split_is_not() -> None:
    table = [row("entity_tracking", "regular_0_ops", 30.0)]
    assert averages(table, {"entity_tracking": ("fast",)})[1].name == "Findings NLP (fast)"
    table += [row("blimp", "a", 60.0)]
    marks = dict.fromkeys(("entity_tracking", "blimp"), ("fast",))
    assert averages(table, marks)[1].name == "Findings NLP (fast, in part)"
