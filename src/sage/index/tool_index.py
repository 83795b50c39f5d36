"""Which tools fit a request: by their words, by their meaning, or by both."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError, nearest
from sage.index.bm25 import BM25, build_postings, rank_words
from sage.index.tokens import tokenize
from sage.index.tool_words import content_words, spoken
from sage.index.topk import best_rows
from sage.index.vectors import unit_rows

__all__ = ["Ranked", "ToolDocument", "ToolIndex", "Weights"]


class ToolDocument(msgspec.Struct, frozen=True):
    """What is written about a tool: all that it can be found by."""

    name: str
    description: str = ""
    parameters: Mapping[str, str] = {}  # name -> description

    @property
    def words(self) -> str:
        """What a search by words looks through: the name twice, then everything else."""
        name = spoken(self.name)
        rest = " ".join(f"{spoken(key)} {said}" for key, said in self.parameters.items())
        return content_words(f"{name} {name} {self.description} {rest}")

    @property
    def views(self) -> tuple[str, str]:
        """The two texts whose mean embedding stands for the tool."""
        name = spoken(self.name)
        return self.description or name, f"{name}: {self.description}"


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How a score is put together: ``meaning`` times the cosine plus ``words`` times the BM25 score."""

    meaning: float = 1.0
    words: float = 0.02


class Ranked(NamedTuple):
    """Tools and their scores, the best first."""

    names: list[str]
    scores: list[float]


