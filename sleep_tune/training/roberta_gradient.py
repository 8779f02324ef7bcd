"""RoBERTa's loss and its gradient written out: the mathematics of `roberta.py` under autograd, and what a training step on a CPU runs.

A small model's step is calls more than arithmetic, and written out it has half of them: no graph, one cast of all weights, gradients
written where the optimizer reads them; padding in attention only, and that by plain products, which at rows of some dozen tokens take a
third of the fused kernel's time. Each part returns its output and its way `back`: from the output's gradient to the input's, with those
of its weights left in the leaves' `grad`. Legend: `models.py`; S positions that are no padding, N = B H, d = D / H.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sleep_tune.training.dropout import Dropout
from sleep_tune.training.objectives import LabelledRows

if TYPE_CHECKING:
    from sleep_tune.training.roberta import Roberta

Back = Callable[[Tensor], Tensor]
_aten = torch.ops.aten


class Tensors:
    """The leaves of a network as products take them, bf16 or the very weights, and their gradients in fp32; by key."""

    def __init__(self, network: "Roberta"):
        self._flat_P, dtype = network.flat.detach(), torch.bfloat16 if network.bf16 else torch.float32
        self._computed_P = self._flat_P.to(dtype)
        self.gradients = {key: leaf.grad for key, leaf in network.leaves.items() if leaf.grad is not None}
        spans = network.spans.items()
        self._weights = {key: self._computed_P[first:last].view(network.leaves[key].shape) for key, (first, last) in spans}

    def weights(self) -> dict[str, Tensor]:
        """As they are now."""
        if self._computed_P is not self._flat_P:
            self._computed_P.copy_(self._flat_P)
        return self._weights


class Step:
    """One forward and backward pass; `loss_M` has the cross-entropies in nats."""

    def __init__(self, network: "Roberta", tensors: Tensors, rows: LabelledRows, dropout: Dropout | None):
        self._network, self._rows, self._dropout = network, rows, dropout
        self._batch, self._length = rows.tokens_BL.shape
        self._dtype = torch.bfloat16 if network.bf16 else torch.float32
        self._weights, self._gradients = tensors.weights(), tensors.gradients
        self._at_M, self._at_S, self._bias_NL1 = rows.at_M, None, None
        if rows.bias_B11L is not None:
            inside_T = rows.bias_B11L.view(-1) == 0
            self._at_S = inside_T.nonzero().squeeze(1)
            self._at_M = inside_T.cumsum(0).sub_(1).index_select(0, rows.at_M)
            self._bias_NL1 = rows.bias_B11L.to(self._dtype).expand(-1, network.heads, -1, -1).reshape(-1, self._length, 1)
        self._backs: list[Back] = []
        with torch.no_grad():
            self.loss_M = self._forward()

    def backward(self) -> None:
        """The gradient of the mean of `loss_M`, in `network.flat.grad`, which held zeros; once only."""
        gradient = torch.empty(0)
        with torch.no_grad():
            while self._backs:
                gradient = self._backs.pop()(gradient)

    def _forward(self) -> Tensor:
        stream = self._then(self._dropped(self._then(self._norm("emb_norm", self._then(self._embedded()), torch.float32))))
        last = self._network.layers - 1
        for i in range(last):
            stream = self._then(self._layer(i, stream))
        stream = self._then(self._last_layer(last, stream))
        head = self._then(self._linear("head", self._then(self._norm("last_norm", stream))))
        logits = self._then(self._linear("decoder", self._then(self._norm("head_norm", self._then(_gelu(head))))))
        return self._then(self._cross_entropy(logits))

    def _then(self, part: tuple[Tensor, Back]) -> Tensor:
        self._backs.append(part[1])
        return part[0]

    def _layer(self, i: int, stream_SD: Tensor) -> tuple[Tensor, Back]:
        """Layer `i` at every position."""
        states_SD, back_norm = self._norm(f"{i}.norm", stream_SD)
        joint, back_linear = self._linear(f"{i}.qkv", states_SD)
        parts = self._by_head(self._padded(joint), 3, self._length)
        attended_NLd, back_attend = self._attend(*parts)
        output_SD, back_block = self._block(i, stream_SD, self._real(self._by_token(attended_NLd[None], self._length)))

        def back(d_SD: Tensor) -> Tensor:
            d_SD, d_attended = back_block(d_SD)
            d_parts = torch.empty_like(parts)
            back_attend(self._by_head(self._padded(d_attended), 1, self._length)[0], *d_parts)
            return d_SD.add_(back_norm(back_linear(self._real(self._by_token(d_parts, self._length)))))

        return output_SD, back

    def _last_layer(self, i: int, stream_SD: Tensor) -> tuple[Tensor, Back]:
        """The last layer where it counts: keys and values everywhere, all else at the M labelled positions."""
        at_M, slot_M, most = self._at_M, self._rows.slot_M, self._rows.most
        states_SD, back_norm = self._norm(f"{i}.norm", stream_SD)
        joint, back_joint = self._linear(f"{i}.kv", states_SD)
        query_MD, back_query = self._linear(f"{i}.q", states_SD.index_select(0, at_M))
        parts, query_NQd = self._by_head(self._padded(joint), 2, self._length), self._by_head(self._slots(query_MD), 1, most)[0]
        attended_NQd, back_attend = self._attend(query_NQd, *parts)
        attended_MD = self._by_token(attended_NQd[None], most).index_select(0, slot_M)
        output_MD, back_block = self._block(i, stream_SD.index_select(0, at_M), attended_MD)

        def back(d_MD: Tensor) -> Tensor:
            d_MD, d_attended_MD = back_block(d_MD)
            d_parts, d_query = torch.empty_like(parts), torch.empty_like(query_NQd)
            back_attend(self._by_head(self._slots(d_attended_MD), 1, most)[0], d_query, *d_parts)
            d_states_SD = back_joint(self._real(self._by_token(d_parts, self._length)))
            d_states_SD.index_add_(0, at_M, back_query(self._by_token(d_query[None], most).index_select(0, slot_M)))
            return back_norm(d_states_SD).index_add_(0, at_M, d_MD)

        return output_MD, back

    def _block(self, i: int, stream: Tensor, attended: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """What follows attention in layer `i`; back: gradients of the stream, fresh, and of what attention gathered."""
        output, back_out = self._linear(f"{i}.out", attended)
        output, back_first = self._dropped(output)
        middle = stream + output
        states, back_norm = self._norm(f"{i}.ffn_norm", middle)
        up, back_up = self._linear(f"{i}.up", states)
        hidden, back_gelu = _gelu(up)
        down, back_down = self._linear(f"{i}.down", hidden)
        down, back_second = self._dropped(down)

        def back(d: Tensor) -> tuple[Tensor, Tensor]:
            inner = d.to(self._dtype)
            d_middle = d + back_norm(back_up(back_gelu(back_down(back_second(inner)))))
            return d_middle, back_out(back_first(d_middle.to(self._dtype)))

        return middle + down, back

    def _attend(self, query_NQd: Tensor, key_NLd: Tensor, value_NLd: Tensor) -> tuple[Tensor, Callable[..., None]]:
        """softmax(q k^T / sqrt(d)) v, some of the weights dropped; back: writes the gradients of the three where it is told.

        Weights lie key by query: torch's softmax over the last of such short axes takes four times as long.
        """
        scale = key_NLd.shape[2] ** -0.5
        bias, beta = (key_NLd.new_empty(1, 1, 1), 0) if self._bias_NL1 is None else (self._bias_NL1, 1)
        weight_NLQ = torch.softmax(torch.baddbmm(bias, key_NLd, query_NQd.mT, beta=beta, alpha=scale), 1)
        mask_NLQ = None if self._dropout is None else self._dropout.mask(weight_NLQ.shape, self._dtype)

        def kept() -> Tensor:
            return weight_NLQ if mask_NLQ is None else weight_NLQ * mask_NLQ

        def back(d_NQd: Tensor, d_query: Tensor, d_key: Tensor, d_value: Tensor) -> None:
            torch.bmm(kept(), d_NQd, out=d_value)
            d_weight = torch.bmm(value_NLd, d_NQd.mT)
            if mask_NLQ is not None:
                d_weight.mul_(mask_NLQ)
            d_score = _aten._softmax_backward_data(d_weight, weight_NLQ, 1, self._dtype)
            torch.baddbmm(d_query, d_score.mT, key_NLd, beta=0, alpha=scale, out=d_query)
            torch.baddbmm(d_key, d_score, query_NQd, beta=0, alpha=scale, out=d_key)

        return torch.bmm(kept().mT, value_NLd), back

    def _linear(self, key: str, inputs: Tensor) -> tuple[Tensor, Back]:
        linear = self._network.linears[key]
        weight, bias = self._weights[linear.weight], self._weights[linear.bias]  # type: ignore[index]
        d_weight, d_bias = self._gradients[linear.weight], self._gradients[linear.bias]  # type: ignore[index]

        def back(d: Tensor) -> Tensor:
            torch.sum(d, 0, dtype=torch.float32, out=d_bias)
            if self._dtype == torch.float32:
                torch.mm(d.t(), inputs, out=d_weight)
            else:
                d_weight.copy_(torch.mm(d.t(), inputs))
            return torch.mm(d, weight)

        return torch.addmm(bias, inputs, weight.t()), back

    def _norm(self, key: str, inputs: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Back]:
        """A layer norm in fp32 of what may be bf16, its output in `dtype` or as products take it."""
        inputs, shape = inputs.float(), [self._network.width]
        weight, bias = self._network.leaves[f"{key}.weight"], self._network.leaves[f"{key}.bias"]
        output, mean, rstd = torch.native_layer_norm(inputs, shape, weight, bias, self._network.norm_eps)

        def back(d: Tensor) -> Tensor:
            wanted = [True, True, True]
            d, d_weight, d_bias = _aten.native_layer_norm_backward(d.float(), inputs, shape, mean, rstd, weight, bias, wanted)
            self._gradients[f"{key}.weight"].copy_(d_weight)
            self._gradients[f"{key}.bias"].copy_(d_bias)
            return d

        return output.to(dtype or self._dtype), back

    def _dropped(self, values: Tensor) -> tuple[Tensor, Back]:
        if self._dropout is None:
            return values, lambda d: d
        mask = self._dropout.mask(values.shape, values.dtype)
        return values * mask, lambda d: d * mask

    def _embedded(self) -> tuple[Tensor, Back]:
        network, leaves, gradients = self._network, self._network.leaves, self._gradients
        places = slice(network.first_position, network.first_position + self._length)
        token_S = self._real(self._rows.tokens_BL.view(-1))
        place_LD = leaves["position"][places] + leaves["type"][0]
        place_TD = place_LD.expand(self._batch, -1, -1).reshape(self._batch * self._length, -1)

        def back(d_SD: Tensor) -> Tensor:
            gradients["word"].index_add_(0, token_S, d_SD)  # a tied decoder's is there already
            d_LD = torch.sum(self._padded(d_SD).view(self._batch, self._length, -1), 0, out=gradients["position"][places])
            torch.sum(d_LD, 0, keepdim=True, out=gradients["type"])
            return d_SD

        return leaves["word"].index_select(0, token_S) + self._real(place_TD), back

    def _cross_entropy(self, logits_MV: Tensor) -> tuple[Tensor, Back]:
        log_p_MV = torch.log_softmax(logits_MV.float(), 1)
        target_M1 = self._rows.target_M[:, None]

        def back(_: Tensor) -> Tensor:
            count = max(1, len(target_M1))
            d_MV = log_p_MV.exp_().scatter_add_(1, target_M1, log_p_MV.new_full(target_M1.shape, -1.0))
            return d_MV.mul_(1 / count).to(self._dtype)

        return log_p_MV.gather(1, target_M1).neg_().squeeze(1), back

    def _by_head(self, joint: Tensor, parts: int, length: int) -> Tensor:
        """(parts, N, length, d) of (B length, parts D), in one piece."""
        split = joint.view(self._batch, length, parts, self._network.heads, -1)
        return split.permute(2, 0, 3, 1, 4).contiguous().view(parts, self._batch * self._network.heads, length, -1)

    def _by_token(self, parts: Tensor, length: int) -> Tensor:
        """(B length, parts D) of (parts, N, length, d)."""
        split = parts.view(len(parts), self._batch, self._network.heads, length, -1)
        return split.permute(1, 3, 0, 2, 4).reshape(self._batch * length, -1)

    def _padded(self, values: Tensor) -> Tensor:
        """(T, ...) of (S, ...), zeros at padding."""
        if self._at_S is None:
            return values
        return values.new_zeros(self._batch * self._length, *values.shape[1:]).index_copy_(0, self._at_S, values)

    def _real(self, values: Tensor) -> Tensor:
        """(S, ...) of (T, ...)."""
        return values if self._at_S is None else values.index_select(0, self._at_S)

    def _slots(self, values_MD: Tensor) -> Tensor:
        """(B most, D) of (M, D), zeros where a row has fewer labels."""
        return values_MD.new_zeros(self._batch * self._rows.most, values_MD.shape[1]).index_copy_(0, self._rows.slot_M, values_MD)


def _gelu(inputs: Tensor) -> tuple[Tensor, Back]:
    return F.gelu(inputs), lambda d: _aten.gelu_backward(d.to(inputs.dtype), inputs)
