"""Steps that work on an answer while it is being written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from sage.graph.fields import Argument, field
from sage.graph.step import Step
from sage.ops.base import OPERATORS, Operator
from sage.ops.functions import bind_function, step

__all__ = ["parse_json", "sentences", "sentences_in"]

#: The end of a sentence: its mark, closing quotes or brackets, and the space behind; or an empty line.
_END = re.compile("(?<=[.!?\u2026])[\"'\u201d\u2019)\\]]*\\s+(?=\\S)|\\n\\s*\\n")


def sentences(of: str, /) -> Step:
    """The sentences of a text, each as soon as the next one begins. Its value is the list of them.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` followed by white space, or at an empty line; abbreviations
    are not known to it.

    Args:
        of: a field with text, such as a ``generate`` step, whose pieces are read as they come.
    """
    return _reading(split_sentences, of, "sentences")


def parse_json(of: str, /) -> Step:
    """JSON as far as it is written: after each piece that adds something, the value so far.

    Its value is the list of these; the last is the whole. Text before the first ``{`` or ``[`` is skipped.

    Args:
        of: a field with text, such as a ``generate`` step, whose pieces are read as they come.
    """
    return _reading(grow_json, of, "parse_json")


def _reading(function: Callable[..., Any], of: str, operator: str) -> Step:
    return replace(step(function, text="{" + str(field(of)) + "}"), operator=operator)


def _given(step: Step) -> Mapping[str, Argument]:
    return {"of": step.arguments["text"]}


async def split_sentences(text: AsyncIterator[str]) -> AsyncIterator[str]:
    """Cut pieces of text into sentences, without the white space between them."""
    rest = ""
    async for piece in text:
        rest += piece
        *whole, rest = _cut(rest)
        for sentence in whole:
            yield sentence
    for sentence in sentences_in(rest):
        yield sentence


def sentences_in(text: str) -> list[str]:
    """The sentences of a text that is there already."""
    return [found.strip() for found in _cut(text) if found.strip()]


def _cut(text: str) -> list[str]:
    """Sentences that are surely over, and what may still go on as the last item."""
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        closing = match[0].rstrip()
        sentence = (text[start : match.start()] + closing).strip()
        if sentence:
            found.append(sentence)
        start = match.end()
    return [*found, text[start:]]


async def grow_json(text: AsyncIterator[str]) -> AsyncIterator[Any]:
    """The JSON value so far, whenever it has grown."""
    import msgspec

    from sage.ops.partial_json import completed

    written = ""
    latest: Any = None
    async for piece in text:
        written += piece
        closed = completed(written)
        if closed is None:
            continue
        try:
            value = msgspec.json.decode(closed)
        except msgspec.DecodeError:
            continue
        if value != latest:
            latest = value
            yield value


OPERATORS["sentences"] = Operator("sentences", sentences, "of", bind_function, _given)
OPERATORS["parse_json"] = Operator("parse_json", parse_json, "of", bind_function, _given)
