"""Several workers train one run: each computes its part of every batch, and all hold the same state after every step.

Every worker reads the same batches, draws the same masks and keeps the whole state, so that nothing but numbers is exchanged:

| what | how it becomes the same everywhere |
|---|---|
| gradient of the batch's token mean | each worker's part, weighed by its share of the labels, is summed |
| squared gradients of a wake's rows | summed |
| loss, losses or gains of the rows, also of rescored samples | each worker fills in its rows; adding zeros is exact |
| need, Taylor importances, causal effects | rank 0 computes them, the others are told |
| schedule, buffers, optimizer step, shrinking, freezing | computed by each worker from the same numbers by the same operations |

Sums are bit-equal on all workers (each number is added up in one place and passed on), and the same in every run of as many workers. With
another number they are added in another order: losses agree within floating-point noise, and so do buffers unless two scores are that
close. `check` finds machines that compute differently.
Dropout: each worker's masks come from a stream of its own, equal in distribution to one worker's, and not equal in numbers.
Legend: B rows of a batch, b of them a worker's own, M labelled positions, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sleep_tune.errors import RunError, one_line
from sleep_tune.training.objectives import LabelledRows

T = TypeVar("T")
MEETING_S = 180.0  # until all workers have imported torch and found each other
WAIT_S = 30 * 86400.0  # rank 0 may score for hours; a worker that died closes its connections, and nobody waits for it


class WorkerLost(RuntimeError):
    """Another worker of this run ended or cannot be reached; the run goes on from its newest checkpoint."""


@dataclass(frozen=True)
class Part:
    """The rows [first, last) of a batch of `of`, never empty: a worker without rows of its own computes one that counts nothing."""

    rows: LabelledRows
    first: int
    last: int
    of: int
    weight: float  # share of the batch's labels

    @property
    def counts(self) -> bool:
        """Whether any of its rows is the worker's own."""
        return self.last > self.first


class Team:
    """Worker `rank` of `size`; all make their calls in the same order. Raises WorkerLost where another one is gone."""

    def __init__(self, rank: int, size: int, meeting: str, device: torch.device):
        """Meet the others through the file `meeting`, new for each team, on a disk that all see."""
        self.rank, self.size = rank, size
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        soon = timedelta(seconds=MEETING_S)  # NCCL's for good: gloo's exchange of losses just before has everyone at hand
        store = dist.FileStore(meeting, size)
        store.set_timeout(soon)
        try:
            _talk(lambda: dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=soon))
            dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=WAIT_S))
            self.sum(torch.zeros(1))  # all are here: nobody needs the file any more
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Part; others who still wait for this one get WorkerLost."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def dropout_stream(self) -> tuple[int, ...]:
        """What tells this worker's dropout from that of the others: nothing for the first, as if it were alone."""
        return (self.rank,) if self.rank else ()

    def part(self, batch: LabelledRows) -> Part:
        """This worker's rows of a batch: as many as any other's, or one more or less, in contiguous parts."""
        return part_of(batch, self.rank, self.size)

    def join(self, part: Part, loss: float, measured_b: Tensor, grad_P: Tensor, squares_P: Tensor | None) -> tuple[float, Tensor]:
        """(loss, (B,) what was measured of the rows) of the whole batch from everyone's parts.

        `loss`, nats, and `grad_P` are those of the part's token mean; `grad_P` becomes the batch's, in place, and so does `squares_P`, sums
        over the part's rows; unless the loss is not finite.
        """
        own = torch.zeros(1 + part.of, dtype=torch.float64)
        own[0] = part.weight * loss if part.weight else 0.0
        own[1 + part.first : 1 + part.last] = measured_b[: part.last - part.first].detach().cpu()
        self.sum(own)
        value = float(own[0])
        if value - value == 0:  # finite, and so for everyone
            self.sum(grad_P.mul_(part.weight))
            if squares_P is not None:
                self.sum(squares_P if part.counts else squares_P.zero_())
        return value, own[1:].to(measured_b.dtype)

    def measure(self, batch: LabelledRows, of: Callable[[LabelledRows], Tensor]) -> Tensor:
        """(B,) what `of` says of each row, computed by each worker for its own."""
        part = self.part(batch)
        said_b = of(part.rows)[: part.last - part.first]
        all_B = torch.zeros(part.of, dtype=said_b.dtype)
        all_B[part.first : part.last] = said_b.detach().cpu()
        return self.sum(all_B)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers, in place, bit-equal on each."""
        _talk(lambda: dist.all_reduce(values))
        return values

    def once(self, make: Callable[[], T]) -> T:
        """What rank 0 makes; the others are told. Anything that can be pickled."""
        told = [make() if self.rank == 0 else None]
        _talk(lambda: dist.broadcast_object_list(told, src=0))
        return told[0]  # type: ignore[return-value]

    def check(self, flat_P: Tensor) -> None:
        """Raises RunError where the workers' weights are not bit-equal any more."""
        own = torch.zeros(self.size, dtype=torch.int64)
        own[self.rank] = flat_P.detach().view(torch.int32).sum(dtype=torch.int64).cpu()
        if len(set(self.sum(own).tolist())) > 1:
            raise RunError(f"the {self.size} workers compute differently: run them on machines of one kind, or set resources.workers = 1")


def part_of(batch: LabelledRows, rank: int, size: int) -> Part:
    """The part of worker `rank` of `size`; views of the batch's tensors, as long and as wide."""
    of, length = batch.tokens_BL.shape
    first, last = rank * of // size, (rank + 1) * of // size
    begin, end = (first, last) if last > first else (min(first, of - 1), min(first, of - 1) + 1)
    ends = torch.tensor([begin, end], device=batch.row_M.device)
    start_M, end_M = torch.searchsorted(batch.row_M.contiguous(), ends).tolist()
    own = slice(start_M, end_M)
    rows = replace(
        batch,
        tokens_BL=batch.tokens_BL[begin:end],
        target_M=batch.target_M[own],
        row_M=batch.row_M[own] - begin,
        at_M=batch.at_M[own] - begin * length,
        slot_M=batch.slot_M[own] - begin * batch.most,
        bias_B11L=None if batch.bias_B11L is None else batch.bias_B11L[begin:end],
    )
    return Part(rows, first, last, of, (end_M - start_M) / max(1, len(batch.row_M)) if last > first else 0.0)


def _talk(call: Callable[[], object]) -> None:
    """A call that needs the others. Raises WorkerLost where one is gone."""
    try:
        call()
    except RuntimeError as error:  # what gloo, NCCL and the store raise
        raise WorkerLost(one_line(error)) from error
