"""What came of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sage.events import Event, StageCounted
from sage.graph.values import Record
from sage.runtime.base import JobFailure
from sage.runtime.runs import read_events

if TYPE_CHECKING:
    from sage.runtime.summary import Summary

__all__ = ["MAX_KEPT", "StreamResult"]

#: Failures that are kept for the caller; all of them are counted.
MAX_KEPT = 100


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What a stream gave.

    Attributes:
        records: what came out at its end; empty if that was written away.
        failures: the first records that failed, at most 100.
        num_failed: how many there were.
        counts: stage -> how many records it took, gave, and what became of the others.
        run_id: names the run in ``sage runs``.
        folder: its manifest and event log; None if it was not recorded.
    """

    records: list[Record]
    failures: list[JobFailure]
    num_failed: int
    counts: Mapping[str, StageCounted]
    run_id: str
    folder: Path | None

    @property
    def events(self) -> Iterator[Event]:
        """The run's event log, from its file; empty if it was not recorded."""
        return iter(()) if self.folder is None else read_events(self.folder / "events.jsonl")

    @property
    def metrics(self) -> Summary | None:
        """Everything the event log tells, computed anew; None if it was not recorded."""
        from sage.runtime.summary import summarize

        return None if self.folder is None else summarize(self.events)

    def _repr_html_(self) -> str:
        from sage.graph.html import table_html

        said = ", ".join(f"{name} {count.given:,}" for name, count in self.counts.items())
        return table_html(self.records, f"run {self.run_id}: {said}; {self.num_failed} failed")
