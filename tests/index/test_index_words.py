"""Search by words: splitting, BM25, fusing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.index.blob import Blob
from sage.index.bm25 import BM25, Postings, best_matches, build_postings, merge_postings, rank_words
from sage.index.hybrid import fuse
from sage.index.tokens import tokenize

words = st.sampled_from(["the", "a", "cat", "Cat", "dog_house", "DogHouse", "fish", "漢字", "École", "x1"])
texts = st.lists(words, max_size=12).map(" ".join)
corpora = st.lists(texts, min_size=1, max_size=12)
parameters = st.builds(lambda k1, b: BM25(k1=k1, b=b), st.floats(0, 3), st.floats(0, 1))


def bm25_by_hand(query: str, corpus: Sequence[str], bm25: BM25) -> list[float]:
    """The formula, written out."""
    documents = [Counter(tokenize(text)) for text in corpus]
    mean = sum(document.total() for document in documents) / len(documents) or 1.0
    scores = []
    for document in documents:
        score = 0.0
        for word in tokenize(query):
            df = sum(word in other for other in documents)
            tf = document[word]
            if tf:
                norm = bm25.k1 * (1 - bm25.b + bm25.b * document.total() / mean)
                score += math.log(1 + (len(documents) - df + 0.5) / (df + 0.5)) * tf / (tf + norm)
        scores.append(score)
    return scores


def as_lists(postings: Postings) -> dict[bytes, list[tuple[int, int]]]:
    found = {}
    for number, term in enumerate(postings.terms):
        at = slice(int(postings.starts[number]), int(postings.starts[number + 1]))
        found[term] = list(zip(postings.rows[at].tolist(), postings.counts[at].tolist(), strict=True))
    return found


@pytest.mark.slow
@given(texts, corpora, parameters)
def test_scores_are_those_of_the_formula(query: str, corpus: list[str], bm25: BM25) -> None:
    live = np.ones(len(corpus), dtype=np.bool_)
    (scores,) = rank_words(query, [(build_postings(corpus), live)], bm25)
    assert scores.tolist() == pytest.approx(bm25_by_hand(query, corpus, bm25), rel=1e-5, abs=1e-6)


@pytest.mark.slow
@given(texts, corpora, corpora)
def test_deleted_rows_and_parts_make_no_difference(query: str, one: list[str], two: list[str]) -> None:
    live = [np.array([(len(text) + row) % 3 > 0 for row, text in enumerate(part)]) for part in (one, two)]
    parts = [(build_postings(part), alive) for part, alive in zip((one, two), live, strict=True)]
    kept = [
        text
        for part, alive in zip((one, two), live, strict=True)
        for text, here in zip(part, alive, strict=True)
        if here
    ]
    scores = np.concatenate(rank_words(query, parts, BM25()))[np.concatenate(live)]
    if kept:
        assert scores.tolist() == pytest.approx(bm25_by_hand(query, kept, BM25()), rel=1e-5, abs=1e-6)
    merged, fresh = merge_postings(parts), build_postings(kept)
    assert as_lists(merged) == as_lists(fresh)
    assert merged.lengths.tolist() == fresh.lengths.tolist()


def test_a_passage_that_shares_no_word_is_not_found() -> None:
    postings, live = build_postings(["cat", "dog", "cat dog"]), np.ones(3, dtype=np.bool_)
    (scores,) = rank_words("cat", [(postings, live)], BM25())
    assert best_matches(scores, 9, live).rows.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bisect_Left", ["bisect_left", "bisect", "left"]),
        (
            "HTTPServer getURL iPhone",
            ["httpserver", "http", "server", "geturl", "get", "url", "iphone", "i", "phone"],
        ),
        ("os.path _private __init__", ["os", "path", "_private", "private", "__init__", "init"]),
        ("CAFÉ Cafe\u0301 Straße", ["café", "café", "strasse"]),
        ("word2vec 3.11 don't", ["word2vec", "3", "11", "don", "t"]),
        ("検索する x検索", ["検索", "索す", "する", "x", "検索"]),
        ("हिन्दी", ["हिन्दी"]),
        ("¡¿…  —", []),
    ],
)
def test_texts_split_into_words(text: str, expected: list[str]) -> None:
    assert tokenize(text) == expected


@given(st.text())
def test_words_are_the_same_whatever_the_case(text: str) -> None:
    assert all(word == word.casefold() and word for word in tokenize(text))


@given(st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line)))
def test_a_blob_gives_back_its_lines(lines: list[bytes]) -> None:
    blob = Blob.of(lines)
    assert list(blob) == [blob[row] for row in range(len(blob))] == lines
    assert blob.sound


@given(
    st.sets(st.binary(min_size=1, max_size=3).filter(lambda line: b"\n" not in line)), st.binary(max_size=3)
)
def test_a_sorted_blob_finds_its_lines(lines: set[bytes], sought: bytes) -> None:
    ordered = sorted(lines)
    assert Blob.of(ordered).find(sought) == (ordered.index(sought) if sought in lines else None)


@given(
    st.lists(st.permutations(range(6)).map(lambda rows: rows[:4]), min_size=1, max_size=3), st.integers(1, 9)
)
def test_fusing_adds_reciprocal_ranks(rankings: list[list[int]], k: int) -> None:
    total = {
        row: sum(1 / (60 + ranking.index(row) + 1) for ranking in rankings if row in ranking)
        for row in range(6)
    }
    best = sorted((row for row in total if total[row]), key=lambda row: (-total[row], row))[:k]
    assert [row for row, _ in fuse(rankings, k)] == best


def test_fusing_one_ranking_keeps_it() -> None:
    assert [row for row, _ in fuse([[5, 2, 9]], 2)] == [5, 2]


@pytest.mark.parametrize("bad", [{"k1": -1.0}, {"k1": math.inf}, {"b": 1.5}, {"b": math.nan}])
def test_impossible_parameters_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="BM25: "):
        BM25(**bad)
