"""Intervals: the one home of how sure a figure is. Shares by Wilson, means and differences by bootstrap.

Bootstrap: percentile intervals over resampled items (Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13), with a fixed seed, so that the same sample always gives the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from sage.runtime.figures import Share, wilson

__all__ = ["Mean", "Share", "mean_of", "paired_difference", "wilson"]

RESAMPLES = 2_000
LEAST_ITEMS = 10  # below this a bootstrap says nothing
_SEED = 0


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over items with its 95 % interval; the interval is None where ``n`` is too small for one."""

    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of a score over all items.

    >>> mean_of([1.0, 0.0, 1.0])
    Mean(n=3, mean=0.6666666666666666, low=None, high=None)
    """
    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        return Mean(n=0)
    mean = float(sample.mean())
    if len(sample) < LEAST_ITEMS:
        return Mean(n=len(sample), mean=mean)
    rng = np.random.default_rng(_SEED)
    means = np.array([sample[rng.integers(len(sample), size=len(sample))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, (0.025, 0.975))
    return Mean(n=len(sample), mean=mean, low=float(low), high=float(high))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """How much higher one way scores than another on the same items, in the same order.

    Items are resampled together with both their scores, so what makes an item hard for both does not blur
    the comparison. The difference is real if the interval leaves out 0.
    """
    return mean_of([one - other for one, other in zip(ours, theirs, strict=True)])
