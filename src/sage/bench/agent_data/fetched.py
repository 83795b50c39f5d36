"""Data that travels inside a wheel: ``--data bfcl`` gets the pinned package with pip, checks it, and unpacks its data."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sage.bench.agent_data.bfcl import CHOOSING, DECIDING, UPSTREAM
from sage.engines.models_files import Progress, file_sha256, ignore_progress, locked
from sage.engines.models_wheel import Wheel, fetch
from sage.errors import SetupError
from sage.settings import Settings

__all__ = ["BFCL", "FETCHED", "Packaged", "fetched"]


@dataclass(frozen=True, slots=True)
class Packaged:
    """A wheel with data in it. It is never installed."""

    wheel: Wheel
    sha256: str  # of the wheel
    files: tuple[str, ...]  # below the wheel's root


_NEEDED = (
    *(UPSTREAM.format(category) for category in (*CHOOSING, *DECIDING)),
    *(f"possible_answer/{UPSTREAM.format(category)}" for category in CHOOSING),
)
BFCL = Packaged(
    Wheel("bfcl-eval", "2026.3.23", 1_925_664, "bfcl_eval/data/"),
    "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
    _NEEDED,
)

#: What ``--data`` may say instead of a folder.
FETCHED = {"bfcl": BFCL}


def fetched(packaged: Packaged, settings: Settings, progress: Progress = ignore_progress) -> Path:
    """The folder with the data of a package, downloaded when it is first asked for.

    Raises:
        SetupError: pip cannot get it, or what came is not the package we know.
    """
    wheel = packaged.wheel
    home = settings.cache_dir / "agent-data"
    folder = home / f"{wheel.package}-{wheel.version}"
    if folder.is_dir():
        return folder
    with locked(home) as scratch:
        if not folder.is_dir():
            unpack(fetch(wheel, scratch, progress), packaged, scratch / "data")
            (scratch / "data").rename(folder)
    return folder


def unpack(path: Path, packaged: Packaged, target: Path) -> None:
    """Take the data out of a wheel, if it is the one we know.

    Raises:
        SetupError: it is another one, or damaged.
    """
    if (got := file_sha256(path)) != packaged.sha256:
        raise SetupError(
            f"{path.name} is not the file we know: sha256 {got}, expected {packaged.sha256}; was the package "
            "replaced, or is a mirror serving another one?"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            for name in packaged.files:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(packaged.wheel.root + name) as source, (target / name).open("wb") as out:
                    shutil.copyfileobj(source, out)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise SetupError(f"{path.name} is not the package we know: {error}") from error
