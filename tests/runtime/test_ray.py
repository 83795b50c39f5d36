"""The Ray runtime on a real cluster: what is lost, what is left behind, and what is told."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage import JobFailure, Pipeline, Session
from sage.errors import InputError, PipelineError, SetupError
from sage.events import JobEnded, TaskEnded, TaskRetried
from sage.ops import generate, step, template
from sage.runtime import ray as ray_runtime
from sage.runtime.ray_cluster import Connection, RayCluster, connected, nodes_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass
class Graded:
    """A value of a class of the test's own."""

    score: float


def in_session(
    cluster: RayCluster, main: Callable[[Session], Coroutine[Any, Any, Any]], **arguments: Any
) -> Any:
    async def run() -> Any:
        async with Session(runtime=cluster, **arguments) as session:
            return await main(session)

    return asyncio.run(run())


def run(cluster: RayCluster, pipeline: Pipeline, records: list[dict[str, Any]], **arguments: Any) -> Any:
    return in_session(cluster, lambda session: session.run(pipeline, records), **arguments)


def cpu(function: Callable[..., Any]) -> Any:
    return step(function, pool="cpu")


# ---- what comes out


def test_the_results_are_those_of_the_local_runtime(ray_cluster: RayCluster) -> None:
    def halve(x: int) -> float:
        if x % 7 == 0:
            raise ValueError(f"{x} is bad luck")
        return 1 / x

    pipeline = Pipeline(
        "p", y=cpu(halve), z=lambda y: y + 1, text=template("{z}"), n=cpu(lambda text: len(text))
    )
    records = [{"x": x} for x in range(200)]
    ours, local = run(ray_cluster, pipeline, records), pipeline.run(records)
    assert ours.records == local.records
    assert [(f.index, f.step, str(f.error)) for f in ours.failures] == [
        (f.index, f.step, str(f.error)) for f in local.failures
    ]


def test_functions_run_in_other_processes(ray_cluster: RayCluster) -> None:
    pipeline = Pipeline("p", pid=cpu(lambda x: os.getpid()))
    pids = {record["pid"] for record in run(ray_cluster, pipeline, [{"x": x} for x in range(50)]).records}
    assert os.getpid() not in pids
    assert len(pids) == 2


def test_an_error_says_where_on_the_worker_it_came_from(ray_cluster: RayCluster) -> None:
    def broken(x: int) -> int:
        raise LookupError("no such thing")

    (failure,) = run(ray_cluster, Pipeline("p", y=cpu(broken)), [{"x": 1}]).failures
    assert isinstance(failure.error.__cause__, LookupError)
    assert "in broken" in failure.error.__cause__.__notes__[0]


def test_values_of_ones_own_classes_come_back_as_what_they_are(ray_cluster: RayCluster) -> None:
    def grade(x: int) -> Graded:
        return Graded(x / 2)

    def better(y: Graded) -> Graded:
        return Graded(y.score + 1)

    pipeline = Pipeline("p", y=cpu(grade), wait=step(lambda y: y), z=cpu(better))
    (record,) = run(ray_cluster, pipeline, [{"x": 3}]).records
    assert (record["y"], record["z"]) == (Graded(1.5), Graded(2.5))


def test_large_values_travel_once(ray_cluster: RayCluster) -> None:
    async def look(total: float) -> float:  # keeps the two functions apart
        return total

    pipeline = Pipeline(
        "p",
        total=cpu(lambda rows: float(rows.sum())),
        seen=look,
        top=cpu(lambda rows, seen: rows.max() + seen * 0),
    )
    rows = np.arange(1_000_000, dtype=np.float64)
    put: list[int] = []

    async def main(session: Session) -> Any:
        ray = session._runtime.ray  # type: ignore[attr-defined]  # of the Ray runtime
        real = ray.put

        def counted(value: Any) -> Any:
            put.append(getattr(value, "nbytes", 0))
            return real(value)

        ray.put = counted
        try:
            return await session.run(pipeline, [{"rows": rows}])
        finally:
            ray.put = real

    (record,) = in_session(ray_cluster, main).records
    assert (record["total"], record["top"]) == (rows.sum(), rows.max())
    assert put.count(rows.nbytes) == 1


