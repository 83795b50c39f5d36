"""The documents of a folder as records, once or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

from sage.errors import InputError
from sage.graph.values import Record
from sage.index.corpus import SUFFIXES, list_files, read_document
from sage.stream.specs import Documents
from sage.stream.times import MICRO, duration_us

__all__ = ["watched"]

TOGETHER = 16  # documents handed on at once

#: What tells one state of a file from another.
Stamp = tuple[int, int]

Change = Literal["new", "changed", "gone"]


async def watched(spec: Documents, on_bad: Callable[[InputError], None]) -> AsyncIterator[list[Record]]:
    """What there is, then what changes. A document that cannot be read is told once for each state of it.

    Raises:
        InputError: there is no such folder or file.
    """
    root = Path(spec.path)
    await asyncio.to_thread(_check, root)
    every_s = None if spec.every is None else duration_us(spec.every, "every") / MICRO
    known: dict[str, Stamp] = {}
    while True:
        items: list[Record] = []
        for name, file, change in await asyncio.to_thread(_changes, root, known):
            try:
                items.append(await asyncio.to_thread(_record, name, file, change))
            except InputError as error:
                on_bad(error)
            if len(items) >= TOGETHER:
                yield items
                items = []
        if items:
            yield items
        if every_s is None:
            return
        await asyncio.sleep(every_s)


def _check(root: Path) -> None:
    if not root.exists():
        raise InputError(f"cannot read {str(root)!r}: there is no such file or folder")
    if root.is_file() and not _is_document(root):
        raise InputError(f"{str(root)!r} is no document; records of a file are read with read()")


def _changes(root: Path, known: dict[str, Stamp]) -> list[tuple[str, Path, Change]]:
    """What differs from what is known, which then is known."""
    files = [file for file in list_files(root)[0] if _is_document(file)] if root.is_dir() else [root]
    found: list[tuple[str, Path, Change]] = []
    there: set[str] = set()
    for file in files:
        name = file.relative_to(root).as_posix() if file != root else file.name
        try:
            status = file.stat()
        except FileNotFoundError:  # it went meanwhile
            continue
        there.add(name)
        stamp = (status.st_mtime_ns, status.st_size)
        if known.get(name) != stamp:
            found.append((name, file, "changed" if name in known else "new"))
            known[name] = stamp
    for name in [name for name in known if name not in there]:
        del known[name]
        found.append((name, root / name, "gone"))
    return found


def _record(name: str, file: Path, change: Change) -> Record:
    if change == "gone":
        return {"id": name, "title": "", "text": "", "form": "text", "change": change}
    found = read_document(file, name)
    return {"id": name, "title": found.title, "text": found.text, "form": found.form, "change": change}


def _is_document(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.suffix.lower() != ".jsonl"
