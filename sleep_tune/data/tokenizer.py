"""The tokenizer: byte-level BPE trained on the training text, in files that transformers 4.5x and 5.x both load."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sleep_tune.data.collate import BOS, EOS, N_SPECIAL, SPECIAL_TOKENS, UNK
from sleep_tune.files import file_digest, write_json, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE, DIGEST = "tokenizer.json", "digest.txt"
SPACE = "Ġ"  # how byte-level BPE writes the space that a word begins with
MAX_VOCABULARY = 2**16 - 1
MIN_VOCABULARY = 256 + N_SPECIAL  # every byte has its token, so nothing is unknown


def write_tokenizer(lines: Iterable[str], vocab_size: int, directory: Path) -> None:
    """Train on `lines` (single spaces between words) and write tokenizer.json and its digest into `directory`.

    A small text gives fewer than `vocab_size` tokens: merges stop when nothing is left to join.
    Raises ValueError for a size that byte-level tokens or uint16 cannot hold.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if not MIN_VOCABULARY <= vocab_size <= MAX_VOCABULARY:
        raise ValueError(f"vocab_size = {vocab_size}: must be in [{MIN_VOCABULARY}, {MAX_VOCABULARY}]")
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, lstrip=token == "<mask>", normalized=False, special=True) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        (SPECIAL_TOKENS[EOS], EOS), (SPECIAL_TOKENS[BOS], BOS), trim_offsets=True, add_prefix_space=True
    )
    write_text(directory / FILE, tokenizer.to_str(pretty=True))
    write_text(directory / DIGEST, file_digest(directory / FILE))


def read_digest(directory: Path) -> str:
    """The digest that was written with the tokenizer in `directory`. Raises OSError."""
    return (directory / DIGEST).read_text(encoding="utf-8")


def tokenizer_is_whole(directory: Path) -> bool:
    """Whether tokenizer.json is what was written."""
    try:
        return file_digest(directory / FILE) == read_digest(directory)
    except (OSError, ValueError):
        return False


def load_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer as the store encodes with it: what looks like a special token in a text is text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def word_initial(tokenizer: "Tokenizer") -> NDArray[np.bool_]:
    """word_initial_V: whether a token begins with the space marker, as the first of every whitespace word does."""
    initial_V = np.zeros(tokenizer.get_vocab_size(), bool)
    initial_V[[number for token, number in tokenizer.get_vocab().items() if token.startswith(SPACE)]] = True
    return initial_V


def save_pretrained_tokenizer(tokenizer_file: Path, directory: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json into `directory`, so that `AutoTokenizer` loads them.

    By hand rather than by `save_pretrained`: what transformers 5 writes as tokenizer_class does not load in 4.5x.
    `max_length` is in tokens, `<s>` and `</s>` included.
    """
    added = {
        str(number): {
            "content": token,
            "lstrip": token == "<mask>",
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for number, token in enumerate(SPECIAL_TOKENS)
    }
    roles = dict(zip(("bos", "pad", "eos", "unk", "mask"), SPECIAL_TOKENS, strict=True)) | {"cls": "<s>", "sep": "</s>"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "add_prefix_space": True,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": added,
        **{f"{role}_token": token for role, token in roles.items()},
    }
    write_text(directory / "tokenizer.json", tokenizer_file.read_text(encoding="utf-8"))
    write_json(directory / "tokenizer_config.json", config)
