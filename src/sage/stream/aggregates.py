"""What becomes of the records of a window, or of all records so far: counts, sums, or a fold of one's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sage.errors import InputError, nearest
from sage.graph.values import Record
from sage.stream.calls import folding, function_name

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "count",
    "first",
    "fold",
    "gather",
    "last",
    "least",
    "mean",
    "most",
    "named",
    "of_kind",
    "total",
]

Add = Callable[[Any, Record], Any]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One value out of many records. Made by the functions of this module.

    Attributes:
        kind: its name in AGGREGATES, or "fold".
        field: the field it reads; None: the whole record.
        limit: of ``gather``, how many it keeps at most.
        function: of a fold, from the state and a record to the next state.
        start: of a fold, the state before the first record.
    """

    kind: str
    field: str | None = None
    limit: int | None = None
    function: Callable[..., Any] | None = None
    start: Any = None

    @property
    def name(self) -> str:
        """The field its value goes to, where nobody says."""
        if self.function is not None:
            return function_name(self.function)
        return self.kind if self.field is None else f"{self.kind}_{self.field}"

    def state(self) -> Any:
        """Before the first record."""
        return copy.deepcopy(self.start) if self.kind == "fold" else _STARTS[self.kind]()

    def adder(self, stage: str) -> Add:
        """From a state and a record to the next state."""
        if self.function is not None:
            return folding(self.function, stage)
        return _ADDERS[self.kind](self)

    def value(self, state: Any) -> Any:
        """What a state amounts to."""
        if self.kind == "mean":
            return state[0] / state[1] if state[1] else None
        if self.kind in {"least", "most", "first", "last"}:
            return state[0] if state else None
        return _unchained(state) if self.kind == "gather" else state


def _count(_of: Aggregate) -> Add:
    return lambda state, _record: state + 1


def _total(of: Aggregate) -> Add:
    field: Any = of.field

    def add(state: Any, record: Record) -> Any:
        value = record[field]
        return state if value is None else state + value

    return add


def _mean(of: Aggregate) -> Add:
    field: Any = of.field

    def add(state: tuple[Any, int], record: Record) -> tuple[Any, int]:
        value = record[field]
        return state if value is None else (state[0] + value, state[1] + 1)

    return add


def _best(of: Aggregate) -> Add:
    field: Any = of.field
    is_least = of.kind == "least"

    def add(state: tuple[Any, ...], record: Record) -> tuple[Any, ...]:
        value = record[field]
        if value is None:
            return state
        if not state:
            return (value,)
        return (value,) if (value < state[0] if is_least else value > state[0]) else state

    return add


def _first_of(of: Aggregate) -> Add:
    field: Any = of.field
    return lambda state, record: state or (record[field],)


def _last_of(of: Aggregate) -> Add:
    field: Any = of.field
    return lambda _state, record: (record[field],)


def _gather(of: Aggregate) -> Add:
    """The state is a chain, newest first: a record that fails elsewhere leaves no trace in it."""
    field, limit = of.field, of.limit

    def add(state: tuple[Any, ...], record: Record) -> tuple[Any, ...]:
        value = record if field is None else record[field]
        length = state[2] if state else 0
        return state if length == limit else (state, value, length + 1)

    return add


def _unchained(state: tuple[Any, ...]) -> list[Any]:
    found = []
    while state:
        state, value, _ = state
        found.append(value)
    return found[::-1]


_STARTS: Mapping[str, Callable[[], Any]] = {
    "count": int,
    "total": int,
    "mean": lambda: (0, 0),
    "least": tuple,
    "most": tuple,
    "first": tuple,
    "last": tuple,
    "gather": tuple,
}
_ADDERS: Mapping[str, Callable[[Aggregate], Add]] = {
    "count": _count,
    "total": _total,
    "mean": _mean,
    "least": _best,
    "most": _best,
    "first": _first_of,
    "last": _last_of,
    "gather": _gather,
}

#: Those that YAML names.
AGGREGATES = tuple(_STARTS)

#: How many records there were.
count = Aggregate("count")


def total(field: str) -> Aggregate:
    """The sum of a field; None counts for nothing."""
    return Aggregate("total", _field("total", field))


