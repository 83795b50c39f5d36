"""Two streams side by side: pairs by key and time, and a merge in the order of time.

Both keep what they must wait for, and hold back the side that is ahead in event time while the other one catches up,
where the two come from different sources; so the faster of two files does not pile up in memory.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from sage.errors import InputError
from sage.graph.values import Record
from sage.stream.keys import keyed
from sage.stream.specs import Join, Merge
from sage.stream.stages import CHUNK, Gate, Host, Items, Stage, place_of
from sage.stream.times import MICRO, duration_us, instant_us

__all__ = ["Ahead", "JoinStage", "SortedMerge", "Waiting"]

_NEVER = 1 << 62
_AHEAD = 16 * CHUNK  # records kept of a side before it has to wait for the other


class Waiting:
    """Which sources wait at a gate for another source; the last one that could go on does not wait."""

    def __init__(self) -> None:
        self.num_sources = 0
        self._waiting = 0
        self._changed = asyncio.Event()

    @property
    def is_stuck(self) -> bool:
        """Whether one more that waited would leave none to move."""
        return self._waiting + 1 >= self.num_sources

    def change(self) -> None:
        """Something moved, or a source ended: those who wait look again."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait for a change."""
        self._waiting += 1
        self._changed.clear()
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1


class Ahead:
    """The gate before one side: full while that side is far ahead of another one."""

    def __init__(self, is_ahead: Callable[[int], bool], side: int, waiting: Waiting) -> None:
        self._is_ahead = is_ahead
        self._side = side
        self._waiting = waiting

    @property
    def is_full(self) -> bool:
        """Whether nothing more should come for now."""
        return self._is_ahead(self._side) and not self._waiting.is_stuck

    async def room(self) -> None:
        """Wait until that is over."""
        while self.is_full:
            await self._waiting.wait()


class _Sides(Stage):
    """What join and merge share: gates before the sides whose sources are their own."""

    def __init__(self, name: str, host: Host, waiting: Waiting) -> None:
        super().__init__(name, host)
        self._waiting = waiting
        self.gated: frozenset[int] = frozenset()  # sides with a gate, said by the flow

    def inlets(self, number: int, /) -> list[Gate]:
        """What has to have room before records may come in here."""
        gates = self.outlets()
        return [Ahead(self._is_ahead, number, self._waiting), *gates] if number in self.gated else gates

    def _is_ahead(self, number: int) -> bool:
        raise NotImplementedError

    def end(self, number: int, /) -> None:
        """An input has ended."""
        self._side_ended(number)
        self._waiting.change()
        super().end(number)

    def _side_ended(self, number: int) -> None:
        raise NotImplementedError


class _Kept:
    """A record that waits for partners."""

    __slots__ = ("at", "has_partner", "place", "record")

    def __init__(self, at: int, place: tuple[Any, int], record: Record) -> None:
        self.at = at
        self.place = place  # its key, and the stretch of time it is in
        self.record = record
        self.has_partner = False


#: Key and stretch of time -> what waits there.
_Table = dict[tuple[Any, int], list[_Kept]]


