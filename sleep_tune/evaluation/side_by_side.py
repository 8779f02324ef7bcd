"""Batches of a model run side by side: a thread a core with that core's arithmetic, instead of all cores on every small product.

Several OpenMP threads gain little on products of a few thousand tokens, and lose that when anything else runs.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Within = Callable[[], AbstractContextManager[object]]
_END = None


def each(work: Callable[[Batch], int], batches: Iterable[Batch], workers: int, within: Within) -> Iterator[int]:
    """`work` on every one of `batches`, results as they come. Workers run inside `within()`, for what torch keeps by thread.

    Raises what `work` raised. Where the consumer stops asking, the workers end after the batch that they are at.
    """
    if workers == 1:
        with within():
            yield from map(work, batches)
        return
    before, told, stop = torch.get_num_threads(), SimpleQueue[int | BaseException | None](), threading.Event()
    source, turn = iter(batches), threading.Lock()

    def labour() -> None:
        try:
            torch.set_num_threads(1)  # of this thread
            with within():
                while not stop.is_set():
                    with turn:
                        batch = next(source, _END)
                    if batch is _END:
                        break
                    told.put(work(batch))
        except BaseException as error:
            told.put(error)
        finally:
            told.put(_END)

    threads = [threading.Thread(target=labour, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from _results(told, workers)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(before)  # which threads that begin later take over


def _results(told: SimpleQueue[int | BaseException | None], workers: int) -> Iterator[int]:
    """What all workers tell, until the last has ended. Raises the first error."""
    while workers:
        result = told.get()
        if isinstance(result, BaseException):
            raise result
        if result is _END:
            workers -= 1
        else:
            yield result