class ToolIndex:
    """Documents of tools, ranked for a request.

    A request may ask for several things. Each of its clauses is scored by itself, and a tool counts as much as the
    clause that it fits best; or the clauses take turns, so that each gets a tool before one gets two.

    >>> index = ToolIndex([ToolDocument("getWeather", "The weather of a city"), ToolDocument("bookRoom", "A hotel room")])
    >>> index.rank(["weather in Rome"], None, k=1).names
    ['getWeather']

    Args:
        documents: their names must differ.
        vectors: a row for each document, of length one; None: words only.

    Raises:
        InputError: a name stands twice, or there are not as many vectors as documents.
    """

    def __init__(self, documents: Sequence[ToolDocument], vectors: Any = None) -> None:
        self.documents = tuple(documents)
        self._rows = {document.name: row for row, document in enumerate(self.documents)}
        if len(self._rows) < len(self.documents):
            names = [document.name for document in self.documents]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"tool {twice!r} is described twice; names must differ")
        self._live = np.ones(len(self.documents), dtype=np.bool_)
        self.vectors = None if vectors is None else unit_rows(vectors, "vectors of tools")
        if self.vectors is not None and len(self.vectors) != len(self.documents):
            raise InputError(f"got {len(self.vectors)} vectors for {len(self.documents)} tools")

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def _impacts(self) -> dict[str, tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Word -> the rows it is in and what it adds to their BM25 scores, so that a query only adds up."""
        postings = build_postings(document.words for document in self.documents)
        impacts: dict[str, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}
        for number, term in enumerate(postings.terms):
            word = term.decode()
            rows = postings.rows[int(postings.starts[number]) : int(postings.starts[number + 1])]
            scores = rank_words(word, [(postings, self._live)], BM25())[0]
            impacts[word] = (rows, scores[rows])
        return impacts

    def views(self) -> list[str]:
        """What has to be embedded for :meth:`with_views`: two texts a tool, one after the other."""
        return [text for document in self.documents for text in document.views]

    def with_views(self, rows: Any) -> ToolIndex:
        """The same tools with vectors: each the mean of the embeddings of its two views."""
        table = np.asarray(rows, dtype=np.float32)
        return self._with_vectors(table.reshape(len(self.documents), 2, -1).mean(axis=1))

    def with_examples(self, names: Sequence[str], rows: NDArray[np.float32], weight: float) -> ToolIndex:
        """The same tools, each moved towards the requests that are known to have needed it.

        A Rocchio step ("Relevance Feedback in Information Retrieval", in: The SMART Retrieval System, 1971) without
        the negative part; the examples of a tool weigh as the square root of their number, not as their mean, so
        that many say more than one.

        Args:
            names: of the tools; those that are not in the index are passed over.
            rows: the embeddings of the requests, aligned.
            weight: of one example against the tool's own vector.
        """
        assert self.vectors is not None
        sums = np.zeros_like(self.vectors)
        counts = np.zeros(len(self.documents), dtype=np.float32)
        known = [(self._rows[name], at) for at, name in enumerate(names) if name in self._rows]
        for row, at in known:
            sums[row] += rows[at]
            counts[row] += 1
        step = np.float32(weight) / np.sqrt(np.maximum(counts, np.float32(1)))
        return self._with_vectors(self.vectors + step[:, np.newaxis] * sums)

    def _with_vectors(self, vectors: Any) -> ToolIndex:
        same = ToolIndex(self.documents, vectors)
        same.__dict__["_impacts"] = self._impacts  # they are of the words, which stay
        return same

    def parts(
        self, clauses: Sequence[str], rows: NDArray[np.float32] | None, among: Sequence[str] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The cosine and the BM25 score of every clause with every tool (or those named), shape (clauses, tools)."""
        chosen = None if among is None else np.array([self._row(name) for name in among], dtype=np.int64)
        words = np.stack([self._words(clause) for clause in clauses])
        if chosen is not None:
            words = words[:, chosen]
        if rows is None or self.vectors is None:
            return np.zeros_like(words), words
        matrix = self.vectors if chosen is None else self.vectors[chosen]
        return np.einsum("ij,kj->ki", matrix, np.atleast_2d(rows), optimize=True), words

    def rank(
        self,
        clauses: Sequence[str],
        rows: NDArray[np.float32] | None,
        *,
        k: int,
        among: Sequence[str] | None = None,
        weights: Weights | None = None,
        turns: bool = False,
    ) -> Ranked:
        """The k tools that fit best; ties go to the tool that stands first.

        >>> described = {"bookRoom": "Book a hotel room", "bookSuite": "Book a hotel suite", "tellNews": "News and weather"}
        >>> index = ToolIndex([ToolDocument(name, about) for name, about in described.items()])
        >>> asked = ["book a room in a hotel suite", "what weather is it"]
        >>> index.rank(asked, None, k=2).names, index.rank(asked, None, k=2, turns=True).names
        (['bookRoom', 'bookSuite'], ['bookRoom', 'tellNews'])

        Args:
            clauses: what is asked, see ``sage.index.tool_words.clauses``.
            rows: their embeddings, shape (clauses, dimension); None: by words only.
            k: how many.
            among: names to choose from; None: all.
            weights: how both scores are put together.
            turns: in each turn every clause names its next best tool, and those named stand by their scores.

        Raises:
            InputError: ``among`` names a tool that is not here.
        """
        if among is not None and not among:
            return Ranked([], [])
        how = weights or Weights()
        meaning, words = self.parts(clauses, rows, among)
        table = np.ascontiguousarray(how.meaning * meaning + how.words * words, dtype=np.float32)
        scores = table.max(axis=0)
        rows_found = _by_turns(table, k) if turns and len(table) > 1 else best_rows(scores, k).rows.tolist()
        names = among if among is not None else [document.name for document in self.documents]
        return Ranked([names[row] for row in rows_found], scores[rows_found].tolist())

    def _words(self, clause: str) -> NDArray[np.float32]:
        scores = np.zeros(len(self.documents), dtype=np.float32)
        for word, repeats in Counter(tokenize(content_words(clause))).items():
            if (found := self._impacts.get(word)) is not None:
                scores[found[0]] += np.float32(repeats) * found[1]
        return scores

    def _row(self, name: str) -> int:
        if name not in self._rows:
            raise InputError(f"unknown tool {name!r}: {nearest(name, self._rows)}")
        return self._rows[name]


def _by_turns(table: NDArray[np.float32], k: int) -> list[int]:
    """The columns that the rows of a table name in turn, each its best first."""
    orders = [best_rows(row, k).rows.tolist() for row in table]
    found: dict[int, None] = {}
    for turn in itertools.zip_longest(*orders):
        named = [(-table[number, column], column) for number, column in enumerate(turn) if column is not None]
        found |= dict.fromkeys(column for _, column in sorted(named))
        if len(found) >= k:
            break
    return list(found)[:k]
