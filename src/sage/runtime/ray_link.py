"""The driver's way to one worker of a Ray cluster: calls go out once per turn of the loop, results come as they end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from sage.engines.base import Emit
from sage.errors import EngineError
from sage.runtime.ray_worker import Call, Cancel, Define, Done, Pieces

__all__ = ["Link"]

#: Given the value of a call, or what went wrong.
Told = Callable[[Any, Exception | None], None]

MAX_POLLS = 2  # exchanges under way: while one brings results home, the other waits for the next


class Link:
    """One worker, as the driver sees it.

    Every call has a number of its own, and a result is given to the call of its number or to nobody: what a
    cancelled call leaves behind reaches no later one.

    Args:
        name: of the endpoint, for errors.
        actor: Ray's handle of the worker.
        lost: called once when the worker is gone, just before its calls fail.
    """

    def __init__(self, name: str, actor: Any, lost: Callable[[Link], None]) -> None:
        self.name = name
        self.actor = actor
        self.is_lost = False
        self._tell_lost = lost
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count()
        self._outbox: list[Define | Call | Cancel] = []
        self._known: set[int] = set()  # hops whose functions were sent
        self._waiting: dict[int, tuple[Told, Emit | None]] = {}
        self._polls = 0
        self._is_due = False

    async def call(
        self, given: Any, *, hop: int | None = None, functions: Any = None, emit: Emit | None = None
    ) -> Any:
        """What the worker gives for a call. Cancelling tells the worker that nobody waits.

        Raises:
            EngineError: the worker is gone ("lost"). Whatever an engine raises.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()

        def told(value: Any, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)

        stop = self.begin(given, told, hop=hop, functions=functions, emit=emit)
        try:
            return await answer
        except asyncio.CancelledError:
            stop()
            raise

    def begin(
        self,
        given: Any,
        told: Told,
        *,
        hop: int | None = None,
        functions: Any = None,
        emit: Emit | None = None,
    ) -> Callable[[], None]:
        """Begin a call; ``told`` gets its value or error later, once. Returns what stops it.

        Args:
            given: records of a hop, or a request to an engine.
            told: is given (value, None), or (None, error).
            hop: the hop's number; None for an engine.
            functions: a reference to the hop's functions, which are sent before its first call.
            emit: gets an engine's pieces.
        """
        if self.is_lost:
            self._loop.call_soon(told, None, self._gone())
            return _nothing
        call = next(self._ids)
        if hop is not None and hop not in self._known:
            self._known.add(hop)
            self._send(Define(hop, functions))
        self._waiting[call] = told, emit
        self._send(Call(call, hop, given))

        def stop() -> None:
            if self._waiting.pop(call, None) is not None and not self.is_lost:
                self._send(Cancel(call))

        return stop

    def lose(self) -> None:
        """The worker is gone: all that waits for it fails."""
        if self.is_lost:
            return
        self.is_lost = True
        waiting, self._waiting = self._waiting, {}
        self._tell_lost(self)  # first, so that no call is made again here
        for told, _ in waiting.values():
            told(None, self._gone())

    def _gone(self) -> EngineError:
        return EngineError(f"{self.name}: the worker is gone; its process or its node ended", fault="lost")

    def _send(self, item: Define | Call | Cancel) -> None:
        self._outbox.append(item)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what gathered in this turn of the loop."""
        self._is_due = False
        if self.is_lost:
            self._outbox.clear()
            return
        if not self._outbox and (self._polls or not self._waiting):
            return
        outbox, self._outbox = self._outbox, []
        self._ship(outbox)
        if self._waiting and not self._polls:  # what was to go could not
            self._ship([])

    def _ship(self, outbox: list[Define | Call | Cancel]) -> None:
        try:
            if self._polls < MAX_POLLS:
                reply = self.actor.exchange.remote(outbox).future()
                self._polls += 1
                reply.add_done_callback(self._heard)
            else:
                self.actor.submit.remote(outbox)  # the exchanges under way bring the results
        except Exception as error:
            if len(outbox) > 1:
                for item in outbox:
                    self._ship([item])
            elif isinstance(outbox[0], Call):
                told, _ = self._waiting.pop(outbox[0].id, (None, None))
                if told is not None:
                    told(None, error)
            else:
                raise

    def _heard(self, reply: Any) -> None:
        """On a thread of Ray's."""
        try:
            self._loop.call_soon_threadsafe(self._replied, reply)
        except RuntimeError:  # the loop has ended, and everyone who waited with it
            reply.cancelled()

    def _replied(self, reply: Any) -> None:
        self._polls -= 1
        if self.is_lost:
            return
        if reply.cancelled() or reply.exception() is not None:
            self.lose()
            return
        for item in reply.result():
            if isinstance(item, Pieces):
                self._emit(item)
            else:
                self._done(item)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)  # after those who were woken: their next calls go along

    def _emit(self, item: Pieces) -> None:
        _, emit = self._waiting.get(item.id, (None, None))
        if emit is not None:
            for piece in item.pieces:
                emit(piece)

    def _done(self, item: Done) -> None:
        told, _ = self._waiting.pop(item.id, (None, None))
        if told is not None:
            told(item.value, item.error)


def _nothing() -> None:
    """What stops a call that was never made."""
