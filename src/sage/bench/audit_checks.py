"""The checks of an audit: what a cell's folder holds goes in, why it cannot be true comes out. Pure."""

from __future__ import annotations

import importlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from sage.bench.arrivals import Timetable
from sage.bench.records import Request, requests_of
from sage.bench.results import StoredCell
from sage.events import Event, JobEnded, RunEnded, TaskEnded
from sage.registry import Registry
from sage.runtime.figures import LEAST
from sage.runtime.manifest import Manifest, packages

__all__ = ["CHECKS", "FIGURES", "REPEATS", "Evidence", "differences"]

LITTLE = 0.05  # how far throughput times latency may be from the mean in flight
SLACK_S = 1e-6  # of times that were subtracted from each other
STEP_S = 1e-3  # by which a clock that goes back is noticed


@dataclass(frozen=True)
class Evidence:
    """What a cell's folder holds. Parts are read when a check first asks for them."""

    experiment: str
    cell: StoredCell

    @cached_property
    def manifest(self) -> Manifest:
        """Of its run."""
        return self.cell.run()

    @cached_property
    def events(self) -> list[Event]:
        """Its log."""
        return list(self.cell.events())

    @cached_property
    def requests(self) -> list[Request]:
        """Its requests, warm-up too."""
        return self.cell.requests()

    @cached_property
    def counted(self) -> list[Request]:
        """Those that figures are made of."""
        return [request for request in self.requests if not request.warmup]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Its figures, as they stand in the file."""
        return self.cell.summary(dict[str, Any])

    @cached_property
    def tasks(self) -> list[TaskEnded]:
        """The calls in its log."""
        return [event for event in self.events if isinstance(event, TaskEnded)]

    @cached_property
    def ends(self) -> list[JobEnded]:
        """The ends of jobs in its log."""
        return [event for event in self.events if isinstance(event, JobEnded)]

    @property
    def closed_loop(self) -> Mapping[str, Any] | None:
        """The arrivals, if they are those of one closed loop; None: of an open one or several, or not known."""
        said = self.manifest.arguments
        setup = said.get("setup")
        loads = setup.get("loads", ()) if isinstance(setup, Mapping) else [said]
        arrivals = loads[0].get("arrivals") if len(loads) == 1 else None
        is_closed = isinstance(arrivals, Mapping) and arrivals.get("process") == "closed"
        return arrivals if is_closed else None

    @property
    def clients(self) -> int | None:
        """Of a closed loop, how many."""
        loop = self.closed_loop
        return None if loop is None else loop.get("clients")


Check = Callable[[Evidence], Iterator[str]]

#: Why a result may be refused, in the order the checks are made.
CHECKS: Registry[Check] = Registry("check")

#: Experiment -> from its evidence to its summary, computed anew. Others' summaries are only checked for their order.
#: Named as (module, function), imported when one is checked.
FIGURES: Registry[tuple[str, str]] = Registry("figures of an experiment")


#: Experiment -> from it and one of its simulated cells to the cell's summary, made by running the cell again. Its cells
#: may do without logs: a simulation gives the same log to the byte. Named as above.
REPEATS: Registry[tuple[str, str]] = Registry("repeat of an experiment")


def _hashes(evidence: Evidence) -> Iterator[str]:
    """Files are what the manifest says they are."""
    hashes = evidence.cell.manifest.sha256
    if "events.jsonl" not in hashes:
        yield "the manifest has no hash of events.jsonl"
    fault = evidence.cell.fault()
    if fault is not None:
        yield fault


def _ended(evidence: Evidence) -> Iterator[str]:
    """The run is over, and says the same everywhere."""
    status = evidence.manifest.status
    if status == "running":
        yield "the run never ended: its manifest still says 'running'; it was killed"
    elif status == "audit_failed":
        yield "an earlier audit refused it"
    if not evidence.events or not isinstance(evidence.events[-1], RunEnded):
        yield "the log has no last line: it was cut"
    said = evidence.summary.get("status")
    if said is not None and said != status:
        yield f"the manifest says {status!r}, the summary {said!r}"


def _conservation(evidence: Evidence) -> Iterator[str]:
    """Every request that was sent has exactly one end, in every file."""
    ends = Counter(end.job for end in evidence.ends)
    for job, count in ends.items():
        if count > 1:
            yield f"job {job} ended {count} times"
    known = (
        ends.keys() | {task.job for task in evidence.tasks} | {request.id for request in evidence.requests}
    )
    lost = sorted(set(range(max(known, default=-1) + 1)) - ends.keys())
    if lost:
        yield f"{len(lost)} of {max(known) + 1} jobs never ended, first job {lost[0]}"
    seen = Counter(request.id for request in evidence.requests)
    missing, twice = (
        sorted(ends.keys() - seen.keys()),
        sorted(job for job, count in seen.items() if count > 1),
    )
    if missing:
        yield f"{len(missing)} jobs of the log are no request, first job {missing[0]}"
    if twice:
        yield f"request {twice[0]} stands {seen[twice[0]]} times"
    counts = {outcome: number for outcome, number in evidence.manifest.counts.items() if number}
    logged = dict(Counter(str(end.outcome) for end in evidence.ends))
    if counts != logged:
        yield f"the manifest counts {counts}, the log {logged}"
    planned = evidence.manifest.arguments.get("num_requests")
    if evidence.manifest.status == "complete" and isinstance(planned, int) and planned != len(evidence.ends):
        yield f"{planned} requests were to be sent, {len(evidence.ends)} were, and yet the run is 'complete'"


def _order(evidence: Evidence) -> Iterator[str]:
    """No time comes before the one it follows."""
    for request in evidence.requests:
        times = (
            request.scheduled,
            request.handed,
            request.dispatched,
            request.first,
            request.last,
            request.ended,
        )
        if not _rises(times):
            yield f"request {request.id}: scheduled, handed, dispatched, first, last, ended are {_shown(times)}"
        elif not _rises(request.chunks):
            yield f"request {request.id}: its chunks came at {_shown(request.chunks)}"
    for task in evidence.tasks:
        moments = (task.ready, task.dispatched, task.first, *task.pieces[-1:], task.t)
        if not _rises(moments):
            yield f"job {task.job}, step {task.step!r}: ready, dispatched, first, last, ended are {_shown(moments)}"
    for end in evidence.ends:
        if not _rises((end.arrived, end.admitted, end.t)):
            yield f"job {end.job}: arrived, admitted, ended are {_shown((end.arrived, end.admitted, end.t))}"
    for earlier, later in itertools.pairwise(evidence.events):
        if later.t < earlier.t - STEP_S:
            yield f"the clock went back: an event at {earlier.t:.6f} s is followed by one at {later.t:.6f} s"


def _requests(evidence: Evidence) -> Iterator[str]:
    """Requests say what the log says."""
    due = {request.id: request.scheduled for request in evidence.requests}
    logged = requests_of(evidence.events, due)
    for request, wanted in zip(evidence.requests, logged, strict=False):
        for field in Request.__struct_fields__:
            got, expected = getattr(request, field), getattr(wanted, field)
            if got != expected and field != "warmup":
                yield f"request {request.id}: {field} is {_brief(got)}, in the log {_brief(expected)}"
                break


def _schedule(evidence: Evidence) -> Iterator[str]:
    """Requests were due when the schedule says, which is the one that was drawn."""
    file = evidence.cell.path / "schedule.json"
    wanted = evidence.manifest.arguments.get("schedule_sha256")
    if not file.exists() or wanted is None:
        return
    try:
        table = msgspec.json.decode(file.read_bytes(), type=Timetable)
    except (OSError, msgspec.MsgspecError) as error:
        yield f"schedule.json cannot be read: {error}"
        return
    if table.schedule.sha256 != wanted:
        yield f"schedule.json holds another schedule: SHA-256 {table.schedule.sha256[:12]}…, expected {wanted[:12]}…"
    if table.schedule.clients is not None or not evidence.requests:
        return
    start = evidence.requests[0].scheduled - table.due[0]
    for request, due in zip(evidence.requests, table.due, strict=False):
        if abs(request.scheduled - start - due) > SLACK_S:
            yield f"request {request.id} was due at {start + due:.6f} s, and says {request.scheduled:.6f} s"


def _limit(evidence: Evidence) -> Iterator[str]:
    """No call was sent to an endpoint that had as many as it may have."""
    limits = evidence.manifest.limits
    calls: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    together: defaultdict[tuple[str, float, int], list[float]] = defaultdict(list)
    for task in evidence.tasks:
        if task.batch > 1:
            together[task.endpoint, task.dispatched, task.batch].append(task.t)
        else:
            calls[task.endpoint].append((task.dispatched, task.t))
    for (endpoint, dispatched, batch), times in together.items():
        ordered = sorted(times)
        calls[endpoint] += [(dispatched, ordered[-1])] * math.ceil(len(ordered) / batch)
    for endpoint, spans in calls.items():
        limit = limits.get(endpoint)
        if not limits:
            return  # a loop without a scheduler has none
        if limit is None:
            yield f"endpoint {endpoint!r} was called, but the manifest does not know it"
            continue
        changes = sorted([(start, 1) for start, _ in spans] + [(max(start, end), -1) for start, end in spans])
        under_way = 0
        for time, change in changes:
            if change > 0 and under_way >= limit:
                yield f"endpoint {endpoint!r} was sent a call at {time:.6f} s while it had {under_way} of {limit}"
                break
            under_way += change


def _little(evidence: Evidence) -> Iterator[str]:
    """Throughput times latency is what was in flight (Little, Operations Research, 1961)."""
    rate, latency, share = _said(evidence.summary)
    done = [request for request in evidence.counted if request.outcome == "done"]
    clients = evidence.clients
    if rate is not None and latency is not None and done:
        window_s = max(r.ended for r in evidence.counted) - min(r.scheduled for r in evidence.counted)
        in_flight = math.fsum(_spans(evidence, done)) / window_s if window_s > 0 else 0.0
        if abs(share * rate * latency - in_flight) > LITTLE * in_flight:
            yield (
                f"throughput x latency is {share * rate:.4g} x {latency:.4g} s = {share * rate * latency:.3g}, "
                f"but {in_flight:.3g} were in flight"
            )
        if clients is not None and rate * latency > clients * (1 + LITTLE):
            yield f"throughput x latency is {rate * latency:.3g}, of {clients} clients"
    if clients is not None and done:
        yield from _clients(evidence, clients)


def _spans(evidence: Evidence, done: Sequence[Request]) -> Iterator[float]:
    """How long each request took by the log, counted as its summary counts latency."""
    ends = {end.job: end.t for end in evidence.ends}
    calls = _grouped(evidence.tasks)
    for request in done:
        end = ends.get(request.id, request.ended)
        if "requests_per_s" not in evidence.summary:
            yield end - request.scheduled
        elif request.id in calls:
            own = calls[request.id]
            last = max(own, key=lambda call: call.t)
            yield (last.pieces[-1] if last.pieces else end) - min(call.dispatched for call in own)


def _clients(evidence: Evidence, clients: int) -> Iterator[str]:
    """As long as there was work, every client of a closed loop had a request."""
    start = min(request.scheduled for request in evidence.counted)
    end = max(request.scheduled for request in evidence.counted)
    think_s = (evidence.closed_loop or {}).get("think_s") or 0.0
    if end <= start or len(evidence.counted) < 2 * clients:
        return
    busy = math.fsum(
        max(0.0, min(request.ended + think_s, end) - max(request.scheduled, start))
        for request in evidence.requests
    )
    used = busy / (end - start)
    if abs(used - clients) > LITTLE * clients:
        yield f"{clients} clients, but {used:.3g} were busy on average while there was work"


def _idle(evidence: Evidence) -> Iterator[str]:
    """Balance is over all configured endpoints, idle ones too."""
    for pool, endpoints in evidence.manifest.engines.items():
        by_pool = evidence.summary.get("balance") or evidence.summary.get("pools")
        told = by_pool.get(pool) if isinstance(by_pool, Mapping) else None
        if not isinstance(told, Mapping):
            continue
        nodes = told["n"] if "n" in told else len(told.get("tasks", endpoints))
        if nodes != len(endpoints):
            yield f"the balance of pool {pool!r} is over {nodes} endpoints of {len(endpoints)}"


def _percentiles(evidence: Evidence) -> Iterator[str]:
    """Percentiles are in order, within their sample, and none stands on a sample that is too small."""
    names = ["min", *LEAST, "max"]
    for where, stat in _stats(evidence.summary, ""):
        known = [(name, stat[name]) for name in names if isinstance(stat.get(name), int | float)]
        for (name, value), (other, more) in itertools.pairwise(known):
            if more < value:
                yield f"{where}: {other} {more:.6g} is below {name} {value:.6g}"
        for name, (_, least) in LEAST.items():
            if stat.get(name) is not None and stat["n"] < least:
                yield f"{where}: {name} from a sample of {stat['n']}, which needs {least}"
        mean, low, high = (stat.get(name) for name in ("mean", "min", "max"))
        if (
            mean is not None
            and low is not None
            and high is not None
            and not low - SLACK_S <= mean <= high + SLACK_S
        ):
            yield f"{where}: the mean {mean:.6g} is outside {low:.6g} to {high:.6g}"


def _figures(evidence: Evidence) -> Iterator[str]:
    """Every figure is what its files give."""
    if evidence.experiment not in FIGURES:
        return
    module, function = FIGURES[evidence.experiment]
    figures: Callable[[Evidence], Any] = getattr(importlib.import_module(module), function)
    computed = msgspec.json.decode(msgspec.json.encode(figures(evidence)))
    same_version = evidence.manifest.sage == packages().get("sage-dataflow", "")
    for where, got, wanted in differences(evidence.summary, computed, ""):
        if where.startswith("flags/") or not (same_version or _are_numbers(got, wanted)):
            continue  # another SAGE may have other words, and other figures besides
        yield f"{where} is {_brief(got)}, its files give {_brief(wanted)}"


def _vacuous(evidence: Evidence) -> Iterator[str]:
    """Something was measured."""
    if not evidence.counted:
        yield "no request was counted: nothing was measured"
    elif not any(request.outcome == "done" for request in evidence.counted):
        yield f"none of {len(evidence.counted)} requests was answered: there is nothing to report"


def _rises(times: Iterable[float | None]) -> bool:
    known = [time for time in times if time is not None]
    return all(later >= earlier - SLACK_S for earlier, later in itertools.pairwise(known))


def _shown(times: Sequence[float | None]) -> str:
    return ", ".join("-" if time is None else f"{time:.6f}" for time in times[:8])


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _grouped(tasks: Iterable[TaskEnded]) -> dict[int, list[TaskEnded]]:
    found: dict[int, list[TaskEnded]] = {}
    for task in tasks:
        found.setdefault(task.job, []).append(task)
    return found


def _said(summary: Mapping[str, Any]) -> tuple[float | None, float | None, float]:
    """Throughput and mean latency, by the names that our suites give them, and the share of jobs with a latency."""
    rate = summary.get("requests_per_s", summary.get("jobs_per_s"))
    latency = summary.get("e2e_s") or {}
    said = summary.get("requests") or summary.get("jobs")
    outcomes = said if isinstance(said, Mapping) else {}  # a suite may say how many there were, and no more
    return rate, latency.get("mean"), latency.get("n", 0) / (outcomes.get("done") or 1)


def _stats(content: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every sample in figures inside some JSON data, with its place."""
    if isinstance(content, Mapping):
        if "p50" in content and "n" in content:
            yield where, content
        for name, inner in content.items():
            yield from _stats(inner, f"{where}/{name}" if where else str(name))
    elif isinstance(content, list):
        for number, inner in enumerate(content):
            yield from _stats(inner, f"{where}/{number}")


