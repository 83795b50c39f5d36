"""Where more load stops paying: the knee of throughput over concurrency, if there is one. Pure.

Two straight lines that meet, fitted by least squares (after Hudson, "Fitting Segmented Curves Whose Join Points Have
to Be Estimated", Journal of the American Statistical Association, 1966; here the join is searched on a fine grid).
A knee is believed only if it would be believed on sight: the second line is much flatter, the fit much better than
one line, and throughput at the join near the best that was seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

__all__ = ["Point", "SweetSpot", "find_sweet_spot"]

LEAST_POINTS = 5
MOST_TAIL_SLOPE = 0.25  # of the rising slope
LEAST_ERROR_CUT = 0.50  # of the squared error of one line
LEAST_OF_PEAK = 0.85
_NOTHING = 1e-9  # a gain over all loads that is no more than rounding, as a share of the peak
_GRID = 400  # places between the first and the last point


class Point(msgspec.Struct, frozen=True):
    """One load, and what it gave."""

    load: float  # requests at once, or nodes
    throughput: float
    meets_slo: bool = True


class SweetSpot(msgspec.Struct, frozen=True, kw_only=True):
    """The region worth running at; ``low`` and ``high`` are None where there is none, ``why`` says why."""

    low: float | None = None  # the knee
    high: float | None = None  # the largest load tried from there on that meets the objective
    why: str = ""
    rise: float | None = None  # throughput gained per load before the knee
    tail: float | None = None  # and after it
    error_cut: float | None = None  # how much of one line's squared error the second line takes away
    of_peak: float | None = None  # throughput at the knee, of the best that was seen


def find_sweet_spot(points: Sequence[Point]) -> SweetSpot:
    """The knee and how far beyond it the objective holds.

    >>> found = find_sweet_spot([Point(load, min(load, 8.0)) for load in (1, 2, 4, 8, 16, 32)])
    >>> round(found.low, 1), found.high
    (8.0, 32)
    >>> find_sweet_spot([Point(load, load) for load in (1, 2, 4, 8, 16)]).why
    'throughput still rises at the largest load'
    """
    ordered = sorted(points, key=lambda point: point.load)
    loads = np.array([point.load for point in ordered], dtype=np.float64)
    rates = np.array([point.throughput for point in ordered], dtype=np.float64)
    if len(set(loads.tolist())) < LEAST_POINTS:
        return SweetSpot(why=f"{len(set(loads.tolist()))} loads, expected at least {LEAST_POINTS}")
    if not np.isfinite(rates).all() or rates.max() <= 0:
        return SweetSpot(why="a load has no throughput")
    knee, (start, rise, tail), error = _two_lines(loads, rates)
    one_error = _one_line(loads, rates)
    cut = 1.0 if one_error == 0 and error == 0 else 1 - error / one_error if one_error else 0.0
    of_peak = float((start + rise * knee) / rates.max())
    found = SweetSpot(rise=rise, tail=tail, error_cut=cut, of_peak=of_peak)
    rise = rise if rise * (loads[-1] - loads[0]) > _NOTHING * rates.max() else 0.0
    why = _doubt(rise, tail, cut, of_peak, is_straight=one_error <= 1e-12 * float(rates @ rates))
    if why:
        return msgspec.structs.replace(found, why=why)
    good = [point.load for point in ordered if point.load >= knee * (1 - 1e-9) and point.meets_slo]
    if not good:
        return msgspec.structs.replace(
            found, why=f"no load from the knee at {knee:.3g} on meets the objective"
        )
    return msgspec.structs.replace(found, low=knee, high=max(good))


def _doubt(rise: float, tail: float, cut: float, of_peak: float, *, is_straight: bool) -> str:
    if rise <= 0:
        return "throughput does not rise"
    if is_straight or tail > MOST_TAIL_SLOPE * rise:
        return "throughput still rises at the largest load"
    if cut < LEAST_ERROR_CUT:
        return f"two lines fit hardly better than one: {100 * cut:.0f} % less error, expected {100 * LEAST_ERROR_CUT:.0f} %"
    if of_peak < LEAST_OF_PEAK:
        return f"throughput at the knee is {100 * of_peak:.0f} % of the best, expected {100 * LEAST_OF_PEAK:.0f} %"
    return ""


def _two_lines(
    loads: np.ndarray[tuple[int], np.dtype[np.float64]], rates: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[float, tuple[float, float, float], float]:
    """The best join strictly inside the loads; start, first and second slope; squared error."""
    # Two points at least on either side, counting the join: else one line is free to hit one point.
    places = np.union1d(np.linspace(loads[1], loads[-2], _GRID), loads[1:-1])[:, None]
    before, after = np.minimum(loads, places), np.maximum(loads - places, 0)
    columns = np.stack([np.ones_like(before), before, after], axis=2)  # place, load, coefficient
    found = np.linalg.pinv(columns) @ rates
    errors = ((columns @ found[:, :, None] - rates[:, None]) ** 2).sum(axis=(1, 2))
    best = int(np.argmin(errors))
    start, rise, tail = map(float, found[best])
    return float(places[best, 0]), (start, rise, tail), float(errors[best])


def _one_line(
    loads: np.ndarray[tuple[int], np.dtype[np.float64]], rates: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> float:
    columns = np.stack([np.ones_like(loads), loads], axis=1)
    found, *_ = np.linalg.lstsq(columns, rates, rcond=None)
    return float(((columns @ found - rates) ** 2).sum())
