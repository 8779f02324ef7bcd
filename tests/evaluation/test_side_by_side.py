"""Batches on several threads: the numbers of one thread, errors that arrive, settings left as they were."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from sleep_tune.evaluation.likelihood import score_candidates
from sleep_tune.evaluation.plan import Plan, make_plan
from sleep_tune.evaluation.side_by_side import each
from sleep_tune.evaluation.tasks import Item, TaskItems

WORDS = ["the", "a", "cat", "dog", "dogs", "sees", "see", "barks", "quickly", ".", "[UNK]", "[MASK]", "[PAD]"]


def plan_of_many_lengths() -> Plan:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", pad_token="[PAD]", unk_token="[UNK]")
    items = []
    for i in range(120):
        pair = tuple(" ".join(WORDS[(i * k + place * which) % 10] for place in range(3 + i % 40)) for which, k in ((3, 7), (5, 3)))
        items.append(Item("u", i, pair, pair, {"UID": "u"}))
    return make_plan(fast, [TaskItems("pairs", "pairs", "honest", 0, tuple(items))])


def random_model(kind: str = "RobertaPreLayerNorm") -> Any:
    """A tiny model with weights far from zero, in training mode."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), pad_token_id=12, initializer_range=0.5, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}ForMaskedLM")(config).train()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@contextmanager
def nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("bf16", [False, True])
def test_scores_are_those_of_one_thread_to_the_bit(bf16: bool) -> None:
    model, plan, before = random_model(), plan_of_many_lengths(), torch.get_num_threads()
    scores = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        counts: list[int] = []
        scores.append(score_candidates(model, plan, lambda done, of, counts=counts: counts.append(done), bf16=bf16).score)
        assert torch.get_num_threads() == threads
        assert counts == sorted(counts)
        assert counts[-1] == plan.n_rows
    torch.set_num_threads(before)
    assert np.isfinite(scores[0]).all()
    for other in scores[1:]:
        np.testing.assert_array_equal(scores[0], other)
    assert model.training


def test_rows_too_long_for_a_part_of_the_budget_take_turns(two_threads: None) -> None:
    model, plan = random_model(), plan_of_many_lengths()
    few, many = (score_candidates(model, plan, budget_bytes=size).score for size in (60_000, 1 << 28))
    np.testing.assert_allclose(few, many, atol=1e-4)


@pytest.mark.parametrize("kind", ["Roberta", "Bert"])
def test_a_model_without_a_way_of_its_own_is_scored_on_all_threads(kind: str, two_threads: None) -> None:
    model, plan = random_model(kind), plan_of_many_lengths()
    two = score_candidates(model, plan).score
    torch.set_num_threads(1)
    one = score_candidates(model, plan).score
    torch.set_num_threads(2)
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_whoever_stops_the_progress_stops_the_workers(two_threads: None) -> None:
    def leave(done: int, of: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        score_candidates(random_model(), plan_of_many_lengths(), leave)
    assert threading.active_count() == before


def test_a_workers_error_arrives_and_ends_the_others(two_threads: None) -> None:
    worked: list[int] = []

    def work(batch: int) -> int:
        if batch == 5:
            raise ValueError("five")
        worked.append(batch)
        return batch

    with pytest.raises(ValueError, match="five"):
        list(each(work, iter(range(10**9)), 2, nothing))
    assert len(worked) < 10**6


@pytest.mark.parametrize("workers", [1, 3])
def test_every_batch_is_worked_on_once(workers: int) -> None:
    assert sorted(each(lambda batch: batch, range(200), workers, nothing)) == list(range(200))
