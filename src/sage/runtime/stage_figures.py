"""The stages of a run's stream in figures: a pure function of its event log."""

from __future__ import annotations

import msgspec

from sage.events import Event, StageCounted, StreamSeen

__all__ = ["StageFigures", "StageTally"]


class StageFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: how many records it took, gave, and what became of the others. See ``StageCounted``."""

    stream: str
    stage: str
    kind: str
    reads: tuple[str, ...]
    taken: int = 0
    given: int = 0
    failed: int = 0
    late: int = 0
    dropped: int = 0
    most_pending: int = 0
    unfinished: int = 0
    per_s: float | None = None  # taken, from the stream's begin to the last count of the stage


class StageTally:
    """Remembers the last counts of each stage while a log is read."""

    def __init__(self) -> None:
        self._seen: StreamSeen | None = None
        self._counted: dict[str, StageCounted] = {}

    def add(self, event: Event) -> None:
        """Take one event; those that are not about stages are passed over."""
        if isinstance(event, StageCounted):
            self._counted[event.stage] = event
        elif isinstance(event, StreamSeen):
            self._seen = event

    def figures(self) -> tuple[StageFigures, ...]:
        """In the order of the graph; none if the log has no stream."""
        seen = self._seen
        if seen is None:
            return ()
        return tuple(
            self._figures(seen, number, self._counted.get(stage, StageCounted(seen.t, stage)))
            for number, stage in enumerate(seen.stages)
        )

    def _figures(self, seen: StreamSeen, number: int, counted: StageCounted) -> StageFigures:
        seconds = counted.t - seen.t
        return StageFigures(
            stream=seen.stream,
            stage=counted.stage,
            kind=seen.kinds[number],
            reads=seen.after[number],
            taken=counted.taken,
            given=counted.given,
            failed=counted.failed,
            late=counted.late,
            dropped=counted.dropped,
            most_pending=counted.most_pending,
            unfinished=counted.unfinished,
            per_s=counted.taken / seconds if seconds > 0 else None,
        )
