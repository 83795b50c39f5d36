"""Intervals hold the figure they are about, and say nothing where the sample is too small."""

from __future__ import annotations

import random

import pytest

from sage.bench.stats import Mean, mean_of, paired_difference


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