def test_a_function_that_cannot_travel_is_a_fault_of_the_pipeline(ray_cluster: RayCluster) -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(PipelineError, match="step 'y': its function cannot be sent to a worker"):
        run(ray_cluster, Pipeline("p", y=cpu(lambda x: lock)), [{"x": 1}])


def test_a_record_that_cannot_travel_fails_alone(ray_cluster: RayCluster) -> None:
    import threading

    result = run(ray_cluster, Pipeline("p", y=cpu(lambda x: str(x))), [{"x": threading.Lock()}, {"x": 1}])
    assert [failure.index for failure in result.failures] == [0]
    assert "x" in str(result.failures[0].error)


# ---- what is told


def test_times_of_all_steps_are_on_the_drivers_clock_and_in_order(ray_cluster: RayCluster) -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=cpu(lambda a: a), c=lambda b: b)
    result = run(ray_cluster, pipeline, [{"x": x} for x in range(20)])
    ended = [event for event in result.events if isinstance(event, JobEnded)]
    for job in ended:
        times = [time for time in job.stamps if time is not None]
        assert len(times) == 6
        assert times == sorted(times)
        assert job.arrived <= times[0]
        assert times[-1] <= job.t


def test_the_manifest_names_the_nodes_and_how_far_their_clocks_may_be_misread(
    ray_cluster: RayCluster,
) -> None:
    result = run(ray_cluster, Pipeline("p", y=cpu(lambda x: x)), [{"x": 1}])
    from sage.runtime.manifest import read_manifest

    nodes = read_manifest(result.folder / "run.json").cluster["nodes"]
    assert len(nodes) >= 2
    assert all(node["resources"]["cpu"] == 1.0 for node in nodes.values())
    assert 0 < min(node["clock_error_s"] or 1.0 for node in nodes.values()) < 1.0


def test_one_hop_is_one_call(ray_cluster: RayCluster) -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=cpu(lambda a: a), c=cpu(lambda b: b))
    result = run(ray_cluster, pipeline, [{"x": x} for x in range(10)])
    assert sum(isinstance(event, TaskEnded) for event in result.events) == 10


# ---- what goes wrong


def test_workers_that_die_lose_no_job(ray_cluster: RayCluster) -> None:
    def once(x: int, folder: str) -> int:
        if x % 40 == 0:
            try:
                os.close(os.open(f"{folder}/{x}", os.O_CREAT | os.O_EXCL))
                os._exit(1)
            except FileExistsError:
                pass
        return x

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        result = run(
            ray_cluster, Pipeline("p", y=cpu(once)), [{"x": x, "folder": folder} for x in range(100)]
        )
        assert [record["y"] for record in result.records] == list(range(100))
        assert len(list(Path(folder).iterdir())) == 3
    retried = [event for event in result.events if isinstance(event, TaskRetried)]
    assert {event.error for event in retried} == {"lost"}


def test_a_record_that_kills_every_worker_fails_and_the_others_do_not(ray_cluster: RayCluster) -> None:
    def deadly(x: int) -> int:
        if x == 3:
            os._exit(1)
        return x

    result = run(ray_cluster, Pipeline("p", y=cpu(deadly)), [{"x": x} for x in range(8)])
    assert [record["y"] for record in result.records] == [0, 1, 2, 4, 5, 6, 7]
    assert "the worker is gone" in str(result.failures[0].error)


