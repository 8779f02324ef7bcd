"""Reading against the official pipeline's files and a slow computation of one word at a time; tables that are not as they should be."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from sleep_tune.errors import UserError
from sleep_tune.evaluation.__main__ import main
from sleep_tune.evaluation.evaluate import plan_items, score_plan
from sleep_tune.evaluation.official_data import available_tasks, load_items
from sleep_tune.evaluation.plan import masked_rows
from sleep_tune.evaluation.reading import ReadingResult, official_files
from sleep_tune.evaluation.regression import design, least_squares, partial_r2, partial_r2_without
from sleep_tune.evaluation.scores import task_score
from sleep_tune.evaluation.tasks import TaskItems

COLUMNS = ("item", "word", "prev_item", "prev_word", "sentence", "Subtlex_log10", "length", "context_length", "prev_length")
TIMES = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound", "self_paced_reading_time")
SENTENCES = ["None of the cats sees the dogs .", "A dog can bark at the moon .", "Sarah cleaned the tiles again .", "The cats see a dog ."]


def table(path: Path, sentences: list[str] = SENTENCES, copies: int = 3, **cells: str) -> Path:
    """A small reading_data.csv below `path`: every word but the first of each sentence, as the official one; `cells` replace columns."""
    generator, lines = np.random.default_rng(5), [",".join([*COLUMNS, *TIMES])]
    for sentence in sentences * copies:
        words = sentence.split()
        for k in range(1, len(words)):
            before = "" if k == 1 else " ".join(words[: k - 1])
            row = {"item": " ".join(words[:k]), "word": words[k], "prev_item": before, "prev_word": words[k - 1] if before else ""}
            row |= {"sentence": sentence, "length": str(len(words[k])), "context_length": str(k), "prev_length": str(len(words[k - 1]))}
            row |= {"Subtlex_log10": f"{generator.uniform(3, 14):.4f}"} | {name: f"{generator.uniform(90, 400):.4f}" for name in TIMES}
            row["item"] = "" if row["item"] == "None" else row["item"]  # as in the official table
            row |= cells
            lines.append(",".join(row[name] for name in (*COLUMNS, *TIMES)))
    path.mkdir(parents=True, exist_ok=True)
    (path / "reading_data.csv").write_text("\n".join(lines) + "\n")
    return path


def read(path: Path, rules: str = "honest") -> TaskItems:
    [items] = load_items(path, ["reading"], fast=False, rules=rules)
    return items


@pytest.fixture(scope="module")
def closing() -> Any:
    """Byte-level BPE that puts `<s> … </s>` around every text."""
    return _tokenizer(closes=True)


def _tokenizer(closes: bool) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    if closes:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _model(kind: str, positions: int = 66) -> Any:
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape |= {"max_position_embeddings": positions}
    if kind == "GPT2LMHeadModel":
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
    model_class = getattr(transformers, kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(model_class.config_class(vocab_size=300, initializer_range=0.5, pad_token_id=1, **shape))


def score(model: Any, tokenizer: Any, items: TaskItems, backend: str) -> ReadingResult:
    [result] = score_plan(model, plan_items(tokenizer, [items], backend))
    assert isinstance(result, ReadingResult)
    return result


def slow(model: Any, tokenizer: Any, context: str, word: str, backend: str, closes: bool = False) -> float:
    """Section 4 of the rules, one token at a time: the word as it stands, its tokens joined to the context one by one."""
    model.eval()
    total = 0.0
    for token in tokenizer(word, add_special_tokens=False)["input_ids"]:
        ids = tokenizer(context if backend == "causal" else context + "<mask>" * 3)["input_ids"]
        if backend == "causal":
            ids, at = (ids, len(ids) - 1) if closes else (ids[: len(ids) - (ids[-1] == 2)], -1)
        else:
            at = ids.index(4) - (backend == "mntp")
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, at].double()
        total -= float(torch.log_softmax(logits, -1)[token])
        context += tokenizer.decode([token])
    return total


@pytest.mark.parametrize("rules", ["honest", "2025"])
@pytest.mark.parametrize("backend", ["mlm", "mntp"])
def test_every_file_of_the_official_pipeline_is_reproduced(backend: str, rules: str, shared_data: Path) -> None:
    reference = shared_data / "official_reference"
    model = transformers.AutoModelForMaskedLM.from_pretrained(reference / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference / "model")
    result = score(model, tokenizer, read(reference / "inputs" / "reading", rules), backend)
    ours = official_files(result)
    theirs = {path.name: path.read_text() for path in (reference / "results" / backend / "reading").iterdir()}
    assert set(ours) == set(theirs)
    for name in ("report.txt", "correlations.txt"):
        assert ours[name] == theirs[name]
    for name, key in (("predictions.json", None), ("prediction.jsonl", None), ("predictive_power.jsonl", 1e-3)):
        _close(_parsed(ours[name]), _parsed(theirs[name]), key)
    _close(_parsed(ours["predictive_power_spillover.jsonl"]), _parsed(theirs["predictive_power_spillover.jsonl"]), 1e-3)
    assert task_score(result.rows) == pytest.approx(sum(row.score for row in result.rows) / 2)


def _parsed(text: str) -> list[dict[str, Any]]:
    if text.count("\n") == 0:
        predictions: list[dict[str, Any]] = json.loads(text)["reading"]["predictions"]
        return predictions
    return [json.loads(line) for line in text.splitlines()]


def _close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], relative: float | None) -> None:
    assert [list(entry) for entry in ours] == [list(entry) for entry in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for key, value in other.items():
            assert mine[key] == (pytest.approx(value, abs=1e-3, rel=relative, nan_ok=True) if isinstance(value, float) else value)


@pytest.mark.parametrize(("kind", "backend"), [("GPT2LMHeadModel", "causal"), ("RobertaForMaskedLM", "mlm"), ("BertForMaskedLM", "mntp")])
def test_surprisals_equal_a_slow_computation(kind: str, backend: str, closing: Any, tmp_path: Path) -> None:
    model, items = _model(kind), read(table(tmp_path))
    result = score(model, closing, items, backend)
    for i, item in enumerate(items.items):
        pairs = list(zip(item.sentences, item.completions, strict=True))
        values = [result.surprisal_N[i], result.previous_N[i]][: len(pairs)]
        assert values == pytest.approx([slow(model, closing, *pair, backend) for pair in pairs], abs=1e-3)
        assert len(pairs) == 2 or math.isnan(result.previous_N[i])


def test_the_official_rules_read_a_context_that_the_tokenizer_closes_and_honest_ones_do_not(closing: Any, tmp_path: Path) -> None:
    model = _model("GPT2LMHeadModel")
    for rules, closes in (("honest", False), ("2025", True)):
        items = read(table(tmp_path), rules)
        result = score(model, closing, items, "causal")
        item = items.items[3]
        expected = slow(model, closing, item.sentences[0], item.completions[0], "causal", closes)
        assert result.surprisal_N[3] == pytest.approx(expected, abs=1e-3)
    open_ended = _tokenizer(closes=False)
    honest, official = (score(model, open_ended, read(table(tmp_path), rules), "causal").surprisal_N for rules in ("honest", "2025"))
    np.testing.assert_array_equal(honest, official)


@pytest.mark.parametrize("backend", ["mlm", "causal"])
def test_a_row_is_computed_once_however_often_its_context_occurs(backend: str, closing: Any, tmp_path: Path) -> None:
    plans = [plan_items(closing, [read(table(tmp_path, copies=copies))], backend) for copies in (1, 3)]
    assert plans[0].n_rows == plans[1].n_rows
    for bucket in plans[1].buckets:
        rows = masked_rows(bucket, 0, len(bucket.row_mask_R), plans[1].mask_id)
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_a_context_keeps_words_that_the_tokenizer_does_not_know(tmp_path: Path) -> None:
    """Honest rules take off what the tokenizer appends, not what the text ends in."""
    words = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "the", "dogs", "dog"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    items, model = read(table(tmp_path)), _model("GPT2LMHeadModel").eval()
    result = score(model, tokenizer, items, "causal")
    expected = []
    for item in items.items:
        ids = tokenizer(item.sentences[0])["input_ids"][:-1]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        expected.append(-float(torch.log_softmax(logits, -1)[tokenizer(item.completions[0], add_special_tokens=False)["input_ids"][0]]))
    np.testing.assert_allclose(result.surprisal_N, expected, atol=1e-3)
    assert any("hold what the tokenizer has no token for" in note for note in result.notes())


def test_reading_scored_beside_another_task_is_the_same(closing: Any, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"sentence_good": "A dog can bark.", "sentence_bad": "A tile can bark.", "UID": "u"}\n')
    [pairs] = load_items(tmp_path / "pairs.jsonl", ["pairs"], fast=False)
    model, items = _model("RobertaForMaskedLM"), read(table(tmp_path / "reading"))
    together = score_plan(model, plan_items(closing, [items, pairs], "mlm"))
    assert [result.items.task for result in together] == ["reading", "pairs"]
    assert together[0].rows == score(model, closing, items, "mlm").rows
    assert together[1].rows == score_plan(model, plan_items(closing, [pairs], "mlm"))[0].rows


def test_a_model_without_numbers_earns_nothing_under_honest_rules(closing: Any, tmp_path: Path) -> None:
    model = _model("RobertaForMaskedLM")
    with torch.no_grad():
        model.lm_head.bias[0] = float("nan")
    honest = score(model, closing, read(table(tmp_path)), "mlm")
    assert [(row.score, row.nans) for row in honest.rows] == [(0.0, len(honest.items.items))] * 2
    assert "no surprisal for" in honest.notes()[0]
    official = score(model, closing, read(table(tmp_path), "2025"), "mlm")
    assert all(math.isnan(row.score) for row in official.rows)
    assert "EYE TRACKING SCORE: nan" in official_files(official)["report.txt"]


def test_contexts_longer_than_the_model_are_named_and_cannot_raise_the_score(closing: Any, tmp_path: Path) -> None:
    items = read(table(tmp_path))
    whole, short = (score(_model("BertForMaskedLM", positions), closing, items, "mlm") for positions in (66, 9))
    assert not whole.notes()
    assert short.nan_I.any()
    assert not short.nan_I.all()
    np.testing.assert_array_equal(short.nan_I, short.too_long_I)
    assert "longer than its 9 positions" in short.notes()[0]
    assert np.isfinite(short.columns["pred"]).all()
    owed = short.columns["pred"][np.isnan(short.surprisal_N)]
    assert owed == pytest.approx(np.nanmean(short.surprisal_N))


@pytest.mark.parametrize("rules", ["honest", "2025"])
@pytest.mark.parametrize(("broken", "nans"), [("surprisal_N", [1, 1]), ("previous_N", [0, 1]), ("both", [2, 2])])
def test_each_row_counts_the_surprisals_that_it_needs(broken: str, nans: list[int], rules: str, closing: Any, tmp_path: Path) -> None:
    """Eye tracking asks for the word's own surprisal only, self-paced reading also for that of the word before (`dropna` there)."""
    result = score(_model("RobertaForMaskedLM"), closing, read(table(tmp_path), rules), "mlm")
    at, before = [3, 9], [row.n for row in result.rows]
    assert all(len(result.items.items[i].sentences) == 2 for i in at)
    surprisal_N, previous_N = result.surprisal_N.copy(), result.previous_N.copy()
    if broken in ("surprisal_N", "both"):
        surprisal_N[at[: 2 if broken == "both" else 1]] = math.nan
    if broken in ("previous_N", "both"):
        previous_N[at[:1]] = math.nan
    owed_I = np.isnan(surprisal_N) | np.isin(np.arange(len(surprisal_N)), at[:1])
    damaged = replace(result, surprisal_N=surprisal_N, previous_N=previous_N, nan_I=owed_I)
    assert [row.nans for row in damaged.rows] == nans
    lost = [0, 0] if rules == "honest" else nans
    assert [row.n for row in damaged.rows] == [n - out for n, out in zip(before, lost, strict=True)]


