from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

import sage.testing
from sage.engines.base import EmbedRequest, GenerateRequest, Message, Piece, ignore_pieces, open_engine
from sage.errors import EngineError, InputError
from sage.settings import Settings
from sage.testing import FakeEngine, run_virtual
from sage.testing.conformance import EMBED_CHECKS, GENERATE_CHECKS, Check

HELLO = GenerateRequest(messages=(Message("user", "hello big world"),))


@pytest.mark.parametrize("check", GENERATE_CHECKS + EMBED_CHECKS)
def test_the_fake_engine_conforms(check: Check) -> None:
    run_virtual(check(FakeEngine(answer_tokens=300, limit=4, token_s=0.01)))


@pytest.mark.parametrize("can", ["generate", "embed"])
def test_a_fake_engine_of_one_kind_refuses_the_other(can: str) -> None:
    check = next(check for check in EMBED_CHECKS if check.__name__ == "check_refuses_what_it_cannot")
    run_virtual(check(FakeEngine(can=(can,))))  # type: ignore[arg-type] # the two literals


def test_it_answers_what_it_is_told_in_tokens() -> None:
    pieces: list[Piece] = []
    engine = FakeEngine(answer=lambda request: request.messages[0].content.upper())
    reply = run_virtual(engine.generate(HELLO, pieces.append))
    assert (reply.text, [piece.text for piece in pieces]) == ("HELLO BIG WORLD", ["HELLO ", "BIG ", "WORLD"])
    assert msgspec.structs.astuple(reply.usage)[:2] == (3, 3)


def test_time_passes_as_told() -> None:
    async def main() -> list[float]:
        times: list[float] = []
        engine = FakeEngine(answer=lambda _request: "a b c", ttft_s=1.0, token_s=0.25)
        await engine.generate(HELLO, lambda _piece: times.append(asyncio.get_running_loop().time()))
        return times

    assert run_virtual(main()) == [1.0, 1.25, 1.5]


def test_calls_beyond_the_limit_wait() -> None:
    async def main() -> float:
        engine = FakeEngine(limit=2, text_s=1.0)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(engine.embed(EmbedRequest(texts=("a",))))
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 3.0


def test_faults_come_in_order_and_stalled_after_the_first_piece() -> None:
    async def main() -> None:
        faults = (EngineError("x", fault="overloaded"), None, EngineError("y", fault="stalled"))
        engine = FakeEngine(faults=faults)
        assert await outcome(engine) == ("overloaded", 0)
        assert await outcome(engine) == (None, 5)
        assert await outcome(engine) == ("stalled", 1)
        assert await outcome(engine) == (None, 5)
        assert len(engine.requests) == 4

    async def outcome(engine: FakeEngine) -> tuple[str | None, int]:
        pieces: list[Piece] = []
        try:
            await engine.generate(HELLO, pieces.append)
        except EngineError as error:
            return error.fault, len(pieces)
        return None, len(pieces)

    run_virtual(main())


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.generate(msgspec.structs.replace(HELLO, timeout_s=1.0), ignore_pieces),
        lambda engine: engine.embed(EmbedRequest(texts=("a",), timeout_s=1.0)),
    ],
)
def test_a_call_ends_within_its_time_limit(call: Callable[[FakeEngine], object]) -> None:
    with pytest.raises(EngineError, match="its 1 s") as caught:
        run_virtual(call(FakeEngine(ttft_s=2.0, text_s=2.0)))  # type: ignore[arg-type] # a coroutine
    assert caught.value.fault == "timeout"


def test_texts_that_share_words_are_near_each_other() -> None:
    texts = ("the cat sat on the mat", "a cat on a mat", "interest rates rose again")
    vectors = run_virtual(FakeEngine().embed(EmbedRequest(texts=texts))).vectors
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2
    assert np.allclose(similarity.diagonal(), 1.0)


def test_it_is_opened_by_address_once_sage_testing_is_imported() -> None:
    async def main() -> None:
        assert sage.testing.__name__ == "sage.testing"
        async with open_engine("fake:one?limit=3&ttft_s=2&answer_tokens=2", Settings()) as engine:
            assert (engine.info.address, engine.info.limit) == ("fake:one", 3)
            assert (await engine.generate(HELLO, ignore_pieces)).text == "hello big"
            assert asyncio.get_running_loop().time() == 2.0

    run_virtual(main())


@pytest.mark.parametrize(
    ("options", "said"), [("limits=3", "did you mean 'limit'"), ("limit=x", "cannot be read")]
)
def test_its_address_refuses_what_it_does_not_know(options: str, said: str) -> None:
    async def main() -> None:
        async with open_engine(f"fake:one?{options}", Settings()):
            pass

    with pytest.raises(InputError, match=said):
        run_virtual(main())
