"""The three runtimes conform, and the checks find what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from sage import Pipeline, Session
from sage.runtime.ray_cluster import RayCluster
from sage.testing import run_virtual
from sage.testing.conformance_runtimes import (
    FUNCTION_CHECKS,
    RUNTIME_CHECKS,
    Opened,
    RuntimeCheck,
    check_runtime,
)

Main = Callable[[Opened], Coroutine[Any, Any, Any]]


def local(main: Main) -> Any:
    return asyncio.run(main(Session))


def simulated(main: Main) -> Any:
    def opened(**said: Any) -> Session:
        return Session(clock=asyncio.get_running_loop().time, kind="simulated", **said)

    return run_virtual(main(opened))


@pytest.mark.parametrize("check", RUNTIME_CHECKS + FUNCTION_CHECKS)
def test_the_local_runtime_conforms(check: RuntimeCheck) -> None:
    check(local)


@pytest.mark.parametrize("check", RUNTIME_CHECKS)
def test_the_simulated_runtime_conforms(check: RuntimeCheck) -> None:
    check(simulated)


@pytest.mark.ray
@pytest.mark.slow
def test_the_ray_runtime_conforms(ray_cluster: RayCluster) -> None:
    check_runtime(lambda main: asyncio.run(main(partial(Session, runtime=ray_cluster))))


class Losing(Session):
    """Loses the last record of every run."""

    async def run(self, pipeline: Pipeline, records: Any, /, **arguments: Any) -> Any:
        result = await super().run(pipeline, records, **arguments)
        result.records.pop()
        return result


class Eager(Session):
    """Takes no notice of how many records may be under way."""

    async def run(self, pipeline: Pipeline, records: Any, /, **arguments: Any) -> Any:
        return await super().run(pipeline, records, **{**arguments, "max_inflight": 64})


@pytest.mark.parametrize(("wrong", "number"), [(Losing, 0), (Losing, 1), (Eager, 4)])
def test_a_runtime_that_does_not_conform_is_found(wrong: type[Session], number: int) -> None:
    with pytest.raises(AssertionError):
        RUNTIME_CHECKS[number](lambda main: asyncio.run(main(wrong)))
