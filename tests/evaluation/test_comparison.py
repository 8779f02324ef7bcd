"""What one model gained and lost against another, item by item."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sleep_tune.errors import UserError
from sleep_tune.evaluation.comparison import ALL, Comparison, compare, main
from sleep_tune.evaluation.finetune_settings import f1
from sleep_tune.evaluation.item_curves import curve_files, learning_curves
from sleep_tune.evaluation.margins import Items, find_items, milestone_file, milestone_files, read_items, write_items
from sleep_tune.evaluation.paired_tests import Answers, f1_test, sign_test
from sleep_tune.evaluation.result_files import write_table
from sleep_tune.evaluation.scores import CandidateScores, TaskResult, result_of
from sleep_tune.evaluation.tasks import Item, TaskItems


def result(
    task: str,
    margins: dict[str, list[float]],
    rules: str = "honest",
    word: str = "right",
    backend: str = "mlm",
    dataset: str = "set",
    first: int = 0,
) -> TaskResult:
    """A result whose items, by UID, have these margins; NaN makes a score that is no number. Texts count from `first`."""
    items = tuple(
        Item(uid, i, (f"{word} {uid} {first + i}", "wrong"), (f"{word} {uid} {first + i}", "wrong"), {"UID": uid}, 0.5)
        for uid, values in margins.items()
        for i in range(len(values))
    )
    scores = np.array([[value, 0.0] for values in margins.values() for value in values], dtype=np.float32)
    scored = CandidateScores(scores.ravel(), np.zeros(scores.size, bool), None)
    return result_of(TaskItems(task, dataset, rules, 0, items), backend, scored, np.arange(scores.size).reshape(-1, 2))


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
    assert found.notes == ("blimp: 1 of 2 items have no score (NaN) in B: no answers of that model",)


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
    assert "1 item is only in A (blimp), left out" in found.notes
    assert "1 item of A has another text in B (other rules or data), left out" in found.notes
    assert any("wug_adj: no right answers" in note for note in found.notes)
    with pytest.raises(UserError, match="no item in common"):
        compare(a, items_of(tmp_path / "c.parquet", result("supplement", {"s": [1]})))


def one(tmp_path: Path, *results: TaskResult, name: str = "one") -> Items:
    return items_of(tmp_path / f"{name}.parquet", *results)


def test_items_are_kept_with_backend_rules_and_dataset(tmp_path: Path) -> None:
    write_items(
        tmp_path / "a.parquet", [result("blimp", {"x": [1]}, "2025", backend="mntp", dataset="blimp_fast"), result("ewok", {"e": [1]})]
    )
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [(row["backend"], row["rules"], row["dataset"]) for row in rows] == [("mntp", "2025", "blimp_fast"), ("mlm", "honest", "set")]


def test_sides_that_were_scored_by_other_rules_are_refused_in_one_line(tmp_path: Path) -> None:
    a = one(tmp_path, result("blimp", {"x": [1.0]}), result("ewok", {"e": [1.0]}))
    b = one(tmp_path, result("blimp", {"x": [1.0]}, "2025"), result("ewok", {"e": [1.0]}))
    with pytest.raises(UserError, match=r"^blimp: rules honest in A, 2025 in B: .* score both by the same rules$"):
        compare(a, b)
    assert compare(one(tmp_path, result("ewok", {"e": [1.0]})), b).notes[0] == "1 item is only in B (blimp), left out"


def test_other_backends_are_compared_and_named(tmp_path: Path) -> None:
    a = one(tmp_path, result("blimp", {"x": [1.0]}), result("ewok", {"e": [1.0]}))
    b = one(tmp_path, result("blimp", {"x": [1.0]}, backend="causal"), result("ewok", {"e": [1.0]}, backend="causal"))
    assert compare(a, b).notes == ("blimp, ewok: backend mlm in A, causal in B",)
    assert compare(a, a).notes == ()


def test_a_fast_set_finds_its_items_in_the_full_set(tmp_path: Path) -> None:
    """The items of the fast set have other numbers in the full one: their texts tell."""
    full = one(tmp_path, result("blimp", {"x": [1.0, -1.0, 1.0, -1.0]}, dataset="blimp_filtered"))
    fast = one(tmp_path, result("blimp", {"x": [1.0, 1.0]}, dataset="blimp_fast", first=2))
    found = compare(full, fast)
    assert [(change.n, change.gained, change.lost) for change in found.changes] == [(2, 1, 0)] * 2
    assert found.notes == ("blimp: dataset blimp_filtered in A, blimp_fast in B", "2 items are only in A (blimp), left out")


def test_an_item_that_is_there_twice_has_two_partners(tmp_path: Path) -> None:
    twice = result("blimp", {"x": [1.0, -1.0]})
    same = twice.items.items[0]
    items = TaskItems("blimp", "set", "honest", 0, (same, Item(same.uid, 1, same.sentences, same.completions, same.metadata)))
    doubled = one(tmp_path, TaskResult(items, "mlm", twice.scores_IC, twice.valid_IC, twice.too_long_I, twice.decisions, None, False))
    [whole, _] = compare(doubled, doubled).changes
    assert (whole.n, whole.gained, whole.lost) == (2, 0, 0)


def test_files_that_do_not_say_what_they_rest_on_are_compared_with_a_note(tmp_path: Path) -> None:
    write_items(tmp_path / "new.parquet", [result("blimp", {"x": [1.0]})])
    table = pq.read_table(tmp_path / "new.parquet").drop_columns(["backend", "rules", "dataset", "label"])
    pq.write_table(table, tmp_path / "old.parquet")
    found = compare(read_items(tmp_path / "old.parquet"), read_items(tmp_path / "new.parquet"))
    assert [note.split(" (")[0] for note in found.notes] == [f"blimp: {name} not said in A" for name in ("backend", "rules", "dataset")]


def tuned(tmp_path: Path, labels: Sequence[int], *seeds: Sequence[int], task: str = "mrpc") -> Items:
    """Items of a fine-tuned task whose rows were given these labels (-1: NaN) by each seed."""
    n = len(labels)
    credit = np.mean([np.equal(labels, chosen) for chosen in seeds], axis=0)
    columns = {"task": [task] * n, "uid": [task] * n, "item": range(n), "text": range(n), "margin": np.zeros(n), "credit": credit}
    columns |= {"tie": np.zeros(n, bool), "nan": np.equal(seeds[0], -1), "chosen": seeds[0], "label": labels}
    columns |= {"backend": ["mlm"] * n, "rules": ["honest"] * n, "dataset": ["glue_filtered"] * n}
    write_table(tmp_path / "tuned.parquet", {name: np.asarray(values) for name, values in columns.items()})
    return read_items(tmp_path / "tuned.parquet")


def test_a_task_that_is_scored_by_f1_shows_f1(tmp_path: Path) -> None:
    labels, a, b = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], [1, 0, -1, 0, -1, 1]
    [whole, uid] = compare(tuned(tmp_path, labels, a), tuned(tmp_path, labels, b)).changes
    assert (whole.measure, uid.measure) == ("F1", "F1")
    assert whole.a == pytest.approx(100 * f1(np.array(labels), np.array(a)))  # 2 * 2 / (3 + 3)
    assert (whole.a, whole.b) == (pytest.approx(200 / 3), pytest.approx(40.0))
    assert (whole.gained, whole.lost) == (1, 3)
    assert (whole.p, whole.p_holm) == (uid.p, uid.p_holm)
    [rte, _] = compare(tuned(tmp_path, labels, a, task="rte"), tuned(tmp_path, labels, b, task="rte")).changes
    assert (rte.measure, rte.a, rte.p) == ("accuracy", pytest.approx(400 / 6), pytest.approx(binomtest(1, 4).pvalue))


def test_f1_of_several_seeds_is_not_tested_and_says_what_it_is(tmp_path: Path) -> None:
    labels, a, b = [1, 1, 0, 0], [[1, 0, 0, 0], [1, 1, 1, 0]], [[1, 1, 0, 0], [1, 1, 0, 1]]
    found = compare(tuned(tmp_path, labels, *a), tuned(tmp_path, labels, *b))
    [whole, uid] = found.changes
    assert whole.a == pytest.approx(100 * 2 * 3 / (4 + 4))  # both seeds' rows together: 3 hits, 4 named
    assert np.isnan([whole.p, uid.p, uid.p_holm]).all()
    assert found.notes == ("mrpc: F1 over the answers of all seeds together, not the mean of the seeds' F1; no test of it is made",)


def test_without_labels_accuracy_is_shown_and_says_so(tmp_path: Path) -> None:
    a, b = tuned(tmp_path, [1, 0], [1, 1]), tuned(tmp_path, [1, 0], [1, 0])
    assert compare(Items(**(vars(a) | {"label": np.full(2, -1)})), b).changes[0].measure == "F1"  # B says them
    unsaid = [Items(**(vars(side) | {"label": np.full(2, -1)})) for side in (a, b)]
    found = compare(*unsaid)
    assert (found.changes[0].measure, found.changes[0].a) == ("accuracy", 50.0)
    assert "its score is F1, but the items do not say their labels" in found.notes[0]


ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 1), st.integers(-1, 1)), min_size=1, max_size=7)


@given(ROWS)
def test_the_test_of_f1_is_the_exact_randomisation_test(rows: list[tuple[int, int, int]]) -> None:
    labels, a, b = (np.array(column) for column in zip(*rows, strict=True))

    def answers(chosen: Any) -> Answers:
        return Answers(labels == 1, (labels == 1) & (chosen == 1), (labels == 0) & (chosen == 1))

    observed = abs(f1(labels, a) - f1(labels, b))
    dealt = []
    for swap in itertools.product([False, True], repeat=len(rows)):
        dealt.append(abs(f1(labels, np.where(swap, b, a)) - f1(labels, np.where(swap, a, b))))
    assert f1_test(answers(a), answers(b)) == pytest.approx(np.mean(np.array(dealt) >= observed - 1e-12))


def test_the_test_of_f1_is_quick_for_the_largest_task() -> None:
    generator = np.random.default_rng(0)
    labels, a, b = generator.integers(0, 2, (3, 20_215))
    one, two = (Answers(labels == 1, (labels == 1) & (chosen == 1), (labels == 0) & (chosen == 1)) for chosen in (a, b))
    assert 0 < f1_test(one, two) <= 1


def test_entity_tracking_is_averaged_as_its_score_is(tmp_path: Path) -> None:
    a = {"regular_0_ops": [1.0], "regular_1_ops": [-1.0], "ambiref_0_ops": [1.0]}
    [whole, *_] = compared(tmp_path, a, a, "entity_tracking").changes
    assert whole.a == 75.0


def test_learning_curves_have_a_row_a_checkpoint_and_uid(tmp_path: Path) -> None:
    for words, margins in ((1000, [-1.0, 1.0]), (2000, [1.0, 1.0]), (4000, [1.0, -1.0])):
        write_items(milestone_file(tmp_path, words), [result("blimp", {"x": margins})])
    columns = learning_curves({words: read_items(path) for words, path in milestone_files(tmp_path).items()}).columns
    whole = [i for i, uid in enumerate(columns["uid"]) if uid == ALL]
    assert [columns["words_seen"][i] for i in whole] == [1000, 2000, 4000]
    assert [columns["score"][i] for i in whole] == [50.0, 100.0, 50.0]
    assert [(columns["gained"][i], columns["lost"][i]) for i in whole] == [(None, None), (1, 0), (0, 1)]
    assert learning_curves({}).columns["task"] == []


def test_curves_name_what_has_no_right_answers_once(tmp_path: Path) -> None:
    items = one(tmp_path, result("blimp", {"x": [1.0]}), result("wug_past", {"wug_past": [1.0, 2.0]}))
    curves = learning_curves({1000: items, 2000: items})
    assert curves.notes == ("wug_past: no right answers to gain or lose, left out",)
    assert set(curves.columns["task"]) == {"blimp"}


def test_curves_of_a_trial_end_in_its_final_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, margins in ((1000, [-1.0, 1.0]), (2000, [1.0, 1.0])):
        write_items(milestone_file(tmp_path, words), [result("blimp", {"x": margins})])
    write_items(tmp_path / "evaluation" / "items.parquet", [result("blimp", {"x": [1.0, 1.0, -1.0]}), result("ewok", {"e": [1.0]})])
    for words in (1996, 2000):  # a budget is not passed, so a little less may have been read than it says
        (tmp_path / "final.json").write_text(json.dumps({"words_seen": words}))
        assert main(["--curves", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
        shown = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
        assert [[cell.strip() for cell in (*line[:4], *line[-2:])] for line in shown] == [
            ["blimp", "1k", "2", "50.00", "–", "–"],
            ["blimp", "2k", "2", "100.00", "1", "0"],
            ["blimp", "2k (end)", "3", "66.67", "0", "0"],
            ["ewok", "2k (end)", "1", "100.00", "–", "–"],
        ]
        rows = pq.read_table(tmp_path / "out" / "curves.parquet").to_pylist()
        assert {(row["words_seen"], row["end"]) for row in rows} == {(1000, False), (2000, False), (words, True)}
    (tmp_path / "final.json").write_text("{}")
    with pytest.raises(UserError, match=r"final\.json: damaged"):
        main(["--curves", str(tmp_path), "--out", str(tmp_path / "out")])


def test_an_end_of_other_rules_is_left_out_of_a_curve_and_one_of_more_items_says_what_is_of_the_few(tmp_path: Path) -> None:
    first, second = (one(tmp_path, result("blimp", {"x": margins})) for margins in ([-1.0, 1.0], [1.0, 1.0]))
    other = one(tmp_path, result("blimp", {"x": [1.0, 1.0]}, "2026"))
    curves = learning_curves({1000: first, 2000: second}, (2000, other))
    assert set(curves.columns["end"]) == {False}
    [note] = curves.notes
    assert note.startswith("2k (end) is left out: blimp: rules honest in 2k, 2026 in 2k (end)")
    more = one(tmp_path, result("blimp", {"x": [1.0] * 9}))
    assert (
        learning_curves({1000: first}, (2000, more)).notes[0]
        == "only 2 items are on both sides (of 2 of 1k and 9 of 2k (end)): gained and lost are of these alone"
    )


def test_curves_of_other_rules_are_refused_and_other_backends_named(tmp_path: Path) -> None:
    points = [
        one(tmp_path, result("blimp", {"x": [1.0]}, rules, backend=backend)) for rules, backend in (("honest", "mlm"), ("2025", "mlm"))
    ]
    with pytest.raises(UserError, match="blimp: rules honest in 1k, 2025 in 2k"):
        learning_curves(dict(zip((1000, 2000), points, strict=True)))
    points[1] = one(tmp_path, result("blimp", {"x": [1.0]}, backend="mntp"))
    assert learning_curves(dict(zip((1000, 2000), points, strict=True))).notes == ("blimp: backend mlm in 1k, mntp in 2k",)


def test_the_command_shows_curves_of_a_trial_of_an_evaluation_and_of_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial, out = tmp_path / "trial", tmp_path / "scores"
    for words in (1000, 2000):
        write_items(milestone_file(trial, words), [result("blimp", {"x": [1.0, 1.0 if words == 2000 else -1.0]})])
        write_items(out / "checkpoints" / f"chck_{words // 1000}K.parquet", [result("blimp", {"x": [1.0, -1.0]})])
    for places in ([trial], [out], [f"{trial}@1000", f"{out}@chck_2K"]):
        assert main(["--curves", *map(str, places), "--out", str(tmp_path / "out")]) == 0
        assert "written" in capsys.readouterr().out
        table = pq.read_table(tmp_path / "out" / "curves.parquet").to_pydict()
        assert table["words_seen"] == [1000, 1000, 2000, 2000]
    for bad, message in (
        ([str(tmp_path / "no")], "no such directory"),
        ([str(tmp_path)], "holds no items of milestones"),
        ([f"{trial}@1000", str(tmp_path / "x")], "must be named by the words it has seen"),
        ([f"{trial}@1000", f"{out}@chck_1K"], "another of 1k words is given"),
        ([str(tmp_path / "3c8e1fcf548e"), str(tmp_path / "0796f4637582")], "must be named by the words it has seen"),  # trials
    ):
        with pytest.raises(UserError, match=message):
            curve_files(bad)


def test_the_command_compares_milestones_of_a_trial_and_writes_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial, out = tmp_path / "trial", tmp_path / "out"
    write_items(milestone_file(trial, 1000), [result("blimp", {"x": [-1.0, 1.0, 1.0]})])
    write_items(trial / "evaluation" / "items.parquet", [result("blimp", {"x": [1.0, -1.0, 1.0]})])
    assert main([f"{trial}@1000", str(trial), "--out", str(out)]) == 0
    assert "blimp" in capsys.readouterr().out
    rows = pq.read_table(out / "items.parquet").to_pylist()
    assert [row["change"] for row in rows] == ["gained", "lost", "same"]
    assert [(row["item_a"], row["item_b"], row["margin_a"], row["margin_b"]) for row in rows[:2]] == [(0, 0, -1.0, 1.0), (1, 1, 1.0, -1.0)]
    [row, _] = pq.read_table(out / "comparison.parquet").to_pylist()
    assert (row["gained"], row["lost"], row["p"]) == (1, 1, 1.0)
    with pytest.raises(UserError, match="1 given: must be two, A and B"):
        main([str(trial), "--out", str(out)])


def test_uids_are_listed_where_answers_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, sign in (("a", -1.0), ("b", 1.0)):
        margins = {f"same_{i}": [1.0, 2.0] for i in range(20)} | {"moved": [sign, 1.0]}
        write_items(tmp_path / f"{name}.parquet", [result("blimp", margins)])
    places = [str(tmp_path / f"{name}.parquet") for name in "ab"]
    assert main([*places, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "1 of 21 UIDs have items gained or lost" in " ".join(shown.split())
    assert "blimp moved" in shown
    assert "blimp same" not in shown
    assert main([places[0], places[0], "--out", str(tmp_path / "out")]) == 0
    assert "of 21 UIDs" not in capsys.readouterr().out


def test_few_items_in_common_are_said_before_anything_else(tmp_path: Path) -> None:
    a, b = (one(tmp_path, result("blimp", {"x": [1.0] * 5}, first=first)) for first in (0, 4))
    assert compare(a, b).notes[0] == "only 1 item is on both sides (of 5 of A and 5 of B): the numbers here are of these alone"
    assert compare(a, a).notes == ()


def test_the_command_shows_the_sentences_of_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"sentence_good": f"right x {i}", "sentence_bad": "wrong", "UID": "x"}) + "\n" for i in range(3)))
    for name, margins in (("a", [-1.0, 1.0, 1.0]), ("b", [2.0, 1.0, 1.0])):
        write_items(tmp_path / name / "items.parquet", [result("pairs", {"x": margins})])
    places = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out"), "--evaluation-data"]
    assert main([*places, str(data)]) == 0
    assert "gained: pairs x_0, margin -1.00 -> +2.00 nats: 'right x 0' | 'wrong'" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out" / "items.parquet")["sentences"].to_pylist()[1] == ["right x 1", "wrong"]
    with pytest.raises(UserError, match="no such file or directory"):
        main([*places, str(tmp_path / "nowhere")])


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
    assert "no task has been scored there yet" in refused(tmp_path, tmp_path)
    assert "kept: 1000" in refused(tmp_path, f"{trial}@7")
    assert "no items of a checkpoint chck_1M (kept: 1000)" in refused(tmp_path, f"{trial}@chck_1M")
    assert "no such directory" in refused(tmp_path, f"{tmp_path}/no@chck_1M")
    (tmp_path / "x.parquet").write_text(json.dumps([1]))
    assert "not a table of items" in refused(tmp_path, tmp_path / "x.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(milestone_file(trial, 1000).read_bytes()[:-40])
    assert "damaged" in refused(tmp_path, cut)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("task", [None, None], "column task: null, must be texts"),
        ("task", [1, 2], "column task: int64, must be texts"),
        ("uid", ["x", None], "column uid: values missing in 1 rows"),
        ("item", ["0", "1"], "column item: string, must be whole numbers"),
        ("rules", [["honest"], ["honest"]], "column rules: list<.*>, must be texts"),
        ("rules", [None, "honest"], "column rules: values missing in 1 rows"),
        ("credit", [1.0, float("nan")], "column credit = nan of blimp: must be from 0 to 1"),
        ("credit", [None, 1.0], "column credit: values missing in 1 rows"),
        ("credit", [1.0, 9.0], "column credit = 9 of blimp: must be from 0 to 1"),
        ("margin", ["a", "b"], "column margin: string, must be numbers"),
        ("nan", [0, 1], "column nan: int64, must be true or false"),
    ],
)
def test_a_damaged_column_is_named(column: str, values: list[Any], message: str, tmp_path: Path) -> None:
    write_items(tmp_path / "whole.parquet", [result("blimp", {"x": [1.0, -1.0]})])
    table = pq.read_table(tmp_path / "whole.parquet")
    damaged = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    pq.write_table(damaged, tmp_path / "damaged.parquet")
    refused_with = refused(tmp_path, tmp_path / "damaged.parquet")
    assert "not a table of items, or a damaged one" in refused_with
    assert re.search(message, refused_with)


def test_items_of_reading_have_no_credit(tmp_path: Path) -> None:
    write_items(tmp_path / "whole.parquet", [result("blimp", {"x": [1.0, -1.0]})])
    table = pq.read_table(tmp_path / "whole.parquet")
    for column, value in (("task", "reading"), ("credit", float("nan"))):
        table = table.set_column(table.schema.get_field_index(column), column, pa.array([value] * 2))
    pq.write_table(table, tmp_path / "reading.parquet")
    assert len(read_items(tmp_path / "reading.parquet")) == 2