def test_a_node_may_join_and_be_killed_in_a_run(ray_connection: Connection, kills: int) -> None:
    assert ray_connection.host is not None
    host = ray_connection.host

    def slow(x: int) -> int:
        time.sleep(0.005)
        return x

    async def main(session: Session) -> Any:
        pipeline = Pipeline("p", y=cpu(slow))
        await session.ready(pipeline)
        killed: list[str] = []

        async def until_all_are_killed() -> AsyncIterator[dict[str, int]]:
            x = 0
            while len(killed) < kills:
                yield {"x": x}
                x += 1

        async with asyncio.TaskGroup() as group:
            running = group.create_task(session.run(pipeline, until_all_are_killed()))
            for _ in range(kills):
                node = await asyncio.to_thread(host.add, 1)
                await asyncio.to_thread(until, lambda: works_on(session, 3))
                await asyncio.to_thread(host.kill, node)
                await asyncio.to_thread(until, lambda: works_on(session, 2))  # until then it is sent calls
                killed.append(node)
        return running.result()

    result = in_session(ray_connection.cluster, main)
    assert not result.failures
    assert [record["y"] for record in result.records] == list(range(len(result.records)))
    retried = [event for event in result.events if isinstance(event, TaskRetried)]
    assert {event.error for event in retried} == {"lost"}


def test_a_node_that_does_not_start_leaves_the_others_alone(ray_connection: Connection) -> None:
    assert ray_connection.host is not None
    before = {node.id for node in nodes_of(ray_connection)}
    with pytest.raises(SetupError, match="no Ray node can be started on this machine: "):
        ray_connection.host.add(1, {"CPU": 1})
    assert {node.id for node in nodes_of(ray_connection)} == before
    assert run(ray_connection.cluster, Pipeline("p", y=cpu(lambda x: x)), [{"x": 1}]).records[0]["y"] == 1


def works_on(session: Session, endpoints: int) -> bool:
    views = session.snapshot().endpoints
    return len(views) == endpoints and all(view.in_flight for view in views)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_cluster_without_room_says_what_is_short(ray_cluster: RayCluster) -> None:
    pipeline = Pipeline("p", y=step(lambda x: x, cpu=64, gpu=1))
    with pytest.raises(SetupError, match=r"takes 64 cpu, 1 gpu; free is node\d: \d of 1 cpu, 0 of 0 gpu"):
        run(ray_cluster, pipeline, [{"x": 1}])


def test_a_node_with_another_version_is_refused_by_its_name(
    ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runtime, "versions", lambda: {"python": "3.9.1", "ray": "2.0", "sage": "0"})
    with pytest.raises(SetupError, match=r"node\d runs python 3\.\d+\.\d+, this process 3\.9\.1"):
        run(ray_cluster, Pipeline("p", y=cpu(lambda x: x)), [{"x": 1}])


def test_cancelling_frees_the_slots_at_once(ray_cluster: RayCluster) -> None:
    async def main(session: Session) -> float:
        sleepy = Pipeline("p", y=cpu(lambda x: time.sleep(x)))
        quick = Pipeline("q", y=cpu(lambda x: x))
        await session.ready(sleepy)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await session.run(sleepy, [{"x": 0.5}] * 20)
        began = time.monotonic()
        assert (await session(quick, x=1))["y"] == 1
        assert session.snapshot().running == 0
        return time.monotonic() - began

    assert in_session(ray_cluster, main) < 1.0


def test_workers_are_gone_after_the_session(ray_connection: Connection) -> None:
    result = run(ray_connection.cluster, Pipeline("p", pid=cpu(lambda x: os.getpid())), [{"x": 1}])
    pid = result.records[0]["pid"]
    until(lambda: not Path(f"/proc/{pid}").exists())
    until(lambda: all(node.free.get("cpu") == node.total["cpu"] for node in nodes_of(ray_connection)))


