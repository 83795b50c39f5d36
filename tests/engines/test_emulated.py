"""The emulated engine: equal to a naive stepper, on any clock, and honest about what it is not."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import EngineError, InputError
from sage.engines.base import EmbedRequest, GenerateRequest, Message, Piece, ignore_pieces, open_engine
from sage.engines.emulated import EmulatedEngine, EmulatedOptions
from sage.engines.emulated_profile import PROFILES, Profile, answer_lengths, load_profile
from sage.engines.emulated_steps import Batching, Capacity, Sequence, StepTimes, service_s
from sage.settings import Settings
from sage.testing import run_virtual
from sage.testing.conformance import EMBED_CHECKS, GENERATE_CHECKS, Check, check_stop_strings

TINY = Capacity(max_seqs=3, max_step_tokens=8, kv_tokens=60, context_tokens=50)


# ---- the reference: one step at a time


@dataclass
class Asked:
    """A request of a test: when it comes, how long it is, when its caller gives up."""

    at: float
    prompt: int
    output: int
    given_up: float | None = None


@dataclass
class Row:
    number: int
    asked: Asked
    left: int
    context: int
    yielded: int = 0


def stepped(times: StepTimes, capacity: Capacity, asked: list[Asked]) -> dict[tuple[int, int], float]:
    """When every token of every request comes, by carrying out each step."""
    coming = [Row(number, one, one.prompt, one.prompt) for number, one in enumerate(asked)]
    waiting: list[Row] = []
    running: list[Row] = []
    tokens: dict[tuple[int, int], float] = {}
    now = 0.0
    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0].asked.at)
        while coming and coming[0].asked.at <= now:
            waiting.append(coming.pop(0))
        waiting = [
            row for row in waiting if not (row.asked.given_up is not None and row.asked.given_up <= now)
        ]
        decoding = [row for row in running if row.left == 0]
        preempted = False
        while sum(row.context for row in running) + len(decoding) > capacity.kv_tokens:
            last = running.pop()
            last.left = last.context
            waiting.insert(0, last)
            decoding = [row for row in running if row.left == 0]
            preempted = True
        budget = capacity.max_step_tokens - len(decoding)
        chunks: list[tuple[Row, int]] = []
        for row in running:
            if row.left and budget:
                chunks.append((row, min(row.left, budget)))
                budget -= chunks[-1][1]
        while waiting and budget and not preempted and len(running) < capacity.max_seqs:
            held = sum(row.context for row in running) + len(decoding)
            if held + waiting[0].context + 1 > capacity.kv_tokens:
                break
            row = waiting.pop(0)
            running.append(row)
            chunks.append((row, min(row.left, budget)))
            budget -= chunks[-1][1]
        if not running:
            continue
        prefill = sum(taken for _, taken in chunks)
        now += times.of(prefill, len(decoding), sum(row.context for row in decoding))
        gone = [row for row in running if row.asked.given_up is not None and row.asked.given_up <= now]
        for row, taken in chunks:
            row.left -= taken
        for row in [*decoding, *(row for row, _ in chunks if row.left == 0)]:
            row.context += 1
            row.yielded += 1
            if row not in gone:
                tokens[row.number, row.yielded] = now
        running = [row for row in running if row not in gone and row.yielded < row.asked.output]
    return tokens


def batched(
    times: StepTimes, capacity: Capacity, asked: list[Asked], *, streams: bool
) -> dict[tuple[int, int], float]:
    """The same by the engine's own batching, driven as its engine drives it."""
    batch = Batching(times, capacity)
    sequences = [Sequence(one.prompt, one.output, streams=streams) for one in asked]
    number = {sequence: index for index, sequence in enumerate(sequences)}
    agenda = [(one.at, 1, index) for index, one in enumerate(asked)]
    agenda += [(one.given_up, 0, index) for index, one in enumerate(asked) if one.given_up is not None]
    tokens: dict[tuple[int, int], float] = {}

    def tell(now: float) -> None:
        for told in batch.advance(now):
            tokens[number[told.sequence], told.token] = told.time

    for at, kind, index in sorted(agenda):
        while (due := batch.next_time) is not None and due < at:
            tell(due)
        if kind:
            batch.submit(sequences[index], at)
        elif sequences[index].state != "over":
            batch.abort(sequences[index], at)
    while (due := batch.next_time) is not None:
        tell(due)
    assert batch.running == batch.waiting == 0
    return tokens


def dyadic(most: int, least: int = 0) -> st.SearchStrategy[float]:
    """Numbers whose sums are exact, so that ties are ties."""
    return st.integers(least, most).map(lambda n: n / 64)


