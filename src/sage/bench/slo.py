"""Service-level objectives: what makes a request good."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from sage.errors import InputError, nearest

__all__ = ["Slo", "parse_slo"]

#: How an objective is written -> the field it sets.
NAMES = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2e_s", "e2e": "e2e_s"}


class Slo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits in seconds, both waits counted from the scheduled start; None: not asked for."""

    ttft_s: float | None = None  # to the first token
    tpot_s: float | None = None  # per token after it
    e2e_s: float | None = None  # to the last token


def parse_slo(said: Iterable[str]) -> Slo | None:
    """Objectives as ``NAME:MILLISECONDS``, several to a text if need be; None where there are none.

    >>> parse_slo(["ttft:500", "tpot:50 e2el:3000"])
    Slo(ttft_s=0.5, tpot_s=0.05, e2e_s=3.0)

    Raises:
        InputError: one cannot be read, or stands twice.
    """
    limits: dict[str, float] = {}
    for text in (word for one in said for word in one.replace(",", " ").split()):
        name, colon, value = text.partition(":")
        if name not in NAMES:
            raise InputError(f"objective {text!r}: unknown name {name!r}: {nearest(name, NAMES)}")
        try:
            limit_s = float(value) / 1000
        except ValueError:
            limit_s = math.nan
        if not colon or not 0 < limit_s < math.inf:
            raise InputError(
                f"objective {text!r}: expected {name}:MILLISECONDS, a number above 0, such as {name}:500"
            )
        if NAMES[name] in limits:
            raise InputError(f"objective {name!r} stands twice; say it once")
        limits[NAMES[name]] = limit_s
    return Slo(**limits) if limits else None
