"""Filters on metadata."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.index.filters import matching_rows, read_columns, refuse_bad_where

METAS: list[dict[str, Any]] = [
    {"lang": "en", "year": 2001},
    {"lang": "de", "year": 2010, "tags": ["a", "b"]},
    {"lang": None, "year": "2001"},
    {"year": True, "tags": []},
    {},
]


def matches(where: dict[str, Any], metas: list[dict[str, Any]] = METAS) -> list[int]:
    columns = read_columns([msgspec.json.encode({"id": "x", "meta": meta}) for meta in metas], len(metas))
    refuse_bad_where(where, columns)
    return [row for row, met in enumerate(matching_rows(where, columns, len(metas)).tolist()) if met]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({"lang": "en"}, [0]),
        ({"lang": None}, [2]),
        ({"lang": ["en", "de", "fr"]}, [0, 1]),
        ({"lang": {"ne": "en"}}, [1, 2]),
        ({"lang": {"in": ("en",)}}, [0]),
        ({"lang": []}, []),
        ({"year": 2001}, [0]),
        ({"year": 2001.0}, [0]),
        ({"year": 1}, []),
        ({"year": True}, [3]),
        ({"year": {"gte": 2001, "lt": 2010}}, [0]),
        ({"year": {"gt": 2001, "lte": 2010}}, [1]),
        ({"year": {"gte": "2"}}, [2]),
        ({"tags": "b"}, [1]),
        ({"tags": {"eq": ["a", "b"]}}, [1]),
        ({"tags": {"ne": "c"}}, [1, 3]),
        ({"lang": "de", "year": {"gt": 2000}}, [1]),
        ({"lang": "en", "tags": "a"}, []),
    ],
)
def test_a_condition_chooses_rows(where: dict[str, Any], rows: list[int]) -> None:
    assert matches(where) == rows


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"lnag": "en"}, "no passage has the metadata key 'lnag': did you mean 'lang'?"),
        ({"year": {"gtt": 1}}, "unknown operator 'gtt' for 'year': did you mean 'gt'?"),
        ({"year": {}}, "the condition on 'year' is empty"),
        ({"year": {"in": 5}}, "'in' for 'year' takes a list of values, got 5"),
        ({"year": {"gt": [1]}}, r"'gt' for 'year' takes a number or a string, got \[1\]"),
    ],
)
def test_a_bad_condition_is_refused(where: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        matches(where)


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(0, 9), st.integers(0, 9))
def test_comparisons_are_those_of_numbers(years: list[int], low: int, high: int) -> None:
    metas = [{"year": year} for year in years]
    expected = [row for row, year in enumerate(years) if low <= year < high]
    assert matches({"year": {"gte": low, "lt": high}}, metas) == expected
