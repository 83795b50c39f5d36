"""What a reader must know before believing the figures of a load: found in its requests, each said in one line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from sage.bench.records import Request
from sage.bench.timing import answer_tokens, in_flight, reason
from sage.runtime.figures import percentile

__all__ = [
    "Flag",
    "cache_flags",
    "failure_flags",
    "generator_flags",
    "overload_flags",
    "token_flags",
    "warmup_flags",
]

LAG_S = 0.005  # a generator that is later than this, and than LAG_SHARE of the median TTFT, is the bottleneck
LAG_SHARE = 0.05
LEAST_HANDED = 0.98  # of the offered rate
LEAST_OF_A_QUARTER = 5  # requests
GROWTH = 1.5  # of latency, from the first quarter to the last
LEAST_SERVED = 0.95  # of the offered rate
WARM_SHARE = 0.05  # of prompt tokens from a prefix cache, beyond what a cold one would have


class Flag(msgspec.Struct, frozen=True):
    """Something a reader must know before believing a figure."""

    kind: str
    text: str


def generator_flags(
    counted: Sequence[Request], ttft_s: float | None, offered: float | None, handed: float | None
) -> Iterator[Flag]:
    """Whether the load generator was the bottleneck: late, or slower than the schedule.

    Args:
        counted: requests, without warm-up.
        ttft_s: their median time to first token.
        offered: requests a second as scheduled; None in a closed loop.
        handed: and as they were sent.
    """
    lags = sorted(request.handed - request.scheduled for request in counted)
    if not lags:
        return
    late, allowed = percentile(lags, 0.99), max(LAG_S, LAG_SHARE * (ttft_s or 0.0))
    if late > allowed:
        yield Flag(
            "generator_limited",
            f"the load generator was the bottleneck: 1 in 100 requests left {1000 * late:.1f} ms late or more, "
            f"allowed are {1000 * allowed:.1f} ms; use a quieter machine, or send fewer requests a second",
        )
    elif offered is not None and handed is not None and handed < LEAST_HANDED * offered:
        yield Flag(
            "generator_limited",
            f"the load generator was the bottleneck: it sent {handed:.4g} requests a second, and was to send "
            f"{offered:.4g}",
        )


def overload_flags(done: Sequence[Request], offered: float | None) -> Iterator[Flag]:
    """Whether requests came faster than they were served, so that latency says how long the load went on.

    Args:
        done: requests that were answered.
        offered: requests a second as scheduled; None in a closed loop.
    """
    part = len(done) // 4
    if offered is None or part < LEAST_OF_A_QUARTER:
        return
    ordered = sorted(done, key=lambda request: request.scheduled)
    first, last = (
        math.fsum(request.ended - request.scheduled for request in some) / part
        for some in (ordered[:part], ordered[-part:])
    )
    ends = sorted(request.ended for request in done)
    served = (len(ends) - 1) / (ends[-1] - ends[0]) if ends[-1] > ends[0] else offered
    if last > GROWTH * first and served < LEAST_SERVED * offered:
        yield Flag(
            "overloaded",
            f"{offered:.4g} requests a second came and {served:.4g} were served: they waited ever longer (the first "
            f"quarter took {first:.3g} s on average, the last {last:.3g} s), so latency says how long the load went on",
        )


def failure_flags(counted: Sequence[Request], done: Sequence[Request]) -> Iterator[Flag]:
    """Whether anything was measured at all, and what failed."""
    if not counted:
        yield Flag("vacuous", "no request was counted: there is nothing to measure")
        return
    failed = Counter(reason(r) for r in counted if r.outcome not in {"done", "cancelled"})
    worst, count = next(iter(failed.most_common(1)), ("cancelled", len(counted)))
    if not done:
        yield Flag("vacuous", f"none of {len(counted)} requests was answered, {count} of them: {worst}")
    elif failed:
        yield Flag(
            "failures", f"{failed.total()} of {len(counted)} requests failed, {count} of them: {worst}"
        )


def token_flags(done: Sequence[Request], wanted_tokens: int | None) -> Iterator[Flag]:
    """Whether token counts can be believed.

    Args:
        done: requests that were answered.
        wanted_tokens: how long every answer was to be; None: as it came.
    """
    tokens = [answer_tokens(request) for request in done if request.dispatched is not None]
    empty, unsaid = tokens.count(0), sum(request.tokens_from == "pieces" for request in done)
    if empty:
        yield Flag(
            "empty_answers", f"{empty} of {len(done)} answers had no token: they have no TTFT and no TPOT"
        )
    if unsaid:
        yield Flag(
            "no_usage",
            f"the server sent no token counts with {unsaid} of {len(done)} answers: their pieces were counted "
            "instead, and tokens a second and TPOT may be off",
        )
    short = sum(count < wanted_tokens for count in tokens) if wanted_tokens is not None else 0
    if short:
        yield Flag(
            "short_answers",
            f"{short} of {len(done)} answers were shorter than the {wanted_tokens} tokens that were asked for: "
            "the server does not heed ignore_eos, or its context is too short",
        )


def reuse_flags(done: Sequence[Request], reused: frozenset[int]) -> Iterator[Flag]:
    """Whether a pipeline's jobs were answered by calls that were made for others.

    Args:
        done: jobs that were done.
        reused: numbers of jobs of which a call was not made.
    """
    count = sum(request.id in reused for request in done)
    if count:
        yield Flag(
            "reused_calls",
            f"{count} of {len(done)} jobs were spared a call, because an equal one was answered or under way: they "
            "are faster, and their TTFT may be that of an earlier step; load with records that differ",
        )


def cache_flags(done: Sequence[Request], cold_cached_tokens: int | None) -> Iterator[Flag]:
    """Whether the server had seen the prompts before.

    Args:
        done: requests that were answered.
        cold_cached_tokens: of their prompts, what a cache that had seen nothing before would have; None: not known.
    """
    prompt = sum(request.prompt_tokens for request in done)
    cached = sum(request.cached_tokens for request in done)
    if cold_cached_tokens is not None and prompt and cached > cold_cached_tokens + WARM_SHARE * prompt:
        yield Flag(
            "warm_prefix_cache",
            f"{100 * cached / prompt:.0f} % of prompt tokens came from the server's prefix cache, of a cold one it "
            f"would be {100 * cold_cached_tokens / prompt:.0f} %: it had seen these prompts, and TTFT is too good; "
            "restart it, or say another --seed",
        )


def warmup_flags(requests: Sequence[Request], counted: Sequence[Request]) -> Iterator[Flag]:
    """Whether the system had met its full concurrency before requests counted."""
    warm, most = len(requests) - len(counted), in_flight(counted, 1.0).most
    if 0 < warm < most:
        yield Flag(
            "short_warmup",
            f"the warm-up was {warm} requests, later {most} were under way at once; say --num-warmups {most}",
        )
