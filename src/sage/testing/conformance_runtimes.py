"""What every runtime must do, as checks over a way to open sessions. Whatever passes carries out any pipeline.

    @pytest.mark.parametrize("check", RUNTIME_CHECKS)
    def test_runtime(check):
        check(lambda main: asyncio.run(main(lambda **said: Session(runtime="ray", **said))))

A check returns None or raises AssertionError with what was seen and expected.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from sage.errors import StepError
from sage.events import JobEnded
from sage.ops import each, generate, step, template
from sage.pipeline import Pipeline
from sage.session import Session
from sage.testing.fake import FakeEngine

__all__ = ["FUNCTION_CHECKS", "RUNTIME_CHECKS", "InRuntime", "RuntimeCheck", "check_runtime"]

#: Makes a session of the runtime under test, with these further arguments.
Opened = Callable[..., Session]

#: Runs a coroutine, which is given the way to make sessions, where the runtime is at home.
InRuntime = Callable[[Callable[[Opened], Coroutine[Any, Any, Any]]], Any]

#: One property of a runtime. Raises AssertionError when it lacks it.
RuntimeCheck = Callable[[InRuntime], None]

RECORDS = 30


def len_of(text: str) -> int:
    return len(text)


def sleep(x: float) -> float:
    time.sleep(x)
    return x


def check_results(inside: InRuntime) -> None:
    """Every record comes back, in the order of the source, with what plain Python would have made of it."""
    pipeline = Pipeline("p", double=lambda x: 2 * x, text=template("<{double}>"), size=len_of)

    async def main(opened: Opened) -> Any:
        async with opened() as session:
            return (await session.run(pipeline, [{"x": x} for x in range(RECORDS)])).records

    wanted = [
        {"x": x, "double": 2 * x, "text": f"<{2 * x}>", "size": len(f"<{2 * x}>")} for x in range(RECORDS)
    ]
    got = inside(main)
    assert got == wanted, f"got {got[:3]} …, expected {wanted[:3]} …"


def check_failures_are_their_jobs_own(inside: InRuntime) -> None:
    """A step that raises fails its job, named, with the cause; the others finish."""
    pipeline = Pipeline("p", y=lambda x: 1 // x)

    async def main(opened: Opened) -> Any:
        async with opened() as session:
            return await session.run(pipeline, [{"x": x % 3} for x in range(RECORDS)])

    result = inside(main)
    assert [failure.index for failure in result.failures] == list(range(0, RECORDS, 3)), result.failures
    assert len(result.records) == RECORDS - len(result.failures)
    for failure in result.failures:
        assert failure.step == "y", failure
        assert isinstance(failure.error, StepError), failure.error
        assert isinstance(failure.error.__cause__, ZeroDivisionError), failure.error.__cause__


def check_every_job_ends_once(inside: InRuntime) -> None:
    """The log has one end of every job, and its times are in order: arrived, steps in turn, ended."""
    pipeline = Pipeline("p", a=lambda x: x, b=generate("{a}", max_tokens=4), c=lambda b: f"{b}!")

    async def main(opened: Opened) -> Any:
        async with opened(engines={"llm": FakeEngine()}, record=True) as session:
            return await session.run(pipeline, [{"x": f"say {x}"} for x in range(RECORDS)])

    ends = [event for event in inside(main).events if isinstance(event, JobEnded)]
    assert Counter(event.job for event in ends) == Counter(range(RECORDS)), (
        "a job ended never, or more than once"
    )
    for event in ends:
        times = [event.arrived, *[moment for moment in event.stamps if moment is not None], event.t]
        assert len(times) == 8, event
        assert times == sorted(times), f"job {event.job}: its times are not in order: {times}"


def check_control_flow(inside: InRuntime) -> None:
    """Bodies run for each item, and keep their order."""
    pipeline = Pipeline("p", squares=each("xs", Pipeline("square", y=lambda item: item * item)))

    async def main(opened: Opened) -> Any:
        async with opened() as session:
            return (await session(pipeline, xs=list(range(RECORDS))))["squares"]

    got = inside(main)
    assert [one["y"] for one in got] == [x * x for x in range(RECORDS)], got


def check_limits(inside: InRuntime) -> None:
    """No more jobs are under way than was said."""
    running: list[int] = []
    most: list[int] = []

    async def watched(x: int) -> int:
        running.append(x)
        most.append(len(running))
        await asyncio.sleep(0.001)
        running.remove(x)
        return x

    async def main(opened: Opened) -> None:
        async with opened() as session:
            await session.run(Pipeline("p", y=watched), [{"x": x} for x in range(RECORDS)], max_inflight=4)

    inside(main)
    assert max(most) == 4, f"{max(most)} jobs were under way at once, expected 4"


def check_functions(inside: InRuntime) -> None:
    """Functions of the cpu pool give what they give here, one after the other and with plain ones between."""
    pipeline = Pipeline(
        "p",
        a=step(lambda x: x + 1, pool="cpu"),
        b=lambda a: a * 2,
        c=step(lambda b: 1 / (b - 8), pool="cpu"),
        d=template("{c}"),
    )

    async def main(opened: Opened) -> Any:
        async with opened() as session:
            return await session.run(pipeline, [{"x": x} for x in range(RECORDS)])

    result = inside(main)
    wanted = [{"x": x, "a": x + 1, "b": 2 * x + 2, "c": 1 / (2 * x - 6)} for x in range(RECORDS) if x != 3]
    assert result.records == [{**record, "d": record["c"]} for record in wanted], result.records[:3]
    assert [(failure.index, failure.step) for failure in result.failures] == [(3, "c")], result.failures


def check_cancelled_functions(inside: InRuntime) -> None:
    """A run that is cancelled ends at once, its slots are free for others, and nothing of it comes back."""

    async def main(opened: Opened) -> Any:
        async with opened() as session:
            sleepy = Pipeline("sleepy", y=step(sleep, pool="cpu"))
            quick = Pipeline("quick", y=step(lambda x: x, pool="cpu"))
            await session.ready(sleepy)
            try:
                async with asyncio.timeout(0.1):
                    await session.run(sleepy, [{"x": 0.2}] * RECORDS)
            except TimeoutError:
                pass
            else:
                raise AssertionError("the run was over before it could be cancelled")
            return await session(quick, x=1), session.snapshot().running

    assert inside(main) == ({"x": 1, "y": 1}, 0)


#: Of every runtime; and of those that have real time and so can run functions elsewhere than in the loop.
RUNTIME_CHECKS: tuple[RuntimeCheck, ...] = (
    check_results,
    check_failures_are_their_jobs_own,
    check_every_job_ends_once,
    check_control_flow,
    check_limits,
)
FUNCTION_CHECKS: tuple[RuntimeCheck, ...] = (check_functions, check_cancelled_functions)


def check_runtime(inside: InRuntime, *, has_functions: bool = True) -> None:
    """All checks, one after the other."""
    for check in RUNTIME_CHECKS + (FUNCTION_CHECKS if has_functions else ()):
        check(inside)
