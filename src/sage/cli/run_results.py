"""What ``sage run`` makes of results, whether of one pipeline or of several."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sage.cli.output import Bar
from sage.errors import InputError, Rejected

if TYPE_CHECKING:
    from sage import Record
    from sage.runtime.base import JobFailure
    from sage.settings import Settings

__all__ = ["MAX_SAID", "failed_as_json", "metrics_of", "plain", "ticking"]

MAX_SAID = 5  # failures named one by one, without --errors
TICK_S = 0.5


def failed_as_json(failure: JobFailure) -> dict[str, Any]:
    """A line of the errors file."""
    error = failure.error
    later = {"retry_after_s": error.retry_after_s} if isinstance(error, Rejected) else {}
    return {
        "index": failure.index,
        "outcome": failure.outcome,
        "step": failure.step,
        "attempts": failure.attempts,
        "error": str(error),
        **later,
        "record": failure.record,
    }


def plain(record: Record) -> Any:
    """A finished record as JSON data.

    Raises:
        InputError: something in it has no such form.
    """
    from sage.graph.values import to_json

    try:
        return to_json(record)
    except TypeError as error:
        raise InputError(f"a finished record cannot be printed: {error}; narrow it with outputs") from error


def metrics_of(settings: Settings, run_id: str) -> Any:
    """What the event log of a run tells."""
    from sage.runtime.runs import load_run
    from sage.runtime.summary import summarize

    return summarize(load_run(settings, run_id).events())


@contextlib.contextmanager
def ticking(bar: Bar) -> Iterator[None]:
    """Show a bar while the body runs."""
    loop = asyncio.get_running_loop()

    due: list[asyncio.TimerHandle] = []

    def tick() -> None:
        bar.tick()
        due[:] = [loop.call_later(TICK_S, tick)]

    tick()
    try:
        yield
    finally:
        due[0].cancel()
