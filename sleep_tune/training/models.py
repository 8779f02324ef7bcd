"""The network that trains: a stock transformers model over one flat tensor, and a forward that computes only what is asked for.

Only labelled positions reach a masked-LM loss, so the last layer's queries, its feed-forward block and the head are computed there
alone (same mathematics, tested against the model's own forward).
Legend: B rows, L positions, D width, H heads, Q most labelled positions of a row, M labelled positions of the batch, V vocabulary,
P parameters.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sleep_tune.config import Model, Training
from sleep_tune.data.collate import BOS, EOS, PAD
from sleep_tune.streams import torch_seed
from sleep_tune.training.objectives import LabelledRows
from sleep_tune.training.registry import MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_model(model: Model, vocab_size: int, seed: int) -> PreTrainedModel:
    """A freshly initialised transformers model, its weights a function of (model, vocab_size, seed)."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    row = MODELS[model.name]
    sizes: dict[str, Any] = {name: getattr(model, field) for field, name in row.names.items()}
    config = AutoConfig.for_model(
        row.model_type,
        vocab_size=vocab_size,
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=model.dropout,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        **sizes,
        **row.fixed,
    )
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "weights"))
        return AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa").eval()


class Network:
    """A RoBERTa pre-LN masked LM over one flat parameter.

    `flat` (P,) holds every trainable weight, matrices first, and `flat.grad` their gradients; the parameters of `model` are views of it,
    so the transformers model is at every moment the trained one. `decayed` is the number of leading weights that weight decay applies to.
    """

    def __init__(self, model: PreTrainedModel, training: Training, device: torch.device):
        model.to(device)  # type: ignore[arg-type]
        self.model, self.device, self.bf16 = model, device, training.precision == "bf16"
        model.lm_head.bias = model.lm_head.decoder.bias  # transformers 5 keeps a second, dead one; no part of the network
        self.layers = model.config.num_hidden_layers
        self.heads, self.width = model.config.num_attention_heads, model.config.hidden_size
        self.dropout = model.config.hidden_dropout_prob
        named = _in_order(list(model.named_parameters()))
        self.decayed = sum(weight.numel() for _, weight in named if weight.ndim > 1)
        self.flat = torch.nn.Parameter(torch.cat([weight.detach().reshape(-1) for _, weight in named]))
        self.flat.grad = torch.zeros_like(self.flat)
        self._at: dict[str, tuple[int, torch.Size]] = {}
        start = 0
        for name, weight in named:
            self._at[name] = (start, weight.shape)
            weight.data = self.flat.data[start : start + weight.numel()].view(weight.shape)
            weight.requires_grad_(False)
            start += weight.numel()
        self.leaves = {key: self._leaf(names) for key, names in self._wanted().items()}

    def _wanted(self) -> dict[str, list[str]]:
        """Short key of a leaf -> the model's parameters that it covers."""
        base = f"{self.model.base_model_prefix}."
        emb = f"{base}embeddings."
        wanted = {
            "word": [f"{emb}word_embeddings.weight"],
            "position": [f"{emb}position_embeddings.weight"],
            "type": [f"{emb}token_type_embeddings.weight"],
        }
        norms = {"emb_norm": f"{emb}LayerNorm", "last_norm": f"{base}LayerNorm", "head_norm": "lm_head.layer_norm"}
        linears = {"head": "lm_head.dense", "decoder": "lm_head.decoder"}
        for i in range(self.layers):
            at = f"{base}encoder.layer.{i}."
            norms |= {f"{i}.norm": f"{at}attention.LayerNorm", f"{i}.ffn_norm": f"{at}intermediate.LayerNorm"}
            linears |= {f"{i}.out": f"{at}attention.output.dense", f"{i}.up": f"{at}intermediate.dense", f"{i}.down": f"{at}output.dense"}
            parts = {"qkv": ("query", "key", "value")} if i < self.layers - 1 else {"q": ("query",), "kv": ("key", "value")}
            for key, names in parts.items():
                for kind in ("weight", "bias"):
                    wanted[f"{i}.{key}.{kind}"] = [f"{at}attention.self.{name}.{kind}" for name in names]
        for key, name in {**norms, **linears}.items():
            wanted |= {f"{key}.weight": [f"{name}.weight"], f"{key}.bias": [f"{name}.bias"]}
        return {**wanted, "decoder.bias": ["lm_head.bias"]}  # tied above: the first of its two names

    def _leaf(self, names: list[str]) -> Tensor:
        """One autograd leaf over adjacent parameters, its gradient a view of `flat.grad`."""
        start, shape = self._at[names[0]]
        size = sum(self._at[name][1].numel() for name in names)
        shape = torch.Size([shape[0] * len(names), *shape[1:]])
        leaf = self.flat.data[start : start + size].view(shape).requires_grad_()
        leaf.grad = self.flat.grad[start : start + size].view(shape)  # type: ignore[index]
        return leaf

    def precision(self) -> AbstractContextManager[Any]:
        """Autocast to bf16 where the config says so: matrix products in bf16, weights, losses and updates in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def logits_at(self, rows: LabelledRows, training: bool) -> Tensor:
        """(M, V) logits at the labelled positions; with dropout from torch's default generator if `training`."""
        drop = self.dropout if training else 0.0
        tokens_BL = rows.tokens_BL
        batch, length = tokens_BL.shape
        position_LD = self.leaves["position"][2 : length + 2] + self.leaves["type"][0]
        stream_TD = (F.embedding(tokens_BL, self.leaves["word"], padding_idx=PAD) + position_LD).view(batch * length, self.width)
        stream_TD = F.dropout(self._norm("emb_norm", stream_TD), drop, training)
        for i in range(self.layers - 1):
            states_TD = self._norm(f"{i}.norm", stream_TD)
            query, key, value = self._linear(f"{i}.qkv", states_TD).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(query, key, value, rows.bias_B11L, drop)
            stream_TD = self._block(i, stream_TD, attended.transpose(1, 2).reshape(batch * length, self.width), drop)
        stream_MD = self._last_layer(rows, stream_TD, drop)
        head_MD = self._norm("head_norm", F.gelu(self._linear("head", self._norm("last_norm", stream_MD))))
        return self._linear("decoder", head_MD)

    def _last_layer(self, rows: LabelledRows, stream_TD: Tensor, drop: float) -> Tensor:
        """The last layer where it counts: keys and values everywhere, all else at the M labelled positions."""
        i, (batch, length) = self.layers - 1, rows.tokens_BL.shape
        states_TD = self._norm(f"{i}.norm", stream_TD)
        key, value = self._linear(f"{i}.kv", states_TD).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        query_MD = self._linear(f"{i}.q", states_TD.index_select(0, rows.at_M))
        padded = query_MD.new_zeros(batch * rows.most, self.width).index_copy(0, rows.slot_M, query_MD)
        query = padded.view(batch, rows.most, self.heads, -1).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value, rows.bias_B11L, drop)
        attended_MD = attended.transpose(1, 2).reshape(batch * rows.most, self.width).index_select(0, rows.slot_M)
        return self._block(i, stream_TD.index_select(0, rows.at_M), attended_MD, drop)

    def _block(self, i: int, stream: Tensor, attended: Tensor, drop: float) -> Tensor:
        """What follows attention in layer `i`: projection, residual, feed-forward, residual."""
        stream = stream + F.dropout(self._linear(f"{i}.out", attended), drop, drop > 0)
        hidden = F.gelu(self._linear(f"{i}.up", self._norm(f"{i}.ffn_norm", stream)))
        return stream + F.dropout(self._linear(f"{i}.down", hidden), drop, drop > 0)

    def _linear(self, key: str, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.leaves[f"{key}.weight"], self.leaves[f"{key}.bias"])

    def _norm(self, key: str, inputs: Tensor) -> Tensor:
        return F.layer_norm(
            inputs, (self.width,), self.leaves[f"{key}.weight"], self.leaves[f"{key}.bias"], self.model.config.layer_norm_eps
        )


def losses(network: Network, rows: LabelledRows, training: bool) -> tuple[Tensor, Tensor]:
    """(loss, loss_B): mean cross-entropy in nats over the labelled tokens of the batch, and of each row (0 where nothing is labelled)."""
    with network.precision():
        logits_MV = network.logits_at(rows, training)
    loss_M = F.cross_entropy(logits_MV.float(), rows.target_M, reduction="none")
    batch = len(rows.tokens_BL)
    with torch.no_grad():
        sum_B = torch.zeros(batch, device=loss_M.device).index_add_(0, rows.row_M, loss_M.detach())
        count_B = torch.bincount(rows.row_M, minlength=batch).clamp_(min=1)
    return loss_M.sum() / max(1, len(loss_M)), sum_B / count_B


def _in_order(named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Matrices before vectors; query, key and value of a layer beside each other, so that one matrix product does the three."""
    rank = {".query.": 0, ".key.": 1, ".value.": 2}

    def place(row: tuple[str, Tensor]) -> tuple[bool, str, int]:
        part = next((part for part in rank if part in row[0]), "")
        return row[1].ndim < 2, row[0].replace(part, ".", 1) if part else row[0], rank.get(part, -1)

    return sorted(named, key=place)
