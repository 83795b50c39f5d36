"""Records into files, line by line: JSON lines, CSV and TSV."""

from __future__ import annotations

import csv
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from sage.errors import InputError, SetupError
from sage.graph.values import Record, to_json
from sage.runtime.formats import DELIMITERS, STANDARD, cannot, format_of

__all__ = ["RecordWriter"]

_BUFFER_BYTES = 1 << 16


class RecordWriter:
    """Writes records to a file as they come; a context manager, closed at its end whatever happens.

    Lines are written whole, so a run that is killed leaves a file that can be read. Vectors are left out. In CSV
    the first record gives the columns, None is empty and anything but text stands as JSON. The file is private to
    its owner (0600). "-" is standard output.

    Raises:
        InputError: the file cannot be written to, a record has no JSON form or other fields than the first (CSV).
        SetupError: writing failed half-way, as on a full disk.
    """

    def __init__(self, path: str | Path, format: str | None = None) -> None:  # noqa: A002 - the public word for it
        self.path = path
        self.num_records = 0
        kind = format_of(path, format)
        if kind == "json":
            raise InputError(f"{path}: a JSON array cannot be written record by record; name it .jsonl")
        self._line = _JsonLine() if kind == "jsonl" else _TableLine(DELIMITERS[kind])
        self._file = _standard_output() if str(path) == STANDARD else _created(Path(path))
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Add one record; it is on disk after the next :meth:`flush`, or once enough of them came."""
        try:
            self._buffer += self._line(record)
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(
                f"{self.path}: record {self.num_records + 1} cannot be written: {error}"
            ) from error
        except InputError as error:
            raise InputError(f"{self.path}: record {self.num_records + 1} {error}") from error
        self.num_records += 1
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        try:
            while self._buffer:
                del self._buffer[: os.write(self._file, self._buffer)]
        except OSError as error:
            raise SetupError(cannot("write", Path(self.path), error)) from error

    def close(self) -> None:
        """Flush and close; once is enough, twice does no harm."""
        if self._file < 0:
            return
        file, keep_open = self._file, str(self.path) == STANDARD
        try:
            self.flush()
        finally:
            self._file = -1
            self._buffer.clear()
            if not keep_open:
                os.close(file)


def _standard_output() -> int:
    try:
        return sys.stdout.fileno()
    except OSError as error:
        raise InputError("-: there is no standard output to write to here; name a file") from error


def _created(path: Path) -> int:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(cannot("write", path, error)) from error
    if stat.S_ISREG(os.fstat(file).st_mode):  # a pipe or a device keeps its mode
        os.fchmod(file, 0o600)
    return file


class _JsonLine:
    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, record: Record) -> bytes:
        return self._encode(to_json(record)) + b"\n"


class _TableLine:
    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._columns: list[str] = []

    def __call__(self, record: Record) -> bytes:
        values = to_json(record)
        header = "" if self._columns else self._header(list(values))
        if values.keys() != set(self._columns):
            extra = [name for name in values if name not in self._columns]
            lacking = [name for name in self._columns if name not in values]
            said = f"has the new field {extra[0]!r}" if extra else f"lacks the field {lacking[0]!r}"
            raise InputError(f"{said}; in CSV all records have the fields of the first, write .jsonl instead")
        return (header + self._row([_cell(values[name]) for name in self._columns])).encode()

    def _header(self, columns: list[str]) -> str:
        if not columns:
            raise InputError("has no fields to write; in CSV it needs at least one")
        self._columns = columns
        return self._row(columns)

    def _row(self, cells: list[str]) -> str:
        out = _Text()
        # With this ending the csv module quotes both \r and \n; Python 3.11 would leave a lone \r bare.
        csv.writer(out, delimiter=self._delimiter, lineterminator="\r\n").writerow(cells)
        return out.text.removesuffix("\r\n") + "\n"


class _Text:
    """A file that the csv module can write one row to."""

    text = ""

    def write(self, text: str) -> None:
        self.text += text


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
