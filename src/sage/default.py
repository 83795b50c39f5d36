"""The session used when nobody opens one: made at first use, on a loop thread of its own, closed at exit.

It is the one process-wide object SAGE has. Async functions used as steps run on its loop.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from sage.errors import InputError
from sage.graph.values import Record
from sage.runtime.base import JobFailure, RunEvent
from sage.runtime.feed import Source
from sage.runtime.options import JobOptions, ManyArguments, RunArguments
from sage.runtime.stream import OpenStream, results_of
from sage.runtime.thread import LoopThread
from sage.runtime.together import Stagger
from sage.session import CURRENT, RunResult, Session

if TYPE_CHECKING:
    from sage.pipeline import Pipeline

__all__ = [
    "ain_session",
    "call_blocking",
    "events_anywhere",
    "in_session",
    "run_all",
    "run_anywhere",
    "run_blocking",
    "stream_anywhere",
    "stream_in_session",
]

T = TypeVar("T")


#: Arguments of a run that only a session of its own can have.
OWN = ("engines", "indexes", "policy", "tenants", "runtime")


def _before_executors_end(close: Callable[[], None]) -> None:
    """Call something when the interpreter ends, while threads can still be given work.

    Plain ``atexit`` comes too late: thread pools, which engines close with, have ended by then.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    register(close)


class _Held:
    """A session kept open by one task on a loop thread, so that it is closed in the task that opened it."""

    def __init__(self, thread: LoopThread, **arguments: Any) -> None:
        self._opened: Future[Session] = Future()
        self._closing = asyncio.Event()
        self._ended = thread.begin(self._hold(arguments))

    async def session(self) -> Session:
        """The open session.

        Raises:
            SageError: it cannot be opened.
        """
        return await asyncio.wrap_future(self._opened)

    async def close(self) -> None:
        """Close it and wait until everything it holds is released."""
        self._closing.set()
        await asyncio.wrap_future(self._ended)

    async def _hold(self, arguments: dict[str, Any]) -> None:
        try:
            async with Session(**arguments) as session:
                self._opened.set_result(session)
                await self._closing.wait()
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)


class _Default:
    """The process's loop thread and the session on it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the making of the thread
        self._thread: LoopThread | None = None
        self._held: _Held | None = None

    def thread(self) -> LoopThread:
        with self._lock:
            if self._thread is None:
                self._thread = LoopThread("sage-default-session")
                _before_executors_end(self.close)
            return self._thread

    async def session(self) -> Session:
        """On the loop thread: the session, opened by the first who asks."""
        if self._held is None:
            self._held = _Held(self.thread())
        return await self._held.session()

    def close(self) -> None:
        """Close the session and end the thread. A later call starts afresh."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        held, self._held = self._held, None
        if held is not None:
            thread.run(held.close())
        thread.close()


DEFAULT = _Default()


@asynccontextmanager
async def _session_for(arguments: dict[str, Any]) -> AsyncIterator[Session]:
    """On the loop thread: the default session, or one of its own if the arguments ask for engines or a policy."""
    own = _own(arguments)
    if own:
        async with Session(**own) as session:
            yield session
    else:
        yield await DEFAULT.session()


