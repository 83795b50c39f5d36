"""What a simulated run came to: what policies are compared by, from its event log."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from sage.events import Event, JobEnded, TaskEnded
from sage.runtime.figures import Share, Stat, stat_of, wilson
from sage.runtime.summary import Summary, summarize

__all__ = ["CellFigures", "Row", "Spread", "figures_of", "row_of"]


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of one pipeline of one tenant."""

    name: str  # pipeline/tenant
    jobs: Mapping[str, int]  # outcome -> jobs
    in_time: Share  # done by their deadline, of those that had one, whatever their outcome
    e2e_sched_s: Stat  # scheduled arrival to end, of those done


class CellFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep. All figures are simulated.

    ``work_in_time`` weighs each job by its tokens, in and out; a job that was not done counts as the mean of the
    done ones of its class, and where there are none, of all.
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
    simulated_s: float
    tasks: int
    folder: str | None = None


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
    events: Iterable[Event], *, policy: str, load: float, seed: int, schedules: Mapping[str, str]
) -> tuple[Summary, CellFigures]:
    """The usual summary of a log, and what policies are compared by."""
    tally = _Tally()
    summary = summarize(tally.watched(events))
    by_class: defaultdict[str, list[JobEnded]] = defaultdict(list)
    for end in tally.ends:
        by_class[f"{end.pipeline}/{end.tenant}"].append(end)
    classes = tuple(_class(name, ends) for name, ends in sorted(by_class.items()))
    shares = [one.in_time.share for one in classes if one.in_time.share is not None]
    return summary, CellFigures(
        policy=policy,
        load=load,
        seed=seed,
        jobs=summary.jobs,
        in_time=summary.in_time,
        work_in_time=_work_in_time(by_class, tally.tokens),
        worst_class=min(shares, default=None),
        classes=classes,
        e2e_sched_s=summary.e2e_s,  # in virtual time, jobs arrive the moment they are scheduled
        jobs_per_s=summary.jobs_per_s,
        out_tokens_per_s=summary.out_tokens_per_s,
        rejected=summary.jobs["rejected"],
        schedules=schedules,
        simulated_s=summary.window_s,
        tasks=tally.tasks,
    )


def _is_in_time(end: JobEnded) -> bool:
    return end.outcome == "done" and end.deadline is not None and end.t <= end.deadline


def _class(name: str, ends: Sequence[JobEnded]) -> ClassFigures:
    outcomes = dict.fromkeys(("done", "failed", "rejected", "cancelled"), 0)
    for end in ends:
        outcomes[end.outcome] += 1
    return ClassFigures(
        name=name,
        jobs=outcomes,
        in_time=wilson(sum(map(_is_in_time, ends)), sum(end.deadline is not None for end in ends)),
        e2e_sched_s=stat_of(end.t - end.arrived for end in ends if end.outcome == "done"),
    )


def _work_in_time(by_class: Mapping[str, Sequence[JobEnded]], tokens: Mapping[int, int]) -> float | None:
    done = [end for ends in by_class.values() for end in ends if end.outcome == "done"]
    if not done:
        return None
    of_all = math.fsum(tokens.get(end.job, 0) for end in done) / len(done)
    good = total = 0.0
    for ends in by_class.values():
        own = [tokens.get(end.job, 0) for end in ends if end.outcome == "done"]
        expected = math.fsum(own) / len(own) if own else of_all
        for end in ends:
            if end.deadline is None:
                continue
            work = tokens.get(end.job, 0) if end.outcome == "done" else expected
            total += work
            good += work if _is_in_time(end) else 0.0
    return good / total if total else None


# --- over seeds ----------------------------------------------------------------------------------------


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over runs that differ by their seed: mean, and half of its 95 % t-interval where there are 3."""

    n: int
    mean: float | None = None
    half: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one load, over all seeds. All figures are simulated."""

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
        in_time=_spread([cell.in_time.share for cell in cells]),
        work_in_time=_spread([cell.work_in_time for cell in cells]),
        worst_class=_spread([cell.worst_class for cell in cells]),
        mean_s=_spread([cell.e2e_sched_s.mean for cell in cells]),
        p50_s=_spread([cell.e2e_sched_s.p50 for cell in cells]),
        p95_s=_spread([cell.e2e_sched_s.p95 for cell in cells]),
        p99_s=_spread([cell.e2e_sched_s.p99 for cell in cells]),
        jobs_per_s=_spread([cell.jobs_per_s for cell in cells]),
        out_tokens_per_s=_spread([cell.out_tokens_per_s for cell in cells]),
    )


#: 97.5 % points of Student's t by degrees of freedom; beyond the last, that of the normal distribution is near.
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
LEAST_RUNS = 3


def _spread(values: Sequence[float | None]) -> Spread:
    """Of a figure that one run could not give, there is no mean over runs."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return Spread(n=len(known))
    mean = math.fsum(known) / len(known)
    if len(known) < LEAST_RUNS:
        return Spread(n=len(known), mean=mean)
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    quantile = _T975[min(len(known) - 2, len(_T975) - 1)]
    return Spread(n=len(known), mean=mean, half=quantile * math.sqrt(variance / len(known)))
