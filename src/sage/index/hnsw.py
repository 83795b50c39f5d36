"""A graph over vectors that finds neighbours without looking at all of them, through faiss. Only here is it imported.

The graph is that of Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs" (IEEE TPAMI 2020), as faiss builds it. What differs: it holds the vectors in
half precision and only proposes rows; the rows proposed are scored exactly, so a score never depends on the graph.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import SetupError
from sage.index.topk import Hits
from sage.index.vectors import settle

__all__ = ["Graph", "is_installed"]

LINKS = 32  # of a row to its neighbours; the lowest level has twice as many
BUILD_WIDTH = 120  # candidates looked at for each row's links
SEARCH_WIDTH = 128  # and for each query, or twice as many as are wanted
MOST_REFUSED = 0.5  # with more rows refused than this share, an exact search is the better one


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise SetupError(
            "a graph over vectors needs the package faiss-cpu; type: pip install 'sage-dataflow[faiss]'"
        ) from error
    return faiss


def is_installed() -> bool:
    """Whether graphs can be built and searched here."""
    try:
        _faiss()
    except SetupError:
        return False
    return True


class Graph:
    """A graph over the rows of one matrix, as bytes until it is searched."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data  # as faiss writes it
        self._opening = threading.Lock()  # protects the opening: searches may run in several threads

    @classmethod
    def build(cls, matrix: NDArray[np.float32]) -> Graph:
        """The graph of a matrix of unit rows. Its order of insertion is the rows', its threads are faiss's.

        Raises:
            SetupError: faiss is not installed.
        """
        faiss = _faiss()
        kind = faiss.ScalarQuantizer.QT_fp16
        graph = faiss.IndexHNSWSQ(matrix.shape[1], kind, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BUILD_WIDTH
        rows = np.ascontiguousarray(matrix, dtype=np.float32)
        graph.train(rows)
        graph.add(rows)
        return cls(np.asarray(faiss.serialize_index(graph)))

    @cached_property
    def _opened(self) -> Any:
        return _faiss().deserialize_index(np.ascontiguousarray(self.data))

    @property
    def num_rows(self) -> int:
        """How many rows it knows."""
        return int(self._index.ntotal)

    @property
    def _index(self) -> Any:
        with self._opening:
            return self._opened

    def search(
        self,
        matrix: NDArray[np.float32],
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
    ) -> list[Hits] | None:
        """For each query about the k nearest rows; None where an exact search has to be made.

        Args:
            matrix: the rows the graph was built of.
            queries: unit rows.
            k: how many.
            allowed: which rows may be found; None: all.
        """
        wanted = k
        if allowed is not None:
            share = float(np.count_nonzero(allowed)) / len(allowed)
            if share < 1 - MOST_REFUSED:
                return None
            wanted = int(k / share) + k
        if 2 * wanted > len(matrix):
            return None
        faiss = _faiss()
        width = max(SEARCH_WIDTH, 2 * wanted)
        _, proposed = self._index.search(
            np.ascontiguousarray(queries), wanted, params=faiss.SearchParametersHNSW(efSearch=width)
        )
        found: list[Hits] = []
        for query, rows in zip(queries, proposed, strict=True):
            some = np.sort(rows[rows >= 0].astype(np.int64))
            if allowed is not None:
                some = some[allowed[some]]
            if len(some) < k:
                return None
            found.append(settle(matrix, query, some, k))
        return found