def test_what_a_cluster_tells_is_logged_and_stays_out_of_the_standard_output(
    ray_connection: Connection, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private.utils import publish_error_to_driver
    from ray._private.worker import global_worker

    worker: Any = global_worker
    publish_error_to_driver("test", "a node\nhas died", worker.gcs_client)
    until(lambda: "Ray says: a node has died" in caplog.messages)
    assert capsys.readouterr().out == ""


# ---- engines on the nodes


def test_an_engine_is_opened_on_every_node_and_its_pieces_come_home(ray_cluster: RayCluster) -> None:
    pipeline = Pipeline("p", answer=generate("{x}", max_tokens=6))
    address = "emulated:constant?where=node"

    async def main(session: Session) -> Any:
        events = [event async for event in session.events(pipeline, {"x": "hello there"})]
        result = await session.run(pipeline, [{"x": f"say {x}"} for x in range(40)])
        return events, result

    events, result = in_session(ray_cluster, main, engines={"llm": address})
    assert len(events) > 3
    used = {event.endpoint for event in result.events if isinstance(event, TaskEnded)}
    assert {endpoint.partition("@")[2][:4] for endpoint in used} == {"node"}
    assert len(used) == 2


def test_an_engine_whose_worker_is_killed_comes_back_and_no_job_is_lost(ray_cluster: RayCluster) -> None:
    pipeline = Pipeline("p", answer=generate("{x}", max_tokens=40))

    async def main(session: Session) -> Any:
        await session.ready(pipeline)
        before = {view.name for view in session.snapshot().endpoints}
        engine: Any = await session.engine("llm")
        facts = await engine._link.actor.facts.remote()
        came_back: list[str] = []

        async def until_it_is_back() -> AsyncIterator[dict[str, int]]:
            x = 0
            while x < 100 or not came_back:
                yield {"x": x}
                x += 1

        async with asyncio.TaskGroup() as group:
            running = group.create_task(session.run(pipeline, until_it_is_back()))
            await asyncio.to_thread(until, lambda: busy_on(session) == before)
            os.kill(facts.pid, signal.SIGKILL)
            await asyncio.to_thread(until, lambda: busy_on(session) == before - {engine.info.address})
            await asyncio.to_thread(until, lambda: busy_on(session) == before)
            came_back.append(engine.info.address)
        return running.result(), engine.info.address

    result, killed = in_session(ray_cluster, main, engines={"llm": "emulated:constant?where=node&limit=8"})
    assert not result.failures
    lost = [event for event in result.events if isinstance(event, TaskRetried)]
    assert {(event.error, event.endpoint) for event in lost} == {("lost", killed)}
    done = [event for event in result.events if isinstance(event, TaskEnded) and event.outcome == "done"]
    assert any(event.endpoint == killed and event.dispatched > lost[-1].t for event in done)


def busy_on(session: Session) -> set[str]:
    return {view.name for view in session.snapshot().endpoints if view.in_flight}


def test_an_engine_for_nodes_is_refused_by_the_local_runtime() -> None:
    with pytest.raises(InputError, match="only runtime='ray' has nodes"):
        Pipeline("p", answer=generate("{x}")).run([{"x": 1}], engines={"llm": "emulated:constant?where=node"})


def test_an_engine_whose_resource_no_node_has_says_what_they_have(ray_cluster: RayCluster) -> None:
    with pytest.raises(SetupError, match=r"takes 1 fast_chip, which no node has free: 127\.0\.0\.1: \d cpu"):
        run(
            ray_cluster,
            Pipeline("p", answer=generate("{x}")),
            [{"x": 1}],
            engines={"llm": "emulated:constant?where=node&on=fast_chip"},
        )


def test_a_failure_keeps_its_record(ray_cluster: RayCluster) -> None:
    (failure,) = run(ray_cluster, Pipeline("p", y=cpu(lambda x: 1 // x)), [{"x": 0}]).failures
    assert isinstance(failure, JobFailure)
    assert failure.record == {"x": 0}


# ---- connections


def test_a_second_cluster_at_one_time_is_refused(ray_cluster: RayCluster) -> None:
    with pytest.raises(InputError, match="Ray has one a process"), connected(RayCluster(nodes=5)):
        pass


@pytest.mark.parametrize(
    "said",
    [
        {"nodes": 0},
        {"slots": True},
        {"credits": -1},
        {"address": ""},
        {"address": "auto", "nodes": 2},
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RayCluster(**said)
