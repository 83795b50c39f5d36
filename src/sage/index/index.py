"""What the user holds: passages that are found by meaning, by words, or by both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError, nearest
from sage.graph.values import Passage
from sage.index.bm25 import BM25
from sage.index.chunk import Chunking, Document
from sage.index.embed import Progress, embed_texts
from sage.index.filters import Where
from sage.index.graphs import Recall, graph_from, recall_of, with_graph
from sage.index.intake import refuse_other, searched_texts, take_passages, take_vectors
from sage.index.manifest import Manifest, corrupt
from sage.index.search import search_segments
from sage.index.segment import Segment, compact, make_segment
from sage.index.store import Facts, open_stored, refuse_foreign, write_stored
from sage.index.vectors import unit_rows
from sage.settings import Settings

__all__ = ["Index", "IndexInfo"]

_MAX_SEGMENTS = 8  # added ones beyond this are joined


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """What there is to know of an index."""

    path: str | None  # its folder, None: only in memory
    passages: int
    dimension: int | None  # of the vectors, None: words only
    embedder: str | None  # address of the engine that made the vectors, without keys
    fingerprint: str | None
    words: int  # distinct ones
    k1: float
    b: float
    metadata: tuple[str, ...]  # keys that where= may name
    created: str | None  # UTC, ISO 8601; None: not saved
    size_bytes: int | None  # on disk; None: not saved
    graph: bool = False  # whether a graph over the vectors is searched instead of all of them


class Index:
    """Passages that are found by vector, by words, or by both.

    Every passage is embedded, and indexed by words, as its title and its text. Searches may run at the same
    time in several threads; changes may not run beside anything. Changes reach the disk by :meth:`save`.

    >>> index = Index.build([Passage("a", "Locate the place."), Passage("b", "Count the words.")])
    >>> [passage.id for passage in index.search(text="which place")]
    ['a']
    """

    def __init__(
        self,
        segments: list[Segment],
        facts: Facts,
        *,
        path: Path | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Use :meth:`build` or :meth:`open`."""
        self._segments = segments
        self._facts = facts
        self._path = path
        self._settings = settings
        self._manifest: Manifest | None = None  # as it was read or written last
        self._places: dict[str, tuple[Segment, int]] | None = None  # id -> where, once it is needed

    @classmethod
    def build(
        cls,
        items: Iterable[Document | Passage],
        *,
        path: str | Path | None = None,
        embedder: str | None = None,
        vectors: Any = None,
        fingerprint: str | None = None,
        chunking: Chunking | None = None,
        bm25: BM25 | None = None,
        hnsw: int | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Index:
        """An index of documents, which are cut into passages, and of passages, which are taken as they are.

        Args:
            items: what to index; ids must differ.
            path: a folder to save it in, replacing an index that is there; None keeps it in memory.
            embedder: address of the engine that embeds the passages; None: search by words only.
            vectors: ready-made vectors instead, one row a passage, in order (then no documents).
            fingerprint: of the embedder that made ``vectors``; with ``embedder``, what it must have.
            chunking: how big the passages of documents are.
            bm25: the parameters of the search by words.
            hnsw: from how many passages on vectors are searched by a graph, which is quicker and may miss a few
                (see :meth:`recall`); needs the extra ``faiss``. None: every vector is looked at.
            settings: where the embedder finds its model; None: read from ``sage.toml``.
            progress: called with the passages embedded so far, and all of them.

        Raises:
            InputError: nothing to index, ids that repeat, vectors that do not fit, a bad ``path``.
            EngineError, SetupError: the embedder failed, or the index cannot be written.
        """
        target = None if path is None else Path(path).absolute()
        if target is not None:
            refuse_foreign(target)
        passages = take_passages(items, chunking, whole=vectors is not None)
        if not passages:
            raise InputError("nothing to index: no passage holds a word; check the corpus")
        address, known = embedder, fingerprint
        table: NDArray[np.float32] | None = None
        if vectors is not None:
            table = take_vectors(vectors, len(passages))
        elif embedder is not None:
            embedded = embed_texts(searched_texts(passages), embedder, settings, progress)
            table, address, known = embedded
            refuse_other(fingerprint, embedded)
        elif fingerprint is not None:
            raise InputError("fingerprint= says who made vectors=, but there are none")
        facts = Facts(embedder=address, fingerprint=known, bm25=bm25 or BM25(), hnsw=graph_from(hnsw, table))
        segment = with_graph(make_segment(passages, table), facts)
        index = cls([segment], facts, path=target, settings=settings)
        if target is not None:
            index.save()
        return index

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False, settings: Settings | None = None) -> Index:
        """The index in a folder, mapped into memory.

        Args:
            path: its folder.
            verify: compare the sha256 of every file, however large, with what was written.
            settings: for embedding passages that are added; None: read from ``sage.toml``.

        Raises:
            InputError: no index there, or one of a newer SAGE.
            SetupError: it is damaged.
        """
        folder = Path(path).absolute()
        manifest, segment = open_stored(folder, verify=verify)
        facts = Facts(
            embedder=manifest.embedder,
            fingerprint=manifest.fingerprint,
            bm25=BM25(k1=manifest.k1, b=manifest.b),
            hnsw=manifest.hnsw,
        )
        index = cls([segment], facts, path=folder, settings=settings)
        index._manifest = manifest
        return index

    @property
    def embedder(self) -> str | None:
        """The address of the engine that made the vectors, without keys; None when not known."""
        return self._facts.embedder

    @property
    def embedder_fingerprint(self) -> str | None:
        """Vectors may be compared with this index's if their embedder has this fingerprint; None: not known."""
        return self._facts.fingerprint

    @property
    def dimension(self) -> int | None:
        """Of the vectors; None for an index of words only."""
        vectors = self._segments[0].vectors
        return None if vectors is None else int(vectors.shape[1])

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(segment.live)) for segment in self._segments)

    def __iter__(self) -> Iterator[Passage]:
        """Every passage, in the order they were added; a replaced one counts as added anew."""
        for segment in self._segments:
            for row in np.flatnonzero(segment.live).tolist():
                yield segment.passage(row)

    def __repr__(self) -> str:
        return f"<Index of {len(self)} passages, dimension {self.dimension}, at {str(self._path)!r}>"

    def search(
        self,
        *,
        vector: NDArray[np.floating[Any]] | Sequence[float] | None = None,
        text: str | None = None,
        k: int = 4,
        where: Where | None = None,
    ) -> list[Passage]:
        """The k passages that fit best, the best first; fewer when fewer fit. Equal scores keep their order.

        Args:
            vector: by meaning: cosine with it, exact.
            text: by words: BM25. With ``vector``, the two lists are fused by reciprocal rank.
            k: how many.
            where: conditions on metadata, all of which must hold: ``{"lang": "en"}``, ``{"lang": ["en", "de"]}``
                for any of them, ``{"year": {"gte": 2000, "lt": 2010}}`` with eq, ne, in, gt, gte, lt, lte.

        Raises:
            InputError: neither vector nor text, a vector of another dimension, a bad ``k`` or ``where``.
        """
        rows = None if vector is None else np.asarray(vector)[np.newaxis]
        return self.search_many(vectors=rows, texts=None if text is None else [text], k=k, where=where)[0]

    def search_many(
        self,
        *,
        vectors: Any = None,
        texts: Sequence[str] | None = None,
        k: int = 4,
        where: Where | None = None,
    ) -> list[list[Passage]]:
        """Like :meth:`search` for many queries at once, which is several times faster by vector.

        ``vectors`` has a row a query; with ``texts`` as well, both have one entry a query. The result has a
        list a query.
        """
        if type(k) is not int or k < 1:
            raise InputError(f"search: k is {k!r}, expected a whole number above 0")
        if vectors is None and texts is None:
            raise InputError("search: say what to look for: vector=, text=, or both")
        table = None if vectors is None else self._queries(vectors)
        if table is not None and texts is not None and len(table) != len(texts):
            raise InputError(
                f"search: got {len(table)} vectors and {len(texts)} texts, expected as many of each"
            )
        if table is not None and not len(table):
            return []
        try:
            return search_segments(
                self._segments, vectors=table, texts=texts, k=k, where=where, bm25=self._facts.bm25
            )
        except (IndexError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise corrupt(self._path or Path("(in memory)"), f"a search found nonsense ({error})") from error

    def require_embedder(self, fingerprint: str | None) -> None:
        """Refuse vectors of another embedder than made this index's: their scores would mean nothing.

        Raises:
            InputError: the fingerprints differ, or this index has no vectors.
        """
        if self.dimension is None:
            raise InputError(_words_only(self._path))
        if fingerprint != self.embedder_fingerprint:
            raise InputError(
                f"the index was made with the embedder {self.embedder or '(not named)'} "
                f"({self.embedder_fingerprint}), the query with another one ({fingerprint}); "
                "use that embedder, or build the index again"
            )

    def add(
        self, items: Iterable[Document | Passage], vectors: Any = None, *, progress: Progress | None = None
    ) -> int:
        """Add passages, and the passages of documents; their number.

        Args:
            items: their ids must be new.
            vectors: a row a passage, of this index's embedder; None: embed them with it now.
            progress: as for :meth:`build`.

        Raises:
            InputError: an id that is there already, or vectors that do not fit. Nothing is added then.
        """
        passages = take_passages(items, None, whole=vectors is not None)
        places = self._by_id()
        for passage in passages:
            if passage.id in places:
                raise InputError(
                    f"passage {passage.id!r} is in the index already; use update() to replace it"
                )
        self._append(self._new_segment(passages, vectors, progress))
        return len(passages)

    def update(
        self, items: Iterable[Passage], vectors: Any = None, *, progress: Progress | None = None
    ) -> int:
        """Replace passages by others with the same ids; their number. Arguments as for :meth:`add`.

        Raises:
            InputError: an id that is not in the index, or vectors that do not fit. Nothing changes then.
        """
        passages = take_passages(items, None, whole=True)
        self._refuse_unknown(passage.id for passage in passages)
        segment = self._new_segment(passages, vectors, progress)
        self.delete(passage.id for passage in passages)
        self._append(segment)
        return len(passages)

    def delete(self, ids: Iterable[str]) -> int:
        """Delete passages by id; their number.

        Raises:
            InputError: an id that is not in the index. Nothing is deleted then.
        """
        if isinstance(ids, str):
            raise InputError(f"delete takes a list of ids, got the string {ids!r}; write [{ids!r}]")
        gone = list(dict.fromkeys(ids))
        self._refuse_unknown(gone)
        places = self._by_id()
        for id_ in gone:
            segment, row = places.pop(id_)
            segment.live[row] = False
        return len(gone)

    def save(self, path: str | Path | None = None) -> None:
        """Write the index, without what was deleted, to its folder or to another one, which becomes its own.

        Readers see the old index or the new one, never a mixture.

        Raises:
            InputError: no folder is known, something else stands there, or someone else saved it meanwhile.
            SetupError: it cannot be written.
        """
        target = self._path if path is None else Path(path).absolute()
        if target is None:
            raise InputError("save: this index is only in memory; say where: save('docs.index')")
        known = self._manifest if target == self._path else None
        expected = None if known is None else known.generation
        whole = with_graph(compact(self._segments), self._facts)
        self._manifest, segment = write_stored(target, whole, self._facts, expected=expected)
        self._segments, self._path, self._places = [segment], target, None

    def recall(self, *, k: int = 10, queries: int = 200, seed: int = 0) -> Recall | None:
        """How many of the k nearest passages a search finds, beside an exact one; None where it is exact itself.

        The queries stand halfway between two passages drawn at random: near them, and none of them.
        """
        for segment in self._segments:
            if segment.graph is not None:
                return recall_of(segment, k, queries, seed)
        return None

    def info(self) -> IndexInfo:
        """What there is to know of this index."""
        stored = self._manifest
        return IndexInfo(
            path=None if self._path is None else str(self._path),
            passages=len(self),
            dimension=self.dimension,
            embedder=self.embedder,
            fingerprint=self.embedder_fingerprint,
            words=len(compact(self._segments).postings.terms),
            k1=self._facts.bm25.k1,
            b=self._facts.bm25.b,
            metadata=tuple(sorted({key for segment in self._segments for key in segment.columns})),
            created=None if stored is None else stored.created,
            size_bytes=None if stored is None else sum(file.size_bytes for file in stored.files.values()),
            graph=any(segment.graph is not None for segment in self._segments),
        )

    def _queries(self, vectors: Any) -> NDArray[np.float32]:
        """Query vectors as unit rows of this index's dimension."""
        if self.dimension is None:
            raise InputError(_words_only(self._path))
        table = unit_rows(vectors, "search: vector")
        if table.shape[1] != self.dimension:
            raise InputError(
                f"search: the vector has {table.shape[1]} numbers, the index {self.dimension}; "
                f"it was built with another embedder than {self.embedder or self.embedder_fingerprint}"
            )
        return table

    def _new_segment(self, passages: list[Passage], vectors: Any, progress: Progress | None) -> Segment:
        """Passages to be appended, with vectors if this index has them."""
        if self.dimension is None:
            if vectors is not None:
                raise InputError(_words_only(self._path))
            return make_segment(passages, None)
        if vectors is not None:
            table = take_vectors(vectors, len(passages))
        elif self.embedder is not None:
            embedded = embed_texts(searched_texts(passages), self.embedder, self._settings, progress)
            refuse_other(self.embedder_fingerprint, embedded)
            table = embedded.vectors
        else:
            raise InputError(
                "this index was built from ready-made vectors: pass vectors= for new passages too"
            )
        if len(passages) and table.shape[1] != self.dimension:
            raise InputError(f"vectors have {table.shape[1]} numbers each, the index {self.dimension}")
        return make_segment(passages, table.reshape(len(passages), self.dimension))

    def _append(self, segment: Segment) -> None:
        if not len(segment):
            return
        self._segments.append(segment)
        if len(self._segments) > _MAX_SEGMENTS:
            self._segments[1:] = [compact(self._segments[1:])]
            self._places = None
        elif self._places is not None:
            self._places.update((id_, (segment, row)) for row, id_ in enumerate(segment.ids))

    def _by_id(self) -> dict[str, tuple[Segment, int]]:
        if self._places is None:
            self._places = {
                id_: (segment, row)
                for segment in self._segments
                for row, id_ in enumerate(segment.ids)
                if segment.live[row]
            }
        return self._places

    def _refuse_unknown(self, ids: Iterable[str]) -> None:
        places = self._by_id()
        for id_ in ids:
            if id_ not in places:
                raise InputError(f"no passage {id_!r} in the index: {nearest(str(id_), places)}")


def _words_only(path: Path | None) -> str:
    where = "this index" if path is None else f"index {str(path)!r}"
    return f"{where} holds no vectors: search it by text=, or build it again with an embedder"
