"""Dropout's masks (Srivastava et al. 2014), drawn from a stream of their own: sixteen random bits a number, a fifth
of torch's time on a CPU.

A number is kept with probability 1 - rate, to within 2^-53: sixteen bits decide, and where they lie just on the limit, once in 65,536, a
second draw does.
"""

import numpy as np
import torch
from torch import Tensor

from sleep_tune.streams import bulk_stream, torch_seed

_BITS = 1 << 16


class Dropout:
    """The masks of one forward at `rate`, in the order in which they are asked for; `counters` name the stream.

    On a GPU torch draws them, attention's within its own kernel, from its generator seeded here.
    """

    def __init__(self, rate: float, device: torch.device, seed: int, *counters: int):
        self.rate, self._device = rate, device
        if device.type == "cpu":
            self._generator = bulk_stream(seed, "dropout", *counters)
        else:
            torch.manual_seed(torch_seed(seed, "dropout", *counters))

    def mask(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """What to multiply with: 0 with probability `rate`, else 1 / (1 - rate)."""
        if self._device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=self._device).bernoulli_(1 - self.rate).mul_(1 / (1 - self.rate))
        count = shape.numel()
        drawn_n = self._generator.integers(0, 1 << 64, -(-count // 4), np.uint64).view(np.int16)[:count]  # uniform in [-32768, 32767]
        limit = int(self.rate * _BITS)
        kept_n = torch.ge(torch.from_numpy(drawn_n), limit - _BITS // 2, out=torch.empty(count, dtype=dtype))
        edge_e = np.flatnonzero(drawn_n == limit - _BITS // 2)
        dropped_e = edge_e[self._generator.random(edge_e.size) < self.rate * _BITS - limit]
        kept_n[torch.from_numpy(dropped_e)] = 0.0
        return kept_n.mul_(1 / (1 - self.rate)).view(shape)

    def __call__(self, values: Tensor) -> Tensor:
        """`values` with some of them dropped."""
        return values * self.mask(values.shape, values.dtype)


def dropped(values: Tensor, dropout: Dropout | None) -> Tensor:
    """`values`, some of them dropped where there is dropout."""
    return values if dropout is None else dropout(values)
