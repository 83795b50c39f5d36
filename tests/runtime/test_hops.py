"""Which steps travel together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import Pipeline
from sage.errors import PipelineError
from sage.graph.plan import Plan
from sage.graph.step import Step
from sage.graph.values import Record
from sage.ops import embed, generate, step, template
from sage.ops.base import Compute, Inline, Work
from sage.runtime.hops import BATCH_S, MAX_BATCH, Hop, hops_of
from sage.runtime.program import build_program
from sage.runtime.ray_worker import run_hop


class Anything:
    """A carrier that takes every function, or none that is named."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused

    def check(self, call: Callable[[Record], Any]) -> str | None:
        return "too heavy" if self.refused and self.refused in repr(call) else None


def cpu(function: Callable[..., Any]) -> Step:
    return step(function, pool="cpu")


def hops(pipeline: Pipeline) -> dict[str, tuple[str, ...]]:
    return {lead: hop.steps for lead, hop in hops_of(pipeline.plan, works(pipeline.plan), Anything()).items()}


def works(plan: Plan) -> dict[str, Work]:
    return {
        planned.name: Compute(lambda record: record)
        if planned.step.pool == "cpu"
        else Inline(lambda record: record, is_async=planned.step.is_async or planned.step.pool is not None)
        for planned in plan.steps
    }


def test_functions_in_a_row_make_one_hop() -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=cpu(lambda a: a), c=cpu(lambda b: b))
    assert hops(pipeline)["a"] == ("a", "b", "c")


def test_each_function_leads_a_hop_for_the_case_that_an_earlier_one_did_not_get_to_it() -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=cpu(lambda a: a))
    assert hops(pipeline) == {"a": ("a", "b"), "b": ("b",)}


def test_plain_functions_on_both_sides_go_along() -> None:
    pipeline = Pipeline("p", a=lambda x: x, b=cpu(lambda a: a), c=template("{b}!"))
    assert hops(pipeline) == {"a": ("a", "b", "c"), "b": ("b", "c")}


def test_plain_functions_alone_stay() -> None:
    assert hops(Pipeline("p", a=lambda x: x, b=template("{a}!"))) == {}


def test_a_model_call_ends_a_hop() -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=generate("{a}"), c=cpu(lambda b: b))
    assert hops(pipeline) == {"a": ("a",), "c": ("c",)}


def test_what_another_branch_makes_is_not_waited_for() -> None:
    pipeline = Pipeline("p", v=embed("{x}"), a=cpu(lambda x: x), b=cpu(lambda a, v: a))
    assert hops(pipeline)["a"] == ("a",)


def test_nobody_waits_for_a_function_that_is_none_of_its_business() -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=cpu(lambda a: a), answer=generate("{a}"))
    assert hops(pipeline)["a"] == ("a",)


def test_functions_side_by_side_stay_apart() -> None:
    assert hops(Pipeline("p", a=cpu(lambda x: x), b=cpu(lambda x: x))) == {"a": ("a",), "b": ("b",)}


def test_a_step_with_a_condition_or_a_default_goes_alone() -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=cpu(lambda a: a).default(0), c=cpu(lambda b: b))
    assert hops(pipeline) == {"a": ("a",), "b": ("b", "c"), "c": ("c",)}


def test_functions_of_other_shapes_go_to_their_own_workers() -> None:
    pipeline = Pipeline("p", a=cpu(lambda x: x), b=step(lambda a: a, cpu=2))
    found = hops_of(pipeline.plan, {name: Compute(lambda r: r) for name in "ab"}, Anything())
    assert {lead: (hop.pool, hop.steps) for lead, hop in found.items()} == {
        "a": ("cpu", ("a",)),
        "b": ("cpu(cpu=2)", ("b",)),
    }


def test_a_function_that_cannot_travel_is_a_fault_of_its_step() -> None:
    class Refusing:
        def check(self, call: Callable[[Record], Any]) -> str | None:
            return "it holds a lock"

    pipeline = Pipeline("p", a=cpu(lambda x: x))
    with pytest.raises(
        PipelineError, match="step 'a': its function cannot be sent to a worker: it holds a lock"
    ):
        build_program(pipeline.plan, None, Refusing())  # type: ignore[arg-type]  # nothing is asked of it


def test_the_fields_a_hop_reads_are_those_it_does_not_make() -> None:
    pipeline = Pipeline("p", a=cpu(lambda x, y: x), b=cpu(lambda a, z: a))
    found = hops_of(pipeline.plan, works(pipeline.plan), Anything())
    assert sorted(found["a"].needs) == ["x", "y", "z"]


def hop() -> Hop:
    return Hop(1, "cpu", ("a",), (), (), 0)


def test_a_call_holds_one_record_until_it_is_known_how_long_that_takes() -> None:
    assert hop().company == (None, None)


@given(st.lists(st.floats(1e-9, 10.0), min_size=1, max_size=50))
def test_a_call_is_as_large_as_its_time_allows(took: list[float]) -> None:
    one = hop()
    for seconds in took:
        one.learn(seconds)
    items = one.company[1].max_items if one.company[1] is not None else 1
    assert 1 <= items <= MAX_BATCH
    assert items == 1 or items * took[-1] <= BATCH_S * (1 + 1e-9)
    assert one.is_short or items == 1


@given(st.lists(st.integers(-3, 3), max_size=20))
def test_one_record_that_raises_fails_alone(xs: list[int]) -> None:
    functions = (("y", lambda record: 6 // record["x"]), ("z", lambda record: record["y"] + 1))
    results = run_hop(functions, [{"x": x} for x in xs])
    for x, (values, error, times) in zip(xs, results, strict=True):
        assert values == ([6 // x, 6 // x + 1] if x else [])
        assert (error is not None) == (x == 0)
        assert times == sorted(times)
        assert len(times) == len(values) + 1 + (error is not None)
