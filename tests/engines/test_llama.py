"""Embedded llama.cpp: GGUF files read, options, and (with the model) the engine itself."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.engines.base import Engine, GenerateRequest, Message, Piece, ignore_pieces, open_engine
from sage.engines.llama_gguf import read_gguf
from sage.errors import EngineError, InputError, SageError, SetupError
from sage.settings import Settings
from sage.testing.conformance import GENERATE_CHECKS, Check

SMALL = "llama:smollm2-135m-instruct?slots=2&ctx=1024"


def gguf(facts: dict[str, Any], *, version: int = 3, offset: int = 0) -> bytes:
    """A GGUF file with one tensor of 64 bytes."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    def value(said: Any) -> bytes:
        if isinstance(said, str):
            return struct.pack("<I", 8) + string(said)
        if isinstance(said, list):
            return struct.pack("<IIQ", 9, 8, len(said)) + b"".join(map(string, said))
        return struct.pack("<II", 4, said)

    out = b"GGUF" + struct.pack("<IQQ", version, 1, len(facts))
    out += b"".join(string(name) + value(said) for name, said in facts.items())
    out += string("token_embd.weight") + struct.pack("<IQIQ", 1, 16, 0, offset)
    return out + b"\0" * (-len(out) % 32) + b"\1" * 64


FACTS: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.tokens": ["a", "bc", ""],
    "llama.context_length": 2048,
}


def test_a_gguf_says_its_architecture_and_context(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(FACTS))
    info = read_gguf(path)
    assert (info.architecture, info.context_tokens) == ("llama", 2048)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>not found</html>", r"is no GGUF file: it begins with b'<htm'"),
        (b"", "is no GGUF file"),
        (gguf(FACTS)[:-64], "is cut short; download it again"),
        (gguf(FACTS, offset=4096), "is cut short"),
        (gguf(FACTS)[:60], "is cut short"),
        (gguf(FACTS, version=9), "its version is 9"),
        (gguf({}), "does not say its architecture"),
    ],
)
def test_a_file_that_is_no_whole_gguf_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=said):
        read_gguf(path)


@given(st.integers(4, len(gguf(FACTS)) - 65), st.binary(min_size=1, max_size=8))
def test_damage_is_an_error_of_ours_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, bad: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    whole = gguf(FACTS)
    path.write_bytes(whole[:at] + bad + whole[at + len(bad) :])
    with contextlib.suppress(SetupError):
        read_gguf(path)


def opened(address: str, use: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_engine(address, Settings.load()) as engine:
            await use(engine)

    asyncio.run(main())


async def nothing(_engine: Engine) -> None:
    """Opening is all."""


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("llama:m?slot=2", "no option 'slot': did you mean 'slots'"),
        ("llama:m?slots=0", "has an option that cannot be read"),
        ("llama:m?ctx=some", "has an option that cannot be read"),
        ("llama:smollm2-135m", "did you mean 'smollm2-135m-instruct'"),
    ],
)
def test_a_wrong_address_is_refused(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        opened(address, nothing)


def test_a_missing_package_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(SetupError, match=r'type `pip install "sage-dataflow\[local\]"`'):
        opened("llama:smollm2-135m-instruct", nothing)


@pytest.mark.slow
def test_a_gguf_that_llama_cpp_cannot_load_is_one_clear_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(FACTS))
    with pytest.raises(SetupError, match=r"llama\.cpp cannot load"):
        opened(f"llama:{path}?ctx=256", nothing)
    assert capfd.readouterr() == ("", "")


# ---- with the built-in model


def ask(prompt: str, **said: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", prompt),), **said)


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("check", GENERATE_CHECKS, ids=lambda check: check.__name__)
def test_llama_is_an_engine(check: Check) -> None:
    opened("llama:smollm2-135m-instruct?ctx=1024", check)


@pytest.mark.models
@pytest.mark.slow
def test_a_call_cancelled_while_its_prompt_is_read_frees_its_slot() -> None:
    async def use(engine: Engine) -> None:
        long = ask("word " * 900)
        async with asyncio.timeout(20):
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(engine.generate(long, ignore_pieces)) for _ in range(2)]
                await asyncio.sleep(0.2)
                for call in calls:
                    call.cancel()
            await engine.generate(ask("Say yes.", max_tokens=1), ignore_pieces)

    opened(SMALL, use)


