"""Tools are found by words, by meaning and by both, clause by clause."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.index.bm25 import BM25, build_postings, rank_words
from sage.index.linear import fit_linear
from sage.index.tool_index import ToolDocument, ToolIndex, Weights
from sage.index.tool_words import clauses, content_words, spoken

WORDS = st.sampled_from(["weather", "hotel", "book", "city", "translating", "the", "rooms", "Tokyo"])
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
DOCUMENTS = st.lists(TEXTS, min_size=1, max_size=6).map(
    lambda texts: [ToolDocument(f"tool{number}", text) for number, text in enumerate(texts)]
)


@given(documents=DOCUMENTS, query=TEXTS)
def test_scores_by_words_are_those_of_bm25(documents: list[ToolDocument], query: str) -> None:
    postings = build_postings(document.words for document in documents)
    wanted = rank_words(content_words(query), [(postings, np.ones(len(documents), dtype=bool))], BM25())[0]
    _, words = ToolIndex(documents).parts([query], None)
    np.testing.assert_allclose(words[0], wanted, rtol=1e-5, atol=1e-6)


@given(documents=DOCUMENTS, query=TEXTS, k=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_ranking_holds_the_best_in_order(
    documents: list[ToolDocument], query: str, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    index = ToolIndex(documents).with_views(rng.normal(size=(2 * len(documents), 8)))
    row = rng.normal(size=(1, 8)).astype(np.float32)
    found = index.rank([query], row, k=k)
    meaning, words = index.parts([query], row)
    scores = (meaning + 0.02 * words)[0]
    assert found.scores == sorted(found.scores, reverse=True)
    np.testing.assert_allclose(found.scores, np.sort(scores)[::-1][:k], rtol=1e-5, atol=1e-6)
    assert len(found.names) == min(k, len(documents))


@given(documents=DOCUMENTS, query=TEXTS)
def test_choosing_among_some_scores_them_as_among_all(documents: list[ToolDocument], query: str) -> None:
    index = ToolIndex(documents)
    some = [document.name for document in documents[::2]]
    whole = dict(zip(*index.rank([query], None, k=len(documents)), strict=True))
    part = index.rank([query], None, k=len(documents), among=some)
    assert set(part.names) == set(some)
    assert all(whole[name] == score for name, score in zip(*part, strict=True))
    assert index.rank([query], None, k=3, among=[]).names == []


def test_a_tool_counts_as_much_as_the_clause_it_fits_best() -> None:
    index = ToolIndex([ToolDocument("getWeather", "the weather"), ToolDocument("bookHotel", "a hotel room")])
    asked = clauses("Tell me about the weather tomorrow. Then book a hotel room there.")
    assert len(asked) == 3
    assert set(index.rank(asked, None, k=2, weights=Weights(words=1.0)).names) == {"getWeather", "bookHotel"}


@given(
    documents=DOCUMENTS,
    asked=st.lists(TEXTS, min_size=1, max_size=4),
    k=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_where_clauses_take_turns_each_gets_a_tool_before_one_gets_two(
    documents: list[ToolDocument], asked: list[str], k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    index = ToolIndex(documents).with_views(rng.normal(size=(2 * len(documents), 8)))
    rows = rng.normal(size=(len(asked), 8)).astype(np.float32)
    found = index.rank(asked, rows, k=k, turns=True)
    ranked = [
        index.rank([clause], row, k=len(documents)).names for clause, row in zip(asked, rows, strict=True)
    ]
    naive = [
        name
        for named in zip(*ranked, strict=True)
        for name in sorted(set(named), key=lambda name: -score_of(index, asked, rows, named, name))
    ]
    assert found.names == list(dict.fromkeys(naive))[:k]
    assert found.names[:1] == index.rank(asked, rows, k=1).names
    assert found.scores[:1] == index.rank(asked, rows, k=1).scores


def score_of(index: ToolIndex, asked: list[str], rows: Any, named: tuple[str, ...], name: str) -> float:
    """Of a tool, by the best of the clauses that named it in this turn."""
    by = [at for at, one in enumerate(named) if one == name]
    return max(index.rank([asked[at]], rows[at], k=1, among=[name]).scores[0] for at in by)


def test_names_must_differ_and_be_known() -> None:
    with pytest.raises(InputError, match="described twice"):
        ToolIndex([ToolDocument("a"), ToolDocument("a")])
    with pytest.raises(InputError, match="unknown tool 'b'"):
        ToolIndex([ToolDocument("a")]).rank(["x"], None, k=1, among=["b"])
    with pytest.raises(InputError, match="2 vectors for 1 tools"):
        ToolIndex([ToolDocument("a")], np.eye(2))


def test_examples_of_unknown_tools_are_passed_over() -> None:
    index = ToolIndex([ToolDocument("a"), ToolDocument("b")], np.eye(2))
    rows = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert index.vectors is not None
    moved = index.with_examples(["b", "nobody"], rows, 1.0)
    assert moved.vectors is not None
    np.testing.assert_allclose(moved.vectors, [[1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)


@given(name=st.text())
def test_any_name_can_be_spoken(name: str) -> None:
    assert spoken(name) == spoken(name).lower()


@given(request=st.text())
def test_the_clauses_of_a_request_begin_with_the_whole(request: str) -> None:
    whole, *parts = clauses(request)
    assert whole == request
    assert all(len(part.split()) >= 3 for part in parts)
    assert len(parts) != 1


@given(seed=st.integers(0, 20), classes=st.integers(1, 3))
def test_a_classifier_gives_probabilities_and_is_the_same_each_time(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(12, 3))
    labels = [str(number % classes) for number in range(12)]
    model = fit_linear(table, labels)
    likely = model.probabilities(table[0].tolist())
    assert sum(likely.values()) == pytest.approx(1.0)
    assert fit_linear(table, labels) == model


def test_a_classifier_separates_what_can_be_separated() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(60, 4))
    labels = ["call" if row[0] > 0 else "answer" for row in table]
    model = fit_linear(table, labels, penalty=0.001)
    right = [
        max(model.probabilities(row), key=model.probabilities(row).__getitem__) for row in table.tolist()
    ]
    assert sum(a == b for a, b in zip(right, labels, strict=True)) >= 57


@pytest.mark.parametrize("labels", [[], ["a"]])
def test_a_classifier_needs_a_label_an_item(labels: Any) -> None:
    with pytest.raises(InputError, match="a label an item"):
        fit_linear(np.zeros((2, 1)), labels)
    with pytest.raises(InputError, match="fitted on 1 features, got 2"):
        fit_linear(np.zeros((2, 1)), ["a", "b"]).probabilities([1, 2])
