"""Chaos over HTTP: a real server that fails on purpose, and what must be true afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sage import JobFailure, Pipeline, Session
from sage.events import TaskEnded
from sage.ops import generate
from sage.testing.behaviour import Behaviour
from sage.testing.server import EmulatedServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOBS = 1_000
POISON = 0.02

ask = Pipeline("ask", answer=generate("Question {n}", max_tokens=8))
stubborn = Pipeline("ask", answer=generate("Question {n}", max_tokens=8).retry(8))


def served(pipeline: Pipeline, behaviour: Behaviour, policy: str, **options: Any) -> tuple[Any, list[Any]]:
    """All jobs against one emulated server; the result, and the server's own truth of every request."""

    async def main() -> tuple[Any, list[Any]]:
        async with EmulatedServer(behaviour) as server:
            engines = {"llm": f"openai:{server.url}?timeout_s=2&stall_s=2"}
            async with Session(engines=engines, policy=policy) as session:
                records = ({"n": n} for n in range(JOBS))
                result = await session.run(pipeline, records, **options)
                return result, list(server.truth)

    return asyncio.run(main())


def faultless(pipeline: Pipeline) -> dict[int, str]:
    result, _ = served(pipeline, Behaviour(), "load_aware", record=False)
    return {record["n"]: record["answer"] for record in result.records}


def test_the_default_policy_hides_the_faults_of_an_ordinary_day() -> None:
    rates = {"503": 0.02, "429@0.05": 0.01, "reset": 0.01, "hang": 0.01}
    result, truth = served(ask, Behaviour(rates=rates, seed=1), "load_aware")
    assert len(result.records) + len(result.failures) == JOBS
    assert len(result.records) >= 0.999 * JOBS
    assert len(truth) <= 1.1 * JOBS


def test_under_every_kind_of_fault_nothing_is_lost_and_answers_are_those_of_a_good_day() -> None:
    kinds = ("503", "500", "429@0.05", "reset", "hang", "cut", "stall", "truncated", "garbage", "non_utf8")
    rates = {**dict.fromkeys(kinds, 0.028), "poison": POISON}
    result, truth = served(stubborn, Behaviour(rates=rates, seed=2), "load_aware,retry_budget=off")
    assert len(result.records) + len(result.failures) == JOBS
    poisoned = [failure for failure in result.failures if getattr(failure.error, "status", None) == 400]
    others = [failure for failure in result.failures if failure not in poisoned]
    assert 0 < len(poisoned) < 3 * POISON * JOBS
    assert len(others) <= 0.001 * JOBS
    assert len(truth) <= 1.6 * JOBS
    good = faultless(stubborn)
    assert all(record["answer"] == good[record["n"]] for record in result.records)
    calls = [event for event in result.events if isinstance(event, TaskEnded)]
    refused = [(call.job, call.attempt) for call in calls if call.error is not None and "400" in call.error]
    assert {attempt for _, attempt in refused} <= set(range(1, 9))
    assert len({job for job, _ in refused}) == len(refused) == len(poisoned)
    assert all(isinstance(failure, JobFailure) for failure in result.failures)
