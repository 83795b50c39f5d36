"""Event times and durations: read in the forms users write them, kept as whole microseconds, written back alike."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sage.errors import InputError

__all__ = ["MICRO", "duration_us", "instant_us", "seconds", "shown_instant"]

MICRO = 1_000_000

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d+)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def duration_us(said: str | float, what: str) -> int:
    """A length of time in microseconds: seconds as a number, or text with a unit.

    >>> duration_us("5m", "window"), duration_us(0.5, "wait")
    (300000000, 500000)

    Raises:
        InputError: it is neither, or negative.
    """
    if isinstance(said, str):
        match = _DURATION.fullmatch(said.strip())
        if match is None:
            raise InputError(f"{what} is {said!r}, expected a duration such as 30s, 5m, 1.5h, 2d, 200ms")
        return round(float(match[1]) * _UNITS_S[match[2]] * MICRO)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < float("inf"):  # type: ignore[redundant-expr]  # a caller may not check types
        raise InputError(f"{what} is {said!r}, expected seconds from 0 up, or text such as '5m'")
    return round(said * MICRO)


def instant_us(said: Any) -> int:
    """An event time in microseconds since 1970: seconds as a number, ISO 8601 text (UTC if it names no zone), or a datetime.

    >>> instant_us(1.5), instant_us("1970-01-01T00:00:02Z")
    (1500000, 2000000)

    Raises:
        InputError: it is no time.
    """
    if type(said) is int:
        return said * MICRO
    if type(said) is float and -1e15 < said < 1e15:
        return round(said * MICRO)
    try:
        moment = datetime.fromisoformat(said) if isinstance(said, str) else said
        if isinstance(moment, datetime):
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            return (moment - _EPOCH) // _TICK
    except (ValueError, OverflowError):
        pass
    if isinstance(said, str) and _NUMBER.fullmatch(said):  # seconds in a CSV file
        return round(float(said) * MICRO)
    raise InputError(
        f"{said!r:.60} is no time; expected seconds since 1970, or text such as 2026-11-26T18:00:00Z"
    )


def seconds(micros: int) -> float | int:
    """Microseconds as seconds, whole ones as an int."""
    return micros // MICRO if micros % MICRO == 0 else micros / MICRO


def shown_instant(micros: int, like: Any) -> Any:
    """An instant in the form of another: ISO 8601 for such text, a datetime for a datetime, else a number of seconds."""
    if isinstance(like, datetime) or (isinstance(like, str) and not _is_seconds(like)):
        try:
            moment = _EPOCH + micros * _TICK
        except OverflowError:  # past the year 9999, which has no other form
            return seconds(micros)
        return moment.isoformat() if isinstance(like, str) else moment
    return seconds(micros)


def _is_seconds(text: str) -> bool:
    """Whether text is read as seconds, and not as a date of digits only."""
    if not _NUMBER.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return True
    return False
