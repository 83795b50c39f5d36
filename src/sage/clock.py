"""Time, as everything that decides or measures sees it: injected, monotonic, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Clock", "monotonic", "wall_time"]

#: Returns seconds on a clock that never goes back. Its zero has no meaning: only differences do.
Clock = Callable[[], float]

monotonic: Clock = time.monotonic


def wall_time() -> str:
    """The date and time now, in UTC, as ISO 8601. For manifests and file names, never for measuring."""
    return datetime.now(UTC).isoformat(timespec="seconds")
