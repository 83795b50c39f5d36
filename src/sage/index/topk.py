"""The best rows of a list of scores, ties going to the lower row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hits", "best_rows", "contenders", "merge_hits"]

_GROUPS = 64  # maxima are taken over this many rows before anything is sorted


class Hits(NamedTuple):
    """Rows and their scores, the best first."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def contenders(scores: NDArray[np.float32], k: int, margin: float = 0.0) -> NDArray[np.int64]:
    """Rows that include the k best, and all that come within ``margin`` of the k-th; minus infinity is no row.

    The k-th best of some groups' maxima is a score that at least k rows reach, so one cheap pass leaves few.
    """
    floor = -np.inf
    if k < len(scores):
        width = len(scores) // _GROUPS
        grouped = scores[: width * _GROUPS].reshape(_GROUPS, width).max(axis=0) if width > k else scores
        floor = float(np.partition(grouped, len(grouped) - k)[len(grouped) - k]) - margin
    kept = scores >= floor if np.isfinite(floor) else scores > -np.inf
    return np.flatnonzero(kept)


def best_rows(scores: NDArray[np.float32], k: int) -> Hits:
    """The k best rows; fewer when fewer are above minus infinity.

    >>> best_rows(np.array([0.5, 2.0, 0.5, 1.0], np.float32), 3).rows.tolist()
    [1, 3, 0]
    """
    rows = contenders(scores, k)
    return _first(rows, scores[rows], k)


def merge_hits(parts: list[Hits], k: int) -> Hits:
    """The k best of several lists of different rows."""
    if len(parts) == 1:
        return Hits(parts[0].rows[:k], parts[0].scores[:k])
    rows = np.concatenate([part.rows for part in parts])
    return _first(rows, np.concatenate([part.scores for part in parts]), k)


def _first(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Hits:
    order = np.lexsort((rows, -scores))[:k]
    return Hits(rows[order], scores[order])
