"""Whether: which jobs are let in, and when."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from sage.errors import InputError
from sage.registry import Registry
from sage.scheduling.views import JobView

__all__ = ["ADMITS", "MaxInflight"]


class Run:
    """The jobs of one run, as admission counts them."""

    __slots__ = ("admitted", "limit", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.admitted = 0
        self.waiting: OrderedDict[int, JobView] = OrderedDict()


class MaxInflight:
    """At most so many jobs of a run at once. The others wait in the order they came; none is rejected.

    The source is pulled no faster than jobs are let in, so the number that wait is the caller's to bound.
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


ADMITS: Registry[Callable[..., MaxInflight]] = Registry("admit")
ADMITS["max_inflight"] = MaxInflight
