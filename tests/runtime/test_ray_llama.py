"""The built-in model on every node of a real cluster."""

from __future__ import annotations

from typing import Any

import pytest

from sage import Pipeline
from sage.events import TaskEnded
from sage.ops import generate, step
from sage.runtime.ray_cluster import RayCluster

pytestmark = [pytest.mark.models, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

PIPELINE = Pipeline(
    "count",
    question=step(lambda n: f"Which number follows {n}? Answer with the number.", pool="cpu"),
    answer=generate("{question}", max_tokens=8),
)
RECORDS = [{"n": n} for n in range(12)]
ENGINES = {"llm": "llama:smollm2-135m-instruct?slots=1&ctx=512&threads=1"}


def test_the_model_is_opened_on_each_node_and_answers_as_it_does_here(ray_cluster: RayCluster) -> None:
    def answered(**arguments: Any) -> Any:
        return PIPELINE.run(RECORDS, engines=ENGINES, max_inflight=2, **arguments)

    on_nodes, here = answered(runtime=ray_cluster), answered()
    assert not on_nodes.failures
    assert on_nodes.records == here.records
    calls = [event for event in on_nodes.events if isinstance(event, TaskEnded) and event.pool == "llm"]
    assert {call.endpoint.partition("@")[2] for call in calls} == {"node1", "node2"}
    assert all(call.first is not None and call.completion_tokens > 0 for call in calls)
