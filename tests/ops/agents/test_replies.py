"""What models write is read where it can be, and called unreadable where it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage import Pipeline
from sage.engines.base import GenerateRequest, Reply, ToolCall, Usage
from sage.ops import generate
from sage.ops.agents.replies import read_decision, read_json
from sage.ops.agents.tools import Call
from sage.testing import FakeEngine

JSON = st.dictionaries(
    st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), min_size=1, max_size=4
)


def said(text: str) -> Reply:
    return Reply(text, Usage())


@given(text=st.text())
def test_any_text_is_a_decision_or_a_fault(text: str) -> None:
    decision = read_decision(said(text))
    assert (decision.fault is None) == bool(decision.calls or decision.answer)


@given(
    value=JSON,
    before=st.sampled_from(["", "Sure! ", "<think>{hm</think>"]),
    after=st.sampled_from(["", " Done.", "\n```"]),
)
def test_json_is_found_among_prose(value: dict[str, Any], before: str, after: str) -> None:
    fence = "```json\n" if after == "\n```" else ""
    assert read_json(before + fence + json.dumps(value) + after) == value


@given(value=JSON, share=st.floats(0, 1))
@example(value={"[": 0}, share=0.5)
@example(value={"[": "\U00010000"}, share=0.75)
def test_cut_json_never_reads_as_what_was_not_written(value: dict[str, Any], share: float) -> None:
    text = json.dumps(value)
    found = read_json(text[: int(len(text) * share)])
    assert found is None or set(found) <= set(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"calls": [{"tool": "add", "arguments": {"a": 1}}], "answer": null}',
        '{"tool_calls": [{"function": {"name": "add", "arguments": "{\\"a\\": 1}"}}]}',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        '[{"name": "add", "parameters": {"a": 1}}]',
        'I shall add.\n{"name": "add", "arguments": {"a": 1}}',
    ],
)
def test_calls_are_read_in_the_forms_that_models_know(text: str) -> None:
    assert read_decision(said(text)).calls == (Call("add", {"a": 1}),)


def test_native_calls_come_first() -> None:
    reply = Reply("thinking", Usage(), "tool_calls", (ToolCall("add", '{"a": 1}', "7"),))
    assert read_decision(reply).calls == (Call("add", {"a": 1}, "7"),)


def test_a_number_is_an_answer_and_a_truth_value_is_none() -> None:
    assert read_decision(said('{"calls": [], "answer": 42}')).answer == "42"
    assert read_decision(said('{"calls": [], "answer": true}')).fault is not None


def test_a_schema_guides_a_reply_that_is_given_whole() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    engine = FakeEngine(answer=lambda request: "no JSON at all")
    pipeline = Pipeline("p", reply=generate("{q}", schema=schema, full=True))
    result = pipeline.run([{"q": "x"}], engines={"llm": engine})
    assert result.records[0]["reply"].text == "no JSON at all"
    asked = engine.requests[0]
    assert isinstance(asked, GenerateRequest)
    assert asked.schema == schema
