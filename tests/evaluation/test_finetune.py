"""Fine-tuned tasks: official settings, metrics by hand, a small model that learns, runs that go on, official files."""

import copy
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sleep_tune.errors import UserError
from sleep_tune.evaluation.__main__ import main
from sleep_tune.evaluation.finetune import Epoch, Outcome, encode, finetune, longest_row
from sleep_tune.evaluation.finetune_data import How, Tuned, Work, finetune_works, load_works
from sleep_tune.evaluation.finetune_results import items_of, notes, score_row, write_tuned
from sleep_tune.evaluation.finetune_settings import (
    GLUE,
    SOURCES,
    Settings,
    accuracy,
    chosen_labels,
    f1,
    learning_rate,
    mcc,
    metric_stderr,
    settings_table,
)
from sleep_tune.evaluation.tasks import Item

NAN = float("nan")
FAST = {"learning_rate": 2e-3, "epochs": 4}


def quiet(what: str) -> Callable[[int, int], None]:
    return lambda done, of: None


def reference(shared_data: Path) -> tuple[Any, Any]:
    """The tiny RoBERTa whose official scores are known, and its tokenizer."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    directory = shared_data / "official_reference" / "model"
    return AutoModelForMaskedLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


def write_glue(data: Path, task: str, train: list[dict[str, Any]], valid: list[dict[str, Any]]) -> Path:
    """A folder that holds one task, unpacked."""
    directory = data / "full_eval" / "glue_filtered"
    directory.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("valid", valid)):
        (directory / f"{task}.{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def rte_rows(count: int) -> list[dict[str, Any]]:
    """Rows whose label is their last word."""
    return [{"sentence1": f"The cat {i} sleeps.", "sentence2": ("yes", "no")[i % 2], "label": i % 2, "idx": i} for i in range(count)]


def test_every_setting_of_every_task_has_a_value_and_a_source() -> None:
    table = settings_table()
    assert set(SOURCES) == {field.name for field in fields(Settings)} - {"task"}
    assert len(table) == len(GLUE) * len(SOURCES)
    assert all(source for *_, source in table)
    found = {task: (row.batch_rows, row.epochs, row.labels, row.selection, row.score) for task, row in GLUE.items()}
    assert found == {
        "boolq": (16, 10, 2, "accuracy", "accuracy"),
        "mnli": (32, 10, 3, "accuracy", "accuracy"),
        "mrpc": (32, 10, 2, "f1", "f1"),
        "multirc": (16, 10, 2, "accuracy", "accuracy"),
        "qqp": (32, 10, 2, "f1", "f1"),
        "rte": (32, 10, 2, "accuracy", "accuracy"),
        "wsc": (32, 30, 2, "accuracy", "accuracy"),
    }


def test_the_learning_rate_rises_from_nothing_and_falls_to_a_tenth_on_a_cosine() -> None:
    rates = [learning_rate(GLUE["rte"], step, 100) / 3e-5 for step in range(101)]
    assert rates[0] == 0
    assert rates[3] == pytest.approx(0.5)  # 6 steps of warm-up
    assert rates[6] == pytest.approx(1.0)
    assert rates[53] == pytest.approx(0.55)  # half-way down
    assert rates[100] == pytest.approx(0.1)


def test_metrics_by_hand() -> None:
    label_I, chosen_I = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 0, 1, 0, -1])
    assert accuracy(label_I, chosen_I) == pytest.approx(3 / 6)
    assert f1(label_I, chosen_I) == pytest.approx(2 * 2 / 6)
    assert mcc(label_I, chosen_I) == pytest.approx((2 * 2 - 1 * 1) / (3 * 3 * 3 * 3) ** 0.5)
    nothing_I = np.zeros(6, dtype=np.int64)
    assert f1(label_I, nothing_I) == 0
    assert mcc(label_I, nothing_I) == 0


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_the_standard_error_over_rows_is_the_bootstraps(metric: str) -> None:
    generator = np.random.default_rng(0)
    label_I = generator.integers(0, 2, 400)
    chosen_I = np.where(generator.random(400) < 0.75, label_I, 1 - label_I)
    draws = (generator.integers(0, 400, 400) for _ in range(2000))
    score = {"accuracy": accuracy, "f1": f1}[metric]
    assert metric_stderr(metric, label_I, chosen_I) == pytest.approx(np.std([score(label_I[i], chosen_I[i]) for i in draws]), rel=0.08)


def test_the_error_of_an_f1_of_all_or_nothing_is_that_of_the_rows_it_counts() -> None:
    label_I = np.array([1, 1, 0, 0, 0, 0])
    all_right, none_right = metric_stderr("f1", label_I, label_I), metric_stderr("f1", label_I, 1 - label_I)
    assert 0 < all_right == metric_stderr("accuracy", label_I[:2], label_I[:2])  # of two rows that it counts
    assert 0 < none_right == metric_stderr("accuracy", label_I, 1 - label_I)  # of six
    assert none_right < all_right


def test_a_row_with_a_nan_is_wrong_but_to_the_pipelines() -> None:
    logits_IC = np.array([[NAN, 1.0], [0.0, NAN], [0.0, 1.0], [2.0, 2.0]])
    assert chosen_labels(logits_IC, "honest").tolist() == [-1, -1, 1, 0]
    assert chosen_labels(logits_IC, "2025").tolist() == [0, 1, 1, 0]


def test_the_official_archive_has_five_of_the_seven_tasks(shared_data: Path) -> None:
    works, skipped = load_works(shared_data / "evaluation_data", list(GLUE), "mlm")
    counts = {work.settings.task: (len(work.train), len(work.valid.items)) for work in works}
    assert counts == {task: (row.train_rows, row.valid_rows) for task, row in GLUE.items() if task not in ("boolq", "multirc")}
    assert [line.partition(" in ")[0] for line in skipped] == [f"{task}: skipped: no {task}.train.jsonl" for task in ("boolq", "multirc")]
    wsc = works[-1].train[0]
    assert wsc.sentences[0] == 'Does "He" refer to "Mark" in this passage?'


def test_a_sample_of_training_rows_is_part_of_a_larger_one(tmp_path: Path) -> None:
    data = write_glue(tmp_path, "rte", rte_rows(50), rte_rows(20))
    small, large, whole = (load_works(data, ["rte"], "mlm", train_rows=count)[0][0] for count in (5, 20, 99))
    assert len(small.train) == 5
    parts = [{item.index for item in work.train} for work in (small, large, whole)]
    assert parts[0] < parts[1] < parts[2]
    assert small.pilot
    assert not whole.pilot
    assert load_works(data, ["rte"], "mlm", train_rows=5, seed=1)[0][0].train != small.train
    assert load_works(data, ["rte"], "mlm", valid_rows=4)[0][0].valid.sampled


def test_malformed_rows_are_named(tmp_path: Path) -> None:
    for row, what in (({"sentence1": "a", "label": 0}, "field sentence2 missing"), (rte_rows(1)[0] | {"label": 2}, "field label = 2")):
        data = write_glue(tmp_path, "rte", rte_rows(2), [*rte_rows(1), row])
        with pytest.raises(UserError, match=f"rte.valid.jsonl line 2: {what}"):
            load_works(data, ["rte"], "mlm")


def test_a_small_model_learns_and_nothing_else_is_moved(shared_data: Path) -> None:
    model, tokenizer = reference(shared_data)
    [work], _ = load_works(shared_data / "evaluation_data", ["wsc"], "mlm", train_rows=64, valid_rows=16)
    settings = replace(work.settings, **FAST | {"epochs": 6})
    train, valid = (encode(tokenizer, items, longest_row(model, settings)) for items in (work.train, work.valid.items))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    global_state = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    first = finetune(model, train, valid, settings, 42, "honest", lambda done, of: seen.append((done, of)))
    assert first.epochs[-1].loss < first.epochs[0].loss - 0.02
    assert all(np.isfinite(list(epoch.metrics.values())).all() for epoch in first.epochs)
    chosen_I = chosen_labels(first.logits_IC, "honest")
    assert accuracy(valid.label_I, chosen_I) == max(epoch.metrics["accuracy"] for epoch in first.epochs)
    assert seen[-1] == (6 * (64 + 16),) * 2
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert torch.equal(global_state, torch.get_rng_state())


def test_an_interrupted_run_goes_on_to_the_same_records_and_scores(shared_data: Path, tmp_path: Path) -> None:
    [work], _ = load_works(shared_data / "evaluation_data", ["rte"], "mlm", train_rows=64, valid_rows=16)
    work = replace(work, settings=replace(work.settings, epochs=1))
    how = How((42, 43), "mlm", "m", tmp_path)
    [whole] = finetune_works([work], how, lambda: reference(shared_data), quiet)
    records = [tmp_path / "glue" / "rte" / f"seed_{seed}.json" for seed in how.seeds]
    texts, made = [path.read_text() for path in records], records[0].stat().st_mtime_ns
    assert json.loads(texts[0])["epochs"] != json.loads(texts[1])["epochs"]
    records[1].unlink()
    torch.manual_seed(7)
    [again] = finetune_works([work], how, lambda: reference(shared_data), quiet)
    assert [path.read_text() for path in records] == texts
    assert records[0].stat().st_mtime_ns == made
    assert score_row(again) == score_row(whole)


def test_the_command_scores_what_there_is_and_says_what_it_left_out(shared_data: Path, tmp_path: Path) -> None:
    model, data = str(shared_data / "official_reference" / "model"), write_glue(tmp_path / "data", "rte", rte_rows(40), rte_rows(20))
    out = tmp_path / "out"
    rest = ["--finetune-rows", "8", "--items-per-uid", "6", "--finetune-seeds", "42,43", "--out", str(out)]
    arguments = [model, "--data", str(data), "--tasks", "glue", *rest]
    assert main(arguments) == 0
    scores = json.loads((out / "scores.json").read_text())
    made = (out / "glue" / "rte" / "seed_43.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (out / "glue" / "rte" / "seed_43.json").stat().st_mtime_ns == made
    assert json.loads((out / "scores.json").read_text()) == scores
    assert set(scores["tasks"]) == {"rte"}
    line = scores["tasks"]["rte"]
    assert (line["n"], line["unit"], line["uids"]) == (6, "percent", 1)
    said = "\n".join(scores["notes"])
    for text in ("boolq: skipped", "very rows that are scored", "a pilot on 8 of 40 training rows", "± is over 2 seeds"):
        assert text in said
    assert not (out / "results").exists()


@pytest.mark.parametrize(
    ("tasks", "rest", "what"),
    [
        ("rtee", [], "task = rtee: unknown .did you mean rte"),
        ("rte", ["--fast"], "rte is not part of the fast set"),
        ("rte", ["--finetune-seeds", "1,1"], "--finetune-seeds = 1,1"),
        ("rte", ["--finetune-rows", "0"], "--finetune-rows = 0"),
        ("boolq", [], "task = boolq: no boolq.train.jsonl in"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(shared_data: Path, tmp_path: Path, tasks: str, rest: list[str], what: str) -> None:
    model, data = shared_data / "official_reference" / "model", shared_data / "evaluation_data"
    with pytest.raises(UserError, match=what):
        main([str(model), "--data", str(data), "--tasks", tasks, "--out", str(tmp_path), *rest])


def test_the_model_is_loaded_once_and_each_task_is_handed_on_when_it_is_done(shared_data: Path, tmp_path: Path) -> None:
    data = write_glue(tmp_path, "rte", rte_rows(32), rte_rows(4))
    write_glue(data, "mrpc", rte_rows(32), rte_rows(4))
    works, _ = load_works(data, ["mrpc", "rte"], "mlm")
    works = [replace(work, settings=replace(work.settings, epochs=1, train_rows=32, valid_rows=4)) for work in works]
    loads: list[int] = []

    def load() -> tuple[Any, Any]:
        loads.append(1)
        return reference(shared_data)

    results = finetune_works(works, How((42,), "mlm", "m", tmp_path / "out"), load, quiet)
    first = next(results)
    place = write_tuned(first, "tiny")
    assert place is not None
    assert (place / "predictions.json").is_file()
    assert not (tmp_path / "out" / "glue" / "rte").exists()
    [second] = results
    assert len(loads) == 1
    [alone] = finetune_works(works[1:], How((42,), "mlm", "m", tmp_path / "alone"), load, quiet)
    np.testing.assert_array_equal(alone.outcomes[0].logits_IC, second.outcomes[0].logits_IC)


def test_rows_are_cut_where_they_are_longer_than_allowed_and_not_before(shared_data: Path) -> None:
    _, tokenizer = reference(shared_data)
    pair = ("The cat sleeps on the mat and the dog barks.", "No.")
    whole = tokenizer(*pair)["input_ids"]
    item = Item("rte", 0, pair, (), {}, numbers={"label": 0.0})
    for longest in range(4, len(whole) + 2):  # of two texts, the special tokens are four
        encoded = encode(tokenizer, [item], longest)
        assert len(encoded.ids_I[0]) == min(longest, len(whole))
        assert encoded.cut_I.tolist() == [longest < len(whole)]
        official = tokenizer(*pair, truncation=True, max_length=longest)["input_ids"]
        assert list(encoded.ids_I[0]) == official
    with pytest.raises(UserError, match="takes rows of 3 tokens, which the special tokens of a pair of texts fill"):
        encode(tokenizer, [item], 3)
    for texts in (("dog " * 100, ""), ("", "dog " * 100), ("", ""), ("dog " * 100, "dog " * 100)):
        assert len(encode(tokenizer, [replace(item, sentences=texts)], 32).ids_I[0]) in (4, 32)


def test_a_model_whose_positions_are_in_no_known_table_is_tried_with_a_long_row() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel

    tables = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=100, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    assert longest_row(tables, GLUE["rte"]) == 32
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    turning = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=100, max_position_embeddings=32, **size))
    assert longest_row(turning, GLUE["rte"]) == 512


def test_the_command_publishes_a_task_before_the_next_begins(shared_data: Path, tmp_path: Path) -> None:
    """The second task's record is damaged; the first one's files are there, less the official ones: the rows are not the official ones."""
    data = write_glue(tmp_path / "data", "rte", rte_rows(32), rte_rows(4))
    write_glue(data, "wsc", [], [])
    model, out = str(shared_data / "official_reference" / "model"), tmp_path / "out"
    (out / "glue" / "wsc").mkdir(parents=True)
    rows = [{"text": "He sleeps.", "span1_text": "Mark", "span2_text": "He", "label": i % 2} for i in range(4)]
    write_glue(data, "wsc", rows, rows)
    (out / "glue" / "wsc" / "seed_42.json").write_text("{")  # is read when its turn comes
    with pytest.raises(UserError, match=r"seed_42.json: damaged; delete it to fine-tune again"):
        main([model, "--data", str(data), "--tasks", "glue", "--out", str(out)])
    assert (out / "tasks" / "main" / "mlm" / "honest" / "full" / "rte.json").is_file()
    assert not list(out.rglob("predictions.json"))


def gpt2(shared_data: Path, positions: int = 64) -> tuple[Any, Any]:
    """A fresh causal model behind the reference tokenizer."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "official_reference" / "model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=2000, n_positions=positions, n_embd=32, n_layer=1, n_head=2))
    return model, tokenizer


