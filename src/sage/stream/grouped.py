"""Streams whose records belong together: by the values of fields, by windows, by both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from sage.errors import InputError, nearest
from sage.stream.aggregates import named
from sage.stream.calls import folding
from sage.stream.specs import MAX_PENDING, Join, Reduce, Scan, Window
from sage.stream.times import duration_us

if TYPE_CHECKING:
    from sage.stream.stream import Stream

__all__ = ["Keyed", "Windowed", "field_name", "reduced", "scanned", "whole_number", "window_of"]


class _Unfinished:
    """A stream that waits for what is to be done with its groups."""

    __slots__ = ()
    KIND = ""  # in words
    MADE_BY = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        has = sorted(method for method, of in vars(type(self)).items() if callable(of) and method[0] != "_")
        where = "after one of these" if name in _LAST else f"before {self.MADE_BY}, or after one of these"
        raise AttributeError(f"a {self.KIND} stream has {', '.join(has)}; say {name} {where}")

    def __repr__(self) -> str:
        return f"<a {self.KIND} stream>"


_LAST = frozenset({"arun", "iterate", "run", "show", "to_yaml", "write", "late"})


class Keyed(_Unfinished):
    """A stream whose records belong together by the values of some fields."""

    KIND, MADE_BY = "keyed", "key_by"

    __slots__ = ("key", "stream")

    def __init__(self, stream: Stream, key: tuple[str, ...]) -> None:
        self.stream = stream
        self.key = key

    def window(
        self,
        size: str | float | None = None,
        /,
        *,
        count: int | None = None,
        every: str | float | None = None,
        time: str = "time",
        wait: str | float = 0,
        **units: float,
    ) -> Windowed:
        """Windows of each key. See :meth:`Stream.window`."""
        return Windowed(self.stream, self.key, window_of(size, count, every, time, wait, units))

    def reduce(self, *aggregates: Any, max_pending: int = MAX_PENDING, **named_: Any) -> Stream:
        """One record a key, at the end."""
        return reduced(self.stream, self.key, None, aggregates, named_, max_pending)

    def scan(self, *aggregates: Any, max_pending: int = MAX_PENDING, **named_: Any) -> Stream:
        """Each record with what those of its key amount to so far."""
        return scanned(self.stream, self.key, aggregates, named_, max_pending)

    def join(
        self,
        other: Stream | Keyed,
        /,
        *,
        within: str | float,
        into: str,
        time: str = "time",
        wait: str | float = 0,
        how: Literal["inner", "left"] = "inner",
        max_pending: int = MAX_PENDING,
    ) -> Stream:
        """Pairs with the records of another stream that have the same key and are at most so long apart.

        Args:
            other: the other stream; its records have the key fields and the time field too.
            within: how far apart the two may be in event time.
            into: the field of this stream's record that takes the other record.
            time: the field with the event time, in both.
            wait: how long to wait for stragglers, in event time.
            how: "left" gives records of this stream that find no partner too, with None in the field.
            max_pending: records kept at most.
        """
        if isinstance(other, Keyed):
            if other.key != self.key:
                raise InputError(f"join: the keys differ: {self.key} and {other.key}")
            other = other.stream
        duration_us(within, "join: within")
        duration_us(wait, "join: wait")
        if how not in {"inner", "left"}:
            raise InputError(f"join: how is {how!r}, expected 'inner' or 'left'")
        spec = Join(
            key=self.key,
            within=within,
            into=field_name(into),
            time=field_name(time),
            wait=wait,
            how=how,
            max_pending=whole_number("max_pending", max_pending),
        )
        return self.stream.then(spec, other)


class Windowed(_Unfinished):
    """A stream put together window by window, to be reduced."""

    KIND, MADE_BY = "windowed", "window"

    __slots__ = ("key", "stream", "window")

    def __init__(self, stream: Stream, key: tuple[str, ...], window: Window) -> None:
        self.stream = stream
        self.key = key
        self.window = window

    def reduce(self, *aggregates: Any, max_pending: int = MAX_PENDING, **named_: Any) -> Stream:
        """A record for each window of each key: key fields, ``window_start``, ``window_end``, and the aggregates.

        Start and end are times in the form of the records' own; of windows by count, places among the records of
        the key, counted from 0.
        """
        return reduced(self.stream, self.key, self.window, aggregates, named_, max_pending)


def reduced(
    stream: Stream,
    key: tuple[str, ...],
    window: Window | None,
    said: Any,
    named_: Mapping[str, Any],
    pending: int,
) -> Stream:
    """A reduce behind a stream.

    Raises:
        InputError: there is no aggregate, or two fields of one name.
    """
    aggregates = named(said, named_, "reduce")
    taken = {*key, *(("window_start", "window_end") if window is not None else ())}
    _refuse_taken("reduce", aggregates, taken)
    spec = Reduce(
        aggregates=aggregates, key=key, window=window, max_pending=whole_number("max_pending", pending)
    )
    return stream.then(spec)


def scanned(
    stream: Stream, key: tuple[str, ...], said: Any, named_: Mapping[str, Any], pending: int
) -> Stream:
    """A scan behind a stream; raises as :func:`reduced`."""
    aggregates = named(said, named_, "scan")
    _refuse_taken("scan", aggregates, set(key))
    spec = Scan(aggregates=aggregates, key=key, max_pending=whole_number("max_pending", pending))
    return stream.then(spec)


def _refuse_taken(stage: str, aggregates: Mapping[str, Any], taken: set[str]) -> None:
    for name, made in aggregates.items():
        if name in taken:
            raise InputError(
                f"{stage}: {name!r} is a field of the result already; name the aggregate otherwise"
            )
        if made.function is not None:
            folding(made.function, stage)


_UNITS = {"seconds": "s", "minutes": "m", "hours": "h", "days": "d"}


def window_of(
    size: str | float | None,
    count: int | None,
    every: str | float | None,
    time: str,
    wait: str | float,
    units: Mapping[str, float],
) -> Window:
    """The window that is said.

    Raises:
        InputError: it makes no sense.
    """
    for name in units:
        if name not in _UNITS:
            raise InputError(
                f"window has no option {name!r}: {nearest(name, [*_UNITS, 'count', 'every', 'time', 'wait'])}"
            )
    if units:
        if size is not None:
            raise InputError("window: give the size as text, or in units such as minutes=5, not both")
        if len(units) == 1:
            ((name, value),) = units.items()
            size = f"{value:g}{_UNITS[name]}"
        else:
            size = sum(duration_us(f"{value:g}{_UNITS[name]}", name) for name, value in units.items()) / 1e6
    return Window(size=size, count=count, every=every, time=field_name(time), wait=wait)


def whole_number(what: str, said: Any) -> int:
    """A number of at least 1.

    Raises:
        InputError: it is none.
    """
    if not isinstance(said, int) or isinstance(said, bool) or said < 1:
        raise InputError(f"{what} is {said!r}, expected a whole number above 0")
    return said


def field_name(name: Any) -> str:
    """The name of a field.

    Raises:
        InputError: it is none.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"{name!r} is no name of a field; to compute a key, name it: key_by(day=day_of)")
    return name
