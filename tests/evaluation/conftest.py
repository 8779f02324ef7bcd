"""A small tokenizer; results in the official layout, made by hand: whole files of predictions that no model had to be asked for."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sleep_tune.config import Config, trial_id
from sleep_tune.data.token_store import Prepared, open_store
from sleep_tune.evaluation.challenge import AOA_CONTEXTS, EDITIONS, GLUE, TRACKS, File

Fill = Callable[..., None]


def _entry(file: File, uid: str, i: int) -> dict[str, Any]:
    if file.pred == "surprisal":
        return {"id": i, "pred": 1.5 + i % 7, "prev_pred": math.nan if i % 9 == 0 else 2.5}
    text = " a text" if file.starts == "space" else "a text"
    found: dict[str, Any] = {"id": f"{uid}_{i}", "pred": 1 if file.pred == "label" else text}
    return found | ({"prob": 1 / (i + 2)} if file.has_probability else {})


def _content(file: File, sizes: dict[str, int]) -> dict[str, Any]:
    if "" in sizes:
        return {f"example{i}": {"predictions": [_entry(file, f"example{i}", 0)]} for i in range(sizes[""])}
    return {uid: {"predictions": [_entry(file, uid, i) for i in range(count)]} for uid, count in sizes.items()}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _fill(model: Path, edition: str, *only: str, revisions: tuple[str, ...] = TRACKS["strict-small"].revisions) -> None:
    zero_shot = model / "main" / "zero_shot" / "mlm"
    for file in EDITIONS[edition].files:
        if only and file.key not in only:
            continue
        write(zero_shot / file.full / "predictions.json", _content(file, dict(file.sizes)))
        for revision in revisions if file.fast else ():
            write(model / revision / "zero_shot" / "mlm" / file.fast / "predictions.json", _content(file, dict(file.fast_sizes)))
    for file in GLUE:
        if not only or file.key in only:
            write(model / "main" / "finetune" / file.full / "predictions.json", _content(file, dict(file.sizes)))
    if not only or "aoa" in only:
        steps = [{"step": revision, "surprisal": 2.5} for revision in TRACKS["strict-small"].revisions for _ in range(AOA_CONTEXTS)]
        write(zero_shot / "AoA_word" / "surprisal.json", {"results": steps})
        write(zero_shot / "AoA_word" / "aoa_score.json", {"aoa": 0.1})


@pytest.fixture(scope="session")
def fill() -> Fill:
    """fill(results/MODEL, edition, *keys, revisions=...): a complete set of results below a model; or those of some keys."""
    return _fill


@pytest.fixture(scope="session")
def write_value() -> Callable[[Path, Any], None]:
    """Write a value as JSON, directories and all."""
    return write


def _leave(directory: Path, config: Config, prepared: Prepared, words_seen: int) -> None:
    told = {"corpus_digest": prepared.corpus_digest, "store_digest": open_store(prepared.directory).digest}
    write(directory / "final.json", {"words_seen": words_seen, **told})
    header = {"sleep_tune_checkpoint": 3, "identity": trial_id(config, prepared.corpus_digest)}
    (directory / "checkpoint_000000001").write_text(json.dumps(header) + "\n")
    (directory / "model").mkdir(exist_ok=True)
    shutil.copy(prepared.tokenizer_file, directory / "model" / "tokenizer.json")


@pytest.fixture(scope="session")
def leave() -> Callable[[Path, Config, Prepared, int], None]:
    """leave(directory, config, prepared, words_seen): what a finished trial leaves behind of the text that it read."""
    return _leave


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level, one token a byte, `<s> … </s>`: every word has several tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: k for k, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)
