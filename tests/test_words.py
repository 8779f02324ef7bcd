"""Budgets as users write them, and milestones."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.errors import UserError
from sleep_tune.evaluation.challenge import TRACKS
from sleep_tune.words import all_milestones, babylm_milestones, checkpoint_name, parse_words, show_words


@pytest.mark.parametrize(
    ("text", "words"), [("200000", 200_000), ("200k", 200_000), ("5M", 5_000_000), ("1e6", 1_000_000), ("1.5m", 1_500_000), ("1_000", 1000)]
)
def test_budgets_are_read_as_people_write_them(text: str, words: int) -> None:
    assert parse_words(text, "--budget") == words


@pytest.mark.parametrize("text", ["-5", "1e", "0", "", "lots", "1.5", "5 M words", "1e99", "nan", "inf", "0x10"])
def test_what_is_no_number_of_words_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(UserError, match=r"--budget = .*must be a whole number of words > 0"):
        parse_words(text, "--budget")


def test_strict_smalls_milestones_are_babylms_nineteen() -> None:
    million = 1_000_000
    assert babylm_milestones(100 * million) == [i * million for i in range(1, 11)] + [10 * i * million for i in range(2, 11)]


def test_stricts_milestones_are_the_checkpoints_that_the_challenge_asks_for() -> None:
    names = [checkpoint_name(words) for words in all_milestones(10**9, step_words=16_384)]
    assert names == list(TRACKS["strict"].revisions)


def test_rungs_are_milestones_and_the_budget_is_the_last() -> None:
    milestones = all_milestones(900, [Fraction(1, 9), Fraction(1, 3)])
    assert {100, 300} <= set(milestones)
    assert milestones[-1] == 900
    assert len(milestones) == 21


@given(st.integers(1, 10**9), st.integers(0, 10**4))
def test_no_step_crosses_two_of_babylms_milestones(budget: int, step: int) -> None:
    rungs = [Fraction(1, 9), Fraction(1, 3)]
    fixed = {*all_milestones(budget, rungs, budget + 1)}
    milestones = all_milestones(budget, rungs, step)
    assert milestones == sorted(set(milestones))
    assert milestones[-1] == budget
    for before, after in zip([0, *milestones], milestones, strict=False):
        assert after - before >= step or {before, after} <= {0, *fixed}
    assert set(milestones) <= {*babylm_milestones(budget), *fixed}


@pytest.mark.parametrize(("words", "shown"), [(940, "940"), (12_500, "12.5k"), (3_932_718, "3.93M"), (1e9, "1B")])
def test_words_are_shown_short(words: float, shown: str) -> None:
    assert show_words(words) == shown


def test_checkpoints_have_babylms_names() -> None:
    assert [checkpoint_name(words) for words in (10**6, 10**7, 10**9)] == ["chck_1M", "chck_10M", "chck_1000M"]
    assert [checkpoint_name(words) for words in (1_500_000, 555_555, 40)] == ["chck_1500K", "chck_555555", "chck_40"]
