"""What notebooks show: complete, short, and nothing of the user's is markup."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from sage import Pipeline, stream
from sage.graph.html import table_html
from sage.ops import template

NASTY = '<script>alert(1)</script><img src=x onerror="alert(1)">"&\'</td></table>'
ALLOWED = frozenset(
    {
        "svg",
        "tbody",
        "style",
        "title",
        "tr",
        "thead",
        "marker",
        "path",
        "text",
        "caption",
        "td",
        "rect",
        "table",
        "th",
        "defs",
        "g",
        "div",
    }
)


class Seen(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def is_harmless(page: str) -> bool:
    seen = Seen(page)
    return seen.tags <= ALLOWED and not any(name.startswith("on") for name in seen.attributes)


texts = st.sampled_from([NASTY, "<b>", '" onclick="', "&lt;", "'", "a"]) | st.text(max_size=6)
values = st.none() | st.integers() | texts | st.lists(texts, max_size=2)


@given(st.lists(st.dictionaries(texts, values, max_size=3), max_size=3), texts)
def test_no_value_of_a_record_becomes_markup(records: list[dict[str, Any]], caption: str) -> None:
    assert is_harmless(table_html(records, caption))


def test_pipelines_streams_and_results_cannot_be_injected() -> None:
    pipeline = Pipeline(NASTY, line=template("{name}"))
    made = stream.records([{"name": NASTY, NASTY: 1}]).through(pipeline).named(NASTY)
    result = pipeline.run([{"name": NASTY}], record=False)
    for shown in (pipeline, made, result, made.run(record=False)):
        page = shown._repr_html_()
        assert is_harmless(page)
        assert "<script>" not in page


def test_a_table_is_short_and_says_what_it_leaves_out() -> None:
    page = table_html([{f"f{n}": n for n in range(15)}] * 25, "all")
    assert "all (5 more records, 3 more fields not shown)" in page
    assert page.count("<tr>") == 21


def test_vectors_none_and_odd_objects_are_named() -> None:
    page = table_html([{"v": np.zeros(3), "n": None, "o": object(), "t": "x" * 300}], "")
    assert "<td>vector of 3</td>" in page
    assert "<td>None</td>" in page
    assert "<td>&lt;object&gt;</td>" in page
    assert "x" * 199 + "…</td>" in page
