"""What is said of single requests, and of the times of several: pure functions of their stamps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import msgspec

from sage.bench.records import Request
from sage.bench.slo import Slo

__all__ = ["InFlight", "answer_tokens", "between", "gaps", "in_flight", "is_good", "rates", "reason", "tpot"]


class InFlight(msgspec.Struct, frozen=True, kw_only=True):
    """Requests under way, from dispatched to last token, over the window."""

    mean: float
    most: int


def tpot(request: Request) -> float | None:
    """Seconds per output token after the first; None with fewer than two tokens or chunks."""
    tokens = answer_tokens(request)
    if request.first is None or request.last is None or tokens < 2 or len(request.chunks) < 2:
        return None
    return (request.last - request.first) / (tokens - 1)


def answer_tokens(request: Request) -> int:
    """Tokens of the answer that the chunks belong to: of a job of several calls, those of its last one."""
    if request.answer_tokens is not None:
        return request.answer_tokens
    return sum(request.chunk_tokens) if request.chunk_tokens else request.output_tokens


def is_good(request: Request, slo: Slo) -> bool:
    """Whether a request was done and met every objective. A request of one token has no TPOT to miss."""
    if request.outcome != "done" or request.last is None:
        return False
    waited = None if request.first is None else request.first - request.scheduled
    return (
        _meets(waited, slo.ttft_s, missing=False)
        and _meets(tpot(request), slo.tpot_s, missing=True)
        and _meets(request.last - request.scheduled, slo.e2e_s, missing=False)
    )


def _meets(value: float | None, limit: float | None, *, missing: bool) -> bool:
    return limit is None or (missing if value is None else value <= limit)


def between(requests: Iterable[Request], start: str, end: str) -> list[float]:
    """The time from one moment of each request to another, of those that came to both."""
    moments = ((getattr(request, start), getattr(request, end)) for request in requests)
    return [later - earlier for earlier, later in moments if earlier is not None and later is not None]


def gaps(request: Request) -> list[float]:
    """What passed between its chunks, as they came."""
    return [later - earlier for earlier, later in itertools.pairwise(request.chunks)]


def reason(request: Request) -> str:
    """Why it was not done, in a few words."""
    return request.error or request.outcome


def rates(counted: Sequence[Request]) -> tuple[float | None, float | None]:
    """Requests a second as scheduled, and as they were handed over."""

    def rate(times: Sequence[float]) -> float | None:
        return (
            (len(times) - 1) / (max(times) - min(times))
            if len(times) > 1 and max(times) > min(times)
            else None
        )

    return rate([r.scheduled for r in counted]), rate([r.handed for r in counted])


def in_flight(counted: Sequence[Request], window_s: float) -> InFlight:
    """How many requests were under way at once, from dispatched to their end."""
    spans = [
        (r.dispatched, r.last if r.last is not None else r.ended) for r in counted if r.dispatched is not None
    ]
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = max(itertools.accumulate(change for _, change in changes), default=0)
    mean = math.fsum(end - start for start, end in spans) / window_s if window_s > 0 else 0.0
    return InFlight(mean=mean, most=most)
