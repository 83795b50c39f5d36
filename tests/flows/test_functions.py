"""What a pipeline of functions and templates does, whatever carries it out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sage import Expired, InputError, JobFailure, Pipeline, StepError
from sage.ops import step, template

Flow = Callable[..., list[Any]]


def test_every_record_comes_back_with_what_was_made(flow: Flow) -> None:
    double = Pipeline("double", twice=lambda x: 2 * x, line=template("{x} -> {twice}"))
    assert flow(double, [{"x": 1}, {"x": 2}]) == [
        {"x": 1, "twice": 2, "line": "1 -> 2"},
        {"x": 2, "twice": 4, "line": "2 -> 4"},
    ]


def test_no_records_give_no_results(flow: Flow) -> None:
    assert flow(Pipeline("p", y=lambda x: x), []) == []


def test_async_functions_are_awaited(flow: Flow) -> None:
    async def slowly(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert flow(Pipeline("p", y=slowly), [{"x": 1}])[0]["y"] == 2


def test_independent_steps_overlap(flow: Flow) -> None:
    """Each of the two waits for the other to have begun: in turn they would wait for ever."""

    def make() -> Pipeline:
        begun = {"a": threading.Event(), "b": threading.Event()}

        async def meet(me: str, other: str) -> str:
            begun[me].set()
            while not begun[other].is_set():
                await asyncio.sleep(0)
            return me

        return Pipeline(
            "meeting",
            a=step(meet, me="a", other="b"),
            b=step(meet, me="b", other="a"),
            both=lambda a, b: a + b,
        )

    assert flow(make(), [{}], timeout_s=20.0)[0]["both"] == "ab"


def test_a_join_does_not_wait_for_what_it_does_not_need(flow: Flow) -> None:
    """``quick`` ends while the step beside it still runs, so what reads it is done first."""
    order: list[str] = []

    async def long(x: int) -> int:
        while "after_quick" not in order:
            await asyncio.sleep(0)
        order.append("long")
        return x

    async def quick(x: int) -> int:
        return x

    async def after_quick(quick: int) -> int:
        order.append("after_quick")
        return quick

    pipeline = Pipeline(
        "p", long=long, quick=quick, after_quick=after_quick, end=lambda long, after_quick: long + after_quick
    )
    assert flow(pipeline, [{"x": 1}], timeout_s=20.0)[0]["end"] == 2
    assert order == ["after_quick", "long"]


def test_a_failure_stays_with_its_own_record(flow: Flow) -> None:
    results = flow(Pipeline("inverse", y=lambda x: 1 / x), [{"x": 1}, {"x": 0}, {"x": 2}])
    assert results[0]["y"] == 1
    assert results[2]["y"] == 0.5
    assert isinstance(results[1], JobFailure)
    assert isinstance(results[1].error, StepError)
    assert "'y'" in str(results[1].error)
    assert isinstance(results[1].error.__cause__, ZeroDivisionError)


def test_a_failure_in_one_branch_ends_the_other(flow: Flow) -> None:
    ended: list[str] = []

    async def never(x: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("never")
        return x

    async def bad(x: int) -> int:
        raise ValueError(x)

    result = flow(Pipeline("p", a=never, b=bad), [{"x": 1}])[0]
    assert "ValueError" in str(result.error)
    assert ended == ["never"]


@pytest.mark.parametrize("record", [{}, {"y": 1}, {"x": 1, "twice": 3}, 7, "x", None])
def test_a_record_that_does_not_fit_is_refused_before_anything_runs(flow: Flow, record: Any) -> None:
    ran: list[Any] = []
    result = flow(Pipeline("p", twice=lambda x: ran.append(x)), [record])[0]
    assert isinstance(result.error, InputError)
    assert not ran


def test_fields_nobody_reads_pass_through(flow: Flow) -> None:
    assert flow(Pipeline("p", y=lambda x: x), [{"x": 1, "id": "a"}]) == [{"x": 1, "id": "a", "y": 1}]


def test_the_source_record_is_not_changed(flow: Flow) -> None:
    record = {"x": 1}
    flow(Pipeline("p", y=lambda x: x), [record])
    assert record == {"x": 1}


def test_outputs_narrow_the_record(flow: Flow) -> None:
    assert flow(Pipeline("p", y=lambda x: x, z=lambda y: y).outputs("z"), [{"x": 1}]) == [{"z": 1}]


def test_none_is_a_value(flow: Flow) -> None:
    pipeline = Pipeline("p", y=lambda x: x, seen=lambda y: y is None)
    assert flow(pipeline, [{"x": None}])[0]["seen"] is True


def test_blocking_functions_run_in_threads_of_the_cpu_pool(flow: Flow) -> None:
    pipeline = Pipeline("p", name=step(lambda x: threading.current_thread().name, pool="cpu"))
    assert flow(pipeline, [{"x": 1}])[0]["name"].startswith("sage-cpu")


def test_an_error_in_the_cpu_pool_is_the_jobs_own(flow: Flow) -> None:
    results = flow(Pipeline("p", y=step(lambda x: 1 / x, pool="cpu")), [{"x": 0}, {"x": 1}])
    assert "ZeroDivisionError" in str(results[0].error)
    assert results[1]["y"] == 1


def test_a_step_is_tried_as_often_as_it_says(flow: Flow) -> None:
    tries: list[int] = []

    async def flaky(x: int) -> int:
        tries.append(x)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return x

    assert flow(Pipeline("p", y=step(flaky).retry(3)), [{"x": 1}])[0]["y"] == 1
    assert len(tries) == 3


def test_the_last_error_of_a_retried_step_is_told_with_its_attempts(flow: Flow) -> None:
    async def flaky(x: int) -> int:
        raise ConnectionError("down")

    result = flow(Pipeline("p", y=step(flaky).retry(2)), [{"x": 1}])[0]
    assert isinstance(result.error, StepError)
    assert result.error.attempts == 2


def test_a_step_that_takes_too_long_fails_with_its_timeout(flow: Flow) -> None:
    async def forever(x: int) -> None:
        await asyncio.Event().wait()

    result = flow(Pipeline("p", y=step(forever).timeout(s=0.01)), [{"x": 1}])[0]
    assert "0.01 s" in str(result.error)


def test_a_job_past_its_time_limit_fails_as_expired(flow: Flow) -> None:
    async def forever(x: int) -> None:
        await asyncio.Event().wait()

    result = flow(Pipeline("p", y=forever), [{"x": 1}], timeout_s=0.01)[0]
    assert isinstance(result.error, Expired)


def test_a_hard_deadline_stops_a_job(flow: Flow) -> None:
    async def forever(x: int) -> None:
        await asyncio.Event().wait()

    result = flow(Pipeline("p", y=forever), [{"x": 1}], deadline_s=0.01, expire=True)[0]
    assert isinstance(result.error, Expired)


def test_never_more_jobs_at_once_than_allowed(flow: Flow) -> None:
    now = most = 0

    async def counted(x: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(3):
            await asyncio.sleep(0)
        now -= 1
        return x

    results = flow(Pipeline("p", y=counted), [{"x": x} for x in range(20)], max_inflight=4)
    assert [result["y"] for result in results] == list(range(20))
    assert most <= 4


def test_the_source_is_pulled_only_as_places_become_free(flow: Flow) -> None:
    done = 0
    ahead: list[int] = []

    def source() -> Iterator[dict[str, int]]:
        for x in range(50):
            ahead.append(x - done)
            yield {"x": x}

    async def slowly(x: int) -> int:
        nonlocal done
        await asyncio.sleep(0)
        done += 1
        return x

    assert len(flow(Pipeline("p", y=slowly), source(), max_inflight=3)) == 50
    assert max(ahead) <= 3


def test_what_the_source_raises_is_raised_after_the_jobs_under_way(flow: Flow) -> None:
    done: list[int] = []

    def source() -> Iterator[dict[str, int]]:
        yield {"x": 1}
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        flow(Pipeline("p", y=lambda x: done.append(x)), source())
    assert done == [1]


def test_options_may_be_read_from_the_record(flow: Flow) -> None:
    pipeline = Pipeline("p", y=lambda x: x)
    results = flow(
        pipeline, [{"x": 1, "user": "ann", "urgency": "interactive"}], tenant="{user}", priority="{urgency}"
    )
    assert results[0]["y"] == 1


def test_an_option_that_makes_no_sense_fails_its_job(flow: Flow) -> None:
    pipeline = Pipeline("p", y=lambda x: x)
    result = flow(pipeline, [{"x": 1, "urgency": "interctive"}], priority="{urgency}")[0]
    assert "did you mean 'interactive'?" in str(result.error)


async def numbers(count: int) -> AsyncIterator[dict[str, int]]:
    for x in range(count):
        await asyncio.sleep(0)
        yield {"x": x}


def test_an_async_source_is_pulled_in_order() -> None:
    result = Pipeline("p", y=lambda x: -x).run(numbers(10), max_inflight=4)
    assert [record["y"] for record in result.records] == [-x for x in range(10)]
