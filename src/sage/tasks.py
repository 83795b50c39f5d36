"""Tasks in groups that may be ending."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["spawn"]

T = TypeVar("T")


def spawn(group: asyncio.TaskGroup, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task in a group.

    A group that is ending takes no further task; the work is then closed unstarted and the caller, who is
    about to be cancelled with the group, ends likewise.

    Raises:
        asyncio.CancelledError: the group is ending.
    """
    try:
        return group.create_task(work)
    except RuntimeError as error:
        work.close()
        raise asyncio.CancelledError from error
