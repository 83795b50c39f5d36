"""Numbers of a report: each is read from a result file, or computed from such by a named operation.

There is no way to make one of a literal: :class:`Value` is made by :class:`Files` and :func:`computed` only. Each
knows where it comes from, so that whoever checks the report can read the file and reckon again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sage.bench.stats import balance_of, spread_of
from sage.errors import InputError, InternalError, nearest
from sage.runtime.packed import sha256_of

__all__ = [
    "FORMS",
    "OPERATIONS",
    "Files",
    "Made",
    "Read",
    "Shown",
    "Value",
    "computed",
    "evaluated",
    "shown",
    "written",
]

_KEY = object()  # whoever has it may make a Value


class Read(msgspec.Struct, frozen=True, tag="read", tag_field="by"):
    """A number or text at a place in a JSON file."""

    file: str  # as the report names it
    pointer: str  # keys and places in lists, with slashes between


class Made(msgspec.Struct, frozen=True, tag="made", tag_field="by"):
    """The result of an operation on others."""

    operation: str
    of: tuple[Read | Made, ...]


Origin = Read | Made


class Value:
    """A number, or a text, and where it comes from."""

    __slots__ = ("content", "origin")

    def __init__(self, key: object, content: float | str, origin: Origin) -> None:
        if key is not _KEY:
            raise InternalError(
                "a value of a report is read from a file or computed from such, never made by hand"
            )
        self.content = content
        self.origin = origin

    @property
    def number(self) -> float:
        """The number it is."""
        if isinstance(self.content, str):
            raise InternalError(f"{self.content!r} is no number")
        return self.content

    def __repr__(self) -> str:
        return f"Value({self.content!r}, {self.origin})"


class Files:
    """The files a report is made from, by the names it has for them.

    Args:
        roots: name -> folder or file.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self.roots = dict(roots)
        self._contents: dict[str, Any] = {}
        self.sha256: dict[str, str] = {}

    def path(self, file: str) -> Path:
        """Where a file is.

        Raises:
            InputError: its name begins with no root, or leads out of it.
        """
        root, _, rest = file.partition("/")
        if root not in self.roots or ".." in Path(rest).parts:
            raise InputError(f"{file!r} is no file of this report: {nearest(root, self.roots)}")
        return self.roots[root] / rest if rest else self.roots[root]

    def content(self, file: str) -> Any:
        """The JSON in a file.

        Raises:
            InputError: it cannot be read.
        """
        if file not in self._contents:
            path = self.path(file)
            try:
                self._contents[file] = msgspec.json.decode(path.read_bytes())
                self.sha256[file] = sha256_of(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: is no JSON: {error}") from error
        return self._contents[file]

    def at(self, file: str, pointer: str) -> Value | None:
        """The number or text at a place; None where there is none."""
        content = self.content(file)
        for part in pointer.split("/"):
            if isinstance(content, Mapping) and part in content:
                content = content[part]
            elif isinstance(content, list) and part.isdecimal() and int(part) < len(content):
                content = content[int(part)]
            else:
                return None
        if isinstance(content, bool) or not isinstance(content, int | float | str):
            return None
        return Value(_KEY, content, Read(file, pointer))

    def sure(self, file: str, pointer: str) -> Value:
        """The same, where it must be.

        Raises:
            InputError: there is no number or text.
        """
        found = self.at(file, pointer)
        if found is None:
            raise InputError(f"{self.path(file)}: has no number or text at {pointer!r}")
        return found

    def sum_at(self, file: str, pointer: str) -> Value | None:
        """The sum of the numbers of a mapping or a list; None where there are none."""
        content = self.content(file)
        for part in pointer.split("/"):
            content = content.get(part) if isinstance(content, Mapping) else None
        keys: Iterable[Any] = content if isinstance(content, Mapping) else range(len(content or ()))
        found = [self.at(file, f"{pointer}/{key}") for key in keys]
        return computed("sum", found)


# --- operations -------------------------------------------------------------------------------------------


def _half(numbers: Sequence[float]) -> float | None:
    return spread_of(list(numbers)).half


def _ratio(numbers: Sequence[float]) -> float | None:
    one, other = numbers
    return one / other if other else None


def _rising(numbers: Sequence[float]) -> float | None:
    """By which share the first is more than the second."""
    ratio = _ratio(numbers)
    return None if ratio is None else ratio - 1


#: What may be done with numbers, by name, beside counting them; None: it cannot be told.
OPERATIONS: Mapping[str, Callable[[Sequence[float]], float | None]] = {
    "mean": lambda numbers: math.fsum(numbers) / len(numbers),
    "half": _half,  # of the 95 % t-interval over runs
    "sum": math.fsum,
    "least": min,
    "most": max,
    "ratio": _ratio,
    "more": _rising,
    "difference": lambda numbers: numbers[0] - numbers[1],
    "size": lambda numbers: abs(numbers[0]),
    "product": math.prod,
    "jain": lambda numbers: balance_of(list(numbers)).jain,
}


def computed(operation: str, values: Iterable[Value | None]) -> Value | None:
    """A value out of others; None where one is missing or the operation cannot tell."""
    taken = list(values)
    known = [value for value in taken if value is not None]
    if not known or len(known) < len(taken):
        return None
    number = _operated(operation, [value.content for value in known])
    origin = Made(operation, tuple(value.origin for value in known))
    return None if number is None else Value(_KEY, number, origin)


def evaluated(origin: Origin, files: Files) -> float | str:
    """Read and reckon again.

    Raises:
        InputError: a file is not as it was.
    """
    if isinstance(origin, Read):
        return files.sure(origin.file, origin.pointer).content
    contents = [evaluated(part, files) for part in origin.of]
    result = _operated(origin.operation, contents)
    if result is None:
        raise InputError(f"operation {origin.operation!r} cannot tell anything of {contents}")
    return result


def _operated(operation: str, contents: Sequence[float | str]) -> float | None:
    """The result of an operation; only counting takes texts."""
    if operation == "count":
        return len(contents)
    numbers = [content for content in contents if not isinstance(content, str)]
    if len(numbers) < len(contents):
        raise InputError(f"operation {operation!r} meets a text among {list(contents)}")
    return OPERATIONS[operation](numbers)


# --- how they are shown -----------------------------------------------------------------------------------


def _significant(number: float, digits: int = 3) -> str:
    """A number with so many digits that count, and commas between thousands.

    >>> _significant(1234.5), _significant(0.012345), _significant(2.0)
    ('1,234', '0.0123', '2.00')
    """
    if number == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:,.{places}f}"


