"""The network that trains: a stock transformers model over one flat tensor, and what every architecture's forward is made of.

The forwards are `roberta.py`'s and `gpt2.py`'s, a class each; the registry says which one a model has.
Legend: B rows, L positions, T = B L, D width, H heads, Q most labelled positions of a row, M labelled positions of the batch,
V vocabulary, P parameters.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sleep_tune.config import Model, Training
from sleep_tune.data.collate import BOS, EOS, PAD
from sleep_tune.streams import torch_seed
from sleep_tune.training.dropout import Dropout
from sleep_tune.training.objectives import LabelledRows
from sleep_tune.training.registry import MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Tape(Protocol):
    """Sees every map of a forward, right after it was computed, before backward; `network.tape` holds it, for one forward at a time.

    `at` says where a map's rows are: None for all B L positions in order, `rows.slot_M` for the M labelled positions (places in
    (B rows.most)). Under bf16 outputs and their gradients are bf16. Dropout comes between maps, so what a tape sees is what trained.
    """

    def linear(self, key: str, inputs: Tensor, output: Tensor, at: Tensor | None) -> None:
        """`network.linears[key]`, inputs (rows, in) and output (rows, out)."""

    def norm(self, key: str, inputs: Tensor, output: Tensor, at: Tensor | None) -> None:
        """A layer norm over `leaves[key.weight]` and `leaves[key.bias]`; inputs (rows, D) before normalisation."""

    def embedding(self, tokens_BL: Tensor, output_TD: Tensor) -> None:
        """output = word[token] + position[place in the row + first_position] (+ type[0]): one output gradient for all of them."""


@dataclass(frozen=True)
class Linear:
    """A linear map as it is computed: its leaves, and the axis of the weight that its output units lie along."""

    weight: str  # key of `leaves`; "word" for a tied decoder
    bias: str | None
    unit_axis: int = 0  # 0: (out, in), torch's Linear; 1: (in, out), GPT-2's Conv1D


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a transformer layer as the literature counts them: query, key and value are three, however they are computed."""

    weight: str  # name in `places`
    bias: str
    units: range  # its output units in those tensors
    unit_axis: int
    group: str  # attention | mlp
    key: str  # of `linears`: the product that computes it
    part: tuple[int, int]  # first and last + 1 output column of that product


