"""What a notebook shows of pipelines, streams and results: HTML in which everything of the user's is text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sage.graph.values import is_vector, render

__all__ = ["picture_html", "table_html"]

MAX_ROWS = 20
MAX_COLUMNS = 12
MAX_CHARACTERS = 200  # of a cell


def picture_html(svg: str) -> str:
    """An svg picture, scrolled where it is too wide."""
    return f'<div style="overflow-x:auto">{svg}</div>'


def table_html(records: Sequence[Mapping[str, Any]], caption: str) -> str:
    """The first records as a table, with what is left out said below it.

    >>> table_html([{"a": "<b>"}], "one")
    '<table><caption>one</caption><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    shown = records[:MAX_ROWS]
    fields = list(dict.fromkeys(name for record in shown for name in record))
    columns = fields[:MAX_COLUMNS]
    head = "".join(f"<th>{escape(str(name))}</th>" for name in columns)
    rows = [
        "".join(f"<td>{_cell(record[name]) if name in record else ''}</td>" for name in columns)
        for record in shown
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    left = [f"{len(records) - MAX_ROWS:,} more records"] if len(records) > MAX_ROWS else []
    left += [f"{len(fields) - MAX_COLUMNS} more fields"] if len(fields) > MAX_COLUMNS else []
    said = f"{caption} ({', '.join(left)} not shown)" if left else caption
    return (
        f"<table><caption>{escape(said)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(value: Any) -> str:
    if is_vector(value):
        return escape(f"vector of {value.size}")
    try:
        text = "None" if value is None else render(value)
    except Exception:  # noqa: BLE001 - any object of the user's may stand here; it is only looked at
        text = f"<{type(value).__name__}>"
    return escape(text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…")
