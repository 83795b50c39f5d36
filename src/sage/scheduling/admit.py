"""Whether: which jobs are let in, and when. Rules in a list, and at its end the limit of jobs at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from sage.errors import InputError
from sage.registry import Registry
from sage.scheduling.messages import Reject
from sage.scheduling.views import ClusterView, Forecast, JobView

__all__ = ["ADMITS", "Gate", "MaxInflight", "Open", "Refusal", "Rule", "has_rules"]


class Refusal(NamedTuple):
    """Why a job is not let in, and after how long it might be; None: waiting would not help."""

    reason: str
    retry_after_s: float | None


class Rule(Protocol):
    """One rule of admission. It judges every job once, and is told what becomes of it.

    A rule that keeps no account of jobs leaves the other methods as they are.
    """

    def judge(self, job: JobView, forecast: Forecast, cluster: ClusterView) -> Refusal | float | None:
        """None: let it in. A time: not before then. A refusal: never; of a pulled job, refusals are ignored."""

    def passed(self, job: JobView, forecast: Forecast) -> None:
        """The job is past all rules: it is in, or waits for a place."""

    def served(self, job: int, pool: str, service_s: float, tokens: float) -> None:
        """A call for a job ended, having taken so long and so many tokens in and out."""

    def over(self, job: int) -> None:
        """A job that was judged reached its end, whatever it was."""


class Open(Rule):
    """Everyone is let in, as far as ``max_inflight`` allows.

    When: the source waits by itself, as records of a file do. When not: requests come from outside and more of
    them than can be served; then nobody is in time.
    """

    def judge(self, job: JobView, forecast: Forecast, cluster: ClusterView) -> None:
        """Let in."""


class Run:
    """The jobs of one run, as admission counts them."""

    __slots__ = ("admitted", "limit", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.admitted = 0
        self.waiting: OrderedDict[int, JobView] = OrderedDict()


class MaxInflight:
    """At most so many jobs of a run at once. The others wait in the order they came; none is rejected.

    The source is pulled no faster than jobs are let in, so the number that wait is the caller's to bound. It
    always stands at the end of the list, said or not.

    When: always; it keeps memory flat. When not: no larger than needed; more jobs at once help until the engines
    are busy, and only wait inside from then on.
    """

    def __init__(self, jobs: int = 64) -> None:
        if jobs < 1:
            raise InputError(f"max_inflight is {jobs}, expected at least 1 job at once")
        self.jobs = jobs  # of one run, unless it has a limit of its own
        self._runs: dict[str, Run] = {}  # only those with a job in or waiting
        self._run_of: dict[int, Run] = {}  # of the jobs that wait

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._run_of)

    def arrived(self, job: JobView) -> bool:
        """Whether the job is let in now; otherwise it waits."""
        run = self._runs.get(job.run)
        if run is None:
            limit = self.jobs if job.max_inflight is None else job.max_inflight
            assert limit > 0, f"run {job.run!r}: max_inflight is {limit}"
            run = self._runs[job.run] = Run(limit)
        if run.admitted < run.limit:
            run.admitted += 1
            return True
        run.waiting[job.id] = job
        self._run_of[job.id] = run
        return False

    def over(self, job: JobView) -> JobView | None:
        """A job that was let in reached its end: the job that gets its place, if one waits."""
        run = self._runs[job.run]
        if run.waiting:
            _, following = run.waiting.popitem(last=False)
            del self._run_of[following.id]
            return following
        run.admitted -= 1
        if run.admitted == 0:
            del self._runs[job.run]
        return None

    def withdrawn(self, job: int) -> bool:
        """A waiting job does not wait any longer. False: it was not waiting."""
        run = self._run_of.pop(job, None)
        if run is None:
            return False
        del run.waiting[job]
        return True

    def check(self, admitted: int) -> None:
        """Assert that the books balance: so many jobs are in, and nobody waits beside a free place."""
        assert sum(run.admitted for run in self._runs.values()) == admitted
        assert sum(len(run.waiting) for run in self._runs.values()) == len(self._run_of)
        for name, run in self._runs.items():
            assert 0 < run.admitted <= run.limit, f"run {name!r}: {run.admitted} of {run.limit} jobs in"
            assert not run.waiting or run.admitted == run.limit, f"run {name!r}: a free place while jobs wait"


def _rules(members: Sequence[Rule | MaxInflight]) -> list[Rule]:
    return [member for member in members if not isinstance(member, MaxInflight | Open)]


def has_rules(members: Sequence[Rule | MaxInflight]) -> bool:
    """Whether any of them looks at a job before it is let in."""
    return bool(_rules(members))


class Gate:
    """The rules in their order, the first refusal decides; then the limit of jobs at once.

    Args:
        members: rules, and at most one ``MaxInflight``.
        forecast: what is expected of a job.
        cluster: what the pools do at a time.
    """

    def __init__(
        self,
        members: Sequence[Rule | MaxInflight],
        forecast: Callable[[JobView], Forecast],
        cluster: Callable[[float], ClusterView],
    ) -> None:
        places = [member for member in members if isinstance(member, MaxInflight)]
        self._places = places[0] if places else MaxInflight()
        self.rules = _rules(members)
        self._forecast = forecast
        self._cluster = cluster
        self._names = [_name(rule) for rule in self.rules]
        self._holds: dict[int, list[tuple[str, float]]] = {}  # job that had to wait -> for what, since when
        self._put_off: list[tuple[float, int, JobView, int]] = []  # heap: when, number, job, its next rule
        self._waits: set[int] = set()  # jobs put off
        self._number = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait: put off by a rule, or for a place."""
        return self._places.waiting + len(self._waits)

    def arrived(self, job: JobView, now: float) -> JobView | Reject | None:
        """The job itself if it is let in now; None: it waits."""
        return self._judge(job, 0, now) if self.rules else self._placed(job, now)

    def held(self, job: int) -> tuple[tuple[str, float], ...]:
        """What a job has waited for until now, each with the time it began to; forgotten then."""
        return tuple(self._holds.pop(job, ()))

    def _placed(self, job: JobView, now: float) -> JobView | None:
        if self._places.arrived(job):
            return job
        self._holds.setdefault(job.id, []).append(("max_inflight", now))
        return None

    def due(self, now: float) -> list[JobView | Reject]:
        """What becomes of the jobs that were put off until now."""
        answers = []
        while self._put_off and (self._put_off[0][0] <= now or self._put_off[0][2].id not in self._waits):
            _, _, job, following = heappop(self._put_off)
            if job.id in self._waits:
                self._waits.remove(job.id)
                answer = self._judge(job, following, now)
                if answer is not None:
                    answers.append(answer)
        return answers

    def next_due(self) -> float | None:
        """When the next job was put off until, if one was."""
        while self._put_off and self._put_off[0][2].id not in self._waits:
            heappop(self._put_off)
        return self._put_off[0][0] if self._put_off else None

    def _judge(self, job: JobView, first: int, now: float) -> JobView | Reject | None:
        forecast, cluster = self._forecast(job), self._cluster(now)
        for number in range(first, len(self.rules)):
            verdict = self.rules[number].judge(job, forecast, cluster)
            if isinstance(verdict, Refusal):
                if job.pulled:
                    continue
                self._holds.pop(job.id, None)
                self._tell_over(job.id)
                return Reject(job.id, verdict.reason, verdict.retry_after_s)
            if verdict is not None and verdict > now:
                self._number += 1
                self._waits.add(job.id)
                heappush(self._put_off, (verdict, self._number, job, number + 1))
                self._holds.setdefault(job.id, []).append((self._names[number], now))
                return None
        for rule in self.rules:
            rule.passed(job, forecast)
        return self._placed(job, now)

    def served(self, job: int, pool: str, service_s: float, tokens: float) -> None:
        """A call for a job ended."""
        for rule in self.rules:
            rule.served(job, pool, service_s, tokens)

    def over(self, job: JobView) -> JobView | None:
        """A job that was let in reached its end: the job that gets its place, if one waits."""
        self._holds.pop(job.id, None)
        self._tell_over(job.id)
        return self._places.over(job)

    def withdrawn(self, job: int) -> bool:
        """A waiting job does not wait any longer. False: it was not waiting."""
        if job in self._waits:
            self._waits.remove(job)
        elif not self._places.withdrawn(job):
            return False
        self._holds.pop(job, None)
        self._tell_over(job)
        return True

    def _tell_over(self, job: int) -> None:
        for rule in self.rules:
            rule.over(job)

    def check(self, admitted: int) -> None:
        """Assert that the books balance: so many jobs are in."""
        self._places.check(admitted)
        listed = [job.id for _, _, job, _ in self._put_off if job.id in self._waits]
        assert sorted(listed) == sorted(self._waits), "a job that is put off has no time"


ADMITS: Registry[Callable[..., Rule | MaxInflight]] = Registry("admit")
ADMITS["open"] = Open
ADMITS["max_inflight"] = MaxInflight


def _name(rule: Rule) -> str:
    """What a rule goes by on its axis."""
    said = getattr(rule, "name", None)
    return said or next((name for name, made in ADMITS.items() if made is type(rule)), type(rule).__name__)
