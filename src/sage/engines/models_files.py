"""Files of models on disk: hashed, counted, locked while they change, put in place in one move."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sage.errors import SetupError

__all__ = [
    "ModelFile",
    "Progress",
    "copy_hashed",
    "faults",
    "file_sha256",
    "ignore_progress",
    "locked",
    "place",
]

#: Called with how many bytes are there and how many there will be; None: not known.
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
LOCK = ".lock"
PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model, as it must be."""

    name: str  # below the model's folder, with "/"
    size_bytes: int
    sha256: str  # in hex


def ignore_progress(_done_bytes: int, _total_bytes: int | None) -> None:
    """A Progress for callers that show none."""


def faults(folder: Path, files: Iterable[ModelFile], *, hashed: bool) -> list[str]:
    """What is wrong with the files of a folder, a sentence each: sizes always, contents if ``hashed``."""
    found = []
    for file in files:
        path = folder / file.name
        try:
            size_bytes = path.stat().st_size
            if size_bytes != file.size_bytes:
                found.append(f"{path} has {size_bytes:,} bytes, expected {file.size_bytes:,}")
            elif hashed and (got := file_sha256(path)) != file.sha256:
                found.append(f"{path} has sha256 {got}, expected {file.sha256}")
        except FileNotFoundError:
            found.append(f"{path} is missing")
        except OSError as error:
            found.append(f"{path} cannot be read: {error.strerror}")
    return found


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_hashed(
    source: IO[bytes], folder: Path, name: str, limit_bytes: int, progress: Progress = ignore_progress
) -> ModelFile:
    """Write ``source`` to a new file below ``folder``, at most ``limit_bytes``, and say what was written."""
    target = folder / name
    digest = hashlib.sha256()
    size_bytes = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as out:
        while size_bytes < limit_bytes:
            chunk = source.read(min(CHUNK_BYTES, limit_bytes - size_bytes))
            if not chunk:
                break
            size_bytes += len(chunk)
            digest.update(chunk)
            out.write(chunk)
            progress(size_bytes, None)
    return ModelFile(name, size_bytes, digest.hexdigest())


def place(scratch: Path, folder: Path, files: Iterable[ModelFile]) -> None:
    """Move checked files from a scratch folder to their own, each in one step."""
    for file in files:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        (scratch / file.name).replace(target)


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """A scratch folder inside ``folder``, while no other thread or process has one there.

    Waits for its turn. What a killed download left is removed first.

    Raises:
        SetupError: the folder cannot be written, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob(f"{PARTIAL}*"):
                shutil.rmtree(left, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise SetupError(
            f"cannot write to {folder}: {error.strerror or error}; make room or give yourself the right to, "
            "or set SAGE_HOME to another folder"
        ) from error
