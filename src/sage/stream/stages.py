"""What stages do with records: they take lists of them and give lists on, at once, to whatever reads them.

A list is handed down the graph in one go, as far as stages need not wait; where they do (a pipeline's jobs, a slow
sink) it stops at an inbox. Whoever pulls from a source looks at the gates below it before pulling more, so a slow end
holds the sources back and nothing grows without bound. A list that was given is not changed any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from sage.errors import InputError
from sage.events import StageCounted
from sage.graph.values import Record
from sage.runtime.base import JobFailure
from sage.stream.calls import function_name, reading, step_error
from sage.stream.specs import Filter, Map, Scan, Select, Take

__all__ = [
    "CHUNK",
    "FilterStage",
    "Gate",
    "Host",
    "Inbox",
    "Items",
    "MapStage",
    "MergeStage",
    "ScanStage",
    "SelectStage",
    "Stage",
    "TakeStage",
    "hashable",
    "keyed",
    "place_of",
    "room",
]

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


# ---- records, one at a time


def place_of(stage: Stage, items: Items, record: Record) -> int:
    """A record's place among all that a stage took, from 0."""
    at = next(number for number, item in enumerate(items) if item is record)
    return stage.taken - len(items) + at


class MapStage(Stage):
    """See ``Map``."""

    def __init__(self, name: str, host: Host, spec: Map) -> None:
        super().__init__(name, host)
        self._call = _adding(spec, name) if spec.function is None else _making(spec.function, name)

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        call, out = self._call, []
        for record in items:
            try:
                out.append(call(record))
            except Exception as error:  # noqa: BLE001 - the user's function; the record fails alone
                self.fail(record, error, place_of(self, items, record))
        if out:
            self.give(out)


def _making(function: Callable[..., Any], stage: str) -> Callable[[Record], Record]:
    call = reading(function, stage)

    def make(record: Record) -> Record:
        made = call(record)
        if type(made) is dict:
            return made
        if isinstance(made, Mapping):
            return dict(made)
        name = function_name(function)
        raise InputError(
            f"{name!r} gave {made!r:.60}, expected a record; to add a field write map(FIELD={name}), to leave "
            "records out use filter"
        )

    return make


def _adding(spec: Map, stage: str) -> Callable[[Record], Record]:
    calls = {field: reading(function, stage) for field, function in spec.fields.items()}
    if len(calls) == 1:
        ((field, call),) = calls.items()
        return lambda record: {**record, field: call(record)}
    return lambda record: {**record, **{field: call(record) for field, call in calls.items()}}


class FilterStage(Stage):
    """See ``Filter``."""

    def __init__(self, name: str, host: Host, spec: Filter) -> None:
        super().__init__(name, host)
        self._test = _test(spec, name)

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        test = self._test
        passed: Items = []
        rest: Items = []
        for record in items:
            try:
                (passed if test(record) else rest).append(record)
            except Exception as error:  # noqa: BLE001 - the user's function; the record fails alone
                self.fail(record, error, place_of(self, items, record))
        if passed:
            self.give(passed)
        if rest and self.has_reader("rest"):
            self.give(rest, "rest")
        else:
            self.dropped += len(rest)


def _test(spec: Filter, stage: str) -> Callable[[Record], Any]:
    if isinstance(spec.test, str):
        field = spec.test
        return lambda record: record[field]
    if spec.test is not None:
        return reading(spec.test, stage)
    from sage.index.filters import is_met

    where = dict(spec.where)
    return lambda record: all(name in record and is_met(record[name], said) for name, said in where.items())


class SelectStage(Stage):
    """See ``Select``."""

    def __init__(self, name: str, host: Host, spec: Select) -> None:
        super().__init__(name, host)
        self._fields = spec.fields

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        fields, out = self._fields, []
        for record in items:
            try:
                out.append({field: record[field] for field in fields})
            except KeyError as error:
                self.fail(record, error, place_of(self, items, record))
        if out:
            self.give(out)


class TakeStage(Stage):
    """See ``Take``."""

    def __init__(self, name: str, host: Host, spec: Take) -> None:
        super().__init__(name, host)
        self._left = spec.count

    @property
    def is_done(self) -> bool:
        """Whether nothing that is given from here on can matter."""
        return not self._left or super().is_done

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        some = items[: self._left]
        self._left -= len(some)
        self.dropped += len(items) - len(some)
        if some:
            self.give(some)
            if not self._left:
                self.host.satisfied()


class MergeStage(Stage):
    """See ``Merge``, without a time to go by."""

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        self.give(items)


# ---- records of a key


def hashable(value: Any) -> Any:
    """A value as a key: equal for equal values, and true is not 1, as it is to Python."""
    kind = type(value)
    if kind is str or kind is int or value is None:
        return value
    if kind is bool:
        return ("bool", value)
    if kind is float:
        return ("nan",) if value != value else value
    if isinstance(value, dict):
        return ("dict", frozenset((name, hashable(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(hashable, value))
    try:
        hash(value)
    except TypeError:
        raise InputError(
            f"a value of type {kind.__name__!r} cannot be a key; use text, a number or a date"
        ) from None
    return value


def keyed(fields: tuple[str, ...]) -> Callable[[Record], Any]:
    """From a record to the key that its fields make."""
    if not fields:
        return lambda _record: None
    if len(fields) > 1:
        return lambda record: tuple([hashable(record[field]) for field in fields])
    (field,) = fields

    def one(record: Record) -> Any:
        value = record[field]
        return value if type(value) is str else hashable(value)

    return one


class ScanStage(Stage):
    """See ``Scan``."""

    def __init__(self, name: str, host: Host, spec: Scan) -> None:
        super().__init__(name, host)
        self._spec = spec
        self._key = keyed(spec.key)
        self._adds = [(field, of, of.adder(name)) for field, of in spec.aggregates.items()]
        self._states: dict[Any, list[Any]] = {}

    @property
    def pending(self) -> int:
        """How much is kept."""
        return len(self._states)

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        states, adds, key_of, out = self._states, self._adds, self._key, []
        for record in items:
            try:
                key = key_of(record)
                before = states.get(key)
                if before is None:
                    before = [of.state() for _, of, _ in adds]
                after = [add(state, record) for state, (_, _, add) in zip(before, adds, strict=True)]
                values = {field: of.value(state) for state, (field, of, _) in zip(after, adds, strict=True)}
            except Exception as error:  # noqa: BLE001 - the user's function; the record fails alone
                self.fail(record, error, place_of(self, items, record))
                continue
            states[key] = after
            out.append({**record, **values})
        if len(states) > self._spec.max_pending:
            raise self.refuse_more(len(states), "keys", "choose a key of fewer values")
        if out:
            self.give(out)
