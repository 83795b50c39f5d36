"""The engines of a pool, in virtual time: what ends is opened anew, and where there is a new place, one more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from sage.engines.base import Engine, GenerateRequest, Message, ignore_pieces
from sage.engines.ending import Ending
from sage.engines.engine_metrics import EngineMetrics
from sage.errors import EngineError, SetupError
from sage.runtime.engine_pool import EnginePool
from sage.runtime.virtual import run_virtual
from sage.testing import FakeEngine

HELLO = GenerateRequest(messages=(Message("user", "hello"),))


class Mortal(FakeEngine):
    """An engine that a test ends."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self._ending = Ending()
        self.end = self._ending.over
        self.on_end = self._ending.tell


class World:
    """Places that come and go, the engines on them, and what the scheduler was told."""

    def __init__(self, *places: str, looks: bool = False) -> None:
        self.places = list(places)
        self.looks = looks
        self.broken = False  # nothing can be opened
        self.takes_s = 1.0  # to open
        self.open: dict[str, Mortal] = {}
        self.told: list[str] = []

    async def opening(self, address: str) -> dict[str, AbstractAsyncContextManager[Engine]]:
        if not self.places:
            raise SetupError("no node")
        return {place: self._opened(f"{address}@{place}") for place in self.places}

    def look_s(self, _address: str) -> float | None:
        return 2.0 if self.looks else None

    @asynccontextmanager
    async def _opened(self, name: str) -> AsyncIterator[Engine]:
        await asyncio.sleep(self.takes_s)
        if self.broken:
            raise SetupError(f"{name} is broken")
        self.open[name] = Mortal(name)
        yield self.open[name]
        del self.open[name]

    def joined(self, name: str, _pool: str, _limit: int) -> None:
        self.told.append(f"+{name}")

    def left(self, name: str) -> None:
        self.told.append(f"-{name}")

    def measured(self, name: str, metrics: EngineMetrics) -> None:
        """Nothing measures here."""


def in_pool(world: World, main: Callable[[EnginePool, dict[str, Engine]], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        engines: dict[str, Engine] = {}
        async with asyncio.TaskGroup() as group:
            pool = EnginePool("llm", ("a",), world, group, world, engines)
            try:
                await pool.open()
                await main(pool, engines)
            finally:
                pool.close()
        assert not world.open

    run_virtual(run())


def test_engines_are_opened_at_the_same_time_and_closed_with_the_pool() -> None:
    world = World("n1", "n2", "n3")

    async def main(pool: EnginePool, _engines: dict[str, Engine]) -> None:
        assert asyncio.get_running_loop().time() == world.takes_s
        assert pool.endpoints == list(world.open) == ["a@n1", "a@n2", "a@n3"]

    in_pool(world, main)


def test_an_engine_that_ends_takes_no_call_until_it_is_open_again_under_its_name() -> None:
    world = World("n1", "n2")

    async def main(pool: EnginePool, engines: dict[str, Engine]) -> None:
        first = world.open["a@n1"]
        first.end()
        assert world.told[2:] == ["-a@n1"]
        assert engines["a@n1"] is first  # calls that are on their way to it fail there
        await asyncio.sleep(2 * world.takes_s)
        assert world.told[2:] == ["-a@n1", "+a@n1"]
        assert engines["a@n1"] is world.open["a@n1"] is not first

    in_pool(world, main)


def test_an_engine_is_opened_where_a_node_joins_and_not_where_one_left() -> None:
    world = World("n1", looks=True)

    async def main(pool: EnginePool, _engines: dict[str, Engine]) -> None:
        world.places = ["n2", "n3"]
        world.open["a@n1"].end()
        await asyncio.sleep(10)
        assert pool.endpoints == ["a@n2", "a@n3"]

    in_pool(world, main)


def test_an_engine_that_cannot_be_opened_again_is_tried_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World("n1", "n2")

    async def main(pool: EnginePool, _engines: dict[str, Engine]) -> None:
        world.broken = True
        world.open["a@n1"].end()
        await asyncio.sleep(100)
        tries = [record for record in caplog.records if "is broken" in record.message]
        assert len(tries) == 8  # at 1, 3, 6, 11, 20, 37, 68 and 99 s
        world.broken = False
        await asyncio.sleep(40)
        assert sorted(pool.endpoints) == ["a@n1", "a@n2"]

    in_pool(world, main)


def test_a_pool_without_an_engine_for_a_minute_fails_its_calls_until_there_is_one() -> None:
    world = World("n1", looks=True)

    async def main(pool: EnginePool, engines: dict[str, Engine]) -> None:
        world.places = []
        world.open["a@n1"].end()
        await asyncio.sleep(59)
        assert world.told == ["+a@n1", "-a@n1"]
        await asyncio.sleep(5)
        assert world.told[2:] == ["+llm@nowhere"]
        with pytest.raises(EngineError, match="pool 'llm' has had no engine for 60 s"):
            await engines["llm@nowhere"].generate(HELLO, ignore_pieces)
        world.places = ["n2"]
        await asyncio.sleep(5)
        assert world.told[3:] == ["-llm@nowhere", "+a@n2"]

    in_pool(world, main)


def test_a_pool_waits_for_an_engine_that_loads_however_long_it_takes() -> None:
    world = World("n1")

    async def main(pool: EnginePool, _engines: dict[str, Engine]) -> None:
        world.takes_s = 300.0
        world.open["a@n1"].end()
        await asyncio.sleep(200)
        assert world.told == ["+a@n1", "-a@n1"]
        await asyncio.sleep(200)
        assert pool.endpoints == ["a@n1"]

    in_pool(world, main)


def test_if_one_engine_cannot_be_opened_the_others_are_closed() -> None:
    world = World("n1", "n2")
    world.broken = True
    with pytest.raises(ExceptionGroup) as caught:
        in_pool(world, lambda *_: asyncio.sleep(0))
    assert "a@n1 is broken" in str(caught.value.exceptions[0])


def test_a_pool_that_closes_does_not_wait_for_an_engine_that_loads() -> None:
    world = World("n1", "n2")

    async def main(_pool: EnginePool, _engines: dict[str, Engine]) -> None:
        world.takes_s = 1e6
        world.open["a@n1"].end()
        await asyncio.sleep(5)

    in_pool(world, main)
    assert world.told[2:] == ["-a@n1"]