def mean(field: str) -> Aggregate:
    """The arithmetic mean of a field; None is passed over, and is the mean of nothing."""
    return Aggregate("mean", _field("mean", field))


def least(field: str) -> Aggregate:
    """The smallest value of a field, None passed over."""
    return Aggregate("least", _field("least", field))


def most(field: str) -> Aggregate:
    """The largest value of a field, None passed over."""
    return Aggregate("most", _field("most", field))


def first(field: str) -> Aggregate:
    """The field of the record that came first, even if it is None."""
    return Aggregate("first", _field("first", field))


def last(field: str) -> Aggregate:
    """The field of the record that came last, even if it is None."""
    return Aggregate("last", _field("last", field))


def gather(field: str | None = None, *, limit: int | None = None) -> Aggregate:
    """A list of a field, or of whole records, in the order they came; at most ``limit``, the first ones."""
    if limit is not None and (not isinstance(limit, int) or limit < 1):  # type: ignore[redundant-expr]  # a caller may not check types
        raise InputError(f"gather: limit is {limit!r}, expected a whole number above 0")
    return Aggregate("gather", None if field is None else _field("gather", field), limit)


def fold(function: Callable[..., Any], start: Any = None) -> Aggregate:
    """An aggregate of one's own: ``function(state, field, …)`` gives the next state.

    The first parameter is the state, the others read the fields of their names; ``record`` takes the whole record.

    >>> longest = fold(lambda best, text: max(best, text, key=len), start="")
    """
    folding(function, "fold")
    return Aggregate("fold", function=function, start=start)


def named(positional: tuple[Any, ...], keywords: Mapping[str, Any], stage: str) -> dict[str, Aggregate]:
    """Field -> aggregate, from what ``reduce`` and ``scan`` are given; plain functions are folds from None.

    Raises:
        InputError: there are none, two of one name, or something else.
    """
    found: dict[str, Aggregate] = {}
    for said in positional:
        made = _aggregate(said, stage)
        if made.name == "<lambda>":
            raise InputError(f"{stage}: a function without a name needs one: {stage}(NAME=lambda …)")
        if made.name in found or made.name in keywords:
            raise InputError(
                f"{stage}: two aggregates give the field {made.name!r}; name one: {stage}(NAME=…)"
            )
        found[made.name] = made
    found |= {name: _aggregate(said, stage) for name, said in keywords.items()}
    if not found:
        raise InputError(f"{stage} needs at least one aggregate, such as {stage}(count)")
    return found


def _aggregate(said: Any, stage: str) -> Aggregate:
    if isinstance(said, Aggregate):
        return said
    if said in (total, mean, least, most, first, last):
        raise InputError(f"{stage}: say which field: {said.__name__}('FIELD')")
    if said is gather:
        return Aggregate("gather")
    if callable(said):
        return fold(said)
    raise InputError(
        f"{stage}: expected an aggregate such as count or total('price'), or a function; got {said!r:.60}"
    )


def _field(kind: str, field: str) -> str:
    if not isinstance(field, str) or not field:  # type: ignore[redundant-expr]  # a caller may not check types
        raise InputError(f"{kind} is {field!r}, expected the name of a field: {kind}('price')")
    return field


def of_kind(kind: str, field: str | None, limit: int | None = None) -> Aggregate:
    """An aggregate by its name, as YAML writes it.

    Raises:
        InputError: there is none of that name, or it needs a field.
    """
    if kind == "count":
        if field is not None:
            raise InputError("count takes no field; write count, or {total: FIELD} for a sum")
        return count
    if kind == "gather":
        return gather(field, limit=limit)
    makers: Mapping[str, Callable[[str], Aggregate]] = {
        "total": total,
        "mean": mean,
        "least": least,
        "most": most,
        "first": first,
        "last": last,
    }
    if kind not in makers:
        raise InputError(f"unknown aggregate {kind!r}: {nearest(kind, AGGREGATES)}")
    if field is None:
        raise InputError(f"{kind} needs a field: {{{kind}: FIELD}}")
    return makers[kind](field)
