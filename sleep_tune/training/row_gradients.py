"""The gradient of each row's own loss, seen during the one backward pass of the batch: its squared norm, and its square summed over rows.

The squared norm of a row's gradient of a linear map follows from inner products of the row's inputs and of its output gradients, without
the gradient itself (ghost norms: Goodfellow 2015; Li et al. 2022; Bu et al. 2023). Hooks on the maps' outputs read gradients, change none.
Legend: B rows, L positions, M labelled positions of the batch, T positions of a row at which a map is computed (all L, or its labelled
ones, filled up with zeros), I inputs and O outputs of a linear map, D width, V vocabulary, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor

from sleep_tune.training.models import Linear, Network, losses
from sleep_tune.training.objectives import LabelledRows

BLOCK = 1 << 22  # numbers that rows worked on at once may take up: 16 MB


def gains(network: Network, rows: LabelledRows) -> Tensor:
    """(B,) as `RowGradients.gain_B`, without dropout; computes no gradient of a weight and leaves `network.flat.grad` alone."""
    with RowGradients(network, rows, gain=True) as recorded, torch.enable_grad():
        loss, _ = losses(network, rows)
        assert recorded.embedded_TD is not None
        torch.autograd.grad(loss, recorded.embedded_TD)
    return recorded.gain_B()


class RowGradients:
    """Records one forward and backward pass of `losses(network, rows, ...)`: the network's tape while this context lasts.

    A row's own loss is the mean over its n_i labelled tokens, the batch's is that over all n: what the batch's loss sends back to a row
    counts n / n_i times, and a row without labels has gradient 0. In fp32, whatever the precision of the forward pass.
    `squares_P`, laid out as `network.flat`: the sum over rows of the squared gradient of each row's loss is added to it in place.
    """

    def __init__(self, network: Network, rows: LabelledRows, gain: bool = False, squares_P: Tensor | None = None):
        self._network, self._rows, self._gain = network, rows, gain
        self._batch = rows.tokens_BL.shape[0]
        self._within_BM = (torch.arange(self._batch, device=rows.row_M.device)[:, None] == rows.row_M).float()
        labels_B = self._within_BM.sum(1)
        self._factor_B = torch.where(labels_B > 0, len(rows.row_M) / labels_B, 0.0)
        self._squares: dict[str, Tensor] = {}  # key of a leaf -> its part of squares_P
        if squares_P is not None:
            spans = network.spans.items()
            self._squares = {key: squares_P[start:end].view(network.leaves[key].shape) for key, (start, end) in spans}
        self._inputs: dict[str, Tensor] = {}  # of the maps whose gradient has not come by yet: dropped when autograd drops its own
        self._one, self._sum_B = labels_B.new_ones(1), torch.zeros_like(labels_B)  # the squared norms so far are in these three:
        self._pairs: dict[int, Tensor] = {}
        self._vector_BX: list[Tensor] = []
        self.embedded_TD: Tensor | None = None  # output of the embeddings, the last map whose gradient comes by
        self._tied: tuple[Tensor, Tensor] | None = None  # of a tied decoder: inputs, and the gradients of the logits of the row's tokens

    def __enter__(self) -> RowGradients:
        self._network.tape = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._network.tape = None
        self.embedded_TD = None  # it holds the graph, which holds the hooks, which hold this

    def gain_B(self) -> Tensor:
        """(B,) fp32, after the backward pass: squared norm of the gradient of each row's loss over all distinct trainable tensors."""
        parts_B = [self._sum_B, torch.cat(self._vector_BX, 1).square_().sum(1), *(each.sum((1, 2)) for each in self._pairs.values())]
        return torch.stack(parts_B).sum(0).clamp_(min=0.0) * self._factor_B.square()

    def linear(self, key: str, inputs: Tensor, output: Tensor, at: Tensor | None) -> None:
        self._inputs[key] = inputs.detach()
        output.register_hook(lambda gradient: self._after_linear(key, gradient, at))

    def norm(self, key: str, inputs: Tensor, output: Tensor, at: Tensor | None) -> None:
        self._inputs[key] = inputs.detach()
        output.register_hook(lambda gradient: self._after_norm(key, gradient, at))

    def embedding(self, tokens_BL: Tensor, output_TD: Tensor) -> None:
        self.embedded_TD = output_TD
        output_TD.register_hook(self._after_embedding)

    def _after_linear(self, key: str, gradient: Tensor, at: Tensor | None) -> None:
        linear = self._network.linears[key]
        inputs_BTI, gradient_BTO = self._by_row(self._inputs.pop(key), at), self._by_row(gradient, at)
        if linear.weight == "word":
            self._tied = inputs_BTI, self._by_row(self._of_own_tokens(gradient), at)
        if self._gain:
            self._add_linear_norm(inputs_BTI, gradient_BTO, linear.bias is not None)
        if self._squares:
            self._add_linear_squares(linear, inputs_BTI, gradient_BTO * self._factor_B[:, None, None])

    def _after_norm(self, key: str, gradient: Tensor, at: Tensor | None) -> None:
        inputs, gradient = self._inputs.pop(key).float(), gradient.float()
        normal = F.layer_norm(inputs, inputs.shape[-1:], eps=self._network.norm_eps)
        self._vector(f"{key}.weight", self._row_sums(normal.mul_(gradient), at))
        self._vector(f"{key}.bias", self._row_sums(gradient, at))

    def _after_embedding(self, gradient: Tensor) -> None:
        """Word, position and token type share one gradient; a token that a row has twice has the sum of both."""
        tokens_BL, gradient_BLD = self._rows.tokens_BL, self._by_row(gradient, None)
        same_BLL = tokens_BL[:, :, None] == tokens_BL[:, None, :]
        if self._network.padding is not None:
            same_BLL &= (tokens_BL != self._network.padding)[:, None, :]
        if "type" in self._network.leaves:
            self._vector("type", gradient_BLD.sum(1))
        if self._gain:
            self._add_embedding_norm(gradient_BLD, same_BLL)
        if self._squares:
            self._add_embedding_squares(gradient_BLD * self._factor_B[:, None, None], same_BLL.float())
        self._tied = None

    def _vector(self, key: str, gradient_BX: Tensor) -> None:
        """What a vector's gradient adds: a layer norm's, or the one token type's."""
        if self._gain:
            self._vector_BX.append(gradient_BX)
        if self._squares:
            self._squares[key] += (gradient_BX * self._factor_B[:, None]).square_().sum(0)

    def _add_linear_norm(self, inputs_BTI: Tensor, gradient_BTO: Tensor, bias: bool) -> None:
        """Squared norm of each row's gradient of a weight, and of a bias, which is a weight with input 1; the smaller way of two."""
        (_, positions, width), outputs = inputs_BTI.shape, gradient_BTO.shape[2]
        if 2 * positions**2 < width * outputs:
            blocks = _blocks(2 * positions**2, inputs_BTI, gradient_BTO, self._sum_BTT(positions))
            for inputs_RTI, gradient_RTO, sum_RTT in blocks:
                sum_RTT.addcmul_(torch.baddbmm(self._one, inputs_RTI, inputs_RTI.mT, beta=bias), torch.bmm(gradient_RTO, gradient_RTO.mT))
        else:
            blocks = _blocks(width * outputs, inputs_BTI, gradient_BTO, self._sum_B)
            for inputs_RTI, gradient_RTO, sum_R in blocks:
                sum_R += torch.bmm(gradient_RTO.mT, inputs_RTI).square_().sum((1, 2))
            if bias:
                self._vector_BX.append(gradient_BTO.sum(1))

    def _add_embedding_norm(self, gradient_BLD: Tensor, same_BLL: Tensor) -> None:
        """Squared norms for the word table, where a token's places add up, its sum with a tied decoder, and for the position table."""
        length = gradient_BLD.shape[1]
        for gradient_RLD, same_RLL, sum_RLL in _blocks(2 * length**2, gradient_BLD, same_BLL, self._sum_BTT(length)):
            inner_RLL = torch.bmm(gradient_RLD, gradient_RLD.mT)
            sum_RLL.diagonal(dim1=1, dim2=2).add_(inner_RLL.diagonal(dim1=1, dim2=2))
            sum_RLL.addcmul_(inner_RLL, same_RLL)
        if self._tied is not None:
            inputs_BTD, drawn_BTL = self._tied
            self._sum_B += torch.bmm(inputs_BTD, gradient_BLD.mT).mul_(drawn_BTL).sum((1, 2)).mul_(2)

    def _add_linear_squares(self, linear: Linear, inputs_BTI: Tensor, gradient_BTO: Tensor) -> None:
        into = self._squares[linear.weight]
        left, right = (gradient_BTO, inputs_BTI) if linear.unit_axis == 0 else (inputs_BTI, gradient_BTO)
        for left_RTX, right_RTY in _blocks(into.numel(), left, right):
            into += torch.bmm(left_RTX.mT, right_RTY).square_().sum(0)
        if linear.bias is not None:
            self._squares[linear.bias] += gradient_BTO.sum(1).square_().sum(0)

    def _add_embedding_squares(self, gradient_BLD: Tensor, same_BLL: Tensor) -> None:
        first, length = self._network.first_position, gradient_BLD.shape[1]
        self._squares["position"][first : first + length] += gradient_BLD.square().sum(0)
        word_BLD = torch.bmm(same_BLL, gradient_BLD)  # of the token at each position, its other places in the row included
        square_BLD = word_BLD.square()
        if self._tied is not None:  # (decoder + word)^2, less the decoder's square, which is there already
            inputs_BTD, drawn_BTL = self._tied
            decoder_BLD = torch.bmm(drawn_BTL.mT, inputs_BTD * self._factor_B[:, None, None])
            square_BLD += word_BLD.mul_(decoder_BLD).mul_(2)
        square_BLD /= same_BLL.sum(2, keepdim=True).clamp_(min=1)  # a token that is there n times is added n times
        self._squares["word"].index_add_(0, self._rows.tokens_BL.flatten(), square_BLD.flatten(0, 1))

    def _of_own_tokens(self, gradient_MV: Tensor) -> Tensor:
        """(M, L) of the gradients of the logits, those of the tokens that the label's row shows; 0 for padding."""
        tokens_ML = self._rows.tokens_BL[self._rows.row_M]
        drawn_ML = gradient_MV.gather(1, tokens_ML)
        return drawn_ML if self._network.padding is None else drawn_ML.masked_fill_(tokens_ML == self._network.padding, 0.0)

    def _by_row(self, values: Tensor, at: Tensor | None) -> Tensor:
        """(B, T, X) fp32 of (B L or M, X)."""
        slots = self._batch * self._rows.most
        if at is not None and at.numel() < slots:
            values = values.new_zeros(slots, values.shape[1]).index_copy_(0, at, values)
        return values.float().reshape(self._batch, -1, values.shape[1])

    def _row_sums(self, values: Tensor, at: Tensor | None) -> Tensor:
        """(B, X): each row's sum over positions of (B L or M, X)."""
        return torch.mm(self._within_BM, values) if at is not None else self._by_row(values, at).sum(1)

    def _sum_BTT(self, positions: int) -> Tensor:
        """What pairs of positions of a row have added to its squared norm."""
        if positions not in self._pairs:
            self._pairs[positions] = self._sum_B.new_zeros(self._batch, positions, positions)
        return self._pairs[positions]


def _blocks(numbers: int, *values: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Blocks of rows of tensors with rows first, so many that `numbers` a row are at most `BLOCK`."""
    size = max(1, BLOCK // numbers)
    return [values] if len(values[0]) <= size else zip(*(each.split(size) for each in values), strict=True)
