"""What servers say of their load: read, told to the scheduler, and never relied upon."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sage import Pipeline, Session
from sage.engines.base import open_engine
from sage.engines.engine_metrics import EngineMetrics, Measured, parse_metrics
from sage.ops import generate
from sage.scheduling.core import Scheduler
from sage.scheduling.limit import CUT, FULL_CACHE, HOLD_S, Adaptive
from sage.scheduling.messages import (
    EndpointJoined,
    EndpointMeasured,
    JobArrived,
    Start,
    TaskReady,
)
from sage.scheduling.policy import parse_policy
from sage.scheduling.views import EndpointView, JobView, TaskView
from sage.settings import Settings
from sage.testing import FakeEngine
from sage.testing.server import Behaviour, EmulatedServer

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.5
vllm:time_to_first_token_seconds_bucket{le="0.1"} 7
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VLLM, EngineMetrics(7.0, 2.0, 0.5)),
        ("vllm:gpu_cache_usage_perc 0.9 1700000000", EngineMetrics(kv_used=0.9)),
        ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 5", EngineMetrics(1.0, 5.0)),
        ('sglang:num_running_reqs{a="b"} 2\nsglang:token_usage 0.1', EngineMetrics(running=2.0, kv_used=0.1)),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting -1\nvllm:kv_cache_usage_perc 35", None),
        ("<html>not found</html>", None),
        ("", None),
    ],
)
def test_the_figures_of_servers_are_read_by_their_names(text: str, expected: EngineMetrics | None) -> None:
    assert parse_metrics(text) == expected


@given(st.text())
def test_whatever_a_server_says_is_read_without_an_error(text: str) -> None:
    found = parse_metrics(text)
    assert found is None or found.kv_used is None or 0 <= found.kv_used <= 1.0 + 1e-9


# ---- from a server


def test_a_server_is_asked_in_the_background_and_the_scheduler_told(tmp_home: Settings) -> None:
    async def main() -> EndpointView:
        async with EmulatedServer(Behaviour(concurrency=4)) as server:
            engines = {"llm": f"openai:{server.url}?metrics_s=0.01&limit=4"}
            async with Session(engines=engines, settings=tmp_home, record=False) as session:
                await session.ready(Pipeline("p", a=generate("{q}")))
                async with asyncio.timeout(10):
                    while session.snapshot().endpoints[0].measured_at is None:
                        await asyncio.sleep(0.01)
                return session.snapshot().endpoints[0]

    view = asyncio.run(main())
    assert (view.elsewhere, view.kv_used) == (0.0, 0.0)


def test_a_server_is_not_asked_unless_that_is_said() -> None:
    async def main() -> int:
        async with EmulatedServer() as server:
            told: list[EngineMetrics] = []
            async with open_engine(f"openai:{server.url}", Settings()) as engine:
                assert isinstance(engine, Measured)
                engine.on_metrics(told.append)
                await asyncio.sleep(0.05)
            return len(told)

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize("answer", ["gone", "slow", "huge", "nonsense"])
def test_bad_metrics_disturb_nobody(answer: str, tmp_home: Settings) -> None:
    async def metrics(_request: web.Request) -> web.Response:
        if answer == "slow":
            await asyncio.sleep(30)
        if answer == "huge":
            return web.Response(body=b"vllm:nothing 1\n" * 500_000)
        return web.Response(status=500 if answer == "gone" else 200, text="vllm:num_requests_running what\n")

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def main() -> list[EngineMetrics]:
        app = web.Application()
        app.add_routes([web.get("/metrics", metrics), web.get("/v1/models", models)])
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        told: list[EngineMetrics] = []
        async with open_engine(f"openai:http://127.0.0.1:{port}/v1?metrics_s=0.01", Settings()) as engine:
            assert isinstance(engine, Measured)
            engine.on_metrics(told.append)
            await asyncio.sleep(0.1)
        await runner.cleanup()
        return told

    assert asyncio.run(main()) == []


@pytest.mark.parametrize("said", ["-1", "often", "inf"])
def test_an_interval_that_cannot_be_is_refused(said: str) -> None:
    async def main() -> None:
        async with open_engine(f"openai:http://127.0.0.1:9/v1?metrics_s={said}", Settings()):
            pass

    with pytest.raises(Exception, match="metrics_s"):
        asyncio.run(main())


# ---- what it is used for


def scheduler(policy: str, endpoints: int, limit: int = 1000) -> Scheduler:
    made = Scheduler(parse_policy(policy), random.Random(0))
    for number in range(endpoints):
        made.handle(EndpointJoined(f"e{number}", "llm", limit), 0.0)
    made.handle(JobArrived(JobView(0, "r", "p", 0.0)), 0.0)
    return made


def burst(made: Scheduler, count: int, now: float, first: int = 0) -> Counter[str]:
    sent: Counter[str] = Counter()
    for number in range(first, first + count):
        task = TaskView(number, 0, "s", "p", "llm", "generate", 0.0, now, in_tokens=10, max_out_tokens=10)
        for command in made.handle(TaskReady(task), now):
            if isinstance(command, Start):
                sent[command.endpoint] += 1
    made.check()
    return sent


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.floats(0, 1)), min_size=2, max_size=12),
    st.integers(1, 120),
    st.sampled_from(["load_aware", "slack", "limit=adaptive"]),
)
def test_metrics_of_any_age_never_send_more_than_twice_the_mean_to_one(
    loads: list[tuple[int, int, float]], count: int, policy: str
) -> None:
    """Invariant 12: a burst follows the scheduler's own ledger, however stale what servers said is."""
    made = scheduler(policy, len(loads))
    for number, (running, waiting, used) in enumerate(loads):
        made.handle(EndpointMeasured(f"e{number}", running, waiting, used), 1.0)
    sent = burst(made, count, 6.0)
    assert sent.total() == count
    assert max(sent.values()) <= max(1.0, 2 * count / len(loads))


