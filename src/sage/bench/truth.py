"""The measuring instrument measured: what a load says of its requests, beside what the emulated server says of them.

The server writes down when each call arrived and when it handed each piece to its socket, on the same machine's
monotonic clock, and sends no other counts than its own. A request is found again by its idempotency key.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from sage.bench.records import Request
from sage.bench.timing import answer_tokens, tpot
from sage.runtime.figures import percentile

__all__ = ["Agreement", "Deviation", "Told", "agreement"]

TPOT_SHARE = 0.02
TTFT_S, TTFT_SHARE = 0.005, 0.05
RATE_SHARE = 0.02


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as the server tells it. Seconds of its clock."""

    arrived: float
    ended: float | None = None
    status: int = 200
    prompt_tokens: int = 0
    completion_tokens: int = 0
    pieces: tuple[float, ...] = ()  # when each was handed to the socket
    piece_tokens: tuple[int, ...] = ()
    idempotency_key: str | None = None


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """One figure, both ways, and how far it may be off."""

    figure: str
    measured: float
    truth: float
    allowed: float  # as an absolute difference
    ok: bool


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How well a load agrees with the server."""

    requests: int  # compared
    wrong_counts: tuple[str, ...]  # requests whose counts differ; must be none
    deviations: tuple[Deviation, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as near as it must be."""
        return self.requests > 0 and not self.wrong_counts and all(one.ok for one in self.deviations)


def agreement(requests: Sequence[Request], told: Sequence[Told], run_id: str) -> Agreement:
    """Compare the counted requests of a load, one by one and in their figures.

    Args:
        requests: all of the load.
        told: what the server tells; other clients' calls are left out.
        run_id: of the load's run, which its keys begin with.

    Raises:
        KeyError: the server knows nothing of a request that was answered.
    """
    by_key = {one.idempotency_key: one for one in told}
    done = [request for request in requests if request.outcome == "done" and not request.warmup]
    pairs = [(request, by_key[f"{run_id}-{request.id}"]) for request in done]
    wrong = [text for request, truth in pairs for text in _wrong_counts(request, truth)]
    return Agreement(requests=len(pairs), wrong_counts=tuple(wrong[:20]), deviations=_deviations(pairs))


def _wrong_counts(request: Request, truth: Told) -> list[str]:
    counts: Mapping[str, tuple[int, int]] = {
        "prompt tokens": (request.prompt_tokens, truth.prompt_tokens),
        "output tokens": (answer_tokens(request), truth.completion_tokens),
        "pieces": (len(request.chunks), len(truth.pieces)),
    }
    wrong = [
        f"request {request.id}: {got} {what}, truth {wanted}"
        for what, (got, wanted) in counts.items()
        if got != wanted
    ]
    if request.chunk_tokens and request.chunk_tokens != truth.piece_tokens:
        wrong.append(f"request {request.id}: tokens per piece differ")
    return wrong


def _deviations(pairs: Sequence[tuple[Request, Told]]) -> tuple[Deviation, ...]:
    found: list[Deviation] = []
    ttfts = [
        (request.first - request.dispatched, truth.pieces[0] - truth.arrived)
        for request, truth in pairs
        if request.first is not None and request.dispatched is not None and truth.pieces
    ]
    for name, (ours, theirs) in _statistics(ttfts):
        found.append(_deviation(f"ttft_s {name}", ours, theirs, TTFT_S + TTFT_SHARE * theirs))
    tpots = [(mine, its) for request, truth in pairs if (mine := tpot(request)) and (its := _tpot(truth))]
    for name, (ours, theirs) in _statistics(tpots):
        found.append(_deviation(f"tpot_s {name}", ours, theirs, TPOT_SHARE * theirs))
    if len(pairs) > 1:
        ours = _rate([r.dispatched or r.handed for r, _ in pairs], [r.last or r.ended for r, _ in pairs])
        theirs = _rate([t.arrived for _, t in pairs], [t.ended or t.arrived for _, t in pairs])
        found.append(_deviation("requests_per_s", ours, theirs, RATE_SHARE * theirs))
    return tuple(found)


def _tpot(truth: Told) -> float | None:
    if truth.completion_tokens < 2 or len(truth.pieces) < 2:
        return None
    return (truth.pieces[-1] - truth.pieces[0]) / (truth.completion_tokens - 1)


def _statistics(pairs: Sequence[tuple[float, float]]) -> list[tuple[str, tuple[float, float]]]:
    """Mean, median and p95 of both sides, each by its own order."""
    if not pairs:
        return []
    ours, theirs = (sorted(pair[side] for pair in pairs) for side in (0, 1))
    return [
        ("mean", (statistics.fmean(ours), statistics.fmean(theirs))),
        ("p50", (percentile(ours, 0.5), percentile(theirs, 0.5))),
        ("p95", (percentile(ours, 0.95), percentile(theirs, 0.95))),
    ]


def _rate(starts: Sequence[float], ends: Sequence[float]) -> float:
    return len(starts) / (max(ends) - min(starts))


def _deviation(figure: str, measured: float, truth: float, allowed: float) -> Deviation:
    return Deviation(
        figure=figure, measured=measured, truth=truth, allowed=allowed, ok=abs(measured - truth) <= allowed
    )
