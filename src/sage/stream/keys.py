"""What records belong together by: the values of some of their fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import InputError
from sage.graph.values import Record

__all__ = ["hashable", "keyed"]


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
