"""A stream under way, and what its consumer sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

from sage.errors import InputError, SageError
from sage.runtime.base import JobFailure
from sage.runtime.feed import Channel

__all__ = ["OpenStream", "error_of", "results_of"]


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A feed under way and the channel it fills."""

    channel: Channel
    task: asyncio.Task[None]
    run_id: str

    async def take(self) -> list[Any]:
        """Results that are there, at least one; none at the end."""
        return await self.channel.take()

    async def close(self) -> None:
        """Abort what is still under way and wait until it has ended."""
        self.task.cancel()
        await asyncio.wait([self.task])


async def results_of(
    take: Callable[[], Any], close: Callable[[], Any], errors: Literal["raise", "yield"]
) -> AsyncIterator[Any]:
    """What a stream's consumer sees: each result; the first failure raised at the end, unless yielded."""
    if errors not in {"raise", "yield"}:
        raise InputError(f"errors is {errors!r}, expected 'raise' or 'yield'")
    failures: list[JobFailure] = []
    try:
        while results := await take():
            for result in results:
                if isinstance(result, JobFailure) and errors == "raise":
                    failures.append(result)
                    del failures[2:]
                else:
                    yield result
    finally:
        await close()
    if failures:
        raise error_of(failures[0])


def error_of(failure: JobFailure) -> SageError:
    """A failure's error, saying where it happened."""
    error = failure.error
    if failure.step is not None and not getattr(error, "__notes__", None):
        error.add_note(f"in step {failure.step!r}")
    return error
