"""Engines behind an OpenAI-compatible HTTP server: vLLM, llama.cpp, SGLang, hosted services.

A thin client on aiohttp: a streamed call costs a fraction of a millisecond of CPU, several times less than
the vendors' packages. Written here: sockets, time limits, cancellation. The protocol itself is in
``openai_wire``, ``openai_answer``, ``openai_faults`` and ``sse``.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Literal, TypeAlias

import aiohttp
import msgspec
from yarl import URL

from sage.engines.base import (
    Address,
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    Reply,
    Usage,
)
from sage.engines.engine_metrics import MAX_BYTES as MAX_METRICS_BYTES
from sage.engines.engine_metrics import EngineMetrics, parse_metrics
from sage.engines.openai_address import Options, base_url, chosen_model, shown
from sage.engines.openai_answer import GenerateAnswer, embed_reply
from sage.engines.openai_faults import cut_short, late, refusal, stream_refusal
from sage.engines.openai_wire import Api, Listed, decode_models, embed_body, garbled, generate_body
from sage.errors import EngineError, InputError
from sage.settings import Settings, environment

__all__ = ["open_openai"]

OPEN_TIMEOUT_S = 10.0
#: How long a finished answer waits for the end of its HTTP body, so that the connection can be used again.
DRAIN_S = 0.25
#: Below the 5 s after which uvicorn, under most servers, closes an idle connection: never race it.
KEEP_ALIVE_S = 4.0
METRICS_TIMEOUT_S = 2.0
MAX_METRICS_S = 60.0  # between questions to a server that does not answer them
MAX_ERROR_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
#: aiohttp warns of larger bodies that are sent in one piece.
LARGE_BODY_BYTES = 1_000_000

_PATHS: Mapping[Api, str] = {
    "chat": "chat/completions",
    "completions": "completions",
    "embeddings": "embeddings",
}


@asynccontextmanager
async def open_openai(
    address: Address,
    settings: Settings,  # noqa: ARG001 - every opener takes it; the key comes from the environment
) -> AsyncIterator[Engine]:
    """An engine behind the server at ``address``, which is asked once for its models.

    The address is ``openai:http://host:port/v1``, with the options of :class:`Options`. The key, if the
    server wants one, is OPENAI_API_KEY.

    Raises:
        InputError: the address is wrong. EngineError: the server does not answer, or lacks the model.
    """
    options = Options.read(address)
    base = base_url(address)
    key = _key()
    async with aiohttp.ClientSession(
        headers=_headers(key),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # ours are absolute, see _post
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),  # the caller limits
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        engine = OpenAIEngine(session, base, options, key, shown(address))
        await engine.greet()
        if not options.metrics_s:
            yield engine
            return
        raised: Exception | None = None
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(engine.watch())
            try:
                yield engine
            except Exception as error:  # noqa: BLE001 - raised again below, outside the group that would wrap it
                raised = error
            finally:
                watching.cancel()
        if raised is not None:
            raise raised


#: Reads a response; may move the time limit on.
Take: TypeAlias = Callable[[aiohttp.ClientResponse, asyncio.Timeout], Awaitable[None]]


class OpenAIEngine:
    """One model of one server. Made by :func:`open_openai`."""

    def __init__(
        self, session: aiohttp.ClientSession, base: str, options: Options, key: str | None, shown: str
    ) -> None:
        self._session = session
        self._urls = {path: URL(f"{base}/{path}") for path in ("models", *_PATHS.values())}
        self._metrics_url = URL(base).origin() / "metrics"
        self._tell_metrics: list[Callable[[EngineMetrics], None]] = []
        self._options = options
        self._extra = options.further()
        self._key = key
        self._call_headers: dict[str, str] = {}
        can: frozenset[Literal["generate", "embed"]] = frozenset(
            {"embed"} if options.api == "embeddings" else {"generate", "embed"}
        )
        self._info = EngineInfo(address=shown, model=options.model or "", can=can, limit=options.limit)

    def on_metrics(self, tell: Callable[[EngineMetrics], None]) -> None:
        """Have somebody told of the server's load, each time it is asked: see ``metrics_s``."""
        self._tell_metrics.append(tell)

    async def watch(self) -> None:
        """Ask the server for its load, for ever; less and less often while it has no answer."""
        every_s = wait_s = self._options.metrics_s
        while True:
            await asyncio.sleep(wait_s)
            metrics = await self._metrics()
            if metrics is None:
                wait_s = min(max(every_s, MAX_METRICS_S), 2 * wait_s)
                continue
            wait_s = every_s
            for tell in self._tell_metrics:
                tell(metrics)

    async def _metrics(self) -> EngineMetrics | None:
        """What it says under /metrics beside its API; None if there is nothing to be had."""
        within_s = min(METRICS_TIMEOUT_S, self._options.timeout_s)
        try:
            async with (
                asyncio.timeout(within_s),
                self._session.get(self._metrics_url, allow_redirects=False) as got,
            ):
                if got.status != 200:
                    return None
                return parse_metrics((await _body(got, MAX_METRICS_BYTES)).decode("utf-8", "replace"))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None

    @property
    def info(self) -> EngineInfo:
        """What is known of the server; ``dimension`` from the first embedding on."""
        return self._info

    async def greet(self) -> None:
        """Ask for the models: is the server there, and does it have ours?

        Raises:
            EngineError: no answer, an error, or an unknown model.
        """
        with self._names_errors():
            listed = await self._list_models()
            model = chosen_model(self._options.model, listed)
        context_tokens = next((found.context_tokens for found in listed or () if found.id == model), None)
        self._info = msgspec.structs.replace(
            self._info, model=model, context_tokens=context_tokens, fingerprint=f"openai:{model}"
        )

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer a request, streamed. Cancelling closes the connection, which makes the server stop."""
        answer = GenerateAnswer(emit)
        api = self._options.api
        with self._names_errors():
            self._require("generate")
            body = generate_body(
                request, self._info.model, api, counts_along=self._options.usage == "each", extra=self._extra
            )
            take = self._stream_into(answer, request)
            await self._post(_PATHS[api], body, request, take, answer)
            return answer.reply()

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Turn texts into unit vectors."""
        with self._names_errors():
            self._require("embed")
            if not request.texts:
                return _no_rows(self._info.dimension)
            body: list[bytes] = []

            async def take(response: aiohttp.ClientResponse, _watchdog: asyncio.Timeout) -> None:
                body.append(await _whole_body(response))

            await self._post("embeddings", embed_body(request, self._info.model), request, take)
            reply = embed_reply(body[0], len(request.texts))
            self._check_dimension(reply.vectors.shape[1])
            return reply

    async def _list_models(self) -> list[Listed] | None:
        """The models; None when the server has no such list."""
        within_s = min(OPEN_TIMEOUT_S, self._options.timeout_s)
        try:
            async with (
                asyncio.timeout(within_s),
                self._session.get(self._urls["models"], allow_redirects=False) as got,
            ):
                if got.headers.get("Server") == "llama.cpp":
                    # It closes streamed connections without saying so: the next call on one would break.
                    self._call_headers = {"Connection": "close"}
                if got.status in {404, 405, 501}:
                    if self._options.model is not None:
                        return None
                    raise EngineError(
                        f"the server lists no models (status {got.status}): check the path (most servers want "
                        "/v1), or name a model with ?model=NAME",
                        fault="refused",
                        status=got.status,
                    )
                if got.status != 200:
                    raise await self._refusal(got, ())
                return decode_models(await _whole_body(got))
        except TimeoutError:
            raise EngineError(
                f"the server does not answer within {within_s:g} s; is it still loading its model?",
                fault="unreachable",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(
                f"the server does not answer: {_cause(error)}; is it running, and is this its address?",
                fault="unreachable",
            ) from error

    async def _post(
        self,
        path: str,
        body: bytes,
        request: GenerateRequest | EmbedRequest,
        take: Take,
        answer: GenerateAnswer | None = None,
    ) -> None:
        """Send a call and hand its answer to ``take``, within the time limits; translate what goes wrong.

        Connections that break after the end of ``answer`` was seen are no error.
        """
        headers = self._call_headers
        if request.idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": request.idempotency_key}
        data = body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body)
        now = asyncio.get_running_loop().time()
        try:
            async with (
                asyncio.timeout_at(
                    now + min(self._options.timeout_s, _or_inf(request.timeout_s))
                ) as watchdog,
                self._session.post(
                    self._urls[path], data=data, headers=headers, allow_redirects=False
                ) as response,
            ):
                try:
                    if response.status != 200:
                        raise await self._refusal(response, _texts(request))
                    await take(response, watchdog)
                except BaseException:
                    response.close()  # not back to the pool: the server must see that we are gone
                    raise
        except TimeoutError:
            if answer is None or not answer.complete:
                took_s = asyncio.get_running_loop().time() - now
                raise late(
                    took_s, request.timeout_s, self._options, None if answer is None else answer.num_pieces
                ) from None
        except (aiohttp.ClientError, OSError) as error:
            if answer is None or not answer.complete:
                raise _broken(error, answer) from error

    def _stream_into(self, answer: GenerateAnswer, request: GenerateRequest) -> Take:
        """Reads a response into ``answer``, moving the time limit on with every token."""
        time = asyncio.get_running_loop().time
        stall_s = self._options.stall_s
        call_ends = time() + _or_inf(request.timeout_s)

        async def take(response: aiohttp.ClientResponse, watchdog: asyncio.Timeout) -> None:
            if response.headers.get("Content-Type", "").startswith("application/json"):
                self._check_error(answer.take_whole(await _whole_body(response)), request, answer)
                return
            async for chunk in response.content.iter_any():
                num_before = answer.num_pieces
                self._check_error(answer.feed(chunk), request, answer)
                if answer.done:
                    watchdog.reschedule(time() + DRAIN_S)
                elif answer.num_pieces != num_before:
                    watchdog.reschedule(min(time() + stall_s, call_ends))
            if not answer.complete:
                raise cut_short(answer.num_pieces, answer.num_events)

        return take

    def _check_error(self, said: bytes | None, request: GenerateRequest, answer: GenerateAnswer) -> None:
        """Raise the error object that the server sent in place of (a piece of) an answer, if it did."""
        if said is None:
            return
        error = stream_refusal(said, secrets=self._secrets(_texts(request)))
        if answer.num_pieces and error.retryable:
            error.fault = "stalled"
        raise error

    async def _refusal(self, response: aiohttp.ClientResponse, texts: tuple[str, ...]) -> EngineError:
        try:
            body = await _body(response, MAX_ERROR_BYTES)
        except aiohttp.ClientError:
            body = b""  # the status says enough
        return refusal(response.status, body, response.headers, secrets=self._secrets(texts))

    def _secrets(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        return texts if self._key is None else (self._key, *texts)

    def _require(self, kind: Literal["generate", "embed"]) -> None:
        if kind not in self._info.can:
            raise EngineError(
                f"it was opened with api={self._options.api} and cannot {kind}", fault="refused"
            )

    def _check_dimension(self, dimension: int) -> None:
        if self._info.dimension is None:
            self._info = msgspec.structs.replace(self._info, dimension=dimension)
        elif self._info.dimension != dimension:
            raise garbled(
                f"the server sent vectors of {self._info.dimension} numbers before, now of {dimension}"
            )

    @contextmanager
    def _names_errors(self) -> Iterator[None]:
        """Put the address before the message of every EngineError that leaves the block."""
        try:
            yield
        except EngineError as error:
            error.args = (f"engine {self._info.address}: {error}",)
            raise


def _key() -> str | None:
    key = (environment("OPENAI_API_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            "OPENAI_API_KEY holds characters that no key has, such as a line break; set it again"
        )
    return key or None


def _headers(key: str | None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",  # a compressed stream comes in fewer, later pieces
        "User-Agent": "sage-dataflow",
    }
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return headers


async def _body(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body, or a little more than ``limit_bytes`` of it."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit_bytes:
            break
    return b"".join(chunks)


async def _whole_body(response: aiohttp.ClientResponse) -> bytes:
    body = await _body(response, MAX_BODY_BYTES)
    if len(body) > MAX_BODY_BYTES:
        raise garbled(
            f"the server sent more than {MAX_BODY_BYTES:,} bytes; check what listens at this address"
        )
    return body


def _broken(error: aiohttp.ClientError | OSError, answer: GenerateAnswer | None) -> EngineError:
    if isinstance(error, aiohttp.ClientResponseError):
        return garbled(f"the server's answer is no HTTP: {' '.join(error.message.split())[:120]}")
    if answer is not None and answer.num_pieces:
        return EngineError(
            f"the connection broke after {answer.num_pieces} pieces: {_cause(error)}; see the server's log",
            fault="stalled",
        )
    return EngineError(
        f"the connection failed: {_cause(error)}; is the server running, and is this its address?",
        fault="unreachable",
    )


def _cause(error: Exception) -> str:
    """Why a connection failed, in the system's words."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name is not known"
    if isinstance(error, aiohttp.ClientOSError):
        return os.strerror(error.errno) if error.errno else "it broke while the request was sent"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    return " ".join(str(error).split())[:120] or type(error).__name__


def _texts(request: GenerateRequest | EmbedRequest) -> tuple[str, ...]:
    """What of a request must not stand in an error."""
    if isinstance(request, EmbedRequest):
        return request.texts
    return tuple(message.content for message in request.messages)


def _no_rows(dimension: int | None) -> EmbedReply:
    import numpy as np

    return EmbedReply(np.zeros((0, dimension or 0), dtype=np.float32), Usage())


def _or_inf(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
