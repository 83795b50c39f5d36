"""Exact search by cosine, and the choice of the best rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from sage.errors import InputError
from sage.index.topk import Hits, best_rows, merge_hits
from sage.index.vectors import nearest_rows, unit_rows

few_scores = st.sampled_from([0.0, -0.5, 0.25, 1.0, float("-inf")])
scores = st.one_of(
    st.lists(few_scores, min_size=1, max_size=400),
    st.integers(1, 3000).map(lambda size: np.random.default_rng(size).integers(0, 50, size).tolist()),
).map(lambda values: np.array(values, dtype=np.float32))


def sorted_rows(scores: NDArray[np.float32], k: int) -> list[int]:
    """The definition: sort all."""
    return sorted((r for r in range(len(scores)) if scores[r] > -np.inf), key=lambda r: (-scores[r], r))[:k]


def table(seed: int, rows: int, dimension: int = 8) -> NDArray[np.float32]:
    return unit_rows(np.random.default_rng(seed).standard_normal((rows, dimension)))


@given(scores, st.integers(1, 40))
def test_the_best_rows_are_those_of_a_full_sort(values: NDArray[np.float32], k: int) -> None:
    hits = best_rows(values, k)
    assert hits.rows.tolist() == sorted_rows(values, k)
    assert hits.scores.tolist() == values[hits.rows].tolist()


@given(scores, st.integers(1, 40), st.integers(1, 5))
def test_parts_merge_to_the_whole(values: NDArray[np.float32], k: int, num_parts: int) -> None:
    split = np.array_split(np.arange(len(values)), num_parts)
    parts = [
        Hits(rows[best_rows(values[rows], k).rows], best_rows(values[rows], k).scores)
        for rows in split
        if len(rows)
    ]
    assert merge_hits(parts, k).rows.tolist() == sorted_rows(values, k)


@given(st.integers(0, 99), st.integers(1, 600), st.integers(1, 20), st.floats(0, 1))
def test_the_nearest_rows_are_those_of_brute_force(seed: int, rows: int, k: int, share: float) -> None:
    matrix, queries = table(seed, rows), table(seed + 1, 3)
    allowed = np.random.default_rng(seed).random(rows) < share
    for query, hits in zip(queries, nearest_rows(matrix, queries, k, allowed), strict=True):
        exact = (matrix * query.astype(np.float64)).sum(axis=1).astype(np.float32)
        exact[~allowed] = -np.inf
        assert hits.rows.tolist() == sorted_rows(exact, k)


def test_equal_vectors_tie_and_keep_their_order() -> None:
    matrix = np.repeat(table(1, 1, 384), 5000, axis=0)
    (hits,) = nearest_rows(matrix, table(2, 1, 384), 7)
    assert hits.rows.tolist() == list(range(7))
    assert len(set(hits.scores.tolist())) == 1


def test_a_query_finds_the_same_alone_as_in_company() -> None:
    matrix, queries = table(3, 2000, 384), table(4, 33, 384)
    together = nearest_rows(matrix, queries, 10)
    alone = [nearest_rows(matrix, query[np.newaxis], 10)[0] for query in queries]
    for one, other in zip(together, alone, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.scores.tolist() == other.scores.tolist()


def test_nothing_allowed_finds_nothing() -> None:
    (hits,) = nearest_rows(table(5, 9), table(6, 1), 3, np.zeros(9, dtype=np.bool_))
    assert len(hits.rows) == 0


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-9, 9, width=32)
    )
)
def test_rows_become_unit_length(rows: NDArray[np.float32]) -> None:
    lengths = np.linalg.norm(unit_rows(rows).astype(np.float64), axis=1)
    zero = ~rows.any(axis=1)
    assert np.allclose(lengths[~zero], 1, atol=1e-5)
    assert not lengths[zero].any()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([[1.0, float("nan")]], "row 0 holds a number that is not finite"),
        ([1.0, 2.0], r"got \(2,\)"),
        ([[1.0], [1.0, 2.0]], "expected rows of numbers"),
        ([["a"]], "expected rows of numbers"),
        ([[]], r"got \(1, 0\)"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(bad: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        unit_rows(bad)
