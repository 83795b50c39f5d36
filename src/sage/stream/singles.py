"""Stages that look at one record after the other: map, filter, select, take, merge, and scan, which remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InputError
from sage.graph.values import Record
from sage.stream.calls import function_name, reading
from sage.stream.keys import keyed
from sage.stream.specs import Filter, Map, Scan, Select, Take
from sage.stream.stages import Host, Items, Stage, place_of

__all__ = ["FilterStage", "MapStage", "MergeStage", "ScanStage", "SelectStage", "TakeStage"]


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