@pytest.mark.models
@pytest.mark.slow
def test_too_long_says_how_long() -> None:
    async def use(engine: Engine) -> None:
        with pytest.raises(EngineError, match="a call has room for 1,024") as caught:
            await engine.generate(ask("word " * 2000), ignore_pieces)
        assert caught.value.context_tokens == 1024
        assert caught.value.prompt_tokens is not None
        assert caught.value.prompt_tokens > 2000

    opened(SMALL, use)


@pytest.mark.models
@pytest.mark.slow
def test_a_time_limit_ends_the_call() -> None:
    async def use(engine: Engine) -> None:
        with pytest.raises(EngineError, match=r"did not end in its 0\.3 s") as caught:
            await engine.generate(ask("word " * 900, timeout_s=0.3), ignore_pieces)
        assert caught.value.fault == "timeout"
        with pytest.raises(EngineError) as caught:
            await engine.generate(ask("Tell a story.", max_tokens=900, timeout_s=2.5), ignore_pieces)
        assert caught.value.fault == "stalled"

    opened(SMALL, use)


@pytest.mark.models
@pytest.mark.slow
def test_an_error_of_the_caller_reaches_the_caller() -> None:
    def emit(_piece: Piece) -> None:
        raise ValueError("the caller's own")

    async def use(engine: Engine) -> None:
        with pytest.raises(ValueError, match="the caller's own"):
            await engine.generate(ask("Say yes."), emit)

    opened(SMALL, use)


@pytest.mark.models
@pytest.mark.slow
def test_an_impossible_schema_is_refused_without_the_prompt() -> None:
    async def use(engine: Engine) -> None:
        with pytest.raises(EngineError, match=r"llama\.cpp refused the call") as caught:
            await engine.generate(ask("a secret prompt", schema={"type": "nonsense"}), ignore_pieces)
        assert caught.value.fault == "refused"
        assert "secret" not in str(caught.value)

    opened(SMALL, use)


@pytest.mark.models
@pytest.mark.slow
def test_answers_at_temperature_0_do_not_depend_on_the_company() -> None:
    requests = [ask(f"Tell me about {what}.", max_tokens=24) for what in ("dogs", "the sea", "lists", "snow")]

    async def use(engine: Engine) -> None:
        alone = [(await engine.generate(request, ignore_pieces)).text for request in requests]
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(engine.generate(request, ignore_pieces)) for request in requests]
        assert [call.result().text for call in calls] == alone

    opened("llama:smollm2-135m-instruct?ctx=512", use)


@pytest.mark.models
@pytest.mark.slow
def test_closing_ends_what_runs_and_leaves_no_thread(capfd: pytest.CaptureFixture[str]) -> None:
    errors: list[SageError] = []

    async def main() -> None:
        async def call(engine: Engine) -> None:
            try:
                await engine.generate(ask("Tell a long story.", max_tokens=900), lambda _piece: begun.set())
            except SageError as error:
                errors.append(error)

        begun = asyncio.Event()
        async with asyncio.TaskGroup() as group, open_engine(SMALL, Settings.load()) as engine:
            group.create_task(call(engine))
            await begun.wait()
        await call(engine)

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before
    assert ["closed" in str(error) for error in errors] == [True, True]
    assert capfd.readouterr() == ("", "")


@pytest.mark.models
@pytest.mark.slow
def test_more_context_than_the_model_knows_is_refused() -> None:
    with pytest.raises(InputError, match="trained for 8,192 tokens"):
        opened("llama:smollm2-135m-instruct?ctx=9000", nothing)
