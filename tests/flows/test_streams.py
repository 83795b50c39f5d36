"""Streams, events and sessions: order, back-pressure, closing, and what belongs to whom."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from sage import (
    InputError,
    JobFailure,
    Pipeline,
    PipelineError,
    RecordDone,
    Session,
    StepDone,
    StepError,
    StepStarted,
)
from sage.default import DEFAULT
from sage.ops import generate, step, template


def in_session(main: Any, **arguments: Any) -> Any:
    """Run ``main(session)`` in a session of its own."""

    async def opened() -> Any:
        async with Session(**arguments) as session:
            return await main(session)

    return asyncio.run(opened())


async def reversed_pace(x: int) -> int:
    """Later records are done earlier."""
    for _ in range(20 - x):
        await asyncio.sleep(0)
    return x


def test_without_order_results_come_as_they_finish() -> None:
    async def main(session: Session) -> list[int]:
        stream = session.stream(Pipeline("p", y=reversed_pace), [{"x": x} for x in range(8)])
        return [record["y"] async for record in stream]  # type: ignore[index]  # errors are raised

    assert in_session(main) == list(reversed(range(8)))


def test_with_order_results_come_as_their_records_stood() -> None:
    async def main(session: Session) -> list[int]:
        records = [{"x": x % 20} for x in range(200)]
        stream = session.stream(Pipeline("p", y=reversed_pace), records, ordered=True, max_inflight=4)
        return [record["y"] async for record in stream]  # type: ignore[index]  # errors are raised

    assert in_session(main) == [x % 20 for x in range(200)]


def test_a_slow_consumer_holds_the_source_back() -> None:
    pulled = 0

    def source() -> Any:
        nonlocal pulled
        for x in range(10_000):
            pulled += 1
            yield {"x": x}

    async def main(session: Session) -> int:
        stream = session.stream(Pipeline("p", y=lambda x: x), source(), max_inflight=4)
        await anext(stream)
        for _ in range(100):
            await asyncio.sleep(0)
        seen = pulled
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator
        return seen

    assert in_session(main) <= 2 * 64 + 4  # what was taken, and what the channel holds


def test_leaving_a_stream_stops_what_is_under_way() -> None:
    ended: list[int] = []

    async def first_only(x: int) -> int:
        if x == 0:
            return x
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(x)
        return x

    async def main(session: Session) -> None:
        stream = session.stream(Pipeline("p", y=first_only), [{"x": x} for x in range(3)])
        assert (await anext(stream))["y"] == 0  # type: ignore[index]  # errors are raised
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator

    in_session(main)
    assert sorted(ended) == [1, 2]


def test_a_stream_finishes_and_then_raises_its_first_failure() -> None:
    async def main(session: Session) -> list[Any]:
        seen = []
        with pytest.raises(StepError, match="ZeroDivisionError"):
            async for record in session.stream(
                Pipeline("p", y=lambda x: 1 / x), [{"x": x} for x in (1, 0, 2)]
            ):
                seen.append(record["y"])  # type: ignore[index]  # errors are raised
        return seen

    assert in_session(main) == [1, 0.5]


def test_a_stream_may_yield_failures_in_their_place() -> None:
    async def main(session: Session) -> list[Any]:
        records = [{"x": x} for x in (1, 0, 2)]
        stream = session.stream(Pipeline("p", y=lambda x: 1 / x), records, errors="yield", ordered=True)
        return [result async for result in stream]

    results = in_session(main)
    assert isinstance(results[1], JobFailure)
    assert results[1].record == {"x": 0}


def test_events_tell_the_steps_in_order_and_end_with_the_record() -> None:
    async def main(session: Session) -> list[Any]:
        pipeline = Pipeline("p", y=lambda x: x + 1, line=template("{y}!"))
        return [event async for event in session.events(pipeline, {"x": 1})]

    assert in_session(main) == [
        StepStarted("y"),
        StepDone("y", 2),
        StepStarted("line"),
        StepDone("line", "2!"),
        RecordDone({"x": 1, "y": 2, "line": "2!"}),
    ]


def test_a_pipeline_inside_a_session_uses_it() -> None:
    async def main(session: Session) -> str:
        await Pipeline("p", y=lambda x: x).arun([{"x": 1}])
        assert DEFAULT._thread is None
        with pytest.raises(InputError, match="belongs to the Session"):
            await Pipeline("p", y=lambda x: x).arun([], policy="fifo")
        return "ok"

    assert in_session(main) == "ok"


def test_outside_a_session_arun_and_stream_work_in_a_running_loop() -> None:
    async def main() -> list[int]:
        pipeline = Pipeline("p", y=lambda x: x + 1)
        result = await pipeline.arun([{"x": 1}])
        streamed = [record["y"] async for record in pipeline.stream([{"x": 2}])]  # type: ignore[index]
        own = [record["y"] async for record in pipeline.stream([{"x": 3}], policy="fifo")]  # type: ignore[index]
        return [result.records[0]["y"], *streamed, *own]

    assert asyncio.run(main()) == [2, 3, 4]


def test_a_blocking_call_works_inside_a_running_loop_as_in_a_notebook() -> None:
    async def main() -> Any:
        return Pipeline("p", y=lambda x: x + 1)(x=1)["y"]

    assert asyncio.run(main()) == 2


def test_a_blocking_call_inside_a_step_of_the_default_session_is_refused_not_stuck() -> None:
    inner = Pipeline("inner", y=lambda x: x)
    outer = Pipeline("outer", z=lambda x: inner(x=x)["y"])
    with pytest.raises(InputError, match="wait for itself"):
        outer(x=1)


def test_an_unknown_engine_pool_is_a_fault_that_names_the_nearest() -> None:
    with pytest.raises(PipelineError, match="did you mean 'llm'"):
        Pipeline("p", a=generate("{x}", engine="llmm"))(x="1")


def test_an_unknown_index_says_how_to_give_one() -> None:
    from sage.ops import search

    with pytest.raises(PipelineError, match="--index docs=FOLDER"):
        Pipeline("p", a=search("docs", text="{x}"))(x="1")


def test_records_that_are_one_record_are_refused() -> None:
    with pytest.raises(InputError, match="for a single record call the pipeline"):
        Pipeline("p", y=lambda x: x).run({"x": 1})  # type: ignore[dict-item]  # the point


@pytest.mark.parametrize("limit", [0, -1, "4"])
def test_a_limit_that_makes_no_sense_is_refused(limit: Any) -> None:
    with pytest.raises(InputError, match="max_inflight"):
        Pipeline("p", y=lambda x: x).run([], max_inflight=limit)


def test_a_session_is_opened_once() -> None:
    async def main(session: Session) -> Coroutine[Any, Any, Any] | None:
        with pytest.raises(InputError, match="open already"):
            await session.__aenter__()
        return None

    in_session(main)


def test_records_through_a_stream_are_never_held_together() -> None:
    """Counted by what is alive at once, not by time or memory."""
    alive = most = 0

    class Counted:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    async def main(session: Session) -> int:
        count = 0
        records = ({"x": Counted()} for _ in range(20_000))
        async for _ in session.stream(Pipeline("p", y=lambda x: None), records, record=False):
            count += 1
        return count

    assert in_session(main) == 20_000
    assert most <= 200


def test_a_blocking_call_inside_an_open_session_is_refused() -> None:
    async def main(_session: Session) -> None:
        with pytest.raises(InputError, match="await session"):
            Pipeline("p", y=lambda x: x)(x=1)
        with pytest.raises(InputError, match="await session"):
            Pipeline("p", y=lambda x: x).run([])

    in_session(main)


def test_a_limit_in_the_policy_holds_where_the_run_says_nothing() -> None:
    now = most = 0

    async def counted(x: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return x

    async def main(session: Session) -> int:
        pipeline = Pipeline("p", y=counted, z=step(lambda y: y, pool="cpu"))
        return len((await session.run(pipeline, [{"x": x} for x in range(30)])).records)

    assert in_session(main, policy="max_inflight=3") == 30
    assert most <= 3


@pytest.mark.models
@pytest.mark.slow
def test_a_script_that_uses_the_default_session_ends_quietly() -> None:
    script = (
        "from sage import Pipeline\nfrom sage.ops import generate, embed\n"
        "print(len(Pipeline('p', a=generate('Hi {x}', max_tokens=2), v=embed('{x}'))(x='you')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("3\n", "")
