"""An index on disk: written whole or not at all, opened by mapping its files into memory.

    docs.index/
        manifest.json              what it is, and the size and sha256 of every file
        data-0f3a…/                the files of this generation
            passages.jsonl         one passage a line; passages.npy: where each line begins
            vectors.npy            unit rows (absent: words only)
            graph.faiss            a graph over the vectors (only in large indexes that want one)
            terms.txt              sorted words; terms.npy: where each begins
            starts.npy rows.npy counts.npy lengths.npy    the inverted index

A first index is made beside its place and renamed into it. A save writes a new generation and then replaces
the manifest, which is what readers look at: they see the old index or the new one. One writer at a time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.clock import wall_time
from sage.errors import InputError, SetupError
from sage.index.blob import Blob
from sage.index.bm25 import BM25, Postings
from sage.index.hnsw import Graph, is_installed
from sage.index.manifest import MANIFEST, FileFacts, Manifest, corrupt, read_manifest
from sage.index.segment import Segment

__all__ = ["Facts", "Stored", "open_stored", "refuse_foreign", "write_stored"]

#: Files up to this size are hashed whenever an index is opened; larger ones when asked.
HASHED_BYTES = 8 * 2**20
_SMALL_BYTES = 64 * 2**10  # read rather than mapped
_CHUNK_BYTES = 2**20

#: The .npy files with their element type and number of axes.
_ARRAYS: Mapping[str, tuple[type[np.generic], int]] = {
    "passages.npy": (np.int64, 1),
    "vectors.npy": (np.float32, 2),
    "terms.npy": (np.int64, 1),
    "starts.npy": (np.int64, 1),
    "rows.npy": (np.int32, 1),
    "counts.npy": (np.int32, 1),
    "lengths.npy": (np.int32, 1),
}
_TEXTS = ("passages.jsonl", "terms.txt")
_GRAPH = "graph.faiss"  # bytes, as faiss writes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is kept beside the passages."""

    embedder: str | None  # address, without keys
    fingerprint: str | None
    bm25: BM25
    hnsw: int | None = None  # from how many passages on a graph over the vectors is made; None: never


class Stored(NamedTuple):
    """An index as read from disk."""

    manifest: Manifest
    segment: Segment


def open_stored(path: Path, *, verify: bool = False) -> Stored:
    """Open the index in a folder.

    Sizes, shapes and types are always checked, hashes for files up to 8 MiB; ``verify`` hashes all.

    Raises:
        InputError: no index there, or one this SAGE cannot read.
        SetupError: it is damaged.
    """
    while True:
        manifest = read_manifest(path)
        try:
            return Stored(manifest, _read_segment(path, manifest, verify=verify))
        except SetupError:
            if read_manifest(path).generation == manifest.generation:
                raise  # else it was saved anew while being read


def refuse_foreign(path: Path) -> Manifest | None:
    """The manifest at a place an index is to be written to, None when the place is free.

    Raises:
        InputError: something that is not an index stands there.
    """
    with suppress(NotADirectoryError):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return None
    return read_manifest(path)


