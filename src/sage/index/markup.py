"""The blocks of a text, Markdown or reStructuredText file: headings, prose and code, as slices of it."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["Block", "Form", "find_blocks"]

#: How a document marks its headings and code.
Form = Literal["text", "markdown", "rst"]

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(?:(={2,})|-{3,})[ \t]*\Z")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*\Z")
_NO_TITLE = re.compile(r"\s*(?:[-*+>|=]|\d{1,9}[.)]\s)")  # lists, quotes and tables are no setext titles
_CODE_INDENT = re.compile(r"(?: {4}|\t)|>>> ")


class Block(NamedTuple):
    """A stretch of whole lines of one kind."""

    kind: Literal["heading", "prose", "code"]
    start: int  # characters from the start of the source
    end: int
    level: int = 0  # of a heading, 1 is the highest
    text: str = ""  # of a heading, without its marks


class _Line(NamedTuple):
    start: int
    body: str  # without the line's end

    @property
    def blank(self) -> bool:
        return not self.body.strip()

    @property
    def end(self) -> int:
        return self.start + len(self.body)


def find_blocks(text: str, form: Form) -> list[Block]:
    r"""Every line that is not blank, in order, as a part of exactly one block.

    Plain text has no headings. Markdown has ``#`` and underlined ones and fenced code; reStructuredText has
    adorned ones, ranked by first appearance. Lines indented by four, and interpreter sessions, are code.

    >>> [(block.kind, block.text) for block in find_blocks("# Title\n\nSome prose.", "markdown")]
    [('heading', 'Title'), ('prose', '')]
    """
    lines = _lines(text)
    ranks: list[str] = []
    found: list[Block] = []
    at = 0
    while at < len(lines):
        if lines[at].blank:
            at += 1
            continue
        heading = _heading(lines, at, form, ranks)
        if heading is not None:
            block, at = heading
        elif form == "markdown" and _FENCE.match(lines[at].body):
            block, at = _fenced(lines, at)
        elif _CODE_INDENT.match(lines[at].body):
            block, at = _indented(lines, at)
        else:
            block, at = _prose(lines, at, form, ranks)
        found.append(block)
    return found


def _lines(text: str) -> list[_Line]:
    lines: list[_Line] = []
    start = 0
    for line in text.splitlines(keepends=True):
        lines.append(_Line(start, line.rstrip()))
        start += len(line)
    return lines


def _heading(lines: list[_Line], at: int, form: Form, ranks: list[str]) -> tuple[Block, int] | None:
    """The heading that begins at a line, and the line after it."""
    if form == "markdown":
        return _atx(lines, at) or _setext(lines, at)
    if form == "rst":
        return _adorned(lines, at, ranks)
    return None


def _atx(lines: list[_Line], at: int) -> tuple[Block, int] | None:
    line = lines[at]
    body = line.body.lstrip(" ")
    rest = body.lstrip("#")
    level = len(body) - len(rest)
    if not 1 <= level <= 6 or len(line.body) - len(body) > 3 or not rest[:1].isspace():
        return None
    title = rest.strip()
    unmarked = title.rstrip("#")
    if unmarked != title and unmarked[-1:].isspace():
        title = unmarked.rstrip()
    return (Block("heading", line.start, line.end, level, title), at + 1) if title else None


def _setext(lines: list[_Line], at: int) -> tuple[Block, int] | None:
    line = lines[at]
    if at + 1 >= len(lines) or _NO_TITLE.match(line.body) or _CODE_INDENT.match(line.body):
        return None
    mark = _SETEXT.match(lines[at + 1].body)
    if mark is None:
        return None
    return Block("heading", line.start, lines[at + 1].end, 1 if mark[1] else 2, line.body.strip()), at + 2


def _adorned(lines: list[_Line], at: int, ranks: list[str]) -> tuple[Block, int] | None:
    over = _ADORNMENT.match(lines[at].body)
    title = at + 1 if over else at
    if title + 1 >= len(lines) or lines[title].blank:
        return None
    under = _ADORNMENT.match(lines[title + 1].body)
    name = lines[title].body.strip()
    if under is None or _ADORNMENT.match(lines[title].body) or len(lines[title + 1].body) < len(name):
        return None
    if over and over[1] != under[1]:
        return None
    rank = under[1] * 2 if over else under[1]
    if rank not in ranks:
        ranks.append(rank)
    level = ranks.index(rank) + 1
    return Block("heading", lines[at].start, lines[title + 1].end, level, name), title + 2


def _fenced(lines: list[_Line], at: int) -> tuple[Block, int]:
    """A fenced block, up to its closing fence or the end of the file."""
    opening = _FENCE.match(lines[at].body)
    assert opening is not None
    fence = opening[1]
    for last in range(at + 1, len(lines)):
        closing = lines[last].body.strip()
        if closing.startswith(fence) and not closing.strip(fence[0]):
            return Block("code", lines[at].start, lines[last].end), last + 1
    return Block("code", lines[at].start, lines[-1].end), len(lines)


def _indented(lines: list[_Line], at: int) -> tuple[Block, int]:
    """Indented lines, over the blank ones between them; a session runs to its first blank line."""
    session = lines[at].body.startswith(">>>")
    last = at
    for number in range(at + 1, len(lines)):
        if lines[number].blank:
            if session:
                break
            continue
        if not session and not _CODE_INDENT.match(lines[number].body):
            break
        last = number
    return Block("code", lines[at].start, lines[last].end), last + 1


def _prose(lines: list[_Line], at: int, form: Form, ranks: list[str]) -> tuple[Block, int]:
    """Lines up to a blank one, a heading or a fence."""
    last = at
    for number in range(at + 1, len(lines)):
        body = lines[number].body
        if lines[number].blank or (form == "markdown" and (_FENCE.match(body) or _atx(lines, number))):
            break
        if form == "rst" and _adorned(lines, number, list(ranks)):
            break
        last = number
    return Block("prose", lines[at].start, lines[last].end), last + 1
