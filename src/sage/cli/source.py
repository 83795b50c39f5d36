"""Where the records of ``sage run`` come from: a file, standard input, or the command line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sage.cli.output import say
from sage.errors import InputError
from sage.graph.plan import Plan, check_record
from sage.graph.values import Record
from sage.runtime.files import check_file, read_records
from sage.runtime.formats import STANDARD

if TYPE_CHECKING:
    from sage.runtime.feed import Source

__all__ = ["Given", "from_file", "one_record"]

AHEAD = 64  # records read ahead of a pipe
MAX_SAID = 5  # bad records named, one by one


@dataclass(frozen=True, slots=True)
class Given:
    """Records, and how many there are: None if nobody knows yet."""

    records: Source
    total: int | None


def one_record(plan: Plan, said: list[str]) -> Given:
    """The record that ``--set field=text`` and ``--set field:=json`` give.

    Raises:
        InputError: not of that form, or not what the pipeline needs.
    """
    record: Record = {}
    for text in said:
        said_name, equals, value = text.partition("=")
        name = said_name.removesuffix(":")
        if not equals or not name:
            raise InputError(f"--set {text!r}: expected FIELD=TEXT, or FIELD:=JSON such as depth:=4")
        if name in record:
            raise InputError(f"--set {name}=… stands twice; give a field once")
        record[name] = value if name == said_name else _json(name, value)
    _check(plan, record)
    return Given([record], 1)


def from_file(plan: Plan, path: str, *, skip_bad: bool) -> Given:
    """The records of a file, checked from the first to the last before anything runs.

    Standard input and pipes can be read once only: their records are checked as they come. With ``skip_bad`` a
    line that cannot be read is named and left out, and a record that lacks an input fails alone, in its turn.

    Raises:
        InputError: the file cannot be read, a line of it is no record, or a record lacks an input.
    """
    num_bad = 0

    def on_bad(error: InputError) -> None:
        nonlocal num_bad
        num_bad += 1
        if num_bad <= MAX_SAID:
            say(f"skipped: {error}")

    if path == STANDARD or not Path(path).is_file():
        return Given(_from_pipe(read_records(path, skip_bad=skip_bad, on_bad=on_bad)), None)
    if skip_bad:
        total = check_file(path, skip_bad=True, on_bad=on_bad)
        if num_bad > MAX_SAID:
            say(f"skipped {num_bad} lines in all")
    else:
        total = 0
        for number, record in enumerate(read_records(path), 1):
            try:
                _check(plan, record)
            except InputError as error:
                raise InputError(f"{path}: record {number}: {error}") from error
            total = number
    return Given(read_records(path, skip_bad=skip_bad), total)


def _json(name: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InputError(f"--set {name}:={text}: {error}; for text write {name}={text}") from error


def _check(plan: Plan, record: Mapping[str, Any]) -> None:
    check_record(plan, record, {step.name for step in plan.steps})


async def _from_pipe(records: Iterator[Record]) -> AsyncIterator[Record]:
    """Records read by a thread of their own, so that one who waits for input holds nothing up.

    The thread may wait for ever in a read, so it is a daemon: it does not keep the process alive.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Record | Exception | None] = asyncio.Queue(AHEAD)

    def hand_over(item: Record | Exception | None) -> None:
        asyncio.run_coroutine_threadsafe(arrived.put(item), loop).result()

    def read() -> None:
        try:
            for record in records:
                hand_over(record)
            hand_over(None)
        except InputError as error:
            hand_over(error)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits for records any more
            return

    threading.Thread(target=read, name="sage-input", daemon=True).start()
    while (item := await arrived.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item
