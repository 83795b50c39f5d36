"""What the demo needs before its first answer: models and an index, each made once and kept."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sage import __version__
from sage.cli.demo_progress import counted
from sage.cli.output import say
from sage.engines.base import open_engine, parse_address
from sage.errors import SetupError
from sage.settings import Settings

if TYPE_CHECKING:
    from sage.graph.values import Passage
    from sage.index import Document, Index

__all__ = ["kept_index", "pull_missing"]


def pull_missing(addresses: Iterable[str], settings: Settings) -> None:
    """Download the built-in models that engine addresses name and that are not here.

    Raises:
        InputError: a wrong address. SetupError: no network, a wrong hash or an unwritable folder.
    """
    from sage.engines.models import MODELS, is_cached, pull

    for address in addresses:
        parsed = parse_address(address)
        name = parsed.target
        if parsed.scheme in {"llama", "bert"} and name in MODELS and not is_cached(name, settings):
            with counted(f"downloading {name}", "bytes") as progress:
                pull(name, settings, progress)


def kept_index(name: str, items: Sequence[Document | Passage], embedder: str, settings: Settings) -> Index:
    """The index of ``items`` by an embedder, from the cache if it was built before.

    It is known by a digest of the text, of the embedder's fingerprint and of SAGE's version, so it is built
    anew when one of them changes. A damaged one is built anew, too.

    Raises:
        SetupError, EngineError: the embedder cannot be opened, or failed.
    """
    from sage.index import Index

    folder = _folder(name, items, asyncio.run(_fingerprint(embedder, settings)), settings)
    if folder.exists():
        try:
            return Index.open(folder, settings=settings)
        except SetupError as error:
            say(f"{error}; building it again")
            shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with counted(f"embedding {name}", "items") as progress:
        return Index.build(items, path=folder, embedder=embedder, settings=settings, progress=progress)


def _folder(name: str, items: Sequence[Document | Passage], fingerprint: str, settings: Settings) -> Path:
    digest = hashlib.sha256(f"{__version__}\n{fingerprint}\n".encode())
    digest.update(msgspec.json.encode(items))
    return settings.cache_dir / "indexes" / f"{name}-{digest.hexdigest()[:16]}"


async def _fingerprint(embedder: str, settings: Settings) -> str:
    async with open_engine(embedder, settings) as engine:
        return engine.info.fingerprint or engine.info.address
