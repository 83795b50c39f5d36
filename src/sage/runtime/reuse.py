"""Answers used again: equal calls in flight are made once, and a step with ``cache`` keeps what it got.

Only calls whose answer the inputs decide are shared while in flight: embeddings, and generation at temperature 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.engines.base import EmbedReply, GenerateRequest, Reply, Usage
from sage.errors import InputError, SetupError
from sage.graph.values import Record, to_json

__all__ = ["Reuse", "is_settled", "key_of", "remembering", "same_call"]

logger = logging.getLogger("sage")

VERSION = 1  # of the file on disk
MAX_ITEMS = 10_000  # kept in memory; the longest unused go first

Source = Literal["memory", "disk", "flight"]


class Reuse:
    """What one session remembers, and its place on disk.

    Args:
        path: the SQLite file that ``cache("disk")`` uses; opened when first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._disk: sqlite3.Connection | None = None
        self._memory: OrderedDict[str, Any] = OrderedDict()
        self._flying: dict[str, asyncio.Future[Any]] = {}
        self._is_full = False  # writing to disk failed once

    async def get(
        self,
        key: str,
        where: Literal["memory", "disk"] | None,
        make: Callable[[], Awaitable[Any]],
        *,
        joins: bool,
    ) -> tuple[Any, Source | None]:
        """An answer, and where it came from; None if it was made for this call.

        Args:
            key: equal for calls that must have equal answers.
            where: also keep it there, and look there first.
            make: makes the call.
            joins: may wait for an equal call under way, rather than make its own.

        Raises:
            Exception: whatever ``make`` raises, to everyone who joined.
        """
        while True:
            kept, source = self._kept(key, where)
            if source is not None:
                return kept, source
            flying = self._flying.get(key) if joins else None
            if flying is None:
                return await self._lead(key, where, make), None
            try:
                return await asyncio.shield(flying), "flight"
            except asyncio.CancelledError:
                caller = asyncio.current_task()
                if not flying.cancelled() or (caller is not None and caller.cancelling()):
                    raise  # it is this caller who was cancelled, by itself or together with the one it waited for

    def get_now(self, key: str, make: Callable[[], Any]) -> Any:
        """An answer kept in memory, made and kept if there is none. Waits for nothing."""
        kept, source = self._kept(key, "memory")
        if source is None:
            kept = make()
            self._remember(key, kept)
        return kept

    def close(self) -> None:
        """Close the file."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    async def _lead(
        self, key: str, where: Literal["memory", "disk"] | None, make: Callable[[], Awaitable[Any]]
    ) -> Any:
        leads = key not in self._flying
        flying: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if leads:
            self._flying[key] = flying
        try:
            answer = await make()
        except asyncio.CancelledError:
            flying.cancel()
            raise
        except Exception as error:
            flying.set_exception(error)
            flying.exception()  # looked at: nobody may have joined
            raise
        else:
            flying.set_result(answer)
            self._keep(key, where, answer)
            return answer
        finally:
            if leads:
                del self._flying[key]

    def _kept(self, key: str, where: Literal["memory", "disk"] | None) -> tuple[Any, Source | None]:
        if where is not None and key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key], "memory"
        if where == "disk":
            row = self._open().execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                self._remember(key, answer := _from_bytes(row[0]))
                return answer, "disk"
        return None, None

    def _keep(self, key: str, where: Literal["memory", "disk"] | None, answer: Any) -> None:
        if where is None:
            return
        self._remember(key, answer)
        if where == "disk" and not self._is_full:
            disk = self._open()
            try:
                disk.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, _to_bytes(answer)))
                disk.commit()
            except sqlite3.Error as error:
                self._is_full = True
                logger.warning(
                    "%s: answers are no longer kept on disk (%s); the run goes on", self._path, error
                )

    def _remember(self, key: str, answer: Any) -> None:
        self._memory[key] = answer
        while len(self._memory) > MAX_ITEMS:
            self._memory.popitem(last=False)

    def _open(self) -> sqlite3.Connection:
        if self._disk is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_CREAT, 0o600))
                self._disk = _opened(self._path)
            except (OSError, sqlite3.Error) as error:
                raise SetupError(
                    f"{self._path}: answers cannot be kept there ({error}); set SAGE_HOME to another folder, "
                    "or use .cache() without 'disk'"
                ) from error
        return self._disk


def _opened(path: Path) -> sqlite3.Connection:
    disk = sqlite3.connect(path, check_same_thread=False)
    try:
        (version,) = disk.execute("PRAGMA user_version").fetchone()
        if version not in {0, VERSION}:
            raise SetupError(
                f"{path}: kept by another version of SAGE (form {version}, this one reads {VERSION}); "
                "remove the file, or set SAGE_HOME to another folder"
            )
        disk.execute("PRAGMA journal_mode=WAL")
        disk.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer BLOB)")
        disk.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        disk.close()
        raise
    return disk


def remembering(
    name: str,
    arguments: Callable[[Record], Mapping[str, Any]],
    call: Callable[[Record], Any],
    *,
    is_async: bool,
) -> Callable[[Record], Any]:
    """A function step that keeps what it gave for equal arguments, for as long as its program lives.

    Args:
        name: of the function.
        arguments: of the function, by name, from a record.
        call: the step.
        is_async: what ``call`` gives is awaited; equal calls under way are then made once.
    """
    reuse = Reuse(Path())

    async def acall(record: Record) -> Any:
        key = key_of(name, arguments(record))
        answer, _ = await reuse.get(key, "memory", lambda: call(record), joins=True)
        return answer

    def plain(record: Record) -> Any:
        return reuse.get_now(key_of(name, arguments(record)), lambda: call(record))

    return acall if is_async else plain


def key_of(model: str, request: Any) -> str:
    """A key for what decides an answer.

    Args:
        model: of the pool, or the name of a function.
        request: a GenerateRequest, the texts of an embedding, or a function's arguments by name.

    Raises:
        InputError: a function's argument has no JSON form.
    """
    if isinstance(request, GenerateRequest):
        request = msgspec.structs.replace(request, timeout_s=None, priority=0, idempotency_key=None)
    try:
        encoded = msgspec.json.encode(
            [model, type(request).__name__, request], enc_hook=to_json, order="sorted"
        )
    except TypeError as error:
        raise InputError(f"a step with cache() was given something that has no JSON form: {error}") from error
    return hashlib.blake2b(encoded, digest_size=20).hexdigest()


def same_call(model: str, request: Any) -> Hashable:
    """As ``key_of``, but a key that only lives as long as the call; quicker to make.

    Args:
        model: of the pool.
        request: a GenerateRequest, or the texts of an embedding.
    """
    if isinstance(request, GenerateRequest) and (
        request.schema is not None
        or request.tools
        or request.timeout_s is not None
        or request.priority
        or request.idempotency_key is not None
    ):
        return key_of(model, request)
    return model, request


def is_settled(request: Any) -> bool:
    """Whether the inputs decide the answer."""
    return isinstance(request, tuple) or (isinstance(request, GenerateRequest) and request.temperature == 0)


class _Vectors(msgspec.Struct):
    """An EmbedReply on disk."""

    shape: tuple[int, int]
    data: bytes
    usage: Usage


def _to_bytes(answer: Any) -> bytes:
    if isinstance(answer, EmbedReply):
        rows, width = answer.vectors.shape
        return b"v" + msgspec.msgpack.encode(_Vectors((rows, width), answer.vectors.tobytes(), answer.usage))
    assert isinstance(answer, Reply)
    return b"r" + msgspec.msgpack.encode(answer)


def _from_bytes(stored: bytes) -> Any:
    if stored[:1] == b"r":
        return msgspec.msgpack.decode(stored[1:], type=Reply)
    import numpy as np

    found = msgspec.msgpack.decode(stored[1:], type=_Vectors)
    return EmbedReply(np.frombuffer(found.data, np.float32).reshape(found.shape), found.usage)
