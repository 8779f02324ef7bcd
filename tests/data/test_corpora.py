"""Raw text is found in BabyLM's layouts, read whatever its line ends, and refused in one line where it is no text."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sleep_tune.data.corpora import Source, directory, find_corpus
from sleep_tune.data.layout import parse_name
from sleep_tune.data.raw_files import LINE_CHARACTERS, digest_and_remember, read_lines, remembered_digest, scan
from sleep_tune.errors import UserError


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    return folder


def texts(path: Path) -> dict[tuple[str, str], list[str]]:
    return {(part.split, part.domain): list(part.lines()) for part in directory(path, scan).parts}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        directory(path, scan)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("childes.train", ("childes", "train")),
        ("childes.train.txt", ("childes", "train")),
        ("childes.dev", ("childes", "dev")),
        ("childes.validation.txt", ("childes", "dev")),
        ("childes.valid", ("childes", "dev")),
        ("childes.test", ("childes", "test")),
        ("bnc_spoken.txt", ("bnc_spoken", "")),
        ("train.txt", ("text", "train")),
        ("validation.txt", ("text", "dev")),
        ("a.b.train", ("a.b", "train")),
        ("README.txt", ("", "")),
        (".hidden.train", ("", "")),
        ("model.bin", ("", "")),
    ],
)
def test_file_names_tell_domain_and_split(name: str, expected: tuple[str, str]) -> None:
    assert parse_name(name) == expected


@pytest.mark.parametrize(
    "files",
    [
        {"a_dot_train": "x\n", "a_dot_dev": "y\n", "a_dot_test": "z\n"},
        {"train__a_dot_train": "x\n", "dev__a_dot_dev": "y\n", "test__a_dot_test": "z\n"},
        {"train__a_dot_train_dot_txt": "x\n", "validation__a_dot_txt": "y\n"},
        {"train__a_dot_txt": "x\n", "valid__a_dot_valid": "y\n", "README_dot_txt": "no\n", "notes_dot_txt": "no\n"},
    ],
)
def test_every_layout_of_the_same_text_is_found_and_has_one_digest(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, **files)
    assert texts(tmp_path) == {("train", "a"): ["x"], ("dev", "a"): ["y"]}
    plain = write(tmp_path / "plain", a_dot_train="x\n", a_dot_dev="y\n")
    assert directory(tmp_path, scan).digest == directory(plain, scan).digest


def test_the_digest_follows_content_and_domain_names_only(tmp_path: Path) -> None:
    base, same, other, renamed = (
        directory(write(tmp_path / name, **files), scan).digest
        for name, files in {
            "base": {"a_dot_train": "x\n", "a_dot_dev": "y\n"},
            "same": {"a_dot_train": "x\n", "a_dot_dev": "y\n"},
            "other": {"a_dot_train": "x z\n", "a_dot_dev": "y\n"},
            "renamed": {"b_dot_train": "x\n", "b_dot_dev": "y\n"},
        }.items()
    )
    assert base == same
    assert len({base, other, renamed}) == 3


def test_without_dev_files_the_last_hundredth_of_every_domain_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, a_dot_train="".join(f"line {n}\n" for n in range(350)), b_dot_train="one\ntwo\n")
    found = texts(tmp_path)
    assert found["train", "a"] == [f"line {n}" for n in range(347)]
    assert found["dev", "a"] == ["line 347", "line 348", "line 349"]
    assert (found["train", "b"], found["dev", "b"]) == (["one"], ["two"])


def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.train").write_bytes(b"\xef\xbb\xbfone two\r\n\r\nthree\rfour\nfive")
    assert list(read_lines(tmp_path / "a.train")) == ["one two", "", "three", "four", "five"]


def test_a_file_without_line_ends_is_read_in_pieces_that_hold_all_its_words(tmp_path: Path) -> None:
    words = [f"wörd{n}" for n in range(40_000)]
    (tmp_path / "a.train").write_text(" ".join(words), encoding="utf-8")
    pieces = list(read_lines(tmp_path / "a.train"))
    assert max(map(len, pieces)) <= LINE_CHARACTERS + 20
    assert [word for piece in pieces for word in piece.split()] == words


def test_characters_across_the_borders_of_read_blocks_are_whole(tmp_path: Path) -> None:
    text = "é€𝄞\n" * 200_000
    (tmp_path / "a.train").write_text("x" + text, encoding="utf-8")
    scan(tmp_path / "a.train")
    assert "".join(read_lines(tmp_path / "a.train")) == "x" + text.replace("\n", "")


def test_what_is_no_text_is_refused_with_its_name_in_one_line(tmp_path: Path) -> None:
    for name, content, reason in [
        ("latin.train", "caf\xe9 au lait\n".encode("latin-1"), "not UTF-8"),
        ("cut.train", "fine until é".encode()[:-1], "not UTF-8"),
        ("binary.train", b"ab\0cd", "NUL at byte 2"),
        ("noise.train", bytes(range(128, 256)), "not UTF-8"),
        ("nothing.train", b"", "empty"),
        ("blank.train", "\ufeff \n\t\n\u00a0".encode(), "empty"),
    ]:
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(content)
        message = refused(folder)
        assert name in message
        assert reason in message


def test_a_late_bad_byte_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "late.train").write_bytes(b"word " * 500_000 + b"\xff")
    assert "2500000" in refused(tmp_path)


def test_directories_that_hold_no_training_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path / "empty")
    assert "does not exist (did you mean empty?)" in refused(tmp_path / "emtpy")
    (tmp_path / "file").write_text("x")
    assert "not a directory" in refused(tmp_path / "file")
    write(tmp_path / "outer", babylm__train__a_dot_train="x\n")
    assert f"did you mean {tmp_path / 'outer' / 'babylm'}?" in refused(tmp_path / "outer")
    write(tmp_path / "only_dev", a_dot_dev="x\n")
    assert "must hold <domain>.train" in refused(tmp_path / "only_dev")


def test_two_files_of_one_domain_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a_dot_train="x\n", a_dot_train_dot_txt="y\n")
    assert "a.train and a.train.txt are both train text of a" in refused(tmp_path)


def test_a_remembered_digest_is_forgotten_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.train"
    path.write_text("one\n")
    os.utime(path, (1, 1))
    assert digest_and_remember(path) == remembered_digest(path) == scan(path)
    path.write_text("two\n")
    assert remembered_digest(path) == scan(path)


def test_the_official_layout_is_found_in_the_real_text(shared_data: Path) -> None:
    corpus = directory(shared_data / "babylm", remembered_digest)
    domains = ["bnc_spoken", "childes", "gutenberg", "open_subtitles", "simple_wiki", "switchboard"]
    assert [part.domain for part in corpus.split("train")] == [part.domain for part in corpus.split("dev")] == domains
    assert [sum(len(line.split()) for line in part.lines()) for part in corpus.split("dev")] == [7469, 25894, 19715, 23092, 11966, 148340]


def test_a_hub_corpus_that_was_not_fetched_is_not_found() -> None:
    assert find_corpus(Source("hub", "BabyLM-community/never-fetched")) is None


@pytest.mark.parametrize(
    ("identifier", "environment", "reason"),
    [
        ("BabyLM-community/BabyLM-2026-Strict-Small", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
        ("BabyLM-community/BabyLM-2026-Strict-Small", {"HF_HUB_OFFLINE": "1"}, "cannot be reached"),
        ("no/such/id", {}, "must be owner/name"),
    ],
)
def test_a_hub_out_of_reach_is_one_line_and_soon(identifier: str, environment: dict[str, str], reason: str, cache: Path) -> None:
    code = (
        "import sys; from sleep_tune.errors import run_main; from sleep_tune.data.token_store import Source, prepare\n"
        "run_main(lambda: prepare(Source('hub', sys.argv[1]), None, 'light', 'lines', 16, 512) and 0)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, identifier], env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert time.monotonic() - start < 20
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert identifier in done.stderr
    assert reason in done.stderr
