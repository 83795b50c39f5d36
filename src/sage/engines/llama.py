"""GGUF models inside this process: llama.cpp's own server loop, with continuous batching, through xllamacpp.

The address is ``llama:REFERENCE?slots=4&ctx=4096&threads=1``; a reference is what ``sage.engines.models`` takes.
llama.cpp also opens an HTTP server. It is bound to a socket in a private folder that is removed at once, so
nothing can reach it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from sage.engines.base import (
    Address,
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    Reply,
)
from sage.engines.cpus import usable_cpus
from sage.engines.llama_gguf import read_gguf
from sage.engines.models import MODELS, resolve
from sage.engines.openai_address import shown
from sage.engines.openai_answer import GenerateAnswer
from sage.engines.openai_faults import quoted, stream_refusal
from sage.engines.openai_wire import generate_body
from sage.errors import EngineError, InputError, SetupError
from sage.settings import Settings

if TYPE_CHECKING:
    import xllamacpp

__all__ = ["open_llama"]

DEFAULT_CTX = 4096
#: llama.cpp gives every slot a multiple of this.
CTX_STEP = 256
MAX_DEFAULT_THREADS = 8
#: Prompt tokens worked off between two looks at who was cancelled. 64 cost 3 % more CPU than 512 and end a
#: cancelled call in half a second on the built-in model; 512 take five.
PROMPT_STEP_TOKENS = 64
#: How long a cancelled call waits for its slot. The slot is free at the next step; a step of a large model
#: on a busy machine takes a while.
FREE_WITHIN_S = 10.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What an address may say after the question mark."""

    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4  # calls worked on at once
    ctx: Annotated[int, msgspec.Meta(ge=CTX_STEP)] | None = None  # tokens of one call, prompt and answer
    threads: Annotated[int, msgspec.Meta(ge=1, le=512)] | None = None

    @classmethod
    def read(cls, address: Address) -> Options:
        """The options of an address.

        Raises:
            InputError: an unknown option, or a value out of range.
        """
        address.refuse_unknown_options(*cls.__struct_fields__)
        try:
            return msgspec.convert(dict(address.options), cls, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(
                f"engine {shown(address)!r} has an option that cannot be read: {error}"
            ) from error


@asynccontextmanager
async def open_llama(address: Address, settings: Settings) -> AsyncIterator[Engine]:
    """An engine over the GGUF file at ``address``. The file is loaded off the event loop.

    A call may use ``ctx`` tokens, 4,096 unless the model was trained for less; memory grows with slots times ctx.
    ``threads`` is by default one less than the CPUs, at most 8: llama.cpp's threads spin while they wait for
    each other, so with one CPU too few they are several times slower than with one thread less.

    Raises:
        InputError: the address is wrong. SetupError: the file or the package xllamacpp is missing or broken.
    """
    options = Options.read(address)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(options.slots, thread_name_prefix="sage-llama") as threads:
        server, info = await loop.run_in_executor(threads, _load, address, options, settings)
        engine = LlamaEngine(server, info, threads)
        del server  # the engine's close() must drop the last reference
        try:
            yield engine
        finally:
            await engine.close()


class _Call:
    """One call on its way: filled on the event loop, read by the thread that llama.cpp calls back on."""

    def __init__(self, emit: Emit) -> None:
        self.answer = GenerateAnswer(emit)
        self.refused: bytes | None = None  # the error object llama.cpp sent
        self.error: Exception | None = None  # that our side of the call raised
        self.stopped = False

    def take(self, chunk: bytes) -> None:
        """A chunk of the answer, on the event loop. An exception ends the call and is kept."""
        if self.stopped:
            return
        try:
            said = self.answer.feed(b"data: " + chunk + b"\n\n")
        except Exception as error:  # noqa: BLE001 - emit is the caller's; run() raises what it raised
            self.error, self.stopped = error, True
            return
        if said is not None:
            self.refused, self.stopped = bytes(said), True


class LlamaEngine:
    """One GGUF model in this process. Made by :func:`open_llama`."""

    def __init__(self, server: xllamacpp.Server, info: EngineInfo, threads: ThreadPoolExecutor) -> None:
        self._server: xllamacpp.Server | None = server
        self._info = info
        self._threads = threads
        self._slots = asyncio.Semaphore(info.limit)  # a call holds one until llama.cpp has let go of it
        self._running: dict[asyncio.Future[None], _Call] = {}

    @property
    def info(self) -> EngineInfo:
        """What is known of the model."""
        return self._info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer a request. Cancelling it frees its slot, also while its prompt is worked off."""
        secrets = tuple(message.content for message in request.messages)
        call = _Call(emit)
        try:
            body = generate_body(request, self._info.model, "chat")
            # Without reports of progress there is nothing to cancel by before the first token.
            await self._run(body[:-1] + b',"return_progress":true}', call, request.timeout_s)
            if call.error is not None:
                raise call.error
            if call.refused is not None:
                raise _refusal(call.refused, secrets)
            if not call.answer.complete:
                why = "it was closed" if call.stopped else "llama.cpp gave up"
                raise EngineError(f"{why} before the answer was complete", fault="failed")
            return call.answer.reply()
        except EngineError as error:
            error.args = (f"engine {self._info.address}: {error}",)
            raise
        except (ValueError, RuntimeError) as error:
            if error is call.error:
                raise
            # llama.cpp refuses what it cannot parse, such as a schema, by an exception.
            raise EngineError(
                f"engine {self._info.address}: llama.cpp refused the call, saying {quoted(str(error), secrets)}",
                fault="refused",
            ) from error

    async def embed(self, request: EmbedRequest) -> EmbedReply:  # noqa: ARG002 - every engine takes it
        """Refused: this engine generates."""
        raise EngineError(
            f"engine {self._info.address}: it generates and cannot embed; name an embedder such as "
            "'bert:all-minilm-l6-v2'",
            fault="refused",
        )

    async def close(self) -> None:
        """Stop what still runs and free the model."""
        for call in self._running.values():
            call.stopped = True
        if self._running:
            await asyncio.wait(self._running)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._free)

    def _free(self) -> None:
        self._server = None  # llama.cpp has no close(): it ends with its last reference

    async def _run(self, body: bytes, call: _Call, timeout_s: float | None) -> None:
        """Let llama.cpp answer a body into ``call``, on a thread, within the time limit."""
        future: asyncio.Future[None] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
                future = self._start(body, call)
                await asyncio.wait({future})
        except TimeoutError:
            raise EngineError(
                f"the call did not end in its {timeout_s:g} s",
                fault="stalled" if call.answer.num_pieces else "timeout",
            ) from None
        finally:
            if future is not None and not future.done():
                call.stopped = True
                await asyncio.wait({future}, timeout=FREE_WITHIN_S)
        future.result()

    def _start(self, body: bytes, call: _Call) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        server = self._server
        if server is None:
            self._slots.release()
            raise EngineError("it is closed", fault="refused")

        def on_chunk(chunk: bytes) -> bool:
            """Whether to stop. Must not raise: llama.cpp would swallow it."""
            if not call.stopped:
                loop.call_soon_threadsafe(call.take, chunk)
            return call.stopped

        future = loop.run_in_executor(self._threads, server.handle_chat_completions, body, on_chunk)
        self._running[future] = call
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[None]) -> None:
        del self._running[future]
        self._slots.release()
        if not future.cancelled():
            future.exception()  # seen, even when nobody waits any more


def _refusal(error: bytes, secrets: tuple[str, ...]) -> EngineError:
    """The error for an error object of llama.cpp."""
    known = stream_refusal(error, secrets=secrets)
    if known.fault == "too_long" and known.prompt_tokens and known.context_tokens:
        said = (
            f"the prompt has {known.prompt_tokens:,} tokens, but a call has room for {known.context_tokens:,} with "
            "its answer; shorten the prompt, or open the engine with a larger ?ctx="
        )
        known.args = (said,)
    return known


def _load(address: Address, options: Options, settings: Settings) -> tuple[xllamacpp.Server, EngineInfo]:
    """The model in memory, ready to answer. Takes seconds."""
    try:
        import xllamacpp
    except ImportError as error:
        raise SetupError(
            f'llama: engines need the package xllamacpp ({error}); type `pip install "sage-dataflow[local]"`'
        ) from error
    path = resolve(address.target, settings)
    trained = read_gguf(path).context_tokens
    ctx = _context(options.ctx, trained, address)
    threads = options.threads or min(max(usable_cpus() - 1, 1), MAX_DEFAULT_THREADS)
    params = _params(xllamacpp, path, options.slots, ctx, threads)
    with tempfile.TemporaryDirectory(prefix="sage-") as private:
        params.hostnames = [f"{private}/s.sock"]
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise SetupError(
                f"llama.cpp cannot load {path}: the file is damaged, of an architecture it does not know, or "
                f"{options.slots} slots of {ctx:,} tokens do not fit the memory; try ?slots=1&ctx=1024, then "
                "another file"
            ) from error
    return server, EngineInfo(
        address=shown(address),
        model=address.target if address.target in MODELS else path.stem,
        can=frozenset({"generate"}),
        limit=options.slots,
        context_tokens=ctx,
    )


def _context(said: int | None, trained: int | None, address: Address) -> int:
    """The tokens one call may use."""
    if said is None:
        ctx = min(DEFAULT_CTX, trained or DEFAULT_CTX)
    elif trained is not None and said > trained:
        raise InputError(
            f"engine {shown(address)!r}: ctx is {said:,}, but the model was trained for {trained:,} tokens"
        )
    else:
        ctx = said
    return -(-ctx // CTX_STEP) * CTX_STEP


def _params(module: Any, path: Path, slots: int, ctx: int, threads: int) -> Any:
    params = module.CommonParams()
    params.model.path = str(path)
    params.n_ctx = ctx * slots  # llama.cpp divides it among the slots
    params.n_parallel = slots
    params.n_batch = params.n_ubatch = PROMPT_STEP_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cont_batching = params.use_jinja = params.offline = True
    params.fit_params = False  # what was asked for, or an error
    params.cache_ram_mib = 0  # evicted prompts would be kept in up to 8 GiB
    params.n_threads_http = 1
    params.ui = params.endpoint_slots = False
    params.verbosity = -1  # prints nothing
    return params
