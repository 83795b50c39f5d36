"""What the tests of streams share: a home of their own, and a way to run a stream that leaves no run behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sage import Session
from sage.stream import Stream, StreamResult

#: Carries a stream out, in a session of its own.
Carry = Callable[..., StreamResult]


def carried(stream: Stream, **arguments: Any) -> StreamResult:
    """A stream in a session of its own; nothing is recorded."""

    async def main() -> StreamResult:
        async with Session(record=False):
            return await stream.arun(**arguments)

    return asyncio.run(main())


def rows(*columns: str) -> Callable[..., list[dict[str, Any]]]:
    """Records from tuples, with these fields."""

    def make(values: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
        return [dict(zip(columns, value, strict=True)) for value in values]

    return make


@pytest.fixture
def run() -> Carry:
    return carried
