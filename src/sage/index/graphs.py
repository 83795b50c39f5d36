"""When an index has a graph over its vectors, and how much of what is near it finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError
from sage.index.hnsw import Graph
from sage.index.search import nearest_in
from sage.index.segment import Segment
from sage.index.store import Facts
from sage.index.vectors import nearest_rows, unit_rows

__all__ = ["Recall", "graph_from", "recall_of", "with_graph"]


class Recall(NamedTuple):
    """So many found of so many that are nearest."""

    found: int
    of: int


def recall_of(segment: Segment, k: int, queries: int, seed: int) -> Recall:
    """What a segment's graph finds of the k nearest rows, for queries halfway between two rows drawn at random."""
    assert segment.vectors is not None
    pairs = np.random.default_rng(seed).integers(0, len(segment), size=(queries, 2))
    drawn = unit_rows(segment.vectors[pairs[:, 0]] + segment.vectors[pairs[:, 1]])
    exact = nearest_rows(segment.vectors, drawn, k)
    found = nearest_in(segment, drawn, k, None)
    same = sum(len(np.intersect1d(a.rows, b.rows)) for a, b in zip(exact, found, strict=True))
    return Recall(same, sum(len(hits.rows) for hits in exact))


def graph_from(said: Any, table: NDArray[np.float32] | None) -> int | None:
    """From how many passages on a graph is wanted.

    Raises:
        InputError: it is no number, or there are no vectors to make one of.
    """
    if said is None:
        return None
    if type(said) is not int or said < 1:
        raise InputError(f"hnsw is {said!r}, expected from how many passages on, such as 20000")
    if table is None:
        raise InputError("hnsw= makes a graph over vectors, and this index has none; give it an embedder")
    return said


def with_graph(segment: Segment, facts: Facts) -> Segment:
    """The segment with a graph, if it is large enough to want one and has none yet."""
    if (
        facts.hnsw is None
        or segment.vectors is None
        or len(segment) < facts.hnsw
        or segment.graph is not None
    ):
        return segment
    return replace(segment, graph=Graph.build(segment.vectors))
