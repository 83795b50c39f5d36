"""Tools that raise, hang, flood or lie: the job goes on, and what happened is said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sage import Pipeline, Session
from sage.events import Notice, TaskEnded
from sage.ops import Toolbox, call_tool, generate, register_tools, tool
from sage.ops.agents.tools import ToolResult
from sage.testing import FakeEngine


def result_of(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    pipeline = Pipeline("p", result=call_tool("call", tools=box))
    run = pipeline.run([{"call": {"tool": name, "arguments": arguments}}], engines={"llm": FakeEngine()})
    assert not run.failures, run.failures
    result: ToolResult = run.records[0]["result"]
    return result


def add(a: int, b: int) -> int:
    return a + b


async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@pytest.mark.parametrize("function", [add, add_later])
def test_a_tool_is_called_with_what_was_asked(function: Callable[..., Any]) -> None:
    result = result_of(Toolbox("x", function), function.__name__, a=1, b=2)
    assert (result.outcome, result.value, result.text) == ("done", 3, "3")


def raises() -> None:
    raise ValueError("no such thing")


def leaves() -> None:
    raise SystemExit(3)


def stops() -> None:
    raise StopIteration


async def raises_later() -> None:
    raise KeyError("x")


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def times_out_inside() -> None:
    raise TimeoutError("the server said so")


def binary() -> bytes:
    return b"\x00" * 10


def nothing_sayable() -> object:
    return object()


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (raises, "ValueError: no such thing"),
        (leaves, "SystemExit"),
        (stops, "StopIteration"),
        (raises_later, "KeyError"),
        (cancels_itself, "cancelled from inside"),
        (times_out_inside, "TimeoutError: the server said so"),
        (binary, "10 bytes that are no text"),
        (nothing_sayable, "no JSON"),
        (endless, "no JSON"),
    ],
)
def test_whatever_a_tool_does_is_for_the_model_to_read(function: Callable[..., Any], says: str) -> None:
    result = result_of(Toolbox("x", function), function.__name__)
    assert (result.outcome, result.value) == ("failed", None)
    assert says in result.text


def test_ten_megabytes_are_cut_and_the_log_says_so() -> None:
    def flood() -> str:
        return "x" * 10_000_000

    pipeline = Pipeline("p", result=call_tool("call", tools=Toolbox("x", flood, max_chars=100)))
    run = pipeline.run([{"call": {"name": "flood"}}])
    result = run.records[0]["result"]
    assert result.ok
    assert result.value is None
    assert result.text.startswith("x" * 100 + "… (10,000,000 characters")
    assert len(result.text) < 200
    assert [event.kind for event in run.events if isinstance(event, Notice)] == ["tool_cut"]


@contextmanager
def held() -> Iterator[Callable[[], str]]:
    """A blocking tool that hangs until the block ends."""
    let_go = threading.Event()

    def hang() -> str:
        let_go.wait(20)
        return "late"

    try:
        yield hang
    finally:
        let_go.set()


async def hang_async() -> None:
    await asyncio.Event().wait()


def test_a_tool_that_hangs_is_given_up() -> None:
    with held() as hang:
        for function, name in ((hang, "hang"), (hang_async, "hang_async")):
            result = result_of(Toolbox("x", function, timeout_s=0.02), name)
            assert (result.outcome, result.text) == ("timeout", f"{name} failed: it took longer than 0.02 s")


def test_hanging_calls_hold_the_places_of_their_tool_only() -> None:
    with held() as hang:
        box = Toolbox("x", tool(hang, timeout_s=0.02, max_concurrency=1), add)
        pipeline = Pipeline("p", result=call_tool("call", tools=box))
        calls = [{"name": "hang"}, {"name": "hang"}, {"name": "add", "arguments": {"a": 1, "b": 1}}]
        records = pipeline.run([{"call": call} for call in calls]).records
        assert [record["result"].outcome for record in records] == ["timeout", "timeout", "done"]


def test_no_more_calls_of_a_tool_run_at_once_than_it_allows() -> None:
    at_once, most = 0, 0

    async def busy() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    pipeline = Pipeline("p", result=call_tool("call", tools=Toolbox("x", tool(busy, max_concurrency=2))))
    run = pipeline.run([{"call": {"name": "busy"}}] * 9)
    assert {record["result"].outcome for record in run.records} == {"done"}
    assert most == 2


def test_a_refused_call_is_in_the_log_and_an_invented_one_is_not() -> None:
    box = Toolbox("x", add, raises, allow=["add"])
    pipeline = Pipeline("p", result=call_tool("call", tools=box))
    run = pipeline.run([{"call": {"name": "raises"}}, {"call": {"name": "rm -rf"}}])
    assert [record["result"].outcome for record in run.records] == ["refused", "unknown"]
    notices = [event for event in run.events if isinstance(event, Notice)]
    assert [(notice.kind, notice.step, "'raises'" in notice.text) for notice in notices] == [
        ("tool_refused", "result", True)
    ]


def test_a_pipeline_runs_as_a_tool_within_the_job_that_calls_it() -> None:
    ask = Pipeline("ask", answer=generate("{question}"))
    box = Toolbox("x", tool(ask, output="answer"))
    engine = FakeEngine(answer=lambda request: request.messages[0].content.upper())
    run = Pipeline("p", result=call_tool("call", tools=box)).run(
        [{"call": {"name": "ask", "arguments": {"question": "why?"}}}], engines={"llm": engine}
    )
    assert run.records[0]["result"].value == "WHY?"
    assert [event.step for event in run.events if isinstance(event, TaskEnded)] == ["result[ask].answer"]


def test_a_pipeline_that_fails_as_a_tool_fails_the_call_only() -> None:
    box = Toolbox("x", tool(Pipeline("broken", out=lambda x: 1 / x), output="out"))
    result = result_of(box, "broken", x="0")
    assert result.outcome == "failed"


def test_cancelling_a_job_cancels_its_tool() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    pipeline = Pipeline("p", result=call_tool("call", tools=Toolbox("x", wait)))

    async def main() -> None:
        async with Session(record=False) as session:
            with pytest.raises(Exception, match="time"):
                await session.call(pipeline, {"call": {"name": "wait"}}, timeout_s=0.01)

    asyncio.run(main())
    assert ended == [True]


def test_yaml_names_registered_boxes_only() -> None:
    box = Toolbox("sums-of-a-test", add)
    pipeline = Pipeline("p", result=call_tool("call", tools=box))
    with pytest.raises(Exception, match="not registered"):
        pipeline.to_yaml()
    register_tools(box)
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
