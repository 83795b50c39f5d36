"""A knee is found where one is seen, and nowhere else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.bench.sweetspot import Point, find_sweet_spot

LOADS = (1, 2, 4, 6, 8, 12, 16, 24, 32)


def saturating(knee: float, *, tail: float = 0.0, noise: float = 0.0, seed: int = 0) -> list[Point]:
    rng = random.Random(seed)
    return [
        Point(load, (min(load, knee) + tail * max(0.0, load - knee)) * (1 + noise * rng.uniform(-1, 1)))
        for load in LOADS
    ]


@given(st.floats(2, 24), st.floats(0, 0.15))
def test_a_knee_is_found_where_it_is(knee: float, tail: float) -> None:
    found = find_sweet_spot(saturating(knee, tail=tail))
    if found.of_peak is not None and found.of_peak < 0.85:
        assert "of the best" in found.why
        return
    assert found.low == pytest.approx(knee, rel=0.05, abs=0.1)
    assert found.high == 32


def test_noise_moves_a_knee_little() -> None:
    for seed in range(20):
        found = find_sweet_spot(saturating(8, noise=0.03, seed=seed))
        assert found.low == pytest.approx(8, rel=0.25), seed


@given(st.floats(0.1, 100), st.floats(0, 10))
def test_a_straight_line_has_no_knee(slope: float, start: float) -> None:
    found = find_sweet_spot([Point(load, start + slope * load) for load in LOADS])
    assert (found.low, found.high) == (None, None)
    assert "still rises" in found.why


@pytest.mark.parametrize(
    ("rates", "why"),
    [
        ([3.0] * 9, "does not rise"),
        ([9.0, 8, 7, 6, 5, 4, 3, 2, 1], "does not rise"),
        ([0.0] * 9, "no throughput"),
        ([1.0, 9, 2, 8, 3, 9, 1, 9, 2], "hardly better"),
    ],
)
def test_a_curve_without_a_knee_says_why(rates: list[float], why: str) -> None:
    found = find_sweet_spot([Point(load, rate) for load, rate in zip(LOADS, rates, strict=True)])
    assert found.low is None
    assert why in found.why


def test_few_points_shade_nothing() -> None:
    assert "expected at least 5" in find_sweet_spot(saturating(4)[:4]).why
    assert "expected at least 5" in find_sweet_spot([Point(1, 1.0)] * 9).why
    assert find_sweet_spot([]).low is None


def test_the_region_ends_where_the_objective_is_missed() -> None:
    points = [Point(point.load, point.throughput, point.load <= 16) for point in saturating(8)]
    assert find_sweet_spot(points).high == 16
    missed = [Point(point.load, point.throughput, point.load <= 4) for point in saturating(8)]
    assert "meets the objective" in find_sweet_spot(missed).why
