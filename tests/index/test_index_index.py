"""Indexes as users hold them: build, search, change, save."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sage.errors import EngineError, InputError
from sage.graph.values import Passage
from sage.index import Chunking, Document, Index
from sage.index.embed import embed_texts
from sage.index.segment import searched_text

from .conftest import DIMENSION, Embed, embed_words

PASSAGES = [
    Passage("cat", "cats purr", title="Cat", meta={"legs": 4}),
    Passage("dog", "dogs bark", title="Dog", meta={"legs": 4}),
    Passage("hen", "hens cluck", title="Hen", meta={"legs": 2}),
    Passage("eel", "eels swim"),
]


def ids(passages: list[Passage]) -> list[str]:
    return [passage.id for passage in passages]


def vectors_of(passages: list[Passage]) -> Any:
    return embed_words([searched_text(passage) for passage in passages])


def build(**arguments: Any) -> Index:
    return Index.build(PASSAGES, vectors=vectors_of(PASSAGES), fingerprint="words-one", **arguments)


def test_a_search_by_meaning_gives_cosines() -> None:
    found = build().search(vector=vectors_of(PASSAGES)[2] * 5, k=2)
    assert found[0] == Passage("hen", "hens cluck", title="Hen", meta={"legs": 2}, score=found[0].score)
    assert found[0].score == pytest.approx(1)
    assert found[1].score < 1


def test_a_search_by_words_reads_titles_and_gives_what_shares_a_word() -> None:
    assert ids(build().search(text="the dog and the eels", k=9)) == ["eel", "dog"]


def test_a_search_by_both_fuses_ranks() -> None:
    found = build().search(vector=vectors_of(PASSAGES)[0], text="dog", k=4)
    assert {"cat", "dog"} == set(ids(found[:2]))
    assert found[0].score < 2 / 60


def test_filters_hold_for_every_kind_of_search() -> None:
    index, vector = build(), vectors_of(PASSAGES)[0]
    for query in ({"vector": vector}, {"text": "cats hens"}, {"vector": vector, "text": "cats"}):
        assert set(ids(index.search(**query, k=9, where={"legs": {"lt": 4}}))) <= {"hen"}
    assert len(index.search(vector=vector, k=9)) == 4


def test_many_queries_find_what_each_finds_alone() -> None:
    index, vectors, texts = build(), vectors_of(PASSAGES), ["cat", "dog", "swim", "zebra"]
    assert index.search_many(vectors=vectors, k=3) == [index.search(vector=vector, k=3) for vector in vectors]
    assert index.search_many(texts=texts, k=3) == [index.search(text=text, k=3) for text in texts]
    assert index.search_many(vectors=vectors, texts=texts, k=3) == [
        index.search(vector=vector, text=text, k=3) for vector, text in zip(vectors, texts, strict=True)
    ]
    assert index.search_many(texts=[]) == index.search_many(vectors=vectors[:0]) == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "say what to look for"),
        ({"text": "a", "k": 0}, "k is 0, expected a whole number above 0"),
        ({"text": "a", "k": "3"}, "k is '3'"),
        ({"vector": [1.0, 2.0]}, "the vector has 2 numbers, the index 16"),
        ({"vector": [float("nan")] * 16}, "not finite"),
        ({"text": "a", "where": {"leg": 2}}, "did you mean 'legs'"),
    ],
)
def test_a_bad_query_is_refused(query: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build().search(**query)


def test_an_index_of_words_refuses_vectors() -> None:
    index = Index.build(PASSAGES)
    assert (index.dimension, index.embedder, index.embedder_fingerprint) == (None, None, None)
    for act in (
        lambda: index.search(vector=[1.0]),
        lambda: index.require_embedder("words-one"),
        lambda: index.add([Passage("new", "text")], vectors=[[1.0]]),
    ):
        with pytest.raises(InputError, match="holds no vectors: search it by text="):
            act()


def test_another_embedder_is_refused() -> None:
    build().require_embedder("words-one")
    for other in ("words-two", None):
        with pytest.raises(InputError, match="with another one"):
            build().require_embedder(other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"items": []}, "nothing to index"),
        ({"items": [Document("a", " ")]}, "nothing to index"),
        ({"items": [Passage("a", "x"), Passage("a", "y")]}, "two passages have the id 'a'"),
        ({"items": ["text"]}, "expected Document or Passage, got str: 'text'"),
        ({"items": [Passage("a", "x")], "vectors": [[1.0], [2.0]]}, "got 2 vectors for 1 passages"),
        ({"items": [Document("a", "x")], "vectors": [[1.0]]}, "cut it with chunk_document"),
        ({"items": [Passage("a", "x")], "fingerprint": "f"}, "but there are none"),
        ({"items": [Passage("a", "\ud800")]}, "passage 'a' cannot be stored"),
        ({"items": [Passage("a", "x", meta={"k": object()})]}, "passage 'a' cannot be stored"),
        ({"items": [Passage(cast("str", 5), "x")]}, "passage 5 cannot be stored"),
    ],
)
def test_what_cannot_be_indexed_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Index.build(**arguments)


# ---- embedding


def test_an_embedder_embeds_title_and_text(word_embedder: Embed, tmp_path: Path) -> None:
    index = Index.build(PASSAGES, path=tmp_path / "i", embedder="words:one")
    assert (index.embedder, index.embedder_fingerprint, index.dimension) == (
        "words:one",
        "words-one",
        DIMENSION,
    )
    for passage, vector in zip(
        PASSAGES, word_embedder([searched_text(each) for each in PASSAGES]), strict=True
    ):
        assert index.search(vector=vector, k=1)[0].id == passage.id


def test_documents_are_cut_and_embedded_with_progress(word_embedder: Embed) -> None:
    seen: list[tuple[int, int]] = []
    documents = [Document(f"d{n}", f"Word{n} here. And there.") for n in range(150)]
    index = Index.build(
        documents,
        embedder="words:one",
        chunking=Chunking(target_words=2, max_words=2, overlap_words=0),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(index) == 300
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (300, 300)


def test_an_index_is_built_inside_a_running_loop(word_embedder: Embed) -> None:
    async def main() -> int:
        return len(Index.build(PASSAGES, embedder="words:one"))

    assert asyncio.run(main()) == 4


def test_new_passages_are_embedded_by_the_same_embedder(word_embedder: Embed, tmp_path: Path) -> None:
    Index.build(PASSAGES, path=tmp_path / "i", embedder="words:one")
    index = Index.open(tmp_path / "i")
    index.add([Passage("fly", "flies buzz"), Document("ant", "Ants march.")])
    assert ids(index.search(vector=word_embedder(["flies buzz"])[0], k=1)) == ["fly"]
    index._facts = type(index._facts)(embedder="words:two", fingerprint="words-one", bm25=index._facts.bm25)
    with pytest.raises(InputError, match="makes other vectors now"):
        index.add([Passage("bee", "bees hum")])
    assert len(index) == 6


def test_an_overloaded_embedder_is_asked_again(word_embedder: Embed) -> None:
    assert len(embed_texts(["a"], "words:one?fail=2").vectors) == 1
    with pytest.raises(EngineError, match="busy"):
        embed_texts(["a"], "words:one?fail=3")


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        ("words:one?fault=short", EngineError, "1 vectors for 2 texts"),
        ("words:one?fault=nan", EngineError, "not finite"),
        ("words:mute", InputError, "words:mute cannot embed"),
        ("wrods:one", InputError, "unknown engine 'wrods'"),
    ],
)
def test_a_bad_embedder_is_refused(
    word_embedder: Embed, address: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        embed_texts(["a", "b"], address)


def test_no_texts_make_no_vectors(word_embedder: Embed) -> None:
    assert embed_texts([], "words:one").vectors.shape == (0, DIMENSION)


# ---- changes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.add([PASSAGES[0]], vectors=np.ones((1, 16))), "use update\\(\\) to replace it"),
        (lambda index: index.add([Passage("new", "x")]), "pass vectors= for new passages too"),
        (
            lambda index: index.add([Passage("new", "x")], vectors=[[1.0]]),
            "have 1 numbers each, the index 16",
        ),
        (lambda index: index.update([Passage("dgo", "x")], vectors=np.ones((1, 16))), "did you mean 'dog'"),
        (lambda index: index.delete(["cat", "dgo"]), "no passage 'dgo' in the index"),
        (lambda index: index.delete("cat"), "takes a list of ids"),
        (lambda index: index.save(), "only in memory; say where"),
    ],
)
def test_a_change_that_cannot_be_changes_nothing(change: Any, said: str) -> None:
    index = build()
    with pytest.raises(InputError, match=said):
        change(index)
    assert list(index) == PASSAGES


def test_an_emptied_index_can_be_saved_and_filled_again(tmp_path: Path) -> None:
    index = build(path=tmp_path / "i")
    index.delete(ids(PASSAGES))
    index.save()
    again = Index.open(tmp_path / "i")
    assert (len(again), again.search(vector=np.ones(16), text="cat")) == (0, [])
    again.add(PASSAGES[:1], vectors=vectors_of(PASSAGES[:1]))
    assert ids(again.search(text="cat")) == ["cat"]


def test_info_tells_what_is_there(tmp_path: Path) -> None:
    index = build()
    assert index.info().created is None
    index.save(tmp_path / "i")
    info = Index.open(tmp_path / "i").info()
    assert (info.passages, info.dimension, info.fingerprint, info.metadata) == (4, 16, "words-one", ("legs",))
    assert info.path == str(tmp_path / "i")
    assert info.size_bytes is not None
    assert info.size_bytes > 4 * 16 * 4


names = st.sampled_from("abcdefgh")
contents = st.lists(st.sampled_from(["cat", "dog", "hen", "eel"]), min_size=1, max_size=4).map(" ".join)


class ChangedIndex(RuleBasedStateMachine):
    """However it came about, an index finds what a fresh one of the same passages finds."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "i"
        self.passages = {"z": Passage("z", "cat dog")}
        self.index = self.fresh()

    def fresh(self) -> Index:
        passages = list(self.passages.values())
        return Index.build(passages, vectors=vectors_of(passages))

    @rule(name=names, text=contents, kind=st.sampled_from([2, 3]))
    def put(self, name: str, text: str, kind: int) -> None:
        passage = Passage(name, text, meta={"kind": kind})
        act = self.index.update if name in self.passages else self.index.add
        act([passage], vectors=vectors_of([passage]))
        self.passages.pop(name, None)
        self.passages[name] = passage

    @rule(name=names)
    def delete(self, name: str) -> None:
        if name in self.passages:
            self.index.delete([name])
            del self.passages[name]

    @rule()
    def save_and_open(self) -> None:
        self.index.save(self.path)
        self.index = Index.open(self.path)

    @invariant()
    def finds_what_a_fresh_index_finds(self) -> None:
        if not hasattr(self, "index"):
            return
        fresh = self.fresh()
        assert list(self.index) == list(fresh)
        vector = embed_words(["cat hen"])[0]
        for query in ({"vector": vector}, {"text": "cat hen"}, {"vector": vector, "text": "dog"}):
            found = self.index.search(**query, k=5)
            expected = fresh.search(**query, k=5)
            assert ids(found) == ids(expected)
            assert [one.score for one in found] == [one.score for one in expected]
        if any(passage.meta for passage in self.passages.values()):
            where = {"kind": [2]}
            assert ids(self.index.search(text="cat", where=where)) == ids(
                fresh.search(text="cat", where=where)
            )

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestChangedIndex = pytest.mark.slow(ChangedIndex.TestCase)
TestChangedIndex.settings = settings(
    max_examples=max(20, settings().max_examples // 10), stateful_step_count=20
)
