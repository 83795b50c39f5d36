"""What an index says of itself: ``manifest.json``, the first thing read and the last thing written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.errors import InputError, SetupError
from sage.index.tokens import RULE

__all__ = ["FORMAT_VERSION", "MANIFEST", "FileFacts", "Manifest", "corrupt", "read_manifest"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_GENERATION = re.compile(r"data-[0-9a-f]{16}")


class FileFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of ``manifest.json``."""

    format: Literal["sage-index"] = "sage-index"
    version: int = FORMAT_VERSION
    generation: str  # the folder with the files; every save makes a new one
    created: str  # UTC, ISO 8601
    count: int  # passages
    dimension: int | None  # of the vectors, None: words only
    embedder: str | None  # its address, without keys
    fingerprint: str | None
    hnsw: int | None = None  # from how many passages on a graph is made, None: never
    tokenizer: str = RULE
    k1: float
    b: float
    files: dict[str, FileFacts]


def corrupt(path: Path, what: str) -> SetupError:
    """The error about an index that is not as it was written."""
    return SetupError(
        f"index {str(path)!r} is damaged: {what}; restore it from a copy or build it again with sage index build"
    )


def read_manifest(path: Path) -> Manifest:
    """The manifest of the index in a folder.

    Raises:
        InputError: there is no index, or it is one that this SAGE cannot read.
        SetupError: the manifest is damaged, or may not be read.
    """
    try:
        content = (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_nothing_at(path)) from None
    except OSError as error:
        raise SetupError(f"index {str(path)!r} cannot be read: {error.strerror or error}") from error
    try:
        said: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise corrupt(path, f"{MANIFEST} is not JSON ({error})") from error
    if not isinstance(said, dict) or said.get("format") != "sage-index":
        raise InputError(f"{str(path)!r} holds a {MANIFEST} of something else, not an index of SAGE")
    version = said.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"index {str(path)!r} has format version {version}, this SAGE reads up to {FORMAT_VERSION}; "
            "upgrade SAGE, or build the index again"
        )
    try:
        manifest = msgspec.convert(said, Manifest)
    except msgspec.ValidationError as error:
        raise corrupt(path, f"{MANIFEST}: {error}") from error
    if manifest.version != FORMAT_VERSION or not _GENERATION.fullmatch(manifest.generation):
        raise corrupt(path, f"{MANIFEST} names version {version!r}, generation {manifest.generation!r}")
    if manifest.tokenizer != RULE:
        raise InputError(
            f"index {str(path)!r} splits words by {manifest.tokenizer!r}, this SAGE by {RULE!r}; "
            "build it again with sage index build"
        )
    return manifest


def _nothing_at(path: Path) -> str:
    build = f"sage index build DIR_OR_FILE --out {path}"
    if not path.exists():
        return f"no index at {str(path)!r}: there is no such folder; build one with: {build}"
    if not path.is_dir():
        return f"{str(path)!r} is a file; an index is a folder, made by: {build}"
    return f"{str(path)!r} is not an index: it has no {MANIFEST}; build one with: {build}"