def test_between_equals_the_one_with_fewer_requests_of_others_is_first() -> None:
    made = scheduler("load_aware", 3)
    for number, running in enumerate((9, 0, 5)):
        made.handle(EndpointMeasured(f"e{number}", running), 1.0)
    assert list(burst(made, 3, 2.0)) == ["e1", "e2", "e0"]


def test_own_calls_are_not_counted_as_those_of_others() -> None:
    made = scheduler("load_aware", 1)
    burst(made, 3, 1.0)
    made.handle(EndpointMeasured("e0", running=3, waiting=2), 2.0)
    view = made.snapshot().endpoints[0]
    assert (view.elsewhere, view.measured_at) == (2, 2.0)


def test_a_full_cache_lowers_an_adaptive_limit_once_in_a_while() -> None:
    made = scheduler("limit=adaptive", 1, limit=100)
    for now in (1.0, 2.0, 1.0 + HOLD_S):
        made.handle(EndpointMeasured("e0", kv_used=FULL_CACHE), now)
    made.check()
    assert made.snapshot().endpoints[0].limit == int(int(100 * CUT) * CUT)


def test_a_cache_with_room_changes_nothing() -> None:
    limit = Adaptive()
    limit.of("e0", 10)
    assert limit.pressed("e0", 0.5, 1.0) is None
    made = scheduler("load_aware", 1, limit=10)
    made.handle(EndpointMeasured("e0", kv_used=1.0), 1.0)
    assert made.snapshot().endpoints[0].limit == 10


def test_metrics_of_an_endpoint_that_left_are_ignored() -> None:
    made = scheduler("load_aware", 1)
    assert made.handle(EndpointMeasured("gone", running=1), 1.0) == []


def test_engines_without_metrics_are_served_as_before(tmp_home: Settings) -> None:
    engine: Any = FakeEngine()
    assert not isinstance(engine, Measured)
    result = Pipeline("p", a=generate("{q}")).run([{"q": "a"}], engines={"llm": engine}, record=False)
    assert len(result.records) == 1
