"""Intervals hold the figure they are about, and say nothing where the sample is too small."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.bench.stats import (
    Balance,
    Mean,
    Spread,
    balance_of,
    mean_of,
    order_interval,
    paired_difference,
    share_by_work,
    spread_of,
    welch,
)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    rng = random.Random(3)
    values = [float(rng.random() < 0.3) for _ in range(500)]
    found = mean_of(values)
    assert found.mean is not None
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * (found.mean * (1 - found.mean) / 500) ** 0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.low < found.mean < found.high


def test_the_same_sample_gives_the_same_interval() -> None:
    values = [0.1 * number for number in range(20)]
    assert mean_of(values) == mean_of(list(values))


def test_few_items_have_a_mean_and_no_interval() -> None:
    assert mean_of([1.0] * 9) == Mean(n=9, mean=1.0)
    assert mean_of([]) == Mean(n=0)


def test_a_steady_difference_is_sure_however_much_the_items_differ() -> None:
    theirs = [float(number) for number in range(50)]
    found = paired_difference([value + 1 for value in theirs], theirs)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


# ---- percentiles


@given(st.integers(1, 600), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_has_an_interval_exactly_where_its_sample_carries_it(n: int, share: float) -> None:
    found = order_interval(n, share)
    least = {0.5: 6, 0.9: 36, 0.95: 72, 0.99: 368}[share]
    assert (found is not None) == (n >= least)
    if found is not None:
        assert 0 <= found[0] <= share * (n - 1) <= found[1] < n


def test_percentiles_lie_within_their_interval_as_often_as_it_says() -> None:
    rng = random.Random(11)
    interval = order_interval(200, 0.9)
    assert interval is not None
    hits = 0
    for _ in range(400):
        ordered = sorted(rng.random() for _ in range(200))
        hits += ordered[interval[0]] <= 0.9 <= ordered[interval[1]]
    assert hits / 400 >= 0.93


# ---- over runs


def test_two_runs_give_a_mean_and_no_interval() -> None:
    assert spread_of([1.0, 3.0]) == Spread(n=2, mean=2.0)
    assert spread_of([1.0, None, 3.0]) == Spread(n=2)
    assert welch([1.0, 3.0], [1.0, 3.0, 2.0]) == Mean(n=2, mean=0.0)


def test_runs_that_overlap_do_not_differ_for_sure() -> None:
    unsure = welch([1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    assert unsure.low is not None
    assert unsure.high is not None
    assert unsure.low < -0.5 < 0 < unsure.high


def test_steady_runs_differ_for_sure() -> None:
    assert welch([2.0] * 3, [1.0] * 3) == Mean(n=3, mean=1.0, low=1.0, high=1.0)


# ---- over nodes and classes


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=40))
def test_balance_keeps_within_its_bounds(work: list[float]) -> None:
    found = balance_of(work)
    if found.balance is None or found.jain is None or found.max_over_mean is None:
        assert sum(work) == 0
        return
    assert 0 <= found.balance <= 1
    assert 1 / len(work) - 1e-9 <= found.jain <= 1 + 1e-9
    assert 1 - 1e-9 <= found.max_over_mean <= len(work) + 1e-9


def test_one_busy_node_among_idle_ones_is_no_balance() -> None:
    assert balance_of([5.0, 0.0]).balance == 0.0
    assert balance_of([5.0, 5.0]).balance == 1.0
    assert balance_of([0.0, 0.0]) == Balance(n=2, idle=2)


def test_work_that_is_not_known_weighs_as_its_class_does() -> None:
    rows = [("a", 10.0, True), ("b", 100.0, True), ("b", None, False)]
    assert share_by_work(rows) == pytest.approx(110 / 210)
    assert share_by_work([*rows, ("c", None, False)]) == pytest.approx(110 / 265)
    assert share_by_work([("a", None, True)]) is None