def test_a_causal_model_is_read_at_its_last_token_but_under_the_pipelines_own_rules(shared_data: Path, tmp_path: Path) -> None:
    data = write_glue(tmp_path, "rte", rte_rows(64), rte_rows(20))
    scores = {}
    for rules in ("honest", "2025"):
        [work], _ = load_works(data, ["rte"], "causal", rules)
        work = replace(work, settings=replace(work.settings, learning_rate=1e-2, epochs=10))
        how = How((42,), "causal", "m", tmp_path / rules)
        [tuned] = finetune_works([work], how, lambda: gpt2(shared_data), quiet)
        scores[rules] = score_row(tuned).score
        assert any("the head reads the " in line for line in notes([tuned]))
    assert scores["honest"] == 100.0
    assert scores["2025"] == 50.0


def test_rows_longer_than_the_model_are_cut_and_counted(shared_data: Path, tmp_path: Path) -> None:
    long = {"sentence1": "The cat sleeps on the mat. " * 20, "sentence2": "No.", "label": 0}
    data = write_glue(tmp_path, "rte", [*rte_rows(31), long], [*rte_rows(3), long])
    [work], _ = load_works(data, ["rte"], "causal")
    work = replace(work, settings=replace(work.settings, epochs=1))
    [tuned] = finetune_works([work], How((1,), "causal", "m", tmp_path), lambda: gpt2(shared_data, positions=32), quiet)
    assert tuned.valid_cut_I.tolist() == [False, False, False, True]
    said = notes([tuned])
    assert "rte: 1 training and 1 scored rows cut to 32 tokens, the most the model takes (officially 512)" in said
    assert "rte: 32 training rows, the official file has 2,490" in said


