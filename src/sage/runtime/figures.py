"""A sample in figures: mean, percentiles where the sample carries them, shares with their interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

__all__ = ["LEAST", "Share", "Stat", "percentile", "stat_of", "wilson"]

#: Least sample of a percentile: below it the 95 % interval between order statistics is not finite or too wide.
LEAST: Mapping[str, tuple[float, int]] = {
    "p50": (0.50, 1),
    "p90": (0.90, 36),
    "p95": (0.95, 72),
    "p99": (0.99, 368),
    "p999": (0.999, 3688),
}

_Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


class Stat(msgspec.Struct, frozen=True, kw_only=True):
    """A sample in figures; ``why`` says of a figure that is None why it is.

    Percentiles are linear between order statistics (type 7 of Hyndman and Fan, The American Statistician,
    1996: numpy's default). ``std`` is of the sample (n - 1).
    """

    n: int
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    why: Mapping[str, str] = {}


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Good ones among all, with Wilson's 95 % interval (JASA, 1927)."""

    good: int
    n: int
    share: float | None = None
    low: float | None = None
    high: float | None = None


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of an ordered, non-empty sample lies.

    >>> percentile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    one, other, part = ordered[low], ordered[high], at - low
    if one == other or part == 0.0:
        return one
    if math.isinf(other):
        return math.inf
    return other - (other - one) * (1 - part) if part >= 0.5 else one + (other - one) * part


def stat_of(sample: Iterable[float], *, endless: int = 0) -> Stat:
    """A sample in figures. ``endless`` more count as longer than any: no mean, and None where they decide."""
    ordered = sorted(sample)
    n = len(ordered) + endless
    if n == 0:
        return Stat(n=0, why={"n": "nothing was seen"})
    figures: dict[str, float | None] = {"min": ordered[0] if ordered else None}
    why: dict[str, str] = {}
    if endless:
        why |= dict.fromkeys(("mean", "std", "max"), f"{endless} of {n} did not end well")
    else:
        mean = math.fsum(ordered) / n
        figures |= {"mean": mean, "max": ordered[-1]}
        if n > 1:
            figures["std"] = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / (n - 1))
        else:
            why["std"] = "n too small: 1 of 2"
    whole = [*ordered, *[math.inf] * endless]
    for name, (share, least) in LEAST.items():
        value = percentile(whole, share)
        if n < least:
            why[name] = f"n too small: {n} of {least}"
        elif math.isinf(value):
            why[name] = f"{endless} of {n} did not end well"
        else:
            figures[name] = value
    return Stat(n=n, why=why, **figures)


def wilson(good: int, n: int) -> Share:
    """A share with its 95 % interval."""
    if n == 0:
        return Share(good=0, n=0)
    share, spread = good / n, _Z95**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return Share(good=good, n=n, share=share, low=max(0.0, middle - half), high=min(1.0, middle + half))
