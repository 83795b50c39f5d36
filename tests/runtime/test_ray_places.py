"""Which node gets a call, on a real cluster: by policy, idle nodes counted, and with nodes that join and leave."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from sage import Pipeline, Session
from sage.bench.cell_figures import PoolUse, cell_figures
from sage.bench.records import requests_of
from sage.events import TaskEnded, TaskRetried
from sage.ops import generate, step
from sage.runtime.manifest import Manifest, read_manifest
from sage.runtime.ray_cluster import Connection, RayCluster

Run = Callable[[Pipeline, int, str, int], Any]

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROFILE = """
name = "quick"
source = "made up: every call takes 20 ms"
fixed = {first_token_s = 0.02}
"""
LIMIT = 8
ASK = Pipeline("ask", answer=generate("{x}", max_tokens=10))


def wait(x: int) -> int:
    time.sleep(0.01)
    return x


COMPUTE = Pipeline("compute", y=step(wait, pool="cpu"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An address for an engine on every node."""
    profile = tmp_path_factory.mktemp("profiles") / "quick.toml"
    profile.write_text(PROFILE)
    return f"emulated:{profile}?where=node&limit={LIMIT}"


@pytest.fixture
def run(ray_cluster: RayCluster, engine: str) -> Run:
    """Runs so many records under a place, with so many at once."""
    return partial(run_on, ray_cluster, engine)


def run_on(
    cluster: RayCluster, engine: str, pipeline: Pipeline, records: int, place: str, max_inflight: int
) -> Any:
    async def main() -> Any:
        async with Session(
            runtime=cluster, engines={"llm": engine}, policy=f"place={place},batch=none"
        ) as session:
            return await session.run(pipeline, [{"x": x} for x in range(records)], max_inflight=max_inflight)

    result = asyncio.run(main())
    assert len(result.records) == records
    return result


def calls_of(result: Any) -> list[TaskEnded]:
    ended = [event for event in result.events if isinstance(event, TaskEnded)]
    return sorted(ended, key=lambda call: call.dispatched)


def manifest_of(result: Any) -> Manifest:
    return read_manifest(result.folder / "run.json")


def use_of(result: Any, pool: str) -> PoolUse:
    events = list(result.events)
    return cell_figures(events, requests_of(events), manifest_of(result).engines, cpu_s=None).pools[pool]


def with_load(calls: list[TaskEnded]) -> Iterator[tuple[TaskEnded, dict[str, int]]]:
    """Each call with the number of those under way on each node when it was sent."""
    nodes = {node_of(call) for call in calls}
    assert len(nodes) == 2
    for number, call in enumerate(calls):
        load = dict.fromkeys(nodes, 0)
        for earlier in calls[:number]:
            load[node_of(earlier)] += earlier.t > call.dispatched
        yield call, load


def node_of(call: TaskEnded) -> str:
    return call.endpoint.partition("@")[2].partition("/")[0]


@pytest.mark.parametrize(("pipeline", "pool"), [(ASK, "llm"), (COMPUTE, "cpu")], ids=["engines", "functions"])
def test_round_robin_takes_the_nodes_in_turn(run: Run, pipeline: Pipeline, pool: str) -> None:
    result = run(pipeline, 20, "round_robin", 1)
    nodes = [node_of(call) for call in calls_of(result)]
    assert all(one != following for one, following in itertools.pairwise(nodes))
    assert use_of(result, pool).balance.balance == 1.0


@pytest.mark.parametrize("pipeline", [ASK, COMPUTE], ids=["engines", "functions"])
def test_least_loaded_takes_the_node_with_the_fewest_calls(run: Run, pipeline: Pipeline) -> None:
    result = run(pipeline, 60, "least_loaded", 5)
    calls = calls_of(result)
    for call, under_way in with_load(calls):
        assert under_way[node_of(call)] == min(under_way.values())


@pytest.mark.parametrize(("pipeline", "pool"), [(ASK, "llm"), (COMPUTE, "cpu")], ids=["engines", "functions"])
def test_pack_leaves_a_node_idle_and_the_balance_counts_it(run: Run, pipeline: Pipeline, pool: str) -> None:
    result = run(pipeline, 20, "pack", 2)
    use = use_of(result, pool)
    assert sorted(use.tasks.values()) == [0, 20]
    assert (use.balance.n, use.balance.idle, use.balance.balance) == (2, 1, 0.0)


def test_pack_goes_to_the_fullest_node_that_has_room(run: Run) -> None:
    calls = calls_of(run(ASK, 60, "pack", 12))
    for call, under_way in with_load(calls):
        assert under_way[node_of(call)] == max(load for load in under_way.values() if load < LIMIT)


def test_prefix_affinity_keeps_every_prompt_on_its_node(run: Run) -> None:
    names = ["x", *(f"answer{number}" for number in range(8))]
    steps = {
        name: generate(f"{name}: {{{before}}}", max_tokens=4) for before, name in itertools.pairwise(names)
    }
    result = run(Pipeline("chain", **steps), 6, "prefix_affinity", 1)
    homes = {(call.step, node_of(call)) for call in calls_of(result)}
    assert len(homes) == len(steps)
    assert {node for _, node in homes} == {"node1", "node2"}


def test_a_node_that_joins_gets_its_engine_and_calls_and_may_die(
    ray_connection: Connection, engine: str
) -> None:
    assert ray_connection.host is not None
    host = ray_connection.host
    pipeline = Pipeline("p", y=step(wait, pool="cpu", x="{x}"), answer=generate("{y}", max_tokens=20))

    async def main() -> Any:
        async with Session(runtime=ray_connection.cluster, engines={"llm": engine}) as session:
            await session.ready(pipeline)
            ended: list[str] = []

            async def until_it_died() -> AsyncIterator[dict[str, int]]:
                x = 0
                while not ended:
                    yield {"x": x}
                    x += 1

            async with asyncio.TaskGroup() as group:
                running = group.create_task(session.run(pipeline, until_it_died(), max_inflight=32))
                assert len(busy_on(session)) <= 2
                node = await asyncio.to_thread(host.add, 1)
                await asyncio.to_thread(until, lambda: busy_on(session) == {"node1", "node2", "node3"})
                await asyncio.to_thread(host.kill, node)
                await asyncio.to_thread(until, lambda: busy_on(session) == {"node1", "node2"})
                ended.append(node)
            return running.result()

    result = asyncio.run(main())
    assert not result.failures
    assert [record["y"] for record in result.records] == list(range(len(result.records)))
    assert {event.error for event in result.events if isinstance(event, TaskRetried)} <= {"lost"}
    manifest = manifest_of(result)
    assert [name.partition("@")[2] for name in manifest.engines["llm"]] == ["node1", "node2", "node3"]
    assert set(manifest.cluster["nodes"]) == {"node1", "node2", "node3"}


def busy_on(session: Session) -> set[str]:
    """The nodes whose engines have calls."""
    views = session.snapshot().endpoints
    return {view.name.partition("@")[2] for view in views if view.pool == "llm" and view.in_flight}


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)