def _are_numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def differences(got: Any, wanted: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two pieces of JSON data differ: the place, then the one and the other."""
    if isinstance(got, Mapping) and isinstance(wanted, Mapping):
        for name in sorted(got.keys() | wanted.keys()):
            yield from differences(got.get(name), wanted.get(name), f"{where}/{name}" if where else str(name))
    elif isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
            yield from differences(one, other, f"{where}/{number}")
    elif got != wanted:
        yield where, got, wanted


CHECKS["hashes"] = _hashes
CHECKS["ended"] = _ended
CHECKS["conservation"] = _conservation
CHECKS["order"] = _order
CHECKS["requests"] = _requests
CHECKS["schedule"] = _schedule
CHECKS["limit"] = _limit
CHECKS["little"] = _little
CHECKS["idle"] = _idle
CHECKS["percentiles"] = _percentiles
CHECKS["figures"] = _figures
CHECKS["vacuous"] = _vacuous
FIGURES["serve"] = ("sage.bench.load_run", "recomputed")
for _name in ("concurrency", "complexity", "pipelines", "stagger", "nodes"):
    FIGURES[_name] = ("sage.bench.cell_figures", "recomputed")
REPEATS["policies"] = ("sage.bench.suites.policies", "repeated")
for _name in ("agent-selection", "agent-planning", "agent-timing"):
    FIGURES[_name] = ("sage.bench.agent_report", "recomputed")
