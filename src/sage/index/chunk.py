"""Documents into passages: cut at headings, then between sentences, never losing a word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sage.errors import InputError
from sage.graph.values import Passage
from sage.index.markup import Block, Form, find_blocks

__all__ = ["Chunk", "Chunking", "Document", "chunk_document", "count_words", "split_text"]

_WIDE = r"\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"  # scripts written without spaces
_PIECE = re.compile(rf"[{_WIDE}]|[^\s{_WIDE}]{{1,12}}")
_WORD = re.compile(r"\S+")
_CLOSERS = r"\"'\u201d\u2019)\]"
_BOUNDARY = re.compile(
    rf"(?P<stop>(?<![.!?\u2026])[.!?\u2026]++[{_CLOSERS}]*+)\s+"  # a sentence ends
    r"|(?P<wide>[\u3002\uff01\uff1f]++[\u300d\u300f\u201d]*+)"  # the same, in Chinese and Japanese
    r"|(?P<item>\n(?=[ \t]*(?:[-*+\u2022|]|\d{1,3}[.)])[ \t]?))"  # a list item or a table row begins
)
_OPENERS = "(\"'[\u2018\u201c"
_NO_END = re.compile(  # words before a dot that ends no sentence: abbreviations and initials
    r"[^\W\d_]|al|approx|ca|cf|co|corp|dr|e\.g|eg|etc|fig|i\.e|ie|inc|jr|ltd|mrs?|ms|nos?|pp|prof|sr|st|vol|vs"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How big passages are. Twelve characters, or a Chinese or Japanese one, count as a word at most."""

    target_words: int = 160  # a passage is closed when the next sentence would pass this
    max_words: int = 220  # nothing is longer; a section or code block up to this is kept whole
    overlap_words: int = 30  # of whole sentences repeated from the passage before

    def __post_init__(self) -> None:
        if not 0 < self.target_words <= self.max_words:
            raise InputError(
                f"chunking: target_words is {self.target_words} and max_words {self.max_words}; "
                "expected 0 < target_words <= max_words"
            )
        if not 0 <= self.overlap_words < self.target_words:
            raise InputError(
                f"chunking: overlap_words is {self.overlap_words}, expected 0 or more and fewer than "
                f"target_words ({self.target_words})"
            )


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be cut into passages.

    Its passages are called ``id#1``, ``id#2`` …; a document that makes one passage passes its id on, unless
    it is ``numbered``. The title is the given one, else a first heading of the highest level.
    """

    id: str
    text: str
    title: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    form: Form = "text"
    numbered: bool = False  # number even a single passage: for files, which grow


class Chunk(NamedTuple):
    """One passage to be: a slice of the source, and the headings it stands under, outermost first."""

    start: int
    end: int
    headings: tuple[str, ...]


class _Unit(NamedTuple):
    """What is not cut: a sentence, a list item, a code block."""

    start: int
    end: int
    num_words: int
    prose: bool


class _Section(NamedTuple):
    headings: tuple[str, ...]
    blocks: list[Block]


def chunk_document(document: Document, chunking: Chunking | None = None) -> list[Passage]:
    r"""The passages of a document, in its order; none for a blank one.

    A passage's title is the document's title and the headings above it, joined by `` > ``.

    >>> guide = Document("guide", "# Guide\n\n## Install\n\nType it. Wait.", form="markdown")
    >>> [(passage.id, passage.title, passage.text) for passage in chunk_document(guide)]
    [('guide', 'Guide > Install', 'Type it. Wait.')]
    """
    chunks = split_text(document.text, document.form, chunking)
    numbered = document.numbered or len(chunks) > 1
    return [
        Passage(
            id=f"{document.id}#{number}" if numbered else document.id,
            text=document.text[start:end],
            title=" > ".join(_title_path(document.title, headings)),
            meta=document.meta,
        )
        for number, (start, end, headings) in enumerate(chunks, 1)
    ]


def split_text(text: str, form: Form = "text", chunking: Chunking | None = None) -> list[Chunk]:
    """Cut a text. Every character that is no space and no heading is in a chunk, in order, overlaps apart.

    A section without text of its own and without sections in it gives a chunk of its heading.
    """
    sizes = chunking or Chunking()
    chunks: list[Chunk] = []
    for headings, blocks in _sections(find_blocks(text, form)):
        units = [unit for block in blocks for unit in _units(text, block, sizes)]
        chunks.extend(
            Chunk(units[first].start, units[last - 1].end, headings) for first, last in _pack(units, sizes)
        )
    return chunks


def count_words(text: str) -> int:
    """The size of a text in the words of :class:`Chunking`."""
    return sum(1 for _ in _PIECE.finditer(text))


def _title_path(title: str, headings: tuple[str, ...]) -> Iterator[str]:
    if title and title not in headings[:1]:
        yield title
    yield from headings


def _sections(blocks: Sequence[Block]) -> Iterator[_Section]:
    path: list[Block] = []
    body: list[Block] = []
    for position, block in enumerate(blocks):
        if block.kind != "heading":
            body.append(block)
            continue
        if body:
            yield _Section(_names(path), body)
            body = []
        path = [*(above for above in path if above.level < block.level), block]
        after = blocks[position + 1] if position + 1 < len(blocks) else None
        if after is None or (after.kind == "heading" and after.level <= block.level):
            yield _Section(_names(path[:-1]), [block])
    if body:
        yield _Section(_names(path), body)


def _names(path: Sequence[Block]) -> tuple[str, ...]:
    return tuple(heading.text for heading in path)


def _units(text: str, block: Block, sizes: Chunking) -> Iterator[_Unit]:
    """A block as units of at most ``max_words``."""
    prose = block.kind == "prose"
    whole = (block.start, block.end)
    for start, end in _sentences(text, *whole) if prose else (whole,):
        num_words = count_words(text[start:end])
        if num_words <= sizes.max_words:
            yield _Unit(start, end, num_words, prose)
            continue
        lines = [(start, end)] if prose else _code_lines(text, start, end)
        for line_start, line_end in lines:
            yield from _cut(text, line_start, line_end, sizes, prose=prose)


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The sentences, list items and table rows of a stretch of prose, without the space around them."""
    at = start
    for match in _BOUNDARY.finditer(text, start, end):
        if match["stop"] and not _ends_sentence(text, at, match.end("stop"), match.end()):
            continue
        stop = match.start() if match["item"] else max(match.end("stop"), match.end("wide"))
        if text[at:stop].strip():
            yield at, stop
            at = match.end()
    if text[at:end].strip():
        yield at, end