@st.composite
def requests(draw: Any, give_up: bool) -> list[Asked]:
    count = draw(st.integers(1, 12))
    found = []
    for _ in range(count):
        prompt, output = draw(st.integers(1, 30)), draw(st.integers(1, 20))
        at = draw(dyadic(2000))
        # never on the boundary of a step: who comes first there is nobody's promise
        given_up = at + draw(dyadic(900, 1)) + 1 / 1024 if give_up and draw(st.booleans()) else None
        found.append(Asked(at, prompt, output, given_up))
    return sorted(found, key=lambda one: one.at)


STEPS = st.builds(
    StepTimes, a_s=dyadic(128, 1), b_s=dyadic(8), c_s=dyadic(16), d_s=st.sampled_from([0.0, 1 / 64, 1 / 32])
)
CAPACITIES = st.builds(
    Capacity,
    max_seqs=st.integers(1, 6),
    max_step_tokens=st.integers(6, 40),
    kv_tokens=st.integers(50, 120),
)


@given(STEPS, CAPACITIES, requests(give_up=False))
def test_steps_taken_together_give_the_times_of_steps_taken_one_by_one(
    times: StepTimes, capacity: Capacity, asked: list[Asked]
) -> None:
    every = stepped(times, capacity, asked)
    assert batched(times, capacity, asked, streams=True) == every
    ends = {(n, token): at for (n, token), at in every.items() if token in {1, asked[n].output}}
    assert batched(times, capacity, asked, streams=False) == ends


@given(STEPS, CAPACITIES, requests(give_up=True))
def test_requests_that_are_given_up_leave_the_others_as_a_naive_engine_would(
    times: StepTimes, capacity: Capacity, asked: list[Asked]
) -> None:
    assert batched(times, capacity, asked, streams=True) == stepped(times, capacity, asked)


def test_a_request_alone_takes_what_the_formula_says() -> None:
    times = StepTimes(a_s=0.5, b_s=0.25, c_s=0.125, d_s=0.0625)
    batch = Batching(times, TINY)
    batch.submit(Sequence(prompt=20, output=5), 0.0)
    (_, last) = batch.advance(1e9)
    assert last.time == service_s(times, 20, 5, TINY.max_step_tokens)


def test_a_full_cache_preempts_the_last_one_in_and_everyone_is_served() -> None:
    asked = [Asked(0.0, 20, 25), Asked(0.0, 20, 25)]
    times = StepTimes(a_s=1.0)
    both = batched(times, TINY, asked, streams=False)
    assert both[0, 25] < both[1, 25]
    assert both[1, 25] > 2 + 25 + 5  # its context was prefilled twice


# ---- as an engine


