"""The models: a row names the transformers class, the sizes it has unless a config says otherwise, and what each size is called there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """A stock transformers architecture that loads without remote code."""

    about: str
    model_type: str  # key of transformers.AutoConfig
    objectives: tuple[str, ...]
    sizes: Mapping[str, Any]  # field of `model.` -> value
    names: Mapping[str, str]  # field of `model.` -> transformers' name of it
    fixed: Mapping[str, Any]  # what is always so
    reserved_positions: int = 0  # position embeddings that no token can use


_ROBERTA_NAMES = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "ffn": "intermediate_size",
    "positions": "max_position_embeddings",
    "init_std": "initializer_range",
}

MODELS = {
    "roberta_pln": Architecture(
        about="RoBERTa with layer norm before each block, untied head (CLIMB's model; small: 14.9M parameters)",
        model_type="roberta-prelayernorm",
        objectives=("mlm",),
        sizes={"layers": 8, "heads": 8, "width": 256, "ffn": 2048, "positions": 512, "dropout": 0.1, "init_std": 0.02},
        names=_ROBERTA_NAMES,
        fixed={"type_vocab_size": 1, "layer_norm_eps": 1e-5, "tie_word_embeddings": False},
        reserved_positions=2,
    ),
}
