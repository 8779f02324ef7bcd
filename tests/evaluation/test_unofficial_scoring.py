"""Scorings that are not BabyLM's: what they compute, and that every number of theirs says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from sleep_tune.errors import UserError
from sleep_tune.evaluation.__main__ import main
from sleep_tune.evaluation.evaluate import score_plan
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.plan import WITHIN_WORD, make_plan, masked_rows
from sleep_tune.evaluation.submission import main as submission
from sleep_tune.evaluation.tasks import Item, TaskItems

TEXTS = [("The unbelievable dog barks.", "The unbelievable dogs barks."), ("antidisestablishment!", "antidisestablishments!")]


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Path:
    return shared_data / "official_reference"


@pytest.fixture(scope="module")
def model_and_tokenizer(reference: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    return AutoModelForMaskedLM.from_pretrained(reference / "model"), AutoTokenizer.from_pretrained(reference / "model")


def items_of(pairs: list[tuple[str, str]], starts: int = 0) -> TaskItems:
    items = tuple(Item("u", i, pair, tuple(text[starts:] for text in pair), {"UID": "u"}) for i, pair in enumerate(pairs))
    return TaskItems("pairs", "pairs", "honest", 0, items)


def slow(model: Any, tokenizer: Any, sentence: str, start: int) -> float:
    """One row a token: itself and what is left of its word masked."""
    encoded = tokenizer(sentence, return_offsets_mapping=True)
    ids, words, total = encoded["input_ids"], encoded.word_ids(0), 0.0
    for i, (_, end) in enumerate(encoded["offset_mapping"]):
        if end <= start:
            continue
        row = [tokenizer.mask_token_id if j >= i and words[j] == words[i] else token for j, token in enumerate(ids)]
        with torch.no_grad():
            total += float(torch.log_softmax(model(input_ids=torch.tensor([row])).logits[0, i].double(), -1)[ids[i]])
    return total


@pytest.mark.parametrize("starts", [0, 6])
def test_the_rest_of_a_word_is_masked_with_each_of_its_tokens(starts: int, model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    assert max(len(tokenizer(word)["input_ids"]) for word in ("unbelievable", "antidisestablishment")) > 4
    [result] = score_plan(model, make_plan(tokenizer, [items_of(TEXTS, starts)], WITHIN_WORD))
    expected = [[slow(model, tokenizer, text, starts) for text in pair] for pair in TEXTS]
    np.testing.assert_allclose(result.scores_IC, expected, atol=1e-3)
    assert result.backend == WITHIN_WORD
    [official] = score_plan(model, make_plan(tokenizer, [items_of(TEXTS, starts)], "mlm"))
    assert (np.abs(official.scores_IC - result.scores_IC) > 0.05).all()


def test_white_space_ends_a_word_where_the_tokenizer_takes_a_text_for_one() -> None:
    """As tokenizers of the Llama family do, which have no rule of their own for words."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"▁abcdet", "▁c", "at", "▁be", "te"]
    merges = [("▁", "c"), ("a", "t"), ("▁", "b"), ("▁b", "e"), ("t", "e")]
    plain = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*pieces, "▁b"])}, merges, unk_token="<unk>"))
    plain.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    names = {"unk_token": "<unk>", "mask_token": "<mask>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **names)
    text = "cat bete"
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == ["▁c", "at", "▁be", "te"]
    assert len(set(tokenizer(text).word_ids())) == 1
    plan = make_plan(tokenizer, [items_of([(text, text)])], WITHIN_WORD)
    rows = {tuple(tokenizer.convert_ids_to_tokens(row)) for bucket in plan.buckets for row in masked_rows(bucket, 0, 9, plan.mask_id)}
    first, second = ("▁c", "at"), ("▁be", "te")
    assert rows == {("<mask>", "<mask>", *second), ("▁c", "<mask>", *second), (*first, "<mask>", "<mask>"), (*first, "▁be", "<mask>")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("John melted icicles.", 4),  # the space before `icicles` is a token of its own there, as nothing is merged
        ("an Übermensch é", 3),  # several bytes a character
        ("Ünder  the sea", 4),  # a space alone between two
    ],
)
def test_a_space_and_the_bytes_of_a_character_belong_to_their_word(text: str, words: int, tokenizer: Any) -> None:
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert len(encoded["input_ids"]) == len(text.encode()) + 2  # a byte a token, <s> and </s>
    expected = [encoded.word_ids().count(word) for word in range(words)]
    plan = make_plan(tokenizer, [items_of([(text, text)])], WITHIN_WORD)
    masked = [row for bucket in plan.buckets for row in masked_rows(bucket, 0, len(bucket.row_sequence_R), plan.mask_id)]
    counts = sorted(list(row).count(plan.mask_id) for row in masked)
    assert counts == sorted(count for each in expected for count in range(1, each + 1))