def test_a_model_of_nans_earns_nothing_and_stops_at_once(shared_data: Path, tmp_path: Path) -> None:
    model, tokenizer = gpt2(shared_data)
    broken = copy.deepcopy(model)
    broken.base_model.wte.weight.data.fill_(NAN)
    [work], _ = load_works(write_glue(tmp_path, "rte", rte_rows(32), rte_rows(4)), ["rte"], "causal")
    [tuned] = finetune_works([work], How((1,), "causal", "m", tmp_path), lambda: (broken, tokenizer), quiet)
    row = score_row(tuned)
    assert (row.score, row.nans, row.ties) == (0.0, 4, 0)
    assert len(tuned.outcomes[0].epochs) == 1
    assert any("the loss was no number from epoch 1 on" in line for line in notes([tuned]))


def tuned_by_hand(out: Path, work: Work, *logits: list[list[float]]) -> Tuned:
    outcomes = tuple(Outcome((Epoch(0.5, {"accuracy": 0.0, "f1": 0.0, "mcc": 0.0}),), 0, np.array(table, np.float32)) for table in logits)
    seeds = tuple(range(42, 42 + len(logits)))
    return Tuned(work, How(seeds, "mlm", "m", out), outcomes, 512, 0, np.zeros(len(work.valid.items), bool))