def ask(text: str = "why?", max_tokens: int = 10, **more: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", text),), max_tokens=max_tokens, **more)


STEPWISE = Profile(name="stepwise", source="a test", step=StepTimes(a_s=1.0), capacity=TINY)


async def at_time(engine: EmulatedEngine, request: GenerateRequest) -> tuple[float, list[float]]:
    """When the answer is there, and when its pieces came."""
    loop, pieces = asyncio.get_running_loop(), list[float]()
    await engine.generate(request, lambda _piece: pieces.append(loop.time()))
    return loop.time(), pieces


def test_pieces_come_in_their_time_and_together_are_the_answer() -> None:
    async def main() -> None:
        pieces: list[Piece] = []
        engine = EmulatedEngine(STEPWISE)
        reply = await engine.generate(ask(), pieces.append)
        assert "".join(piece.text for piece in pieces) == reply.text
        assert reply.usage.completion_tokens == len(pieces) == 10
        assert await at_time(engine, ask()) == (20.0, [float(n) for n in range(11, 21)])

    run_virtual(main())


def test_first_pieces_only_end_at_the_same_time() -> None:
    async def main() -> None:
        engine = EmulatedEngine(STEPWISE, EmulatedOptions(pieces="first"))
        assert await at_time(engine, ask()) == (10.0, [1.0])

    run_virtual(main())


def test_a_prompt_under_way_slows_down_who_is_decoding() -> None:
    async def main() -> None:
        profile = msgspec.structs.replace(STEPWISE, step=StepTimes(a_s=1.0, b_s=1.0))
        engine = EmulatedEngine(profile, EmulatedOptions(pieces="first"))
        alone, _ = await at_time(engine, ask("x", 5))
        async with asyncio.TaskGroup() as group:
            first = group.create_task(at_time(engine, ask("x", 5)))
            await asyncio.sleep(2.5)
            group.create_task(at_time(engine, ask("x" * 40, 2)))
        assert first.result()[0] - alone > alone

    run_virtual(main())


def test_an_aborted_call_frees_its_place() -> None:
    async def main() -> float:
        profile = msgspec.structs.replace(STEPWISE, capacity=Capacity(max_seqs=1, max_step_tokens=8))
        engine = EmulatedEngine(profile)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(engine.generate(ask(max_tokens=1000), ignore_pieces))
            await asyncio.sleep(0.5)
            second = group.create_task(at_time(engine, ask(max_tokens=2)))
            await asyncio.sleep(1)
            first.cancel()
        return second.result()[0]

    assert run_virtual(main()) == 4.0  # aborted within the second step, two of its own follow


def test_a_call_that_takes_too_long_times_out() -> None:
    async def main() -> None:
        with pytest.raises(EngineError) as caught:
            await EmulatedEngine(STEPWISE).generate(ask(timeout_s=2.5), ignore_pieces)
        assert caught.value.fault == "timeout"
        assert asyncio.get_running_loop().time() == 2.5

    run_virtual(main())


@pytest.mark.parametrize("profile", [STEPWISE, PROFILES["constant"]], ids=lambda profile: profile.name)
def test_it_calls_back_with_what_it_would_have_returned(profile: Profile) -> None:
    async def main() -> None:
        loop, ended = asyncio.get_running_loop(), list[Any]()
        engine = EmulatedEngine(profile)
        reply = await engine.generate(ask(), ignore_pieces)
        took_s = loop.time()
        engine.begin(ask(), ignore_pieces, ended.append)
        engine.begin(ask(timeout_s=took_s / 2), ignore_pieces, ended.append)
        engine.begin(ask("x" * 1_000_000), ignore_pieces, ended.append)
        assert not ended  # never before it has returned
        await asyncio.sleep(took_s)
        assert [getattr(one, "fault", one) for one in ended] == ["too_long", "timeout", reply]

    run_virtual(main())


@pytest.mark.parametrize("profile", [STEPWISE, PROFILES["constant"]], ids=lambda profile: profile.name)
def test_who_aborted_is_not_called_back(profile: Profile) -> None:
    async def main() -> None:
        engine, ended = EmulatedEngine(profile), list[Any]()
        aborts = [
            engine.begin(ask(text), ignore_pieces, ended.append) for text in ("a", "b", "x" * 1_000_000)
        ]
        await asyncio.sleep(0)
        for abort in (*aborts, *aborts):
            abort()
        await asyncio.sleep(100)
        assert [one.fault for one in ended] == ["too_long"]
        assert (await engine.generate(ask(max_tokens=1), ignore_pieces)).usage.completion_tokens == 1

    run_virtual(main())


def test_a_prompt_that_does_not_fit_is_refused_with_both_sizes() -> None:
    async def main() -> None:
        with pytest.raises(EngineError) as caught:
            await EmulatedEngine(STEPWISE).generate(ask("x" * 400), ignore_pieces)
        assert (caught.value.fault, caught.value.prompt_tokens, caught.value.context_tokens) == (
            "too_long",
            101,
            50,
        )

    run_virtual(main())


def test_an_answer_ends_where_the_context_does() -> None:
    async def main() -> None:
        reply = await EmulatedEngine(STEPWISE).generate(ask("x" * 160, max_tokens=30), ignore_pieces)
        assert (reply.usage.completion_tokens, reply.finish) == (9, "length")

    run_virtual(main())


def test_a_schema_is_satisfied() -> None:
    async def main() -> str:
        schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}
        request = ask(max_tokens=50, schema=schema)
        return (await EmulatedEngine(PROFILES["constant"]).generate(request, ignore_pieces)).text

    assert run_virtual(main()) == '{"n":3}'


def test_embedding_calls_go_one_after_the_other() -> None:
    async def main() -> float:
        engine = EmulatedEngine(PROFILES["constant"])
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(engine.embed(EmbedRequest(texts=("a", "b"))))
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(0.05)


def test_shared_beginnings_are_prefilled_once() -> None:
    async def main() -> tuple[int, int]:
        profile = msgspec.structs.replace(STEPWISE, capacity=Capacity())
        engine = EmulatedEngine(profile, EmulatedOptions(prefix_cache=True))
        first = await engine.generate(ask("shared beginning " * 50 + "a"), ignore_pieces)
        second = await engine.generate(ask("shared beginning " * 50 + "b"), ignore_pieces)
        return first.usage.cached_tokens, second.usage.cached_tokens

    none, most = run_virtual(main())
    assert none == 0
    assert 180 < most < 214


def test_it_runs_on_the_real_clock_too() -> None:
    async def main() -> float:
        profile = msgspec.structs.replace(STEPWISE, step=StepTimes(a_s=0.001))
        began = asyncio.get_running_loop().time()
        ended, _ = await at_time(EmulatedEngine(profile), ask())
        return ended - began

    assert asyncio.run(main()) >= 0.0099


