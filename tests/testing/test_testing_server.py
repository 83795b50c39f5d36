from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec
import pytest

from sage.errors import InputError
from sage.testing.behaviour import FAULTS, Behaviour, Fault, FaultPlan, from_arguments, to_arguments
from sage.testing.server import EmulatedServer, main

ASK: dict[str, Any] = {"model": "emulated", "messages": [{"role": "user", "content": "one two three"}]}

Post = Callable[[str, Any], Awaitable[tuple[int, Any]]]


def asking(
    use: Callable[[Post, EmulatedServer], Awaitable[None]], behaviour: Behaviour | None = None
) -> None:
    """Run ``use`` with a function that posts JSON to an emulated server."""

    async def running() -> None:
        async with EmulatedServer(behaviour) as server, aiohttp.ClientSession() as session:

            async def post(path: str, body: Any) -> tuple[int, Any]:
                async with session.post(f"{server.url}/{path}", data=msgspec.json.encode(body)) as response:
                    return response.status, msgspec.json.decode(await response.read())

            await use(post, server)

    asyncio.run(running())


def test_an_answer_in_one_piece_has_the_counts_of_its_words() -> None:
    async def use(post: Post, server: EmulatedServer) -> None:
        status, body = await post("chat/completions", ASK)
        assert (status, body["model"]) == (200, "emulated")
        assert body["choices"][0]["message"]["content"] == "You said: one two three"
        assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (3, 5)

    asking(use)


def test_a_message_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "one two "}, {"type": "text", "text": "three"}]

    async def use(post: Post, server: EmulatedServer) -> None:
        status, body = await post(
            "chat/completions", {**ASK, "messages": [{"role": "user", "content": parts}]}
        )
        assert (status, body["object"]) == (200, "chat.completion")
        assert body["choices"][0]["message"]["content"] == "You said: one two three"

    asking(use)


def test_embeddings_come_numbered_and_not_in_order() -> None:
    async def use(post: Post, server: EmulatedServer) -> None:
        _, body = await post("embeddings", {"model": "emulated", "input": ["a", "b", "c"]})
        assert [row["index"] for row in body["data"]] == [2, 1, 0]

    asking(use)


@pytest.mark.parametrize(
    ("body", "status"),
    [({**ASK, "model": "gpt"}, 404), ({}, 400), ({**ASK, "max_tokens": "many"}, 400), ([], 400)],
)
def test_what_is_no_request_is_refused(body: Any, status: int) -> None:
    async def use(post: Post, server: EmulatedServer) -> None:
        assert (await post("chat/completions", body))[0] == status
        assert server.truth[-1].status == status

    asking(use)


def test_the_truth_is_told_over_http() -> None:
    async def use(post: Post, server: EmulatedServer) -> None:
        await post("chat/completions", ASK)
        await post("chat/completions", ASK)
        async with (
            aiohttp.ClientSession() as session,
            session.get(server.url.removesuffix("/v1") + "/truth") as response,
        ):
            told = msgspec.json.decode(await response.read())
        first, second = told["requests"]
        assert told["emulated"] is True
        assert (
            first["arrived"] <= first["ended"] <= second["arrived"] <= second["dispatched"] <= second["ended"]
        )
        assert first["dispatched"] is None
        assert [(call["attempt"], call["fault"]) for call in (first, second)] == [(1, "503"), (2, None)]

    asking(use, Behaviour(script=("503", "ok")))


def test_calls_beyond_the_capacity_wait_for_a_slot() -> None:
    async def use(post: Post, server: EmulatedServer) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(post("chat/completions", ASK))  # type: ignore[arg-type] # a coroutine
        calls = sorted(server.truth, key=lambda call: call.dispatched or 0.0)
        for before, after in pairwise(calls):
            assert before.ended is not None
            assert after.dispatched is not None
            assert after.dispatched >= before.ended - 0.001

    asking(use, Behaviour(concurrency=1, ttft_s=0.005))


# ---- faults


def test_seeded_faults_depend_on_the_request_alone() -> None:
    bodies = [str(number).encode() for number in range(200)]
    behaviour = Behaviour(rates={"503": 0.2, "reset": 0.1}, seed=4)
    forwards, backwards = FaultPlan(behaviour), FaultPlan(behaviour)
    there = {body: forwards.next(body) for body in bodies}
    assert there == {body: backwards.next(body) for body in reversed(bodies)}
    seen = Counter(fault.name for fault, _ in there.values() if fault is not None)
    assert 25 <= seen["503"] <= 55
    assert 8 <= seen["reset"] <= 35


def test_poison_stays_and_other_faults_pass() -> None:
    poison = FaultPlan(Behaviour(rates={"poison": 0.5}))
    passing = FaultPlan(Behaviour(rates={"503": 0.5}))
    for number in range(50):
        body = str(number).encode()
        assert len({poison.next(body)[0] for _ in range(10)}) == 1
        assert None in {passing.next(body)[0] for _ in range(40)}


@pytest.mark.parametrize("name", ["429", "503@2", "529@0.1", *FAULTS])
def test_every_fault_can_be_named(name: str) -> None:
    fault = Fault.parse(name)
    assert fault.name == name.partition("@")[0]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (Behaviour(script=("resett",)), "did you mean 'reset'"),
        (Behaviour(script=("200",)), "unknown fault '200'"),
        (Behaviour(rates={"503": 0.6, "reset": 0.5}), "add up to at most 1"),
        (Behaviour(rates={"503": -0.1}), "between 0 and 1"),
    ],
)
def test_faults_that_cannot_be_are_refused(behaviour: Behaviour, said: str) -> None:
    with pytest.raises(InputError, match=said):
        FaultPlan(behaviour)


# ---- the command line


def test_a_behaviour_survives_the_command_line() -> None:
    behaviour = Behaviour(
        ttft_s=0.5,
        answer_tokens=7,
        reasoning=True,
        usage=False,
        script=("429@1", "ok"),
        rates={"503": 0.25},
        seed=3,
    )
    words = dict(argument.removeprefix("--").split("=", 1) for argument in to_arguments(behaviour))
    assert from_arguments({name.replace("-", "_"): value for name, value in words.items()}) == behaviour


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ttft-s=soon"], "cannot be read"),
        (["--script=oops"], "unknown fault"),
        (["--what"], "unrecognized"),
    ],
)
def test_a_wrong_command_line_is_said_and_ends_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
