"""When jobs arrive: drawn from a seed, or replayed from a trace, before anything runs.

A schedule is plain data with a hash. Two runs with equal hashes met the same load.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.bench.traces import Asked, read_trace
from sage.errors import InputError
from sage.registry import Registry

__all__ = ["PROCESSES", "Arrivals", "Asked", "Schedule", "Timetable", "draw"]


class Arrivals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How jobs come. ``process`` names it; the other fields are its arguments, see PROCESSES.

    Attributes:
        rate: jobs a second, on average over the schedule. For a trace, None keeps its own.
        jobs: how many come; for a trace at most so many.
        duration_s: come within so many seconds; with ``jobs``, whichever is reached first.
        clients: of a closed loop, each sends its next job when its last is over.
        think_s: of a closed loop, from the end of a job to the next.
        burstiness: of gamma, the shape: 1 is Poisson, less is burstier, more is more regular.
        size: of a burst, jobs at the same moment.
        to_rate: of a ramp, jobs a second at its end.
        trace: file to replay: Azure CSV, Mooncake JSONL, or calls of agents.
    """

    process: str = "poisson"
    rate: float | None = None
    jobs: int | None = None
    duration_s: float | None = None
    clients: int | None = None
    think_s: float = 0.0
    burstiness: float | None = None
    size: int | None = None
    to_rate: float | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Jobs to come, in the order of their times.

    Attributes:
        times: seconds from the beginning, never falling; of a closed loop all 0.
        asked: what each asks, where a trace says; else empty.
        clients: of a closed loop, jobs at once; None: an open loop.
        think_s: of a closed loop, between a client's jobs.
        sha256: of all this.
    """

    times: tuple[float, ...]
    asked: tuple[Asked, ...] = ()
    clients: int | None = None
    think_s: float = 0.0

    @property
    def sha256(self) -> str:
        """A name for this load: equal schedules have equal ones."""
        content = msgspec.json.encode((self.times, self.asked, self.clients, self.think_s))
        return hashlib.sha256(content).hexdigest()


class Timetable(msgspec.Struct, frozen=True):
    """A schedule, and when everything that was sent for it was due: warm-up first. Stored beside a load's log."""

    schedule: Schedule
    due: tuple[float, ...]  # seconds from the beginning; of a closed loop all 0

    @property
    def num_warmups(self) -> int:
        """How many of the first ones are not of the schedule."""
        return len(self.due) - len(self.schedule.times)


#: From arguments and a seeded source to the times of arrival, endless, from 0 on, of any rate.
Process = Callable[[Arrivals, random.Random], Iterator[float]]

#: How jobs come, by name. None: not drawn, but made by the clients or read from a trace.
PROCESSES: Registry[Process | None] = Registry("process of arrivals")

#: The arguments that each process takes beside ``rate``, ``jobs`` and ``duration_s``.
TAKES: dict[str, frozenset[str]] = {
    "closed": frozenset({"clients", "think_s"}),
    "constant": frozenset(),
    "poisson": frozenset(),
    "gamma": frozenset({"burstiness"}),
    "burst": frozenset({"size"}),
    "ramp": frozenset({"to_rate"}),
    "trace": frozenset({"trace"}),
}


def draw(arrivals: Arrivals, seed: int | str, *, load: float = 1.0) -> Schedule:
    """The schedule of a process; the same for the same arguments.

    Args:
        arrivals: the process.
        seed: of its draws.
        load: multiplies the rate; of a closed loop the clients, rounded.

    >>> schedule = draw(Arrivals(process="constant", rate=2.0, jobs=3), seed=0)
    >>> schedule.times
    (0.0, 0.5, 1.0)

    Raises:
        InputError: an argument is missing, out of its range, or not for this process.
    """
    _check(arrivals, load)
    process = PROCESSES[arrivals.process]
    if process is None and arrivals.trace is not None:
        return _replayed(arrivals, load)
    if process is None:
        clients = max(1, round((arrivals.clients or 1) * load))
        return Schedule((0.0,) * (arrivals.jobs or 0), (), clients, arrivals.think_s)
    rate = (arrivals.rate or 0.0) * load
    mean = rate if arrivals.to_rate is None else (rate + arrivals.to_rate * load) / 2
    count = min(
        arrivals.jobs or 1 << 62,
        1 << 62 if arrivals.duration_s is None else max(1, round(arrivals.duration_s * mean)),
    )
    drawn = process(arrivals, random.Random(f"{seed}/{arrivals.process}"))
    times = list(itertools.islice(drawn, count + 1))
    return Schedule(tuple(_rescaled(times, count / mean)))


