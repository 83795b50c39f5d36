from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.graph.schema import shape_of
from sage.graph.types import Missing, assignable, part_type


@dataclass
class Grade:
    score: float
    why: str = ""


class Person(TypedDict):
    name: str
    age: NotRequired[int]


class Place(NamedTuple):
    x: int
    y: int


class Point(msgspec.Struct):
    x: int
    tags: set[str] = set()


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Tool(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1)
    arguments: dict[str, int] = {}
    grades: list[Grade] = []


@dataclass
class Tree:
    label: str
    children: list[Tree]


class Forest(pydantic.BaseModel):
    trees: list[Forest] = []


GRADE = '{"score": 0.5, "why": "clear"}'


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        (Grade, GRADE, Grade(0.5, "clear")),
        (Grade, '{"score": 1}', Grade(1.0)),
        (Grade, f"\n ```json\n{GRADE}\n```\n", Grade(0.5, "clear")),
        (Grade, f"```\n{GRADE}```", Grade(0.5, "clear")),
        (Person, '{"name": "Ada"}', {"name": "Ada"}),
        (Place, "[1, 2]", Place(1, 2)),
        (Point, '{"x": 3, "tags": ["a", "a"]}', Point(3, {"a"})),
        (Colour, '"red"', Colour.RED),
        (Literal["yes", "no"], '"no"', "no"),
        (Tool, '{"name": "add", "arguments": {"a": 1}}', Tool(name="add", arguments={"a": 1})),
        (list[Tool], '[{"name": "add"}]', [Tool(name="add")]),
        (Tree, '{"label": "a", "children": [{"label": "b", "children": []}]}', Tree("a", [Tree("b", [])])),
        (list[str], '["a"]', ["a"]),
        (dict[str, float], '{"a": 1}', {"a": 1.0}),
        (int | None, "null", None),
        (str, '"text"', "text"),
        (bool, "true", True),
    ],
)
def test_an_answer_becomes_a_value_of_the_type(spec: Any, text: str, value: Any) -> None:
    assert shape_of(spec).parse(text) == value


@pytest.mark.parametrize(
    ("spec", "text", "says"),
    [
        (
            Grade,
            '{"score": "0.5"}',
            r"the answer is no Grade: Expected `float`, got `str` - at `\$.score`; got ",
        ),
        (Grade, '{"score": 0.5', "cut off"),
        (Grade, "The score is 1.", "malformed"),
        (Grade, f"{GRADE} and more", "trailing"),
        (Grade, "", "cut off"),
        (Literal["yes", "no"], '"maybe"', "maybe"),
        (Literal["yes", "no"], "yes", "malformed"),
        (Tool, '{"name": ""}', r"\$.name: String should have at least 1 character"),
        (Tool, '{"name": "a", "grades": [{"score": "x"}]}', r"\$.grades\[0\].score"),
        (list[Tool], '[{"name": 3}]', "no list"),
        ({"type": "array"}, "[" * 100_000, "nested too deeply"),
        (str, '"\ud800"', ""),
    ],
)
def test_an_answer_of_another_shape_is_refused_in_one_line(spec: Any, text: str, says: str) -> None:
    if text == '"\ud800"':
        assert shape_of(spec).parse(text) == "?"
        return
    with pytest.raises(InputError, match=says) as caught:
        shape_of(spec).parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_schema_of_a_type_is_self_contained_closed_and_complete() -> None:
    assert shape_of(Grade).json_schema == {
        "title": "Grade",
        "type": "object",
        "properties": {"score": {"type": "number"}, "why": {"type": "string"}},
        "required": ["score", "why"],
        "additionalProperties": False,
    }
    schema = shape_of(Tool).json_schema
    assert schema["required"] == ["name", "arguments", "grades"]
    assert schema["properties"]["grades"]["items"]["properties"]["score"]["type"] == "number"
    assert "$ref" not in str(schema)
    assert "uniqueItems" not in str(shape_of(Point).json_schema)


@pytest.mark.parametrize(("spec", "name"), [(Tree, "Tree"), (Forest, "Forest")])
def test_a_recursive_type_keeps_its_refs(spec: Any, name: str) -> None:
    schema = shape_of(spec).json_schema
    assert schema["type"] == "object"
    assert list(schema["$defs"]) == [name]
    assert f"#/$defs/{name}" in str(schema)
    assert schema["$defs"][name]["additionalProperties"] is False


@pytest.mark.parametrize(
    "spec", [5, None, Any, "Grade", Grade(1.0), len, object, list[object], list[Forest], {}]
)
def test_what_has_no_shape_is_refused(spec: Any) -> None:
    with pytest.raises(InputError, match="schema="):
        shape_of(spec)


def test_equal_specifications_give_equal_shapes() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    assert shape_of(dict(schema)) == shape_of(schema)
    assert shape_of(Grade) == shape_of(Grade)
    assert shape_of(Grade) != shape_of(Tool)
    assert hash(shape_of(Grade)) == hash(shape_of(Grade))


PLAN = {
    "type": "object",
    "properties": {
        "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1, "uniqueItems": True},
        "cost": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]},
        "kind": {"enum": ["short", "long"]},
        "note": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
    },
    "required": ["steps"],
    "additionalProperties": False,
    "$defs": {"step": {"type": "object", "properties": {"tool": {"type": "string"}}, "required": ["tool"]}},
}