class Network:
    """A transformers model over one flat parameter; its forward is the subclass's.

    `flat` (P,) holds every trainable weight once, matrices first, and `flat.grad` their gradients; the parameters of `model` are views
    of it, so the transformers model is at every moment the trained one. By name or key:

    - `places`: the transformers model's name of a tensor -> (start in `flat`, shape). A tied decoder is the word embedding.
    - `leaves`: key -> autograd leaf, one tensor of `places` or adjacent ones together; its gradient is a view of `flat.grad`.
    - `spans`: key of a leaf -> (start, end) in `flat`. `linears`: key of a linear map -> its leaves. `maps`: see `LinearMap`.

    `decayed` is the number of leading weights that weight decay applies to.
    """

    first_position = 0  # row of the position table that a row's first token gets
    padding: int | None = None  # token whose word embedding gets no gradient as an input
    eps_name = "layer_norm_eps"  # what layer norms add to the variance, as the transformers config calls it
    dropout_name = "hidden_dropout_prob"
    tape: Tape | None = None

    def __init__(self, model: PreTrainedModel, training: Training, device: torch.device):
        model.to(device)  # type: ignore[arg-type]
        self.model, self.device, self.bf16 = model, device, training.precision == "bf16"
        config = model.config
        self.layers, self.heads, self.width = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
        self.norm_eps, self.dropout = float(getattr(config, self.eps_name)), float(getattr(config, self.dropout_name))
        self.tied = bool(config.tie_word_embeddings)
        self._untwin()
        named = self._in_order(list(model.named_parameters()))
        self.decayed = sum(weight.numel() for _, weight in named if weight.ndim > 1)
        self.flat = torch.nn.Parameter(torch.cat([weight.detach().reshape(-1) for _, weight in named]))
        self.flat.grad = torch.zeros_like(self.flat)
        self.places: dict[str, tuple[int, torch.Size]] = {}
        start = 0
        for name, weight in named:
            self.places[name] = (start, weight.shape)
            weight.data = self.flat.data[start : start + weight.numel()].view(weight.shape)
            weight.requires_grad_(False)
            start += weight.numel()
        self.leaves: dict[str, Tensor] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        for key, names in self._tensors().items():
            self._add_leaf(key, names)
        self.linears = self._linears()
        self.maps = self._maps()

    def _untwin(self) -> None:
        """Where transformers has two parameters for what is one: make them one."""

    def _in_order(self, named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        """The parameters as `flat` holds them: matrices before vectors, leaves of several tensors in one piece."""
        return sorted(named, key=lambda row: (row[1].ndim < 2, row[0]))

    def _tensors(self) -> dict[str, list[str]]:
        """Key of a leaf -> the model's parameters that it covers, adjacent in `flat`."""
        raise NotImplementedError

    def _linears(self) -> dict[str, Linear]:
        """Every linear map that the forward computes."""
        raise NotImplementedError

    def _maps(self) -> dict[str, LinearMap]:
        """The linear maps of the transformer layers, as the transformers model has them."""
        raise NotImplementedError

    def _add_leaf(self, key: str, names: list[str]) -> None:
        start, shape = self.places[names[0]]
        end = start + sum(self.places[name][1].numel() for name in names)
        shape = torch.Size([shape[0] * len(names), *shape[1:]])
        leaf = self.flat.data[start:end].view(shape).requires_grad_()
        leaf.grad = self.flat.grad[start:end].view(shape)  # type: ignore[index]
        self.leaves[key], self.spans[key] = leaf, (start, end)

    def precision(self) -> AbstractContextManager[Any]:
        """Autocast to bf16 where the config says so: matrix products in bf16, weights, losses and updates in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """(T, D) the embeddings of every position, what `logits_at` begins with."""
        raise NotImplementedError

    def logits_at(self, rows: LabelledRows, dropout: Dropout | None = None, start_TD: Tensor | None = None) -> Tensor:
        """(M, V) logits at the labelled positions.

        `start_TD` stands in for the embeddings: zeros for a model that is told nothing, neither tokens nor places.
        """
        raise NotImplementedError

    def _streams(self, tokens_BL: Tensor, inside_BL: Tensor) -> Iterator[Tensor]:
        """(T, D) the residual stream after each layer, at every position, without dropout; `inside_BL` is False at padding."""
        raise NotImplementedError

    def states(self, tokens_BL: Tensor, length_B: Tensor, last: int) -> Tensor:
        """(B, D) fp32: the residual stream, mean over non-pad positions and over the last `last` layers; no dropout, no gradient."""
        batch, length = tokens_BL.shape
        inside_BL = torch.arange(length, device=self.device) < length_B[:, None]
        share_BL1 = (inside_BL / length_B[:, None]).unsqueeze(2)
        mean_BD = torch.zeros(batch, self.width, device=self.device)
        with torch.no_grad(), self.precision():
            for i, stream_TD in enumerate(self._streams(tokens_BL, inside_BL)):
                if i >= self.layers - last:
                    mean_BD += (stream_TD.float().view(batch, length, -1) * share_BL1).sum(1)
        return mean_BD / last

    def descend(self, rows: LabelledRows, dropout: Dropout | None = None) -> tuple[float, Tensor]:
        """(loss, loss_B) of `losses`, and its gradient in `flat.grad`, which held zeros; none where the loss is not finite."""
        loss, loss_B = losses(self, rows, dropout)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
        return value, loss_B

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: Dropout | None, causal: bool = False
    ) -> Tensor:
        """(B, H, ., D / H) of queries, keys and values so shaped; `bias` is added to the scores."""
        if dropout is None or self.device.type != "cpu":
            rate = 0.0 if dropout is None else dropout.rate
            return F.scaled_dot_product_attention(query, key, value, bias, rate, is_causal=causal)
        with torch.autocast(self.device.type, enabled=False):  # softmax in the products' own precision, as in torch's attention
            score = query @ key.mT * query.shape[-1] ** -0.5
            if causal:
                score = score.masked_fill(score.new_ones(score.shape[-2:], dtype=torch.bool).triu_(1), -torch.inf)
            weight = torch.softmax(score if bias is None else score + bias.to(score.dtype), -1)
            return dropout(weight.mT).mT @ value  # drawn key by query, as `roberta_gradient.py` has them

    def _linear(self, key: str, inputs: Tensor, at: Tensor | None = None) -> Tensor:
        linear = self.linears[key]
        weight = self.leaves[linear.weight] if linear.unit_axis == 0 else self.leaves[linear.weight].t()
        output = F.linear(inputs, weight, None if linear.bias is None else self.leaves[linear.bias])
        if self.tape is not None:
            self.tape.linear(key, inputs, output, at)
        return output

    def _norm(self, key: str, inputs: Tensor, at: Tensor | None = None) -> Tensor:
        output = F.layer_norm(inputs, (self.width,), self.leaves[f"{key}.weight"], self.leaves[f"{key}.bias"], self.norm_eps)
        if self.tape is not None:
            self.tape.norm(key, inputs, output, at)
        return output

    def _embedded(self, tokens_BL: Tensor, position_LD: Tensor) -> Tensor:
        words_BLD = F.embedding(tokens_BL, self.leaves["word"], padding_idx=self.padding)
        output_TD = (words_BLD + position_LD).view(tokens_BL.numel(), self.width)
        if self.tape is not None:
            self.tape.embedding(tokens_BL, output_TD)
        return output_TD


def new_model(model: Model, vocab_size: int, seed: int) -> PreTrainedModel:
    """A freshly initialised transformers model, its weights a function of (model, vocab_size, seed)."""
    import transformers

    row = MODELS[model.name]
    sizes: dict[str, Any] = {name: getattr(model, field) for field, names in row.names.items() for name in names}
    config = transformers.AutoConfig.for_model(
        row.model_type,
        vocab_size=vocab_size,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        tie_word_embeddings=model.tied,
        **sizes,
        **row.fixed,
    )
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "weights"))
        return getattr(transformers, row.auto_class).from_config(config, attn_implementation="sdpa").eval()


def new_network(model: Model, vocab_size: int, seed: int, training: Training, device: torch.device) -> Network:
    """A fresh network of the registry's class, its weights a function of (model, vocab_size, seed)."""
    kind: type[Network] = pkgutil.resolve_name(MODELS[model.name].network)
    return kind(new_model(model, vocab_size, seed), training, device)


def losses(network: Network, rows: LabelledRows, dropout: Dropout | None = None) -> tuple[Tensor, Tensor]:
    """(loss, loss_B): mean cross-entropy in nats over the labelled tokens of the batch, and of each row (0 where nothing is labelled)."""
    loss_M = _token_losses(network, rows, dropout)
    return loss_M.sum() / max(1, len(loss_M)), row_means(loss_M.detach(), rows)


def row_losses(network: Network, rows: LabelledRows) -> Tensor:
    """loss_B of `losses` with its graph, without dropout."""
    return row_means(_token_losses(network, rows, None), rows)


def _token_losses(network: Network, rows: LabelledRows, dropout: Dropout | None) -> Tensor:
    with network.precision():
        logits_MV = network.logits_at(rows, dropout)
    return F.cross_entropy(logits_MV.float(), rows.target_M, reduction="none")


def row_means(loss_M: Tensor, rows: LabelledRows) -> Tensor:
    """(B,) the mean over each row's labelled positions; 0 where there is none."""
    batch = len(rows.tokens_BL)
    count_B = torch.bincount(rows.row_M, minlength=batch).clamp_(min=1)
    return torch.zeros(batch, device=loss_M.device).index_add(0, rows.row_M, loss_M) / count_B
