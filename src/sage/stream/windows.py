"""Windows: records put together by event time or by number, key by key, and reduced to one record each.

Time is that of the records alone. The watermark is the latest time seen, less ``wait``; a window is closed, and its
record given, when the watermark reaches its end. After the model of Akidau et al., "The Dataflow Model" (VLDB 2015),
sections 2 and 3, with one trigger (the watermark) and no panes: a record that comes later than all of its windows is
late, and a closed window is never opened again.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from sage.graph.values import Record
from sage.stream.keys import keyed
from sage.stream.specs import Reduce
from sage.stream.stages import Host, Items, Stage, place_of
from sage.stream.times import MICRO, duration_us, instant_us, shown_instant

__all__ = ["CountWindows", "TimeWindows", "WholeWindow", "window_stage"]

#: A group: the values of its key, then the state of each aggregate.
Group = list[Any]

_NEVER = 1 << 62


class _Groups(Stage):
    """What all windows share: aggregates, keys, and how a group becomes a record."""

    def __init__(self, name: str, host: Host, spec: Reduce) -> None:
        super().__init__(name, host)
        self._spec = spec
        self._key = keyed(spec.key)
        self._aggregates = list(spec.aggregates.items())
        self._adds = [of.adder(name) for _, of in self._aggregates]
        self._num_pending = 0
        self._num_held = 0  # records that open groups hold

    @property
    def pending(self) -> int:
        """How much is kept."""
        return self._num_pending

    def abandon(self) -> None:
        """Count the records that are still held, for they go no further."""
        self.unfinished = self._num_held

    def _opened(self, record: Record) -> Group:
        """A new group, with the key of its first record, and how many records it holds."""
        if self._num_pending >= self._spec.max_pending:
            raise _TooMuch
        key = tuple([record[field] for field in self._spec.key])
        return [key, 0, *[of.state() for _, of in self._aggregates]]

    def _added(self, group: Group, record: Record) -> list[Any]:
        """The group's states with one more record; the group itself stays as it is."""
        return [add(state, record) for add, state in zip(self._adds, group[2:], strict=True)]

    def _keep(self, count: int) -> None:
        self._num_pending += count
        self.most_pending = max(self.most_pending, self._num_pending)

    def _closed(self, group: Group, **bounds: Any) -> Record:
        made: Record = dict(zip(self._spec.key, group[0], strict=True))
        made |= bounds
        for (field, of), state in zip(self._aggregates, group[2:], strict=True):
            made[field] = of.value(state)
        return made

    def _overfull(self) -> Exception:
        return self.refuse_more(self.pending, "open groups", "make the windows shorter or the keys fewer")


class _TooMuch(Exception):  # noqa: N818 - a signal within this module
    """A group more than is allowed."""


class WholeWindow(_Groups):
    """One group a key, of everything."""

    def __init__(self, name: str, host: Host, spec: Reduce) -> None:
        super().__init__(name, host, spec)
        self._groups: dict[Any, Group] = {}

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        groups, key_of = self._groups, self._key
        for record in items:
            try:
                key = key_of(record)
                group = groups.get(key)
                if group is None:
                    group = self._opened(record)
                group[2:] = self._added(group, record)
            except _TooMuch:
                raise self._overfull() from None
            except Exception as error:  # noqa: BLE001 - the user's function; the record fails alone
                self.fail(record, error, place_of(self, items, record))
                continue
            if key not in groups:
                groups[key] = group
                self._keep(1)
            self._num_held += 1

    def finish(self) -> None:
        """Give what was kept for more to come."""
        groups, self._groups = self._groups, {}
        self._num_pending = self._num_held = 0
        if not groups and not self._spec.key:
            groups = {None: [(), 0, *[of.state() for _, of in self._aggregates]]}
        self.give([self._closed(group) for group in groups.values()])


