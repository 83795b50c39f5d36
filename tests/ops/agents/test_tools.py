"""How tools are described, and what of a call is refused before anything runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import InputError, Pipeline
from sage.engines.base import ToolCall
from sage.ops import Tool, Toolbox, generate, template, tool
from sage.ops.agents.calling import as_call
from sage.ops.agents.tools import Call

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@dataclass
class Place:
    x: int


def at(place: Place, again: Place | None = None) -> int:
    return place.x + (again.x if again else 0)


def forecast(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """What the sky will do.

    At length.

    Args:
        city: where.
        days (int): how far ahead.
    """
    return f"{city} {days} {unit}"


def test_a_function_is_described_by_its_signature_and_docstring() -> None:
    made = tool(forecast)
    assert (made.name, made.description) == ("forecast", "What the sky will do.")
    assert made.parameters["required"] == ["city"]
    assert made.parameters["properties"] == {
        "city": {"type": "string", "description": "where."},
        "days": {"type": "integer", "default": 1, "description": "how far ahead."},
        "unit": {"enum": ["C", "F"], "default": "C"},
    }


def test_a_function_gets_values_of_its_types() -> None:
    made = tool(at)
    assert made.run is not None
    assert made.fault({"place": {"x": 1}}) is None
    assert made.run({"place": {"x": 1}, "again": {"x": 2}}) == 3


def test_a_default_that_no_schema_can_show_stays_the_functions_own() -> None:
    def call(path: str, mode: Any = object) -> bool:
        return mode is object

    made = tool(call)
    assert made.run is not None
    assert made.run({"path": "x"}) is True


def test_a_pipeline_is_described_by_its_inputs() -> None:
    answer = Pipeline("ask", answer=generate("{question}", max_tokens="{most}"))
    made = tool(answer, description="Asks.", output="answer")
    assert made.parameters["properties"] == {"question": {"type": "string"}, "most": {"type": "integer"}}
    with pytest.raises(InputError, match="no step 'anser': did you mean 'answer'"):
        tool(answer, output="anser")


def test_a_definition_may_be_bare_or_openais() -> None:
    bare = {"name": "a", "description": "b", "parameters": {"type": "object", "properties": {}}}
    assert tool(bare) == tool({"type": "function", "function": bare})
    assert Toolbox("x", bare).definitions() == [{"type": "function", "function": bare}]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"name": ""}, "a tool's name is ''"),
        ({"name": "a", "parameters": {"type": "string"}}, '"type": "object"'),
        ({"name": "a", "parameters": {"type": "object", "requried": []}}, "did you mean 'required'"),
        (lambda *rest: rest, "takes \\*rest"),
    ],
)
def test_what_cannot_be_described_is_refused(made: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tool(made)


@pytest.mark.parametrize("name", ["timeout_s", "max_concurrency", "max_calls"])
def test_a_limit_is_above_zero(name: str) -> None:
    limit: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=name):
        tool(forecast, **limit)


def test_a_box_has_each_name_once() -> None:
    with pytest.raises(InputError, match="two tools 'forecast'"):
        Toolbox("x", forecast, forecast)
    assert list(Toolbox("x", forecast, tool(forecast, name="other"))) == ["forecast", "other"]


def test_an_allow_list_names_tools_of_the_box() -> None:
    with pytest.raises(InputError, match="did you mean 'forecast'"):
        Toolbox("x", forecast, allow=["forcast"])
    with pytest.raises(InputError, match="did you mean 'forecast'"):
        _ = Toolbox("x", forecast)["forcast"]


@pytest.mark.parametrize(
    ("call", "outcome", "says"),
    [
        (Call("forcast"), "unknown", "did you mean 'forecast'"),
        (Call("secret"), "refused", "not allowed"),
        (Call("described"), "refused", "only described"),
        (Call("forecast", {}), "invalid", "lacks 'city'"),
        (Call("forecast", {"city": 1}), "invalid", "expected string, got integer"),
        (Call("forecast", {"city": "x", "dayz": 1}), "invalid", "did you mean 'days'"),
        (Call("forecast", "city"), "invalid", "must be an object"),
        (Call("forecast", {"city": "x", "unit": "K"}), "invalid", "expected one of"),
    ],
)
def test_a_call_that_may_not_be_made_says_why(call: Call, outcome: str, says: str) -> None:
    box = Toolbox(
        "x", forecast, tool(forecast, name="secret"), {"name": "described"}, allow=["forecast", "described"]
    )
    refusal = box.refusal(call)
    assert refusal is not None
    assert refusal.outcome == outcome
    assert says in refusal.text


def test_a_good_call_may_be_made() -> None:
    assert Toolbox("x", forecast).refusal(Call("forecast", {"city": "x"})) is None


@given(name=st.text(), arguments=ANYTHING)
def test_nothing_that_a_model_writes_breaks_the_check(name: str, arguments: Any) -> None:
    refusal = Toolbox("x", forecast).refusal(Call(name, arguments))
    assert refusal is None or refusal.outcome in {"unknown", "invalid"}


@given(said=ANYTHING)
def test_any_value_can_be_read_as_a_call(said: Any) -> None:
    assert isinstance(as_call(said).tool, str)


@given(
    name=st.text(min_size=1),
    arguments=st.dictionaries(st.text(), ANYTHING, max_size=3),
    form=st.integers(0, 4),
)
def test_a_call_is_read_in_every_form_that_models_write(
    name: str, arguments: dict[str, Any], form: int
) -> None:
    said: Any = [
        {"tool": name, "arguments": arguments},
        {"name": name, "parameters": arguments},
        {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}},
        ToolCall(name, json.dumps(arguments)),
        Call(name, arguments),
    ][form]
    assert as_call(said) == Call(name, arguments)


def test_a_pipeline_of_templates_is_a_tool_too() -> None:
    made = tool(Pipeline("hello", line=template("Hello {name}")))
    assert isinstance(made, Tool)
    assert made.parameters["required"] == ["name"]