def test_a_json_schema_gives_a_type_that_edges_can_be_checked_against() -> None:
    shape = shape_of(PLAN)
    assert part_type(shape.type, "kind") == Literal["short", "long"]
    assert assignable(part_type(shape.type, "steps"), list[dict[str, Any]])
    assert assignable(part_type(shape.type, "cost"), float | None)
    assert isinstance(part_type(shape.type, "kinds"), Missing)
    assert shape_of({"type": "array", "items": {"type": "integer"}}).type == list[int]
    assert shape_of({"enum": ["a", "b"]}).type == Literal["a", "b"]
    assert shape_of({"type": ["string", "null"]}).type == str | None


def test_a_json_schema_is_taken_as_written_with_its_refs_inlined() -> None:
    schema = shape_of(PLAN).json_schema
    assert schema["properties"]["steps"]["items"] == {
        "type": "object",
        "properties": {"tool": {"type": "string"}},
        "required": ["tool"],
    }
    assert schema["required"] == ["steps"]
    assert "$defs" not in schema


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"steps": []}', r"\$.steps: expected a number of items of at least 1, got 0"),
        ('{"steps": [{"tool": 1}]}', r"\$.steps\[0\].tool: expected string, got integer"),
        ('{"steps": [{}]}', r"\$.steps\[0\]: lacks 'tool'"),
        ('{"steps": [{"tool": "a"}, {"tool": "a"}]}', "stands twice"),
        ('{"cost": 1}', r"\$: lacks 'steps'"),
        ('{"steps": [{"tool": "a"}], "cost": -1}', r"\$.cost: fits none of 2 forms"),
        (
            '{"steps": [{"tool": "a"}], "kind": "huge"}',
            r"\$.kind: expected one of 'short', 'long', got 'huge'",
        ),
        ('{"steps": [{"tool": "a"}], "note": "A"}', "does not match"),
        ('{"steps": [{"tool": "a"}], "note": "abcdef"}', "length of at most 5, got 6"),
        ('{"steps": [{"tool": "a"}], "extra": 1}', "'extra' is not expected"),
        ("[]", r"\$: expected object, got array"),
    ],
)
def test_an_answer_against_a_json_schema_is_refused_with_its_path(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        shape_of(PLAN).parse(text)


def test_true_is_no_integer_and_one_is_not_true() -> None:
    with pytest.raises(InputError, match="expected integer, got boolean"):
        shape_of({"type": "integer"}).parse("true")
    with pytest.raises(InputError, match="expected one of True"):
        shape_of({"const": True}).parse("1")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "strin"}, "did you mean 'string'"),
        ({"type": "object", "propertis": {}}, "did you mean 'properties'"),
        ({"not": {"type": "string"}}, "keyword 'not' is not supported"),
        ({"type": "array", "items": "string"}, "'items' cannot be 'string'"),
        ({"anyOf": [3]}, r"\$.anyOf\[0\]: expected an object, got int"),
        ({"properties": []}, r"'properties' cannot be \[\]"),
        ({"type": "string", "maxLength": True}, "'maxLength' cannot be True"),
        ({"type": "string", "pattern": "("}, "is not valid"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"$ref": "https://example.org/schema"}, "names nothing"),
    ],
)
def test_a_json_schema_that_would_not_be_checked_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        shape_of(schema)


def test_a_recursive_json_schema_is_followed() -> None:
    shape = shape_of({"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False})
    assert shape.parse('{"next": {"next": {}}}') == {"next": {"next": {}}}
    with pytest.raises(InputError, match=r"\$.next.next: expected object"):
        shape.parse('{"next": {"next": 1}}')


def test_limits_of_annotated_types_are_kept() -> None:
    share = shape_of(Annotated[float, msgspec.Meta(ge=0, le=1)])
    assert share.json_schema == {"type": "number", "minimum": 0, "maximum": 1}
    with pytest.raises(InputError, match="<= 1"):
        share.parse("1.5")


@pytest.mark.parametrize(
    "spec", [Grade, Person, Place, Point, Colour, Tool, Tree, Forest, PLAN, list[Tool], int | None]
)
def test_the_embedded_engine_takes_every_schema(spec: Any) -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    assert xllamacpp.json_schema_to_grammar(dict(shape_of(spec).json_schema))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def schema_of(value: Any) -> dict[str, Any]:
    """A schema that the value satisfies, as tight as its types."""
    if isinstance(value, dict):
        properties = {name: schema_of(item) for name, item in value.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": [*value],
            "additionalProperties": False,
        }
    if isinstance(value, list):
        return {
            "type": "array",
            "prefixItems": [schema_of(item) for item in value],
            "items": False,
            "minItems": len(value),
        }
    return {"const": value}


@given(json_values)
def test_any_json_value_satisfies_a_schema_made_from_it(value: Any) -> None:
    text = msgspec.json.encode(value).decode()
    assert shape_of(schema_of(value)).parse(f"```json\n{text}\n```") == value


@given(json_values, json_values)
def test_another_value_does_not_satisfy_it(value: Any, other: Any) -> None:
    if (
        msgspec.json.encode(value, order="sorted") != msgspec.json.encode(other, order="sorted")
        and value != other
    ):
        with pytest.raises(InputError):
            shape_of(schema_of(value)).parse(msgspec.json.encode(other).decode())


@given(st.text())
def test_any_text_is_parsed_or_refused_never_worse(text: str) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(shape_of(Grade).parse(text), Grade)
