"""An event loop on a thread of its own, for callers that block and for notebooks whose loop already runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from sage.errors import InputError

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """A running event loop that work is handed to from other threads. Started at once; ``close`` ends it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, run on the loop; blocks. An interrupt cancels it and waits for its end.

        Raises:
            InputError: called from the loop itself, which would wait for ever.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise InputError(
                "a blocking call inside a step or session would wait for itself; await arun(), or call the session"
            )
        running: list[asyncio.Task[Any] | None] = []

        async def owned() -> T:
            running.append(asyncio.current_task())
            return await work

        future = asyncio.run_coroutine_threadsafe(owned(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            for task in running:
                if task is not None:
                    self._loop.call_soon_threadsafe(task.cancel)
            with contextlib.suppress(CancelledError, Exception):
                future.result()
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """The same for a caller on another event loop; cancelling the caller cancels the work."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop and return at once; whoever starts it waits for the future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Stop the loop and wait for its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
