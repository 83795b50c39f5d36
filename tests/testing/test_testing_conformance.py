"""The conformance checks find engines that do not conform: each wrong engine below fails just its check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from sage.engines.base import (
    EmbedReply,
    EmbedRequest,
    Emit,
    Ended,
    EngineInfo,
    GenerateRequest,
    Piece,
    Reply,
    Usage,
    ignore_pieces,
)
from sage.testing import FakeEngine, run_virtual
from sage.testing import conformance as suite
from sage.testing.conformance import Check


class Wrong(FakeEngine):
    """A fake engine whose requests, replies and vectors are tampered with."""

    def __init__(
        self,
        *,
        ask: Callable[[GenerateRequest], GenerateRequest] = lambda request: request,
        tell: Callable[[Reply], Reply] = lambda reply: reply,
        vectors: Callable[[EmbedRequest, EmbedReply], EmbedReply] = lambda _request, reply: reply,
        keeps_slots: bool = False,
    ) -> None:
        super().__init__(answer_tokens=600, limit=2, token_s=0.01)
        self._ask, self._tell, self._vectors, self._keeps_slots = ask, tell, vectors, keeps_slots

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        try:
            return self._tell(await super().generate(self._ask(request), emit))
        except asyncio.CancelledError:
            if self._keeps_slots and not self._slots.locked():
                await self._slots.acquire()
            raise

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        return self._vectors(request, await super().embed(request))


def asked(**changes: object) -> Wrong:
    return Wrong(ask=lambda request: msgspec.structs.replace(request, **changes))


def told(**changes: object) -> Wrong:
    return Wrong(tell=lambda reply: msgspec.structs.replace(reply, **changes))


class Counting(FakeEngine):
    """Answers differently every time."""

    def __init__(self) -> None:
        super().__init__(answer=lambda _request: f"call {len(self.requests)}")


class Mixing(FakeEngine):
    """Gives every call the pieces of the call before."""

    _last: Emit = staticmethod(ignore_pieces)

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        last, self._last = self._last, emit
        return await super().generate(request, last)


class Cutting(FakeEngine):
    """Cuts long prompts in silence."""

    def _count_prompt(self, request: GenerateRequest) -> int:
        return 1


def scaled(_request: EmbedRequest, reply: EmbedReply) -> EmbedReply:
    return EmbedReply(reply.vectors * np.float32(2), reply.usage)


def noisy(_request: EmbedRequest, reply: EmbedReply) -> EmbedReply:
    noise = np.random.default_rng(next(SEEDS)).normal(size=reply.vectors.shape).astype(np.float32)
    lengths = np.linalg.norm(noise, axis=1, keepdims=True)
    return EmbedReply((noise / lengths).astype(np.float32), reply.usage)


def reversed_rows(_request: EmbedRequest, reply: EmbedReply) -> EmbedReply:
    return EmbedReply(reply.vectors[::-1], reply.usage)


def one_row_at_least(_request: EmbedRequest, reply: EmbedReply) -> EmbedReply:
    return EmbedReply(np.eye(max(len(reply.vectors), 1), 64, dtype=np.float32), reply.usage)


class CallingBack(FakeEngine):
    """Calls back, and does not keep one of the promises made with it."""

    def __init__(self, breaks: str) -> None:
        super().__init__()
        self._breaks = breaks

    def begin(self, request: GenerateRequest, emit: Emit, ended: Ended) -> Callable[[], None]:
        loop, text = asyncio.get_running_loop(), "something else" if self._breaks == "answer" else None
        reply = Reply(text or self._answer(request), Usage(4, 4))
        if self._breaks == "order":
            ended(reply)
        timer = loop.call_later(0.01, ended, reply)
        if self._breaks == "once":
            loop.call_later(0.005, ended, reply)
        return (lambda: None) if self._breaks == "abort" else timer.cancel


SEEDS = iter(range(1000))

WRONG: list[tuple[Check, Callable[[], FakeEngine]]] = [
    (suite.check_streams, lambda: told(text="something else")),
    (suite.check_usage, lambda: told(usage=Usage(4, 0))),
    (suite.check_usage, lambda: told(usage=Usage(4, 4))),
    (suite.check_max_tokens, lambda: asked(max_tokens=50)),
    (suite.check_max_tokens, lambda: told(finish="stop")),
    (suite.check_deterministic, Counting),
    (suite.check_schema, lambda: asked(schema=None)),
    (suite.check_stop_strings, lambda: asked(stop=())),
    (suite.check_cancel_frees_the_slot, lambda: Wrong(keeps_slots=True)),
    (suite.check_concurrent_calls_do_not_mix, Mixing),
    (suite.check_calls_back, lambda: CallingBack("order")),
    (suite.check_calls_back, lambda: CallingBack("answer")),
    (suite.check_calls_back, lambda: CallingBack("once")),
    (suite.check_calls_back, lambda: CallingBack("abort")),
    (suite.check_too_long, Cutting),
    (suite.check_embed_unit_rows, lambda: Wrong(vectors=scaled)),
    (suite.check_embed_deterministic, lambda: Wrong(vectors=noisy)),
    (suite.check_embed_batch_equals_singles, lambda: Wrong(vectors=reversed_rows)),
    (suite.check_embed_nothing, lambda: Wrong(vectors=one_row_at_least)),
]


@pytest.mark.parametrize(("check", "engine"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_engine_is_found(check: Check, engine: Callable[[], FakeEngine]) -> None:
    with pytest.raises((AssertionError, TimeoutError, ExceptionGroup, msgspec.DecodeError)):
        run_virtual(check(engine()))


def test_an_engine_that_does_what_it_says_it_cannot_is_found() -> None:
    class Eager(FakeEngine):
        @property
        def info(self) -> EngineInfo:
            return msgspec.structs.replace(super().info, can=frozenset({"generate"}))

    with pytest.raises(AssertionError, match="does not list"):
        run_virtual(suite.check_refuses_what_it_cannot(Eager()))


def test_an_engine_that_calls_back_as_it_should_passes() -> None:
    run_virtual(suite.check_calls_back(CallingBack("nothing")))


def test_every_check_is_in_a_suite() -> None:
    named = {name for name in suite.__all__ if name.startswith("check_")}
    assert named == {check.__name__ for check in suite.GENERATE_CHECKS + suite.EMBED_CHECKS}


def test_pieces_of_every_channel_are_compared() -> None:
    class Thinking(FakeEngine):
        async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
            emit(Piece("hm", "reasoning"))
            return await super().generate(request, emit)

    with pytest.raises(AssertionError, match="reasoning"):
        run_virtual(suite.check_streams(Thinking()))
