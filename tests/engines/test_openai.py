from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import web

from sage.engines.base import (
    EmbedRequest,
    Engine,
    GenerateRequest,
    Message,
    Piece,
    ignore_pieces,
    open_engine,
)
from sage.engines.models import resolve
from sage.errors import EngineError, InputError
from sage.settings import Settings
from sage.testing.conformance import EMBED_CHECKS, GENERATE_CHECKS, Check
from sage.testing.server import Behaviour, EmulatedServer, Truth, separate_server

COUNTED = '?usage=each&extra={"ignore_eos":true}'
HELLO = GenerateRequest(messages=(Message("user", "hello there, big world"),))
SAID = "You said: hello there, big world"
KEY = "sk-a-secret-key"

Use = Callable[[Engine, EmulatedServer], Awaitable[None]]


def on_server(use: Use, behaviour: Behaviour | None = None, options: str = "") -> None:
    """Run ``use`` with an engine on an emulated server."""

    async def main() -> None:
        async with EmulatedServer(behaviour) as server, opened(server.url + options) as engine:
            await use(engine, server)

    asyncio.run(main())


def opened(rest: str) -> Any:
    return open_engine(f"openai:{rest}", Settings())


def test_counts_of_every_piece_and_further_fields_can_be_asked_for() -> None:
    pieces: list[Piece] = []

    async def use(engine: Engine, server: EmulatedServer) -> None:
        reply = await engine.generate(msgspec.structs.replace(HELLO, max_tokens=7), pieces.append)
        assert (reply.usage.completion_tokens, [piece.tokens for piece in pieces]) == (7, [3, 3, 1])
        assert server.truth[-1].piece_tokens == [3, 3, 1]

    on_server(use, Behaviour(piece_tokens=3, role_first=True), COUNTED)


def test_what_a_prefix_cache_had_is_told() -> None:
    long = GenerateRequest(messages=(Message("user", "word " * 100),), max_tokens=1)

    async def use(engine: Engine, server: EmulatedServer) -> None:
        cached = [(await engine.generate(long, ignore_pieces)).usage.cached_tokens for _ in range(2)]
        assert cached[0] == 0
        assert 80 < cached[1] < 100
        assert [call.cached_tokens for call in server.truth] == cached

    on_server(use, Behaviour(prefix_cache=True))


