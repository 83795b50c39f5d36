"""What every engine must do, as checks over an open engine. An engine that passes may stand in a pool.

Feed them from a registry of openers, one test per engine and check:

    @pytest.mark.parametrize("check", GENERATE_CHECKS)
    def test_generates(check):
        async def main():
            async with open_engine("llama:smollm2-135m-instruct", Settings()) as engine:
                await check(engine)
        asyncio.run(main())

A check returns None or raises AssertionError with what was seen and expected. Nothing is assumed of the
model's wit: where an answer's content matters, a JSON schema forces it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from sage.engines.base import (
    CallsBack,
    EmbedRequest,
    Engine,
    GenerateRequest,
    Message,
    Piece,
    Reply,
    ignore_pieces,
)
from sage.errors import EngineError

__all__ = [
    "EMBED_CHECKS",
    "GENERATE_CHECKS",
    "Check",
    "check_calls_back",
    "check_cancel_frees_the_slot",
    "check_concurrent_calls_do_not_mix",
    "check_deterministic",
    "check_embed_batch_equals_singles",
    "check_embed_deterministic",
    "check_embed_nothing",
    "check_embed_unit_rows",
    "check_max_tokens",
    "check_refuses_what_it_cannot",
    "check_schema",
    "check_stop_strings",
    "check_streams",
    "check_too_long",
    "check_usage",
]

#: One property of an open engine. Raises AssertionError when the engine lacks it.
Check = Callable[[Engine], Coroutine[Any, Any, None]]

CALLS_AT_ONCE = 4
#: An engine has a second to free a slot (RELIABILITY R16); the rest is for the answer on a busy machine.
SLOT_FREE_WITHIN_S = 6.0

TEXTS = (
    "The bisect module keeps a list in sorted order.",
    "A heap is a binary tree.",
    "Ein kurzer Satz auf Deutsch, mit Umlauten: äöü.",
    "heap",
    "Sorting, searching and inserting are what the standard library is often asked for. " * 6,
)


async def check_streams(engine: Engine) -> None:
    """The pieces, in the order they came, are the answer; each channel apart."""
    pieces: list[Piece] = []
    reply = await engine.generate(_ask("Name three colours.", max_tokens=24), pieces.append)
    assert reply.text, "an empty answer to a plain question"
    assert _joined(pieces, "text") == reply.text, (
        f"pieces give {_joined(pieces, 'text')!r}, reply {reply.text!r}"
    )
    assert _joined(pieces, "reasoning") == reply.reasoning, "the reasoning pieces differ from reply.reasoning"


async def check_usage(engine: Engine) -> None:
    """Usage is counted, consistent, and grows with the prompt where the backend counts prompts."""
    short = (await engine.generate(_ask("Say yes.", max_tokens=8), ignore_pieces)).usage
    long = (await engine.generate(_ask("Say yes. " * 40, max_tokens=8), ignore_pieces)).usage
    for usage in (short, long):
        assert usage.prompt_tokens >= 0, usage
        assert 0 < usage.completion_tokens <= 8, usage
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens, usage
    if short.counted_by != "pieces":
        assert 0 < short.prompt_tokens < long.prompt_tokens, f"{short} for a short prompt, {long} for a long"


async def check_max_tokens(engine: Engine) -> None:
    """An answer that would go on is cut after ``max_tokens``, and says so."""
    reply = await engine.generate(_ask("Write a long story about the sea.", max_tokens=3), ignore_pieces)
    assert reply.usage.completion_tokens <= 3, reply.usage
    assert reply.finish == "length", f"finish {reply.finish!r}, expected 'length'"


async def check_deterministic(engine: Engine) -> None:
    """At temperature 0 the same call gives the same answer."""
    request = _ask("What is a list?", max_tokens=16)
    first = await engine.generate(request, ignore_pieces)
    second = await engine.generate(request, ignore_pieces)
    assert first.text == second.text, f"{first.text!r}, then {second.text!r}"


async def check_schema(engine: Engine) -> None:
    """An answer under a JSON schema is JSON that satisfies it."""
    schema = _object(size={"enum": ["small", "large"]}, wet={"type": "boolean"})
    reply = await engine.generate(_ask("Describe the sea.", max_tokens=64, schema=schema), ignore_pieces)
    value = msgspec.json.decode(reply.text)
    assert isinstance(value, dict), reply.text
    assert set(value) == {"size", "wet"}, reply.text
    assert value["size"] in {"small", "large"}, reply.text
    assert isinstance(value["wet"], bool), reply.text


async def check_stop_strings(engine: Engine) -> None:
    """The answer ends before the first stop string, which is not part of it."""
    whole = await engine.generate(_ask("Describe the sea.", max_tokens=24), ignore_pieces)
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 4]
    pieces: list[Piece] = []
    reply = await engine.generate(_ask("Describe the sea.", max_tokens=24, stop=(stop,)), pieces.append)
    assert reply.text == whole.text.partition(stop)[0], f"{reply.text!r} of {whole.text!r}, stop {stop!r}"
    assert reply.finish == "stop", f"finish {reply.finish!r}, expected 'stop'"
    assert _joined(pieces, "text") == reply.text, "part of the stop string was streamed"


async def check_cancel_frees_the_slot(engine: Engine) -> None:
    """Calls cancelled in the middle of their answers leave room for another one at once."""
    async with asyncio.timeout(SLOT_FREE_WITHIN_S * 5):
        await _cancel_in_mid_answer(engine, min(engine.info.limit, 64))
    async with asyncio.timeout(SLOT_FREE_WITHIN_S):
        reply = await engine.generate(_ask("Say yes.", max_tokens=1), ignore_pieces)
    assert reply.usage.completion_tokens == 1, reply.usage


async def check_concurrent_calls_do_not_mix(engine: Engine) -> None:
    """Answers and pieces of calls made at once reach their own callers."""
    pieces: list[list[Piece]] = [[] for _ in range(CALLS_AT_ONCE)]
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(
                engine.generate(
                    _ask(
                        f"This is call {number}.", max_tokens=48, schema=_object(id={"enum": [str(number)]})
                    ),
                    pieces[number].append,
                )
            )
            for number in range(CALLS_AT_ONCE)
        ]
    for number, call in enumerate(calls):
        reply: Reply = call.result()
        assert msgspec.json.decode(reply.text) == {"id": str(number)}, f"call {number} got {reply.text!r}"
        assert _joined(pieces[number], "text") == reply.text, f"call {number} got another call's pieces"


async def check_calls_back(engine: Engine) -> None:
    """An engine that calls back does so once, later, with what it would have returned; never after an abort."""
    if not isinstance(engine, CallsBack):
        return
    ended: list[Reply | EngineError] = []
    whole = asyncio.Event()

    def keep(outcome: Reply | EngineError) -> None:
        ended.append(outcome)
        whole.set()

    request = _ask("Name three colours.", max_tokens=8)
    aborted = engine.begin(_ask("Name three more.", max_tokens=8), ignore_pieces, ended.append)
    engine.begin(request, ignore_pieces, keep)
    assert not ended, "it called back before it had returned"
    aborted()
    async with asyncio.timeout(SLOT_FREE_WITHIN_S * 5):
        await whole.wait()
        again = await engine.generate(request, ignore_pieces)
    aborted()
    assert [getattr(outcome, "text", outcome) for outcome in ended] == [again.text]


async def check_too_long(engine: Engine) -> None:
    """A prompt beyond the context is refused as such. Not checked where the context is not known."""
    context_tokens = engine.info.context_tokens
    if context_tokens is None:
        return
    request = _ask("word " * (context_tokens + 64), max_tokens=4)
    error = await _error_of(engine.generate(request, ignore_pieces))
    assert error is not None, f"over {context_tokens} tokens were answered; is the prompt cut in silence?"
    assert error.fault == "too_long", f"fault {error.fault!r}, expected 'too_long': {error}"


async def check_refuses_what_it_cannot(engine: Engine) -> None:
    """A kind of call that ``info.can`` does not list is refused, not attempted."""
    if "generate" not in engine.info.can:
        _expect_refused(await _error_of(engine.generate(_ask("Say yes."), ignore_pieces)))
    if "embed" not in engine.info.can:
        _expect_refused(await _error_of(engine.embed(EmbedRequest(texts=("text",)))))


async def check_embed_unit_rows(engine: Engine) -> None:
    """One float32 row of length 1 per text."""
    import numpy as np

    reply = await engine.embed(EmbedRequest(texts=TEXTS))
    assert reply.vectors.dtype == np.float32, reply.vectors.dtype
    assert reply.vectors.ndim == 2, reply.vectors.shape
    assert reply.vectors.shape[0] == len(TEXTS), reply.vectors.shape
    assert engine.info.dimension in {None, reply.vectors.shape[1]}, (engine.info, reply.vectors.shape)
    lengths = np.linalg.norm(reply.vectors, axis=1)
    assert np.allclose(lengths, 1.0, atol=1e-4), lengths
    assert reply.usage.prompt_tokens >= 0, reply.usage


async def check_embed_deterministic(engine: Engine) -> None:
    """The same texts give the same vectors."""
    import numpy as np

    first = (await engine.embed(EmbedRequest(texts=TEXTS))).vectors
    second = (await engine.embed(EmbedRequest(texts=TEXTS))).vectors
    assert np.allclose(first, second, atol=1e-6), float(np.abs(first - second).max())


async def check_embed_batch_equals_singles(engine: Engine) -> None:
    """What else is in the call, and in which order, changes no vector."""
    import numpy as np

    batch = (await engine.embed(EmbedRequest(texts=TEXTS))).vectors
    for row, text in zip(batch, TEXTS, strict=True):
        single = (await engine.embed(EmbedRequest(texts=(text,)))).vectors[0]
        difference = float(np.abs(row - single).max())
        assert difference <= 1e-5, f"{text[:40]!r} differs by {difference} when embedded alone"


async def check_embed_nothing(engine: Engine) -> None:
    """No texts give no rows, and no error."""
    reply = await engine.embed(EmbedRequest(texts=()))
    assert reply.vectors.ndim == 2, reply.vectors.shape
    assert reply.vectors.shape[0] == 0, reply.vectors.shape
    assert reply.usage.prompt_tokens == 0, reply.usage


GENERATE_CHECKS: tuple[Check, ...] = (
    check_streams,
    check_usage,
    check_max_tokens,
    check_deterministic,
    check_schema,
    check_stop_strings,
    check_cancel_frees_the_slot,
    check_concurrent_calls_do_not_mix,
    check_calls_back,
    check_too_long,
    check_refuses_what_it_cannot,
)

EMBED_CHECKS: tuple[Check, ...] = (
    check_embed_unit_rows,
    check_embed_deterministic,
    check_embed_batch_equals_singles,
    check_embed_nothing,
    check_refuses_what_it_cannot,
)


def _ask(
    prompt: str, *, max_tokens: int = 16, stop: tuple[str, ...] = (), schema: dict[str, Any] | None = None
) -> GenerateRequest:
    messages = (Message("user", prompt),)
    return GenerateRequest(messages=messages, max_tokens=max_tokens, stop=stop, schema=schema)


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _joined(pieces: list[Piece], channel: str) -> str:
    return "".join(piece.text for piece in pieces if piece.channel == channel)


async def _cancel_in_mid_answer(engine: Engine, count: int) -> None:
    """Start ``count`` long answers and cancel each at its first piece."""

    async def one(number: int) -> None:
        begun = asyncio.Event()
        request = _ask(f"Write a very long story about {number} ships.", max_tokens=512)
        call = group.create_task(engine.generate(request, lambda _piece: begun.set()))
        call.add_done_callback(lambda _call: begun.set())
        await begun.wait()
        call.cancel()

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


async def _error_of(call: Awaitable[object]) -> EngineError | None:
    try:
        await call
    except EngineError as error:
        return error
    return None


def _expect_refused(error: EngineError | None) -> None:
    assert error is not None, "the engine did what info.can does not list"
    assert error.fault == "refused", f"fault {error.fault!r}, expected 'refused': {error}"
