"""Extension points: a registry is a dict from a name to the thing, that refuses unknown names well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from sage.errors import InputError, nearest

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from a public name to an implementation.

    >>> colours: Registry[str] = Registry("colour")
    >>> colours["red"] = "#f00"
    >>> colours["rad"]
    Traceback (most recent call last):
    sage.errors.InputError: unknown colour 'rad': did you mean 'red'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind  # what the members are, in the words of an error message
        self._members: dict[str, T] = {}

    def __setitem__(self, name: str, member: T) -> None:
        if name in self._members and self._members[name] is not member:
            raise InputError(f"{self.kind} {name!r} is already registered; choose another name")
        self._members[name] = member

    def replace(self, name: str, member: T) -> None:
        """Put a member in the place of another, or of none."""
        self._members[name] = member

    def __getitem__(self, name: str) -> T:
        try:
            return self._members[name]
        except KeyError:
            raise InputError(f"unknown {self.kind} {name!r}: {nearest(name, self._members)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
