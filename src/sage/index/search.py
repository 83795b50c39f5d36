"""One search over the segments of an index, by vector, by words or by both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from sage.graph.values import Passage
from sage.index.bm25 import BM25, best_matches, rank_words
from sage.index.filters import Where, matching_rows, refuse_bad_where
from sage.index.hybrid import DEPTH, fuse
from sage.index.segment import Segment
from sage.index.topk import Hits, merge_hits
from sage.index.vectors import nearest_rows

__all__ = ["nearest_in", "search_segments"]

#: Per segment, which rows may be found.
Allowed = Sequence[NDArray[np.bool_]]


def search_segments(
    segments: Sequence[Segment],
    *,
    vectors: NDArray[np.float32] | None,
    texts: Sequence[str] | None,
    k: int,
    where: Where | None,
    bm25: BM25,
) -> list[list[Passage]]:
    """For each query its k best passages. ``vectors`` are unit rows; with ``texts`` too, both are fused."""
    allowed = _allowed(segments, where)
    if texts is None:
        assert vectors is not None
        return [_passages(segments, hits) for hits in _by_vector(segments, vectors, k, allowed)]
    if vectors is None:
        return [_passages(segments, _by_words(segments, text, k, allowed, bm25)) for text in texts]
    depth = max(DEPTH, k)
    return [
        _passages(segments, _fused(near, _by_words(segments, text, depth, allowed, bm25), k))
        for near, text in zip(_by_vector(segments, vectors, depth, allowed), texts, strict=True)
    ]


def _allowed(segments: Sequence[Segment], where: Where | None) -> Allowed:
    live = [segment.live for segment in segments]
    if not where:
        return live
    refuse_bad_where(where, {key for segment in segments for key in segment.columns})
    return [segment.live & matching_rows(where, segment.columns, len(segment)) for segment in segments]


def _by_vector(
    segments: Sequence[Segment], queries: NDArray[np.float32], k: int, allowed: Allowed
) -> list[Hits]:
    found: list[list[Hits]] = []
    for segment, rows, first in zip(segments, allowed, _firsts(segments), strict=True):
        assert segment.vectors is not None
        hits = nearest_in(segment, queries, k, None if rows.all() else rows)
        found.append([Hits(rows + first, scores) for rows, scores in hits])
    return [merge_hits(list(parts), k) for parts in zip(*found, strict=True)]


def nearest_in(
    segment: Segment, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
) -> list[Hits]:
    """By the segment's graph where it has one that serves, else exactly."""
    assert segment.vectors is not None
    found = None if segment.graph is None else segment.graph.search(segment.vectors, queries, k, allowed)
    return nearest_rows(segment.vectors, queries, k, allowed) if found is None else found


def _by_words(segments: Sequence[Segment], text: str, k: int, allowed: Allowed, bm25: BM25) -> Hits:
    scores = rank_words(text, [(segment.postings, segment.live) for segment in segments], bm25)
    parts = []
    for score, rows, first in zip(scores, allowed, _firsts(segments), strict=True):
        hits = best_matches(score, k, rows)
        parts.append(Hits(hits.rows + first, hits.scores))
    return merge_hits(parts, k)


def _fused(near: Hits, words: Hits, k: int) -> Hits:
    both = fuse([near.rows.tolist(), words.rows.tolist()], k)
    rows = np.array([row for row, _ in both], dtype=np.int64)
    return Hits(rows, np.array([score for _, score in both], dtype=np.float32))


def _firsts(segments: Sequence[Segment]) -> list[int]:
    """The number of each segment's first row in the whole index."""
    return list(accumulate((len(segment) for segment in segments[:-1]), initial=0))


def _passages(segments: Sequence[Segment], hits: Hits) -> list[Passage]:
    firsts = np.array(_firsts(segments))
    found = []
    for row, score in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True):
        at = int(np.searchsorted(firsts, row, side="right")) - 1
        found.append(segments[at].passage(row - int(firsts[at]), score))
    return found
