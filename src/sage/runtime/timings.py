"""What ``explain`` finds, as data: JSON by ``msgspec.json.encode``. Times are in seconds, shares from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sage.runtime.figures import Stat
from sage.runtime.stage_figures import StageFigures
from sage.runtime.trail import Part

__all__ = ["Blocking", "EndpointTime", "Explanation", "Finding", "PathShare", "SlowJob", "StepTime"]


class StepTime(msgspec.Struct, frozen=True, kw_only=True):
    """One step over all jobs; or, ``is_inside``, one kind of call in the body of a step, with counts of calls only."""

    pipeline: str
    step: str  # inside a body with the path to it: "notes[*].answer"
    operator: str  # "" if it is inside
    is_inside: bool
    pools: tuple[str, ...]  # that its calls went to
    n: int  # times it ran; inside, calls
    share: float | None  # of the time of all steps, added up
    path_share: float | None  # of the time of all jobs that were done, that it held on their critical path
    path_jobs: int  # on whose critical path it lay
    path_s: Mapping[str, float]  # its time there: waited, queued, paused, service, other, shared
    time_s: Stat  # ready to done
    waited_s: Stat  # its inputs were there, it had not begun
    queue_s: Stat  # per call: could be sent to was sent; pauses before retries left out
    service_s: Stat  # per call: sent to answered
    first_s: Stat  # per call: sent to first token
    calls: int  # every attempt
    failed_calls: int
    retries: int
    reused: int  # calls that were not made, because the answer was there or under way
    failed_jobs: int  # that failed in it
    prompt_tokens: int
    completion_tokens: int
    sent_alone: int = 0  # calls with one task, while others of the step waited
    waiting_then: float | None = None  # how many waited, on average of these

    @property
    def held_s(self) -> float:
        """Its time on critical paths."""
        return sum(self.path_s.values())


class EndpointTime(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint over the run's window, first arrival to last end."""

    pool: str
    endpoint: str
    tasks: Mapping[str, int]  # outcome -> tasks
    faults: Mapping[str, int]  # what failed tasks failed with, most frequent first
    calls: int
    retries: int  # tasks that were here for their second attempt or a later one
    busy_s: float  # length of all calls, added up
    in_flight: float | None  # calls at once, on average: busy_s / window
    limit: int | None  # calls at once; None if the manifest does not say
    utilisation: float | None  # in_flight / limit
    batch: Stat  # tasks that travelled together, per task; only n if every task went alone


class PathShare(msgspec.Struct, frozen=True, kw_only=True):
    """One critical path, and how many of the jobs that were done took it."""

    pipeline: str
    steps: tuple[str, ...]
    jobs: int


class SlowJob(msgspec.Struct, frozen=True, kw_only=True):
    """One of the slowest jobs that were done."""

    job: int
    pipeline: str
    e2e_s: float
    outside_s: float  # before it was admitted
    path: tuple[Part, ...]


class Blocking(msgspec.Struct, frozen=True, kw_only=True):
    """An inline step that held everything else up while it ran."""

    pipeline: str
    step: str
    time_s: Stat  # ready to done; nothing for a step inside a body
    window_share: float | None  # of the run's window, in which nothing else went on


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to change, by a rule, with the numbers it rests on."""

    rule: str
    text: str
    numbers: Mapping[str, float]
    weight: float  # what findings are ordered by: about the share of all jobs' time that it bears on


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a run went."""

    status: str  # of the log: complete, partial or failed; "unfinished" without a last line
    jobs: Mapping[str, int]  # outcome -> jobs
    window_s: float  # first arrival to last end
    e2e_s: Stat  # arrival to end, of jobs that were done
    all_e2e_s: float  # the same, added up: what shares of critical paths are shares of
    outside_share: float | None  # of it, before admission
    after_share: float | None  # of it, after the last step
    steps: tuple[StepTime, ...]
    endpoints: tuple[EndpointTime, ...]
    paths: tuple[PathShare, ...]  # the most frequent
    slowest: tuple[SlowJob, ...]
    blocking: tuple[Blocking, ...]
    stages: tuple[StageFigures, ...] = ()  # of its stream, if it is one
    advice: tuple[Finding, ...] = ()  # what to change first, at most three
    note: str = ""  # how far the advice carries, or why there is none
