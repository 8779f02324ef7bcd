"""The models: a row names the transformers class, the sizes it has unless a config says otherwise, and what each size is called there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """A stock transformers architecture that loads without remote code."""

    about: str
    model_type: str  # key of transformers.AutoConfig
    auto_class: str  # transformers' class that loads it
    network: str  # the class that trains it
    objectives: tuple[str, ...]
    sizes: Mapping[str, Any]  # field of `model.` -> value
    names: Mapping[str, tuple[str, ...]]  # field of `model.` -> transformers' names of it
    fixed: Mapping[str, Any]  # what is always so
    reserved_positions: int = 0  # position embeddings that no token can use


def _sizes(layers: int, heads: int, width: int, ffn: int, positions: int = 512) -> dict[str, Any]:
    return {"layers": layers, "heads": heads, "width": width, "ffn": ffn, "positions": positions, "dropout": 0.1, "init_std": 0.02}


def _roberta(about: str, sizes: Mapping[str, Any]) -> Architecture:
    return Architecture(
        about,
        model_type="roberta-prelayernorm",
        auto_class="AutoModelForMaskedLM",
        network="sleep_tune.training.roberta:Roberta",
        objectives=("mlm",),
        sizes=sizes,
        names={
            "layers": ("num_hidden_layers",),
            "heads": ("num_attention_heads",),
            "width": ("hidden_size",),
            "ffn": ("intermediate_size",),
            "positions": ("max_position_embeddings",),
            "init_std": ("initializer_range",),
            "dropout": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        },
        fixed={"type_vocab_size": 1, "layer_norm_eps": 1e-5},
        reserved_positions=2,
    )


def _gpt2(about: str, sizes: Mapping[str, Any]) -> Architecture:
    return Architecture(
        about,
        model_type="gpt2",
        auto_class="AutoModelForCausalLM",
        network="sleep_tune.training.gpt2:Gpt2",
        objectives=("clm",),
        sizes=sizes,
        names={
            "layers": ("n_layer",),
            "heads": ("n_head",),
            "width": ("n_embd",),
            "ffn": ("n_inner",),
            "positions": ("n_positions",),
            "init_std": ("initializer_range",),
            "dropout": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        },
        fixed={"layer_norm_epsilon": 1e-5},
    )


MODELS = {
    "roberta_pln": _roberta(
        "RoBERTa with layer norm before each block, untied head (CLIMB's model; small: 14.9M parameters)", _sizes(8, 8, 256, 2048)
    ),
    "roberta_pln_medium": _roberta("the same, 10 layers of 500: 38.8M parameters", _sizes(10, 10, 500, 2000)),
    "roberta_pln_large": _roberta("the same, 12 layers of 768: 98.6M parameters", _sizes(12, 12, 768, 3072)),
    "roberta_pln_tiny": _roberta("the same, 2 layers of 64, for trying out", _sizes(2, 4, 64, 256)),
    "gpt2": _gpt2("GPT-2 small with an untied head, left to right (objective: clm): 98.4M parameters", _sizes(12, 12, 768, 3072, 1024)),
    "gpt2_tiny": _gpt2("the same, 2 layers of 64, for trying out", _sizes(2, 4, 64, 256)),
}
