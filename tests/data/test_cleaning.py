"""Cleaning takes the markup of every BabyLM domain away and leaves what people said and wrote."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleep_tune.data.cleaning import DOMAIN_RULES, Tally, clean


def cleaned(domain: str, lines: Iterable[str], cleaning: str = "light") -> list[str]:
    return list(clean(domain, cleaning, lines, Tally()))


GONE: list[str] = []
CASES = [
    ("childes", "*MOT:\tthat's a  dog.", ["that's a dog."]),
    ("childes", "*CH2:\tno.", ["no."]),
    ("childes", "[Her father asks if she will be dressed.]", GONE),
    ("childes", "*CHI:\thaha. [giggles]", ["haha."]),
    ("childes", "*CHI:\tnot till Grandmamma does [dresses] Margaret.", ["not till Grandmamma does Margaret."]),
    ("childes", "%add:\tto Margaret", GONE),
    ("childes", "*CHI:\txxx.", GONE),
    ("childes", "*CHI:\tput xxx.", ["put."]),
    ("childes", "*MOT:\ta boy called www.", ["a boy called."]),
    ("childes", "*CHI:\tI wan' it.", ["I wan' it."]),
    ("aochildes", "you want some milk .", ["you want some milk."]),
    ("aochildes", "what 's that ?", ["what 's that?"]),
    ("switchboard", "B:\tUh-huh, so", ["Uh-huh, so"]),
    ("switchboard", "so I said A: no", ["so I said A: no"]),
    ("bnc_spoken", "Doctor  's obviously like  Come Dancing .", ["Doctor 's obviously like Come Dancing."]),
    ("bnc_spoken", "erm  three two er four", ["erm three two er four"]),
    ("bnc_spoken", "?", GONE),
    ("gutenberg", "But suppose it _was_? And _a very_ large sum", ["But suppose it was? And a very large sum"]),
    ("gutenberg", "one note--but", ["one note—but"]),
    ("gutenberg", "CHAPTER XXI THE GIANT CATARACT The old man", ["THE GIANT CATARACT The old man"]),
    ("gutenberg", "[Illustration: \"'I'M GOIN'.'\"] Her question", ["Her question"]),
    ("gutenberg", "Produced by David Edwards and the Online Distributed Proofreading Team", GONE),
    ("gutenberg", "* * * * *", GONE),
    ("open_subtitles", "- Here's some more wood,Jim.", ["Here's some more wood,Jim."]),
    ("open_subtitles", "We're chicken thieves !", ["We're chicken thieves!"]),
    ("open_subtitles", "♪ About the boy ♪", ["About the boy"]),
    ("open_subtitles", "# The tough get rough", ["The tough get rough"]),
    ("open_subtitles", "number #1 hit", ["number #1 hit"]),
    ("open_subtitles", "{\\pos(192,220)}Come on.", ["Come on."]),
    ("open_subtitles", "<i>Come on.</i>", ["Come on."]),
    ("open_subtitles", "(INAUDIBLE)", GONE),
    ("open_subtitles", "(GASPS) Who is it?", ["Who is it?"]),
    ("open_subtitles", "Ewa SZYKULSKA (Poland)", ["Ewa SZYKULSKA (Poland)"]),
    ("open_subtitles", "Oh, you got [bleep] gloves on.", ["Oh, you got gloves on."]),
    ("open_subtitles", "Subtitles by Red Bee Media Ltd", GONE),
    ("open_subtitles", "Captioned by Grantman Brown", GONE),
    ("open_subtitles", "- Synchro By : ¤AkaZab¤", GONE),
    ("open_subtitles", "\ufffd \ufffd\ufffd", GONE),
    ("open_subtitles", "I can \ufffdt, you \ufffdre mad", ["I can't, you're mad"]),
    ("open_subtitles", "I \xadlove\u200b you\x99", ["I love you"]),
    ("simple_wiki", "= = = Bocas del Toro = = =", ["Bocas del Toro"]),
    ("simple_wiki", "History.", GONE),
    ("simple_wiki", "Early life.", GONE),
    ("simple_wiki", "It is small.", ["It is small."]),
    ("simple_wiki", "Mělník () is a town.", ["Mělník is a town."]),
    ("simple_wiki", "Ashley ( ; born 1994), known", ["Ashley (born 1994), known"]),
    ("simple_wiki", "between 1991 &amp; 1993", ["between 1991 & 1993"]),
    ("simple_wiki", "the formula_1 function", ["the function"]),
    ("simple_wiki", "&lt;onlyinclude&gt;", GONE),
    ("cbt", "`` I ca n't , '' she said .", ['" I can\'t, " she said.']),
    ("cbt", "_BOOK_TITLE_ : Andrew_Lang.txt", GONE),
    ("children_stories", "“Once upon a time,” he said.", ["“Once upon a time,” he said."]),
    ("unheard_of", "  Some\u00a0 text\x1cwith\u3000 spaces .", ["Some text with spaces."]),
]


@pytest.mark.parametrize(("domain", "raw", "expected"), CASES, ids=[f"{domain}: {raw[:40]!r}" for domain, raw, _ in CASES])
def test_every_quirk_of_the_raw_text_is_cleaned(domain: str, raw: str, expected: list[str]) -> None:
    assert cleaned(domain, [raw]) == expected


def test_headings_and_blank_lines_are_breaks_between_documents() -> None:
    lines = ["", "= = = childes/a.cha = = =", "*MOT:\tone.", "", "", "= = = childes/b.cha = = =", "*MOT:\ttwo.", ""]
    assert cleaned("childes", lines) == ["one.", "", "two."]


def test_only_lines_that_follow_their_like_are_collapsed() -> None:
    lines = ["A:\tyes.", "B:\tyes.", "A:\tno.", "A:\tyes.", "", "B:\tyes."]
    assert cleaned("switchboard", lines) == ["yes.", "no.", "yes.", "", "yes."]


def test_cleaning_none_only_normalises_white_space() -> None:
    lines = ["*MOT:\thello  [x] .", "*MOT:\thello  [x] .", "\x1c ", "<s>\u00a0\ufffd"]
    assert cleaned("childes", lines, "none") == ["*MOT: hello [x] ."] * 2 + ["", "<s> \ufffd"]


def test_the_tally_says_what_was_there_and_what_was_kept() -> None:
    tally = Tally()
    list(clean("childes", "light", ["*MOT:\tone two.", "*MOT:\tone two.", "[noise]", ""], tally))
    assert (tally.raw_words, tally.words, tally.lines) == (7, 2, 1)


@given(st.sampled_from(sorted(DOMAIN_RULES)), st.lists(st.text(max_size=40)), st.sampled_from(["light", "none"]))
def test_any_text_leaves_with_single_spaces_and_its_words_counted(domain: str, lines: list[str], cleaning: str) -> None:
    tally = Tally()
    kept = list(clean(domain, cleaning, lines, tally))
    assert all(line == " ".join(line.split()) for line in kept)
    assert tally.words == sum(len(line.split()) for line in kept)
    assert tally.raw_words == sum(len(line.split()) for line in lines)
    assert not kept or (kept[0] and kept[-1])
    assert all(first or second for first, second in pairwise(kept))


@pytest.mark.parametrize(
    ("domain", "markup", "share"),
    [
        ("childes", ["*", "[", "= = =", "%add", "xxx"], 0.6),
        ("switchboard", ["A:", "B:"], 0.85),
        ("bnc_spoken", [" ."], 0.98),
        ("gutenberg", ["--", "[Illustration"], 0.98),
        ("open_subtitles", ["♪", "{", "[GASPS]", "Subtitles by"], 0.93),
        ("simple_wiki", ["= = =", "()", "&amp;", "formula_1"], 0.9),
    ],
)
def test_real_text_loses_its_markup_and_few_words(shared_data: Path, domain: str, markup: list[str], share: float) -> None:
    for split in ("dev", "test"):
        tally = Tally()
        with (shared_data / "babylm" / split / f"{domain}.{split}").open(encoding="utf-8") as file:
            lines = list(clean(domain, "light", file, tally))
        assert not [line for line in lines if any(line.startswith(mark) or (len(mark) > 1 and mark in line) for mark in markup)][:5]
        assert share < tally.words / tally.raw_words < 1
        assert tally.words / tally.lines > 1
