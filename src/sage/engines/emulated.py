"""An engine without a model: it takes the time a real one would, on whatever clock the event loop has.

In virtual time it makes simulation; in real time it stands in for a server. Its times follow a profile (see
``sage.engines.emulated_profile``) and the batching of ``sage.engines.emulated_steps``. What it answers is filler
of the right length, except where the request says what is wanted: a schema gets the smallest value that
satisfies it, offered tools a call of the first, by the rule of ``sage.engines.emulated_answers``.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

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
    ToolCall,
    Usage,
    ignore_pieces,
)
from sage.engines.emulated_answers import first_call, hashed_vectors, smallest
from sage.engines.emulated_prefix import PrefixCache
from sage.engines.emulated_profile import FixedTimes, Profile, answer_lengths, load_profile
from sage.engines.emulated_steps import Batching, Sequence
from sage.errors import EngineError, InputError

if TYPE_CHECKING:
    from sage.settings import Settings

__all__ = ["EmulatedEngine", "EmulatedOptions", "Pieces", "open_emulated"]

Pieces = Literal["all", "first"]


class EmulatedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an ``emulated:`` address may say after the question mark."""

    output: str = "max"  # length of answers, see ``answer_lengths``
    seed: int = 0  # of those lengths
    limit: int | None = None  # calls at once it is worth sending; None: as many as fit a step
    pieces: Pieces = (
        "all"  # of an answer: every token in its time, or the first only, which is quicker to compute
    )
    prefix_cache: bool = False  # prompts that begin alike are prefilled once


