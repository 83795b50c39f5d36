"""An embedder small enough to reason about: a text's vector is the sum of its words' vectors."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from sage.engines.base import (
    ENGINES,
    Address,
    EmbedReply,
    EmbedRequest,
    Emit,
    EngineInfo,
    GenerateRequest,
    Reply,
    Usage,
)
from sage.errors import EngineError
from sage.settings import Settings

DIMENSION = 16

Embed = Callable[[list[str]], NDArray[np.float32]]


def embed_words(texts: list[str]) -> NDArray[np.float32]:
    """Unit rows; texts with the same words, in any order, get the same one."""
    rows = np.zeros((len(texts), DIMENSION))
    for row, text in enumerate(texts):
        for word in sorted(text.casefold().split()):
            rows[row] += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIMENSION)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32)


class WordEngine:
    """The engine behind ``words:NAME``; options: ``fail=N`` first calls are overloaded, ``fault=`` ruins answers."""

    def __init__(self, address: Address) -> None:
        self.options = address.options
        self.info = EngineInfo(
            address=f"words:{address.target}",
            model=address.target,
            can=frozenset() if address.target == "mute" else frozenset({"embed"}),
            limit=2,
            dimension=DIMENSION,
            fingerprint=f"words-{address.target}",
        )
        self.calls = 0

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        raise EngineError("only embeds", fault="refused")

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        self.calls += 1
        if self.calls <= int(self.options.get("fail", "0")):
            raise EngineError("busy", fault="overloaded", retry_after_s=0.0)
        await asyncio.sleep(0)
        vectors = embed_words(list(request.texts))
        if self.options.get("fault") == "short":
            vectors = vectors[1:]
        if self.options.get("fault") == "nan":
            vectors[0, 0] = np.nan
        return EmbedReply(vectors, Usage())


@asynccontextmanager
async def open_words(address: Address, settings: Settings) -> AsyncIterator[WordEngine]:
    yield WordEngine(address)


@pytest.fixture
def word_embedder(monkeypatch: pytest.MonkeyPatch) -> Embed:
    """Makes the address ``words:one`` an engine for this test; the value embeds as it does."""
    module = ModuleType("word_engine")
    vars(module)["open_words"] = open_words
    monkeypatch.setitem(sys.modules, "word_engine", module)
    monkeypatch.setitem(ENGINES._members, "words", ("word_engine", "open_words"))
    return embed_words
