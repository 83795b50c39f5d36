"""Where records go. A sink of one's own has two methods: ``write`` and ``close``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol

from sage.errors import InputError, SetupError
from sage.graph.values import Record
from sage.runtime.files import RecordWriter, format_of
from sage.runtime.formats import STANDARD
from sage.stream.specs import Write
from sage.stream.stages import CHUNK, Gate, Host, Inbox, Items, Stage, place_of, room

__all__ = ["AsyncWriteStage", "FileWriteStage", "Sink", "WriteStage", "check_sink", "write_stage"]


class Sink(Protocol):
    """Somewhere records go. ``write`` may be async; then it holds the stream back while it waits."""

    def write(self, records: list[Record]) -> Any:
        """Take some records, in order. What it raises stops the stream."""

    def close(self) -> Any:
        """Make sure everything written stays, and let go; may be async. Called once, whatever happened."""


def check_sink(path: str, format: str | None) -> None:  # noqa: A002 - the public word for it
    """Refuse a file that could not be written record by record."""
    if is_parquet(path, format):
        return
    if format_of(path, format) == "json":
        raise InputError(f"{path}: a JSON array cannot be written record by record; name it .jsonl")


def is_parquet(path: str, format: str | None) -> bool:  # noqa: A002 - the public word for it
    return format == "parquet" or (format is None and Path(path).suffix.lower() == ".parquet")


class WriteStage(Stage):
    """Writes records with a sink that does not wait."""

    def __init__(self, name: str, host: Host, sink: Any) -> None:
        super().__init__(name, host)
        self.sink: Any = sink
        self.num_written = 0

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        self.sink.write(items)
        self.num_written += len(items)
        self.give(items)

    @property
    def is_done(self) -> bool:
        """Never: what is written matters, whoever reads it afterwards."""
        return False

    async def end_sink(self) -> None:
        """Close it."""
        closing = self.sink.close()
        if inspect.isawaitable(closing):
            await closing

    def abandon(self) -> None:
        """Count the records that are still held, for they go no further."""
        self.unfinished = self.taken - self.num_written - self.failed


class FileWriteStage(WriteStage):
    """Writes records to a file; one that has no form there fails alone, a full disk stops the stream."""

    def __init__(self, name: str, host: Host, spec: Write) -> None:
        assert spec.path is not None
        super().__init__(name, host, _opened(spec))

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        writer, good = self.sink, []
        for record in items:
            try:
                writer.write(record)
            except InputError as error:
                self.fail(record, error, place_of(self, items, record))
            else:
                good.append(record)
        try:
            writer.flush()
        except SetupError as error:
            raise SetupError(f"{error}; {self.num_written:,} records were written before") from error
        self.num_written += len(good)
        if good:
            self.give(good)


class AsyncWriteStage(WriteStage):
    """Writes records with a sink that has to be awaited; meanwhile at most so many wait here."""

    def __init__(self, name: str, host: Host, sink: Any) -> None:
        super().__init__(name, host, sink)
        self._inbox = Inbox(2 * CHUNK)

    @property
    def pending(self) -> int:
        """How much is kept."""
        return self._inbox.num_records

    def inlets(self, _number: int, /) -> list[Gate]:
        """What has to have room before records may come in here."""
        return [self._inbox]

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        self._inbox.put(items)
        self.most_pending = max(self.most_pending, self._inbox.num_records)

    def end(self, _number: int, /) -> None:
        """An input has ended."""
        self._inbox.end()

    async def work(self) -> None:
        """Write what comes, until nothing more does."""
        while (items := await self._inbox.next()) is not None:
            await self.sink.write(items)
            self.num_written += len(items)
            self.give(items)
            await room(self.outlets())
        self.close()


def write_stage(name: str, host: Host, spec: Write) -> WriteStage:
    """The stage that writes, its file opened.

    Raises:
        InputError: the file cannot be written to.
    """
    if spec.sink is None:
        return FileWriteStage(name, host, spec)
    kind = AsyncWriteStage if inspect.iscoroutinefunction(spec.sink.write) else WriteStage
    return kind(name, host, spec.sink)


def _opened(spec: Write) -> Any:
    assert spec.path is not None
    if is_parquet(spec.path, spec.format):
        from sage.stream.parquet import ParquetWriter

        if spec.path == STANDARD:
            raise InputError("-: Parquet cannot be written to standard output; name a file")
        return ParquetWriter(Path(spec.path))
    return RecordWriter(spec.path, spec.format)
