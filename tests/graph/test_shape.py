"""What a function asks of the machine it runs on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.graph.shape import is_cpu, pool_of, shape_of
from sage.graph.yaml import load_pipeline
from sage.ops import OPERATORS, register, step


@register
def shaped(x: int) -> int:
    return x


AMOUNTS = st.integers(0, 64) | st.sampled_from([0.25, 0.5, 1.5])


@given(AMOUNTS, AMOUNTS, st.dictionaries(st.sampled_from(["disk", "tpu-v5:8", "fast_net"]), AMOUNTS))
def test_a_pools_name_says_its_shape(cpu: float, gpu: float, resources: dict[str, float]) -> None:
    pool = pool_of(cpu, gpu, resources)
    asked = {"cpu": cpu, "gpu": gpu, **resources}
    assert is_cpu(pool)
    assert {name: amount for name, amount in shape_of(pool).items() if amount} == {
        name: amount for name, amount in asked.items() if amount
    }


def test_one_cpu_and_nothing_else_is_the_plain_pool() -> None:
    assert step(shaped, cpu=1).pool == "cpu"


@pytest.mark.parametrize(
    "said",
    [{"cpu": -1}, {"gpu": "two"}, {"resources": {"a,b": 1}}, {"resources": {"cpu": 1}}, {"cpu": True}],
)
def test_a_shape_that_makes_no_sense_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        step(shaped, **said)


def test_a_shape_needs_the_cpu_pool() -> None:
    with pytest.raises(InputError, match="pool 'cpu'"):
        step(shaped, pool="llm", cpu=2)


def test_a_shape_can_be_written_as_yaml() -> None:
    from sage import Pipeline

    pipeline = Pipeline("p", y=step(shaped, cpu=2, resources={"disk": 1}))
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    assert load_pipeline(pipeline.to_yaml(), OPERATORS).steps["y"].pool == "cpu(cpu=2,disk=1)"
