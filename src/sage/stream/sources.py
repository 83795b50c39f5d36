"""Where records come from. A source of one's own has two methods: ``records`` and ``close``."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import msgspec

from sage.clock import Clock
from sage.errors import InputError, SetupError
from sage.graph.values import Record
from sage.runtime.files import format_of, read_records
from sage.runtime.formats import STANDARD, cannot
from sage.stream.specs import Documents, Read, Records
from sage.stream.stages import CHUNK

__all__ = ["Source", "check_read", "check_records", "lists_of"]

FOLLOW_S = 0.25  # how often a file that is followed is looked at
AHEAD = 4  # lists read ahead of a pipe
SLICE_S = 0.002  # a slow iterator's records are handed on this soon
MAX_LINE = 1 << 26  # of a file that is followed

#: Told of rows that cannot be read.
OnBad = Callable[[InputError], None]


@runtime_checkable
class Source(Protocol):
    """Somewhere records come from; opened by being asked for them, closed whatever happens."""

    def records(self) -> Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]:
        """The records, one after another. What it raises stops the stream, after what came before is dealt with."""

    def close(self) -> Any:
        """Let go of everything; may be async. Called once, when no more records are wanted."""


_FORMATS = ("jsonl", "json", "csv", "tsv", "txt", "parquet")
_LINES = ("jsonl", "txt")  # what can be followed


def kind_of(path: str, format: str | None) -> str:  # noqa: A002 - the public word for it
    """How a file is to be read."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    said = format if format is not None else suffix
    if said in {"txt", "parquet"}:
        return said
    if format is not None and format not in _FORMATS:
        raise InputError(f"unknown file format {format!r}; choose from {', '.join(_FORMATS)}")
    if format is None and path != STANDARD and suffix not in {*_FORMATS, "ndjson"}:
        raise InputError(
            f"{path}: cannot tell the format from {Path(path).suffix!r}; name it .{', .'.join(_FORMATS)}, or say the "
            "format. The documents of a folder are read with documents()"
        )
    return format_of(path, format)


def check_read(path: str, format: str | None, *, follow: bool) -> None:  # noqa: A002 - the public word for it
    """Refuse what could never be read; that the file exists is found out when it is opened."""
    kind = kind_of(path, format)
    if follow and (kind not in _LINES or path == STANDARD):
        raise InputError(f"{path}: only files of lines can be followed: {', '.join(_LINES)}")


def check_records(source: Any) -> None:
    """Refuse what is no source of records."""
    if isinstance(source, Mapping | str | bytes):
        raise InputError(
            f"records takes several records, got one {type(source).__name__!r}; write records([…])"
        )
    if not (isinstance(source, Iterable | AsyncIterable | Source) or callable(source)):
        raise InputError(
            f"records takes an iterable, an async iterable, a Source, or a function that makes one; got {source!r:.60}"
        )


def lists_of(spec: Read | Documents | Records, on_bad: OnBad, clock: Clock) -> AsyncIterator[list[Record]]:
    """The records of a source in lists, as they come."""
    if isinstance(spec, Documents):
        from sage.stream.watch import watched

        return watched(spec, on_bad)
    if isinstance(spec, Records):
        return _of_object(spec, clock)
    if spec.follow:
        return _followed(spec, on_bad)
    if spec.path == STANDARD or (Path(spec.path).exists() and not Path(spec.path).is_file()):
        return _threaded(lambda: _of_file(spec, on_bad))
    return _sliced(_of_file(spec, on_bad), clock)


# ---- files


def _of_file(spec: Read, on_bad: OnBad) -> Iterator[Record]:
    kind = kind_of(spec.path, spec.format)
    if kind == "parquet":
        from sage.stream.parquet import read_parquet

        return read_parquet(Path(spec.path))
    if kind == "txt":
        return _text_lines(Path(spec.path))
    return read_records(spec.path, kind, skip_bad=True, on_bad=on_bad)


