"""Search by words: BM25 over an inverted index held in arrays."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError
from sage.index.blob import Blob
from sage.index.tokens import tokenize
from sage.index.topk import Hits, best_rows

__all__ = ["BM25", "Part", "Postings", "best_matches", "build_postings", "merge_postings", "rank_words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BM25:
    """The two parameters of BM25; the defaults are Lucene's."""

    k1: float = 1.2  # how soon a repeated word stops counting; 0: once is enough
    b: float = 0.75  # how much long passages are held back; 0: not at all, 1: in full

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k1) and self.k1 >= 0):
            raise InputError(f"BM25: k1 is {self.k1}, expected 0 or more; 1.2 is usual")
        if not 0 <= self.b <= 1:
            raise InputError(f"BM25: b is {self.b}, expected a number from 0 to 1; 0.75 is usual")


@dataclass(frozen=True)
class Postings:
    """For each word the passages it is in: term ``i`` is in ``rows[starts[i]:starts[i + 1]]``, rows ascending."""

    terms: Blob  # distinct, sorted as bytes, UTF-8
    starts: NDArray[np.int64]  # shape (terms + 1,)
    rows: NDArray[np.int32]  # shape (postings,)
    counts: NDArray[np.int32]  # how often the word is in that passage, shape (postings,)
    lengths: NDArray[np.int32]  # words per passage, shape (passages,)

    @cached_property
    def num_words(self) -> int:
        """Of all passages together."""
        return int(self.lengths.sum(dtype=np.int64))

    def find(self, word: str) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The rows a word is in and its counts there; empty when it is in none."""
        at = self.terms.find(word.encode())
        start, end = (0, 0) if at is None else (int(self.starts[at]), int(self.starts[at + 1]))
        return self.rows[start:end], self.counts[start:end].astype(np.float32)


#: Some rows of a collection, and which of them are live.
Part = tuple[Postings, NDArray[np.bool_]]


class _Statistics(NamedTuple):
    """What BM25 needs to know of the whole collection."""

    num_passages: int
    mean_length: float


def build_postings(texts: Iterable[str]) -> Postings:
    """The inverted index of some texts, one row each."""
    ids: dict[str, int] = {}
    terms, rows, counts, lengths = array("i"), array("i"), array("i"), array("i")
    for row, text in enumerate(texts):
        words = tokenize(text)
        lengths.append(len(words))
        for word, count in Counter(words).items():
            terms.append(ids.setdefault(word, len(ids)))
            rows.append(row)
            counts.append(count)
    return _collect(
        [word.encode() for word in ids],
        np.array(terms, dtype=np.int32),
        np.array(rows, dtype=np.int32),
        np.array(counts, dtype=np.int32),
        np.array(lengths, dtype=np.int32),
    )


def merge_postings(parts: Sequence[Part]) -> Postings:
    """One inverted index of the live rows of several, numbered on, without reading any text again."""
    ids: dict[bytes, int] = {}
    terms, rows, counts, lengths = [], [], [], []
    first = 0
    for postings, live in parts:
        known = np.array([ids.setdefault(term, len(ids)) for term in postings.terms], dtype=np.int32)
        kept = live[postings.rows]
        numbered = (np.cumsum(live) - 1 + first).astype(np.int32)
        terms.append(np.repeat(known, np.diff(postings.starts))[kept])
        rows.append(numbered[postings.rows[kept]])
        counts.append(postings.counts[kept])
        lengths.append(postings.lengths[live])
        first += int(np.count_nonzero(live))
    return _collect(
        list(ids),
        np.concatenate(terms),
        np.concatenate(rows),
        np.concatenate(counts),
        np.concatenate(lengths),
    )


def rank_words(query: str, parts: Sequence[Part], bm25: BM25) -> list[NDArray[np.float32]]:
    """The BM25 score of every passage of a collection kept in parts, an array a part; 0: shares no word.

    The variant is Lucene's with exact lengths: ``idf * tf / (tf + k1 * (1 - b + b * length / mean))`` with
    ``idf = ln(1 + (n - df + 0.5) / (df + 0.5))``, which is never negative; the constant factor k1 + 1 is left
    out. Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, section 3.3;
    for the variant, Kamphuis, de Vries, Boytsov and Lin, "Which BM25 Do You Mean?", ECIR 2020, "Lucene
    (accurate)". A word that stands twice in the query counts twice. Rows that are not live count nowhere.
    """
    collection = _statistics(parts)
    norms = [_norms(postings, collection, bm25) for postings, _ in parts]
    scores = [np.zeros(len(live), dtype=np.float32) for _, live in parts]
    for word, repeats in sorted(Counter(tokenize(query)).items()):
        found = [postings.find(word) for postings, _ in parts]
        frequency = sum(
            int(np.count_nonzero(live[rows])) for (rows, _), (_, live) in zip(found, parts, strict=True)
        )
        idf = math.log(1 + (collection.num_passages - frequency + 0.5) / (frequency + 0.5))
        for (rows, counts), norm, score in zip(found, norms, scores, strict=True):
            score[rows] += np.float32(repeats * idf) * (counts / (counts + norm[rows]))
    return scores


def best_matches(scores: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]) -> Hits:
    """The k best of the allowed rows that share a word with the query."""
    return best_rows(np.where(allowed & (scores > 0), scores, np.float32(-np.inf)), k)


def _statistics(parts: Sequence[Part]) -> _Statistics:
    num_passages = num_words = 0
    for postings, live in parts:
        alive = int(np.count_nonzero(live))
        num_passages += alive
        whole = alive == len(live)
        num_words += postings.num_words if whole else int(postings.lengths[live].sum(dtype=np.int64))
    return _Statistics(num_passages, num_words / num_passages if num_passages else 0.0)


def _norms(postings: Postings, collection: _Statistics, bm25: BM25) -> NDArray[np.float32]:
    """Per passage what a count is weighed against, shape (passages,)."""
    mean = collection.mean_length or 1.0
    norms = bm25.k1 * (1 - bm25.b + bm25.b * postings.lengths / mean)
    return np.asarray(norms, dtype=np.float32)


def _collect(
    words: list[bytes],
    terms: NDArray[np.int32],
    rows: NDArray[np.int32],
    counts: NDArray[np.int32],
    lengths: NDArray[np.int32],
) -> Postings:
    """Triples of (term, row, count), rows ascending within a term, grouped by sorted term; unused words go."""
    used = np.bincount(terms, minlength=len(words))
    order = sorted((at for at in range(len(words)) if used[at]), key=words.__getitem__)
    rank = np.zeros(len(words), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    by_term = np.argsort(rank[terms], kind="stable")
    starts = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(used[order], out=starts[1:])
    return Postings(Blob.of([words[at] for at in order]), starts, rows[by_term], counts[by_term], lengths)
