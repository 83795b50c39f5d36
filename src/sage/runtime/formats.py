"""How files of records are written, told by name; and why one could not be opened, in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

from sage.errors import InputError, nearest

__all__ = ["DELIMITERS", "STANDARD", "Format", "cannot", "format_of"]

Format = Literal["jsonl", "json", "csv", "tsv"]

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
DELIMITERS = {"csv": ",", "tsv": "\t"}
STANDARD = "-"  # stands for standard input or output


def format_of(path: str | Path, format: str | None = None) -> Format:  # noqa: A002 - the public word for it
    """How a file is written: as said, else by its extension; standard input and output are JSON lines.

    >>> format_of("questions.csv"), format_of("-")
    ('csv', 'jsonl')

    Raises:
        InputError: an unknown format or extension.
    """
    if format is not None:
        if format not in (known := sorted(set(_FORMATS.values()))):
            raise InputError(f"unknown file format {format!r}: {nearest(format, known)}")
        return _FORMATS[f".{format}"]
    if str(path) == STANDARD:
        return "jsonl"
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"{path}: cannot tell the format from {suffix!r}; name it {', '.join(_FORMATS)}, or say the format"
        )
    return _FORMATS[suffix]


def cannot(do: str, path: Path, error: OSError) -> str:
    """The line that says why a file could not be read or written (``do``)."""
    if isinstance(error, FileNotFoundError) and do == "read":
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, siblings)
        return f"{path}: no such file" + (f"; {close}" if close.startswith("did") else "")
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such folder {str(path.parent)!r}; make it first"
    if isinstance(error, IsADirectoryError):
        return f"{path}: is a folder, expected a file"
    if isinstance(error, PermissionError):
        return f"{path}: no permission to {do} it"
    return f"{path}: cannot {do} it: {os.strerror(error.errno or errno.EIO)}"
