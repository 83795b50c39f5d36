"""Cutting texts into passages."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.index.chunk import Chunking, Document, chunk_document, count_words, split_text
from sage.index.markup import Form, find_blocks

SMALL = Chunking(target_words=8, max_words=12, overlap_words=3)

forms = st.sampled_from(["text", "markdown", "rst"])
sizes = st.builds(
    lambda target, more, overlap: Chunking(
        target_words=target, max_words=target + more, overlap_words=min(overlap, target - 1)
    ),
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(0, 10),
)
lines = st.sampled_from(
    ["# One", "## Two", "Three", "=====", "-----", "```", "    code = 1", ">>> f(x)", "- item", "| a | b |", "",
     "", "A sentence. Another one! A third?", "e.g. this Mr. Smith. And so on", "漢字。かな。", "x" * 70, "* * *"]
)  # fmt: skip
texts = st.one_of(st.lists(lines, max_size=30).map("\n".join), st.text(max_size=300))


def chunks_of(text: str, form: Form = "text", chunking: Chunking = SMALL) -> list[str]:
    return [text[start:end] for start, end, _ in split_text(text, form, chunking)]


@given(texts, forms, sizes)
def test_no_character_is_lost(text: str, form: Form, chunking: Chunking) -> None:
    covered = bytearray(len(text))
    for start, end, _ in split_text(text, form, chunking):
        covered[start:end] = b"1" * (end - start)
    headings = [block for block in find_blocks(text, form) if block.kind == "heading"]
    named = {name for chunk in split_text(text, form, chunking) for name in chunk.headings}
    for heading in headings:
        assert heading.text in named or covered[heading.start]
        covered[heading.start : heading.end] = b"1" * (heading.end - heading.start)
    assert not [
        letter for letter, seen in zip(text, covered, strict=True) if not seen and not letter.isspace()
    ]


@given(texts, sizes)
def test_every_word_of_a_plain_text_is_in_a_passage(text: str, chunking: Chunking) -> None:
    short = {word for word in text.split() if len(word) <= 32 and word.isascii()}
    found = {word for chunk in chunks_of(text, "text", chunking) for word in chunk.split()}
    if chunking.target_words >= 3:  # a sentence of one word more may be cut at its marks
        assert short <= found


@given(texts, forms, sizes)
def test_no_passage_is_too_long_or_blank(text: str, form: Form, chunking: Chunking) -> None:
    for chunk in chunks_of(text, form, chunking):
        assert chunk.strip()
        assert count_words(chunk) <= chunking.max_words


@given(texts, forms, sizes)
def test_passages_come_in_order_and_each_says_something_new(
    text: str, form: Form, chunking: Chunking
) -> None:
    spans = [(start, end) for start, end, _ in split_text(text, form, chunking)]
    assert spans == sorted(spans)
    assert all(later[1] > earlier[1] for earlier, later in pairwise(spans))


def test_a_passage_ends_with_a_sentence() -> None:
    text = "One two three four. Five six seven eight. Nine ten eleven twelve! Thirteen fourteen?"
    assert chunks_of(text, chunking=Chunking(target_words=8, max_words=8, overlap_words=0)) == [
        "One two three four. Five six seven eight.",
        "Nine ten eleven twelve! Thirteen fourteen?",
    ]


def test_sentences_overlap_whole() -> None:
    text = "One two three four five. Six seven. Eight nine ten eleven. Twelve thirteen fourteen."
    first, second = chunks_of(text)[:2]
    assert first.endswith("Six seven.")
    assert second.startswith("Six seven. Eight")


@pytest.mark.parametrize(
    "text",
    [
        "See Dr. Who and J. R. Smith now.",
        "It is e.g. Python here.",
        "Version 3.11 came.",
        "He said so. and left",
    ],
)
def test_an_abbreviation_does_not_end_a_sentence(text: str) -> None:
    assert chunks_of(text, chunking=Chunking(target_words=1, max_words=9, overlap_words=0)) == [text]


def test_chinese_sentences_end_without_a_space() -> None:
    text = "今天天气很好。我们去公园。"
    assert chunks_of(text, chunking=Chunking(target_words=7, max_words=7, overlap_words=0)) == [
        "今天天气很好。",
        "我们去公园。",
    ]


def test_a_section_that_fits_is_one_passage() -> None:
    text = "One two three four five six. Seven eight nine ten."
    assert chunks_of(text) == [text]


def test_a_code_block_that_fits_stays_whole() -> None:
    code = "```python\nx = 1\n\ny = 2\nz = x + y\n```"
    text = f"Before it stands some prose of words.\n\n{code}\n\nAfter it stands some more prose."
    assert any(
        code in chunk
        for chunk in chunks_of(text, "markdown", Chunking(target_words=9, max_words=14, overlap_words=0))
    )


def test_a_long_code_block_is_cut_between_lines() -> None:
    rows = [f"value_{number} = {number}" for number in range(12)]
    chunks = chunks_of("    " + "\n    ".join(rows))
    assert all(re.fullmatch(r"(\s*value_\d+ = \d+)+", chunk) for chunk in chunks)


def test_titles_are_heading_paths() -> None:
    text = "# Guide\n\nIntro.\n\n## Install\n\nType.\n\n### Linux\n\nApt.\n\n## Use\n\nRun."
    passages = chunk_document(Document("g.md", text, form="markdown", numbered=True))
    assert [(passage.id, passage.title) for passage in passages] == [
        ("g.md#1", "Guide"),
        ("g.md#2", "Guide > Install"),
        ("g.md#3", "Guide > Install > Linux"),
        ("g.md#4", "Guide > Use"),
    ]


def test_a_given_title_stands_before_other_headings_once() -> None:
    text = "# Guide\n\nIntro."
    titles = [
        chunk_document(Document("g", text, title=title, form="markdown"))[0].title
        for title in ("Guide", "Book")
    ]
    assert titles == ["Guide", "Book > Guide"]


def test_a_document_passes_its_id_and_metadata_on() -> None:
    (passage,) = chunk_document(Document("a", "Some words.", meta={"lang": "en"}))
    assert (passage.id, passage.meta) == ("a", {"lang": "en"})
    assert chunk_document(Document("b", " \n")) == []


def test_underlined_and_adorned_headings_are_found() -> None:
    markdown = find_blocks("One\n===\n\nText\n\nTwo\n---\n\n- a\n---", "markdown")
    assert [(block.text, block.level) for block in markdown if block.kind == "heading"] == [
        ("One", 1),
        ("Two", 2),
    ]
    rst = find_blocks("===\nTop\n===\n\nOne\n---\n\nText\n\nTwo\n---\n", "rst")
    assert [(block.text, block.level) for block in rst if block.kind == "heading"] == [
        ("Top", 1),
        ("One", 2),
        ("Two", 2),
    ]


def test_a_heading_inside_a_fence_is_code() -> None:
    blocks = find_blocks("```\n# no heading\n```\n# heading", "markdown")
    assert [block.kind for block in blocks] == ["code", "heading"]


@pytest.mark.parametrize("bad", [{"target_words": 0}, {"target_words": 300}, {"overlap_words": 160}])
def test_impossible_sizes_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match="chunking: "):
        Chunking(**bad)


def test_hostile_text_takes_linear_time() -> None:
    for text in (
        "." * 100_000,
        "#" * 100_000,
        "(" * 50_000 + ")" * 50_000,
        "a. " * 30_000,
        "`" * 50_000 + "\n",
    ):
        split_text(text, "markdown")
