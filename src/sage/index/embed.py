"""Texts into vectors by an engine's address, for code that is not async."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sage.engines.base import EmbedRequest, Engine, open_engine
from sage.errors import EngineError, InputError
from sage.index.vectors import unit_rows
from sage.settings import Settings

__all__ = ["Embedded", "Progress", "embed_texts"]

#: Called with how many are done and how many there are.
Progress = Callable[[int, int], None]

_BATCH_TEXTS = 64
_ATTEMPTS = 3
_BACKOFF_S = 0.5


class Embedded(NamedTuple):
    """Vectors, and what made them."""

    vectors: NDArray[np.float32]  # unit rows, shape (texts, dimension)
    address: str  # of the engine, without keys
    fingerprint: str  # equal fingerprints give equal vectors


def embed_texts(
    texts: Sequence[str], address: str, settings: Settings | None = None, progress: Progress | None = None
) -> Embedded:
    """Embed texts with the engine at an address, opened for this call.

    Blocks; inside a running event loop the work is done on a thread of its own, so the loop stands still but
    does not get in the way. Texts of like length travel together, as many batches at once as the engine
    takes; a call that may succeed later is made up to three times. An engine that gives no fingerprint is
    known by its address.

    Raises:
        InputError: the address is wrong, or the engine cannot embed.
        EngineError: it did not answer, or answered nonsense.
    """
    chosen = settings or Settings.load()
    stop = Event()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_embed(texts, address, chosen, progress, stop))
    with ThreadPoolExecutor(1, thread_name_prefix="sage-embed") as thread:
        try:
            return thread.submit(lambda: asyncio.run(_embed(texts, address, chosen, progress, stop))).result()
        finally:
            stop.set()  # after Ctrl-C: no further batch is sent


async def _embed(
    texts: Sequence[str], address: str, settings: Settings, progress: Progress | None, stop: Event
) -> Embedded:
    async with open_engine(address, settings) as engine:
        info = engine.info
        if "embed" not in info.can:
            raise InputError(f"{info.address} cannot embed; name an embedder such as 'bert:all-minilm-l6-v2'")
        vectors: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(texts)
        done = 0

        async def work(batches: Iterator[list[int]]) -> None:
            nonlocal done
            for rows in batches:
                if stop.is_set():
                    return
                for row, vector in zip(rows, await _call(engine, [texts[row] for row in rows]), strict=True):
                    vectors[row] = vector
                done += len(rows)
                if progress is not None:
                    progress(done, len(texts))

        batches = iter(_batches(texts))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(max(1, min(info.limit, len(texts)))):
                    group.create_task(work(batches))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        table = np.stack(vectors) if vectors else np.empty((0, info.dimension or 1), dtype=np.float32)
        return Embedded(table, info.address, info.fingerprint or info.address)


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """The texts' positions, long texts first so that the end comes sooner than it seems, never later."""
    order = sorted(range(len(texts)), key=lambda row: (-len(texts[row]), row))
    return (order[start : start + _BATCH_TEXTS] for start in range(0, len(order), _BATCH_TEXTS))


async def _call(engine: Engine, texts: Sequence[str]) -> NDArray[np.float32]:
    """The unit rows of one batch, asked for again while that may help."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            reply = await engine.embed(EmbedRequest(texts=tuple(texts)))
            break
        except EngineError as error:
            if not error.retryable or attempt == _ATTEMPTS:
                raise
            jitter = random.uniform(0, _BACKOFF_S * 2**attempt)
            await asyncio.sleep(jitter if error.retry_after_s is None else error.retry_after_s)
    try:
        rows = unit_rows(reply.vectors, f"vectors of {engine.info.address}")
    except InputError as error:
        raise EngineError(str(error), fault="garbled") from error
    if len(rows) != len(texts):
        raise EngineError(
            f"{engine.info.address} answered with {len(rows)} vectors for {len(texts)} texts", fault="garbled"
        )
    return rows