class TimeWindows(_Groups):
    """Tumbling and sliding windows of event time."""

    def __init__(self, name: str, host: Host, spec: Reduce) -> None:
        super().__init__(name, host, spec)
        window = spec.window
        assert window is not None
        self._time = window.time
        self._size, self._every = window.extent
        self._wait = duration_us(window.wait, "wait")
        self._open: dict[int, dict[Any, Group]] = {}  # start of the window -> key -> group
        self._starts: list[int] = []  # a heap of the keys of _open
        self._newest = -_NEVER
        self._next_end = _NEVER  # when the first open window closes
        self._like: Any = 0  # the form of the records' times

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        time, wait, key_of, size = self._time, self._wait, self._key, self._size
        add = self._tumble if size == self._every else self._slide
        out: Items = []
        late: Items = []
        for record in items:
            try:
                said = record[time]
                at = said * MICRO if type(said) is int else instant_us(said)
                key = key_of(record)
                if at > self._newest:
                    if self._newest == -_NEVER:
                        self._like = said
                    self._newest = at
                    if at - wait >= self._next_end:
                        self._close_until(at - wait, out)
                if not add(at, key, record):
                    late.append(record)
            except _TooMuch:
                raise self._overfull() from None
            except Exception as error:  # noqa: BLE001 - the user's record or function; the record fails alone
                self.fail(record, error, place_of(self, items, record))
        if out:
            self.give(out)
        if late:
            self._give_late(late)

    def _tumble(self, at: int, key: Any, record: Record) -> bool:
        """Add a record to its one window; False: it is closed."""
        start = at - at % self._size
        groups = self._open.get(start)
        if groups is None:
            if start + self._size <= self._newest - self._wait:
                return False
            groups = {}
        group = groups.get(key)
        if group is None:
            group = self._opened(record)
            group[2:] = self._added(group, record)
            self._keep(1)
            groups[key] = group
            if len(groups) == 1:
                self._begin(start, groups)
        elif len(group) == 3:
            group[2] = self._adds[0](group[2], record)
        else:
            group[2:] = self._added(group, record)
        group[1] += 1
        self._num_held += 1
        return True

    def _slide(self, at: int, key: Any, record: Record) -> bool:
        """Add a record to all of its windows that are not closed; False: all are."""
        last = at - at % self._every
        first = (at - self._size) // self._every * self._every + self._every
        closed = self._newest - self._wait - self._size
        starts = [start for start in range(first, last + 1, self._every) if start > closed]
        changes = []
        for start in starts:
            group = self._open.get(start, {}).get(key)
            if group is None:
                group = self._opened(record)
            changes.append((start, group, self._added(group, record)))
        for start, group, states in changes:
            group[2:] = states
            group[1] += 1
            groups = self._open.get(start)
            if groups is None:
                self._begin(start, groups := {})
            if key not in groups:
                self._keep(1)
                groups[key] = group
        self._num_held += len(changes)
        return bool(starts)

    def _begin(self, start: int, groups: dict[Any, Group]) -> None:
        self._open[start] = groups
        heapq.heappush(self._starts, start)
        self._next_end = min(self._next_end, start + self._size)

    def _close_until(self, watermark: int, out: Items) -> None:
        """Close every window that ends by then, the first to end first, keys as they came."""
        starts, size = self._starts, self._size
        while starts and starts[0] + size <= watermark:
            start = heapq.heappop(starts)
            groups = self._open.pop(start)
            begins, ends = shown_instant(start, self._like), shown_instant(start + size, self._like)
            for group in groups.values():
                out.append(self._closed(group, window_start=begins, window_end=ends))
                self._num_held -= group[1]
            self._num_pending -= len(groups)
        self._next_end = starts[0] + size if starts else _NEVER

    def _give_late(self, late: Items) -> None:
        self.late += len(late)
        if self.has_reader("late"):
            self.give(late, "late")

    def finish(self) -> None:
        """Give what was kept for more to come."""
        out: Items = []
        self._close_until(_NEVER, out)
        if out:
            self.give(out)


class CountWindows(_Groups):
    """Windows of so many records of a key."""

    def __init__(self, name: str, host: Host, spec: Reduce) -> None:
        super().__init__(name, host, spec)
        assert spec.window is not None
        self._size, self._every = spec.window.extent
        self._lines: dict[Any, _Line] = {}

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        lines, key_of = self._lines, self._key
        out: Items = []
        for record in items:
            try:
                key = key_of(record)
                line = lines.get(key)
                if line is None:
                    line = self._new_line()
                new = self._opened(record) if line.seen % self._every == 0 else None
                groups = [group for _, group in line.open]
                changed = [
                    self._added(group, record) for group in (*groups, *([new] if new is not None else ()))
                ]
            except _TooMuch:
                raise self._overfull() from None
            except Exception as error:  # noqa: BLE001 - the user's record or function; the record fails alone
                self.fail(record, error, place_of(self, items, record))
                continue
            lines[key] = line
            if new is not None:
                line.open.append((line.seen, new))
                self._keep(1)
            for (_, group), states in zip(line.open, changed, strict=True):
                group[2:] = states
                group[1] += 1
            self._num_held += len(changed)
            line.seen += 1
            if line.open and line.open[0][0] + self._size == line.seen:
                self._close(line, out)
        if out:
            self.give(out)

    @property
    def pending(self) -> int:
        """How much is kept."""
        return max(self._num_pending, len(self._lines))  # a key is remembered when its windows are closed

    def _new_line(self) -> _Line:
        if len(self._lines) >= self._spec.max_pending:
            raise _TooMuch
        return _Line()

    def _close(self, line: _Line, out: Items) -> None:
        start, group = line.open.popleft()
        out.append(self._closed(group, window_start=start, window_end=line.seen))
        self._num_pending -= 1
        self._num_held -= group[1]

    def finish(self) -> None:
        """Give what was kept for more to come."""
        out: Items = []
        for line in self._lines.values():
            while line.open:
                self._close(line, out)
        self._lines.clear()
        if out:
            self.give(out)


class _Line:
    """The records of one key: how many there were, and the windows that are open."""

    __slots__ = ("open", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.open: deque[tuple[int, Group]] = deque()


def window_stage(spec: Reduce) -> Callable[[str, Host, Reduce], Stage]:
    """The kind of windows that a reduce is over."""
    if spec.window is None:
        return WholeWindow
    return TimeWindows if spec.window.count is None else CountWindows
