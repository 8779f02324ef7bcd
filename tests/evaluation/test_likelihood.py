"""Log-probabilities against slow computations written independently: one row at a time, the model's own logits."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from sleep_tune.errors import UserError
from sleep_tune.evaluation.evaluate import score_plan
from sleep_tune.evaluation.forwards import exact_way, head_at_positions, most_positions, roberta_last_layer_at_positions, whole_forward
from sleep_tune.evaluation.likelihood import score_candidates
from sleep_tune.evaluation.plan import make_plan
from sleep_tune.evaluation.result_files import item_columns
from sleep_tune.evaluation.tasks import Item, TaskItems

MASKED = ("RobertaForMaskedLM", "RobertaPreLayerNormForMaskedLM", "BertForMaskedLM")
SENTENCES = [
    ("the cat sees the dogs .", "the dogs see the cat ."),
    ("A dog can bark.", "A table can bark."),
    ("Who cleaned?\nSarah cleaned.", "Who cleaned?\nThe tiles cleaned."),
    (" a leading space", "no leading space"),
    ("naïve café 中文 🙂", "the <mask> sees the <mask>"),
    ("the cat sees the dogs .", "the cat sees the dogs ."),
]

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TEXT = ["the cat sees the dogs .", "A dog can bark.", "Who cleaned?\nSarah cleaned.", "the dogs see a cat and the cat sees me"] * 20


def byte_tokenizer(prefix_space: bool = False, wrap: bool = True, vocab_size: int = 300) -> Any:
    """A byte-level BPE tokenizer trained on TEXT; `wrap`: sentences become `<s> … </s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if wrap:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=prefix_space)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", **names)


def random_model(kind: str, vocab_size: int, positions: int = 64) -> Any:
    """A tiny model with random weights that are far from zero, in training mode with dropout, of class `kind`."""
    sizes = {"vocab_size": vocab_size, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    if kind == "GPT2LMHeadModel":
        sizes = {"vocab_size": vocab_size, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
    extra = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "initializer_range": 0.5}
    if kind != "GPT2LMHeadModel":
        sizes["max_position_embeddings"] = positions + (2 if kind.startswith("Roberta") else 0)
    model_class = getattr(transformers, kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(model_class.config_class(**sizes, **extra)).train()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE with `<s> … </s>` around sentences."""
    return byte_tokenizer()


def items_of(pairs: list[tuple[str, ...]], starts: int = 0, rules: str = "honest") -> TaskItems:
    """Items of the pairs task; completions leave out the first `starts` characters."""
    items = tuple(Item("u", i, pair, tuple(text[starts:] for text in pair), {"UID": "u"}) for i, pair in enumerate(pairs))
    return TaskItems("pairs", "pairs", rules, 0, items)


def slow(model: Any, tokenizer: Any, sentence: str, start: int, backend: str) -> float:
    """Section 3 of the rules, word for word: one row at a time, in double precision from the logits on."""
    encoded = tokenizer(sentence, return_offsets_mapping=True)
    ids, total = encoded["input_ids"], 0.0
    with torch.no_grad():
        for i, (_, end) in enumerate(encoded["offset_mapping"]):
            if end <= start or (i == 0 and backend != "mlm"):
                continue
            if backend == "causal":
                row = ids[:i]
            else:
                row = [*ids[:i], tokenizer.mask_token_id, *ids[i + 1 :]]
            logits = model(input_ids=torch.tensor([row])).logits[0, i if backend == "mlm" else i - 1].double()
            total += float(torch.log_softmax(logits, -1)[ids[i]])
    return total


def check(model: Any, tokenizer: Any, backend: str, starts: int = 0) -> None:
    [result] = score_plan(model, make_plan(tokenizer, [items_of(SENTENCES, starts)], backend))
    model.eval()
    expected = [[slow(model, tokenizer, text, starts, backend) for text in pair] for pair in SENTENCES]
    np.testing.assert_allclose(result.scores_IC, expected, atol=1e-3)
    assert result.scores_IC[-1, 0] == result.scores_IC[-1, 1]
    assert result.decisions.tie_I[-1]
    assert result.decisions.credit_I[-1] == 0.5


@pytest.mark.parametrize("starts", [0, 5])
@pytest.mark.parametrize("backend", ["mlm", "mntp"])
@pytest.mark.parametrize("kind", MASKED)
def test_masked_scores_equal_a_slow_computation(kind: str, backend: str, starts: int, tokenizer: Any) -> None:
    check(random_model(kind, len(tokenizer)), tokenizer, backend, starts)


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("prefix_space", [True, False])
def test_causal_scores_of_gpt2_equal_a_slow_computation(prefix_space: bool, wrap: bool) -> None:
    tokenizer = byte_tokenizer(prefix_space, wrap)
    tokenizer.pad_token = None
    check(random_model("GPT2LMHeadModel", len(tokenizer)), tokenizer, "causal", 0)
    check(random_model("GPT2LMHeadModel", len(tokenizer)), tokenizer, "causal", 4)


def test_a_tokenizer_with_prefix_space_scores_the_same_positions() -> None:
    tokenizer = byte_tokenizer(prefix_space=True)
    check(random_model("RobertaForMaskedLM", len(tokenizer)), tokenizer, "mlm", 3)


def test_a_token_that_straddles_the_completion_is_scored(tokenizer: Any) -> None:
    ends = [end for _, end in tokenizer("the cat", return_offsets_mapping=True)["offset_mapping"]]
    middle = "the cat".index("cat") + 1  # inside a token
    items = TaskItems("pairs", "pairs", "honest", 0, (Item("u", 0, ("the cat", "the cat"), ("at", "the cat"), {"UID": "u"}),))
    plan = make_plan(tokenizer, [items])
    counts = np.bincount(plan.slot_candidate)
    assert counts.tolist() == [sum(end > middle for end in ends), sum(end > 0 for end in ends)]
    assert plan.n_rows == counts.max()  # the scored rows of the short completion are among the other's


def test_equal_rows_are_run_once_and_equal_candidates_score_equally_in_any_batch(tokenizer: Any) -> None:
    model = random_model("RobertaForMaskedLM", len(tokenizer))
    pairs = [("the cat sees", "the dog sees"), ("the cat sees", "the dogs see the cat")] * 3
    plan = make_plan(tokenizer, [items_of(pairs)])
    assert plan.n_candidates == 3
    few, many = (score_plan(model, plan, budget_bytes=size)[0].scores_IC for size in (1, 1 << 28))
    np.testing.assert_allclose(few, many, atol=1e-4)
    for scores in (few, many):
        assert len(set(scores[:, 0].tolist())) == 1
    good, bad = tokenizer("the cat sees")["input_ids"], tokenizer("the dog sees")["input_ids"]
    assert len(good) == len(bad)
    alone = make_plan(tokenizer, [items_of([("the cat sees", "the dog sees")])])
    shared = sum(one != two for one, two in zip(good, bad, strict=True)) == 1
    assert alone.n_rows == len(alone.slot_candidate) - shared  # the row in which the one differing token is masked


def test_items_longer_than_the_model_are_named_and_counted_not_a_crash(tokenizer: Any) -> None:
    long = "the cat sees " * 40
    pairs = [("A dog can bark.", "A table can bark."), (long + "me", long + "you")]
    for kind, backend in (("RobertaPreLayerNormForMaskedLM", "mlm"), ("GPT2LMHeadModel", "causal")):
        model = random_model(kind, len(tokenizer), positions=48)
        assert most_positions(model) == 48
        [result] = score_plan(model, make_plan(tokenizer, [items_of(pairs)], backend))
        assert result.too_long_I.tolist() == [False, True]
        assert result.decisions.nan_I.tolist() == [False, True]
        assert result.decisions.credit_I[1] == 0
        assert result.rows[0].nans == 1
        assert "1 of 2 items are longer than the model's 48 positions (first: u_1)" in result.notes()[0]


@pytest.mark.parametrize(("kind", "backend"), [("RobertaForMaskedLM", "mlm"), ("BertForMaskedLM", "mlm"), ("GPT2LMHeadModel", "causal")])
def test_the_longest_row_that_fits_is_scored(kind: str, backend: str) -> None:
    tokenizer = byte_tokenizer(wrap=False)
    text = "ééé the cat "
    length = len(tokenizer(text)["input_ids"])
    model = random_model(kind, len(tokenizer), positions=length - (backend == "causal"))
    [result] = score_plan(model, make_plan(tokenizer, [items_of([(text, "cat")])], backend))
    assert not result.decisions.nan_I[0]


SMALL = {"n_embd": 16, "n_layer": 1, "n_head": 2}
ODD_POSITIONS: dict[str, dict[str, Any]] = {  # where they keep their positions: a table by another name, buffers, one with reserved rows
    "OpenAIGPTLMHeadModel": SMALL | {"n_positions": 24},
    "GPTJForCausalLM": SMALL | {"n_positions": 24, "rotary_dim": 4},
    "CTRLLMHeadModel": SMALL | {"n_positions": 24, "dff": 24},
    "MptForCausalLM": {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 24},
    "IBertForMaskedLM": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 26,
        "pad_token_id": 1,
    },
}


@pytest.mark.parametrize("kind", ODD_POSITIONS)
def test_a_row_that_a_model_does_not_take_is_too_long_wherever_it_keeps_its_positions(kind: str) -> None:
    tokenizer = byte_tokenizer(wrap=False)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(vocab_size=len(tokenizer), **ODD_POSITIONS[kind])).eval()
    texts = ["é" * k for k in range(8, 16)]  # two tokens each
    backend = "mlm" if kind.endswith("MaskedLM") else "causal"
    [result] = score_plan(model, make_plan(tokenizer, [items_of([(text, text) for text in texts])], backend))
    rows = [len(tokenizer(text)["input_ids"]) - (backend == "causal") for text in texts]
    assert result.too_long_I.tolist() == [row > 24 for row in rows]
    assert result.decisions.nan_I.tolist() == result.too_long_I.tolist()
    assert f"{result.too_long_I.sum()} of 8 items are longer than the model's 24 positions" in result.notes()[0]


def test_a_text_beyond_what_a_model_was_made_for_is_scored_and_named() -> None:
    tokenizer = byte_tokenizer(wrap=False)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 24}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **sizes))
    [result] = score_plan(model, make_plan(tokenizer, [items_of([("the cat", "the dog"), ("é" * 20, "é" * 21)])], "causal"))
    assert not result.decisions.nan_I.any()
    assert result.notes() == ["pairs: 1 of 2 items are longer than the 24 positions that the model says it was made for (first: u_1)"]


@pytest.mark.parametrize("missing", [1, 60])
def test_a_tokenizer_of_another_model_is_refused_before_anything_is_scored(missing: int) -> None:
    """The mask, or whatever has the highest id, is not among the embeddings."""
    tokenizer = byte_tokenizer()
    model = random_model("RobertaForMaskedLM", len(tokenizer) - missing)
    last = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    text = tokenizer.convert_tokens_to_string([last]).strip()
    done: list[int] = []
    with pytest.raises(UserError, match=f"gives token {len(tokenizer) - 1}, and the model knows {len(tokenizer) - missing}"):
        score_plan(model, make_plan(tokenizer, [items_of([("a", "b"), (f"x {text}", f"y {text}")])]), lambda n, _: done.append(n))
    assert not done


def test_items_with_what_the_tokenizer_has_no_token_for_are_named() -> None:
    words = {word: i for i, word in enumerate([*SPECIAL, "the", "cat", "sees"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names)
    pairs = [("the cat sees", "cat the sees"), ("the wug sees", "the dax sees"), ("sees the", "sees blick")]
    [result] = score_plan(random_model("BertForMaskedLM", len(words)), make_plan(tokenizer, [items_of(pairs)]))
    assert result.notes() == ["pairs: 2 of 3 items hold what the tokenizer has no token for (first: u_1)"]
    assert np.asarray(item_columns(result)["unknown"]).tolist() == [False, True, True]
    assert result.decisions.tie_I.tolist() == [False, True, False]


def test_memory_is_bounded_for_an_item_of_3000_tokens(tokenizer: Any) -> None:
    words = " ".join(["cat dog"] * 1500)
    length = len(tokenizer(words)["input_ids"])
    assert length > 3000
    items = TaskItems("pairs", "pairs", "honest", 0, (Item("u", 0, (words, words + " ."), (" dog", " ."), {"UID": "u"}),))
    model = random_model("GPT2LMHeadModel", len(tokenizer), positions=length + 2)
    plan = make_plan(tokenizer, [items], "causal")
    assert sum(bucket.ids_CL.nbytes for bucket in plan.buckets) < 10 * 4 * length
    largest = 0

    def spy(model: Any, ids_BL: torch.Tensor, row_S: torch.Tensor, position_S: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(position_S))
        return head_at_positions(model, ids_BL, row_S, position_S)

    whole = TaskItems("pairs", "pairs", "honest", 0, (Item("u", 0, (words, words + " ."), (words, words + " ."), {"UID": "u"}),))
    budget = 12 * len(tokenizer) * 1000
    score = score_candidates(model, make_plan(tokenizer, [whole], "causal"), budget_bytes=budget, way=spy).score
    assert np.isfinite(score).all()
    assert largest <= 1000


def test_scoring_leaves_mode_and_random_state_as_they_were(tokenizer: Any) -> None:
    model = random_model("RobertaForMaskedLM", len(tokenizer))
    model.roberta.encoder.layer[0].eval()
    modes, state = [module.training for module in model.modules()], torch.random.get_rng_state()
    threads = torch.get_num_threads()
    plan = make_plan(tokenizer, [items_of(SENTENCES)])
    first, second = score_plan(model, plan)[0].scores_IC, score_plan(model, plan)[0].scores_IC
    np.testing.assert_array_equal(first, second)  # no dropout, although the model is in training
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["RobertaForMaskedLM", "RobertaPreLayerNormForMaskedLM"])
def test_the_last_layer_at_the_mask_gives_the_models_own_logits(kind: str, attention: str, tokenizer: Any) -> None:
    model = random_model(kind, len(tokenizer)).eval()
    model.set_attn_implementation(attention)
    ids = torch.randint(5, len(tokenizer), (7, 11), generator=torch.Generator().manual_seed(1))
    rows, positions = torch.arange(7), torch.tensor([0, 3, 10, 5, 5, 1, 9])
    with torch.inference_mode():
        own = whole_forward(model, ids, rows, positions)
        torch.testing.assert_close(roberta_last_layer_at_positions(model, ids, rows, positions), own, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(head_at_positions(model, ids, rows, positions), own, atol=1e-5, rtol=1e-5)
        assert exact_way(model, ids, rows, positions) is roberta_last_layer_at_positions


def test_a_way_that_is_not_exact_or_fails_is_not_used(tokenizer: Any) -> None:
    def wrong(model: Any, ids_BL: torch.Tensor, row_S: torch.Tensor, position_S: torch.Tensor) -> torch.Tensor:
        return head_at_positions(model, ids_BL, row_S, position_S) + 0.01

    class Reversed(torch.nn.Module):
        """Logits that depend on all hidden states: nothing but its whole forward is right."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config, self.base_model = inner, inner.config, inner.base_model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor]:
            hidden = self.base_model(input_ids)[0]
            return (self.inner.lm_head(hidden.cumsum(1)),)

    model = random_model("RobertaForMaskedLM", len(tokenizer)).eval()
    ids, rows, positions = torch.full((2, 6), 9), torch.arange(2), torch.tensor([3, 4])
    with torch.inference_mode():
        assert exact_way(model, ids, rows, positions, wrong) is roberta_last_layer_at_positions
        assert exact_way(Reversed(model), ids, rows, positions) is whole_forward


@pytest.mark.parametrize(("kind", "ahead"), [("GPT2LMHeadModel", False), ("RobertaForMaskedLM", True)])
def test_left_to_right_scores_of_a_model_that_sees_ahead_carry_a_note(kind: str, ahead: bool, tokenizer: Any) -> None:
    [result] = score_plan(random_model(kind, len(tokenizer)), make_plan(tokenizer, [items_of(SENTENCES)], "causal"))
    assert [("sees the tokens it is to predict" in note) for note in result.notes()] == [True] * ahead


@pytest.mark.parametrize(("rules", "credit"), [("honest", 0.0), ("2025", 1.0)])
def test_a_model_of_nans_is_scored_as_the_rules_say(rules: str, credit: float, tokenizer: Any) -> None:
    model = random_model("RobertaForMaskedLM", len(tokenizer))
    with torch.no_grad():
        model.lm_head.bias.fill_(float("nan"))
    [result] = score_plan(model, make_plan(tokenizer, [items_of(SENTENCES, rules=rules)]))
    assert result.rows[0].score == 100 * credit
    assert result.rows[0].nans == len(SENTENCES)


def test_a_model_of_minus_infinities_ties(tokenizer: Any) -> None:
    model = random_model("RobertaForMaskedLM", len(tokenizer))
    bias = torch.full((len(tokenizer),), -float("inf"))
    bias[0] = 0
    with torch.no_grad():
        model.lm_head.bias.copy_(bias)
    [result] = score_plan(model, make_plan(tokenizer, [items_of(SENTENCES)]))
    assert np.isneginf(result.scores_IC).all()
    assert result.rows[0].score == 50
    assert result.rows[0].ties == len(SENTENCES)


def test_live_scoring_ignores_autocast(tokenizer: Any) -> None:
    model, plan = random_model("RobertaPreLayerNormForMaskedLM", len(tokenizer)), make_plan(tokenizer, [items_of(SENTENCES)])
    expected = score_plan(model, plan)[0].scores_IC
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(score_plan(model, plan)[0].scores_IC, expected)
