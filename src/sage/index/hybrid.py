"""Several rankings into one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

__all__ = ["DEPTH", "fuse"]

#: How far down each ranking is read before fusing, at least; past that, 1 / (60 + rank) hardly moves.
DEPTH = 100


def fuse(rankings: Sequence[Sequence[int]], k: int, *, constant: int = 60) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: the k rows with the largest sum of ``1 / (constant + rank)``, ranks from 1.

    Ties go to the lower row. Method: Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms
    Condorcet and individual Rank Learning Methods", SIGIR 2009; the constant is theirs.

    >>> fuse([[7, 3], [3, 9]], k=2)
    [(3, 0.0325...), (7, 0.0163...)]
    """
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row] += 1 / (constant + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
