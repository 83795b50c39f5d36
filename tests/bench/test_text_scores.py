"""Exact match and F1: the published rules, and what must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.bench.text_scores import exact_match, normalize, token_f1

TEXTS = st.text(alphabet="aAbB the,.'! \t", max_size=30)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Broncos", "broncos"),
        ("A  man, a plan.", "man plan"),
        ("theatre", "theatre"),  # an article inside a word stays
        ("U.S.", "us"),
        ("twenty-four", "twentyfour"),
        ("", ""),
    ],
)
def test_case_punctuation_and_articles_do_not_count(text: str, normal: str) -> None:
    assert normalize(text) == normal


def test_the_nearest_of_several_right_answers_counts() -> None:
    assert exact_match("24", ["308", "24"])
    assert token_f1("Kawann Short", ["Jared Allen", "Kawann"]) == pytest.approx(2 / 3)


def test_a_word_counts_as_often_as_it_stands_in_both() -> None:
    assert token_f1("short short", ["short"]) == pytest.approx(2 / 3)


def test_an_empty_answer_is_right_only_where_nothing_is_wanted() -> None:
    assert token_f1("", ["four"]) == 0.0
    assert token_f1("the", [""]) == 1.0
    assert not exact_match("", ["four"])


def test_without_a_right_answer_everything_is_wrong() -> None:
    assert not exact_match("four", [])
    assert token_f1("four", []) == 0.0


@given(TEXTS, TEXTS)
def test_f1_is_a_share_and_one_for_an_exact_match(answer: str, right: str) -> None:
    score = token_f1(answer, [right])
    assert 0.0 <= score <= 1.0
    assert score == token_f1(right, [answer])
    if exact_match(answer, [right]):
        assert score == 1.0


@given(TEXTS)
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)
