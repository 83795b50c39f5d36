"""Where streams begin: files, folders of documents, Python objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage.errors import InputError
from sage.stream.node import Node
from sage.stream.specs import Documents, Read, Records
from sage.stream.stream import Stream
from sage.stream.times import duration_us

__all__ = ["documents", "read", "records"]


def read(path: str | Path, format: str | None = None, *, follow: bool = False) -> Stream:  # noqa: A002 - the public word for it
    """The records of a file: .jsonl, .json, .csv, .tsv, .txt (a line a record, as ``text``), .parquet; "-" is standard input.

    A row that cannot be read is counted and told, with its line, and the stream goes on. ``follow`` waits for what
    is appended to a file of lines, until the stream is stopped.
    """
    from sage.stream.sources import check_read

    check_read(str(path), format, follow=follow)
    return Stream(Node(Read(path=str(path), format=format, follow=follow)))


def documents(path: str | Path, *, every: str | float | None = None) -> Stream:
    """The documents of a folder, or one file: a record each with ``id``, ``title``, ``text``, ``form``, and ``change``.

    Text, Markdown, reStructuredText, HTML, and PDF with the extra ``pdf``. With ``every`` the folder is looked at
    again so often, until the stream is stopped: ``change`` is "new", "changed" or "gone" (then the text is empty).
    """
    if every is not None and duration_us(every, "documents: every") == 0:
        raise InputError("documents: every is 0, expected a duration such as '2s'")
    return Stream(Node(Documents(path=str(path), every=every)))


def records(source: Any, /) -> Stream:
    """The records of an iterable, an async iterable, a Source, or a function that makes one of these.

    >>> records([{"x": 1}, {"x": None}]).map(y=lambda x: x).run(record=False).records
    [{'x': 1, 'y': 1}, {'x': None, 'y': None}]
    """
    from sage.stream.sources import check_records

    check_records(source)
    return Stream(Node(Records(source=source)))
