"""Files of lines, as they are or gzipped: whoever reads ``events.jsonl`` finds ``events.jsonl.gz`` as well."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["is_there", "open_lines", "pack", "packed", "sha256_of"]

_CHUNK_BYTES = 1 << 20


def packed(path: Path) -> Path:
    """The name of a file once it is gzipped.

    >>> packed(Path("run/events.jsonl")).name
    'events.jsonl.gz'
    """
    return path.with_name(f"{path.name}.gz")


def is_there(path: Path) -> bool:
    """Whether there is a file, gzipped or not."""
    return path.exists() or packed(path).exists()


@contextmanager
def open_lines(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file to read, or what it holds where only its gzipped form is there.

    Raises:
        OSError: neither is there, or it cannot be read; EOFError, ``zlib.error``: the gzipped form is damaged.
    """
    zipped = packed(path)
    if path.exists() or not zipped.exists():
        with path.open("rb") as file:
            yield file
    else:
        with gzip.open(zipped, "rb") as file:
            yield file


def sha256_of(path: Path) -> str:
    """The SHA-256 of what a file holds: the same whether it is gzipped or not."""
    digest = hashlib.sha256()
    with open_lines(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def pack(path: Path) -> None:
    """Put the gzipped form of a file in its place; the same content gives the same bytes."""
    content = gzip.compress(path.read_bytes(), compresslevel=9, mtime=0)
    draft = path.with_name(f".{path.name}.gz")
    draft.write_bytes(content)
    draft.replace(packed(path))
    path.unlink()