def _text_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                yield {"text": line.rstrip("\n"), "line": number}
    except OSError as error:
        raise InputError(cannot("read", path, error)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8; save the file in that encoding") from error


async def _followed(spec: Read, on_bad: OnBad) -> AsyncIterator[list[Record]]:
    """The lines of a file, and those that are appended to it; a line counts when it has its end."""
    path = Path(spec.path)
    read = (
        _as_text if kind_of(spec.path, spec.format) == "txt" else msgspec.json.Decoder(dict[str, Any]).decode
    )
    number, left = 0, b""
    with _opened(path) as file:
        while True:
            content = file.read(1 << 16)
            if not content:
                _check_length(path, file)
                await asyncio.sleep(FOLLOW_S)
                continue
            *lines, left = (left + content).split(b"\n")
            if len(left) > MAX_LINE:
                raise InputError(
                    f"{path}:{number + len(lines) + 1}: the line is longer than {MAX_LINE >> 20} MiB"
                )
            found = []
            for line in lines:
                number += 1
                if line.strip():
                    try:
                        found.append(read(line))
                    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                        on_bad(InputError(f"{path}:{number}: is no record: {error}"))
            if found:
                yield found


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(cannot("read", path, error)) from error


def _check_length(path: Path, file: IO[bytes]) -> None:
    if path.stat().st_size < file.tell():
        raise SetupError(f"{path}: became shorter while it was followed; was it replaced?")


def _as_text(line: bytes) -> Record:
    return {"text": line.decode().rstrip("\r")}


# ---- objects


async def _of_object(spec: Records, clock: Clock) -> AsyncIterator[list[Record]]:
    """Whatever a user calls a source of records; closed at the end if it can be."""
    source = spec.source
    if not isinstance(source, Iterable | AsyncIterable | Source) and callable(source):
        source = source()
        if inspect.isawaitable(source):
            source = await source
        check_records(source)
    owner = source if isinstance(source, Source) else None
    found = source.records() if owner is not None else source
    try:
        _refuse_used(spec, found)
        lists = _one_by_one(found) if isinstance(found, AsyncIterable) else _sliced(iter(found), clock)
        async for items in lists:
            yield items
    finally:
        if owner is not None:
            closing = owner.close()
            if inspect.isawaitable(closing):
                await closing


def _refuse_used(spec: Records, found: Any) -> None:
    """A one-shot iterator gives nothing the second time; say so."""
    if not isinstance(found, Iterable | AsyncIterable) or isinstance(found, Mapping | str | bytes):
        raise InputError(f"the source gave {found!r:.60}, expected an iterable or async iterable of records")
    if found is not spec.source or not isinstance(found, Iterator | AsyncIterator):
        return
    if spec.was_read:
        raise InputError(
            f"the source, a {type(found).__name__}, was read already and cannot be read again; "
            "give a list, or a function that makes a new one"
        )
    spec.was_read.append(True)


async def _one_by_one(found: AsyncIterable[Any]) -> AsyncIterator[list[Record]]:
    async for item in found:
        yield [_record(item)]


async def _sliced(found: Iterator[Any], clock: Clock) -> AsyncIterator[list[Record]]:
    """Many at once where they come quickly, few where they do not."""
    items: list[Record] = []
    until = clock() + SLICE_S
    try:
        for item in found:
            items.append(item if type(item) is dict else _record(item))
            if len(items) >= CHUNK or clock() > until:
                yield items
                items, until = [], clock() + SLICE_S
    except Exception:
        if items:  # what came before is dealt with
            yield items
        raise
    if items:
        yield items


def _record(item: Any) -> Record:
    if isinstance(item, Mapping):
        return dict(item)
    raise InputError(f"the source gave {item!r:.60}, expected records: mappings of field to value")


async def _threaded(make: Callable[[], Iterator[Record]]) -> AsyncIterator[list[Record]]:
    """Records read by a thread of their own, for a pipe that may keep one waiting.

    The thread may wait for ever in a read, so it is a daemon: it does not keep the process alive.
    """
    loop = asyncio.get_running_loop()
    arrived: deque[list[Record] | Exception | None] = deque()
    filled = asyncio.Event()
    places = threading.Semaphore(AHEAD)

    def hand_over(item: list[Record] | Exception | None) -> None:
        places.acquire()
        arrived.append(item)
        loop.call_soon_threadsafe(filled.set)

    def read() -> None:
        try:
            for record in make():
                hand_over([record])
            hand_over(None)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits for records any more
            return
        except Exception as error:  # noqa: BLE001 - raised to whoever reads the stream
            hand_over(error)

    threading.Thread(target=read, name="sage-stream-input", daemon=True).start()
    while True:
        while not arrived:
            filled.clear()
            await filled.wait()
        items: list[Record] = []
        while arrived:
            item = arrived.popleft()
            places.release()
            if isinstance(item, list):
                items += item
                continue
            if items:
                yield items
            if item is not None:
                raise item
            return
        yield items