@pytest.mark.parametrize("rules", ["honest", "2025", "2026"])
@pytest.mark.parametrize(("bias", "where"), [(-math.inf, slice(None)), (-math.inf, slice(1, None)), (math.inf, 0), (math.nan, 7)])
def test_a_model_of_infinities_yields_counted_nans(bias: float, where: Any, rules: str, closing: Any, tmp_path: Path) -> None:
    model, items = _model("RobertaForMaskedLM"), read(table(tmp_path), rules)
    with torch.no_grad():
        model.lm_head.bias[where] = bias
    result = score(model, closing, items, "mlm")
    assert [row.nans for row in result.rows] == [len(items.items)] * 2
    assert [row.score for row in result.rows] == pytest.approx([0.0 if rules == "honest" else math.nan] * 2, nan_ok=True)
    assert official_files(result)["report.txt"].count("\n") == 2
    assert f"no surprisal for {len(items.items)} of {len(items.items)} words" in result.notes()[0]


def test_a_surprisal_that_is_too_large_for_a_square_is_no_crash(closing: Any, tmp_path: Path) -> None:
    result = score(_model("RobertaForMaskedLM"), closing, read(table(tmp_path)), "mlm")
    huge = replace(result, surprisal_N=np.where(np.arange(len(result.surprisal_N)) == 2, 3e38, result.surprisal_N))
    assert all(math.isfinite(row.score) and row.nans == 0 for row in huge.rows)


