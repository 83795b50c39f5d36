"""Records in and out of files: JSON lines, JSON arrays, CSV and TSV, in flat memory (an array is read whole)."""

from __future__ import annotations

import codecs
import csv
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import msgspec

from sage.errors import InputError
from sage.graph.values import Record
from sage.runtime.formats import DELIMITERS, STANDARD, Format, cannot, format_of
from sage.runtime.writer import RecordWriter

__all__ = ["Format", "RecordWriter", "check_file", "format_of", "read_records"]

_BUFFER_BYTES = 1 << 16
_CELL_CHARACTERS = 1 << 24  # the csv module's own limit, 131,072, is too small for documents
_BYTE = re.compile(r"\(byte (\d+)\)")

OnBad = Callable[[InputError], None]


def read_records(
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the public word for it
    *,
    skip_bad: bool = False,
    on_bad: OnBad | None = None,
) -> Iterator[Record]:
    """The records of a file, one after another; "-" is standard input.

    Blank lines are passed over. In CSV every value is text. With ``skip_bad`` a record that cannot be read is
    left out and told to ``on_bad``; an array in a ``.json`` file must be sound as a whole.

    Raises:
        InputError: at the call: no such file, not readable, an unknown format. While iterating: a bad record,
            with its line and column, or no records at all.
    """
    kind = format_of(path, format)
    if str(path) != STANDARD:
        _check_readable(Path(path))
    return _records(path, kind, skip_bad=skip_bad, on_bad=on_bad)


def check_file(
    path: str | Path,
    format: str | None = None,  # noqa: A002 - the public word for it
    *,
    skip_bad: bool = False,
    on_bad: OnBad | None = None,
) -> int | None:
    """Read a whole file, keeping nothing, and say how many records it has; None for standard input or a pipe.

    Those can be read once only: there a bad record shows when its turn comes.

    Raises:
        InputError: as :func:`read_records`, for the first bad record.
    """
    records = read_records(path, format, skip_bad=skip_bad, on_bad=on_bad)
    return sum(1 for _ in records) if Path(path).is_file() else None


def _check_readable(path: Path) -> None:
    try:
        if not stat.S_ISFIFO(path.stat().st_mode):  # a pipe can be opened once only
            with path.open("rb"):
                pass
    except OSError as error:
        raise InputError(cannot("read", path, error)) from error


@contextmanager
def _opened(path: str | Path) -> Iterator[IO[bytes]]:
    if str(path) == STANDARD:
        yield sys.stdin.buffer
        return
    with Path(path).open("rb", buffering=_BUFFER_BYTES) as file:
        yield file


def _records(path: str | Path, kind: Format, *, skip_bad: bool, on_bad: OnBad | None) -> Iterator[Record]:
    name = "standard input" if str(path) == STANDARD else str(path)
    found = False
    with _opened(path) as file:
        read = {"jsonl": _json_lines, "json": _json_array}.get(kind)
        records = read(name, file) if read else _table(name, file, DELIMITERS[kind])
        for record in records:
            if not isinstance(record, InputError):
                found = True
                yield record
            elif not skip_bad:
                raise record
            elif on_bad is not None:
                on_bad(record)
    if not found:
        raise InputError(f"{name}: has no records that can be read; expected at least one")


# --- JSON -----------------------------------------------------------------------------------------------


def _json_lines(name: str, file: IO[bytes]) -> Iterator[Record | InputError]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate(file, 1):
        try:
            yield decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            bare = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not bare.strip():
                continue
            if bare is not line:
                yield from _json_lines(name, iter([bare]))  # type: ignore[arg-type]  # lines are all it needs
                continue
            yield InputError(f"{name}:{number}:{_column(bare, error)}: {_json_fault(error)}")


def _json_array(name: str, file: IO[bytes]) -> Iterator[Record | InputError]:
    """Every item is kept as its bytes until its turn, so that one bad item is found by its number."""
    text = file.read().removeprefix(codecs.BOM_UTF8)
    if not text.strip():
        return
    try:
        items = msgspec.json.decode(text, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, msgspec.ValidationError):
            raise InputError(
                f"{name}: {_json_fault(error, 'array of objects')}; for one object a line use .jsonl"
            ) from error
        at = _position(text, error)
        line = text.count(b"\n", 0, at) + 1
        column = at - text.rfind(b"\n", 0, at)
        raise InputError(
            f"{name}:{line}:{column}: {_json_fault(error)}; one object a line is .jsonl"
        ) from error
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, item in enumerate(items, 1):
        try:
            yield decode(item)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            yield InputError(f"{name}: item {number} of the array: {_json_fault(error)}")


def _position(text: bytes, error: Exception) -> int:
    """Where in the bytes the fault is, counted from 0."""
    if found := _BYTE.search(str(error)):
        return int(found[1]) - ("trailing" in str(error))  # msgspec counts these from 1
    try:
        text.decode()
    except UnicodeDecodeError as bad:
        return bad.start
    return 0 if isinstance(error, msgspec.ValidationError | RecursionError) else len(text.rstrip())


def _column(line: bytes, error: Exception) -> int:
    """The column in characters, counted from 1, as an editor shows it."""
    return len(line[: _position(line, error)].decode("utf-8", "replace")) + 1


def _json_fault(error: Exception, expected: str = "JSON object") -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8; save the file in that encoding"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    text = str(error)
    if isinstance(error, msgspec.ValidationError) and text.startswith("Expected"):
        return f"expected a {expected}, got {text.rpartition('got ')[2].replace('`', '')}".replace(
            "a array", "an array"
        )
    if "truncated" in text:
        return "JSON ends too early; a bracket or a quote is not closed"
    return _BYTE.sub("", text).strip()


# --- CSV ------------------------------------------------------------------------------------------------


class _Lines:
    """The decoded lines of a file for the csv module; goes on after one that is not UTF-8."""

    def __init__(self, file: IO[bytes]) -> None:
        self._lines = iter(file)
        self.number = 0  # of the last line given, counted from 1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        return (line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line).decode()


def _table(name: str, file: IO[bytes], delimiter: str) -> Iterator[Record | InputError]:
    csv.field_size_limit(max(csv.field_size_limit(), _CELL_CHARACTERS))
    lines = _Lines(file)
    rows = _rows(name, lines, delimiter)
    header = next(rows, None)
    if header is None:
        return
    if isinstance(header, InputError):
        raise header
    if repeated := sorted({title for title in header if header.count(title) > 1}):
        raise InputError(f"{name}:1: the column {repeated[0]!r} stands twice in the header; rename one")
    if "" in header:
        raise InputError(f"{name}:1: column {header.index('') + 1} of the header has no name; give it one")
    for row in rows:
        if isinstance(row, InputError):
            yield row
        elif len(row) != len(header):
            yield InputError(
                f"{name}:{lines.number}: the row has {len(row)} columns, expected {len(header)} as in the header; "
                f"a value with {delimiter!r} or a line break in it must be quoted"
            )
        else:
            yield dict(zip(header, row, strict=True))


def _rows(name: str, lines: _Lines, delimiter: str) -> Iterator[list[str] | InputError]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            yield InputError(
                f"{name}:{lines.number}:{error.start + 1}: is not UTF-8; save the file in that encoding"
            )
        except csv.Error as error:
            yield InputError(f"{name}:{lines.number}: {error}; is a quote missing or too many?")
        else:
            if row:
                yield row