def write_stored(path: Path, segment: Segment, facts: Facts, *, expected: str | None = None) -> Stored:
    """Write an index of one compact segment and open it.

    Args:
        path: its folder; an index there is replaced.
        segment: every row live.
        facts: what to keep beside.
        expected: the generation that is to be replaced, None: any.

    Raises:
        InputError: something else stands there, or another generation than expected.
        SetupError: it cannot be written.
    """
    before = refuse_foreign(path)
    if expected is not None and before is not None and before.generation != expected:
        raise InputError(
            f"index {str(path)!r} was changed by someone else since it was opened; open it again"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if before is None:
            beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            with _removed_on_failure(beside):
                _write_generation(beside, segment, facts)
                beside.rename(path)
        else:
            _write_generation(path, segment, facts)
            shutil.rmtree(path / before.generation, ignore_errors=True)
    except OSError as error:
        raise SetupError(f"index {str(path)!r} cannot be written: {error.strerror or error}") from error
    return open_stored(path)


def _write_generation(root: Path, segment: Segment, facts: Facts) -> None:
    """A new folder of files under ``root``, then the manifest that names it."""
    generation = f"data-{secrets.token_hex(8)}"
    folder = root / generation
    folder.mkdir(mode=0o700)
    with _removed_on_failure(folder):
        manifest = Manifest(
            generation=generation,
            created=wall_time(),
            count=len(segment),
            dimension=None if segment.vectors is None else int(segment.vectors.shape[1]),
            embedder=facts.embedder,
            fingerprint=facts.fingerprint,
            k1=facts.bm25.k1,
            b=facts.bm25.b,
            hnsw=facts.hnsw,
            files={name: _write(folder / name, data) for name, data in _contents(segment).items()},
        )
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        draft = folder / MANIFEST
        _write(draft, np.frombuffer(content, dtype=np.uint8), raw=True)
        draft.replace(root / MANIFEST)
    _flush_folder(root)


def _contents(segment: Segment) -> dict[str, NDArray[Any]]:
    postings = segment.postings
    contents: dict[str, NDArray[Any]] = {
        "passages.jsonl": segment.lines.data,
        "passages.npy": segment.lines.offsets,
        "terms.txt": postings.terms.data,
        "terms.npy": postings.terms.offsets,
        "starts.npy": postings.starts,
        "rows.npy": postings.rows,
        "counts.npy": postings.counts,
        "lengths.npy": postings.lengths,
    }
    if segment.vectors is not None:
        contents["vectors.npy"] = segment.vectors
    if segment.graph is not None:
        contents[_GRAPH] = segment.graph.data
    return contents


@dataclass
class _Hashing:
    """A file that hashes what is written to it."""

    file: BinaryIO
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        written = self.file.write(data)
        self.size_bytes += written
        return written


def _write(path: Path, data: NDArray[Any], *, raw: bool = False) -> FileFacts:
    """Write an array, as .npy unless it is text or ``raw``, safely on disk and for this user only."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        hashing = _Hashing(file)
        if raw or path.name in {*_TEXTS, _GRAPH}:
            for start in range(0, len(data), _CHUNK_BYTES):
                hashing.write(data[start : start + _CHUNK_BYTES].tobytes())
        else:
            np.lib.format.write_array(hashing, np.ascontiguousarray(data), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return FileFacts(hashing.size_bytes, hashing.sha256.hexdigest())


class _removed_on_failure:  # noqa: N801 - reads as a statement
    """Removes a folder when the block fails, Ctrl-C included."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_segment(path: Path, manifest: Manifest, *, verify: bool) -> Segment:
    """The files of a generation, mapped, after what can be checked quickly."""
    folder = path / manifest.generation
    wanted = {*_TEXTS, *_ARRAYS} - ({"vectors.npy"} if manifest.dimension is None else set())
    if manifest.dimension is not None and _GRAPH in manifest.files:
        wanted.add(_GRAPH)
    if set(manifest.files) != wanted:
        raise corrupt(path, f"{MANIFEST} lists the files {sorted(manifest.files)}, expected {sorted(wanted)}")
    for name, facts in manifest.files.items():
        _check_file(path, folder / name, facts, hashed=verify or facts.size_bytes <= HASHED_BYTES)
    try:
        arrays = {name: _load(folder / name) for name in wanted}
    except (OSError, ValueError, EOFError) as error:
        raise corrupt(path, str(error)) from error
    for name, (kind, axes) in _ARRAYS.items():
        if name in arrays and (arrays[name].dtype != kind or arrays[name].ndim != axes):
            raise corrupt(path, f"{name} holds {arrays[name].dtype} in {arrays[name].ndim} axes")
    postings = Postings(
        terms=Blob(arrays["terms.txt"], arrays["terms.npy"]),
        starts=arrays["starts.npy"],
        rows=arrays["rows.npy"],
        counts=arrays["counts.npy"],
        lengths=arrays["lengths.npy"],
    )
    lines = Blob(arrays["passages.jsonl"], arrays["passages.npy"])
    vectors = arrays.get("vectors.npy")
    if not _fits(manifest, lines, vectors, postings):
        raise corrupt(path, "its files do not fit each other")
    graph = Graph(arrays[_GRAPH]) if _GRAPH in arrays and is_installed() else None
    return Segment(lines, vectors, postings, live=np.ones(manifest.count, dtype=np.bool_), graph=graph)


def _check_file(path: Path, file: Path, facts: FileFacts, *, hashed: bool) -> None:
    try:
        size_bytes = file.stat().st_size
        if size_bytes != facts.size_bytes:
            raise corrupt(path, f"{file.name} has {size_bytes:,} bytes, expected {facts.size_bytes:,}")
        if hashed:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != facts.sha256:
                raise corrupt(
                    path, f"the sha256 of {file.name} begins {found[:12]}, expected {facts.sha256[:12]}"
                )
    except OSError as error:
        raise corrupt(path, f"{file.name}: {error.strerror or error}") from error


def _load(file: Path) -> NDArray[Any]:
    small = file.stat().st_size < _SMALL_BYTES
    if file.suffix == ".npy":
        loaded: NDArray[Any] = np.load(file, mmap_mode=None if small else "r", allow_pickle=False)
        return loaded.view(np.ndarray)
    if small:
        return np.frombuffer(file.read_bytes(), dtype=np.uint8)
    return np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)


def _fits(manifest: Manifest, lines: Blob, vectors: NDArray[Any] | None, postings: Postings) -> bool:
    starts = postings.starts
    return (
        lines.sound
        and postings.terms.sound
        and len(lines) == len(postings.lengths) == manifest.count
        and (vectors is None or vectors.shape == (manifest.count, manifest.dimension))
        and len(starts) == len(postings.terms) + 1
        and starts[0] == 0
        and starts[-1] == len(postings.rows) == len(postings.counts)
        and bool(np.all(starts[1:] >= starts[:-1]))
    )
