"""Every flow test runs on every way there is to carry a pipeline out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sage import JobFailure, Pipeline, Session
from sage.runtime.virtual import run_virtual

#: Runs records through a pipeline and returns one outcome for each, in the order of the source.
Flow = Callable[..., list[Any]]


def in_a_session(pipeline: Pipeline, records: Iterable[Any], **arguments: Any) -> list[Any]:
    """One session on a loop of its own; results streamed in order."""
    own = ("engines", "indexes", "policy", "runtime")
    session = {name: arguments.pop(name) for name in own if name in arguments}

    async def main() -> list[Any]:
        async with Session(**session) as opened:
            stream = opened.stream(pipeline, records, ordered=True, errors="yield", **arguments)
            return [result async for result in stream]

    return asyncio.run(main())


def one_by_one(pipeline: Pipeline, records: Iterable[Any], **arguments: Any) -> list[Any]:
    """Single calls in a session, as a service makes them."""
    session = {name: arguments.pop(name) for name in ("engines", "indexes", "policy") if name in arguments}
    arguments.pop("max_inflight", None)

    async def one(opened: Session, record: Any) -> Any:
        try:
            return await opened.call(pipeline, record, **arguments)
        except Exception as error:  # noqa: BLE001 - compared by the test
            return JobFailure(0, record, "failed", error)  # type: ignore[arg-type]  # whatever it was

    async def main() -> list[Any]:
        async with Session(**session) as opened:
            return [await one(opened, record) for record in records]

    return asyncio.run(main())


def blocking(pipeline: Pipeline, records: Iterable[Any], **arguments: Any) -> list[Any]:
    """``Pipeline.run`` from plain code, through the default session's thread."""
    result = pipeline.run(records, **arguments)
    outcomes: list[Any] = [*result.records]
    for failure in result.failures:
        outcomes.insert(failure.index, failure)
    return outcomes


def simulated(pipeline: Pipeline, records: Iterable[Any], **arguments: Any) -> list[Any]:
    """A session in virtual time, as simulations run: the clock jumps where a loop would wait."""
    if "cpu" in pipeline.plan.pools():
        pytest.skip("steps in pool 'cpu' run in threads, which have no place in virtual time")
    session = {name: arguments.pop(name) for name in ("engines", "indexes", "policy") if name in arguments}

    async def main() -> list[Any]:
        clock = asyncio.get_running_loop().time
        async with Session(**session, clock=clock, kind="simulated") as opened:
            stream = opened.stream(pipeline, records, ordered=True, errors="yield", **arguments)
            return [result async for result in stream]

    return run_virtual(main())


FLOWS: dict[str, Flow] = {
    "session": in_a_session,
    "calls": one_by_one,
    "blocking": blocking,
    "simulated": simulated,
}


@pytest.fixture(params=[*FLOWS, pytest.param("ray", marks=pytest.mark.ray)])
def flow(request: pytest.FixtureRequest) -> Flow:
    """A way to run records through a pipeline."""
    if request.param != "ray":
        return FLOWS[request.param]
    cluster = request.getfixturevalue("ray_cluster")

    def on_ray(pipeline: Pipeline, records: Iterable[Any], **arguments: Any) -> list[Any]:
        """A session whose functions of the cpu pool run in workers on the nodes of a cluster."""
        return in_a_session(pipeline, records, runtime=cluster, **arguments)

    return on_ray
