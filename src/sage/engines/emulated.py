"""An engine without a model: it takes the time a real one would, on whatever clock the event loop has.

In virtual time it makes simulation; in real time it stands in for a server. Its times follow a profile (see
``sage.engines.emulated_profile``) and the batching of ``sage.engines.emulated_steps``. What it answers is filler
of the right length, except where the request says what is wanted: a schema gets the smallest value that
satisfies it, offered tools a call of the first, by the rule of ``sage.engines.emulated_answers``.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec

from sage.engines.base import (
    Address,
    EmbedReply,
    EmbedRequest,
    Emit,
    Ended,
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
from sage.engines.emulated_profile import Profile, answer_lengths, load_profile
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
        self._timer: asyncio.TimerHandle | None = None
        self._embedder_free = 0.0  # when the last embedding call under way ends
        self._most_tokens = min(profile.capacity.context_tokens, profile.capacity.kv_tokens)
        can: set[Literal["generate", "embed"]] = set()
        if profile.step is not None or profile.fixed is not None:
            can.add("generate")
        if profile.embed is not None:
            can.add("embed")
        dimension = None if profile.embed is None else profile.embed.dimension
        self._can_generate = "generate" in can
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
        over: asyncio.Future[Reply] = self._loop.create_future()

        def ended(outcome: Reply | EngineError) -> None:
            if over.done():
                return
            if isinstance(outcome, EngineError):
                over.set_exception(outcome)
            else:
                over.set_result(outcome)

        abort = self.begin(request, emit, ended)
        try:
            return await over
        except asyncio.CancelledError:
            abort()
            raise

    def begin(self, request: GenerateRequest, emit: Emit, ended: Ended) -> Callable[[], None]:
        """The same for a caller that is called back; see ``sage.engines.base.CallsBack``."""
        try:
            call = self._prepared(request, emit, ended)
        except EngineError as error:
            return self._loop.call_soon(ended, error).cancel
        if request.timeout_s is not None:
            call.limit = self._loop.call_later(request.timeout_s, self._time_out, call, request.timeout_s)
        fixed = self._profile.fixed
        if fixed is None:
            assert self._batch is not None
            self._batch.submit(call, self._catch_up())
            self._arm()
        elif emit is ignore_pieces:
            whole_s = fixed.first_token_s + fixed.token_s * (call.output - 1)
            call.timer = self._loop.call_at(self._loop.time() + whole_s, self._finish, call)
        else:
            call.timer = self._loop.call_later(fixed.first_token_s, self._yield, call, 1, fixed.token_s)
        return partial(self._abort, call)

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

    def _prepared(self, request: GenerateRequest, emit: Emit, ended: Ended) -> _Call:
        """A call of which it is settled what will be answered.

        Raises:
            EngineError: nothing can be.
        """
        if not self._can_generate:
            raise EngineError(f"engine {self._info.address} cannot generate", fault="refused")
        prompt, prompt_tokens = "", 0
        for message in request.messages:
            prompt = message.content
            prompt_tokens += int(len(prompt) / self._chars) + 1
        if prompt_tokens >= self._most_tokens:
            raise EngineError(
                f"engine {self._info.address}: the prompt has {prompt_tokens} tokens, the context {self._most_tokens}",
                fault="too_long",
                prompt_tokens=prompt_tokens,
                context_tokens=self._most_tokens,
            )
        text = tool = None
        if request.tools or request.schema is not None:
            text, tool = self._said(request, prompt)
        wanted = self._length(prompt, request.max_tokens) if text is None else self._tokens(text)
        tokens = max(1, min(wanted, request.max_tokens, self._most_tokens - prompt_tokens))
        if text is None:
            text = _filler(prompt, int(tokens * self._chars))
        cached = self._prefixes.take(request.messages, prompt_tokens) if self._prefixes is not None else 0
        usage = Usage(prompt_tokens, tokens, cached)
        if tool is not None:
            reply = Reply("", usage, "tool_calls", (tool,))
        else:
            reply = Reply(
                text, usage, "length" if tokens < wanted or wanted == request.max_tokens else "stop"
            )
        streams = self._all_pieces and emit is not ignore_pieces
        return _Call(prompt_tokens - cached, cached, text, reply, emit, ended, streams=streams)

    def _said(self, request: GenerateRequest, prompt: str) -> tuple[str | None, ToolCall | None]:
        """The answer that the request itself asks for, if it does."""
        call = first_call(request)
        if call is not None:
            return call.arguments, call
        if request.schema is not None:
            return msgspec.json.encode(smallest(request.schema, prompt)).decode(), None
        return None, None

    def _yield(self, call: _Call, token: int, token_s: float) -> None:
        """A token is due, of a call that nothing else slows down."""
        while True:
            if token == 1 or call.streams:
                call.emit(_piece(call.text, token, call.output))
            if token == call.output:
                self._finish(call)
                return
            following = token + 1 if call.streams else call.output
            if token_s > 0:
                wait_s = token_s * (following - token)
                call.timer = self._loop.call_later(wait_s, self._yield, call, following, token_s)
                return
            token = following

    def _finish(self, call: _Call) -> None:
        call.is_over = True
        if call.limit is not None:
            call.limit.cancel()
        call.ended(call.reply)

    def _time_out(self, call: _Call, seconds: float) -> None:
        self._abort(call)
        message = f"engine {self._info.address}: the call did not end in its {seconds:g} s"
        call.ended(EngineError(message, fault="timeout"))

    def _abort(self, call: _Call) -> None:
        if call.is_over:
            return
        call.is_over = True
        for timer in (call.timer, call.limit):
            if timer is not None:
                timer.cancel()
        if self._batch is not None:
            self._batch.abort(call, self._catch_up())
            self._arm()

    # Batching

    def _catch_up(self) -> float:
        """Tell of what is due already, so that what happens now happens after it."""
        assert self._batch is not None
        now, due = self._loop.time(), self._batch.next_time
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
        for call, token, _ in self._batch.advance(now):
            assert isinstance(call, _Call)
            if call.is_over:
                continue
            if (token == 1 or call.streams) and call.emit is not ignore_pieces:
                call.emit(_piece(call.text, token, call.output))
            if token == call.output:
                self._finish(call)


class _Call(Sequence):
    """A generation under way."""

    __slots__ = ("emit", "ended", "is_over", "limit", "reply", "text", "timer")

    def __init__(
        self, prompt: int, cached: int, text: str, reply: Reply, emit: Emit, ended: Ended, *, streams: bool
    ) -> None:
        super().__init__(prompt, reply.usage.completion_tokens, cached, streams)
        self.text = text
        self.reply = reply
        self.emit = emit
        self.ended = ended
        self.is_over = False
        self.timer: asyncio.TimerHandle | None = None  # of the next token, where tokens come by themselves
        self.limit: asyncio.TimerHandle | None = None  # of the whole call


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
