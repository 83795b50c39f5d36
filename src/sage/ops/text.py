"""Text out of fields."""

from __future__ import annotations

from typing import Any

from sage.graph.fields import getter, text
from sage.graph.plan import PlannedStep
from sage.graph.step import Step
from sage.graph.values import render
from sage.ops.base import OPERATORS, Context, Inline, Operator, Work

__all__ = ["template"]


def template(text_: str, /) -> Step:
    """Text with fields of the record put in.

    A str stands as it is, a list of str joined by blank lines, passages numbered ``[1] title: text``, None
    empty, anything else as JSON. Alone, ``"{x}"`` passes the value of x unchanged.

    >>> from sage import Pipeline
    >>> Pipeline("hello", greeting=template("Hello, {name}!"))(name="Ada")["greeting"]
    'Hello, Ada!'
    """
    body = text(text_)
    return Step(operator="template", arguments={"text": body}, gives=str if body.alone is None else Any)


def _bind(planned: PlannedStep, _context: Context) -> Work:
    return Inline(getter(planned.arguments["text"]))


def as_text(value: object) -> str:
    """A value as it stands in a prompt, for operators whose argument may be one whole field."""
    return value if isinstance(value, str) else render(value)


OPERATORS["template"] = Operator("template", template, "text", _bind)
