"""FakeEngine: an engine in memory, for tests of whatever stands above engines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

from sage.engines.base import (
    Address,
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    Piece,
    Reply,
    Usage,
)
from sage.errors import EngineError, InputError
from sage.settings import Settings
from sage.testing.emulation import (
    answer_of,
    count_tokens,
    first_call,
    hashed_vectors,
    split_tokens,
    until_stop,
)

__all__ = ["FakeEngine", "open_fake"]

MAX_CALLS_KEPT = 100_000

Sleep = Callable[[float], Awaitable[None]]


class FakeEngine:
    """A deterministic engine in memory; what it answers is written in ``sage.testing.emulation``.

    Every argument is optional:

    Args:
        answer: text of the answer to a request; None: the rule of ``sage.testing.emulation``.
        name: the address it goes by.
        can: the kinds of calls it takes; others are refused.
        limit: calls it works on at once; further ones wait.
        context_tokens: longer prompts are refused as ``too_long``.
        dimension: of its vectors.
        answer_tokens: length of the answers by rule; None: "You said: …".
        ttft_s, token_s, text_s: time to the first token, per further token, and per embedded text, in seconds.
        faults: per call in order, an error to raise or None; when used up, calls succeed. ``stalled`` is
            raised after the first piece, every other fault before it.
        sleep: how time passes; with ``run_virtual``, the default takes none.

    Attributes:
        requests: the requests that came, in order (the last 100,000).

    >>> from sage.engines.base import Message, ignore_pieces
    >>> engine = FakeEngine(answer=lambda request: "42")
    >>> asyncio.run(engine.generate(GenerateRequest(messages=(Message("user", "?"),)), ignore_pieces)).text
    '42'
    """

    def __init__(
        self,
        *,
        answer: Callable[[GenerateRequest], str] | None = None,
        name: str = "fake:memory",
        can: Iterable[Literal["generate", "embed"]] = ("generate", "embed"),
        limit: int = 64,
        context_tokens: int = 8192,
        dimension: int = 64,
        answer_tokens: int | None = None,
        ttft_s: float = 0.0,
        token_s: float = 0.0,
        text_s: float = 0.0,
        faults: Iterable[EngineError | None] = (),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._answer = answer or (lambda request: answer_of(request, answer_tokens))
        self._ttft_s, self._token_s, self._text_s = ttft_s, token_s, text_s
        self._faults = iter(faults)
        self._sleep = sleep
        self._slots = asyncio.Semaphore(limit)
        self.requests: deque[GenerateRequest | EmbedRequest] = deque(maxlen=MAX_CALLS_KEPT)
        self._info = EngineInfo(
            address=name,
            model="fake",
            can=frozenset(can),
            limit=limit,
            context_tokens=context_tokens,
            dimension=dimension,
            fingerprint=f"fake:{dimension}",
        )

    @property
    def info(self) -> EngineInfo:
        """What this engine was made to be."""
        return self._info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer by the rule, a piece per token."""
        fault = self._begin("generate", request)
        prompt_tokens = self._count_prompt(request)
        async with self._within(request.timeout_s), self._slots:
            await self._sleep(self._ttft_s)
            if fault is not None and fault.fault != "stalled":
                raise fault
            call = first_call(request)
            if call is not None:
                emit(Piece(call.arguments, "tool"))
                return Reply("", Usage(prompt_tokens, 1), "tool_calls", (call,))
            tokens = split_tokens(until_stop(self._answer(request), request.stop))
            given = tokens[: request.max_tokens]
            for number, token in enumerate(given):
                if number:
                    await self._sleep(self._token_s)
                emit(Piece(token))
                if fault is not None:
                    raise fault
        finish: Literal["stop", "length"] = "length" if len(given) < len(tokens) else "stop"
        return Reply("".join(given), Usage(prompt_tokens, len(given)), finish)

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Hashed unit vectors."""
        fault = self._begin("embed", request)
        async with self._within(request.timeout_s), self._slots:
            await self._sleep(self._text_s * len(request.texts))
            if fault is not None:
                raise fault
        assert self._info.dimension is not None
        return EmbedReply(
            hashed_vectors(request.texts, self._info.dimension), Usage(count_tokens(request.texts))
        )

    @asynccontextmanager
    async def _within(self, timeout_s: float | None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            message = f"engine {self._info.address}: the call did not end in its {timeout_s:g} s"
            raise EngineError(message, fault="timeout") from None

    def _begin(
        self, kind: Literal["generate", "embed"], request: GenerateRequest | EmbedRequest
    ) -> EngineError | None:
        """Note the call down; the fault that it is to meet."""
        self.requests.append(request)
        if kind not in self._info.can:
            raise EngineError(f"engine {self._info.address} cannot {kind}", fault="refused")
        return next(self._faults, None)

    def _count_prompt(self, request: GenerateRequest) -> int:
        prompt_tokens = count_tokens(message.content for message in request.messages)
        context_tokens = self._info.context_tokens
        assert context_tokens is not None
        if prompt_tokens >= context_tokens:
            raise EngineError(
                f"engine {self._info.address}: the prompt has {prompt_tokens} tokens, the context {context_tokens}",
                fault="too_long",
                prompt_tokens=prompt_tokens,
                context_tokens=context_tokens,
            )
        return prompt_tokens


class _Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ``fake:`` address may say after the question mark; see FakeEngine."""

    limit: int = 64
    context_tokens: int = 8192
    dimension: int = 64
    answer_tokens: int | None = None
    ttft_s: float = 0.0
    token_s: float = 0.0
    text_s: float = 0.0


@asynccontextmanager
async def open_fake(
    address: Address,
    settings: Settings,  # noqa: ARG001 - every opener takes it
) -> AsyncIterator[Engine]:
    """A FakeEngine by address: ``fake:NAME?limit=2&ttft_s=0.01``, for tests of what opens engines.

    Raises:
        InputError: an unknown option, or a value of the wrong type.
    """
    address.refuse_unknown_options(*_Options.__struct_fields__)
    try:
        options = msgspec.convert(dict(address.options), _Options, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(
            f"engine 'fake:{address.target}' has an option that cannot be read: {error}"
        ) from error
    yield FakeEngine(name=f"fake:{address.target}", **msgspec.structs.asdict(options))
