"""GPT-2, read from left to right: padding is to the right of every token, so a causal mask alone hides it.

Queries, keys and values are wanted at every position; what follows attention in the last layer, and the head, at the labelled ones.
Legend: `models.py`.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sleep_tune.training.dropout import Dropout, dropped
from sleep_tune.training.models import Linear, LinearMap, Network
from sleep_tune.training.objectives import LabelledRows

_PARTS = ("query", "key", "value")


class Gpt2(Network):
    """GPT2LMHeadModel; its linear maps, transformers' Conv1D, hold weights as (in, out)."""

    eps_name = "layer_norm_epsilon"
    dropout_name = "resid_pdrop"

    def _names(self, i: int) -> dict[str, str]:
        """Key of a linear map of layer `i` -> the transformers model's name of it."""
        at = f"transformer.h.{i}."
        return {f"{i}.qkv": f"{at}attn.c_attn", f"{i}.out": f"{at}attn.c_proj", f"{i}.up": f"{at}mlp.c_fc", f"{i}.down": f"{at}mlp.c_proj"}

    def _tensors(self) -> dict[str, list[str]]:
        tensors = {"word": ["transformer.wte.weight"], "position": ["transformer.wpe.weight"]}
        pairs = {"last_norm": "transformer.ln_f"}
        for i in range(self.layers):
            pairs |= {f"{i}.norm": f"transformer.h.{i}.ln_1", f"{i}.ffn_norm": f"transformer.h.{i}.ln_2", **self._names(i)}
        for key, name in pairs.items():
            tensors |= {f"{key}.weight": [f"{name}.weight"], f"{key}.bias": [f"{name}.bias"]}
        return tensors if self.tied else {**tensors, "decoder.weight": ["lm_head.weight"]}

    def _linears(self) -> dict[str, Linear]:
        linears = {key: Linear(f"{key}.weight", f"{key}.bias", 1) for i in range(self.layers) for key in self._names(i)}
        return {**linears, "decoder": Linear("word" if self.tied else "decoder.weight", None)}

    def _maps(self) -> dict[str, LinearMap]:
        maps = {}
        for i in range(self.layers):
            for key, name in self._names(i).items():
                units = self.places[f"{name}.bias"][1][0]
                group = "mlp" if ".mlp." in name else "attention"
                parts = {name: (0, units)}
                if key == f"{i}.qkv":  # one matrix, its columns query | key | value
                    parts = {f"{name}.{part}": (nth * self.width, (nth + 1) * self.width) for nth, part in enumerate(_PARTS)}
                for part, columns in parts.items():
                    maps[part] = LinearMap(f"{name}.weight", f"{name}.bias", range(*columns), 1, group, key, columns)
        return maps

    def embed(self, tokens_BL: Tensor) -> Tensor:
        return self._embedded(tokens_BL, self.leaves["position"][: tokens_BL.shape[1]])

    def logits_at(self, rows: LabelledRows, dropout: Dropout | None = None, start_TD: Tensor | None = None) -> Tensor:
        stream_TD = dropped(self.embed(rows.tokens_BL) if start_TD is None else start_TD, dropout)
        last = self.layers - 1
        for i in range(last):
            attended_TD = self._attended(i, stream_TD, rows.tokens_BL.shape, dropout)
            stream_TD = self._block(i, stream_TD, attended_TD, dropout)
        attended_TD = self._attended(last, stream_TD, rows.tokens_BL.shape, dropout)
        at_M = rows.at_M
        stream_MD = self._block(last, stream_TD.index_select(0, at_M), attended_TD.index_select(0, at_M), dropout, rows.slot_M)
        return self._linear("decoder", self._norm("last_norm", stream_MD, rows.slot_M), rows.slot_M)

    def _streams(self, tokens_BL: Tensor, inside_BL: Tensor) -> Iterator[Tensor]:
        stream_TD = self.embed(tokens_BL)
        for i in range(self.layers):
            stream_TD = self._block(i, stream_TD, self._attended(i, stream_TD, tokens_BL.shape, None), None)
            yield stream_TD

    def _attended(self, i: int, stream_TD: Tensor, shape: torch.Size, dropout: Dropout | None) -> Tensor:
        """(T, D) what layer `i`'s heads gather at every position from those before it and itself."""
        batch, length = shape
        states_TD = self._norm(f"{i}.norm", stream_TD)
        query, key, value = self._linear(f"{i}.qkv", states_TD).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = self._attend(query, key, value, None, dropout, causal=True)
        return attended.transpose(1, 2).reshape(batch * length, self.width)

    def _block(self, i: int, stream: Tensor, attended: Tensor, dropout: Dropout | None, at: Tensor | None = None) -> Tensor:
        """What follows attention in layer `i`: projection, residual, feed-forward, residual."""
        stream = stream + dropped(self._linear(f"{i}.out", attended, at), dropout)
        hidden = F.gelu(self._linear(f"{i}.up", self._norm(f"{i}.ffn_norm", stream, at), at), approximate="tanh")
        return stream + dropped(self._linear(f"{i}.down", hidden, at), dropout)
