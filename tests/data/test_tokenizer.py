"""The tokenizer gives every whitespace word one word-initial token, whatever is written, and loads in transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sleep_tune.data.collate import SPECIAL_TOKENS
from sleep_tune.data.tokenizer import (
    DIGEST,
    FILE,
    MIN_VOCABULARY,
    load_tokenizer,
    save_pretrained_tokenizer,
    tokenizer_is_whole,
    word_initial,
    write_tokenizer,
)

LINES = ["the dogs are sleeping in the garden.", "don't push the cat!", "what's that?", "él — “naïve” 日本 𝄞 <s> <mask>"] * 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(LINES, 300, path)
    return path


@given(st.text(max_size=60))
@example("<s> </s> a<mask>b <pad>")
@example("'s 't \u200b é̂ Ġ Ġa ' s")
@example("\u00a0\x1c\x85\u2028x\u3000\ufeff y")
def test_a_normalised_line_has_as_many_word_initial_tokens_as_words(directory: Path, text: str) -> None:
    tokenizer = load_tokenizer(directory / FILE)
    words = text.split()
    ids = tokenizer.encode_batch_fast([" ".join(words)])[0].ids
    assert (ids[0], ids[-1]) == (0, 2)
    assert word_initial(tokenizer)[ids].sum() == len(words)
    assert all(number >= len(SPECIAL_TOKENS) for number in ids[1:-1])
    assert tokenizer.decode(ids[1:-1], skip_special_tokens=False).strip() == " ".join(words).strip()


def test_special_tokens_have_their_numbers_and_begin_no_word(directory: Path) -> None:
    tokenizer = load_tokenizer(directory / FILE)
    assert [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [0, 1, 2, 3, 4]
    assert not word_initial(tokenizer)[:5].any()


def test_the_same_text_gives_the_same_tokenizer(directory: Path, tmp_path: Path) -> None:
    write_tokenizer(iter(LINES), 300, tmp_path)
    assert (tmp_path / DIGEST).read_text() == (directory / DIGEST).read_text()


def test_a_text_too_small_for_the_vocabulary_gives_fewer_tokens(tmp_path: Path) -> None:
    write_tokenizer(["a bb"], 5_000, tmp_path)
    assert MIN_VOCABULARY <= load_tokenizer(tmp_path / FILE).get_vocab_size() < 300


@pytest.mark.parametrize("size", [MIN_VOCABULARY - 1, 2**16])
def test_a_vocabulary_that_bytes_or_uint16_cannot_hold_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size = {size}"):
        write_tokenizer(LINES, size, tmp_path)


def test_a_changed_tokenizer_is_not_whole(tmp_path: Path) -> None:
    write_tokenizer(LINES, 300, tmp_path)
    assert tokenizer_is_whole(tmp_path)
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text().replace("Ġ", "g"))
    assert not tokenizer_is_whole(tmp_path)
    assert not tokenizer_is_whole(tmp_path / "nowhere")


def test_autotokenizer_loads_what_is_saved_and_encodes_alike(directory: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_pretrained_tokenizer(directory / FILE, tmp_path, max_length=64)
    config: dict[str, Any] = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    line = "the dogs don't sleep."
    assert loaded(line)["input_ids"] == load_tokenizer(directory / FILE).encode(line).ids
    assert loaded("the dogs <mask> sleep.")["input_ids"].count(loaded.mask_token_id) == 1
    assert [token.strip() for token in loaded.tokenize("the <mask> the")] == ["Ġthe", "<mask>", "Ġthe"]
    assert (loaded.bos_token_id, loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id, loaded.mask_token_id) == (0, 1, 2, 3, 4)
    assert (loaded.model_max_length, len(loaded)) == (64, load_tokenizer(directory / FILE).get_vocab_size())
    assert sorted(loaded(line)) == ["attention_mask", "input_ids"]