def test_a_word_without_a_token_has_no_surprisal(closing: Any, tmp_path: Path) -> None:
    from tokenizers import normalizers

    strips = _tokenizer(closes=True)
    strips.backend_tokenizer.normalizer = normalizers.Replace(".", "")
    result = score(_model("RobertaForMaskedLM"), strips, read(table(tmp_path)), "mlm")
    points = np.array([item.completions[0] == "." for item in result.items.items])
    np.testing.assert_array_equal(np.isnan(result.surprisal_N), points)


def test_the_word_none_is_a_word_under_honest_rules_and_a_missing_value_to_pandas(shared_data: Path, closing: Any) -> None:
    data, model = shared_data / "evaluation_data", _model("RobertaForMaskedLM", 130)
    for rules, missing in (("honest", 205), ("2025", 206)):
        [items] = load_items(data, ["reading"], fast=True, rules=rules)
        assert len(items.items) == 1726
        assert items.items[320].sentences == ("None",)
        assert int(np.isnan(score(model, closing, items, "mlm").previous_N).sum()) == missing


def test_a_regression_is_the_textbook_one() -> None:
    generator = np.random.default_rng(1)
    one, two = generator.normal(size=(2, 40))
    y = 3 + 2 * one - two + generator.normal(size=40)
    base, full = least_squares(np.stack([np.ones(40), one], 1), y), least_squares(np.stack([np.ones(40), one, two], 1), y)
    assert base is not None
    assert full is not None
    assert base.r2 == pytest.approx(np.corrcoef(one, y)[0, 1] ** 2)
    # t of the last regressor and its partial R2 are one number: t² / (t² + degrees of freedom)
    assert partial_r2(base, full) == pytest.approx(full.t**2 / (full.t**2 + 37))
    assert least_squares(np.ones((5, 1)), np.ones(5)) is None
    assert least_squares(np.ones((1, 1)), np.ones(1)) is None
    assert math.isnan(partial_r2(base, None))
    assert design({"a": one, "b": two, "c": y}, ("a", "b", "c")).shape == (40, 7)


