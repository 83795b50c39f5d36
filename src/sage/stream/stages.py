"""What stages do with records: they take lists of them and give lists on, at once, to whatever reads them.

A list is handed down the graph in one go, as far as stages need not wait; where they do (a pipeline's jobs, a slow
sink) it stops at an inbox. Whoever pulls from a source looks at the gates below it before pulling more, so a slow end
holds the sources back and nothing grows without bound. A list that was given is not changed any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from sage.errors import InputError
from sage.events import StageCounted
from sage.graph.values import Record
from sage.runtime.base import JobFailure
from sage.stream.calls import step_error

__all__ = ["CHUNK", "Gate", "Host", "Inbox", "Items", "Stage", "place_of", "room"]

#: Records handed on together at most, where a stage makes them.
CHUNK = 512

Items = list[Record]


class Gate(Protocol):
    """A place where records may have to wait."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more should come for now."""

    async def room(self) -> None:
        """Wait until that is over."""


async def room(gates: Iterable[Gate]) -> None:
    """Wait until no gate is full."""
    for gate in gates:
        if gate.is_full:
            await gate.room()


class Inbox:
    """Records on their way into a stage that may have to wait, on one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lists: deque[Items] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._ended = False
        self.num_records = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more should come for now."""
        return self.num_records >= self._limit

    def put(self, items: Items) -> None:
        """Keep some for the stage."""
        self._lists.append(items)
        self.num_records += len(items)
        self._filled.set()

    def end(self) -> None:
        """No more come."""
        self._ended = True
        self._filled.set()

    async def room(self) -> None:
        """Wait until that is over."""
        while self.is_full:
            self._emptied.clear()
            await self._emptied.wait()

    async def next(self) -> Items | None:
        """The next list; None at the end."""
        while not self._lists:
            if self._ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        items = self._lists.popleft()
        self.num_records -= len(items)
        self._emptied.set()
        return items


class Host(Protocol):
    """What a stage may ask of the flow it is in."""

    @property
    def is_cut(self) -> bool:
        """Whether the sources were stopped before their end: what is not complete is not given."""

    @property
    def is_stopped(self) -> bool:
        """Whether that was asked for: then jobs that have not begun do not begin any more."""

    def failed(self, failure: JobFailure) -> None:
        """Tell that a record came to nothing."""

    def satisfied(self) -> None:
        """Tell that a stage wants nothing more, so that sources which nothing else reads may stop."""


class Stage:
    """One node at work. Subclasses say what happens in ``take`` and ``finish``."""

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.taken = self.given = self.failed = self.late = self.dropped = 0
        self.most_pending = self.unfinished = 0
        self.num_inputs = 0
        self._num_ended = 0
        self._targets: dict[str, list[tuple[Stage, int]]] = {}
        self._out: list[tuple[Stage, int]] = []  # those of the first port

    # ---- wiring

    def connect(self, port: str, target: Stage, number: int) -> None:
        """Let another stage read a port, as its input of that number."""
        self._targets.setdefault(port, []).append((target, number))
        self._out = self._targets.get("", [])

    def has_reader(self, port: str) -> bool:
        """Whether anyone reads a port."""
        return port in self._targets

    def inlets(self, _number: int, /) -> list[Gate]:
        """What has to have room before records may come in here."""
        return self.outlets()

    def outlets(self) -> list[Gate]:
        """What has to have room before records may go out."""
        found: dict[int, Gate] = {}
        for targets in self._targets.values():
            for target, number in targets:
                found |= {id(gate): gate for gate in target.inlets(number)}
        return list(found.values())

    @property
    def is_done(self) -> bool:
        """Whether nothing that is given from here on can matter."""
        return bool(self._targets) and all(
            target.is_done for targets in self._targets.values() for target, _ in targets
        )

    # ---- records

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        raise NotImplementedError

    def give(self, items: Items, port: str = "") -> None:
        """Hand records on."""
        self.given += len(items)
        for target, number in self._out if not port else self._targets.get(port, ()):
            target.take(items, number)

    def fail(self, record: Any, error: Exception, place: int) -> None:
        """Count a record that makes the stage fail; ``place`` is its place among those taken, from 0."""
        self.failed += 1
        self.host.failed(JobFailure(place, record, "failed", step_error(self.name, error, record), self.name))

    def end(self, _number: int, /) -> None:
        """An input has ended; with the last one, so does the stage."""
        self._num_ended += 1
        if self._num_ended >= self.num_inputs:
            self.close()

    def close(self) -> None:
        """All inputs have ended: give what is left, and end what reads this."""
        if self.host.is_cut:
            self.abandon()
        else:
            self.finish()
        for targets in self._targets.values():
            for target, number in targets:
                target.end(number)

    def finish(self) -> None:
        """Give what was kept for more to come."""

    # ---- what is kept

    @property
    def pending(self) -> int:
        """How much is kept."""
        return 0

    def abandon(self) -> None:
        """Count the records that are still held, for they go no further."""

    def counted(self, t: float) -> StageCounted:
        """The counts as an event."""
        pending = self.pending
        return StageCounted(
            t,
            self.name,
            taken=self.taken,
            given=self.given,
            failed=self.failed,
            late=self.late,
            dropped=self.dropped,
            pending=pending,
            most_pending=max(pending, self.most_pending),
            unfinished=self.unfinished,
        )

    def refuse_more(self, limit: int, what: str, instead: str) -> InputError:
        """The error about a stage that would keep too much."""
        return InputError(
            f"stage {self.name!r} holds {limit:,} {what}, and max_pending allows no more; {instead}, or allow more"
        )


def place_of(stage: Stage, items: Items, record: Record) -> int:
    """A record's place among all that a stage took, from 0."""
    at = next(number for number, item in enumerate(items) if item is record)
    return stage.taken - len(items) + at
