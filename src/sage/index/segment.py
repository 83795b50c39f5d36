"""Passages with everything needed to find them; an index is a few of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError
from sage.graph.values import Passage
from sage.index.blob import Blob
from sage.index.bm25 import Postings, build_postings, merge_postings
from sage.index.filters import Column, read_columns
from sage.index.hnsw import Graph

__all__ = ["Segment", "compact", "make_segment", "searched_text"]

_decoder = msgspec.json.Decoder(Passage)


class _Id(msgspec.Struct):
    id: str


@dataclass(eq=False)
class Segment:
    """Passages in rows. Only ``live`` ever changes, by the index that owns the segment."""

    lines: Blob  # each passage as JSON
    vectors: NDArray[np.float32] | None  # unit rows, shape (rows, dimension)
    postings: Postings
    live: NDArray[np.bool_]  # False: deleted, shape (rows,)
    graph: Graph | None = None  # over the vectors; None: they are all looked at

    def __len__(self) -> int:
        return len(self.live)

    def passage(self, row: int, score: float = 0.0) -> Passage:
        """The passage in a row, with the score of the search that found it."""
        return msgspec.structs.replace(_decoder.decode(self.lines[row]), score=score)

    @cached_property
    def ids(self) -> list[str]:
        """The id of every row, deleted ones too."""
        decoder = msgspec.json.Decoder(_Id)
        return [decoder.decode(line).id for line in self.lines]

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """The metadata of every row, by key."""
        return read_columns(self.lines, len(self))


def searched_text(passage: Passage) -> str:
    """What a passage is found by, embedded and in words alike: its title, then its text."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def make_segment(passages: Sequence[Passage], vectors: NDArray[np.float32] | None) -> Segment:
    """A segment of new passages.

    Raises:
        InputError: a passage that cannot be stored.
    """
    return Segment(
        lines=Blob.of(_encode(passage) for passage in passages),
        vectors=vectors,
        postings=build_postings(searched_text(passage) for passage in passages),
        live=np.ones(len(passages), dtype=np.bool_),
    )


def compact(segments: Sequence[Segment]) -> Segment:
    """The live rows of several segments as one, in order."""
    if len(segments) == 1 and segments[0].live.all():
        return segments[0]
    kept = [np.flatnonzero(segment.live) for segment in segments]
    vectors = [
        segment.vectors[rows]
        for segment, rows in zip(segments, kept, strict=True)
        if segment.vectors is not None
    ]
    lines = Blob.of(
        line
        for segment in segments
        for line, alive in zip(segment.lines, segment.live.tolist(), strict=True)
        if alive
    )
    return Segment(
        lines=lines,
        vectors=np.concatenate(vectors) if vectors else None,
        postings=merge_postings([(segment.postings, segment.live) for segment in segments]),
        live=np.ones(len(lines), dtype=np.bool_),
    )


def _encode(passage: Passage) -> bytes:
    stored: dict[str, Any] = {"id": passage.id, "text": passage.text}
    if passage.title:
        stored["title"] = passage.title
    if passage.meta:
        stored["meta"] = dict(passage.meta)
    try:
        line = msgspec.json.encode(stored)
        _decoder.decode(line)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"passage {passage.id!r} cannot be stored as JSON: {error}; "
            "expected text of valid characters and metadata of plain values"
        ) from error
    return line
