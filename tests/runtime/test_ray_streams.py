"""Streams whose pipelines run on the nodes of a real cluster."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sage import Pipeline, stream
from sage.ops import step, template
from sage.runtime.ray_cluster import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def weigh(x: int) -> int:
    if x == 13:
        raise ValueError("bad luck")
    return x * x


def where(y: int) -> int:
    return os.getpid()


WEIGH = Pipeline("weigh", y=step(weigh, pool="cpu"), pid=step(where, pool="cpu"), line=template("{x}: {y}"))
RECORDS = [{"x": x, "kind": x % 3} for x in range(90)]


def test_a_stream_gives_what_it_gives_here_and_its_functions_run_on_the_nodes(
    ray_cluster: RayCluster,
) -> None:
    weighed = stream.records(RECORDS).filter(x={"lt": 80}).through(WEIGH)
    summed = weighed.key_by("kind").reduce(stream.count, total=stream.total("y"))

    def carried(flow: stream.Stream, **arguments: Any) -> tuple[list[Any], int]:
        result = flow.run(**arguments)
        return result.records, result.num_failed

    assert carried(summed, runtime=ray_cluster) == carried(summed)
    lines, num_failed = carried(weighed, runtime=ray_cluster)
    assert [one["line"] for one in lines] == [f"{x}: {x * x}" for x in range(80) if x != 13]
    assert num_failed == 1
    assert os.getpid() not in {one["pid"] for one in lines}
