"""Runs recorded in virtual time, for tests of what looks into them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sage import Pipeline, Session
from sage.runtime.runs import StoredRun, list_runs
from sage.settings import Settings
from sage.testing import FakeEngine, run_virtual

Recorded = Callable[..., StoredRun]


@pytest.fixture
def recorded(tmp_home: Settings) -> Recorded:
    """Runs a pipeline over records in virtual time, with these engines by pool; what was stored of it."""

    def run(
        pipeline: Pipeline,
        records: list[dict[str, Any]],
        engines: dict[str, FakeEngine | list[FakeEngine]],
        **arguments: Any,
    ) -> StoredRun:
        async def main() -> None:
            clock = asyncio.get_running_loop().time
            async with Session(engines=engines, settings=tmp_home, clock=clock) as session:
                await session.run(pipeline, records, **arguments)

        run_virtual(main())
        return list_runs(tmp_home)[0]

    return run
