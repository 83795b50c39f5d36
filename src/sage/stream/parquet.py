"""Records in Parquet files, through pyarrow. The only file of the streams that imports it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.errors import InputError, SetupError
from sage.graph.values import Record, to_json
from sage.runtime.formats import cannot
from sage.stream.stages import CHUNK

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ParquetWriter", "read_parquet"]

_SCALARS = frozenset({str, bool, int, float, type(None)})
_EXACT = 1 << 53  # below it a whole number fits a column of fractions too

GROUP_ROWS = 10_000  # rows put together in the file


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(
            "Parquet files need the package pyarrow; type: pip install 'sage-dataflow[parquet]'"
        ) from error
    return pyarrow


def read_parquet(path: Path) -> Iterator[Record]:
    """The rows of a file, some hundred in memory at a time.

    Raises:
        InputError: there is no such file, or it is no Parquet.
        SetupError: pyarrow is not installed.
    """
    arrow = _arrow()
    try:
        file = arrow.parquet.ParquetFile(path)
    except OSError as error:
        raise InputError(cannot("read", path, error) if error.errno else f"{path}: {error}") from error
    except arrow.ArrowException as error:
        raise InputError(f"{path}: is no Parquet file: {error}") from error
    with file:
        try:
            for batch in file.iter_batches(batch_size=CHUNK):
                yield from batch.to_pylist()
        except (OSError, arrow.ArrowException) as error:
            raise InputError(f"{path}: is damaged: {error}") from error


class ParquetWriter:
    """Writes records to a file, a group of rows at a time; the first group gives the columns and their types.

    A file is readable only once it is closed: what is written so far, a killed process takes along.

    Raises:
        InputError: the file cannot be written to; or, from ``write``, a record has no JSON form.
        SetupError: pyarrow is not installed, or writing failed half-way.
    """

    def __init__(self, path: Path) -> None:
        self._arrow = _arrow()
        self.path = path
        self._rows: list[Record] = []
        self._writer: Any = None
        self._schema: pa.Schema | None = None
        self._fitting: defaultdict[str, set[type]] = defaultdict(set)  # types known to go into a column
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise InputError(cannot("write", path, error)) from error

    def write(self, record: Record) -> None:
        """Keep a record for the next group."""
        try:
            row = to_json(record)
        except TypeError as error:
            raise InputError(f"{self.path}: {error}") from error
        if self._schema is not None:
            self._check(row)
        self._rows.append(row)
        if len(self._rows) >= GROUP_ROWS:
            self._write_group()

    def flush(self) -> None:
        """Nothing to do: groups are written when they are full, and the file is readable once it is closed."""

    def close(self) -> None:
        """Write what is left and the end of the file."""
        try:
            self._write_group()
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            raise SetupError(cannot("write", self.path, error)) from error

    def _check(self, row: Record) -> None:
        """Whether a row fits the columns of the first group."""
        assert self._schema is not None
        extra = [name for name in row if name not in self._schema.names]
        if extra:
            raise InputError(
                f"{self.path}: the record has the new field {extra[0]!r}; in Parquet all have those of the first"
            )
        if all(self._surely_fits(name, value) for name, value in row.items()):
            return
        try:
            self._arrow.Table.from_pylist([row], schema=self._schema)
        except (self._arrow.ArrowException, TypeError) as error:
            raise InputError(
                f"{self.path}: the record does not fit the columns of the first: {error}"
            ) from error
        for name, value in row.items():
            if type(value) is not float or self._arrow.types.is_floating(self._schema.field(name).type):
                self._fitting[name].add(type(value))

    def _surely_fits(self, name: str, value: Any) -> bool:
        """Whether a value is of a type of which one that fits means that all do."""
        kind = type(value)
        return (
            kind in _SCALARS and kind in self._fitting[name] and (kind is not int or -_EXACT < value < _EXACT)
        )

    def _write_group(self) -> None:
        rows, self._rows = self._rows, []
        try:
            table = self._arrow.Table.from_pylist(rows, schema=self._schema)
            if self._writer is None:
                self._schema = table.schema
                self._writer = self._arrow.parquet.ParquetWriter(self.path, table.schema)
            if rows:
                self._writer.write_table(table)
        except OSError as error:
            raise SetupError(cannot("write", self.path, error)) from error
        except self._arrow.ArrowException as error:
            raise InputError(
                f"{self.path}: these records have no common columns: {error}; write .jsonl"
            ) from error
