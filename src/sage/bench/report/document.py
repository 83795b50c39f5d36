"""What a report says, before it is a page or a paper: paragraphs, tables and figures of texts and values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from sage.bench.report.values import Shown
from sage.errors import InternalError

__all__ = [
    "Block",
    "Document",
    "Figure",
    "Paragraph",
    "Part",
    "Table",
    "Text",
    "prose",
    "sentence",
    "shown_in",
]

#: Text with values in it.
Text = tuple[str | Shown, ...]

#: Terms with digits that are no results.
TERMS = re.compile(r"\bp(?:50|90|95|99|999)\b|95 % |OpenAI|SHA-256|Qwen2\.5-3B|A100|BGE-large|\bPython 3\b")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences."""

    text: Text


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; ``key`` names it in references."""

    key: str
    caption: Text
    header: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    num_labels: int = 1  # columns from the left that name the row


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing: ``figures/KEY.svg``, ``.pdf`` and ``.png`` of the report."""

    key: str
    caption: Text
    alt: str  # what is seen, for whoever cannot see it


Block = Paragraph | Table | Figure


@dataclass(frozen=True, slots=True)
class Part:
    """What one experiment gives the report.

    Attributes:
        key: names it, and its section in the page.
        title: its heading.
        blocks: what is told of it.
        findings: its main results, a sentence each: for the abstract, the introduction and the discussion.
        limits: what a reader must not conclude.
        sources: folders and files it was made from.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    findings: tuple[Text, ...] = ()
    limits: tuple[Text, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    setup: tuple[Block, ...]
    parts: tuple[Part, ...]
    missing: tuple[tuple[str, str], ...]  # title, and the command that would make it
    abstract: tuple[Paragraph, ...]
    introduction: tuple[Paragraph, ...]
    discussion: tuple[Paragraph, ...]
    limitations: tuple[Paragraph, ...]
    future: tuple[Paragraph, ...]


def prose(template: str, values: Mapping[str, Shown | str] | None = None, /, **more: Shown | str) -> Text:
    """A text with values where its template has names in braces.

    Raises:
        InternalError: the template holds a digit that is no known term, lacks a value or has one too many; or a
            value that is given as text holds a digit.
    """
    given = {**(values or {}), **more}
    parts: list[str | Shown] = []
    used: set[str] = set()
    for literal, name, _spec, _conversion in Formatter().parse(template):
        if literal:
            parts.append(checked(literal))
        if name is not None:
            if name not in given:
                raise InternalError(f"{template!r} wants {name!r}, which it was not given")
            used.add(name)
            value = given[name]
            parts.append(checked(value) if isinstance(value, str) else value)
    if unused := sorted(given.keys() - used):
        raise InternalError(f"{template!r} does not say {unused[0]!r}, which it was given")
    return tuple(parts)


def checked(literal: str) -> str:
    """A text of ours, if no number is typed into it.

    Raises:
        InternalError: one is.
    """
    if re.search(r"\d", TERMS.sub("", literal)):
        raise InternalError(f"{literal!r} has a number in it that comes from no file")
    return literal


def cells(*row: Shown | str) -> tuple[Text, ...]:
    """A row of a table."""
    return tuple((checked(cell) if isinstance(cell, str) else cell,) for cell in row)


def shown_in(document: Document) -> Iterator[Shown]:
    """Every value that a document shows, in order."""
    for text in _texts(document):
        for part in text:
            if isinstance(part, Shown):
                yield part


def _texts(document: Document) -> Iterator[Text]:
    for blocks in (document.setup, *(part.blocks for part in document.parts)):
        yield from _of_blocks(blocks)
    for part in document.parts:
        yield from part.findings
        yield from part.limits
    for name in ("abstract", "introduction", "discussion", "limitations", "future"):
        yield from _of_blocks(getattr(document, name))


def _of_blocks(blocks: Sequence[Block]) -> Iterator[Text]:
    for block in blocks:
        match block:
            case Paragraph():
                yield block.text
            case Figure():
                yield block.caption
            case Table():
                yield block.caption
                for row in block.rows:
                    yield from row


def sentence(text: Text) -> Text:
    """A finding, which stands within a sentence elsewhere, as a sentence of its own.

    >>> sentence(("half of it is done",))
    ('Half of it is done', '.')
    """
    first, *others = text
    opening = first[0].upper() + first[1:] if isinstance(first, str) and first else first
    return (opening, *others, ".")
