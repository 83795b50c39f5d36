"""The pieces of a value on its way to the steps that read them as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

__all__ = ["Pipe", "pieces_of"]


class Pipe:
    """What one step has given so far, for any number of readers, each from the first piece on.

    It is as long as the value itself: an answer's ``max_tokens``, or the items a generator yields.
    """

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether a piece is out, so that the step cannot start over unseen."""
        return bool(self._items)

    def put(self, item: Any) -> None:
        """Hand a piece to the readers."""
        self._items.append(item)
        self._wake()

    def end(self, value: Any) -> None:
        """The value is whole. Where no piece of it came (it was kept, or made in one go), its own pieces go out."""
        if not self._items and value is not None:
            self._items += [value] if isinstance(value, str) else value
        self._ended = True
        self._wake()

    async def read(self) -> AsyncIterator[Any]:
        """The pieces, as they come."""
        place = 0
        while True:
            while place < len(self._items):
                place += 1
                yield self._items[place - 1]
            if self._ended:
                return
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def pieces_of(value: Any) -> AsyncIterator[Any]:
    """A whole value as pieces: an async iterator as it is, a text in one piece, a list item by item."""
    if hasattr(value, "__aiter__"):
        async for item in value:
            yield item
    elif isinstance(value, str):
        yield value
    elif value is not None:
        for item in value:
            yield item