def test_official_files_hold_the_first_seed_and_scores_the_mean_of_all(tmp_path: Path) -> None:
    rows = [{"sentence1": str(i), "sentence2": "b", "label": label} for i, label in enumerate([1, 1, 0, 0])]
    [work], _ = load_works(write_glue(tmp_path, "mrpc", rows, rows), ["mrpc"], "mlm")
    work = replace(work, settings=replace(work.settings, train_rows=4, valid_rows=4))
    right, all_ones = [[0.0, 1], [0, 1], [1, 0], [1, 0]], [[0.0, 1]] * 4
    tuned = tuned_by_hand(tmp_path, work, all_ones, right)
    row = score_row(tuned)
    assert row.score == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert row.stderr == pytest.approx(100 * (1 - 2 / 3) / 2)  # the standard deviation of two is their difference over root 2
    place = write_tuned(tuned, "tiny")
    assert place == tmp_path / "results" / "tiny" / "main" / "finetune" / "mrpc"
    assert (place / "results.txt").read_text() == f"accuracy: 0.5\nf1: {2 / 3}\nmcc: 0.0"
    predictions = json.loads((place / "predictions.json").read_text())
    assert predictions == {"mrpc": {"predictions": [{"id": f"mrpc_{i}", "pred": 1} for i in range(4)]}}
    assert f"answering 1 to all rows would score {200 / 3:.2f}" in notes([tuned])[1]
    items = items_of(tuned)
    assert items.decisions.credit_I.tolist() == [1, 1, 0.5, 0.5]
    assert items.margin_I == pytest.approx([1, 1, 0, 0])
    assert items.scores_IC[2, 0] == pytest.approx((-np.log(1 + np.exp(-1)) - np.log(1 + np.exp(1))) / 2)


