"""Pipelines inside pipelines, fan-out, branches, loops, races, and steps that may be left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import InputError, JobFailure, Pipeline, PipelineError, Session, StepDone
from sage.ops import each, first_of, loop, route, step, template

Flow = Callable[..., list[Any]]

shout = Pipeline("shout", loud=lambda text: text.upper(), line=template("{loud}!"))


def test_a_pipeline_is_a_step_and_its_value_its_record(flow: Flow) -> None:
    outer = Pipeline("outer", said=shout, quoted=template('"{said.line}"'))
    assert outer.inputs == {"text"}
    assert flow(outer, [{"text": "hi"}])[0]["quoted"] == '"HI!"'


def test_inputs_of_a_nested_pipeline_can_be_renamed(flow: Flow) -> None:
    outer = Pipeline("outer", said=shout.rename(text="{question}").when("asked"), asked=lambda question: True)
    assert flow(outer, [{"question": "hi"}])[0]["said"]["line"] == "HI!"


def test_outputs_of_a_nested_pipeline_are_what_is_seen() -> None:
    with pytest.raises(PipelineError, match="'loud'"):
        Pipeline("outer", said=shout.outputs("line"), quoted=template("{said.loud}!"))


def test_renaming_an_input_there_is_not_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'text'"):
        shout.rename(txt="{x}")


def test_pipelines_join_by_their_fields(flow: Flow) -> None:
    joined = shout | Pipeline("twice", double=template("{line} {line}"))
    assert joined.name == "shout|twice"
    assert flow(joined, [{"text": "a"}])[0]["double"] == "A! A!"


def test_joining_pipelines_that_make_the_same_field_is_a_fault() -> None:
    with pytest.raises(PipelineError, match="'line'"):
        _ = shout | Pipeline("other", line=template("{x} …"))


def test_each_gives_the_values_in_order(flow: Flow) -> None:
    pipeline = Pipeline("p", lengths=each("words", lambda word: len(word)))
    assert flow(pipeline, [{"words": ["a", "bbb", "cc"]}, {"words": []}]) == [
        {"words": ["a", "bbb", "cc"], "lengths": [1, 3, 2]},
        {"words": [], "lengths": []},
    ]


def test_each_reads_other_names_from_the_record_around_it(flow: Flow) -> None:
    pipeline = Pipeline("p", said=each("words", template("{greeting} {item}")))
    assert flow(pipeline, [{"words": ["a", "b"], "greeting": "hi"}])[0]["said"] == ["hi a", "hi b"]


def test_each_with_several_inputs_must_say_which_is_the_item() -> None:
    with pytest.raises(InputError, match='item="chunk"'):
        each("words", template("{a} {b}"))


def test_items_of_each_overlap_up_to_their_limit(flow: Flow) -> None:
    now = most = 0

    async def counted(item: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(3):
            await asyncio.sleep(0)
        now -= 1
        return -item

    pipeline = Pipeline("p", out=each("xs", counted, max_concurrency=3))
    assert flow(pipeline, [{"xs": list(range(10))}])[0]["out"] == [-x for x in range(10)]
    assert most == 3


def test_an_item_that_fails_ends_the_job_and_is_named(flow: Flow) -> None:
    result = flow(Pipeline("p", out=each("xs", lambda item: 1 / item)), [{"xs": [1, 0]}])[0]
    assert isinstance(result, JobFailure)
    assert "out[1]" in str(result.error)


def test_each_may_skip_items_that_fail(flow: Flow) -> None:
    pipeline = Pipeline("p", out=each("xs", lambda item: 1 / item, on_error="skip"))
    assert flow(pipeline, [{"xs": [1, 0, 2]}])[0]["out"] == [1, 0.5]


def test_each_over_text_is_refused_rather_than_taken_letter_by_letter(flow: Flow) -> None:
    result = flow(Pipeline("p", out=each("xs", lambda item: item)), [{"xs": "abc"}])[0]
    assert "needs a list" in str(result.error)


def test_each_over_something_that_is_no_list_is_a_fault_when_it_is_known() -> None:
    def count(text: str) -> int:
        return len(text)

    def half(item: int) -> float:
        return item / 2

    with pytest.raises(PipelineError, match="'xs'"):
        Pipeline("p", xs=count, out=each("xs", half))


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=5))
def test_each_in_each_equals_a_list_of_lists(lists: list[list[int]]) -> None:
    inner = Pipeline("inner", row=each("xs", lambda x: 2 * x))
    outer = Pipeline("outer", out=each("rows", inner, item="xs"))
    expected = [[2 * x for x in row] for row in lists]
    assert [record["row"] for record in outer(rows=lists)["out"]] == expected


def test_only_the_chosen_branch_runs(flow: Flow) -> None:
    ran: list[str] = []

    def branch(name: str) -> Callable[[str], str]:
        def run(text: str) -> str:
            ran.append(name)
            return f"{name} {text}"

        return run

    pipeline = Pipeline("p", out=route("{intent}", {"small talk": branch("talk")}, search=branch("search")))
    results = flow(pipeline, [{"intent": " search\n", "text": "x"}, {"intent": "small talk", "text": "y"}])
    assert [result["out"] for result in results] == ["search x", "talk y"]
    assert ran == ["search", "talk"]


def test_a_label_without_a_branch_fails_the_job_with_the_nearest(flow: Flow) -> None:
    result = flow(Pipeline("p", out=route("{intent}", search=shout)), [{"intent": "serch", "text": "x"}])[0]
    assert "did you mean 'search'" in str(result.error)


def test_the_default_branch_takes_every_other_label(flow: Flow) -> None:
    pipeline = Pipeline("p", out=route("{intent}", search=shout, default=template("no {text}")))
    assert flow(pipeline, [{"intent": "?", "text": "x"}])[0]["out"] == "no x"


counting = Pipeline("turn", more=lambda n: n + 1, done=lambda more: more >= 3)


def test_a_loop_carries_fields_from_turn_to_turn_until_it_is_over(flow: Flow) -> None:
    pipeline = Pipeline("p", out=loop(counting, until="done", carry={"n": "more"}))
    assert flow(pipeline, [{"n": 0}])[0]["out"] == {"n": 2, "more": 3, "done": True, "stopped": "until"}


def test_a_loop_stops_after_its_last_turn_and_says_so(flow: Flow) -> None:
    pipeline = Pipeline("p", out=loop(counting, until="done", carry={"n": "more"}, max_steps=2))
    result = flow(pipeline, [{"n": 0}])[0]["out"]
    assert (result["more"], result["stopped"]) == (2, "max_steps")


def test_a_loop_may_end_by_a_function_of_its_record(flow: Flow) -> None:
    pipeline = Pipeline("p", out=loop(counting, until=lambda more: more == 2, carry={"n": "more"}))
    assert flow(pipeline, [{"n": 0}])[0]["out"]["more"] == 2


@pytest.mark.parametrize(
    ("until", "carry"), [("don", {"n": "more"}), ("done", {"n": "mor"}), ("done", {"m": "more"})]
)
def test_a_loop_that_names_a_field_there_is_not_is_refused(until: str, carry: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"did you mean|choose from"):
        loop(counting, until=until, carry=carry)


def test_the_first_to_succeed_wins_and_the_others_are_cancelled(flow: Flow) -> None:
    ended: list[str] = []

    async def slow(x: int) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("slow")
        return "slow"

    async def bad(x: int) -> str:
        raise ValueError(x)

    async def quick(x: int) -> str:
        await asyncio.sleep(0)
        return "quick"

    assert flow(Pipeline("p", out=first_of(slow, bad, quick)), [{"x": 1}])[0]["out"] == "quick"
    assert ended == ["slow"]


def test_a_race_fails_only_when_all_fail(flow: Flow) -> None:
    pipeline = Pipeline("p", out=first_of(lambda x: 1 / 0, lambda x: {}[x]))
    assert isinstance(flow(pipeline, [{"x": 1}])[0], JobFailure)


def test_a_step_whose_condition_is_false_gives_none(flow: Flow) -> None:
    pipeline = Pipeline("p", y=step(lambda x: x + 1).when("wanted"), seen=lambda y: y)
    assert [r["seen"] for r in flow(pipeline, [{"x": 1, "wanted": False}, {"x": 1, "wanted": True}])] == [
        None,
        2,
    ]


def test_a_reader_of_an_optional_step_must_take_none() -> None:
    def count(x: str) -> int:
        return len(x)

    def half(y: int) -> float:
        return y / 2

    with pytest.raises(PipelineError, match=r"int \| None"):
        Pipeline("p", y=step(count).when("wanted"), z=half)


def test_a_failed_step_may_be_skipped_or_replaced(flow: Flow) -> None:
    pipeline = Pipeline("p", y=step(lambda x: 1 / x).on_error("skip"), z=step(lambda x: 1 / x).default(0.0))
    assert flow(pipeline, [{"x": 0}, {"x": 2}]) == [
        {"x": 0, "y": None, "z": 0.0},
        {"x": 2, "y": 0.5, "z": 0.5},
    ]


def test_a_body_is_tried_again_as_a_whole(flow: Flow) -> None:
    tries: list[int] = []

    def flaky(x: int) -> int:
        tries.append(x)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return x

    inner = Pipeline("inner", y=flaky)
    outer = Pipeline("outer", out=inner.rename(x="{x}").retry(3))
    assert flow(outer, [{"x": 1}])[0]["out"] == {"x": 1, "y": 1}


def test_events_name_steps_by_their_path() -> None:
    async def slowly(item: int) -> int:
        await asyncio.sleep(0)
        return item

    async def main() -> list[str]:
        inner = Pipeline("inner", y=slowly)
        pipeline = Pipeline("p", deep=inner.rename(item="{x}"), out=each("xs", slowly))
        async with Session() as session:
            events = session.events(pipeline, {"x": 1, "xs": [1, 2]})
            return [event.step async for event in events if isinstance(event, StepDone)]

    assert sorted(asyncio.run(main())) == ["deep", "deep.y", "out", "out[0]", "out[1]"]
