"""The figures of one cell of an experiment: a pure function of its event log and its requests."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from sage.bench.records import Request
from sage.bench.stats import Balance, balance_of
from sage.events import Event, TaskEnded
from sage.runtime.figures import Stat, percentile, stat_of
from sage.runtime.summary import summarize

if TYPE_CHECKING:
    from sage.bench.audit_checks import Evidence

__all__ = ["CellFigures", "PipelineFigures", "PoolUse", "cell_figures", "mean_inflight", "recomputed"]

LAG_S = 0.005  # a generator that is later than this, and than a share of the first token, is the bottleneck
LAG_SHARE = 0.05
OFFERED_SHARE = 0.98


class PoolUse(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool was used: the tasks each endpoint did, idle ones included, and how even that is."""

    tasks: Mapping[str, int]
    balance: Balance


class PipelineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The counted jobs of one pipeline, or of one tenant's pipelines where a workload mixes two."""

    jobs: int  # counted, whatever their outcome
    jobs_per_s: float | None  # done, over the time from its first handed job to its last end
    e2e_s: Stat


class CellFigures(msgspec.Struct, frozen=True, kw_only=True):
    """``summary.json``. Jobs of the warm-up are in no figure but ``warmup``; seconds throughout."""

    jobs: Mapping[str, int]  # outcome -> jobs
    warmup: int
    window_s: float  # from the first job handed over to the last end
    jobs_per_s: float | None  # done, over the window
    tasks_per_s: float | None
    out_tokens_per_s: float | None
    offered_jobs_per_s: float | None  # as scheduled; None in a closed loop
    e2e_s: Stat  # scheduled to end, of jobs done
    adjusted_e2e_s: Stat  # one that was not done counts as endless
    queue_s: Stat  # per call: SAGE's own wait, from ready to dispatched
    ttft_s: Stat  # per job: scheduled to first token of its output step
    inflight: float | None  # mean over the window
    pipelines: Mapping[str, PipelineFigures]
    pools: Mapping[str, PoolUse]
    lag_s: Stat  # how late jobs were handed over
    generator_limited: bool
    cpu_s: float | None  # of this process over the whole cell; None in virtual time
    cpu_s_per_job: float | None
    faults: tuple[str, ...] = ()  # why the log cannot be true


def cell_figures(
    events: Sequence[Event],
    requests: Sequence[Request],
    pools: Mapping[str, Sequence[str]],
    *,
    cpu_s: float | None,
) -> CellFigures:
    """The figures of a cell.

    Args:
        events: its log.
        requests: its jobs.
        pools: pool -> all its endpoints, those that did nothing included.
        cpu_s: what its process took; None if it was simulated.
    """
    counted = [request for request in requests if not request.warmup]
    done = [request for request in counted if request.outcome == "done"]
    start = min((request.handed for request in counted), default=0.0)
    window_s = max((request.ended for request in counted), default=start) - start
    numbers = {request.id for request in counted}
    calls = [e for e in events if isinstance(e, TaskEnded) and e.job in numbers and e.outcome == "done"]
    outcomes: Counter[str] = Counter(request.outcome for request in counted)
    e2e = [request.ended - request.scheduled for request in done]
    lag_s = stat_of(request.handed - request.scheduled for request in counted)
    ttft_s = stat_of(r.first - r.scheduled for r in done if r.first is not None)
    offered = _offered(counted)
    achieved = _rate(len(done), window_s)

    def rate(count: float) -> float | None:
        return _rate(count, window_s)

    return CellFigures(
        jobs=dict(outcomes),
        warmup=len(requests) - len(counted),
        window_s=window_s,
        jobs_per_s=achieved,
        tasks_per_s=rate(len(calls)),
        out_tokens_per_s=rate(sum(request.output_tokens for request in done)),
        offered_jobs_per_s=offered,
        e2e_s=stat_of(e2e),
        adjusted_e2e_s=stat_of(e2e, endless=len(counted) - len(done)),
        queue_s=stat_of(call.dispatched - call.ready for call in calls),
        ttft_s=ttft_s,
        inflight=mean_inflight(counted, start, window_s),
        pipelines=_by_tenant(counted),
        pools={pool: _use(pool, names, calls) for pool, names in sorted(pools.items())},
        lag_s=lag_s,
        generator_limited=_is_limited([r.handed - r.scheduled for r in counted], ttft_s),
        cpu_s=cpu_s,
        cpu_s_per_job=None if cpu_s is None or not requests else cpu_s / len(requests),
        faults=summarize(events).faults,
    )


def recomputed(evidence: Evidence) -> CellFigures:
    """The same from a cell's folder, for an audit. CPU time is measured, not computed: it is as the manifest says."""
    cpu_s = evidence.manifest.arguments.get("cpu_s")
    return cell_figures(evidence.events, evidence.requests, evidence.manifest.engines, cpu_s=cpu_s)


def mean_inflight(requests: Iterable[Request], start: float, window_s: float) -> float | None:
    """Jobs under way on average over a window, by adding up how long each was."""
    if window_s <= 0:
        return None
    end = start + window_s
    spans = (min(r.ended, end) - max(r.handed, start) for r in requests)
    return math.fsum(span for span in spans if span > 0) / window_s


def _rate(count: float, window_s: float) -> float | None:
    return count / window_s if window_s > 0 and count else None


def _offered(requests: Sequence[Request]) -> float | None:
    """Jobs a second as scheduled; None where jobs came when slots were free."""
    due = sorted(request.scheduled for request in requests)
    if len(due) < 2 or all(request.scheduled == request.handed for request in requests):
        return None
    return (len(due) - 1) / (due[-1] - due[0]) if due[-1] > due[0] else None


def _is_limited(lags: Sequence[float], ttft_s: Stat) -> bool:
    """Whether the load generator was late: p99 of its lag, however many jobs there were."""
    if not lags:
        return False
    return percentile(sorted(lags), 0.99) > max(LAG_S, LAG_SHARE * (ttft_s.p50 or 0.0))


def _by_tenant(requests: Sequence[Request]) -> dict[str, PipelineFigures]:
    groups: defaultdict[str, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.tenant].append(request)
    return {name: _pipeline(several) for name, several in sorted(groups.items())}


def _pipeline(requests: Sequence[Request]) -> PipelineFigures:
    done = [request for request in requests if request.outcome == "done"]
    span = max(r.ended for r in requests) - min(r.handed for r in requests)
    return PipelineFigures(
        jobs=len(requests),
        jobs_per_s=_rate(len(done), span),
        e2e_s=stat_of(request.ended - request.scheduled for request in done),
    )


def _use(pool: str, names: Sequence[str], calls: Iterable[TaskEnded]) -> PoolUse:
    tasks = dict.fromkeys(names, 0)
    for call in calls:
        if call.pool == pool:
            tasks[call.endpoint] = tasks.get(call.endpoint, 0) + 1
    return PoolUse(tasks=tasks, balance=balance_of([float(count) for count in tasks.values()]))