def _rescaled(times: list[float], span_s: float) -> list[float]:
    """All but the last of some times, stretched so that the last would stand at the end of the span.

    So N jobs come in N / rate seconds exactly, whatever was drawn.
    """
    factor = span_s / times[-1] if times[-1] > 0 else 0.0
    return [time * factor for time in times[:-1]]


def _replayed(arrivals: Arrivals, load: float) -> Schedule:
    assert arrivals.trace is not None
    asked = read_trace(Path(arrivals.trace))
    if arrivals.jobs is not None:
        asked = asked[: arrivals.jobs]
    times = [one.at_s - asked[0].at_s for one in asked]
    factor = 1 / load
    if arrivals.rate is not None and times[-1] > 0:
        factor /= arrivals.rate * times[-1] / (len(times) - 1)
    times = [time * factor for time in times]
    if arrivals.duration_s is not None:
        times = [time for time in times if time < arrivals.duration_s]
    return Schedule(tuple(times), tuple(asked[: len(times)]))


# --- processes -----------------------------------------------------------------------------------------


def _constant(_arrivals: Arrivals, _rng: random.Random) -> Iterator[float]:
    return map(float, itertools.count())


def _poisson(_arrivals: Arrivals, rng: random.Random) -> Iterator[float]:
    return itertools.accumulate(rng.expovariate(1.0) for _ in itertools.count())


def _gamma(arrivals: Arrivals, rng: random.Random) -> Iterator[float]:
    shape = arrivals.burstiness or 1.0
    return itertools.accumulate(rng.gammavariate(shape, 1 / shape) for _ in itertools.count())


def _burst(arrivals: Arrivals, _rng: random.Random) -> Iterator[float]:
    size = arrivals.size or 1
    return (float(number // size * size) for number in itertools.count())


def _ramp(arrivals: Arrivals, rng: random.Random) -> Iterator[float]:
    """Poisson arrivals whose rate rises or falls evenly: a unit process through the inverse of the mean count.

    Inversion after Çinlar, "Introduction to Stochastic Processes", 1975, section 4.7.
    """
    low, high = arrivals.rate or 1.0, arrivals.to_rate or 1.0
    mean = (low + high) / 2
    count = arrivals.jobs or math.inf
    if arrivals.duration_s is not None:
        count = min(count, max(1, round(arrivals.duration_s * mean)))
    span_s = count / mean
    slope = (high - low) / span_s
    for passed in _poisson(arrivals, rng):
        if abs(slope) < 1e-12:
            yield passed / low
        else:
            yield (math.sqrt(max(0.0, low * low + 2 * slope * passed)) - low) / slope


PROCESSES["closed"] = None
PROCESSES["constant"] = _constant
PROCESSES["poisson"] = _poisson
PROCESSES["gamma"] = _gamma
PROCESSES["burst"] = _burst
PROCESSES["ramp"] = _ramp
PROCESSES["trace"] = None


# --- what may be said ----------------------------------------------------------------------------------


def _check(arrivals: Arrivals, load: float) -> None:
    process = arrivals.process
    _ = PROCESSES[process]
    given = {
        name
        for name in Arrivals.__struct_fields__
        if getattr(arrivals, name) != getattr(Arrivals(), name) and name != "process"
    }
    allowed = TAKES[process] | {"jobs", "duration_s", "rate"}
    if process == "closed":
        allowed -= {"rate", "duration_s"}
    wrong = sorted(given - allowed)
    if wrong:
        raise InputError(
            f"arrivals: {process!r} takes no {wrong[0]!r}; it takes {', '.join(sorted(allowed))}"
        )
    needed = sorted((TAKES[process] - {"think_s"}) | (set() if process in {"closed", "trace"} else {"rate"}))
    missing = [name for name in needed if name not in given]
    if missing:
        raise InputError(f"arrivals: {process!r} needs {missing[0]!r}")
    if process == "closed" and arrivals.jobs is None:
        raise InputError("arrivals: 'closed' needs 'jobs', how many there are in all")
    if process not in {"closed", "trace"} and arrivals.jobs is None and arrivals.duration_s is None:
        raise InputError(f"arrivals: {process!r} has no end; say 'jobs' or 'duration_s'")
    numbers = {name: getattr(arrivals, name) for name in given - {"trace"}} | {"load": load}
    for name, value in numbers.items():
        if not 0 < value < math.inf and not (name == "think_s" and value == 0):
            raise InputError(f"arrivals: {name} is {value}, expected a number above 0")
