"""Streams in a session, or outside one: to their end, or record by record."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from typing import TYPE_CHECKING, Any, Literal

from sage.default import ain_session, in_session, stream_in_session
from sage.graph.values import Record
from sage.runtime.base import JobFailure
from sage.runtime.feed import Channel
from sage.runtime.options import ManyArguments, RunArguments
from sage.runtime.stream import OpenStream
from sage.stream.flow import Flow
from sage.stream.result import StreamResult

if TYPE_CHECKING:
    from sage.session import Session
    from sage.stream.stream import Stream

__all__ = ["run_anywhere", "run_blocking", "stream_anywhere"]


async def _run(stream: Stream, session: Session, arguments: ManyArguments) -> StreamResult:
    records: list[Record] = []

    def out(result: Record | JobFailure) -> None:
        if not isinstance(result, JobFailure):
            records.append(result)

    flow = Flow(stream, session, arguments, out)
    await flow.carry_out()
    return flow.result(records)


async def _open(stream: Stream, session: Session, arguments: ManyArguments) -> OpenStream:
    channel = _Channel(64)
    flow = Flow(stream, session, arguments, channel.add, channel)
    return OpenStream(channel, session.keep(_carry_into(flow, channel)), flow.run_id)


def _carry_into(flow: Flow, channel: Channel) -> Coroutine[Any, Any, None]:
    """Carry a flow out, and end the channel whatever happens."""

    async def carry() -> None:
        try:
            await flow.carry_out()
        except Exception as error:  # noqa: BLE001 - handed to the consumer
            channel.end(error)
        except BaseException:
            channel.end()
            raise
        else:
            channel.end()

    return carry()


class _Channel(Channel):
    """A channel that says whether it is full."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more should come for now."""
        return len(self._items) >= self._limit


def run_blocking(stream: Stream, arguments: RunArguments) -> StreamResult:
    """A stream in the default session, from any thread."""
    return in_session(lambda session, said: _run(stream, session, said), arguments)


async def run_anywhere(stream: Stream, arguments: RunArguments) -> StreamResult:
    """A stream in the session of the calling context, or the default one."""
    return await ain_session(lambda session, said: _run(stream, session, said), arguments)


def stream_anywhere(
    stream: Stream, errors: Literal["raise", "yield"], arguments: RunArguments
) -> AsyncGenerator[Record | JobFailure, None]:
    """The records of a stream, carried out in the session of the calling context, or the default one."""
    return stream_in_session(lambda session, said: _open(stream, session, said), errors, arguments)
