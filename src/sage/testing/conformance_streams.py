"""What every source and every sink of streams promises, as checks to run against one's own.

>>> from sage import stream
>>> class Numbers:
...     def records(self):
...         return ({"n": n} for n in range(3))
...     def close(self):
...         pass
>>> import asyncio
>>> asyncio.run(check_source(Numbers, [{"n": 0}, {"n": 1}, {"n": 2}]))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import InputError
from sage.graph.values import Record
from sage.session import Session
from sage.stream import Sink, Source, Stream, records

__all__ = ["check_sink", "check_source"]

SAMPLE: tuple[Record, ...] = (
    {"n": 1, "text": "a\nb", "nothing": None},
    {"n": 2, "text": "ü", "nothing": None},
    {"n": 3, "text": "", "nothing": None},
)


class _Watched:
    """A source or sink that counts how often it is closed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.num_closed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def records(self) -> Any:
        """The inner one's."""
        return self._inner.records()

    def close(self) -> Any:
        """Close the inner one, and count."""
        self.num_closed += 1
        return self._inner.close()


async def check_source(make: Callable[[], Source], expected: list[Record]) -> None:
    """A source gives its records, in order, twice if it is made twice; and is closed once, also when it is left early.

    Args:
        make: makes a source that ends.
        expected: what it gives; at least two records.

    Raises:
        AssertionError: it does not.
    """
    for _ in range(2):
        source = _Watched(make())
        found = await _run(records(source))
        assert found == expected, f"gave {found!r:.200}, expected {expected!r:.200}"
        assert source.num_closed == 1, f"was closed {source.num_closed} times, expected once"
    source = _Watched(make())
    found = await _run(records(source).take(1))
    assert found == expected[:1], f"gave {found!r:.200} to one who takes one record"
    assert source.num_closed == 1, "was not closed when it was left early"


async def check_sink(make: Callable[[], Sink], read_back: Callable[[], list[Record]]) -> None:
    """A sink keeps everything written before it is closed, in order, and is closed once, also when the source breaks.

    Args:
        make: makes an empty sink.
        read_back: the records in the sink made last, after it was closed.

    Raises:
        AssertionError: it does not.
    """
    sink: Any = _Watched(make())
    await _run(records(list(SAMPLE)).write(sink))
    kept = read_back()
    assert kept == list(SAMPLE), f"kept {kept!r:.200}, expected {list(SAMPLE)!r:.200}"
    assert sink.num_closed == 1, f"was closed {sink.num_closed} times, expected once"
    sink = _Watched(make())
    try:
        await _run(records(_broken).write(sink))
    except InputError:
        pass
    else:
        raise AssertionError("a source that broke was not told of")
    assert sink.num_closed == 1, "was not closed when the source broke"
    assert read_back() == list(SAMPLE), f"lost records written before the source broke: {read_back()!r:.200}"


def _broken() -> Any:
    yield from SAMPLE
    raise InputError("the source broke, as it should")


async def _run(stream: Stream) -> list[Record]:
    async with Session(record=False):
        return (await stream.arun()).records