# ---- lengths, profiles, addresses


@given(st.integers(0, 1 << 40), st.text(max_size=20))
def test_a_drawn_length_depends_on_seed_and_prompt_alone(seed: int, prompt: str) -> None:
    for said in ("uniform(3, 9)", "lognormal(50, 1.5)"):
        length = answer_lengths(said, seed)(prompt, 100)
        assert length == answer_lengths(said, seed)(prompt, 100)
        assert 1 <= length <= 100
    assert 3 <= answer_lengths("uniform(3,9)", seed)(prompt, 100) <= 9


def test_lognormal_lengths_have_the_median_that_was_asked_for() -> None:
    length = answer_lengths("lognormal(120,0.8)", seed=3)
    drawn = sorted(length(f"prompt {n}", 100_000) for n in range(2001))
    assert drawn[1000] == pytest.approx(120, rel=0.1)
    assert drawn[1682] == pytest.approx(120 * 2.2255, rel=0.15)  # e^0.8, one sigma up


@pytest.mark.parametrize("said", ["", "0", "-3", "uniform(9,3)", "uniform(0,3)", "lognormal(0,1)", "exp(3)"])
def test_a_length_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(InputError, match="none of 'max'"):
        answer_lengths(said, 0)


def test_every_builtin_profile_names_its_source_and_survives_a_file(tmp_path: Path) -> None:
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.source
        path = tmp_path / "p.json"
        path.write_bytes(msgspec.json.encode(profile))
        assert load_profile(str(path)) == profile


def test_a_profile_may_be_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nsource = "guessed"\n[step]\na_s = 0.01\n[capacity]\nmax_seqs = 4\n')
    assert load_profile(str(path)).capacity.max_seqs == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name = 1", "Expected `str`"),
        ('name = "x"\nsource = "y"', "says no times"),
        ('name = "x"\nsource = "y"\n[step]\na_s = -1.0', "not negative"),
        ('name = "x"\nsource = "y"\n[step]\na_s = 1.0\nb = 1.0', "unknown field `b`"),
        ('name = "x"\nsource = "y"\n[step]\na_s = 1.0\n[capacity]\nmax_step_tokens = 9', "at least max_seqs"),
        ('schema_version = 7\nname = "x"\nsource = "y"\nsteps = 3', "another schema, 7"),
        ("name = ", "is no profile"),
    ],
)
def test_a_profile_that_is_wrong_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_profile(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_opens_one_and_says_what_it_is_told() -> None:
    async def main() -> None:
        address = "emulated:constant?output=uniform(2,4)&seed=3&limit=5&pieces=first"
        async with open_engine(address, Settings()) as engine:
            assert (engine.info.limit, engine.info.address) == (5, "emulated:constant")
            assert 2 <= (await engine.generate(ask(), ignore_pieces)).usage.completion_tokens <= 4

    run_virtual(main())


@pytest.mark.parametrize(
    "address",
    [
        "emulated:konstant",
        "emulated:constant?outputs=3",
        "emulated:constant?limit=x",
        "emulated:constant?limit=0",
    ],
)
def test_a_wrong_address_is_refused(address: str) -> None:
    async def main() -> None:
        async with open_engine(address, Settings()):
            pass

    with pytest.raises(InputError):
        run_virtual(main())


def test_many_requests_at_random_times_come_out_alike_twice() -> None:
    async def main() -> list[float]:
        rng, ends = random.Random(5), list[float]()
        engine = EmulatedEngine(STEPWISE, EmulatedOptions(output="uniform(1,9)", pieces="first"))

        async def one(at: float, text: str) -> None:
            await asyncio.sleep(at)
            ends.append((await at_time(engine, ask(text)))[0])

        async with asyncio.TaskGroup() as group:
            for n in range(200):
                group.create_task(one(rng.random() * 500, f"prompt {n}"))
        return ends

    assert run_virtual(main()) == run_virtual(main())


# ---- the conformance suite that every engine passes

#: It answers filler, so there is nothing for a stop string to be found in.
NOT_FOR_FILLER = {check_stop_strings}


@pytest.mark.parametrize(
    "check",
    [check for check in dict.fromkeys((*GENERATE_CHECKS, *EMBED_CHECKS)) if check not in NOT_FOR_FILLER],
    ids=lambda check: check.__name__,
)
def test_it_is_an_engine_like_any_other(check: Check) -> None:
    async def main() -> None:
        profile = msgspec.structs.replace(
            PROFILES["vllm-llama-3.1-8b"],
            capacity=Capacity(max_seqs=8, max_step_tokens=512, kv_tokens=50_000, context_tokens=4_000),
        )
        await check(EmulatedEngine(profile))

    run_virtual(main())
