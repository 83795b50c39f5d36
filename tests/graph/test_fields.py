"""References in arguments: what is one, what it reads, and that data is never parsed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.graph.fields import Constant, Ref, Template, getter, parse_ref, scalar, text
from sage.graph.values import Passage

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
parts = st.one_of(names, st.integers(0, 99))
refs = st.builds(Ref, names, st.lists(parts, max_size=3).map(tuple))


@given(refs)
def test_a_reference_reads_back_as_it_was_written(ref: Ref) -> None:
    assert parse_ref(str(ref)) == ref == parse_ref("{" + str(ref) + "}")


@given(st.text())
def test_text_without_a_reference_stands_as_it_is(plain: str) -> None:
    template = Template(plain)
    if not template.references and "{{" not in plain:
        assert getter(template)({}) == plain


@given(st.text(), st.text(), st.text())
def test_values_are_put_in_literally(before: str, value: str, after: str) -> None:
    template = text(before.replace("{", "") + "{x} and " + after.replace("{", "").replace("}", ""))
    written = getter(template)({"x": value})
    assert written.startswith(before.replace("{", "") + value)


@pytest.mark.parametrize("data", ["{0.__class__}", "{{7*7}}", "{x}", "{y}", "${x}", "%(x)s", "{{x}}"])
def test_references_in_data_are_only_text(data: str) -> None:
    assert getter(text("say {x}!"))({"x": data, "y": "secret"}) == f"say {data}!"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("{}", "{}"),
        ("{ x }", "{ x }"),
        ("{{x}}", "{x}"),
        ("{x.__class__}", "{x.__class__}"),
        ("{_x}", "{_x}"),
        ("{x}{x}", "11"),
    ],
)
def test_only_names_and_parts_in_braces_are_references(written: str, read: str) -> None:
    assert getter(text(written))({"x": 1}) == read


def test_a_reference_alone_passes_the_value_unchanged() -> None:
    value = [Passage("a", "b")]
    assert getter(text("{hits}"))({"hits": value}) is value


@dataclass
class Answer:
    score: float

    def secret(self) -> str:
        raise AssertionError("called")


@pytest.mark.parametrize(
    ("ref", "value"),
    [("a.score", 0.5), ("m.key", 1), ("l[1]", "y"), ("l[1][0]", "y"), ("m.deep.key", 2), ("p.title", "t")],
)
def test_parts_read_fields_keys_and_items(ref: str, value: Any) -> None:
    record = {
        "a": Answer(0.5),
        "m": {"key": 1, "deep": {"key": 2}},
        "l": ["x", ["y"]] if ref == "l[1][0]" else ["x", "y"],
        "p": Passage("i", "x", title="t"),
    }
    assert getter(parse_ref(ref))(record) == value


@pytest.mark.parametrize("ref", ["a.secret", "a.scor", "l[7]", "m.kex", "l.count", "s.upper"])
def test_a_missing_part_is_a_clear_error_and_a_method_is_never_read(ref: str) -> None:
    record = {"a": Answer(0.5), "l": [1], "m": {"key": 1}, "s": "text"}
    with pytest.raises(InputError, match=r"\{"):
        getter(parse_ref(ref))(record)


@pytest.mark.parametrize("written", ["", "x y", "{x", "_x", "x._y", "x[a]", "1x"])
def test_what_is_no_reference_is_refused(written: str) -> None:
    with pytest.raises(InputError, match="no reference"):
        parse_ref(written)


def test_a_scalar_is_a_reference_only_in_braces() -> None:
    assert scalar("docs") == Constant("docs")
    assert scalar("{docs}") == Ref("docs")
    assert scalar("{docs} and more") == Constant("{docs} and more")
    assert scalar(4) == Constant(4)
