"""From steps to a plan: inputs, order, and every fault at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import Passage, Pipeline, PipelineError
from sage.errors import InputError
from sage.ops import embed, generate, register, search, step, template
from sage.ops.functions import FUNCTIONS

RAG = {
    "answer": generate("{prompt}", max_tokens=96),
    "prompt": template("{passages}\n\n{question}"),
    "passages": search("docs", near="vector", k=4),
    "vector": embed("{question}"),
}


def faults_of(build: Callable[[], Any]) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        build()
    return [str(fault) for fault in caught.value.faults]


def test_inputs_are_what_nobody_produces() -> None:
    assert Pipeline("rag", **RAG).inputs == {"question"}


def test_order_of_writing_does_not_matter() -> None:
    plan = Pipeline("rag", **RAG).plan
    assert [planned.name for planned in plan.steps] == ["vector", "passages", "prompt", "answer"]
    assert plan.step("prompt").after == ("passages",)
    assert plan.step("prompt").needs == ("passages", "question")


def test_every_fault_is_told_at_once() -> None:
    def grade(passages: list[str]) -> float:
        return float(len(passages))

    steps = {**RAG, "score": grade, "a": template("{b}"), "b": template("{a}"), "label": "news"}
    faults = faults_of(lambda: Pipeline("bad", **steps))  # type: ignore[arg-type]  # a fault is the point
    assert len(faults) == 3
    assert any("cycle" in fault and "'a'" in fault and "'b'" in fault for fault in faults)
    assert any(
        "list[str]" in fault and "list[Passage]" in fault and "'passages'" in fault for fault in faults
    )
    assert any("no step" in fault and "template" in fault for fault in faults)


def test_an_unknown_reference_names_the_nearest_field_once_inputs_are_declared() -> None:
    pipeline = Pipeline("p", line=template("{qestion}"))
    faults = faults_of(lambda: pipeline.with_inputs("question"))
    assert "did you mean 'question'?" in faults[0]


def test_a_step_that_needs_itself_is_a_cycle() -> None:
    assert "cycle" in faults_of(lambda: Pipeline("p", x=template("{x}")))[0]


def test_a_part_that_a_step_does_not_give_is_a_fault() -> None:
    faults = faults_of(
        lambda: Pipeline("p", hits=search("docs", text="{q}"), line=template("{hits[0].scor} …"))
    )
    assert "'score'" in faults[0]


def test_an_output_that_is_no_field_is_a_fault() -> None:
    assert "did you mean 'answer'?" in faults_of(lambda: Pipeline("rag", **RAG).outputs("anser"))[0]


def test_a_parameter_with_a_default_never_creates_an_input() -> None:
    def shorten(text: str, limit: int = 3) -> str:
        return text[:limit]

    pipeline = Pipeline("p", short=shorten)
    assert pipeline.inputs == {"text"}
    assert pipeline(text="abcdef")["short"] == "abc"


def test_a_parameter_with_a_default_binds_to_a_step_of_its_name() -> None:
    def shorten(text: str, limit: int = 3) -> str:
        return text[:limit]

    pipeline = Pipeline("p", short=shorten, limit=lambda text: len(text) - 1)
    assert pipeline(text="abcdef")["short"] == "abcde"


def test_a_declared_input_may_feed_a_default() -> None:
    def shorten(text: str, limit: int = 3) -> str:
        return text[:limit]

    pipeline = Pipeline("p", short=shorten).with_inputs("text", "limit")
    assert pipeline.inputs == {"text"}
    assert pipeline(text="abcdef", limit=1)["short"] == "a"
    assert pipeline(text="abcdef")["short"] == "abc"


def test_an_unused_binding_is_refused_with_the_nearest_parameter() -> None:
    with pytest.raises(InputError, match="did you mean 'limit'"):
        step(lambda text, limit: text[:limit], limt=3)


def test_pipelines_are_immutable() -> None:
    pipeline = Pipeline("p", line=template("{x}"))
    with pytest.raises(AttributeError, match="immutable"):
        pipeline.name = "q"  # type: ignore[misc]  # the point
    with pytest.raises(TypeError):
        pipeline.steps["more"] = template("y")  # type: ignore[index]  # the point
    assert pipeline.outputs("line") != pipeline


def test_a_passage_may_go_where_anything_goes() -> None:
    def first(hits: list[Passage]) -> str:
        return hits[0].id

    assert Pipeline("p", hits=search("docs", text="{q}"), top=first).inputs == {"q"}


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Acyclic graphs in any order of writing: step -> what it reads."""
    count = draw(st.integers(1, 12))
    reads = {
        f"s{number}": [f"s{other}" for other in range(number) if draw(st.booleans())]
        for number in range(count)
    }
    order = draw(st.permutations(list(reads)))
    return {name: reads[name] for name in order}


def summing(reads: list[str]) -> Any:
    """A step that joins what it reads."""
    return template("<" + "".join("{" + name + "}" for name in reads) + ">")


@given(graphs())
def test_every_acyclic_graph_gets_an_order_that_respects_it(reads: dict[str, list[str]]) -> None:
    plan = Pipeline("g", **{name: summing(needs) for name, needs in reads.items()}).plan
    place = {planned.name: number for number, planned in enumerate(plan.steps)}
    assert sorted(place) == sorted(reads)
    for name, needs in reads.items():
        assert all(place[need] < place[name] for need in needs)
        assert set(plan.step(name).after) == set(needs)


@given(graphs(), st.data())
def test_every_cycle_is_found(reads: dict[str, list[str]], data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(list(reads)))
    ancestors = Pipeline("g", **{name: summing(needs) for name, needs in reads.items()}).plan.ancestors(first)
    back = data.draw(st.sampled_from(sorted(ancestors | {first})))
    steps = {name: summing([*needs, first] if name == back else needs) for name, needs in reads.items()}
    assert "cycle" in faults_of(lambda: Pipeline("g", **steps))[0]


def test_a_plain_function_cannot_have_a_timeout_and_says_so_at_once() -> None:
    with pytest.raises(InputError, match="make it async"):
        step(lambda x: x).timeout(s=1)


def test_a_reference_inside_a_comparison_of_a_filter_is_refused() -> None:
    with pytest.raises(InputError, match="inside a comparison"):
        search("docs", text="{q}", where={"year": {"gte": "{since}"}})


def test_the_same_function_may_be_registered_again_and_another_may_not() -> None:
    def define(value: int) -> Callable[[int], int]:
        def graded(x: int) -> int:
            return x + value

        return graded

    def graded(x: int) -> int:
        return x

    register(define(1))
    again = register(define(2))
    assert FUNCTIONS["graded"] is again
    with pytest.raises(InputError, match="already registered"):
        register(graded)


def test_a_misspelt_input_says_what_to_rename() -> None:
    with pytest.raises(InputError, match="rename the record's field 'qestion' to 'question'"):
        Pipeline("p", line=template("Q: {question}"))(qestion="why?")


def test_a_second_fallback_is_refused_rather_than_dropped() -> None:
    with pytest.raises(InputError, match="a fallback of its own"):
        generate("{x}").fallback("backup").fallback("other")