def test_rows_masked_alike_become_one_and_no_others(model_and_tokenizer: tuple[Any, Any]) -> None:
    """The last word of both texts is masked to the same row, whichever it is."""
    _, tokenizer = model_and_tokenizer
    plan = make_plan(tokenizer, [items_of([("a dog", "a cat"), ("a <mask><mask>", "a dog dog")])], WITHIN_WORD)
    rows = [
        (tuple(row), int(bucket.row_mask_R[i]), int(bucket.row_last_R[i]) if bucket.row_last_R is not None else -1)
        for bucket in plan.buckets
        for i, row in enumerate(masked_rows(bucket, 0, len(bucket.row_mask_R), plan.mask_id))
    ]
    assert len(rows) == len(set(rows))
    assert len(rows) < len(plan.slot_candidate)


def test_bf16_changes_scores_a_little_and_names_itself(reference: Path, model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    plan = make_plan(tokenizer, load_items(reference / "inputs" / "blimp_2x100", ["blimp"], fast=False))
    [exact], [rough] = score_plan(model, plan), score_plan(model, plan, bf16=True)
    assert (exact.backend, rough.backend) == ("mlm", "mlm_bf16")
    assert {row.backend for row in rough.rows} == {"mlm_bf16"}
    difference = np.abs(exact.scores_IC - rough.scores_IC)
    assert 1e-3 < difference.max() < 2
    assert (exact.decisions.chosen_I != rough.decisions.chosen_I).mean() < 0.05
    assert model.dtype == torch.float32


@pytest.mark.parametrize(("flag", "backend"), [("--bf16", "mlm_bf16"), ("--within-word-l2r", WITHIN_WORD)])
def test_the_command_flags_every_number_and_the_submission_refuses_them(
    flag: str, backend: str, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [str(reference / "model"), "--data", str(reference / "inputs" / "ewok_synthetic"), "--tasks", "ewok", "--out", str(out)]
    assert main(command) == 0
    exact = (out / "results" / "model" / "main" / "zero_shot" / "mlm" / "ewok" / "ewok_synthetic" / "predictions.json").read_text()
    assert main([*command[:-1], str(tmp_path / "other"), flag]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"· {backend} ·" in shown
    assert f"scored by {backend}: not the official scoring" in shown
    assert {row["backend"] for row in pq.read_table(tmp_path / "other" / "scores.parquet").to_pylist()} == {backend}
    written = json.loads((tmp_path / "other" / "scores.json").read_text())
    assert written["backend"] == backend
    assert written["notes"]
    assert [path.name for path in (tmp_path / "other" / "results" / "model" / "main" / "zero_shot").iterdir()] == [backend]
    with pytest.raises(UserError, match=f"only {backend}: approximate and non-official scorings are never submitted"):
        submission([str(tmp_path / "other"), "--out", str(tmp_path / "x.json")])
    assert main([*command, flag]) == 0  # beside exact results, which stay what they are
    kept = (out / "results" / "model" / "main" / "zero_shot" / "mlm" / "ewok" / "ewok_synthetic" / "predictions.json").read_text()
    assert kept == exact


def test_within_word_scoring_is_for_masked_models_alone(reference: Path, tmp_path: Path) -> None:
    command = [str(reference / "model"), "--data", str(reference / "inputs" / "ewok_synthetic"), "--tasks", "ewok", "--out", str(tmp_path)]
    with pytest.raises(UserError, match="--within-word-l2r: is for backend mlm, not mntp"):
        main([*command, "--backend", "mntp", "--within-word-l2r"])
