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
from sleep_tune.evaluation.word_search import NORMALISED, Searcher, normal_words

WORDS = st.lists(st.sampled_from(["a", "b", "A", "c.", "zz"]), max_size=40)


def plain_count(words: list[str], sentence: str) -> int:
    wanted = sentence.split()
    return sum(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


@settings(max_examples=200, deadline=None)
@given(WORDS, st.lists(st.lists(st.sampled_from(["a", "b", "A", "c."]), min_size=1, max_size=7), min_size=1, max_size=6), st.integers(1, 9))
def test_sequences_are_found_as_often_as_a_plain_search_finds_them(words: list[str], wanted: list[list[str]], line: int) -> None:
    searcher = Searcher("\n".join(sequence) for sequence in wanted)
    lines = ["  ".join(words[i : i + line]) for i in range(0, len(words), line)]
    searcher.read(lines, 0)
    for sequence in wanted:
        assert searcher.times_of("\n".join(sequence)) == plain_count(words, " ".join(sequence))


@pytest.mark.parametrize("form", [word_search.EXACT, NORMALISED])
def test_sequences_are_found_across_blocks_once(form: word_search.Form) -> None:
    """The text is longer than a block, and one sequence lies on the border."""
    searcher = Searcher(["x y z", "x", "w x y z w w w"], form)
    line = "w " * (word_search.BLOCK_CHARACTERS // 2) + "x"
    lines = [line, "y z", "w w w w x"]
    assert len(list(word_search.blocks(lines))) == 2
    searcher.read(lines, 3)
    assert [searcher.times_of(text) for text in ("x y z", "x", "w x y z w w w", "not asked")] == [1, 2, 1, 0]
    assert [searcher.where_of(text) for text in ("x y z", "x", "w x y z w w w", "not asked")] == [3, 3, 3, -1]


@pytest.mark.parametrize("form", [word_search.EXACT, NORMALISED])
@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_line_separates_documents(form: word_search.Form, blank: str) -> None:
    searcher = Searcher(["The dog barks."], form)
    searcher.read(["And the dog", blank, "barks. The dog", "barks."], 0)
    assert searcher.times_of("The dog barks.") == 1


@pytest.mark.parametrize(
    "line",
    [
        'He said "The dog barks." and left.',
        "“The dog barks,” he said.",
        "(the dog barks)",
        "THE DOG BARKS!",
        "the dog barks",
        "Then: the 'dog' barks ...",
        "So the dog, barks; so what",
        "- The dog barks -",
        "I know the dog barks?!",
    ],
)
def test_the_normalised_form_sees_through_quotes_punctuation_and_case(line: str) -> None:
    searcher = Searcher(["The dog barks."], NORMALISED)
    searcher.read([line], 0)
    assert searcher.times_of("The dog barks.") == 1


@pytest.mark.parametrize(
    "line", ["The dog barks at night.", "Look at the dog. Barks are loud.", "The dogs bark.", "The dog-barks.", "sathe dog barks.", ""]
)
def test_the_normalised_form_keeps_words_sentences_and_ends_apart(line: str) -> None:
    searcher = Searcher(["The dog barks.", "the dog barks"], NORMALISED)
    searcher.read([line], 0)
    assert searcher.times_of("The dog barks.") == 0
    assert searcher.times_of("the dog barks") == ("at night" in line)  # nothing ends this one


def test_what_the_normalised_form_is() -> None:
    assert normal_words("“Don’t,” said Mr. O'Neill... (twice)!") == (["don't", "said", "mr", ".", "o'neill", ".", "twice"], True)
    assert normal_words("A well-known\nfact") == (["a", "well-known", "fact"], False)
    assert normal_words("?!") == ([], True)


PIECES = st.lists(st.sampled_from(["a", "B", "a.", '"a', "B,", "b-a", "’a’", "--", "c's", "…", "A!?"]), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=12), st.lists(PIECES.filter(lambda words: any(map(str.isalpha, "".join(words)))), min_size=1, max_size=5))
def test_what_is_found_exactly_is_found_normalised(lines: list[list[str]], wanted: list[list[str]]) -> None:
    texts = [" ".join(words) for words in wanted]
    exact, normalised = Searcher(texts), Searcher(texts, NORMALISED)
    for searcher in (exact, normalised):
        searcher.read([" ".join(words) for words in lines], 0)
    for text in texts:
        assert normalised.times_of(text) >= exact.times_of(text)


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
    (directory / "two.train").write_text("Some cats sleeps well.\n“No dog does,” WHO KNOWS\n" + "Nothing to see.\n" * 200)
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
    lines = [line for line in shown.splitlines() if line.startswith("blimp u_")]
    assert lines == [
        "blimp u_0 (right, exact): 'Some cats sleep well.': 3 times, first in one; and 1 more of its sentences",
        "blimp u_1 (right, exact): 'No dog does.': 3 times, first in one",
        "blimp u_2 (right, normalised): 'Who knows?': 1 times, first in two",
    ]
    assert "more items" not in shown
    written = json.loads((out / "contamination.json").read_text())
    [row] = written["tasks"]
    assert (row["items"], row["sentences"]) == (3, 6)
    assert row["exact"] == {"right": 2, "wrong": 1, "any": 2, "found": 3, "occurrences": 7}
    assert row["normalised"] == {"right": 3, "wrong": 1, "any": 3, "found": 4, "occurrences": 9}
    assert [example["found"] for example in row["examples"]] == ["exact", "exact", "normalised"]
    assert written["words"] == {"one": 7 * 3 + 3 * 198, "two": 9 + 3 * 198}  # the last 1 % of the lines is held out
    rows = [tuple(row.values()) for row in pq.read_table(out / "contamination.parquet").to_pylist()]
    assert rows == [("blimp", "u", 0, 3, 1, 3, 1), ("blimp", "u", 1, 3, 0, 4, 0), ("blimp", "u", 2, 0, 0, 1, 0)]


def test_items_that_are_not_shown_are_counted(text: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [file] = pairs.rglob("u.jsonl")
    file.write_text(file.read_text() * 3)
    assert main(["--data", str(text), "--evaluation-data", str(pairs), "--cleaning", "none", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert sum(line.startswith("blimp u_") for line in shown.splitlines()) == 5
    assert "blimp: 4 more items, all in contamination.parquet" in shown
    assert pq.read_table(tmp_path / "out" / "contamination.parquet").num_rows == 9


def test_nothing_is_found_across_documents_and_files(pairs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "text"
    directory.mkdir()
    (directory / "one.train").write_text("Some cats\n\nsleep well.\n" + "Other words here.\n" * 200 + "No dog")
    (directory / "two.train").write_text("does.\n" + "Nothing to see.\n" * 200)
    (directory / "one.dev").write_text("Who knows?\n")
    for cleaning in ("none", "light"):
        assert (
            main(["--data", str(directory), "--evaluation-data", str(pairs), "--cleaning", cleaning, "--out", str(tmp_path / "out")]) == 0
        )
        [row] = json.loads((tmp_path / "out" / "contamination.json").read_text())["tasks"]
        assert (row["exact"]["any"], row["normalised"]["any"]) == (0, 0)


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
