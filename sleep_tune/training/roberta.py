"""RoBERTa with layer norm before each block, a masked LM: a forward that computes only what is asked for.

Only labelled positions reach a masked-LM loss, so the last layer's queries, its feed-forward block and the head are computed there
alone (same mathematics, tested against the model's own forward). Legend: `models.py`.
"""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from sleep_tune.data.collate import PAD
from sleep_tune.training.dropout import Dropout, dropped
from sleep_tune.training.models import Linear, LinearMap, Network, row_means
from sleep_tune.training.objectives import LabelledRows
from sleep_tune.training.roberta_gradient import Step, Tensors

_PARTS = ("query", "key", "value")


class Roberta(Network):
    """RobertaPreLayerNormForMaskedLM."""

    first_position = PAD + 1  # the table's first two rows are no token's
    padding = PAD

    def _untwin(self) -> None:
        # transformers 5 keeps a second, dead lm_head.bias; no part of the network
        self.model.lm_head.bias = self.model.lm_head.decoder.bias

    def _in_order(self, named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        """Query, key and value of a layer beside each other, so that one matrix product does the three."""

        def place(row: tuple[str, Tensor]) -> tuple[bool, str, int]:
            part = next((part for part in _PARTS if f".{part}." in row[0]), "")
            name = row[0].replace(f".{part}.", ".", 1) if part else row[0]
            return row[1].ndim < 2, name, _PARTS.index(part) if part else -1

        return sorted(named, key=place)

    def _products(self, i: int) -> dict[str, tuple[str, ...]]:
        """Matrix products of layer `i`'s attention before it attends -> what they compute."""
        return {f"{i}.qkv": _PARTS} if i < self.layers - 1 else {f"{i}.q": _PARTS[:1], f"{i}.kv": _PARTS[1:]}

    def _layer_name(self, i: int) -> str:
        return f"{self.model.base_model_prefix}.encoder.layer.{i}."

    def _tensors(self) -> dict[str, list[str]]:
        base = f"{self.model.base_model_prefix}."
        emb = f"{base}embeddings."
        tensors = {
            "word": [f"{emb}word_embeddings.weight"],
            "position": [f"{emb}position_embeddings.weight"],
            "type": [f"{emb}token_type_embeddings.weight"],
        }
        alone = {"emb_norm": f"{emb}LayerNorm", "last_norm": f"{base}LayerNorm", "head_norm": "lm_head.layer_norm", "head": "lm_head.dense"}
        for i in range(self.layers):
            at = self._layer_name(i)
            alone |= {f"{i}.norm": f"{at}attention.LayerNorm", f"{i}.ffn_norm": f"{at}intermediate.LayerNorm"}
            alone |= {f"{i}.out": f"{at}attention.output.dense", f"{i}.up": f"{at}intermediate.dense", f"{i}.down": f"{at}output.dense"}
            for key, parts in self._products(i).items():
                for kind in ("weight", "bias"):
                    tensors[f"{key}.{kind}"] = [f"{at}attention.self.{part}.{kind}" for part in parts]
        for key, name in alone.items():
            tensors |= {f"{key}.weight": [f"{name}.weight"], f"{key}.bias": [f"{name}.bias"]}
        if not self.tied:
            tensors["decoder.weight"] = ["lm_head.decoder.weight"]
        return {**tensors, "decoder.bias": ["lm_head.bias"]}  # made one above: the first of its two names

    def _linears(self) -> dict[str, Linear]:
        keys = [key for i in range(self.layers) for key in (*self._products(i), f"{i}.out", f"{i}.up", f"{i}.down")]
        linears = {key: Linear(f"{key}.weight", f"{key}.bias") for key in [*keys, "head"]}
        return {**linears, "decoder": Linear("word" if self.tied else "decoder.weight", "decoder.bias")}

    def _maps(self) -> dict[str, LinearMap]:
        maps = {}
        for i in range(self.layers):
            at = self._layer_name(i)
            for key, parts in self._products(i).items():
                for nth, part in enumerate(parts):
                    maps[f"{at}attention.self.{part}"] = ("attention", key, nth * self.width)
            maps[f"{at}attention.output.dense"] = ("attention", f"{i}.out", 0)
            maps[f"{at}intermediate.dense"] = ("mlp", f"{i}.up", 0)
            maps[f"{at}output.dense"] = ("mlp", f"{i}.down", 0)
        units = {name: self.places[f"{name}.weight"][1][0] for name in maps}
        return {
            name: LinearMap(f"{name}.weight", f"{name}.bias", range(units[name]), 0, group, key, (first, first + units[name]))
            for name, (group, key, first) in maps.items()
        }

    def embed(self, tokens_BL: Tensor) -> Tensor:
        first = self.first_position
        return self._embedded(tokens_BL, self.leaves["position"][first : tokens_BL.shape[1] + first] + self.leaves["type"][0])

    @cached_property
    def _written_out(self) -> Tensors:
        return Tensors(self)

    def descend(self, rows: LabelledRows, dropout: Dropout | None = None) -> tuple[float, Tensor]:
        if self.tape is not None or self.device.type != "cpu":
            return super().descend(rows, dropout)
        step = Step(self, self._written_out, rows, dropout)
        loss = float(step.loss_M.sum()) / max(1, len(step.loss_M))
        if math.isfinite(loss):
            step.backward()
        return loss, row_means(step.loss_M, rows)

    def logits_at(self, rows: LabelledRows, dropout: Dropout | None = None, start_TD: Tensor | None = None) -> Tensor:
        stream_TD = self.embed(rows.tokens_BL) if start_TD is None else start_TD
        stream_TD = dropped(self._norm("emb_norm", stream_TD), dropout)
        for i in range(self.layers - 1):
            stream_TD = self._layer(i, stream_TD, rows.tokens_BL.shape, rows.bias_B11L, dropout)
        stream_MD = self._last_layer(rows, stream_TD, dropout)
        at = rows.slot_M
        head_MD = F.gelu(self._linear("head", self._norm("last_norm", stream_MD, at), at))
        return self._linear("decoder", self._norm("head_norm", head_MD, at), at)

    def _streams(self, tokens_BL: Tensor, inside_BL: Tensor) -> Iterator[Tensor]:
        bias_B11L = torch.zeros(inside_BL.shape, device=self.device).masked_fill_(~inside_BL, -torch.inf)[:, None, None]
        stream_TD = self._norm("emb_norm", self.embed(tokens_BL))
        for i in range(self.layers):
            stream_TD = self._layer(i, stream_TD, tokens_BL.shape, bias_B11L, None)
            yield stream_TD

    def _layer(self, i: int, stream_TD: Tensor, shape: torch.Size, bias_B11L: Tensor | None, dropout: Dropout | None) -> Tensor:
        """Layer `i` at every position."""
        batch, length = shape
        states_TD = self._norm(f"{i}.norm", stream_TD)
        products = [self._linear(key, states_TD) for key in self._products(i)]
        qkv = products[0] if len(products) == 1 else torch.cat(products, 1)
        query, key, value = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = self._attend(query, key, value, bias_B11L, dropout)
        return self._block(i, stream_TD, attended.transpose(1, 2).reshape(batch * length, self.width), dropout)

    def _last_layer(self, rows: LabelledRows, stream_TD: Tensor, dropout: Dropout | None) -> Tensor:
        """The last layer where it counts: keys and values everywhere, all else at the M labelled positions."""
        i, (batch, length) = self.layers - 1, rows.tokens_BL.shape
        states_TD = self._norm(f"{i}.norm", stream_TD)
        key, value = self._linear(f"{i}.kv", states_TD).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        query_MD = self._linear(f"{i}.q", states_TD.index_select(0, rows.at_M), rows.slot_M)
        padded = query_MD.new_zeros(batch * rows.most, self.width).index_copy(0, rows.slot_M, query_MD)
        query = padded.view(batch, rows.most, self.heads, -1).transpose(1, 2)
        attended = self._attend(query, key, value, rows.bias_B11L, dropout)
        attended_MD = attended.transpose(1, 2).reshape(batch * rows.most, self.width).index_select(0, rows.slot_M)
        return self._block(i, stream_TD.index_select(0, rows.at_M), attended_MD, dropout, rows.slot_M)

    def _block(self, i: int, stream: Tensor, attended: Tensor, dropout: Dropout | None, at: Tensor | None = None) -> Tensor:
        """What follows attention in layer `i`: projection, residual, feed-forward, residual."""
        stream = stream + dropped(self._linear(f"{i}.out", attended, at), dropout)
        hidden = F.gelu(self._linear(f"{i}.up", self._norm(f"{i}.ffn_norm", stream, at), at))
        return stream + dropped(self._linear(f"{i}.down", hidden, at), dropout)
