"""References to fields: how they are written in arguments, and how they are read from a record.

Only ``{name}``, ``{name.part}`` and ``{name[0]}`` are references. Every other brace is plain text, so JSON may
stand in a prompt; ``{{name}}`` writes ``{name}``. Values are substituted literally: what a value contains is
never parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sage.errors import InputError, nearest
from sage.graph.values import render

__all__ = ["Argument", "Constant", "Ref", "Template", "field", "getter", "parse_ref", "scalar", "text"]

_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_REF = rf"{_NAME}(?:\.{_NAME}|\[[0-9]+\])*"
_REFERENCE = re.compile(rf"\{{\{{({_REF})\}}\}}|\{{({_REF})\}}")
_WHOLE_REF = re.compile(rf"\{{({_REF})\}}|({_REF})")
_PART = re.compile(rf"\.({_NAME})|\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class Ref:
    """A field of the record, or a part of its value. ``str()`` gives ``name.part[0]``."""

    name: str
    parts: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return self.name + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.parts
        )

    @property
    def references(self) -> tuple[Ref, ...]:
        """This reference alone."""
        return (self,)


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is the same for every record."""

    value: Any

    @property
    def references(self) -> tuple[Ref, ...]:
        """None: a constant reads no field."""
        return ()


@dataclass(frozen=True, slots=True)
class Template:
    """Text with references in it. Equal when the text is equal."""

    text: str

    @property
    def pieces(self) -> tuple[str | Ref, ...]:
        """The text cut at its references, in order; no two plain pieces stand side by side."""
        pieces: list[str | Ref] = []
        plain: list[str] = []
        end = 0
        for match in _REFERENCE.finditer(self.text):
            plain.append(self.text[end : match.start()])
            end = match.end()
            if match[1] is not None:
                plain.append("{" + match[1] + "}")
            else:
                pieces += [*_joined(plain), parse_ref(match[2])]
                plain.clear()
        plain.append(self.text[end:])
        return (*pieces, *_joined(plain))

    @property
    def references(self) -> tuple[Ref, ...]:
        """The references in it, in order, repeated ones repeated."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Ref))

    @property
    def alone(self) -> Ref | None:
        """The reference, if there is nothing else in the text: then the value passes unchanged."""
        pieces = self.pieces
        return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], Ref) else None


Argument = Ref | Constant | Template


def parse_ref(written: str) -> Ref:
    """The reference written ``x``, ``x.part`` or ``x[0]``, with or without braces around it.

    >>> parse_ref("{hits[0].title}")
    Ref(name='hits', parts=(0, 'title'))

    Raises:
        InputError: it is not one.
    """
    match = _WHOLE_REF.fullmatch(written.strip())
    if match is None:
        raise InputError(
            f"{written!r} is no reference; write a field name such as 'question', or a part: 'answer.score', 'hits[0]'"
        )
    ref = match[1] or match[2]
    name = re.match(_NAME, ref)
    assert name is not None
    parts = (part[1] if part[1] is not None else int(part[2]) for part in _PART.finditer(ref, name.end()))
    return Ref(name[0], tuple(parts))


def text(value: str) -> Template:
    """A text argument: references stand in braces."""
    if not isinstance(value, str):
        raise InputError(
            f"expected text, got {value!r} of type {type(value).__name__!r}; write it as a string"
        )
    return Template(value)


def field(value: str) -> Ref:
    """A field argument: ``x`` or ``{x}`` names the field to read."""
    if not isinstance(value, str):
        raise InputError(f"expected the name of a field, got {value!r}; write it as a string")
    return parse_ref(value)


def scalar(value: Any) -> Argument:
    """A scalar argument: ``"{x}"`` is a reference, everything else a constant.

    >>> scalar("{depth}"), scalar(4), scalar("docs")
    (Ref(name='depth', parts=()), Constant(value=4), Constant(value='docs'))
    """
    if isinstance(value, str) and value.startswith("{") and _WHOLE_REF.fullmatch(value):
        return parse_ref(value)
    return Constant(value)


def getter(argument: Argument) -> Callable[[Mapping[str, Any]], Any]:
    """A function from a record to the argument's value, as fast as a closure can be.

    The function raises InputError when a part is missing from a value.
    """
    if isinstance(argument, Constant):
        value = argument.value
        return lambda _record: value
    if isinstance(argument, Ref):
        return _ref_getter(argument)
    if argument.alone is not None:
        return _ref_getter(argument.alone)
    pieces = [piece if isinstance(piece, str) else _ref_getter(piece) for piece in argument.pieces]
    return lambda record: "".join(
        [piece if isinstance(piece, str) else render(piece(record)) for piece in pieces]
    )


def _ref_getter(ref: Ref) -> Callable[[Mapping[str, Any]], Any]:
    if not ref.parts:
        return itemgetter(ref.name)

    def read(record: Mapping[str, Any]) -> Any:
        value = record[ref.name]
        for part in ref.parts:
            value = _part(value, part, ref)
        return value

    return read


def _part(value: Any, part: str | int, ref: Ref) -> Any:
    """A key of a mapping, an item of a sequence, or a data field of an object; never a method."""
    if isinstance(value, Mapping):
        key = part if part in value else str(part)
        if key in value:
            return value[key]
        raise InputError(
            f"{{{ref}}}: there is no {key!r} in the mapping: {nearest(str(key), map(str, value))}"
        )
    if isinstance(part, int):
        if isinstance(value, list | tuple) and part < len(value):
            return value[part]
        have = f"{len(value)} items" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        raise InputError(f"{{{ref}}}: there is no item {part}; the value has {have}")
    if not callable(found := getattr(value, part, _ABSENT)) and found is not _ABSENT:
        return found
    raise InputError(f"{{{ref}}}: a value of type {type(value).__name__!r} has no field {part!r}")


_ABSENT = object()


def _joined(plain: list[str]) -> list[str]:
    joined = "".join(plain)
    return [joined] if joined else []
