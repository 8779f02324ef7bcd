"""Does a config fit its corpus: what is refused, what is said."""

import numpy as np
import pytest

from sleep_tune.config import Config, load_config
from sleep_tune.data.collate import BOS
from sleep_tune.data.token_store import open_store, prepare
from sleep_tune.errors import UserError
from sleep_tune.fit import check_against
from sleep_tune.presets import combine, set_field
from sleep_tune.sleep.schedule import CorpusSize
from sleep_tune.study.material import corpus_size, recipe

SIZE = CorpusSize(samples=10_000, words=50_000, recut_words=8.0)


def config(schedule: str = "weighted_replay", **fields: object) -> Config:
    raw = combine(["tiny", schedule])
    for name, value in {"sleep__context": None, **fields}.items():
        raw = set_field(raw, name.replace("__", "."), value)
    return load_config(raw)


def test_a_schedule_that_covers_the_corpus_within_its_budget_is_fine() -> None:
    assert check_against(config(sleep__length={"ratio": 1}, sleep__folds=5), SIZE) == []
    assert check_against(config("epochs"), SIZE) == []


def test_more_folds_than_samples_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"sleep.folds = 10001: must be <= 10000, the samples of the corpus \(rows of 16 tokens\)"):
        check_against(config(sleep__folds=10_001), SIZE)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"budget_words": 900}, "budget_words = 900: ends before the first sleep (one fold is 1k words)"),
        ({"sleep__length": {"ratio": 9}}, "coverage 40%"),
        ({"budget_words": 600_000, "sleep__length": {"ratio": 1}}, "12 exposures of each word on average: BabyLM allows 10"),
        ({"sleep__passes": 1, "sleep__length": {"ratio": 1}}, "the schedule ends at 51% of the budget"),
        (
            {"sleep__context": {"shuffles": 2}, "sleep__length": {"ratio": 1}},
            "sleep.length.ratio = 1 counts steps: sleep sees 1.7 times wake's words",
        ),
        (
            {"sleep__homeostasis": {"importance": "fisher"}, "budget_words": 4000, "sleep__length": {"ratio": 9}},
            "sleep.homeostasis: never acts: the budget ends before the first waking",
        ),
        (
            {"sleep__freezing": {"choice": "random", "warmup": 0.9}, "budget_words": 28_000, "sleep__length": {"ratio": 9}},
            "sleep.freezing: never acts: no waking after its warm-up of 0.9 of the budget",
        ),
        (
            {"sleep__strategy": "random", "sleep__criterion": "gain", "sleep__rescore": "all"},
            "sleep.strategy = random: does not look at scores: sleep.criterion and sleep.rescore cost time and change nothing",
        ),
    ],
)
# the last: 13 full batches of 16 re-cut rows of 8 words after 200 samples of 5: 1664 words to 1000
def test_what_is_unwise_is_said(fields: dict, line: str) -> None:
    assert line in "\n".join(check_against(config(**fields), SIZE))


@pytest.mark.parametrize(
    "fields",
    [
        {"sleep__homeostasis": {"importance": "fisher"}},
        {"sleep__freezing": {"choice": "random"}},
        {"sleep__criterion": "gain", "sleep__strategy": "easy"},
        {"sleep__length": {"ratio": 0}},
    ],
)
def test_what_does_act_is_no_warning(fields: dict) -> None:
    assert check_against(config(**{"sleep__length": {"ratio": 1}, "sleep__folds": 5, **fields}), SIZE) == []


@pytest.mark.parametrize(("fields", "smallest"), [({"sleep__folds": 200}, 50), ({"sleep__folds": 5, "sleep__max_wake_steps": 2}, 32)])
def test_need_has_neighbours_enough_in_the_smallest_fold(fields: dict, smallest: int) -> None:
    needed = {"sleep__criterion": {"utility": {"k": smallest}}, **fields}
    with pytest.raises(UserError, match=f"sleep.criterion.utility.k = {smallest}: must be < {smallest}, the samples of the smallest fold"):
        check_against(config(**needed), SIZE)
    check_against(config(**{**needed, "sleep__criterion": {"utility": {"k": smallest - 1}}}), SIZE)


def test_epochs_that_end_before_the_corpus_does_are_said() -> None:
    assert check_against(config("epochs", budget_words=25_000), SIZE) == ["coverage 50%: the budget ends before every sample was read once"]


def test_a_corpus_in_numbers_is_what_its_store_holds() -> None:
    prepared = prepare(**recipe(config("epochs", data__source={"embedded": {"words": 3000, "seed": 1}}, tokenizer__vocab_size=400)))
    size, store = corpus_size(prepared), open_store(prepared.directory)
    assert (size.samples, size.words) == (store.samples, int(store.words_N.sum()))
    content = int(np.count_nonzero(store.tokens != BOS))
    assert size.recut_words == pytest.approx(15 * size.words / content)
    assert size.recut_words > size.row_words
