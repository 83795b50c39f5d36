"""What every engine is: the requests it takes, the answers it gives, and how one is opened by address."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from urllib.parse import parse_qsl

import msgspec

from sage.errors import EngineError, InputError, nearest
from sage.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sage.settings import Settings

__all__ = [
    "ENGINES",
    "Address",
    "CallsBack",
    "EmbedReply",
    "EmbedRequest",
    "Emit",
    "Ended",
    "Engine",
    "EngineInfo",
    "GenerateRequest",
    "MayEnd",
    "Message",
    "Piece",
    "Reply",
    "ToolCall",
    "Usage",
    "ignore_pieces",
    "open_engine",
    "parse_address",
]


class ToolCall(msgspec.Struct, frozen=True):
    """One call the model asks for. ``arguments`` is JSON text exactly as the model wrote it."""

    name: str
    arguments: str
    id: str = ""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """What one call consumed, in tokens. Never negative."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, served from a prefix cache
    counted_by: Literal["server", "tokenizer", "pieces"] = "server"


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A text-generation call.

    ``deadline_s`` and ``priority`` (higher runs first) are hints an engine may pass on, each translated to
    what its server understands.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None  # JSON schema the answer's text must satisfy
    tools: tuple[Mapping[str, Any], ...] = ()  # OpenAI function definitions
    timeout_s: float | None = None  # for the whole call
    priority: int = 0
    idempotency_key: str | None = None  # the same for every attempt of one task


class Piece(msgspec.Struct, frozen=True, gc=False):
    """One streamed piece of an answer. ``channel`` "text" is the answer; the others are kept apart."""

    text: str
    channel: Literal["text", "reasoning", "tool"] = "text"
    tokens: int | None = None  # in it, where the engine says


class Reply(msgspec.Struct, frozen=True):
    """A finished answer.

    ``finish`` is "stop", "length" (max_tokens or the context ran out) or "tool_calls".
    """

    text: str
    usage: Usage
    finish: Literal["stop", "length", "tool_calls"] = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to turn into vectors."""

    texts: tuple[str, ...]
    timeout_s: float | None = None
    idempotency_key: str | None = None


class EmbedReply(msgspec.Struct, frozen=True):
    """One unit-length row per text, in order: float32, shape (len(texts), dimension)."""

    vectors: NDArray[np.float32]
    usage: Usage


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an open engine."""

    address: str  # as the user wrote it, without keys: names the endpoint in logs and errors
    model: str
    can: frozenset[Literal["generate", "embed"]]
    limit: int  # how many calls at once it is worth sending
    context_tokens: int | None = None
    dimension: int | None = None  # of an embedder's vectors
    fingerprint: str | None = None  # of an embedder: equal fingerprints give equal vectors


Emit = Callable[[Piece], None]


def ignore_pieces(_piece: Piece) -> None:
    """An Emit for callers that only want the whole answer."""


class Engine(Protocol):
    """One replica of a model backend, already open.

    Cancelling a call's task aborts the work at the backend within a second. Calls are safe to make
    concurrently; ``info.limit`` says how many are worth it.
    """

    @property
    def info(self) -> EngineInfo:
        """What this engine is and can do."""

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer a request; every piece goes to ``emit`` on the event loop as it comes.

        Raises:
            EngineError: with the fault, see ``sage.errors``.
        """

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Turn texts into vectors.

        Raises:
            EngineError: as above; ``refused`` when this engine cannot embed.
        """


#: Told how a call ended.
Ended = Callable[[Reply | EngineError], None]


@runtime_checkable
class CallsBack(Protocol):
    """What an engine may offer beside ``generate``: to answer without a task that waits for it.

    Worth it where the calls themselves cost next to nothing, as in simulations. ``embed`` is awaited as ever.
    """

    def begin(self, request: GenerateRequest, emit: Emit, ended: Ended) -> Callable[[], None]:
        """Begin to answer, as ``generate`` does.

        Args:
            request: what is asked.
            emit: gets the pieces.
            ended: called once, on the event loop, after this has returned: with the reply, or with the fault.

        Returns:
            What aborts the call, at once: ``ended`` is not called any more then.
        """


@runtime_checkable
class MayEnd(Protocol):
    """What an engine offers that can end by itself: whoever opened it is told, closes it and opens it anew."""

    def on_end(self, tell: Callable[[], None]) -> None:
        """Have somebody told, on the event loop, once it takes no further call; at once if it has ended already.

        They are told before the calls under way fail as "lost", so that none of them is made here again.
        """


class Address(msgspec.Struct, frozen=True):
    """A parsed engine address: ``scheme:target?option=value&…``."""

    scheme: str
    target: str
    options: Mapping[str, str]

    def refuse_unknown_options(self, *known: str) -> None:
        """Raise InputError, with the nearest known name, if an option is not among ``known``."""
        for name in self.options:
            if name not in known:
                raise InputError(f"engine {self.scheme!r} has no option {name!r}: {nearest(name, known)}")


#: Opens one engine: the context manager owns whatever the engine holds (sockets, threads, memory).
Opener = Callable[[Address, "Settings"], AbstractAsyncContextManager[Engine]]

#: scheme -> (module, function). Modules are imported when first used: nothing heavy before.
ENGINES: Registry[tuple[str, str]] = Registry("engine")
ENGINES["openai"] = ("sage.engines.openai", "open_openai")
ENGINES["vllm"] = ("sage.engines.vllm", "open_vllm")
ENGINES["llama"] = ("sage.engines.llama", "open_llama")
ENGINES["bert"] = ("sage.engines.bert", "open_bert")
ENGINES["emulated"] = ("sage.engines.emulated", "open_emulated")


def parse_address(text: str) -> Address:
    """Split an engine address.

    >>> parse_address("llama:smollm2-135m-instruct?slots=4").options
    {'slots': '4'}
    >>> parse_address("openai:http://127.0.0.1:8000/v1?model=m").target
    'http://127.0.0.1:8000/v1'

    Raises:
        InputError: no scheme, or an unknown one.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or not rest:
        raise InputError(
            f"{text!r} is no engine address; write scheme:target, such as 'llama:smollm2-135m-instruct' "
            "or 'openai:http://127.0.0.1:8000/v1?model=NAME'"
        )
    if scheme in {"http", "https"}:
        raise InputError(f"{text!r} lacks the kind of server; write 'openai:{text}'")
    _ = ENGINES[scheme]
    target, _, query = rest.partition("?")
    return Address(scheme, target, dict(parse_qsl(query, keep_blank_values=True)))


def open_engine(text: str, settings: Settings) -> AbstractAsyncContextManager[Engine]:
    """The engine at an address, as an async context manager that closes it.

    Raises:
        InputError: the address is wrong. On entering: SetupError (a missing file or package) or
            EngineError (the server does not answer).
    """
    address = parse_address(text)
    module, function = ENGINES[address.scheme]
    opener: Opener = getattr(importlib.import_module(module), function)
    return opener(address, settings)
