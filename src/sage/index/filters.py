"""``where=``: which passages a search may find, by their metadata."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError, nearest

__all__ = ["Column", "Where", "is_met", "matching_rows", "read_columns", "refuse_bad_where"]

#: Metadata key -> a value, a list of values (any of them), or a mapping of operators to values.
Where = Mapping[str, Any]

_KINDS: tuple[tuple[type, ...], ...] = ((bool,), (int, float), (str,))  # only values of a kind compare
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_OPERATORS = ("eq", "ne", "in", *_COMPARISONS)


class Column(NamedTuple):
    """One metadata key over all passages."""

    values: list[Any]  # the distinct ones
    codes: NDArray[np.int32]  # per passage which, -1: the passage lacks the key


class _Meta(msgspec.Struct):
    meta: dict[str, Any] = {}


def read_columns(lines: Iterable[bytes], num_rows: int) -> dict[str, Column]:
    """The metadata of stored passages, by key."""
    decoder = msgspec.json.Decoder(_Meta)
    columns: dict[str, Column] = {}
    seen: dict[str, dict[bytes, int]] = {}
    for row, line in enumerate(lines):
        for key, value in decoder.decode(line).meta.items():
            if key not in columns:
                columns[key] = Column([], np.full(num_rows, -1, dtype=np.int32))
                seen[key] = {}
            column = columns[key]
            code = seen[key].setdefault(msgspec.json.encode(value), len(column.values))
            if code == len(column.values):
                column.values.append(value)
            column.codes[row] = code
    return columns


def refuse_bad_where(where: Where, keys: Iterable[str]) -> None:
    """Raise InputError for a key that no passage has, an unknown operator, or an operand that cannot be."""
    known = sorted(keys)
    for key, condition in where.items():
        if key not in known:
            raise InputError(f"where: no passage has the metadata key {key!r}: {nearest(str(key), known)}")
        if not isinstance(condition, Mapping):
            continue
        if not condition:
            raise InputError(f"where: the condition on {key!r} is empty; use {', '.join(_OPERATORS)}")
        for name, operand in condition.items():
            if name not in _OPERATORS:
                raise InputError(
                    f"where: unknown operator {name!r} for {key!r}: {nearest(str(name), _OPERATORS)}"
                )
            if name == "in" and not isinstance(operand, list | tuple | set | frozenset):
                raise InputError(f"where: 'in' for {key!r} takes a list of values, got {operand!r}")
            if name in _COMPARISONS and _kind(operand) not in {1, 2}:
                raise InputError(f"where: {name!r} for {key!r} takes a number or a string, got {operand!r}")


def matching_rows(where: Where, columns: Mapping[str, Column], num_rows: int) -> NDArray[np.bool_]:
    """Which passages meet every condition, shape (num_rows,).

    A passage that lacks a key does not match, whatever the condition. Where the metadata holds a list, one
    of its items must match (for "ne", all). Numbers compare with numbers and strings with strings only.
    """
    matching = np.ones(num_rows, dtype=np.bool_)
    for key, condition in where.items():
        column = columns.get(key)
        if column is None:
            return np.zeros(num_rows, dtype=np.bool_)
        meets = np.array([*(is_met(value, condition) for value in column.values), False], dtype=np.bool_)
        matching &= meets[column.codes]
    return matching


def is_met(value: Any, condition: Any) -> bool:
    """Whether a value meets the condition that ``where=`` says for it."""
    if isinstance(condition, Mapping):
        return all(_holds(value, name, operand) for name, operand in condition.items())
    if isinstance(condition, list | tuple | set | frozenset):
        return _holds(value, "in", condition)
    return _holds(value, "eq", condition)


def _holds(value: Any, name: str, operand: Any) -> bool:
    if name == "ne":
        return not _holds(value, "eq", operand)
    if name == "in":
        return any(_holds(value, "eq", choice) for choice in operand)
    items = value if isinstance(value, list) else [value]
    if name == "eq":
        return any(_equal(item, operand) for item in items) or (
            isinstance(operand, list) and value == operand
        )
    compare = _COMPARISONS[name]
    return any(_kind(item) == _kind(operand) and compare(item, operand) for item in items)


def _equal(one: Any, other: Any) -> bool:
    return _kind(one) == _kind(other) and bool(one == other)


def _kind(value: Any) -> int:
    """Which of _KINDS a value is of; None and nested values are of none, and equal their like."""
    return next((at for at, types in enumerate(_KINDS) if isinstance(value, types)), -1)
