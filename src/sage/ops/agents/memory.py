"""What was said before: conversations by key, in memory or in a file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from sage.engines.base import Message
from sage.errors import InputError, SetupError
from sage.graph.fields import Argument, Constant, getter, scalar, text
from sage.graph.form import Given
from sage.graph.plan import PlannedStep
from sage.graph.step import Step
from sage.graph.values import Record
from sage.ops.base import OPERATORS, Compute, Context, Inline, Operator, Work
from sage.ops.text import as_text

__all__ = ["Conversations", "recall", "remember"]

WAIT_S = 10.0  # for another process that writes to the same file
LAST = 20  # messages recalled, where the step does not say

_TABLE = (
    "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, key TEXT NOT NULL, message BLOB NOT NULL)"
)
_INDEX = "CREATE INDEX IF NOT EXISTS by_key ON messages (key, id)"


class Conversations:
    """Messages by key. Kept in this object, or in an SQLite file, where they outlive it and processes share them.

    >>> kept = Conversations()
    >>> kept.add("ada", [Message("user", "hello")])
    >>> [message.content for message in kept.last("ada", 5)]
    ['hello']

    Args:
        path: a file, made when it is first written to; None: in memory.
        max_messages: of one key; the oldest beyond go.
    """

    def __init__(self, path: str | Path | None = None, *, max_messages: int = 1_000) -> None:
        if not isinstance(max_messages, int) or max_messages < 1:  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f"max_messages is {max_messages!r}, expected a whole number above 0")
        self.path = None if path is None else Path(path).expanduser()
        self.max_messages = max_messages
        self._held: dict[str, list[Message]] = {}
        self._lock = threading.Lock()  # protects the lists from threads of several loops

    def last(self, key: str, count: int) -> list[Message]:
        """The latest messages of a key, the oldest of them first.

        Raises:
            SetupError: the file cannot be read.
        """
        if self.path is None:
            with self._lock:
                return self._held.get(key, [])[-count:]
        if not self.path.exists():
            return []
        rows = self._do(
            lambda base: base.execute(
                "SELECT message FROM messages WHERE key = ? ORDER BY id DESC LIMIT ?", (key, count)
            ).fetchall()
        )
        return [msgspec.json.decode(row[0], type=Message) for row in reversed(rows)]

    def add(self, key: str, messages: Sequence[Message]) -> None:
        """Put messages at the end of a key's, all together.

        Raises:
            SetupError: the file cannot be written.
        """
        if self.path is None:
            with self._lock:
                kept = [*self._held.get(key, []), *messages]
                self._held[key] = kept[-self.max_messages :]
            return
        rows = [(key, msgspec.json.encode(message)) for message in messages]

        def write(base: sqlite3.Connection) -> None:
            base.executemany("INSERT INTO messages (key, message) VALUES (?, ?)", rows)
            base.execute(
                "DELETE FROM messages WHERE key = ? AND id NOT IN "
                "(SELECT id FROM messages WHERE key = ? ORDER BY id DESC LIMIT ?)",
                (key, key, self.max_messages),
            )

        self._do(write)

    def forget(self, key: str) -> None:
        """Drop everything of a key.

        Raises:
            SetupError: the file cannot be written.
        """
        if self.path is None:
            with self._lock:
                self._held.pop(key, None)
        elif self.path.exists():
            self._do(lambda base: base.execute("DELETE FROM messages WHERE key = ?", (key,)))

    def _do(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        assert self.path is not None
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT_S)) as base, base:
                base.execute(_TABLE)
                base.execute(_INDEX)
                return work(base)
        except sqlite3.Error as error:
            raise SetupError(
                f"conversations in {self.path}: {error}; is it a file of SAGE, in a folder that can be written?"
            ) from error


def recall(key: str, /, *, store: str | Conversations, last: int | str = LAST) -> Step:
    """What was said before under a key.

    Args:
        key: whose conversation, with references in braces: ``"{user}"``.
        store: the file it is kept in, or Conversations.
        last: how many messages, the latest.

    Returns:
        A step whose value is a list of Message, the oldest first; ``generate(messages=…)`` and ``agent(history=…)``
        take it.
    """
    arguments: dict[str, Argument] = {"key": text(key), "store": Constant(store)}
    if last != LAST:
        arguments["last"] = scalar(last)
    _refuse(last)
    return Step(
        operator="recall",
        arguments=arguments,
        gives=list[Message],
        expects={"last": int},
        pool=_pool(store),
    )


def _refuse(last: Any) -> None:
    if isinstance(last, bool) or not (isinstance(last, str) or (isinstance(last, int) and last > 0)):
        raise InputError(f"recall: last is {last!r}, expected a whole number above 0")


def remember(
    key: str, /, *, store: str | Conversations, user: str | None = None, assistant: str | None = None
) -> Step:
    """Keep what was said under a key: both turns at once, after both are there.

    Args:
        key: whose conversation, with references in braces.
        store: the file it is kept in, or Conversations.
        user: what the user said, with references.
        assistant: what was answered, with references.

    Returns:
        A step whose value is the list of Message that was kept. It waits for what it keeps, not for a ``recall`` of the
        same key: an answer made from the history does.
    """
    turns = {"user": user, "assistant": assistant}
    said: dict[str, Argument] = {role: text(turn) for role, turn in turns.items() if turn is not None}
    if not said:
        raise InputError("remember needs user= or assistant=, or both")
    return Step(
        operator="remember",
        arguments={"key": text(key), "store": Constant(store), **said},
        gives=list[Message],
        pool=_pool(store),
    )


def _pool(store: Any) -> str | None:
    """Files are waited for in threads."""
    if not isinstance(store, str | Conversations):
        raise InputError(f"store= is {store!r}, expected a path or Conversations()")
    return "cpu" if _opened(store).path is not None else None


def _opened(store: str | Conversations) -> Conversations:
    return store if isinstance(store, Conversations) else Conversations(store)


def _store(planned: PlannedStep) -> Conversations:
    said = planned.arguments["store"]
    assert isinstance(said, Constant)
    return _opened(said.value)


def _bind_recall(planned: PlannedStep, _context: Context) -> Work:
    store, key = _store(planned), getter(planned.arguments["key"])
    last = getter(planned.arguments.get("last", Constant(LAST)))

    def call(record: Record) -> list[Message]:
        count = last(record)
        _refuse(count)
        return store.last(as_text(key(record)), count)

    return Inline(call) if store.path is None else Compute(call)


def _bind_remember(planned: PlannedStep, _context: Context) -> Work:
    store, key = _store(planned), getter(planned.arguments["key"])
    turns: list[tuple[Any, Callable[[Record], Any]]] = [
        (role, getter(planned.arguments[role])) for role in ("user", "assistant") if role in planned.arguments
    ]

    def call(record: Record) -> list[Message]:
        said = [Message(role, as_text(turn(record))) for role, turn in turns]
        store.add(as_text(key(record)), said)
        return said

    return Inline(call) if store.path is None else Compute(call)


def _given(made: Step) -> Mapping[str, Given]:
    said = made.arguments["store"]
    assert isinstance(said, Constant)
    if not isinstance(said.value, str):
        raise InputError(f"{made.operator}: YAML names files only; give store= a path")
    return made.arguments


def _recall_form(key: str, *, store: str, last: int | str = LAST) -> Step:
    return recall(key, store=store, last=last)


def _remember_form(key: str, *, store: str, user: str | None = None, assistant: str | None = None) -> Step:
    return remember(key, store=store, user=user, assistant=assistant)


OPERATORS["recall"] = Operator("recall", _recall_form, "key", _bind_recall, _given)
OPERATORS["remember"] = Operator("remember", _remember_form, "key", _bind_remember, _given)
