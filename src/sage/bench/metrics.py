"""A load in figures: a pure function of its requests. Nothing here measures, guesses or corrects.

Times of a request: s scheduled, g handed over, d dispatched, f first chunk with a token, l last one; n tokens.

    lag = g - s          queue = d - g
    TTFT = f - d         TTFT_sched = f - s
    TPOT = (l - f) / (n - 1), n >= 2
    TBT = a gap between chunks as they came; ITL = such a gap over the tokens of its chunk, once for each token
    E2E = l - d          E2E_sched = l - s

The forms from s leave nothing out of what a client waits, also where requests come faster than they are served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from sage.bench.load_flags import (
    Flag,
    cache_flags,
    failure_flags,
    generator_flags,
    overload_flags,
    reuse_flags,
    token_flags,
    warmup_flags,
)
from sage.bench.records import Request
from sage.bench.slo import Slo
from sage.bench.stats import Balance, Share, balance_of, order_interval, share_by_work, wilson
from sage.bench.timing import InFlight, answer_tokens, between, gaps, in_flight, is_good, rates, reason, tpot
from sage.runtime.figures import LEAST, Stat, stat_of
from sage.runtime.manifest import Status

__all__ = [
    "PERCENTILE_METHOD",
    "Flag",
    "Goodput",
    "InFlight",
    "LoadSummary",
    "Metric",
    "isolation",
    "metric_of",
    "speed_up",
    "summarize_load",
]

PERCENTILE_METHOD = "linear"  # type 7 of Hyndman and Fan (The American Statistician, 1996), numpy's default

PARTIAL = "the load ended before its schedule did: figures are of what was seen"


class Metric(Stat, frozen=True, kw_only=True):
    """A sample in figures, with the 95 % interval of each percentile that has one.

    The intervals take requests as independent; where they queue behind each other, only repeats tell.
    """

    intervals: Mapping[str, tuple[float, float]] = {}


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the load was served as it should be. The denominator is every counted request."""

    slo: Slo
    attainment: Share  # good ones, of all: success, error, timeout, rejected
    per_s: float | None = None  # good ones over the window
    by_work: float | None = None  # attainment with each request weighing its tokens
    worst_class: str = ""  # pipeline/tenant, where there are several
    worst_attainment: float | None = None


class LoadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run under load. Times in seconds; JSON by ``msgspec.json.encode``."""

    status: Status
    requests: Mapping[str, int]  # outcome -> requests, warm-up left out
    warmup: int
    window_s: float  # first scheduled start to last end
    requests_per_s: float | None = None  # that were done, over the window
    output_tokens_per_s: float | None = None
    total_tokens_per_s: float | None = None
    offered_per_s: float | None = None  # open loop: as scheduled
    handed_per_s: float | None = None  # open loop: as the generator kept to it
    goodput: Goodput | None = None  # None: no objective was said
    ttft_s: Metric
    ttft_sched_s: Metric
    tpot_s: Metric
    itl_s: Metric
    tbt_s: Metric
    worst_tbt_s: Metric  # the longest gap of each request
    e2e_s: Metric
    e2e_sched_s: Metric
    adjusted_e2e_sched_s: Metric  # over all requests, one that was not done counting as endless
    lag_s: Metric
    queue_s: Metric
    in_flight: InFlight
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    tokens_from: Mapping[str, int] = {}  # who counted -> requests
    errors: Mapping[str, int] = {}  # what failed ones failed with, most frequent first
    balance: Mapping[str, Balance] = {}  # pool -> its tasks over all configured endpoints
    flags: tuple[Flag, ...] = ()
    percentile_method: str = PERCENTILE_METHOD


def summarize_load(
    requests: Sequence[Request],
    *,
    slo: Slo | None = None,
    open_loop: bool = False,
    interrupted: bool = False,
    cold_cached_tokens: int | None = None,
    wanted_tokens: int | None = None,
    reused: frozenset[int] = frozenset(),
    work: Mapping[str, Sequence[float]] | None = None,
) -> LoadSummary:
    """The figures of a load.

    Args:
        requests: all of them, warm-up too.
        slo: what makes a request good.
        open_loop: requests came by a schedule, however the system kept up.
        interrupted: the load ended before its schedule did.
        cold_cached_tokens: prompt tokens that a prefix cache without earlier prompts would have had; None: not known.
        wanted_tokens: tokens that every answer was asked to have, with ``ignore_eos``.
        reused: numbers of jobs of which a call was not made, because an equal one was.
        work: pool -> tasks of each configured endpoint, idle ones as 0.
    """
    counted = [request for request in requests if not request.warmup]
    done = [request for request in counted if request.outcome == "done"]
    judged = [request for request in counted if request.outcome != "cancelled"]  # by us, when we were stopped
    window_s = _window_s(counted)
    ttft = metric_of(between(done, "dispatched", "first"))
    waited = between(done, "scheduled", "last")
    waits = [gaps(request) for request in done]
    itl, unknown = _tokengaps_of(done)
    offered, handed = rates(counted) if open_loop else (None, None)
    output_tokens = sum(request.output_tokens for request in done)
    prompt_tokens = sum(request.prompt_tokens for request in done)
    flags = [
        *((Flag("partial", PARTIAL),) if interrupted else ()),
        *failure_flags(counted, done),
        *generator_flags(counted, ttft.p50, offered, handed),
        *overload_flags(done, offered),
        *token_flags(done, wanted_tokens),
        *reuse_flags(done, reused),
        *cache_flags(done, cold_cached_tokens),
        *warmup_flags(requests, counted),
    ]
    return LoadSummary(
        status=_status(counted, done, flags),
        requests=_outcomes(counted),
        warmup=len(requests) - len(counted),
        window_s=window_s,
        requests_per_s=_per(len(done), window_s),
        output_tokens_per_s=_per(output_tokens, window_s),
        total_tokens_per_s=_per(output_tokens + prompt_tokens, window_s),
        offered_per_s=offered,
        handed_per_s=handed,
        goodput=None if slo is None else _goodput(judged, slo, window_s),
        ttft_s=ttft,
        ttft_sched_s=metric_of(between(done, "scheduled", "first")),
        tpot_s=metric_of(pace for pace in map(tpot, done) if pace is not None),
        itl_s=_pooled(itl, unknown, len(done)),
        tbt_s=_pooled([gap for own in waits for gap in own]),
        worst_tbt_s=metric_of(max(own) for own in waits if own),
        e2e_s=metric_of(between(done, "dispatched", "last")),
        e2e_sched_s=metric_of(waited),
        adjusted_e2e_sched_s=metric_of(waited, endless=len(judged) - len(done)),
        lag_s=metric_of(between(counted, "scheduled", "handed")),
        queue_s=metric_of(between(counted, "handed", "dispatched")),
        in_flight=in_flight(counted, window_s),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        cached_tokens=sum(request.cached_tokens for request in done),
        tokens_from=dict(Counter(request.tokens_from for request in done if request.tokens_from)),
        errors=dict(Counter(reason(r) for r in counted if r.outcome != "done").most_common()),
        balance={pool: balance_of(own) for pool, own in (work or {}).items()},
        flags=tuple(flags),
    )


# --- samples -------------------------------------------------------------------------------------------


def metric_of(sample: Iterable[float], *, endless: int = 0) -> Metric:
    """A sample in figures, one value a request; ``endless`` more count as longer than any."""
    ordered = sorted(sample)
    n = len(ordered) + endless
    stat = stat_of(ordered, endless=endless)
    intervals: dict[str, tuple[float, float]] = {}
    for name, (share, _) in LEAST.items():
        places = order_interval(n, share) if getattr(stat, name) is not None else None
        if places is not None and places[1] < len(ordered):
            intervals[name] = ordered[places[0]], ordered[places[1]]
    return Metric(**msgspec.structs.asdict(stat), intervals=intervals)


def _pooled(sample: Sequence[float], unknown: int = 0, of: int = 0) -> Metric:
    """Gaps of all requests together. They are no independent sample, so no interval."""
    stat = stat_of(sample)
    why = dict(stat.why)
    if unknown:
        why["n"] = (
            f"{unknown} of {of} answers came in pieces of several tokens, and the server did not say how many "
            "each held; they are left out (vLLM says with --count-along)"
        )
    return Metric(**{**msgspec.structs.asdict(stat), "why": why})


def _tokengaps_of(done: Sequence[Request]) -> tuple[list[float], int]:
    """Gaps between tokens, pooled; and how many requests do not tell theirs."""
    sample: list[float] = []
    unknown = 0
    for request in done:
        counts: Sequence[int] = request.chunk_tokens
        if not counts and len(request.chunks) >= 2:
            if answer_tokens(request) != len(request.chunks):
                unknown += 1
                continue
            counts = (1,) * len(request.chunks)
        for gap, count in zip(gaps(request), counts[1:], strict=False):
            sample += [gap / count] * count if count else ()
    return sample, unknown


def _outcomes(counted: Sequence[Request]) -> dict[str, int]:
    outcomes = dict.fromkeys(("done", "failed", "timeout", "rejected", "cancelled"), 0)
    for request in counted:
        outcomes[request.outcome] += 1
    return outcomes


def _window_s(counted: Sequence[Request]) -> float:
    if not counted:
        return 0.0
    return max(request.ended for request in counted) - min(request.scheduled for request in counted)


def _per(count: float, window_s: float) -> float | None:
    return count / window_s if window_s > 0 else None


def _goodput(counted: Sequence[Request], slo: Slo, window_s: float) -> Goodput:
    rows = [(f"{r.pipeline}/{r.tenant}", _work(r), is_good(r, slo)) for r in counted]
    good: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for name, _, was_good in rows:
        seen[name] += 1
        good[name] += was_good
    shares = {name: good[name] / seen[name] for name in seen}
    worst = min(shares, key=lambda name: shares[name], default="") if len(shares) > 1 else ""
    return Goodput(
        slo=slo,
        attainment=wilson(good.total(), len(rows)),
        per_s=_per(good.total(), window_s),
        by_work=share_by_work(rows),
        worst_class=worst,
        worst_attainment=shares.get(worst),
    )


def _work(request: Request) -> float | None:
    return request.prompt_tokens + request.output_tokens if request.outcome == "done" else None


def _status(counted: Sequence[Request], done: Sequence[Request], flags: Sequence[Flag]) -> Status:
    kinds = {flag.kind for flag in flags}
    if not counted or not done:
        return "failed"
    if "partial" in kinds:
        return "partial"
    return "generator_limited" if "generator_limited" in kinds else "complete"


# --- over several runs ---------------------------------------------------------------------------------


def speed_up(rates: Mapping[int, float]) -> dict[int, tuple[float, float]]:
    """Per count of nodes or clients, throughput over that of 1, and that over the count (its efficiency).

    >>> speed_up({1: 2.0, 4: 6.0})
    {1: (1.0, 1.0), 4: (3.0, 0.75)}
    """
    one = rates.get(1)
    if not one:
        return {}
    return {count: (rate / one, rate / one / count) for count, rate in rates.items()}


def isolation(shared: Mapping[str, float], alone: Mapping[str, float]) -> dict[str, float]:
    """Per pipeline, how many times as long its p99 is beside others as it is alone."""
    return {name: shared[name] / alone[name] for name in shared if alone.get(name)}
