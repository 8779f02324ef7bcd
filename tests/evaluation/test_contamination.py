"""Sentences of the evaluation found in training text, against a plain search."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sleep_tune.errors import UserError
from sleep_tune.evaluation import word_search
from sleep_tune.evaluation.contamination import main, questions
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.word_search import Searcher

WORDS = st.lists(st.sampled_from(["a", "b", "A", "c.", "zz"]), max_size=40)


def plain_count(words: list[str], sentence: str) -> int:
    wanted = sentence.split()
    return sum(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


@settings(max_examples=200, deadline=None)
@given(WORDS, st.lists(st.lists(st.sampled_from(["a", "b", "A", "c."]), min_size=1, max_size=7), min_size=1, max_size=6), st.integers(1, 9))
def test_sequences_are_found_as_often_as_a_plain_search_finds_them(words: list[str], wanted: list[list[str]], line: int) -> None:
    searcher = Searcher(" ".join(sequence) for sequence in wanted)
    lines = ["  ".join(words[i : i + line]) for i in range(0, len(words), line)]
    assert searcher.read(lines, 0) == len(words)
    for sequence in wanted:
        assert searcher.times_of("\n".join(sequence)) == plain_count(words, " ".join(sequence))


def test_sequences_are_found_across_blocks_once() -> None:
    """The text is longer than a block, and one sequence lies on the border."""
    searcher = Searcher(["x y z", "x", "w x y z w w w"])
    line = "w " * (word_search.BLOCK_WORDS - 2) + "x"
    assert searcher.read([line, "y z", "w w w w x"], 3) == word_search.BLOCK_WORDS + 6
    assert [searcher.times_of(text) for text in ("x y z", "x", "w x y z w w w", "not asked")] == [1, 2, 1, 0]
    assert searcher.where.tolist() == [3, 3, 3]


def test_case_and_punctuation_are_kept_and_streams_do_not_join() -> None:
    searcher = Searcher(["The dog barks.", "dog barks"])
    searcher.read(["the dog barks. The dog"], 0)
    searcher.read(["barks. The dog barks ."], 1)
    assert searcher.times_of("The dog barks.") == 0
    assert searcher.times_of("dog barks") == 1


@pytest.fixture
def text(tmp_path: Path) -> Path:
    directory = tmp_path / "text"
    directory.mkdir()
    (directory / "one.train").write_text("Some cats\nsleep well. No dog does.\n" * 3 + "Other words here.\n" * 200)
    (directory / "two.train").write_text("Some cats sleeps well.\n" + "Nothing to see.\n" * 200)
    return directory


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    directory = tmp_path / "evaluation_data" / "full_eval" / "blimp_filtered"
    directory.mkdir(parents=True)
    fields = {"field": "syntax", "linguistics_term": "agreement", "UID": "u"}
    sentences = [("Some cats sleep well.", "Some cats sleeps well."), ("No dog does.", "No dog do."), ("Who knows?", "Who know?")]
    lines = [json.dumps({"sentence_good": good, "sentence_bad": bad, **fields}) for good, bad in sentences]
    (directory / "u.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "evaluation_data"


def test_the_command_reports_items_by_task_with_counts_and_examples(
    text: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--data", str(text), "--evaluation-data", str(pairs), "--cleaning", "none", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "blimp" in shown
    assert "'Some cats sleep well.': 3 times, first in one" in shown
    written = json.loads((out / "contamination.json").read_text())
    [row] = written["tasks"]
    assert (row["items"], row["right"], row["wrong"], row["any"]) == (3, 2, 1, 2)
    assert (row["sentences"], row["found"], row["occurrences"]) == (6, 3, 7)
    assert written["words"].keys() == {"one", "two"}
    rows = pq.read_table(out / "contamination.parquet").to_pylist()
    assert [(row["uid"], row["item"], row["right_times"], row["wrong_times"]) for row in rows] == [("u", 0, 3, 1), ("u", 1, 3, 0)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--data": "nowhere"}, "nowhere: does not exist"),
        ({"--evaluation-data": "nowhere"}, "--evaluation-data = nowhere: no such file"),
        ({"--tasks": "blimb"}, "did you mean blimp"),
        ({"--cleaning": "lite"}, "--cleaning = lite: unknown"),
        ({"--rules": "2024"}, "--rules = 2024: unknown"),
    ],
)
def test_bad_input_is_one_line(change: dict[str, str], says: str, text: Path, pairs: Path, tmp_path: Path) -> None:
    given = {"--data": str(text), "--evaluation-data": str(pairs), "--out": str(tmp_path / "out"), **change}
    with pytest.raises(UserError, match=says) as caught:
        main([part for pair in given.items() for part in pair])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_reading_is_looked_for_sentence_by_sentence(shared_data: Path) -> None:
    [items] = load_items(shared_data / "evaluation_data", ["reading"], fast=False)
    asked = questions(items)
    assert len(asked) == 205
    assert max(len(question.right.split()) for question in asked) > 10
