"""Exact search by cosine, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError
from sage.index.topk import Hits, contenders, merge_hits

__all__ = ["nearest_rows", "settle", "unit_rows"]

_MAX_SCORES = 8_000_000  # scores held at once: 32 MB
_FEW = 0.1  # below this share of allowed rows only they are looked at
_RESCORED_ROWS = 4096


def unit_rows(vectors: Any, what: str = "vectors") -> NDArray[np.float32]:
    """Rows of numbers as float32 of length one, shape (rows, dimension). A row of zeros stays zero.

    Raises:
        InputError: not a table of finite numbers.
    """
    try:
        table = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: expected rows of numbers, all of one length: {error}") from error
    if table.ndim != 2 or table.shape[1] == 0:
        raise InputError(f"{what}: expected shape (rows, dimension), got {table.shape}")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise InputError(f"{what}: row {row} holds a number that is not finite")
    lengths = np.linalg.norm(table.astype(np.float64), axis=1, keepdims=True)
    lengths[lengths == 0] = 1.0
    return np.ascontiguousarray(table / lengths, dtype=np.float32)


def nearest_rows(
    matrix: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> list[Hits]:
    """For each query the k nearest rows by cosine; both sides hold unit rows.

    The scan is one matrix product in float32, whose last digit depends on how many queries travel together;
    so the rows near the border are scored again in float64. A query therefore finds the same alone as in
    company, and equal rows get equal scores. ``matrix`` may be mapped from a file.

    Args:
        matrix: shape (rows, dimension).
        queries: shape (queries, dimension).
        k: how many.
        allowed: which rows may be found, shape (rows,); None: all.
    """
    if allowed is not None and np.count_nonzero(allowed) < _FEW * len(allowed):
        picked = np.flatnonzero(allowed)
        few = nearest_rows(np.ascontiguousarray(matrix[picked]), queries, k)
        return [Hits(picked[hits.rows], hits.scores) for hits in few]
    found: list[Hits] = []
    margin = matrix.shape[1] * float(np.finfo(np.float32).eps)
    step = max(1, _MAX_SCORES // max(1, len(matrix)))
    for start in range(0, len(queries), step):
        batch = queries[start : start + step]
        scores = _products(matrix, batch)
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        found.extend(
            settle(matrix, query, contenders(row, k, margin), k)
            for query, row in zip(batch, scores, strict=True)
        )
    return found


def _products(matrix: NDArray[np.float32], batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every query with every row. One query is as fast without BLAS, whose threads stall on a busy machine."""
    if len(batch) == 1:
        return np.asarray(np.einsum("ij,j->i", matrix, batch[0])[np.newaxis])
    return batch @ matrix.T


def settle(matrix: NDArray[np.float32], query: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Hits:
    """The k best of some rows, scored so that only the row's and the query's numbers matter."""
    exact = query.astype(np.float64)
    parts = []
    for start in range(0, max(1, len(rows)), _RESCORED_ROWS):
        some = rows[start : start + _RESCORED_ROWS]
        scores = (matrix[some] * exact).sum(axis=1).astype(np.float32)
        order = np.lexsort((some, -scores))[:k]
        parts.append(Hits(some[order], scores[order]))
    return merge_hits(parts, k)
