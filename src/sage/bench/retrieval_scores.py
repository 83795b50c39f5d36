"""How well a ranking finds what it should: hits, completeness, reciprocal rank and nDCG of one query.

Each function takes the ids found, the best first, and the ids that should be found. Relevance is yes or no.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

__all__ = ["complete", "hit", "ndcg", "recall", "reciprocal_rank"]


def hit(found: Sequence[str], gold: Collection[str], k: int) -> bool:
    """Whether any of the right ids is among the first k; with one right id, recall@k.

    >>> hit(["b", "a"], {"a"}, 1), hit(["b", "a"], {"a"}, 2)
    (False, True)
    """
    return any(each in gold for each in found[:k])


def complete(found: Sequence[str], gold: Collection[str], k: int) -> bool:
    """Whether all of the right ids are among the first k, and there are any.

    >>> complete(["b", "a"], {"a", "c"}, 2)
    False
    """
    return bool(gold) and set(gold) <= set(found[:k])


def recall(found: Sequence[str], gold: Collection[str], k: int) -> float:
    """The share of the right ids among the first k; 0 where there are none.

    >>> recall(["b", "a"], {"a", "c"}, 2)
    0.5
    """
    return len(set(gold) & set(found[:k])) / len(set(gold)) if gold else 0.0


def reciprocal_rank(found: Sequence[str], gold: Collection[str], k: int) -> float:
    """One over the rank of the first right id, counted from 1; 0 if it is not among the first k.

    Its mean over queries is MRR@k (Voorhees, "The TREC-8 Question Answering Track Report", 1999).

    >>> reciprocal_rank(["b", "a"], {"a"}, 10)
    0.5
    """
    return next((1 / rank for rank, each in enumerate(found[:k], 1) if each in gold), 0.0)


def ndcg(found: Sequence[str], gold: Collection[str], k: int) -> float:
    """Discounted gain of the first k over the best possible; 0 where there is nothing to find.

    Method: Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 2002, with
    the discount 1 / log2(rank + 1). An id that is found twice gains once.

    >>> round(ndcg(["b", "a"], {"a"}, 10), 3)
    0.631
    """
    firsts = {each: rank for rank, each in reversed(list(enumerate(found[:k], 1)))}
    gain = sum(1 / math.log2(rank + 1) for each, rank in firsts.items() if each in gold)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(set(gold))) + 1))
    return gain / best if best else 0.0