@pytest.mark.parametrize(
    ("extra", "wrong"),
    [
        ("{", "no JSON object"),
        ("[1]", "no JSON object"),
        ('{"stream":false}', "'stream', which the step says"),
    ],
)
def test_further_fields_that_cannot_be_are_refused(extra: str, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        asyncio.run(opened(f"http://127.0.0.1:1/v1?extra={extra}").__aenter__())


async def ended(call: Truth) -> Truth:
    """The call once the server is through with it, which must be within a second."""
    async with asyncio.timeout(1.0):
        while call.ended is None:
            await asyncio.sleep(0)
    return call


async def fault_of(call: Awaitable[object]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await call
    return caught.value


# ---- what every engine does


@pytest.mark.parametrize("check", GENERATE_CHECKS + EMBED_CHECKS)
def test_it_conforms(check: Check) -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        await check(engine)

    on_server(use, Behaviour(answer_tokens=300, token_s=0.0002, context_tokens=500), "?limit=8")


@pytest.mark.parametrize("check", EMBED_CHECKS)
def test_a_server_that_only_embeds_conforms(check: Check) -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        assert engine.info.can == {"embed"}
        await check(engine)

    on_server(use, options="?api=embeddings")


@pytest.fixture(scope="module")
def llama_url() -> Iterator[str]:
    """Address of llama.cpp's own HTTP server, over the built-in model."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(resolve("smollm2-135m-instruct", Settings.load()))
    params.n_ctx, params.n_parallel = 2048, 2  # the slots share the context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = params.cont_batching = params.offline = True
    params.verbosity = -1
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("check", GENERATE_CHECKS)
def test_it_conforms_on_the_server_of_llama_cpp(check: Check, llama_url: str) -> None:
    async def main() -> None:
        async with opened(f"{llama_url}?limit=2") as engine:
            assert engine.info.context_tokens == 1024
            await check(engine)

    asyncio.run(main())


@pytest.mark.vllm
@pytest.mark.parametrize("check", GENERATE_CHECKS)
def test_it_conforms_on_vllm(check: Check, vllm_url: str) -> None:
    async def main() -> None:
        async with opened(f"{vllm_url}?limit=8") as engine:
            await check(engine)

    asyncio.run(main())


@pytest.mark.slow
def test_a_server_in_another_process_answers_the_same() -> None:
    async def main(url: str) -> None:
        async with opened(url) as engine:
            assert (await engine.generate(HELLO, ignore_pieces)).text == SAID
            assert (await fault_of(engine.generate(HELLO, ignore_pieces))).retry_after_s == 0.5

    with separate_server(Behaviour(script=("ok", "503@0.5"))) as url:
        asyncio.run(main(url))


# ---- opening


def test_the_first_listed_model_and_its_context_are_taken() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        assert (engine.info.model, engine.info.context_tokens) == ("emulated", 777)
        assert (engine.info.address, engine.info.limit) == (f"openai:{server.url}", 64)

    on_server(use, Behaviour(context_tokens=777))


def test_a_server_without_a_list_serves_a_named_model() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        assert engine.info.context_tokens is None
        assert (await engine.generate(HELLO, ignore_pieces)).text == SAID

    on_server(use, Behaviour(models=False), "?model=emulated")


@pytest.mark.parametrize(
    ("options", "behaviour", "said"),
    [
        ("?model=emulatde", Behaviour(), "no model 'emulatde': did you mean 'emulated'"),
        ("", Behaviour(models=False), "status 404.*most servers want /v1.*name a model"),
        ("", Behaviour(api_key="other"), "status 401.*set OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_served_is_refused_when_opened(options: str, behaviour: Behaviour, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        on_server(never, behaviour, options)
    assert caught.value.fault == "refused"


async def never(engine: Engine, server: EmulatedServer) -> None:
    raise AssertionError("it was opened")


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("http://127.0.0.1:1/v1", "Connection refused"),
        ("http://nowhere.invalid/v1", "host name is not known"),
    ],
)
def test_a_server_that_is_not_there_is_said_in_one_line(address: str, cause: str) -> None:
    async def main() -> None:
        async with opened(address):
            pass

    with pytest.raises(EngineError, match=f"{address}.*{cause}; is it running") as caught:
        asyncio.run(main())
    assert caught.value.fault == "unreachable"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("http://h/v1?modle=x", "no option 'modle': did you mean 'model'"),
        ("http://h/v1?limit=many", "cannot be read.*limit"),
        ("http://h/v1?limit=0", "limit is 0, expected"),
        ("http://h/v1?timeout_s=-1", "timeout_s is -1"),
        ("http://h/v1?stall_s=nan", "stall_s is nan"),
        ("http://h/v1?api=chatty", "cannot be read.*api"),
        ("h:80/v1", "holds no URL; expected openai:http"),
        ("ftp://h/v1", "holds no URL"),
        ("http://h:x/v1", "holds no URL"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_is_sent(rest: str, said: str) -> None:
    async def main() -> None:
        async with opened(rest):
            pass

    with pytest.raises(InputError, match=said):
        asyncio.run(main())


def test_a_password_in_an_address_is_refused_without_being_shown() -> None:
    async def main() -> None:
        async with opened("http://me:hush@h/v1"):
            pass

    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        asyncio.run(main())
    assert "hush" not in str(caught.value)


# ---- the key


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def use(engine: Engine, server: EmulatedServer) -> None:
        assert (await engine.generate(HELLO, ignore_pieces)).text == SAID
        assert KEY not in repr(engine) + repr(engine.info)

    on_server(use, Behaviour(api_key=KEY))
    assert KEY not in caplog.text


def test_a_key_with_a_line_break_inside_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-first\nsk-second\n")
    with pytest.raises(InputError, match="OPENAI_API_KEY holds characters") as caught:
        on_server(never)
    assert "sk-" not in str(caught.value)


def test_a_wrong_key_is_not_quoted_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(EngineError, match=r"not the right key: \[hidden\]") as caught:
        on_server(never, Behaviour(api_key="another"))
    assert KEY not in str(caught.value)


# ---- calls


def test_reasoning_is_kept_apart() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        reply = await engine.generate(HELLO, ignore_pieces)
        assert (reply.reasoning, reply.text) == ("Let me see.", SAID)

    on_server(use, Behaviour(reasoning=True))


def test_a_tool_is_called() -> None:
    parameters = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}

    async def use(engine: Engine, server: EmulatedServer) -> None:
        reply = await engine.generate(msgspec.structs.replace(HELLO, tools=(tool,)), ignore_pieces)
        assert reply.finish == "tool_calls"
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [("weather", '{"unit":"C"}')]

    on_server(use)


def test_without_usage_from_the_server_pieces_are_counted() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        usage = (await engine.generate(HELLO, ignore_pieces)).usage
        assert (usage.completion_tokens, usage.counted_by) == (6, "pieces")

    on_server(use, Behaviour(usage=False))


def test_completions_are_asked_for_at_their_own_path() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        assert (await engine.generate(HELLO, ignore_pieces)).text == SAID
        assert server.truth[-1].path == "/v1/completions"

    on_server(use, options="?api=completions")


def test_every_attempt_of_a_task_carries_its_key() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        await engine.generate(msgspec.structs.replace(HELLO, idempotency_key="task-7"), ignore_pieces)
        await engine.embed(EmbedRequest(texts=("a",), idempotency_key="task-8"))
        assert [call.idempotency_key for call in server.truth] == ["task-7", "task-8"]

    on_server(use)


def test_a_prompt_of_megabytes_is_sent() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        reply = await engine.embed(EmbedRequest(texts=("word " * 400_000,)))
        assert reply.usage.prompt_tokens == 400_000

    on_server(use, Behaviour(context_tokens=1_000_000))


def test_the_dimension_is_known_after_the_first_embedding() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        dimensions = [engine.info.dimension]
        await engine.embed(EmbedRequest(texts=("a", "b")))
        dimensions.append(engine.info.dimension)
        assert dimensions == [None, 32]
        nothing = await engine.embed(EmbedRequest(texts=()))
        assert nothing.vectors.shape == (0, 32)

    on_server(use, Behaviour(dimension=32))


def test_cancelling_a_call_is_seen_by_the_server_at_once() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        begun = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(engine.generate(HELLO, lambda _piece: begun.set()))
            await begun.wait()
            call.cancel()
        assert (await ended(server.truth[-1])).disconnected

    on_server(use, Behaviour(token_s=30.0))


def test_connections_are_used_again() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        for _ in range(5):
            await engine.generate(HELLO, ignore_pieces)
        assert len({call.client_port for call in server.truth}) == 1

    on_server(use)


# ---- faults


@pytest.mark.parametrize(
    ("script", "fault", "retry_after_s", "num_pieces"),
    [
        ("429@1.5", "overloaded", 1.5, 0),
        ("503", "overloaded", None, 0),
        ("500", "failed", None, 0),
        ("404", "refused", None, 0),
        ("400", "refused", None, 0),
        ("too_long", "too_long", None, 0),
        ("reset", "unreachable", None, 0),
        ("hang", "timeout", None, 0),
        ("cut", "stalled", None, 1),
        ("stall", "stalled", None, 1),
        ("truncated", "stalled", None, 1),
        ("garbage", "garbled", None, 1),
        ("non_utf8", "garbled", None, 1),
        ("giant", "garbled", None, 1),
        ("negative_usage", "garbled", None, 6),
    ],
)
def test_each_fault_of_a_stream_is_named_and_the_next_call_works(
    script: str, fault: str, retry_after_s: float | None, num_pieces: int
) -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        pieces: list[Piece] = []
        error = await fault_of(engine.generate(HELLO, pieces.append))
        assert (error.fault, error.retry_after_s, len(pieces)) == (fault, retry_after_s, num_pieces), error
        assert server.url in str(error)
        assert "\n" not in str(error)
        assert "big world" not in str(error)
        assert (await engine.generate(HELLO, ignore_pieces)).text == SAID

    on_server(use, Behaviour(script=(script,)), "?timeout_s=0.15&stall_s=0.15")


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("503", "overloaded"),
        ("reset", "unreachable"),
        ("hang", "timeout"),
        ("cut", "unreachable"),
        ("garbage", "garbled"),
        ("negative_usage", "garbled"),
    ],
)
def test_each_fault_of_an_embedding_is_named(script: str, fault: str) -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        assert (await fault_of(engine.embed(EmbedRequest(texts=("a",))))).fault == fault
        assert (await engine.embed(EmbedRequest(texts=("a",)))).vectors.dtype == np.float32

    on_server(use, Behaviour(script=(script,)), "?timeout_s=0.15")


def test_a_prompt_that_is_too_long_says_by_how_much() -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        request = GenerateRequest(messages=(Message("user", "word " * 30),))
        error = await fault_of(engine.generate(request, ignore_pieces))
        assert (error.prompt_tokens, error.context_tokens) == (30, 20)

    on_server(use, Behaviour(context_tokens=20))


@pytest.mark.parametrize(("script", "fault"), [("hang", "timeout"), ("stall", "stalled")])
def test_a_call_ends_within_its_own_time_limit(script: str, fault: str) -> None:
    async def use(engine: Engine, server: EmulatedServer) -> None:
        request = msgspec.structs.replace(HELLO, timeout_s=0.05)
        error = await fault_of(engine.generate(request, ignore_pieces))
        assert (error.fault, "did not end in its 0.05 s" in str(error)) == (fault, True)

    on_server(use, Behaviour(script=(script,)))


# ---- servers that follow other rules


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The URL of a server that answers every call by one function."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def on_answer(response: Callable[[], web.StreamResponse], use: Callable[[Engine], Awaitable[None]]) -> None:
    async def handler(_http: web.Request) -> web.StreamResponse:
        return response()

    async def main() -> None:
        async with answering(handler) as url, opened(f"{url}?model=m") as engine:
            await use(engine)

    asyncio.run(main())


def test_a_server_that_does_not_stream_is_understood() -> None:
    async def use(engine: Engine) -> None:
        pieces: list[Piece] = []
        assert (await engine.generate(HELLO, pieces.append)).text == "Hi."
        assert [piece.text for piece in pieces] == ["Hi."]

    body = {"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]}
    on_answer(lambda: web.json_response(body), use)


@pytest.mark.parametrize(
    ("response", "fault", "said"),
    [
        (lambda: web.Response(text="<html>", content_type="text/html"), "garbled", "no event stream"),
        (
            lambda: web.Response(text=": hi\n\n", content_type="text/event-stream"),
            "garbled",
            "no event stream",
        ),
        (lambda: web.Response(text='data: {"choices":[]}\n\n'), "unreachable", "before the first token"),
        (lambda: web.json_response({"error": {"message": "full", "code": 503}}), "overloaded", "status 503"),
        (lambda: web.json_response({}), "garbled", "without any choice"),
        (
            lambda: web.Response(status=307, headers={"Location": "http://h/"}),
            "refused",
            "sends us elsewhere",
        ),
        (lambda: web.Response(status=500, body=b"\xff" * 100_000), "failed", r"\(status 500\)"),
    ],
)
def test_an_answer_that_is_none_is_named(
    response: Callable[[], web.StreamResponse], fault: str, said: str
) -> None:
    async def use(engine: Engine) -> None:
        error = await fault_of(engine.generate(HELLO, ignore_pieces))
        assert error.fault == fault, error
        assert said.replace("\\", "") in str(error)

    on_answer(response, use)


def test_an_error_after_the_first_token_is_a_broken_stream() -> None:
    text = (
        'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"error":{"message":"boom","code":500}}\n\n'
    )

    async def use(engine: Engine) -> None:
        error = await fault_of(engine.generate(HELLO, ignore_pieces))
        assert (error.fault, error.status) == ("stalled", 500)

    on_answer(lambda: web.Response(text=text, content_type="text/event-stream"), use)


def test_a_connection_that_stays_open_after_the_end_does_not_hold_the_answer_back() -> None:
    async def handler(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n')
        await over.wait()
        return response

    async def main() -> None:
        async with answering(handler) as url, opened(f"{url}?model=m") as engine:
            assert (await engine.generate(HELLO, ignore_pieces)).text == "a"
            over.set()

    over = asyncio.Event()
    asyncio.run(main())
