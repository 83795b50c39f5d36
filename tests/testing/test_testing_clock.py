from __future__ import annotations

import asyncio

import pytest

from sage.errors import InternalError
from sage.testing import ManualClock, run_virtual


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(0.25)
    assert clock() == 5.25


def test_a_year_passes_at_once_in_virtual_time() -> None:
    async def main() -> float:
        await asyncio.sleep(365 * 86_400)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 365 * 86_400


def test_timers_fire_in_their_order_at_their_time() -> None:
    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def after(name: str, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            seen.append((name, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for name, delay_s in {"c": 0.3, "a": 1e-4, "b": 0.1}.items():
                group.create_task(after(name, delay_s))
        return seen

    assert run_virtual(main()) == [("a", 1e-4), ("b", 0.1), ("c", 0.3)]


def test_time_limits_hold_in_virtual_time() -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(11)

    with pytest.raises(TimeoutError):
        run_virtual(main())


def test_a_deadlock_is_an_error_that_says_when() -> None:
    async def main() -> None:
        await asyncio.sleep(2)
        await asyncio.Event().wait()

    with pytest.raises(InternalError, match="deadlock at 2 s"):
        run_virtual(main())


def test_what_a_deadlock_interrupts_still_cleans_up() -> None:
    cleaned: list[str] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("yes")

    with pytest.raises(InternalError):
        run_virtual(main())
    assert cleaned == ["yes"]
