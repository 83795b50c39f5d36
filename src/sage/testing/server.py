"""An emulated OpenAI server for tests and benchmarks: real HTTP on the loopback, but no model behind it.

Its answers follow the rule in ``sage.testing.emulation``, its timing and faults a ``Behaviour``, and it keeps
the truth of every call for comparison with what a client measured. The model it serves is called "emulated".

In process:

    async with EmulatedServer(Behaviour(ttft_s=0.01)) as server:
        engine = open_engine(f"openai:{server.url}", settings)

As a process of its own: ``python -m sage.testing.server --port 0 --ttft-s 0.01 --script 429@1,ok --rates
503=0.02,reset=0.01`` prints one JSON line with its ``url``. It listens on 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NoReturn, Self, TypeVar

import msgspec
from aiohttp import web

from sage.clock import monotonic
from sage.engines.base import EmbedRequest, GenerateRequest, Piece, Reply, Usage, ignore_pieces
from sage.engines.emulated import EmulatedEngine, EmulatedOptions
from sage.engines.emulated_prefix import PrefixCache
from sage.engines.emulated_profile import load_profile
from sage.errors import InputError, SetupError
from sage.testing.behaviour import Behaviour, Fault, FaultPlan, from_arguments, to_arguments
from sage.testing.emulated_wire import (
    MODEL,
    Answer,
    answer_to,
    decode_generate,
    decode_texts,
    embeddings_body,
    end_events,
    error_body,
    models_body,
    pieces_of,
    role_event,
    spoiled,
    token_event,
    whole_body,
)
from sage.testing.emulation import count_tokens

__all__ = ["MODEL", "Behaviour", "EmulatedServer", "Truth", "separate_server", "separate_servers"]

MAX_CALLS_KEPT = 100_000
MAX_REQUEST_BYTES = 64 * 1024 * 1024
JSON = "application/json"

T = TypeVar("T")


class Truth(msgspec.Struct):
    """What really happened to one call. Times are seconds of this machine's monotonic clock."""

    path: str
    arrived: float
    attempt: int  # at this very request, from 1
    fault: str | None
    idempotency_key: str | None
    client_port: int  # tells the client's connections apart
    dispatched: float | None = None  # work began: a slot was free
    ended: float | None = None
    status: int = 200
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, that the prefix cache had
    pieces: list[float] = []  # when each piece was handed to the socket
    piece_tokens: list[int] = []  # aligned with pieces
    disconnected: bool = False  # the client went away before the end