def _own(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that ask for a session of one's own, taken out of the others."""
    return {name: arguments.pop(name) for name in OWN if name in arguments}


def call_blocking(pipeline: Pipeline, fields: Mapping[str, Any]) -> Record:
    """One record through the default session, from any thread.

    Raises:
        InputError: called inside an open session, which has engines of its own.
    """
    _refuse_inside()

    async def work() -> Record:
        return await (await DEFAULT.session()).call(pipeline, fields)

    return DEFAULT.thread().run(work())


def _refuse_inside() -> None:
    if CURRENT.get() is not None:
        raise InputError(
            "a blocking call inside an open Session would not use it, or wait for itself; "
            "write await session(pipeline, …), or await pipeline.arun(…)"
        )


#: Something done in a session, with what is said of its run.
Work = Callable[[Session, ManyArguments], Awaitable[T]]


def in_session(work: Work[T], arguments: RunArguments) -> T:
    """Do something in the default session, or one of its own if engines or a policy are said; from any thread.

    Raises:
        InputError: called inside an open session.
    """
    _refuse_inside()
    return DEFAULT.thread().run(_outside(work, dict(arguments)))


async def ain_session(work: Work[T], arguments: RunArguments) -> T:
    """The same in the session of the calling context, if there is one."""
    session = CURRENT.get()
    if session is not None:
        return await work(session, _within(arguments))
    return await DEFAULT.thread().arun(_outside(work, dict(arguments)))


async def _outside(work: Work[T], arguments: dict[str, Any]) -> T:
    async with _session_for(arguments) as session:
        return await work(session, ManyArguments(**arguments))  # type: ignore[typeddict-item]  # checked as RunArguments


async def stream_in_session(
    begin: Work[OpenStream], errors: Literal["raise", "yield"], arguments: RunArguments
) -> AsyncGenerator[Any, None]:
    """What a stream gives that is opened in the session of the calling context, or the default one."""
    session = CURRENT.get()
    if session is not None:
        within = await begin(session, _within(arguments))
        async for result in results_of(within.take, within.close, errors):
            yield result
        return
    given = dict(arguments)
    own = _own(given)

    async def begin_outside() -> tuple[OpenStream, _Held | None]:
        held = _Held(DEFAULT.thread(), **own) if own else None
        inner = await (held.session() if held is not None else DEFAULT.session())
        try:
            return await begin(inner, ManyArguments(**given)), held  # type: ignore[typeddict-item]  # checked as RunArguments
        except BaseException:
            if held is not None:
                await held.close()
            raise

    async for result in _over_thread(begin_outside, errors):
        yield result


def run_blocking(pipeline: Pipeline, records: Source, arguments: RunArguments) -> RunResult:
    """Many records through the default session, from any thread. Refused inside an open session."""
    return in_session(lambda session, said: session.run(pipeline, records, **said), arguments)


def run_all(
    parts: Sequence[tuple[Any, ...]], /, *, stagger_s: Stagger = None, **arguments: Unpack[RunArguments]
) -> list[RunResult]:
    """Run several pipelines at once on shared engines, one scheduler in front of all. Blocks.

    >>> from sage import Pipeline
    >>> from sage.ops import template
    >>> hello, bye = (Pipeline(word, line=template(word + ", {name}!")) for word in ("hello", "bye"))
    >>> results = run_all([(hello, [{"name": "Ada"}]), (bye, [{"name": "Alan"}])], record=False)
    >>> [result.records[0]["line"] for result in results]
    ['hello, Ada!', 'bye, Alan!']

    Args:
        parts: (pipeline, records) or (pipeline, records, options), see :meth:`sage.Session.run_all`.
        stagger_s: seconds between the starts of one and the next, or "computed".
        **arguments: see :class:`sage.runtime.options.RunArguments`; they hold for all.
    """
    _refuse_inside()
    given: dict[str, Any] = dict(arguments)

    async def work() -> list[RunResult]:
        async with _session_for(given) as session:
            return await session.run_all(parts, stagger_s=stagger_s, **given)

    return DEFAULT.thread().run(work())


async def run_anywhere(pipeline: Pipeline, records: Source, arguments: RunArguments) -> RunResult:
    """Many records through the session of the calling context, or the default one."""
    return await ain_session(lambda session, said: session.run(pipeline, records, **said), arguments)


def stream_anywhere(
    pipeline: Pipeline,
    records: Source,
    *,
    ordered: bool,
    errors: Literal["raise", "yield"],
    arguments: RunArguments,
) -> AsyncIterator[Record | JobFailure]:
    """A stream through the session of the calling context, or the default one."""
    return stream_in_session(
        lambda session, said: session.open_stream(pipeline, records, ordered, said), errors, arguments
    )


async def events_anywhere(pipeline: Pipeline, fields: Mapping[str, Any]) -> AsyncIterator[RunEvent]:
    """The events of one record through the session of the calling context, or the default one."""
    session = CURRENT.get()
    if session is not None:
        async for event in session.events(pipeline, fields):
            yield event
        return

    async def begin() -> tuple[OpenStream, _Held | None]:
        return (await DEFAULT.session()).open_events(pipeline, fields, JobOptions()), None

    async for event in _over_thread(begin, "raise"):
        yield event


async def _over_thread(begin: Callable[[], Any], errors: Literal["raise", "yield"]) -> AsyncIterator[Any]:
    """The results of a stream that lives on the loop thread, for a consumer on another loop."""
    thread = DEFAULT.thread()
    opened, held = await thread.arun(begin())

    async def end() -> None:
        await opened.close()
        if held is not None:
            await held.close()

    def take() -> Awaitable[list[Any]]:
        return thread.arun(opened.take())

    async for result in results_of(take, lambda: thread.arun(end()), errors):
        yield result


def _within(arguments: RunArguments) -> ManyArguments:
    """Arguments for a run inside a session, which has its engines, indexes and policy already."""
    for name in OWN:
        if name in arguments:
            raise InputError(f"{name}= belongs to the Session that is open here; say it there")
    return ManyArguments(**arguments)  # type: ignore[typeddict-unknown-key]  # those of OWN are the difference
