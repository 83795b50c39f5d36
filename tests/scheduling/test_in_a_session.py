"""Policies and breakers seen from a session, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sage import Pipeline, Session
from sage.engines.base import GenerateRequest, Reply
from sage.errors import EngineError
from sage.events import EndpointSwitched
from sage.ops import generate
from sage.runtime.virtual import run_virtual
from sage.settings import Settings
from sage.testing import FakeEngine

CHAT = Pipeline("chat", draft=generate("{question}", max_tokens=4), answer=generate("{draft}", max_tokens=4))


class Flaky(FakeEngine):
    """Fails until a moment of virtual time."""

    def __init__(self, until: float) -> None:
        super().__init__(limit=8, token_s=0.01)
        self._until = until

    async def generate(self, request: GenerateRequest, emit: Any) -> Reply:
        if asyncio.get_running_loop().time() < self._until:
            raise EngineError("flaky: no connection", fault="unreachable")
        return await super().generate(request, emit)


def carried(engine: FakeEngine, policy: str, home: Settings, **options: Any) -> Any:
    async def main() -> Any:
        clock = asyncio.get_running_loop().time
        async with Session(engines={"llm": engine}, policy=policy, settings=home, clock=clock) as session:
            return await session.run(CHAT, [{"question": f"q{n}"} for n in range(30)], **options)

    return run_virtual(main())


@pytest.mark.parametrize(
    "policy", ["slack", "priority", "order=least_attained,share=weighted_fair,place=pack"]
)
def test_a_pipeline_runs_under_every_kind_of_policy(policy: str, tmp_home: Settings) -> None:
    assert len(carried(FakeEngine(limit=2, token_s=0.1), policy, tmp_home, deadline_s=60.0).records) == 30


def test_pulled_records_are_not_rejected_even_if_they_will_be_late(tmp_home: Settings) -> None:
    result = carried(FakeEngine(limit=1, token_s=0.5), "slack", tmp_home, deadline_s=5.0)
    assert len(result.records) == 30


def test_jobs_wait_while_the_only_endpoint_is_down_and_the_log_says_so(tmp_home: Settings) -> None:
    result = carried(Flaky(6.0), "retry_budget=off", tmp_home, max_inflight=4)
    states = [event.state for event in result.events if isinstance(event, EndpointSwitched)]
    assert states[:2] == ["open", "half_open"]
    assert states[-1] == "healthy"
    assert len(result.records) >= 26  # probes use up attempts; those that only waited are all done


def test_an_endpoint_that_stays_down_fails_the_jobs_in_the_end(tmp_home: Settings) -> None:
    result = carried(Flaky(1e9), "load_aware", tmp_home)
    assert len(result.failures) == 30
    assert any("has been failing for 65 s" in str(failure) for failure in result.failures)
