"""What a run of a spec came to, simulated or measured: what policies are compared by, from its event log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from sage.bench.stats import Spread, share_by_work, spread_of
from sage.events import Event, JobEnded, TaskEnded
from sage.runtime.figures import Share, Stat, stat_of, wilson
from sage.runtime.summary import Summary, summarize

__all__ = ["CellFigures", "Row", "figures_of", "row_of"]


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of one pipeline of one tenant."""

    name: str  # pipeline/tenant
    jobs: Mapping[str, int]  # outcome -> jobs
    in_time: Share  # done by their deadline, of those that had one, whatever their outcome
    e2e_sched_s: Stat  # scheduled arrival to end, of those done


class CellFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep, simulated or measured: the folder it stands in says which.

    Figures are of the jobs that came after the warm-up, but for throughput, ``tasks`` and ``window_s``.
    ``work_in_time`` weighs each job by its tokens, in and out; a job that was not done counts as the mean of the done
    ones of its class, and where there are none, of all.
    """

    policy: str
    load: float
    seed: int
    jobs: Mapping[str, int]  # outcome -> jobs
    in_time: Share  # job-weighted attainment: done by their deadline, of all that had one
    work_in_time: float | None  # work-weighted attainment
    worst_class: float | None  # attainment of the class that fared worst
    classes: tuple[ClassFigures, ...]
    e2e_sched_s: Stat
    jobs_per_s: float | None
    out_tokens_per_s: float | None
    rejected: int
    schedules: Mapping[str, str]  # traffic -> hash of its schedule
    window_s: float  # from the first job's arrival to the last end; of virtual time, if simulated
    tasks: int
    folder: str | None = None
    lag_s: Stat | None = None  # how late jobs were handed over; None where they never are: in virtual time


class _Tally:
    """What is remembered of a log for these figures."""

    def __init__(self) -> None:
        self.ends: list[JobEnded] = []
        self.tokens: defaultdict[int, int] = defaultdict(int)
        self.tasks = 0

    def watched(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, JobEnded):
                self.ends.append(event)
            elif isinstance(event, TaskEnded):
                self.tasks += 1
                if event.outcome == "done":
                    self.tokens[event.job] += event.prompt_tokens + event.completion_tokens
            yield event


def figures_of(
    events: Iterable[Event],
    *,
    policy: str,
    load: float,
    seed: int,
    schedules: Mapping[str, str],
    warmup_s: float = 0.0,
    due: Mapping[int, float] | None = None,
) -> tuple[Summary, CellFigures]:
    """The usual summary of a log, and what policies are compared by: of the jobs that came after the warm-up.

    Args:
        events: the log.
        policy: carried along, as are ``load``, ``seed`` and ``schedules``.
        load: see there.
        seed: see there.
        schedules: see there.
        warmup_s: jobs that come this early are not counted.
        due: job -> when it was to come, where that is not when it came. Times and deadlines then count from there.
    """
    tally = _Tally()
    summary = summarize(tally.watched(events))
    ends = tally.ends if due is None else [_as_due(end, due[end.job]) for end in tally.ends]
    since = min((end.arrived for end in ends), default=0.0) + warmup_s
    counted = [end for end in ends if end.arrived >= since]
    by_class: defaultdict[str, list[JobEnded]] = defaultdict(list)
    for end in counted:
        by_class[f"{end.pipeline}/{end.tenant}"].append(end)
    classes = tuple(_class(name, ends) for name, ends in sorted(by_class.items()))
    shares = [one.in_time.share for one in classes if one.in_time.share is not None]
    return summary, CellFigures(
        policy=policy,
        load=load,
        seed=seed,
        jobs=_outcomes(counted),
        in_time=_in_time(counted),
        work_in_time=_work_in_time(by_class, tally.tokens),
        worst_class=min(shares, default=None),
        classes=classes,
        e2e_sched_s=_took(counted),
        jobs_per_s=summary.jobs_per_s,
        out_tokens_per_s=summary.out_tokens_per_s,
        rejected=sum(end.outcome == "rejected" for end in counted),
        schedules=schedules,
        window_s=summary.window_s,
        tasks=tally.tasks,
        lag_s=None if due is None else stat_of(end.arrived - due[end.job] for end in tally.ends),
    )


def _as_due(end: JobEnded, due: float) -> JobEnded:
    """The end of a job as if it had been handed over when it was due: its lateness is not its deadline's gain."""
    deadline = None if end.deadline is None else end.deadline - (end.arrived - due)
    return msgspec.structs.replace(end, arrived=due, deadline=deadline)


def _is_in_time(end: JobEnded) -> bool:
    return end.outcome == "done" and end.deadline is not None and end.t <= end.deadline


def _outcomes(ends: Sequence[JobEnded]) -> dict[str, int]:
    outcomes = dict.fromkeys(("done", "failed", "rejected", "cancelled"), 0)
    for end in ends:
        outcomes[end.outcome] += 1
    return outcomes


def _in_time(ends: Sequence[JobEnded]) -> Share:
    return wilson(sum(map(_is_in_time, ends)), sum(end.deadline is not None for end in ends))


def _took(ends: Sequence[JobEnded]) -> Stat:
    return stat_of(end.t - end.arrived for end in ends if end.outcome == "done")


def _class(name: str, ends: Sequence[JobEnded]) -> ClassFigures:
    return ClassFigures(name=name, jobs=_outcomes(ends), in_time=_in_time(ends), e2e_sched_s=_took(ends))


def _work_in_time(by_class: Mapping[str, Sequence[JobEnded]], tokens: Mapping[int, int]) -> float | None:
    return share_by_work(
        (
            name,
            tokens.get(end.job, 0) if end.outcome == "done" else None,
            None if end.deadline is None else _is_in_time(end),
        )
        for name, ends in by_class.items()
        for end in ends
    )


# --- over seeds ----------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one load, over all seeds."""

    policy: str
    load: float
    seeds: int
    jobs: int  # of all seeds
    rejected: int
    in_time: Spread
    work_in_time: Spread
    worst_class: Spread
    mean_s: Spread
    p50_s: Spread
    p95_s: Spread
    p99_s: Spread
    jobs_per_s: Spread
    out_tokens_per_s: Spread


def row_of(cells: Sequence[CellFigures]) -> Row:
    """The figures of runs that differ only by their seed."""
    first = cells[0]
    return Row(
        policy=first.policy,
        load=first.load,
        seeds=len(cells),
        jobs=sum(sum(cell.jobs.values()) for cell in cells),
        rejected=sum(cell.rejected for cell in cells),
        in_time=spread_of([cell.in_time.share for cell in cells]),
        work_in_time=spread_of([cell.work_in_time for cell in cells]),
        worst_class=spread_of([cell.worst_class for cell in cells]),
        mean_s=spread_of([cell.e2e_sched_s.mean for cell in cells]),
        p50_s=spread_of([cell.e2e_sched_s.p50 for cell in cells]),
        p95_s=spread_of([cell.e2e_sched_s.p95 for cell in cells]),
        p99_s=spread_of([cell.e2e_sched_s.p99 for cell in cells]),
        jobs_per_s=spread_of([cell.jobs_per_s for cell in cells]),
        out_tokens_per_s=spread_of([cell.out_tokens_per_s for cell in cells]),
    )