def _ends_sentence(text: str, at: int, stop: int, after: int) -> bool:
    """Whether the punctuation before ``stop`` ends a sentence rather than an abbreviation or an initial."""
    if after < len(text) and text[after].islower():
        return False
    if text[stop - 1] != ".":
        return True
    word = text[max(at, stop - 12) : stop - 1].rpartition(" ")[2].lstrip(_OPENERS).lower()
    return _NO_END.fullmatch(word) is None


def _code_lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for line in text[start:end].splitlines(keepends=True):
        body = line.rstrip()
        if body:
            yield start, start + len(body)
        start += len(line)


def _cut(text: str, start: int, end: int, sizes: Chunking, *, prose: bool) -> Iterator[_Unit]:
    """An over-long sentence or line, at its spaces; an over-long word, anywhere."""
    first, num_words, stop = start, 0, start
    for part_start, part_end in _word_spans(text, start, end, sizes.target_words):
        size = count_words(text[part_start:part_end])
        if num_words and num_words + size > sizes.target_words:
            yield _Unit(first, stop, num_words, prose)
            first, num_words = part_start, 0
        num_words += size
        stop = part_end
    if num_words:
        yield _Unit(first, stop, num_words, prose)


def _word_spans(text: str, start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    for word in _WORD.finditer(text, start, end):
        if count_words(word[0]) <= most:
            yield word.span()
        else:
            yield from (piece.span() for piece in _PIECE.finditer(text, *word.span()))


def _pack(units: Sequence[_Unit], sizes: Chunking) -> list[tuple[int, int]]:
    """Runs of units, as ranges of their positions, each at most ``max_words`` long."""
    if not units:
        return []
    if sum(unit.num_words for unit in units) <= sizes.max_words:
        return [(0, len(units))]
    runs: list[tuple[int, int]] = []
    first = fresh = num_words = 0
    for position, unit in enumerate(units):
        if position > fresh and num_words + unit.num_words > sizes.target_words:
            runs.append((first, position))
            first = _overlap(units, fresh + 1, position, sizes)
            num_words = sum(again.num_words for again in units[first:position])
            fresh = position
        num_words += unit.num_words
    tail = sum(unit.num_words for unit in units[fresh:])
    if runs and tail * 4 < sizes.target_words:
        joined = runs[-1][0]
        if sum(unit.num_words for unit in units[joined:]) <= sizes.max_words:
            return [*runs[:-1], (joined, len(units))]
    return [*runs, (first, len(units))]


def _overlap(units: Sequence[_Unit], lowest: int, position: int, sizes: Chunking) -> int:
    """Where the passage that continues at ``position`` begins, so that it repeats whole sentences only."""
    room = min(sizes.overlap_words, sizes.target_words - units[position].num_words)
    while position > lowest and units[position - 1].prose and units[position - 1].num_words <= room:
        position -= 1
        room -= units[position].num_words
    return position
