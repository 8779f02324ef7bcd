"""What one model gained and lost against another, item by item."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sleep_tune.errors import UserError
from sleep_tune.evaluation.comparison import ALL, Comparison, compare, learning_curves, main, sign_test, trial_curves
from sleep_tune.evaluation.margins import Items, find_items, milestone_file, read_items, write_items
from sleep_tune.evaluation.scores import CandidateScores, TaskResult, result_of
from sleep_tune.evaluation.tasks import Item, TaskItems


def result(task: str, margins: dict[str, list[float]], rules: str = "honest", word: str = "right") -> TaskResult:
    """A result whose items, by UID, have these margins; NaN makes a score that is no number."""
    items = tuple(
        Item(uid, i, (f"{word} {uid} {i}", "wrong"), (f"{word} {uid} {i}", "wrong"), {"UID": uid}, 0.5)
        for uid, values in margins.items()
        for i in range(len(values))
    )
    scores = np.array([[value, 0.0] for values in margins.values() for value in values], dtype=np.float32)
    scored = CandidateScores(scores.ravel(), np.zeros(scores.size, bool), None)
    return result_of(TaskItems(task, "set", rules, 0, items), "mlm", scored, np.arange(scores.size).reshape(-1, 2))


def items_of(path: Path, *results: TaskResult) -> Items:
    write_items(path, results)
    return read_items(path)


def compared(tmp_path: Path, a: dict[str, list[float]], b: dict[str, list[float]], task: str = "blimp") -> Comparison:
    return compare(items_of(tmp_path / "a.parquet", result(task, a)), items_of(tmp_path / "b.parquet", result(task, b)))


def test_gained_and_lost_items_are_counted_by_task_and_uid(tmp_path: Path) -> None:
    a, b = {"x": [1, 1, -1, -1], "y": [-1, -1]}, {"x": [1, -2, 2, 3], "y": [-3, 4]}
    table = {change.uid: change for change in compared(tmp_path, a, b).changes}
    assert list(table) == [ALL, "x", "y"]
    assert (table["x"].a, table["x"].b, table["x"].gained, table["x"].lost) == (50.0, 75.0, 2, 1)
    assert (table["y"].gained, table["y"].lost, table["y"].rose, table["y"].fell) == (1, 0, 1, 1)
    assert (table[ALL].a, table[ALL].b, table[ALL].gained, table[ALL].lost) == (25.0, 62.5, 3, 1)
    assert table[ALL].difference == 37.5  # the mean over UIDs, as the task's score, not over items
    assert table[ALL].p == pytest.approx(binomtest(1, 4).pvalue)


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_test_is_the_exact_binomial_one(up: int, down: int) -> None:
    expected = binomtest(min(up, down), up + down).pvalue if up + down else 1.0
    assert sign_test(up, down) == pytest.approx(expected, rel=1e-9)


def test_p_values_of_uids_allow_for_how_many_there_are(tmp_path: Path) -> None:
    a = {"x": [-1.0] * 8, "y": [-1.0] * 8, "z": [1.0]}
    b = {"x": [1.0] * 8, "y": [1.0] * 7 + [-1.0], "z": [1.0]}
    table = {change.uid: change for change in compared(tmp_path, a, b).changes}
    assert table["x"].p_holm == pytest.approx(3 * table["x"].p)
    assert table["y"].p_holm == pytest.approx(2 * table["y"].p)
    assert table["z"].p_holm == 1.0


def test_a_tie_that_is_resolved_is_a_gain_and_a_nan_a_loss(tmp_path: Path) -> None:
    found = compared(tmp_path, {"x": [0.0, 2.0]}, {"x": [1.0, float("nan")]})
    [_, change] = found.changes
    assert (change.gained, change.lost, change.rose, change.fell) == (1, 1, 1, 0)
    assert found.notes == ("1 items have a score that is not a number in A or B",)


def test_items_of_one_model_only_and_other_texts_are_left_out_and_named(tmp_path: Path) -> None:
    a = items_of(
        tmp_path / "a.parquet", result("blimp", {"x": [1, 1, 1]}), result("ewok", {"e": [1]}), result("wug_adj", {"wug_adj": [1, 2]})
    )
    b = items_of(
        tmp_path / "b.parquet",
        result("blimp", {"x": [1, 1]}),
        result("ewok", {"e": [1]}, word="other"),
        result("wug_adj", {"wug_adj": [1, 2]}),
    )
    found = compare(a, b)
    assert [change.task for change in found.changes] == ["blimp", "blimp"]
    assert found.changes[0].n == 2
    assert any("only in A" in note for note in found.notes)
    assert any("another text" in note for note in found.notes)
    assert any("wug_adj: no right answers" in note for note in found.notes)
    with pytest.raises(UserError, match="no item in common"):
        compare(a, items_of(tmp_path / "c.parquet", result("supplement", {"s": [1]})))


def test_entity_tracking_is_averaged_as_its_score_is(tmp_path: Path) -> None:
    a = {"regular_0_ops": [1.0], "regular_1_ops": [-1.0], "ambiref_0_ops": [1.0]}
    [whole, *_] = compared(tmp_path, a, a, "entity_tracking").changes
    assert whole.a == 75.0


def test_learning_curves_have_a_row_a_checkpoint_and_uid(tmp_path: Path) -> None:
    for words, margins in ((1000, [-1.0, 1.0]), (2000, [1.0, 1.0]), (4000, [1.0, -1.0])):
        write_items(milestone_file(tmp_path, words), [result("blimp", {"x": margins})])
    columns = trial_curves(tmp_path)
    whole = [i for i, uid in enumerate(columns["uid"]) if uid == ALL]
    assert [columns["words_seen"][i] for i in whole] == [1000, 2000, 4000]
    assert [columns["score"][i] for i in whole] == [50.0, 100.0, 50.0]
    assert [(columns["gained"][i], columns["lost"][i]) for i in whole] == [(0, 0), (1, 0), (0, 1)]
    assert learning_curves({})["task"] == []


def test_the_command_compares_milestones_of_a_trial_and_writes_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial, out = tmp_path / "trial", tmp_path / "out"
    write_items(milestone_file(trial, 1000), [result("blimp", {"x": [-1.0, 1.0, 1.0]})])
    write_items(trial / "evaluation" / "items.parquet", [result("blimp", {"x": [1.0, -1.0, 1.0]})])
    assert main([f"{trial}@1000", str(trial), "--out", str(out)]) == 0
    assert "blimp" in capsys.readouterr().out
    rows = pq.read_table(out / "items.parquet").to_pylist()
    assert [(row["item"], row["gained"], row["margin_a"], row["margin_b"]) for row in rows] == [(0, True, -1.0, 1.0), (1, False, 1.0, -1.0)]
    [row, _] = pq.read_table(out / "comparison.parquet").to_pylist()
    assert (row["gained"], row["lost"], row["p"]) == (1, 1, 1.0)


def refused(tmp_path: Path, place: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_items(find_items(str(place), "A"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_places_are_refused_in_one_line(tmp_path: Path) -> None:
    trial = tmp_path / "trial"
    write_items(milestone_file(trial, 1000), [result("blimp", {"x": [1.0]})])
    assert "no such directory" in refused(tmp_path, tmp_path / "nowhere")
    assert f"it holds {trial}@1000" in refused(tmp_path, trial)
    assert "kept: 1000" in refused(tmp_path, f"{trial}@7")
    (tmp_path / "x.parquet").write_text(json.dumps([1]))
    assert "not a table of items" in refused(tmp_path, tmp_path / "x.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(milestone_file(trial, 1000).read_bytes()[:-40])
    assert "damaged" in refused(tmp_path, cut)
