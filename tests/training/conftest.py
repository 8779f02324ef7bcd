"""A corpus and a model small enough that a whole run takes a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sleep_tune.config import Config, load_config
from sleep_tune.data.token_store import Prepared, prepare
from sleep_tune.presets import combine, set_field
from sleep_tune.study.material import recipe

MICRO = {
    "data.source": {"embedded": {"words": 3000, "seed": 1}},
    "tokenizer.vocab_size": 400,
    "model.width": 16,
    "model.heads": 2,
    "model.ffn": 32,
    "model.positions": 64,
    "training.precision": "fp32",
    "evaluation.milestones.dev_words": 200,
    "evaluation.final.items_per_uid": 2,
}
MakeConfig = Callable[..., Config]


def micro_config(*presets: str, budget: int = 4000, **fields: Any) -> Config:
    """The tiny profile with a schedule preset, shrunk; fields with `__` for dots."""
    raw = set_field(combine(["tiny", *presets]), "budget_words", budget)
    told = {**MICRO, **{name.replace("__", "."): value for name, value in fields.items()}}
    for field, value in sorted(told.items(), key=lambda each: each[0] != "model.name"):  # a model brings sizes of its own
        raw = set_field(raw, field, value)
    return load_config(raw)


@pytest.fixture(scope="session")
def micro() -> MakeConfig:
    torch.set_num_threads(1)
    return micro_config


@pytest.fixture(scope="session")
def corpus(cache: Path) -> Prepared:
    """The corpus of every micro config with rows of lines."""
    return prepare(**recipe(micro_config("epochs")))
