"""The store holds every word of the corpus once, is built once, and is rebuilt when something happened to it."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sleep_tune.data import packing
from sleep_tune.data.collate import BOS, EOS
from sleep_tune.data.corpora import Source
from sleep_tune.data.packing import Task, write_store
from sleep_tune.data.text import Limit, first_words, quotas
from sleep_tune.data.token_store import StoreDamaged, TokenStore, find_prepared, open_store, prepare, verify_store
from sleep_tune.data.tokenizer import FILE, load_tokenizer, write_tokenizer
from sleep_tune.errors import UserError

EMBEDDED = Source("embedded", words=3_000, seed=5)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=12).filter(
    lambda word: word.split() == [word]
)
CORPORA = st.lists(st.lists(st.lists(WORDS, min_size=1, max_size=25).map(" ".join), min_size=1, max_size=12), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(["the dogs are sleeping in the garden."] * 9, 290, directory)
    return directory / FILE


def store_of(corpus: list[list[str]], rows: str, row_length: int, tokenizer_file: Path, place: Path) -> TokenStore:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    limits = []
    for number, lines in enumerate(corpus):
        (place / f"{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        limits.append(Limit(f"domain{number}", place / f"{number}.txt", sum(len(line.split()) for line in lines)))
    write_store(Task(tuple(limits), tokenizer_file, rows, row_length), place)
    verify_store(place)
    return open_store(place)


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(8, 40))
def test_packed_rows_are_one_stream_cut_every_row_length_tokens(
    tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory, corpus: list[list[str]], row_length: int
) -> None:
    store = store_of(corpus, "packed", row_length, tokenizer_file, tmp_path_factory.getbasetemp() / "packed")
    encode = load_tokenizer(tokenizer_file).encode
    domains = [[token for line in lines for token in encode(line).ids] for lines in corpus]
    stream = [token for tokens in domains for token in tokens]
    if len(stream) % row_length == 1:
        stream.pop()  # a lone </s>
    assert store.tokens.tolist() == stream
    assert store.offsets.tolist() == [*range(0, len(stream), row_length), len(stream)]
    borders = np.cumsum([0, *map(len, domains)])
    assert store.domain_N.tolist() == [int(np.searchsorted(borders, start, "right")) - 1 for start in store.offsets[:-1]]
    assert_words_add_up(store, corpus)


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(8, 40))
def test_lines_are_samples_and_long_ones_are_cut_into_the_fewest_that_hold_them(
    tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory, corpus: list[list[str]], row_length: int
) -> None:
    store = store_of(corpus, "lines", row_length, tokenizer_file, tmp_path_factory.getbasetemp() / "lines")
    lines = [(load_tokenizer(tokenizer_file).encode(line).ids, number) for number, lines in enumerate(corpus) for line in lines]
    assert store.tokens.tolist() == [token for tokens, _ in lines for token in tokens]
    assert store.samples == sum(-(-len(tokens) // row_length) for tokens, _ in lines)
    assert store.domain_N.tolist() == [number for tokens, number in lines for _ in range(-(-len(tokens) // row_length))]
    lengths = np.diff(store.offsets)
    assert lengths.max() <= row_length
    assert lengths.min() >= 3
    assert_words_add_up(store, corpus)


def assert_words_add_up(store: TokenStore, corpus: list[list[str]]) -> None:
    words = [sum(len(line.split()) for line in lines) for lines in corpus]
    assert store.words == store.words_N.sum() == sum(words)
    initial_N = [store.word_initial_V[store.tokens[start:end]].sum() for start, end in zip(store.offsets, store.offsets[1:], strict=False)]
    assert store.words_N.tolist() == initial_N


def test_no_sample_is_without_a_token_to_learn_from(tokenizer_file: Path, tmp_path: Path) -> None:
    for length in range(8, 30):
        for rows in packing.PACKINGS:
            store = store_of([["the garden dogs are in"] * 7], rows, length, tokenizer_file, tmp_path / "store")
            for start, end in zip(store.offsets, store.offsets[1:], strict=False):
                assert set(store.tokens[start:end].tolist()) - {BOS, EOS}


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=9), st.integers(1, 10**10))
def test_quotas_are_proportional_and_add_up(sizes: list[int], limit: int) -> None:
    found = quotas(sizes, limit)
    assert sum(found) == min(limit, sum(sizes))
    assert all(abs(quota - min(limit, sum(sizes)) * size / sum(sizes)) <= 1 + 1e-6 * size for quota, size in zip(found, sizes, strict=True))
    assert quotas(sizes, None) == sizes


def test_first_words_cut_the_line_in_which_they_end() -> None:
    assert list(first_words(["a b", "c d e", "f"], 4)) == ["a b", "c d"]
    assert list(first_words(["a b", "c"], 9)) == ["a b", "c"]
    assert list(first_words(["a b", "c"], 0)) == []


@pytest.mark.parametrize("rows", ["lines", "packed"])
@pytest.mark.parametrize("words", [None, 1_000])
def test_the_prepared_corpus_has_all_its_words(rows: str, words: int | None) -> None:
    prepared = prepare(EMBEDDED, words, "light", rows, 16, 400)
    train, dev = open_store(prepared.directory), open_store(prepared.dev_directory)
    reported = {split: sum(entry.words for entry in prepared.report if entry.split == split) for split in ("train", "dev")}
    assert train.words == prepared.train_words == (words or reported["train"])
    assert dev.words == reported["dev"] >= 2_000
    assert train.domains == dev.domains == ("kitchen", "playground", "bedtime")
    assert (train.kind, train.row_length, train.vocab_size) == (rows, 16, 400)
    assert pickle.loads(pickle.dumps(prepared)) == prepared
    assert prepared.pairs_file is not None
    assert {"sentence_good", "sentence_bad", "UID"} <= json.loads(prepared.pairs_file.read_text().splitlines()[0]).keys()


def test_what_is_prepared_is_found_and_nothing_is_written_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_TUNE_CACHE", str(tmp_path / "fresh"))
    arguments = (EMBEDDED, None, "light", "lines", 16, 400)
    assert find_prepared(*arguments) is None
    assert not (tmp_path / "fresh").exists()
    prepared = prepare(*arguments)
    said: list[str] = []
    assert find_prepared(*arguments) == prepare(*arguments, say=said.append) == prepared
    assert said == []
    assert find_prepared(EMBEDDED, None, "light", "lines", 17, 400) is None


def test_looking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sleep_tune.data.token_store import Source, find_prepared\n"
        "find_prepared(Source('embedded'), None, 'light', 'lines', 16, 512)\n"
        "sys.exit(' '.join({'torch', 'transformers', 'tokenizers', 'datasets', 'huggingface_hub', 'ray', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "tokenizer", "pairs", "text"])
def test_whatever_is_damaged_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setenv("SLEEP_TUNE_CACHE", str(tmp_path))
    arguments = (EMBEDDED, None, "light", "lines", 16, 300)
    before = prepare(*arguments)
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "lock" not in path.name}
    tokens = before.directory / packing.TOKENS
    if damage == "truncate":
        os.truncate(tokens, 100)
    elif damage == "flip":
        tokens.write_bytes(tokens.read_bytes()[:-2] + b"\x07\x00")
    elif damage == "remove":
        tokens.unlink()
    elif damage == "manifest":
        (before.directory / packing.MANIFEST).write_text('{"format": 1')
    elif damage == "tokenizer":
        before.tokenizer_file.write_text("{}")
    elif damage == "pairs":
        assert before.pairs_file is not None
        before.pairs_file.write_text("{}\n")
    else:
        shutil.rmtree(before.directory)
        next((tmp_path / "text").glob("*/train.0.txt")).write_text("other text\n")
    if damage in ("truncate", "remove", "manifest"):
        with pytest.raises(StoreDamaged):
            open_store(before.directory)
        assert find_prepared(*arguments) is None
    if damage == "flip":
        with pytest.raises(StoreDamaged):
            verify_store(before.directory)
    assert prepare(*arguments) == before
    assert {path: path.read_bytes() for path in contents} == contents


def test_a_store_of_another_digest_is_refused() -> None:
    prepared = prepare(EMBEDDED, None, "light", "lines", 16, 400)
    assert open_store(prepared.directory, open_store(prepared.directory).digest).words == prepared.train_words
    with pytest.raises(UserError, match="digest"):
        open_store(prepared.directory, "0" * 32)


PREPARE = (
    "import sys; from sleep_tune.errors import run_main; from sleep_tune.data.token_store import Source, prepare\n"
    "source = Source('directory', sys.argv[1]) if len(sys.argv) > 1 else Source('embedded', words=30_000)\n"
    "run_main(lambda: prepare(source, None, 'light', 'lines', 16, 512, say=print) and None)"
)


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    environment = os.environ | {"SLEEP_TUNE_CACHE": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", PREPARE], env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0)] * 2
    for kind, count in (("text", 1), ("tokenizers", 1), ("stores", 2)):
        assert len([path for path in (tmp_path / kind).iterdir() if path.is_dir()]) == count


def test_a_builder_that_was_killed_leaves_nothing_that_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_TUNE_CACHE", str(tmp_path))
    whole = prepare(EMBEDDED, None, "light", "lines", 16, 300)
    left = whole.directory.with_name(f".{whole.directory.name}.new-dead")
    whole.directory.rename(left)
    assert prepare(EMBEDDED, None, "light", "lines", 16, 300) == whole
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", PREPARE],
        env=os.environ | {"SLEEP_TUNE_CACHE": str(tmp_path / "file" / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "SLEEP_TUNE_CACHE must be a directory that can be written" in done.stderr


def test_a_cache_without_room_is_one_line_and_leaves_no_store(tmp_path: Path) -> None:
    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + PREPARE],
        env=os.environ | {"SLEEP_TUNE_CACHE": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_file_size,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "make room or set SLEEP_TUNE_CACHE" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".txt")]


def test_a_domain_of_which_cleaning_leaves_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "childes.train").write_text("[noise]\n*CHI:\txxx.\n")
    with pytest.raises(UserError, match=r"childes\.train: is empty once cleaned"):
        prepare(Source("directory", str(tmp_path)), None, "light", "lines", 16, 300)


def test_text_that_looks_like_special_tokens_counts_as_words(tmp_path: Path) -> None:
    (tmp_path / "a.train").write_text("<s> one</s> <mask>\n<pad> <unk> two\n" * 50)
    prepared = prepare(Source("directory", str(tmp_path)), None, "none", "packed", 16, 300)
    assert prepared.train_words == sum(entry.words for entry in prepared.report if entry.split == "train")


def test_real_text_has_exactly_its_words_in_the_store(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for file in sorted((shared_data / "babylm" / "dev").iterdir()):  # dev has the official line structure, which train lacks
        (tmp_path / "train" / f"{file.stem}.train").symlink_to(file)
    prepared = prepare(Source("directory", str(tmp_path)), 60_000, "light", "packed", 64, 2_000)
    train, dev = open_store(prepared.directory), open_store(prepared.dev_directory)
    assert (train.words, int(train.words_N.sum())) == (60_000, 60_000)
    assert dev.words == dev.words_N.sum() == sum(entry.words for entry in prepared.report if entry.split == "dev")
    assert sum(entry.raw_words for entry in prepared.report) == 236_476
    share = {entry.domain: entry.words for entry in prepared.report if entry.split == "train"}
    counts = np.bincount(train.domain_N, train.words_N, len(train.domains))
    for domain, count in zip(train.domains, counts, strict=True):
        assert count == pytest.approx(60_000 * share[domain] / sum(share.values()), abs=64)