def test_leaving_out_nobody_leaves_the_partial_r2() -> None:
    generator = np.random.default_rng(2)
    x, y, z = generator.normal(size=(3, 50))
    base_NK = np.stack([np.ones(50), z], 1)
    expected = partial_r2(least_squares(base_NK, y), least_squares(np.column_stack([base_NK, x]), y))
    # group 1 has no member
    assert partial_r2_without(base_NK, x, y, np.where(np.arange(50) == 0, 0, 2))[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"word": ""}, r"reading_data\.csv line 2: field word = '': must be a non-empty text \(task reading\)"),
        ({"length": "three"}, r"reading_data\.csv line 2: column length = 'three': must be a number \(task reading\)"),
        ({"RTgopast": "inf"}, r"reading_data\.csv line 2: column RTgopast = 'inf': must be a number, not infinite"),
        ({"prev_item": "x", "prev_word": ""}, r"line 2: field prev_word = ''"),
    ],
)
def test_a_bad_cell_is_named_with_its_line(cells: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(table(tmp_path, **cells))


def test_bad_tables_are_one_line(tmp_path: Path) -> None:
    path = table(tmp_path) / "reading_data.csv"
    good = path.read_text()
    for text, message in (
        ("", "empty"),
        (good.replace("prev_item", "previous", 1), "no column prev_item"),
        (good.replace("\n", ",extra\n").replace("extra", "word", 1), "column word is there twice"),
        (good[: len(good) - 60], r"line 73: not the 14 cells of the header \(a truncated file\?\)"),
        (good.splitlines()[0] + "\n", "no item of reading is left"),
        (good + '"open', "not CSV"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode())
    windows = read(tmp_path).items
    path.write_text(good)
    assert repr(windows) == repr(read(tmp_path).items)
    path.unlink()
    (tmp_path / "full_eval" / "blimp_filtered").mkdir(parents=True)
    with pytest.raises(UserError, match=r"missing reading \(full_eval/reading: reading_data\.csv\)"):
        read(tmp_path)


def test_missing_reading_times_leave_the_word_out_of_that_measure_only(closing: Any, tmp_path: Path) -> None:
    path = table(tmp_path) / "reading_data.csv"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, ",".join([*first.split(",")[:-1], ""]), *rest]) + "\n")
    result = score(_model("RobertaForMaskedLM"), closing, read(path), "mlm")
    n = len(result.items.items)
    there = sum(len(item.sentences) > 1 for item in result.items.items)
    assert [row.n for row in result.rows] == [n, there]  # the first word has no word before it anyway
    assert [row.nans for row in result.rows] == [0, 0]


def test_the_command_scores_reading_among_others(closing: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = tmp_path / "model", tmp_path / "evaluation_data"
    _model("RobertaForMaskedLM").save_pretrained(model)
    closing.save_pretrained(model)
    table(data / "fast_eval" / "reading")
    (data / "fast_eval" / "wug_past_tense").mkdir()
    (data / "fast_eval" / "wug_past_tense" / "w.jsonl").write_text('{"sentences": "A dog\\tA cat", "ratio": 0.5}\n' * 3)
    assert set(available_tasks(data, fast=True)) == {"reading", "wug_past"}
    command = [str(model), "--data", str(data), "--fast", "--tasks", "reading,wug_past", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="aoa: not defined for one checkpoint"):
        main([*command[:5], "aoa", *command[6:]])
    assert main(command) == 0
    place = tmp_path / "out" / "results" / "model" / "main" / "zero_shot" / "mlm" / "reading"
    assert {path.name for path in place.iterdir()} >= {"report.txt", "predictions.json"}
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["tasks"]["reading"]["uids"] == 2
    assert main(command) == 0
    assert "reading: already scored" in capsys.readouterr().err
