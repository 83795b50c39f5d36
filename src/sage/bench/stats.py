"""How sure a figure is: the one home of intervals, and of measures over several nodes, tenants or runs.

Shares by Wilson. Means and differences over items by bootstrap: percentile intervals over resampled items (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13), with a fixed seed, so that the same sample
always gives the same interval. Percentiles by order statistics, which asks nothing of the distribution (Conover,
"Practical Nonparametric Statistics", 1999, section 3.2). Means over runs by Student's t, their differences by Welch
(Biometrika, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
import numpy as np

from sage.runtime.figures import Share, wilson

__all__ = [
    "LEAST_RUNS",
    "Balance",
    "Mean",
    "Share",
    "Spread",
    "balance_of",
    "mean_of",
    "order_interval",
    "paired_difference",
    "share_by_work",
    "spread_of",
    "welch",
    "wilson",
]

RESAMPLES = 2_000
LEAST_ITEMS = 10  # below this a bootstrap says nothing
LEAST_RUNS = 3  # below this an interval over runs says nothing
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


# --- percentiles ---------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def order_interval(n: int, share: float) -> tuple[int, int] | None:
    """Between which of ``n`` values in order, counted from 0, a percentile lies with 95 % certainty.

    None where the sample is too small: then no value of it is surely beyond the percentile.

    >>> order_interval(368, 0.99), order_interval(367, 0.99)
    ((359, 367), None)
    """
    if n < 1:
        return None
    seen = np.arange(1, n + 1)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log((n - seen + 1) / seen))])
    counts = np.arange(n + 1)
    below = np.cumsum(np.exp(log_choices + counts * math.log(share) + (n - counts) * math.log1p(-share)))
    low = int(np.searchsorted(below, 0.025, side="right")) - 1  # the last value that is surely not above
    high = int(np.searchsorted(below, 0.975, side="left"))
    return (low, high) if low >= 0 and high < n else None


# --- over runs -----------------------------------------------------------------------------------------


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over runs that differ by their seed: mean, and half of its 95 % t-interval where there are 3."""

    n: int
    mean: float | None = None
    half: float | None = None


#: 97.5 % points of Student's t by degrees of freedom; beyond the last, that of the normal distribution is near.
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def spread_of(values: Sequence[float | None]) -> Spread:
    """A figure over runs. Of one that some run could not give, there is no mean.

    >>> spread_of([1.0, 2.0, 3.0])
    Spread(n=3, mean=2.0, half=2.4843...)
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return Spread(n=len(known))
    mean = math.fsum(known) / len(known)
    if len(known) < LEAST_RUNS:
        return Spread(n=len(known), mean=mean)
    half = _t975(len(known) - 1) * math.sqrt(_variance(known) / len(known))
    return Spread(n=len(known), mean=mean, half=half)


def welch(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """How much higher our runs are than theirs on average, with its 95 % interval where both have 3 runs.

    >>> welch([3.0, 3.1, 2.9], [1.0, 1.1, 0.9])
    Mean(n=3, mean=2.0, low=1.7733..., high=2.2266...)
    """
    n = min(len(ours), len(theirs))
    if n == 0:
        return Mean(n=0)
    mean = math.fsum(ours) / len(ours) - math.fsum(theirs) / len(theirs)
    if n < LEAST_RUNS:
        return Mean(n=n, mean=mean)
    own, other = _variance(ours) / len(ours), _variance(theirs) / len(theirs)
    if own + other == 0:
        return Mean(n=n, mean=mean, low=mean, high=mean)
    freedom = (own + other) ** 2 / (own**2 / (len(ours) - 1) + other**2 / (len(theirs) - 1))
    half = _t975(int(freedom + 1e-9)) * math.sqrt(
        own + other
    )  # rounded down: rather too wide than too narrow
    return Mean(n=n, mean=mean, low=mean - half, high=mean + half)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _t975(freedom: int) -> float:
    return _T975[min(max(freedom, 1), len(_T975)) - 1]


# --- over nodes and classes ----------------------------------------------------------------------------


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """How evenly work was spread over nodes, or service over tenants; None where there is nothing to tell."""

    n: int  # nodes, those without work too
    idle: int
    balance: float | None = None  # 1 - standard deviation / mean, at least 0; 1: all alike
    jain: float | None = None  # Jain's index, from 1/n to 1
    max_over_mean: float | None = None


def balance_of(work: Sequence[float]) -> Balance:
    """How even some work is over **all** configured nodes; idle ones stand there as 0.

    >>> balance_of([10.0, 0.0, 0.0, 0.0])
    Balance(n=4, idle=3, balance=0.0, jain=0.25, max_over_mean=4.0)
    >>> balance_of([10.0]).balance is None
    True
    """
    n, most = len(work), max(work, default=0.0)
    idle = sum(one == 0 for one in work)
    if n < 2 or most <= 0:
        return Balance(n=n, idle=idle)
    parts = [one / most for one in work]  # squares of the smallest floats would vanish
    mean = math.fsum(parts) / n
    deviation = math.sqrt(math.fsum((part - mean) ** 2 for part in parts) / n)
    return Balance(
        n=n,
        idle=idle,
        balance=max(0.0, 1 - deviation / mean),
        jain=(n * mean) ** 2 / (n * math.fsum(part * part for part in parts)),
        max_over_mean=1 / mean,
    )


def share_by_work(items: Iterable[tuple[str, float | None, bool | None]]) -> float | None:
    """The share of good work: each item weighs what it takes.

    Args:
        items: (class, work, whether it was good). Work None: not known, as of a request that failed; it counts as
            the mean of the known ones of its class, and where there are none, of all. Good None: not judged.

    >>> share_by_work([("a", 30.0, True), ("a", 10.0, False), ("a", None, False)])
    0.5
    """
    rows = list(items)
    known: dict[str, list[float]] = {}
    for name, work, _ in rows:
        if work is not None:
            known.setdefault(name, []).append(work)
    if not known:
        return None
    of_all = math.fsum(map(math.fsum, known.values())) / sum(map(len, known.values()))
    mean = {name: math.fsum(own) / len(own) for name, own in known.items()}
    good = total = 0.0
    for name, work, is_good in rows:
        if is_good is not None:
            weight = mean.get(name, of_all) if work is None else work
            total += weight
            good += weight if is_good else 0.0
    return good / total if total else None
