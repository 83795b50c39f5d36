"""Steps that work on an answer while it is being written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from sage.graph.fields import field
from sage.graph.step import Step
from sage.ops.functions import step

__all__ = ["parse_json", "sentences"]

#: The end of a sentence: its mark, closing quotes or brackets, and the space behind; or an empty line.
_END = re.compile("(?<=[.!?\u2026])[\"'\u201d\u2019)\\]]*\\s+(?=\\S)|\\n\\s*\\n")


def sentences(of: str, /) -> Step:
    """The sentences of a text, each as soon as the next one begins. Its value is the list of them.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` followed by white space, or at an empty line; abbreviations
    are not known to it.

    Args:
        of: a field with text, such as a ``generate`` step, whose pieces are read as they come.
    """
    return step(split_sentences, text="{" + str(field(of)) + "}")


def parse_json(of: str, /) -> Step:
    """JSON as far as it is written: after each piece that adds something, the value so far.

    Its value is the list of these; the last is the whole. Text before the first ``{`` or ``[`` is skipped.

    Args:
        of: a field with text, such as a ``generate`` step, whose pieces are read as they come.
    """
    return step(grow_json, text="{" + str(field(of)) + "}")


async def split_sentences(text: AsyncIterator[str]) -> AsyncIterator[str]:
    """Cut pieces of text into sentences, without the white space between them."""
    rest = ""
    async for piece in text:
        rest += piece
        *whole, rest = _cut(rest)
        for sentence in whole:
            yield sentence
    for sentence in _cut(rest):
        if sentence.strip():
            yield sentence.strip()


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
