"""Folders and files of text into documents."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sage.errors import InputError
from sage.graph.values import Passage
from sage.index.chunk import Document
from sage.index.markup import Form, find_blocks
from sage.index.pages import html_page, pdf_page

__all__ = ["SUFFIXES", "Corpus", "list_files", "read_corpus", "read_document"]

_FORMS: Mapping[str, Form] = {".txt": "text", ".md": "markdown", ".markdown": "markdown", ".rst": "rst"}
_HTML = (".html", ".htm")
_PDF = ".pdf"
_ROWS = ".jsonl"
_HEAD_CHARS = 4000  # where a document's first heading is looked for

#: What is read.
SUFFIXES = (*_FORMS, *_HTML, _PDF, _ROWS)


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was found: documents in the order of their paths, and how many files they came from."""

    items: list[Document | Passage]
    num_files: int
    num_skipped: int  # files of other kinds, which were left alone


def read_corpus(path: str | Path) -> Corpus:
    """The text of a file, or of every file of a known kind in a folder and the folders below it.

    Text (.txt), Markdown (.md, .markdown), reStructuredText (.rst), HTML (.html, .htm) and PDF (.pdf, with the extra
    ``pdf``) files are a document each, named by their path in the folder, parts joined by ``/``. A .jsonl file has an object a line with ``text``, and perhaps
    ``title``, ``meta`` (an object) and ``id``, by default ``path:line``; with ``pid`` for ``id`` the row is a
    passage already and is never cut. Other keys become metadata. Names that begin with a dot are left out, and
    so are links, unless they lead out of the folder: then nothing is read at all.

    Raises:
        InputError: no such path, a file that cannot be read or is not UTF-8, a broken row (with its line and
            column), an id that repeats, or no text anywhere.
    """
    root = Path(path)
    if root.is_dir():
        files, num_skipped = list_files(root)
        named = [(file, file.relative_to(root).as_posix()) for file in files]
    elif root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise InputError(f"{str(root)!r} is of no known kind; expected {', '.join(SUFFIXES)}")
        named, num_skipped = [(root, root.name)], 0
    else:
        raise InputError(f"cannot read {str(root)!r}: there is no such file or folder")
    items = [item for file, name in named for item in _read(file, name)]
    if not any(item.text.strip() for item in items):
        found = f"{len(named)} files of a known kind hold no text" if named else "no file of a known kind"
        raise InputError(
            f"nothing to index in {str(root)!r}: {found}; expected text in {', '.join(SUFFIXES)}"
        )
    _refuse_repeats(root, items)
    return Corpus(items, len(named), num_skipped)


def list_files(root: Path) -> tuple[list[Path], int]:
    """The files to read, sorted by path, and how many were of other kinds.

    Raises:
        InputError: a folder that cannot be read, or a link that leads out.
    """
    inside = root.resolve()
    files: list[Path] = []
    num_skipped = 0

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"cannot read folder {error.filename!r}: {error.strerror}") from error

    for folder, below, names in os.walk(root, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in (*below, *names):
            entry = Path(folder, name)
            if name.startswith("."):
                continue
            if entry.is_symlink():
                if not entry.resolve().is_relative_to(inside):
                    raise InputError(
                        f"{str(entry)!r} is a link that leads out of the folder, to {str(entry.resolve())!r}; "
                        "copy the file in, or remove the link"
                    )
            elif entry.is_file():
                known = entry.suffix.lower() in SUFFIXES
                num_skipped += not known
                files.extend([entry] if known else [])
    return sorted(files), num_skipped


def _read(file: Path, name: str) -> Iterator[Document | Passage]:
    if file.suffix.lower() == _ROWS:
        yield from _rows(_text(file), file, name)
    else:
        yield read_document(file, name)


def read_document(file: Path, name: str) -> Document:
    """The document in a file that is one, as told by its extension.

    Raises:
        InputError: it cannot be read, or is not what its name says.
        SetupError: it is a PDF and pypdf is not installed.
    """
    suffix = file.suffix.lower()
    if suffix == _PDF:
        page = pdf_page(_bytes(file), str(file))
        return Document(name, page.text, title=page.title or file.stem, form="text")
    text = _text(file)
    if suffix in _HTML:
        page = html_page(text)
        return Document(
            name, page.text, title=page.title or _title(file, page.text, "markdown"), form="markdown"
        )
    form = _FORMS[suffix]
    return Document(name, text, title=_title(file, text, form), form=form, numbered=True)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror or error}") from error


def _text(file: Path) -> str:
    try:
        return _bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(file)!r} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}; "
            "convert it, for instance with iconv"
        ) from error


def _title(file: Path, text: str, form: Form) -> str:
    """A document's name, unless its own first heading will say it better."""
    first = next(iter(find_blocks(text[:_HEAD_CHARS], form)), None)
    return "" if first is not None and first.kind == "heading" and first.level == 1 else file.stem


def _rows(text: str, file: Path, name: str) -> Iterator[Document | Passage]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _row(line, f"{str(file)!r}, line {number}", f"{name}:{number}")


def _row(line: str, where: str, default_id: str) -> Document | Passage:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
        json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, column {error.colno}: not JSON: {error.msg}") from error
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise InputError(f"{where}: \\u{half:04x} is half a character; the row was cut badly") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f'{where}: expected an object such as {{"text": "…"}}, got {type(row).__name__}')
    if "text" not in row:
        raise InputError(f'{where}: no "text"; got {", ".join(map(repr, row)) or "an empty object"}')
    text = _string(row.pop("text"), where, "text")
    title = _string(row.pop("title", None) or "", where, "title")
    meta = row.pop("meta", None) or {}
    if not isinstance(meta, dict):
        raise InputError(f'{where}: "meta" is {meta!r:.60}, expected an object')
    given = {key: row.pop(key) for key in ("pid", "id") if row.get(key) is not None}
    key, id_ = next(iter(given.items()), ("id", default_id))
    if not isinstance(id_, str | int) or isinstance(id_, bool) or id_ == "":
        raise InputError(f'{where}: "{key}" is {id_!r:.60}, expected a string or a whole number')
    if key == "pid":
        return Passage(str(id_), text, title=title, meta={**row, **meta})
    return Document(str(id_), text, title=title, meta={**row, **meta})


def _string(value: Any, where: str, key: str) -> str:
    if not isinstance(value, str):
        raise InputError(f'{where}: "{key}" is {value!r:.60}, expected a string')
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse_repeats(root: Path, items: list[Document | Passage]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InputError(f"two rows in {str(root)!r} have the id {item.id!r}; ids must differ")
        seen.add(item.id)