def test_official_files_are_written_only_where_all_is_official(tmp_path: Path) -> None:
    rows = [{"sentence1": str(i), "sentence2": "b", "label": i % 2} for i in range(4)]
    [work], _ = load_works(write_glue(tmp_path, "mrpc", rows, rows), ["mrpc"], "mlm")
    whole = replace(work, settings=replace(work.settings, train_rows=4, valid_rows=4))
    fine: list[list[float]] = [[0.0, 1.0]] * 4
    place = write_tuned(tuned_by_hand(tmp_path, whole, fine), "tiny")
    assert place is not None
    record = json.loads((place / "made_from.json").read_text())
    assert (record["edition"], record["items"], record["unofficial"]) == ("", 4, [])
    cases = {
        "mrpc: no official files: 4 training rows, the official file has 3,668; 4 scored rows, the official file has 204": (work, fine),
        "mrpc: no official files: rows without an answer (NaN)": (whole, [[0.0, NAN], *fine[1:]]),
        "mrpc: no official files: seed 7 comes first, the official one is 42": (whole, fine),
    }
    for line, (some, logits) in cases.items():
        tuned = tuned_by_hand(tmp_path / "other", some, logits)
        tuned = replace(tuned, how=replace(tuned.how, seeds=(7,))) if "seed 7" in line else tuned
        assert write_tuned(tuned, "tiny") is None
        assert line in notes([tuned])
    assert not (tmp_path / "other" / "results").exists()
