"""Aggregates, standard errors and the official report, by hand."""

import math

import numpy as np
import pytest

from sleep_tune.evaluation.official_layout import predictions, report
from sleep_tune.evaluation.scores import CandidateScores, TaskResult, result_of, task_rows, task_score, task_stderr
from sleep_tune.evaluation.tasks import Item, TaskItems

NAN = float("nan")


def result(task: str, scores: list[list[float]], uids: list[str], ratios: list[float] | None = None, rules: str = "honest") -> TaskResult:
    """Items with the given candidate scores."""
    table = np.array(scores, dtype=np.float32)
    names = tuple(f"c{c}" for c in range(table.shape[1]))
    counts: dict[str, int] = {}
    items = []
    for i, uid in enumerate(uids):
        counts[uid] = counts.get(uid, -1) + 1
        items.append(Item(uid, counts[uid], names, names, {"UID": uid}, ratios[i] if ratios else 0.0))
    index = np.arange(table.size).reshape(table.shape)
    return result_of(
        TaskItems(task, "set", rules, 0, tuple(items)), "mlm", CandidateScores(table.ravel(), np.zeros(table.size, bool), None), index
    )


def test_a_task_score_is_the_unweighted_mean_over_uids() -> None:
    rows = result("pairs", [[1, 0], [1, 0], [0, 1], [0, 0]], ["a", "a", "a", "b"]).rows
    assert [(row.uid, row.n, row.score, row.ties, row.unit) for row in rows] == [
        ("a", 3, pytest.approx(200 / 3), 0, "percent"),
        ("b", 1, 50.0, 1, "percent"),
    ]
    assert task_score(rows) == pytest.approx((200 / 3 + 50) / 2)
    assert rows[0].stderr == pytest.approx(100 * math.sqrt(1 / 3) / math.sqrt(3))  # sample SD of (1, 1, 0) is sqrt(1/3)
    assert task_stderr(rows) == pytest.approx(math.hypot(rows[0].stderr, 50.0) / 2)


def test_entity_tracking_averages_numops_within_a_split_and_then_splits() -> None:
    uids = ["regular_0_ops", "regular_1_ops", "ambiref_0_ops", "move_contents_5_ops"]
    scored = result("entity_tracking", [[1, 0], [0, 1], [0, 1], [1, 0]], uids)
    assert task_score(scored.rows) == pytest.approx((50 + 0 + 100) / 3)
    lines = report(scored).splitlines()
    assert lines[3:10] == [
        "regular_0_ops: 100.00",
        "regular_1_ops: 0.00",
        "ambiref_0_ops: 0.00",
        "move_contents_5_ops: 100.00",
        "regular: 50.00",
        "ambiref: 0.00",
        "move_contents: 100.00",
    ]
    assert lines[-2] == "50.00"


def test_wug_is_the_rank_correlation_of_the_probability_of_candidate_0() -> None:
    scored = result("wug_adj", [[0, 0], [1, 0], [2, 0], [3, 0]], ["wug_adj"] * 4, [0.1, 0.3, 0.2, 0.9])
    [row] = scored.rows
    assert row.unit == "rho"
    assert row.score == pytest.approx(1 - 6 * 2 / (4 * 15))  # two neighbours swapped: sum of squared rank differences is 2
    assert row.stderr == pytest.approx((1 - 0.8**2) * math.sqrt((1 + 0.8**2 / 2) / 1))
    assert predictions(scored)["wug_adj"]["predictions"][1]["prob"] == pytest.approx(math.e / (1 + math.e))


def test_a_model_that_tells_nothing_apart_has_the_error_of_coins() -> None:
    [row] = result("pairs", [[1.0, 1.0]] * 200, ["a"] * 200).rows
    assert row.score == 50.0
    assert row.stderr == pytest.approx(100 * 0.5 / math.sqrt(204))


@pytest.mark.parametrize("right", [[1.0, 0.0], [0.0, 1.0]])
def test_a_few_items_all_right_or_all_wrong_leave_room_for_error(right: list[float]) -> None:
    """Two right and two wrong answers more (Agresti and Coull): of 4 items, 6 of 8 or 2 of 8."""
    errors = [result("pairs", [right] * n, ["a"] * n).rows[0].stderr for n in (1, 4, 1000)]
    assert errors == [50.0, pytest.approx(100 * math.sqrt(0.75 * 0.25 / 8)), pytest.approx(0.141, abs=0.001)]


def test_a_correlation_of_too_few_items_has_the_largest_error() -> None:
    for n, scores in ((3, [[0, 0], [2, 0], [1, 0]]), (4, [[0, 0], [1, 0], [2, 0], [3, 0]])):  # the latter is perfect
        [row] = result("wug_past", scores, ["wug_past"] * n, [0.1, 0.2, 0.3, 0.4][:n]).rows
        assert row.stderr == 1.0


def test_a_correlation_that_does_not_exist_is_0_honestly_and_nan_officially() -> None:
    for scores in ([[NAN, NAN]] * 3, [[1, 0]] * 3):
        assert result("wug_past", scores, ["wug_past"] * 3, [0.1, 0.2, 0.3]).rows[0].score == 0
        assert math.isnan(result("wug_past", scores, ["wug_past"] * 3, [0.1, 0.2, 0.3], rules="2025").rows[0].score)


def test_rows_of_several_tasks_are_told_apart() -> None:
    rows = result("pairs", [[1, 0]], ["a"]).rows + result("blimp", [[0, 1]], ["a"]).rows
    assert {task: task_score(table) for task, table in task_rows(rows).items()} == {"pairs": 100, "blimp": 0}
    with pytest.raises(ValueError, match="several tasks"):
        task_score([rows[0], rows[1].__class__(**(rows[1].__dict__ | {"uid": "b"}))])


def test_margins_are_positive_where_the_right_candidate_wins() -> None:
    scored = result("pairs", [[-1.5, -2], [-3, -2]], ["a", "a"])
    assert scored.margin_I == pytest.approx([0.5, -1])