def _seconds(number: float) -> str:
    if abs(number) >= 1 or number == 0:
        return f"{_significant(number)} s"
    return (
        f"{_significant(1000 * number)} ms"
        if abs(number) >= 0.001
        else f"{_significant(1e6 * number)} \N{MICRO SIGN}s"
    )


#: How a value may be shown, by name.
FORMS: Mapping[str, Callable[[Any], str]] = {
    "text": str,
    "count": lambda number: f"{number:,.0f}",
    "plain": lambda number: f"{number:g}",
    "number": _significant,
    "seconds": _seconds,
    "ms": lambda number: f"{_significant(1000 * number)} ms",
    "percent": lambda number: f"{100 * number:.1f} %",
    "times": lambda number: f"{number:.2f}",
    "short": lambda text: str(text)[:12],
    "gigabytes": lambda number: f"{number / 1e9:.1f} GB",
}


#: What a form multiplied a number by, by the unit it wrote.
_SCALES: Mapping[str, float] = {"ms": 1e3, "\N{MICRO SIGN}s": 1e6, "%": 100.0}


def written(form: str, content: float | str, half: float | str | None = None) -> str:
    """A value as it is read; half of its interval in the same unit and with as many decimals.

    >>> written("seconds", 0.02, 0.0012), written("number", 1234.5, 3.2), written("percent", 0.5)
    ('20.0 ± 1.2 ms', '1,234 ± 3', '50.0 %')
    """
    own = FORMS[form](content)
    if half is None or isinstance(half, str):
        return own
    number, space, unit = own.partition(" ")
    places = len(number.partition(".")[2])
    spread = f"{_SCALES.get(unit, 1.0) * half:,.{places}f}"
    return f"{number} \N{PLUS-MINUS SIGN} {spread}{space}{unit}"


class Shown(msgspec.Struct, frozen=True):
    """A value as it stands in a text, with half of its interval behind it if it has one."""

    value: Value
    form: str
    half: Value | None = None

    @property
    def text(self) -> str:
        """What is read."""
        return written(self.form, self.value.content, None if self.half is None else self.half.content)


def shown(value: Value | None, form: str, half: Value | None = None) -> Shown | str:
    """A value as it stands in a table; a dash where there is none."""
    return "\N{EN DASH}" if value is None else Shown(value, form, half)
