"""What a session is doing, as text that Prometheus reads (exposition format 0.0.4).

Gauges are the scheduler's at this moment. Counters come from the events of recorded runs, counted as they leave
for the log, so that they say the same as the log does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from sage.events import Event, JobEnded, TaskEnded, TaskRetried, TaskReused
from sage.scheduling.views import Snapshot

__all__ = ["EventCounts", "exposition"]

Labels = tuple[str, ...]


_WHAT_ENDED = attrgetter("pipeline", "outcome")


class EventCounts:
    """Counts events since the session began. ``add`` takes each event once, in chunks."""

    def __init__(self) -> None:
        self.jobs: Counter[Labels] = Counter()  # pipeline, outcome
        self.tasks: Counter[Labels] = Counter()  # pool, endpoint, outcome
        self.tokens: Counter[Labels] = Counter()  # pool, endpoint, kind
        self.retries: Counter[Labels] = Counter()  # endpoint
        self.reused: Counter[Labels] = Counter()  # source

    def add(self, events: Sequence[Event]) -> None:
        """Count these too."""
        ended = [event for event in events if type(event) is JobEnded]
        self.jobs.update(
            map(_WHAT_ENDED, ended)
        )  # at once: of inline pipelines there are hundreds of thousands a second
        if len(ended) == len(events):
            return
        for event in events:
            if type(event) is TaskEnded:
                end = (event.pool, event.endpoint)
                self.tasks[*end, event.outcome] += 1
                self.tokens[*end, "prompt"] += event.prompt_tokens
                self.tokens[*end, "completion"] += event.completion_tokens
                self.tokens[*end, "cached"] += event.cached_tokens
            elif type(event) is TaskRetried:
                self.retries[event.endpoint,] += 1
            elif type(event) is TaskReused:
                self.reused[event.source,] += 1


def exposition(snapshot: Snapshot, counts: EventCounts | None) -> str:
    """The text; without counts where nothing is recorded.

    >>> print(exposition(Snapshot(2, 0, {"llm": 3}, 0, 1, ()), None).splitlines()[2])
    sage_jobs_admitted 2
    """
    ends = snapshot.endpoints
    lines = [
        *_family("sage_jobs_admitted", "gauge", "Jobs let in and not over.", (), {(): snapshot.admitted}),
        *_family(
            "sage_jobs_waiting",
            "gauge",
            "Jobs that arrived and are not let in yet.",
            (),
            {(): snapshot.waiting},
        ),
        *_family(
            "sage_tasks_queued",
            "gauge",
            "Calls that wait for a place at an endpoint.",
            ("pool",),
            {(pool,): count for pool, count in snapshot.queued.items()},
        ),
        *_family(
            "sage_tasks_delayed",
            "gauge",
            "Calls that wait for their next attempt.",
            (),
            {(): snapshot.delayed},
        ),
        *_family(
            "sage_tasks_running",
            "gauge",
            "Calls under way, each of a batch counted.",
            (),
            {(): snapshot.running},
        ),
        *_family(
            "sage_endpoint_limit",
            "gauge",
            "Calls at once that an endpoint takes.",
            ("pool", "endpoint"),
            {(end.pool, end.name): end.limit for end in ends},
        ),
        *_family(
            "sage_endpoint_in_flight",
            "gauge",
            "Calls under way at an endpoint.",
            ("pool", "endpoint"),
            {(end.pool, end.name): end.in_flight for end in ends},
        ),
        *_family(
            "sage_endpoint_healthy",
            "gauge",
            "1 if an endpoint takes new calls, 0 if it is draining or held back after failures.",
            ("pool", "endpoint"),
            {(end.pool, end.name): int(end.state == "healthy") for end in ends},
        ),
    ]
    if counts is not None:
        lines += [
            *_family(
                "sage_jobs_total",
                "counter",
                "Jobs of recorded runs that ended.",
                ("pipeline", "outcome"),
                counts.jobs,
            ),
            *_family(
                "sage_tasks_total",
                "counter",
                "Calls that ended, every attempt.",
                ("pool", "endpoint", "outcome"),
                counts.tasks,
            ),
            *_family(
                "sage_tokens_total",
                "counter",
                "Tokens by kind; cached ones are prompt tokens too.",
                ("pool", "endpoint", "kind"),
                counts.tokens,
            ),
            *_family(
                "sage_retries_total",
                "counter",
                "Calls that failed and were made again.",
                ("endpoint",),
                counts.retries,
            ),
            *_family(
                "sage_reused_total",
                "counter",
                "Calls that were not made, because the answer was there or under way.",
                ("source",),
                counts.reused,
            ),
        ]
    return "\n".join(lines) + "\n"


def _family(
    name: str, kind: str, about: str, labels: Labels, values: Mapping[Labels, float]
) -> Iterable[str]:
    """One metric with its samples."""
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for key, value in sorted(values.items()):
        said = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(labels, key, strict=True))
        yield f"{name}{{{said}}} {value}" if said else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