class Refused(Exception):  # noqa: N818 - an answer, not a fault of this program
    """Ends a call with an error status."""

    def __init__(self, status: int, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Call:
    """One call while it is answered: its request, the fault it meets, and the truth about it."""

    def __init__(self, http: web.Request, body: bytes, fault: Fault | None, truth: Truth) -> None:
        self.http = http
        self.body = body
        self.fault = fault
        self.truth = truth

    async def begin(self) -> None:
        """A slot is free. Commits the faults that leave no answer at all."""
        self.truth.dispatched = monotonic()
        if self._meets("reset"):
            await self._reset()
        if self._meets("hang"):
            await _forever()

    async def spoil(self, response: web.StreamResponse) -> bool:
        """Commit the faults of a begun stream. True: the stream is over."""
        if self._meets("cut"):
            await self._reset()
        if self._meets("stall"):
            await _forever()
        if self._meets("truncated"):
            await response.write_eof()
            return True
        piece = spoiled(self.fault.name) if self.fault is not None else b""
        if piece:
            await response.write(b"data: " + piece + b"\n\n")
        return bool(piece)

    async def send_whole(self, body: bytes) -> web.StreamResponse:
        """Send an answer in one piece, or its fault."""
        if self._meets("stall"):
            await _forever()
        if self._meets("cut", "truncated"):
            response = web.StreamResponse(headers={"Content-Type": JSON, "Content-Length": str(len(body))})
            await response.prepare(self.http)
            await response.write(body[: len(body) // 2])
            await self._reset()
        piece = spoiled(self.fault.name) if self.fault is not None else b""
        return json_response(piece or body)

    def _meets(self, *names: str) -> bool:
        return self.fault is not None and self.fault.name in names

    async def _reset(self) -> NoReturn:
        """Break the connection as a crashed server would: the client sees a reset, not an end."""
        transport = self.http.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        await _forever()


def _client_port(http: web.Request) -> int:
    peer = http.transport.get_extra_info("peername") if http.transport is not None else None
    return peer[1] if peer else 0


async def _forever() -> NoReturn:
    """Wait until aiohttp cancels the call because its client is gone."""
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets was set")


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer of JSON text."""
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


#: Answers one call.
Answerer = Callable[[Call], Awaitable[web.StreamResponse]]


class EmulatedServer:
    """The server, on the running event loop. Enter it to start listening, leave it to stop.

    Attributes:
        url: the address of its API, ``http://127.0.0.1:PORT/v1``, while it listens.
        truth: what happened to each call, in order of arrival (the last 100,000).
    """

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0) -> None:
        self._behaviour = behaviour or Behaviour()
        self._port = port
        self._plan = FaultPlan(self._behaviour)
        self._slots = asyncio.Semaphore(self._behaviour.concurrency)
        self._prefixes = PrefixCache(1 << 20) if self._behaviour.prefix_cache else None
        self._engine: EmulatedEngine | None = None  # whose times its calls take, if a profile is given
        self.truth: deque[Truth] = deque(maxlen=MAX_CALLS_KEPT)
        self.url = ""

    async def __aenter__(self) -> Self:
        behaviour = self._behaviour
        if behaviour.profile is not None:
            options = EmulatedOptions(
                output=behaviour.output, seed=behaviour.seed, prefix_cache=behaviour.prefix_cache
            )
            self._engine = EmulatedEngine(load_profile(behaviour.profile), options)
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/truth", self._tell_truth),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completions),
                web.post("/v1/embeddings", self._embeddings),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _health(self, _http: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"status": "ok", "emulated": True}))

    async def _metrics(self, _http: web.Request) -> web.Response:
        """Its load in vLLM's words; the share of slots in use stands for that of a KV cache."""
        going = [truth for truth in self.truth if truth.ended is None]
        running = sum(truth.dispatched is not None for truth in going)
        used = running / self._behaviour.concurrency
        text = (
            f'vllm:num_requests_running{{engine="0",model_name="emulated"}} {running}\n'
            f'vllm:num_requests_waiting{{engine="0",model_name="emulated"}} {len(going) - running}\n'
            f'vllm:kv_cache_usage_perc{{engine="0",model_name="emulated"}} {used}\n'
        )
        return web.Response(text=text)

    async def _tell_truth(self, _http: web.Request) -> web.Response:
        told = {"emulated": True, "behaviour": self._behaviour, "requests": list(self.truth)}
        return json_response(msgspec.json.encode(told))

    async def _models(self, http: web.Request) -> web.Response:
        if not self._behaviour.models:
            return json_response(error_body(404, "there is no such path"), 404)
        try:
            self._check_key(http)
        except Refused as refused:
            return json_response(error_body(refused.status, str(refused)), refused.status)
        return json_response(models_body(self._behaviour.context_tokens))

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        return await self._handle(http, lambda call: self._generate(call, chat=True))

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        return await self._handle(http, lambda call: self._generate(call, chat=False))

    async def _embeddings(self, http: web.Request) -> web.StreamResponse:
        return await self._handle(http, self._embed)

    async def _handle(self, http: web.Request, answer: Answerer) -> web.StreamResponse:
        """Answer one call, and write down what becomes of it."""
        body = await http.read()
        fault, attempt = self._plan.next(body)
        truth = Truth(
            path=http.path,
            arrived=monotonic(),
            attempt=attempt,
            fault=None if fault is None else fault.name,
            idempotency_key=http.headers.get("Idempotency-Key"),
            client_port=_client_port(http),
        )
        self.truth.append(truth)
        try:
            self._check_key(http)
            return await answer(Call(http, body, fault, truth))
        except Refused as refused:
            truth.status = refused.status
            headers = {"Retry-After": refused.retry_after} if refused.retry_after else None
            return json_response(error_body(refused.status, str(refused)), refused.status, headers)
        except (asyncio.CancelledError, ConnectionResetError):
            truth.disconnected = fault is None or fault.name not in {"reset", "cut"}
            raise
        finally:
            truth.ended = monotonic()

    async def _generate(self, call: Call, *, chat: bool) -> web.StreamResponse:
        behaviour = self._behaviour
        request, asked = _decoded(lambda: decode_generate(call.body, chat=chat))
        prompt_tokens = count_tokens(message.content for message in request.messages)
        self._check(call, asked.model, prompt_tokens, prompt_tokens)
        if self._engine is not None:
            return await self._emulate(call, self._engine, request, chat=chat, stream=asked.stream)
        async with self._slots:
            await call.begin()
            room = behaviour.context_tokens - prompt_tokens
            answer = answer_to(request, behaviour, room=room, ignore_eos=asked.ignore_eos)
            call.truth.completion_tokens = len(answer.tokens)
            if self._prefixes is not None:
                call.truth.cached_tokens = self._prefixes.take(request.messages, prompt_tokens)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            if asked.stream and chat and behaviour.role_first:
                await response.prepare(call.http)
                await response.write(role_event())
            await asyncio.sleep(behaviour.ttft_s)
            usage = self._usage(call)
            if asked.stream:
                along = (asked.stream_options or {}).get("continuous_usage_stats", False)
                return await self._stream(
                    call, response, answer, usage, chat=chat, along=along and usage is not None
                )
            await asyncio.sleep(behaviour.token_s * (len(answer.tokens) - 1))
            return await call.send_whole(whole_body(answer, usage, chat=chat))

    async def _emulate(
        self, call: Call, engine: EmulatedEngine, request: GenerateRequest, *, chat: bool, stream: bool
    ) -> web.StreamResponse:
        """What an emulated engine answers, when it does. Scripted faults are those of a status only."""
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue(request.max_tokens + 1)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        call.truth.dispatched = monotonic()

        async def generated() -> Reply:
            reply = await engine.generate(request, pieces.put_nowait if stream else ignore_pieces)
            pieces.put_nowait(None)
            return reply

        async with asyncio.TaskGroup() as group:
            running = group.create_task(generated())
            if stream:
                await response.prepare(call.http)
            while (piece := await pieces.get()) is not None:
                call.truth.pieces.append(monotonic())
                await response.write(token_event(piece, chat=chat))
        reply = running.result()
        call.truth.completion_tokens = reply.usage.completion_tokens
        answer = Answer((Piece(reply.text),), "length" if reply.finish == "length" else "stop")
        if not stream:
            return await call.send_whole(whole_body(answer, reply.usage, chat=chat))
        await response.write(end_events(answer, reply.usage, chat=chat))
        await response.write_eof()
        return response

    async def _embed(self, call: Call) -> web.StreamResponse:
        model, texts = _decoded(lambda: decode_texts(call.body))
        sizes = [count_tokens([text]) for text in texts]
        self._check(call, model, sum(sizes), max(sizes, default=0))
        if self._engine is not None:
            reply = await self._engine.embed(EmbedRequest(texts=tuple(texts)))
            dimension = len(reply.vectors[0])
            return await call.send_whole(embeddings_body(texts, dimension, reply.usage))
        async with self._slots:
            await call.begin()
            await asyncio.sleep(self._behaviour.text_s * len(texts))
            return await call.send_whole(embeddings_body(texts, self._behaviour.dimension, self._usage(call)))

    async def _stream(
        self,
        call: Call,
        response: web.StreamResponse,
        answer: Answer,
        usage: Usage | None,
        *,
        chat: bool,
        along: bool,
    ) -> web.StreamResponse:
        if not response.prepared:
            await response.prepare(call.http)
        truth, so_far = call.truth, 0
        pieces = pieces_of(answer, self._behaviour.piece_tokens)
        for number, piece in enumerate(pieces):
            tokens = piece.tokens or 1
            so_far += tokens
            if number:
                await asyncio.sleep(self._behaviour.token_s * tokens)
            if number == 1 and call.fault is not None and await call.spoil(response):
                return response
            counts = Usage(truth.prompt_tokens, so_far, truth.cached_tokens) if along else None
            truth.pieces.append(monotonic())
            truth.piece_tokens.append(tokens)
            await response.write(token_event(piece, chat=chat, call=answer.call, usage=counts))
        if len(pieces) < 2 and call.fault is not None and await call.spoil(response):
            return response
        await response.write(end_events(answer, usage, chat=chat))
        await response.write_eof()
        return response

    def _usage(self, call: Call) -> Usage | None:
        if not self._behaviour.usage:
            return None
        sign = -1 if call.fault is not None and call.fault.name == "negative_usage" else 1
        truth = call.truth
        return Usage(sign * truth.prompt_tokens, sign * truth.completion_tokens, sign * truth.cached_tokens)

    def _check_key(self, http: web.Request) -> None:
        key = self._behaviour.api_key
        said = http.headers.get("Authorization", "")
        if key is not None and said != f"Bearer {key}":
            raise Refused(401, f"this is not the right key: {said.removeprefix('Bearer ')}")

    def _check(self, call: Call, model: str, prompt_tokens: int, longest_tokens: int) -> None:
        """Refuse what the fault or the request itself wants refused."""
        call.truth.prompt_tokens = prompt_tokens
        context_tokens = self._behaviour.context_tokens
        fault = call.fault
        if fault is not None and fault.status is not None and fault.name != "too_long":
            raise Refused(fault.status, f"an emulated fault ({fault.name})", fault.retry_after)
        if model != MODEL:
            raise Refused(404, f"The model {model!r} does not exist.")
        if longest_tokens >= context_tokens or (fault is not None and fault.name == "too_long"):
            raise Refused(
                400,
                f"This model's maximum context length is {context_tokens} tokens. However, your request has "
                f"{longest_tokens} input tokens.",
            )


def _decoded(decode: Callable[[], T]) -> T:
    try:
        return decode()
    except msgspec.MsgspecError as error:
        raise Refused(400, f"the body is no request: {error}") from error


@contextmanager
def separate_server(behaviour: Behaviour | None = None) -> Iterator[str]:
    """The URL of a server that runs in a process of its own, which ends with the block.

    Raises:
        SetupError: the process did not start.
    """
    with separate_servers([behaviour or Behaviour()]) as (url,):
        yield url


@contextmanager
def separate_servers(behaviours: Sequence[Behaviour]) -> Iterator[list[str]]:
    """The URLs of several such servers, a process each, that start side by side.

    Raises:
        SetupError: a process did not start.
    """
    command = [sys.executable, "-m", "sage.testing.server", "--until-stdin-ends"]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(  # noqa: S603 - ourselves
                    command + to_arguments(behaviour),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    process_group=0,  # ctrl-C at a terminal is for the one who started them
                )
            )
            for behaviour in behaviours
        ]
        stack.callback(_let_end, processes)
        yield [_url_of(process) for process in processes]


def _url_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SetupError("the emulated server did not start; see what it wrote to stderr")
    url: str = msgspec.json.decode(line)["url"]
    return url


def _let_end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell all to end before any is waited for; one that is still starting has its say first."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    for process in processes:
        assert process.stdout is not None
        process.stdout.read()


async def _serve(behaviour: Behaviour, port: int, *, until_stdin_ends: bool) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    if until_stdin_ends:
        loop.add_reader(sys.stdin.fileno(), over.set)
    async with EmulatedServer(behaviour, port=port) as server:
        sys.stdout.write(msgspec.json.encode({"url": server.url, "emulated": True}).decode() + "\n")
        sys.stdout.flush()
        await over.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted. ``--help`` lists the options, which are the fields of Behaviour."""
    parser = argparse.ArgumentParser("python -m sage.testing.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--until-stdin-ends", action="store_true", help="stop when standard input is closed")
    for name in Behaviour.__struct_fields__:
        parser.add_argument("--" + name.replace("_", "-"))
    said = parser.parse_args(arguments)
    try:
        behaviour = from_arguments(vars(said))
        FaultPlan(behaviour)
    except InputError as error:
        parser.error(str(error))
    asyncio.run(_serve(behaviour, said.port, until_stdin_ends=said.until_stdin_ends))


if __name__ == "__main__":
    main()
