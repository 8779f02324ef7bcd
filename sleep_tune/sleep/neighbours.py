"""Need: how much else a sample is like, as its mean cosine with its nearest neighbours (Mattar & Daw 2018). The vectors are
`training.representations`'.

The neighbour library is faiss (Douze et al. 2024), held to one thread: two runs agree bit for bit, and trials side by side keep to their
cores. Legend: q queries, n members of the pool, D dimensions, k neighbours, K = k + 1 found (the query itself may be one), s queries of
a sample.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = NDArray[np.integer]

EXACT_PAIRS = 100_000**2  # up to here every query meets every member: a minute on one core; beyond, an index is sooner done
LEAST_RECALL = 0.95
_SAMPLE = 512  # queries that measure the recall
_TIE = 1e-6  # cosines this close are one: samples that occur twice have more than k nearest
_BLOCK = 1 << 14  # queries at a time, for memory


@dataclass(frozen=True)
class Search:
    """What is asked: the vectors (q, D) and (n, D), C-contiguous float32; the queries' own places in the pool, -2 where they are not
    in it; k."""

    query_qD: Vectors
    self_q: NDArray[np.int64]
    pool_nD: Vectors
    k: int

    def at(self, which: Any) -> "Search":
        """The same for some of the queries."""
        return replace(self, query_qD=np.ascontiguousarray(self.query_qD[which]), self_q=self.self_q[which])


def need(query_qD: Vectors, query_id_q: Ids, pool_nD: Vectors, pool_id_n: Ids, k: int, seed: int) -> NDArray[np.float32]:
    """(q,) in [-1, 1]: mean cosine of each query with the k nearest members of the pool that are not itself.

    Vectors have length 1; ids are distinct in the pool, and tell a sample from its duplicate. Exact for q n <= 1e10; beyond, the k are
    found with a recall of at least .95. Raises ValueError where k is not in 1..n-1.
    """
    return need_and_recall(query_qD, query_id_q, pool_nD, pool_id_n, k, seed)[0]


def need_and_recall(
    query_qD: Vectors, query_id_q: Ids, pool_nD: Vectors, pool_id_n: Ids, k: int, seed: int
) -> tuple[NDArray[np.float32], float]:
    """Need, and the share of the true neighbours that was found, measured on a sample of the queries; 1 where the search was exact."""
    if not 1 <= k < pool_id_n.size:
        raise ValueError(f"k = {k}: must be at least 1 and less than the {pool_id_n.size} samples to be compared")
    query_qD, pool_nD = (np.ascontiguousarray(each, np.float32) for each in (query_qD, pool_nD))
    search = Search(query_qD, places(query_id_q, pool_id_n), pool_nD, k)
    if query_id_q.size * pool_id_n.size <= EXACT_PAIRS:
        return exact(search), 1.0
    return indexed(search, seed)


def places(query_id_q: Ids, pool_id_n: Ids) -> NDArray[np.int64]:
    """(q,) where each query lies in the pool, by id; -2 where it does not (-1 is faiss's word for no neighbour)."""
    order_n = np.argsort(pool_id_n, kind="stable")
    at_q = order_n[np.searchsorted(pool_id_n, query_id_q, sorter=order_n).clip(max=pool_id_n.size - 1)]
    return np.where(pool_id_n[at_q] == query_id_q, at_q, -2)


def exact(search: Search) -> NDArray[np.float32]:
    """(q,) every query against every member, by matrix products."""
    need_q = np.empty(search.self_q.size, np.float32)
    with one_thread():
        for start in range(0, need_q.size, _BLOCK):
            block = search.at(slice(start, start + _BLOCK))
            need_q[start : start + _BLOCK] = _cosines(block, *_nearest(block)).mean(1, dtype=np.float64)
    return need_q


def indexed(search: Search, seed: int) -> tuple[NDArray[np.float32], float]:
    """(q,) and the recall, by an inverted file (Sivic & Zisserman 2003): the pool is cut into some 4 sqrt(n) cells by k-means, and a query
    meets the members of the cells nearest to it, of as many as the recall takes. Keeps a copy of the pool. A twentieth of the cells costs
    as much as matrix products with the whole pool (measured at 200k and 1M): where these do not suffice, the search is exact."""
    with one_thread():
        index = _cells(search.pool_nD, seed)
        recall = _open_enough(index, search)
        if recall < LEAST_RECALL:
            return exact(search), 1.0
        need_q = np.empty(search.self_q.size, np.float32)
        cell_q = index.quantizer.search(search.query_qD, 1)[1][:, 0]
        order_q = np.argsort(cell_q, kind="stable")  # queries of a cell after each other: the cells they meet stay in the cache
        for start in range(0, need_q.size, _BLOCK):
            at_b = order_q[start : start + _BLOCK]
            need_q[at_b] = _through(index, search.at(at_b))
    return need_q, recall


@contextmanager
def one_thread() -> Iterator[None]:
    """faiss on one thread within; as it was after."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _cells(pool_nD: Vectors, seed: int) -> Any:
    """The pool as an inverted file. Cells by distance, which a direction common to all vectors does not disturb; members by cosine."""
    import faiss

    members, width = pool_nD.shape
    cells = int(4 * members**0.5)
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.seed, index.cp.niter = False, seed % 2**31, 6
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 40  # k-means on at most 40 members a cell
    index.train(pool_nD)
    index.add(pool_nD)
    used = np.array([cell for cell in range(cells) if index.invlists.list_size(cell)])
    if used.size == cells:
        return index
    centres = faiss.IndexFlatL2(width)  # a sample that occurs often leaves empty cells around its own, which would be met instead of it
    centres.add(index.quantizer.reconstruct_n(0, cells)[used])
    index = faiss.IndexIVFFlat(centres, width, used.size, faiss.METRIC_INNER_PRODUCT)
    index.add(pool_nD)
    return index


def _open_enough(index: Any, search: Search) -> float:
    """Raise the number of cells that a query meets until a sample of the queries finds enough; returns its recall, too low where a
    twentieth of all cells is not enough."""
    sample = search.at(np.unique(np.linspace(0, search.self_q.size - 1, _SAMPLE).astype(np.int64)))
    true_sk = _cosines(sample, *_nearest(sample))
    index.nprobe, recall = 4, 0.0
    while True:
        found_sk = _cosines(sample, *index.search(sample.query_qD, sample.k + 1))
        recall = float((found_sk >= true_sk[:, -1:] - _TIE).mean())
        if recall >= LEAST_RECALL or index.nprobe > index.nlist // 20:
            return recall
        index.nprobe += 1 + index.nprobe // 4


def _through(index: Any, search: Search) -> NDArray[np.float32]:
    """(q,) by the index; exact where the cells that were met hold fewer than k others."""
    cosine_qK, place_qK = index.search(search.query_qD, search.k + 1)
    need_q = _cosines(search, cosine_qK, place_qK).mean(1, dtype=np.float64).astype(np.float32)
    few_q = (place_qK < 0).any(1)
    if few_q.any():
        need_q[few_q] = exact(search.at(few_q))
    return need_q


def _nearest(search: Search) -> tuple[Vectors, NDArray[np.int64]]:
    """(q, K) cosines, highest first, and places of the K nearest members, the query itself among them; for a block of queries."""
    import faiss

    found: tuple[Vectors, NDArray[np.int64]] = faiss.knn(search.query_qD, search.pool_nD, search.k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    return found


def _cosines(search: Search, cosine_qK: Vectors, place_qK: NDArray[np.int64]) -> Vectors:
    """(q, k) in [-1, 1] without the query itself, highest first; without the last where the query is not among them."""
    itself_qK = place_qK == search.self_q[:, None]
    itself_qK[~itself_qK.any(1), -1] = True
    return cosine_qK[~itself_qK].reshape(-1, search.k).clip(-1, 1)
