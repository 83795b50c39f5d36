from __future__ import annotations

import asyncio
import threading

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


def test_timers_of_one_moment_fire_in_the_order_they_were_set() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        for number in range(100):
            loop.call_at(1.0, fired.append, number)
        await asyncio.sleep(1.0)
        return fired

    assert run_virtual(main()) == list(range(100))


def test_a_cancelled_timer_does_not_fire_and_moves_no_clock() -> None:
    async def main() -> tuple[list[int], float]:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        timers = [loop.call_at(float(number), fired.append, number) for number in range(1, 301)]
        for timer in timers[1::2] + timers[200:]:
            timer.cancel()
        await asyncio.sleep(1000)
        return fired, loop.time()

    assert run_virtual(main()) == (list(range(1, 200, 2)), 1000.0)


def test_a_callback_that_raises_goes_to_the_exception_handler() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        said: list[str] = []
        loop.set_exception_handler(lambda _loop, context: said.append(str(context["exception"])))
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        return said

    assert run_virtual(main()) == ["division by zero"]


def test_other_threads_are_heard_though_nothing_waits_for_them() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        heard = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(heard.set_result, "heard"))
        thread.start()
        thread.join()
        return await heard  # type: ignore[no-any-return]  # of call_soon_threadsafe

    assert run_virtual(main()) == "heard"
