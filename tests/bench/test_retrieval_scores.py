"""Scores of a ranking: small cases by hand, and their order for any ranking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.bench.retrieval_scores import complete, hit, ndcg, recall, reciprocal_rank

IDS = st.sampled_from("abcdefgh")
RANKINGS = st.lists(IDS, unique=True, max_size=8)
GOLD = st.frozensets(IDS, min_size=1, max_size=4)


def test_with_one_right_id_hit_complete_and_recall_agree() -> None:
    found = ["b", "a", "c"]
    for k, right in ((1, False), (2, True), (3, True)):
        assert hit(found, ["a"], k) is complete(found, ["a"], k) is right
        assert recall(found, ["a"], k) == float(right)


def test_several_right_ids_are_complete_only_together() -> None:
    found = ["b", "a", "c"]
    assert hit(found, ["a", "c"], 2)
    assert not complete(found, ["a", "c"], 2)
    assert complete(found, ["a", "c"], 3)


def test_the_first_right_id_gives_the_reciprocal_rank() -> None:
    assert reciprocal_rank(["x", "a", "c"], ["c", "a"], 10) == 0.5
    assert reciprocal_rank(["x", "a", "c"], ["c"], 2) == 0.0


def test_ndcg_is_one_for_a_perfect_ranking_and_falls_with_rank() -> None:
    assert ndcg(["a", "c", "x"], ["c", "a"], 10) == pytest.approx(1.0)
    assert ndcg(["a", "x", "c"], ["c", "a"], 10) == pytest.approx((1 + 0.5) / (1 + 0.6309297535714575))


def test_an_id_found_twice_gains_once() -> None:
    assert ndcg(["a", "a"], ["a", "b"], 2) < 1.0


def test_where_nothing_is_to_be_found_every_score_is_nothing() -> None:
    scores = (hit(["a"], [], 1), complete(["a"], [], 1), recall(["a"], [], 1), ndcg(["a"], [], 1))
    assert not any(scores)


@given(RANKINGS, GOLD, st.integers(1, 9))
def test_scores_are_shares_in_order(found: list[str], gold: frozenset[str], k: int) -> None:
    assert complete(found, gold, k) <= recall(found, gold, k) <= hit(found, gold, k)
    assert 0.0 <= ndcg(found, gold, k) <= 1.0 + 1e-12
    assert 0.0 <= reciprocal_rank(found, gold, k) <= float(hit(found, gold, k))


@given(RANKINGS, GOLD, st.integers(1, 8))
def test_looking_further_down_never_finds_less(found: list[str], gold: frozenset[str], k: int) -> None:
    assert hit(found, gold, k) <= hit(found, gold, k + 1)
    assert recall(found, gold, k) <= recall(found, gold, k + 1)
    assert reciprocal_rank(found, gold, k) <= reciprocal_rank(found, gold, k + 1)
