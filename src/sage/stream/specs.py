"""The kinds of stages a stream is made of, as declared. Pure data: nothing here reads, runs or opens anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sage.errors import InputError
from sage.stream.aggregates import Aggregate
from sage.stream.times import duration_us

if TYPE_CHECKING:
    from sage.pipeline import Pipeline

__all__ = [
    "MAX_PENDING",
    "Documents",
    "Filter",
    "FlatMap",
    "Join",
    "Map",
    "Merge",
    "Read",
    "Records",
    "Reduce",
    "Scan",
    "Select",
    "Spec",
    "Take",
    "Through",
    "Window",
    "Write",
]

#: What a stage keeps at most while it waits for more: groups of a window, keys of a scan, records of a join.
MAX_PENDING = 1_000_000

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which records are put together: a stretch of event time, or a number of them.

    Attributes:
        size: a duration such as "5m", in event time; None for a window by count.
        count: how many records; None for a window by time.
        every: when the next window begins, of the same kind as the size; None: where the last one ends.
        time: the field with the event time.
        wait: how long, in event time, a window stays open for stragglers after its end.
    """

    size: str | float | None = None
    count: int | None = None
    every: str | float | None = None
    time: str = "time"
    wait: str | float = 0

    def __post_init__(self) -> None:
        if (self.size is None) == (self.count is None):
            raise InputError("a window has a length of time or a count: window('5m') or window(count=100)")
        if self.count is not None:
            _whole("window: count", self.count)
            if self.every is not None:
                _whole("window: every", self.every)
            if self.wait != 0 or self.time != "time":
                raise InputError("a window by count knows no time; leave time= and wait= out")
        size, every = self.extent
        if not 0 < every <= size:
            raise InputError(
                f"window: every is {self.every!r}, expected more than nothing and at most the size, {self.size or self.count!r}: "
                "records between two windows would be lost"
            )
        duration_us(self.wait, "window: wait")

    @property
    def extent(self) -> tuple[int, int]:
        """Size and distance, in microseconds or in records."""
        if self.count is not None:
            return self.count, self.count if self.every is None else int(self.every)
        assert self.size is not None
        size = duration_us(self.size, "window: size")
        return size, size if self.every is None else duration_us(self.every, "window: every")

    def __str__(self) -> str:
        size = f"{self.count} records" if self.count is not None else _shown(self.size)
        return size if self.every is None else f"{size} every {_shown(self.every)}"


class Spec:
    """One kind of stage.

    Attributes:
        KIND: its name in YAML, pictures and logs.
        PORTS: its outputs by name; the first, "", is what comes after it in a chain.
        NUM_INPUTS: streams it reads; None: two or more.
    """

    __slots__ = ()
    KIND: ClassVar[str] = ""
    PORTS: ClassVar[tuple[str, ...]] = ("",)
    NUM_INPUTS: ClassVar[int | None] = 1

    def about(self) -> str:
        """A few words on it, for pictures."""
        return self._about()

    def _about(self) -> str:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Spec):
    """Records of a file."""

    KIND, NUM_INPUTS = "read", 0
    path: str
    format: str | None = None
    follow: bool = False  # go on with what is appended, until stopped

    def _about(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents(Spec):
    """Documents of a folder."""

    KIND, NUM_INPUTS = "documents", 0
    path: str
    every: str | float | None = None  # look again so often, until stopped

    def _about(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Records(Spec):
    """Records of a Python object: an iterable, an async iterable, a Source, or a function that makes one."""

    KIND, NUM_INPUTS = "records", 0
    source: Any
    was_read: list[bool] = field(
        default_factory=list, compare=False, repr=False
    )  # filled once an iterator is used up

    def _about(self) -> str:
        return type(self.source).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Map(Spec):
    """A record made from each, or fields added to it."""

    KIND = "map"
    function: Function | None = None
    fields: Mapping[str, Function] = field(default_factory=dict)

    def _about(self) -> str:
        return ", ".join(self.fields) if self.function is None else _name(self.function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(Spec):
    """Records that pass a test; the others at the port ``rest``."""

    KIND, PORTS = "filter", ("", "rest")
    test: Function | str | None = None  # a function, or a field that must be true
    where: Mapping[str, Any] = field(default_factory=dict)

    def _about(self) -> str:
        if self.test is None:
            return ", ".join(self.where)
        return self.test if isinstance(self.test, str) else _name(self.test)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatMap(Spec):
    """Any number of records made from each."""

    KIND = "flat_map"
    function: Function

    def _about(self) -> str:
        return _name(self.function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Select(Spec):
    """Some fields of each record."""

    KIND = "select"
    fields: tuple[str, ...]

    def _about(self) -> str:
        return ", ".join(self.fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Through(Spec):
    """Each record as a job of a pipeline."""

    KIND = "through"
    pipeline: Pipeline
    ordered: bool = True
    max_inflight: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of jobs: tenant, priority, deadline_s, …

    def _about(self) -> str:
        return self.pipeline.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan(Spec):
    """Each record with what all records of its key amount to so far."""

    KIND = "scan"
    aggregates: Mapping[str, Aggregate]
    key: tuple[str, ...] = ()
    max_pending: int = MAX_PENDING

    def _about(self) -> str:
        return _grouped(self.aggregates, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Spec):
    """A record for each key and window. Records whose windows are closed already come out at the port ``late``."""

    KIND, PORTS = "reduce", ("", "late")
    aggregates: Mapping[str, Aggregate]
    key: tuple[str, ...] = ()
    window: Window | None = None  # None: one of everything, closed at the end
    max_pending: int = MAX_PENDING

    def _about(self) -> str:
        window = "" if self.window is None else f", {self.window}"
        return _grouped(self.aggregates, self.key) + window


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Spec):
    """Pairs of records of two streams with the same key, at most so long apart."""

    KIND, PORTS, NUM_INPUTS = "join", ("", "late"), 2
    key: tuple[str, ...]
    within: str | float
    into: str
    time: str = "time"
    wait: str | float = 0
    how: Literal["inner", "left"] = "inner"
    max_pending: int = MAX_PENDING

    def _about(self) -> str:
        return f"{', '.join(self.key)}, within {_shown(self.within)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(Spec):
    """Several streams as one: as records come, or by a time that each of them is sorted by."""

    KIND, NUM_INPUTS = "merge", None
    by: str | None = None

    def _about(self) -> str:
        return "" if self.by is None else f"by {self.by}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Take(Spec):
    """The first records; then the stream ends."""

    KIND = "take"
    count: int

    def _about(self) -> str:
        return str(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write(Spec):
    """Each record also into a file or a Sink."""

    KIND = "write"
    path: str | None = None
    format: str | None = None
    sink: Any = None

    def _about(self) -> str:
        return self.path if self.path is not None else type(self.sink).__name__


def _whole(what: str, said: Any) -> None:
    if not isinstance(said, int) or isinstance(said, bool) or said < 1:
        raise InputError(f"{what} is {said!r}, expected a whole number above 0")


def _shown(duration: Any) -> str:
    return duration if isinstance(duration, str) else f"{duration:g}"


def _name(function: Function) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _grouped(aggregates: Mapping[str, Aggregate], key: tuple[str, ...]) -> str:
    return ", ".join(aggregates) + (f" by {', '.join(key)}" if key else "")