class JoinStage(_Sides):
    """See ``Join``.

    A record is kept until no record that is not late can be its partner: until the watermark, the lesser of both
    sides', is more than ``within`` past it. A record that comes when the watermark is past it is late.
    """

    def __init__(self, name: str, host: Host, spec: Join, waiting: Waiting) -> None:
        super().__init__(name, host, waiting)
        self._spec = spec
        self._key = keyed(spec.key)
        self._within = duration_us(spec.within, "within")
        self._wait = duration_us(spec.wait, "wait")
        self._newest = [-_NEVER, -_NEVER]
        self._watermark = -_NEVER
        self._tables: tuple[_Table, _Table] = ({}, {})
        self._width = max(
            1, self._within
        )  # of a stretch of time: partners are in the same, the last or the next
        self._by_time: list[tuple[int, int, int, _Kept]] = []  # a heap: time, number, side
        self._number = 0

    @property
    def pending(self) -> int:
        """How much is kept."""
        return len(self._by_time)

    def abandon(self) -> None:
        """Count the records that are still held, for they go no further."""
        self.unfinished = sum(not kept.has_partner for _, _, _, kept in self._by_time)

    def take(self, items: Items, number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        time, key_of = self._spec.time, self._key
        mine, others = self._tables[number], self._tables[1 - number]
        newest = self._newest[number]
        out: Items = []
        late: Items = []
        for record in items:
            try:
                said = record[time]
                at = said * MICRO if type(said) is int else instant_us(said)
                key = key_of(record)
                if not number and self._spec.into in record:
                    raise InputError(
                        f"the record has a field {self._spec.into!r} already; say another one with into="
                    )
            except Exception as error:  # noqa: BLE001 - the record has no time or key; it fails alone
                self.fail(record, error, place_of(self, items, record))
                continue
            if at < self._watermark:
                late.append(record)
                continue
            stretch = at // self._width
            kept = _Kept(at, (key, stretch), record)
            for near in (stretch - 1, stretch, stretch + 1):
                found = others.get((key, near))
                if found is not None:
                    self._pair(kept, found, number, out)
            place = kept.place
            if place in mine:
                mine[place].append(kept)
            else:
                mine[place] = [kept]
            self._number += 1
            heapq.heappush(self._by_time, (at, self._number, number, kept))
            if at > newest:
                self._newest[number] = newest = at
                if (watermark := min(self._newest) - self._wait) > self._watermark:
                    self._watermark = watermark
                    if self._by_time[0][0] + self._within < watermark:
                        self._forget(out)
        self._settle(out, late)

    def _pair(self, kept: _Kept, found: list[_Kept], number: int, out: Items) -> None:
        """Give the pairs that a record makes with those of the other side."""
        into, low, high = self._spec.into, kept.at - self._within, kept.at + self._within
        for other in found:
            if low <= other.at <= high:
                kept.has_partner = other.has_partner = True
                left, right = (other, kept) if number else (kept, other)
                out.append({**left.record, into: right.record})

    def _forget(self, out: Items) -> None:
        """Let go of what can find no further partner."""
        heap, limit = self._by_time, self._watermark - self._within
        while heap and heap[0][0] < limit:
            _, _, side, kept = heapq.heappop(heap)
            table = self._tables[side]
            entries = table[kept.place]
            if len(entries) == 1:
                del table[kept.place]
            else:
                entries.remove(kept)
            if not kept.has_partner:
                if side == 0 and self._spec.how == "left":
                    out.append({**kept.record, self._spec.into: None})
                else:
                    self.dropped += 1

    def _settle(self, out: Items, late: Items) -> None:
        self.most_pending = max(self.most_pending, len(self._by_time))
        if len(self._by_time) > self._spec.max_pending:
            raise self.refuse_more(len(self._by_time), "records", "join within a shorter time")
        if out:
            self.give(out)
        if late:
            self.late += len(late)
            if self.has_reader("late"):
                self.give(late, "late")
        self._waiting.change()

    def _is_ahead(self, number: int) -> bool:
        other = self._newest[1 - number]
        return len(self._by_time) >= _AHEAD and self._newest[number] > other + self._within

    def _side_ended(self, number: int) -> None:
        self._newest[number] = _NEVER
        if self.host.is_cut:
            return
        self._watermark = min(self._newest) - self._wait if min(self._newest) != _NEVER else _NEVER
        out: Items = []
        self._forget(out)
        if out:
            self.give(out)


class SortedMerge(_Sides):
    """See ``Merge``, by a time: the earliest of the first records of all sides goes first."""

    def __init__(self, name: str, host: Host, spec: Merge, waiting: Waiting, num_sides: int) -> None:
        super().__init__(name, host, waiting)
        assert spec.by is not None
        self._by = spec.by
        self._lines: list[deque[tuple[int, Record]]] = [deque() for _ in range(num_sides)]
        self._live = set(range(num_sides))

    @property
    def pending(self) -> int:
        """How much is kept."""
        return sum(map(len, self._lines))

    def abandon(self) -> None:
        """Count the records that are still held, for they go no further."""
        self.unfinished = self.pending

    def take(self, items: Items, number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        line = self._lines[number]
        for record in items:
            try:
                line.append((instant_us(record[self._by]), record))
            except Exception as error:  # noqa: BLE001 - the record has no time; it fails alone
                self.fail(record, error, place_of(self, items, record))
        self.most_pending = max(self.most_pending, self.pending)
        self._give_sorted()
        self._waiting.change()

    def _give_sorted(self) -> None:
        """Give records as long as every side that has not ended shows its next one."""
        if any(not self._lines[number] for number in self._live):
            return
        out: Items = []
        heap = [(line[0][0], number) for number, line in enumerate(self._lines) if line]
        heapq.heapify(heap)
        while heap:
            _, number = heap[0]
            line = self._lines[number]
            out.append(line.popleft()[1])
            if line:
                heapq.heapreplace(heap, (line[0][0], number))
            elif number in self._live:
                break
            else:
                heapq.heappop(heap)
        if out:
            self.give(out)

    def _is_ahead(self, number: int) -> bool:
        return len(self._lines[number]) >= CHUNK and any(
            not self._lines[other] for other in self._live - {number}
        )

    def _side_ended(self, number: int) -> None:
        self._live.discard(number)
        if not self.host.is_cut:
            self._give_sorted()