class EmulatedEngine:
    """An engine in emulated time. Make it inside a running event loop, whose clock it follows.

    Args:
        profile: how long things take.
        options: what it answers and how it is asked.
        name: the address it goes by.

    Raises:
        InputError: an option is out of its range.
    """

    def __init__(self, profile: Profile, options: EmulatedOptions | None = None, *, name: str = "") -> None:
        options = options or EmulatedOptions()
        if options.limit is not None and options.limit < 1:
            raise InputError(f"limit is {options.limit}, expected at least 1 call at once")
        self._loop = asyncio.get_running_loop()
        self._profile = profile
        self._length = answer_lengths(options.output, options.seed)
        self._all_pieces = options.pieces == "all"
        self._chars = profile.chars_per_token
        self._batch = Batching(profile.step, profile.capacity) if profile.step is not None else None
        self._prefixes = PrefixCache(profile.capacity.kv_tokens) if options.prefix_cache else None
        self._calls: dict[Sequence, _Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._embedder_free = 0.0  # when the last embedding call under way ends
        self._most_tokens = min(profile.capacity.context_tokens, profile.capacity.kv_tokens)
        can: set[Literal["generate", "embed"]] = set()
        if profile.step is not None or profile.fixed is not None:
            can.add("generate")
        if profile.embed is not None:
            can.add("embed")
        dimension = None if profile.embed is None else profile.embed.dimension
        self._info = EngineInfo(
            address=name or f"emulated:{profile.name}",
            model=profile.name,
            can=frozenset(can),
            limit=options.limit or profile.capacity.max_seqs,
            context_tokens=self._most_tokens,
            dimension=dimension,
            fingerprint=None if dimension is None else f"emulated:{dimension}",
        )

    @property
    def info(self) -> EngineInfo:
        """What the profile says of it."""
        return self._info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Filler of the length drawn for the prompt, in the time the profile gives."""
        if "generate" not in self._info.can:
            raise EngineError(f"engine {self._info.address} cannot generate", fault="refused")
        if request.timeout_s is None:
            return await self._answer(request, emit)
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._answer(request, emit)
        except TimeoutError:
            message = f"engine {self._info.address}: the call did not end in its {request.timeout_s:g} s"
            raise EngineError(message, fault="timeout") from None

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Hashed bags of words, one call after the other."""
        times = self._profile.embed
        if times is None:
            raise EngineError(f"engine {self._info.address} cannot embed", fault="refused")
        tokens = sum([self._tokens(text) for text in request.texts])
        now = self._loop.time()
        self._embedder_free = max(now, self._embedder_free) + times.call_s + times.token_s * tokens
        wait_s = self._embedder_free - now
        if request.timeout_s is not None and request.timeout_s < wait_s:
            await asyncio.sleep(request.timeout_s)
            message = f"engine {self._info.address}: the call did not end in its {request.timeout_s:g} s"
            raise EngineError(message, fault="timeout")
        await asyncio.sleep(wait_s)
        return EmbedReply(hashed_vectors(request.texts, times.dimension), Usage(tokens))

    def _tokens(self, text: str) -> int:
        return int(len(text) / self._chars) + 1

    async def _answer(self, request: GenerateRequest, emit: Emit) -> Reply:
        prompt = request.messages[-1].content if request.messages else ""
        prompt_tokens = sum([self._tokens(message.content) for message in request.messages])
        if prompt_tokens >= self._most_tokens:
            raise EngineError(
                f"engine {self._info.address}: the prompt has {prompt_tokens} tokens, the context {self._most_tokens}",
                fault="too_long",
                prompt_tokens=prompt_tokens,
                context_tokens=self._most_tokens,
            )
        text, call = self._said(request, prompt)
        wanted = self._length(prompt, request.max_tokens) if text is None else self._tokens(text)
        room = min(request.max_tokens, self._most_tokens - prompt_tokens)
        tokens = max(1, min(wanted, room))
        if text is None:
            text = _filler(prompt, int(tokens * self._chars))
        cached = self._prefixes.take(request.messages, prompt_tokens) if self._prefixes is not None else 0
        streams = self._all_pieces and emit is not ignore_pieces
        if self._profile.fixed is not None:
            await self._wait(self._profile.fixed, tokens, text, emit if streams else None, emit)
        else:
            await self._batched(prompt_tokens, cached, tokens, text, emit, streams=streams)
        usage = Usage(prompt_tokens, tokens, cached)
        if call is not None:
            return Reply("", usage, "tool_calls", (call,))
        return Reply(text, usage, "length" if tokens < wanted or wanted == request.max_tokens else "stop")

    def _said(self, request: GenerateRequest, prompt: str) -> tuple[str | None, ToolCall | None]:
        """The answer that the request itself asks for, if it does."""
        call = first_call(request)
        if call is not None:
            return call.arguments, call
        if request.schema is not None:
            return msgspec.json.encode(smallest(request.schema, prompt)).decode(), None
        return None, None

    async def _wait(
        self, times: FixedTimes, tokens: int, text: str, streaming: Emit | None, emit: Emit
    ) -> None:
        await asyncio.sleep(times.first_token_s)
        emit(_piece(text, 1, tokens))
        if streaming is None:
            if tokens > 1 and times.token_s > 0:
                await asyncio.sleep(times.token_s * (tokens - 1))
            return
        for token in range(2, tokens + 1):
            if times.token_s > 0:
                await asyncio.sleep(times.token_s)
            streaming(_piece(text, token, tokens))

    # Batching

    async def _batched(
        self, prompt: int, cached: int, tokens: int, text: str, emit: Emit, *, streams: bool
    ) -> None:
        batch = self._batch
        assert batch is not None
        sequence = Sequence(prompt - cached, tokens, cached, streams)
        over: asyncio.Future[None] = self._loop.create_future()
        self._calls[sequence] = _Call(over, emit, text)
        now = self._catch_up()
        batch.submit(sequence, now)
        self._arm()
        try:
            await over
        except asyncio.CancelledError:
            now = self._catch_up()
            batch.abort(sequence, now)
            self._arm()
            raise
        finally:
            del self._calls[sequence]

    def _catch_up(self) -> float:
        """Tell of what is due already, so that what happens now happens after it."""
        now = self._loop.time()
        due = self._batch.next_time if self._batch is not None else None
        if due is not None and due < now:
            self._tell(now)
        return now

    def _arm(self) -> None:
        """One timer, at the next time something happens."""
        assert self._batch is not None
        due = self._batch.next_time
        timer = self._timer
        if timer is not None:
            if timer.when() == due:
                return
            timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._fire, due)

    def _fire(self, due: float) -> None:
        self._timer = None
        self._tell(max(due, self._loop.time()))
        self._arm()

    def _tell(self, now: float) -> None:
        assert self._batch is not None
        for sequence, token, _ in self._batch.advance(now):
            call = self._calls.get(sequence)
            if call is None or call.over.done():
                continue
            if token == 1 or sequence.streams:
                call.emit(_piece(call.text, token, sequence.output))
            if token == sequence.output:
                call.over.set_result(None)


class _Call:
    """A generation under way."""

    __slots__ = ("emit", "over", "text")

    def __init__(self, over: asyncio.Future[None], emit: Emit, text: str) -> None:
        self.over = over
        self.emit = emit
        self.text = text


def _filler(prompt: str, chars: int) -> str:
    """Text of a length, different for different prompts, as answers are: equal ones would be asked once."""
    return f"{zlib.crc32(prompt.encode()):08x} {'word ' * (chars // 5 + 1)}"[:chars]


def _piece(text: str, token: int, tokens: int) -> Piece:
    """One token's share of an answer."""
    return Piece(text[len(text) * (token - 1) // tokens : len(text) * token // tokens])


@asynccontextmanager
async def open_emulated(
    address: Address,
    settings: Settings,  # noqa: ARG001 - every opener takes it
) -> AsyncIterator[Engine]:
    """The engine at ``emulated:PROFILE?output=lognormal(120,0.8)&seed=1``; PROFILE is built in or a file.

    Raises:
        InputError: an unknown profile or option, or a value of the wrong type.
    """
    address.refuse_unknown_options(*EmulatedOptions.__struct_fields__)
    try:
        options = msgspec.convert(dict(address.options), EmulatedOptions, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(
            f"engine 'emulated:{address.target}' has an option that cannot be read: {error}"
        ) from error
    yield EmulatedEngine(load_profile(address.target), options, name=f"emulated:{address.target}")
