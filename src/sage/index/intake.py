"""What users hand in, as passages and vectors that fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError
from sage.graph.values import Passage
from sage.index.chunk import Chunking, Document, chunk_document
from sage.index.embed import Embedded
from sage.index.segment import searched_text
from sage.index.vectors import unit_rows

__all__ = ["refuse_other", "searched_texts", "take_passages", "take_vectors"]


def take_passages(
    items: Iterable[Document | Passage], chunking: Chunking | None, *, whole: bool
) -> list[Passage]:
    """Documents cut, passages as they are; ``whole``: documents are refused, for their cuts are not known.

    Raises:
        InputError: something else, or an id that repeats.
    """
    passages: list[Passage] = []
    for item in items:
        if isinstance(item, Passage):
            passages.append(item)
        elif not isinstance(item, Document):
            raise InputError(f"expected Document or Passage, got {type(item).__name__}: {item!r:.60}")
        elif whole:
            raise InputError(
                f"document {item.id!r}: expected passages here; cut it with chunk_document() first"
            )
        else:
            passages.extend(chunk_document(item, chunking))
    seen: set[str] = set()
    for passage in passages:
        if passage.id in seen:
            raise InputError(f"two passages have the id {passage.id!r}; ids must differ")
        seen.add(passage.id)
    return passages


def searched_texts(passages: Sequence[Passage]) -> list[str]:
    """What each passage is found by."""
    return [searched_text(passage) for passage in passages]


def take_vectors(vectors: Any, num_passages: int) -> NDArray[np.float32]:
    """Ready-made vectors as unit rows, one a passage.

    Raises:
        InputError: no table of numbers, or not as many rows as passages.
    """
    table = unit_rows(vectors)
    if len(table) != num_passages:
        raise InputError(f"got {len(table)} vectors for {num_passages} passages, expected one each")
    return table


def refuse_other(expected: str | None, embedded: Embedded) -> None:
    """Raise InputError when vectors come from another embedder than the expected one; None: any will do."""
    if expected is not None and embedded.fingerprint != expected:
        raise InputError(
            f"embedder {embedded.address} makes other vectors now ({embedded.fingerprint}) than those it is "
            f"to be compared with ({expected}); build the index again"
        )
