"""Steps that call engines: requests, retries, batches, reuse, fallbacks and cancellation, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from sage import (
    EngineError,
    Expired,
    InputError,
    JobFailure,
    Passage,
    Pipeline,
    PipelineError,
    Session,
    StepDone,
    Token,
)
from sage.engines.base import EmbedRequest, Emit, GenerateRequest, Message, Reply
from sage.errors import EngineFault
from sage.ops import Batch, each, embed, first_of, generate, template
from sage.testing import FakeEngine, run_virtual

Main = Callable[[Session], Coroutine[Any, Any, Any]]


def served(main: Main, *engines: FakeEngine, embedder: FakeEngine | None = None, **arguments: Any) -> Any:
    """Run ``main(session)`` in virtual time, with these engines as its ``llm`` pool."""

    async def opened() -> Any:
        clock = asyncio.get_running_loop().time
        pools = {"llm": list(engines) or FakeEngine(), "embedder": embedder or FakeEngine()}
        async with Session(engines=pools, record=False, clock=clock, **arguments) as session:
            return await main(session)

    return run_virtual(opened())


def failing(fault: EngineFault, **more: Any) -> EngineError:
    return EngineError(f"it is {fault}", fault=fault, **more)


def echo(request: GenerateRequest) -> str:
    return f"re: {request.messages[-1].content}"


ask = Pipeline("ask", answer=generate("{question}", system="Be brief.", max_tokens=8))


def test_what_is_sent_is_what_was_declared() -> None:
    engine = FakeEngine(answer=echo)
    assert served(lambda s: s(ask, question="why?"), engine)["answer"] == "re: why?"
    assert msgspec.structs.replace(engine.requests[0], idempotency_key=None) == GenerateRequest(
        messages=(Message("system", "Be brief."), Message("user", "why?")), max_tokens=8
    )


def test_a_whole_conversation_may_be_sent() -> None:
    engine = FakeEngine(answer=echo)
    chat = Pipeline("chat", answer=generate(messages="history"))
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, Message("user", "c")]
    assert served(lambda s: s(chat, history=history), engine)["answer"] == "re: c"


@dataclass
class Grade:
    score: int


def test_a_schema_turns_the_answer_into_its_type() -> None:
    engine = FakeEngine(answer=lambda _: '{"score": 3}')
    graded = Pipeline("graded", grade=generate("{x}", schema=Grade), score=lambda grade: grade.score)
    assert served(lambda s: s(graded, x="y"), engine)["score"] == 3


def test_an_answer_that_breaks_its_schema_is_the_engines_fault() -> None:
    engine = FakeEngine(answer=lambda _: "three")
    with pytest.raises(EngineError) as caught:
        served(lambda s: s(Pipeline("p", grade=generate("{x}", schema=Grade)), x="y"), engine)
    assert caught.value.fault == "garbled"


@pytest.mark.parametrize("fault", ["unreachable", "timeout", "overloaded", "failed", "garbled"])
def test_what_may_pass_is_tried_again(fault: EngineFault) -> None:
    engine = FakeEngine(answer=echo, faults=[failing(fault), failing(fault), None])
    assert served(lambda s: s(ask, question="x"), engine)["answer"] == "re: x"
    assert len(engine.requests) == 3


@pytest.mark.parametrize("fault", ["refused", "too_long"])
def test_what_will_not_pass_is_tried_once(fault: EngineFault) -> None:
    engine = FakeEngine(faults=[failing(fault)])
    with pytest.raises(EngineError):
        served(lambda s: s(ask, question="x"), engine)
    assert len(engine.requests) == 1


def test_attempts_end_after_three_and_the_error_says_so() -> None:
    engine = FakeEngine(faults=[failing("overloaded")] * 5)
    with pytest.raises(EngineError) as caught:
        served(lambda s: s(ask, question="x"), engine)
    assert len(engine.requests) == 3
    assert any("3 attempts" in note for note in caught.value.__notes__)


def test_a_step_may_say_its_own_number_of_attempts() -> None:
    engine = FakeEngine(answer=echo, faults=[failing("failed")] * 4)
    pipeline = Pipeline("p", answer=generate("{x}").retry(5))
    assert served(lambda s: s(pipeline, x="x"), engine)["answer"] == "re: x"


def test_a_retry_waits_as_long_as_the_engine_asks() -> None:
    engine = FakeEngine(answer=echo, faults=[failing("overloaded", retry_after_s=30.0)])

    async def main(session: Session) -> float:
        await session(ask, question="x")
        return asyncio.get_running_loop().time()

    assert served(main, engine) >= 30.0


def test_a_stall_after_tokens_that_nobody_saw_is_tried_again_and_otherwise_not() -> None:
    async def main(session: Session) -> str:
        return str((await session(ask, question="x"))["answer"])

    async def watched(session: Session) -> Any:
        return [event async for event in session.events(ask, {"question": "x"})]

    assert served(main, FakeEngine(answer=echo, faults=[failing("stalled")])) == "re: x"
    with pytest.raises(EngineError):
        served(watched, FakeEngine(answer=echo, faults=[failing("stalled")]))


def test_a_timeout_of_a_step_aborts_its_call_and_is_tried_again() -> None:
    engine = FakeEngine(answer=echo, ttft_s=10.0)
    pipeline = Pipeline("p", answer=generate("{x}").timeout(s=1).retry(2))
    with pytest.raises(EngineError) as caught:
        served(lambda s: s(pipeline, x="x"), engine)
    assert caught.value.fault == "timeout"
    assert len(engine.requests) == 2


def test_calls_are_spread_over_a_pool_and_never_exceed_a_limit() -> None:
    engines = [FakeEngine(name=f"fake:{n}", limit=2, ttft_s=1.0, answer=echo) for n in range(3)]

    async def main(session: Session) -> float:
        records = [{"question": str(n)} for n in range(24)]
        await session.run(ask, records)
        return asyncio.get_running_loop().time()

    assert served(main, *engines) == pytest.approx(4.0)  # 24 calls of 1 s in 6 places
    assert [len(engine.requests) for engine in engines] == [8, 8, 8]


def test_embeddings_of_concurrent_jobs_travel_together() -> None:
    embedder = FakeEngine(limit=1, text_s=0.01)
    pipeline = Pipeline("p", vector=embed("{x}"))

    async def main(session: Session) -> Any:
        return await session.run(pipeline, [{"x": str(n)} for n in range(40)], max_inflight=40)

    result = served(main, embedder=embedder)
    assert len(result.records) == 40
    assert len(embedder.requests) == 2  # the first alone, then all that came meanwhile


def test_a_steps_own_batch_limits_its_calls() -> None:
    embedder = FakeEngine(limit=1, text_s=0.01)
    pipeline = Pipeline("p", vector=embed("{x}", batch=Batch(max_items=4)))

    async def main(session: Session) -> Any:
        return await session.run(pipeline, [{"x": str(n)} for n in range(17)], max_inflight=17)

    served(main, embedder=embedder)
    assert max(len(request.texts) for request in embedder.requests if isinstance(request, EmbedRequest)) == 4


def test_one_bad_input_of_a_batch_fails_alone() -> None:
    class Picky(FakeEngine):
        async def embed(self, request: EmbedRequest) -> Any:
            if "bad" in request.texts:
                self.requests.append(request)
                await asyncio.sleep(0.01)
                raise failing("refused")
            return await super().embed(request)

    embedder = Picky(limit=1, text_s=0.01)

    async def main(session: Session) -> Any:
        records = [{"x": x} for x in ("a", "b", "bad", "c")]
        return await session.run(Pipeline("p", vector=embed("{x}")), records)

    result = served(main, embedder=embedder)
    assert [failure.index for failure in result.failures] == [2]
    assert len(result.records) == 3


def test_a_list_of_texts_becomes_rows() -> None:
    pipeline = Pipeline("p", rows=embed("{texts}"), one=embed("{texts[0]}"))
    record = served(lambda s: s(pipeline, texts=["a", "b"]))
    assert record["rows"].shape == (2, 64)
    assert (record["rows"][0] == record["one"]).all()


def test_equal_deterministic_calls_in_flight_are_made_once() -> None:
    engine = FakeEngine(answer=echo, ttft_s=1.0)

    async def main(session: Session) -> Any:
        return await session.run(ask, [{"question": "same"}] * 10)

    assert len(served(main, engine).records) == 10
    assert len(engine.requests) == 1


def test_sampled_calls_are_never_shared() -> None:
    engine = FakeEngine(answer=echo, ttft_s=1.0)
    pipeline = Pipeline("p", answer=generate("{x}", temperature=0.7))

    async def main(session: Session) -> Any:
        return await session.run(pipeline, [{"x": "same"}] * 3)

    served(main, engine)
    assert len(engine.requests) == 3


def test_a_shared_call_outlives_the_one_who_made_it() -> None:
    engine = FakeEngine(answer=echo, ttft_s=1.0)

    async def main(session: Session) -> str:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(session(ask, question="same"))
            await asyncio.sleep(0.1)
            second = group.create_task(session(ask, question="same"))
            await asyncio.sleep(0.1)
            first.cancel()
        return str(second.result()["answer"])

    assert served(main, engine) == "re: same"


def test_a_cached_step_asks_once_for_equal_inputs() -> None:
    engine = FakeEngine(answer=echo)
    pipeline = Pipeline("p", answer=generate("{x}", temperature=1.0).cache())

    async def main(session: Session) -> Any:
        return [await session(pipeline, x=x) for x in ("a", "a", "b")]

    assert [record["answer"] for record in served(main, engine)] == ["re: a", "re: a", "re: b"]
    assert len(engine.requests) == 2


def test_answers_kept_on_disk_serve_the_next_session() -> None:
    pipeline = Pipeline("p", answer=generate("{x}").cache("disk"), vector=embed("{x}").cache("disk"))
    first, second = (FakeEngine(answer=echo) for _ in range(2))
    made = served(lambda s: s(pipeline, x="kept"), first, embedder=first)
    again = served(lambda s: s(pipeline, x="kept"), second, embedder=second)
    assert again["answer"] == made["answer"]
    assert (again["vector"] == made["vector"]).all()
    assert not second.requests


def test_a_fallback_engine_answers_when_the_first_cannot() -> None:
    async def main() -> Any:
        clock = asyncio.get_running_loop().time
        pools = {
            "llm": FakeEngine(faults=[failing("failed")] * 9),
            "backup": FakeEngine(answer=lambda _: "from the backup"),
        }
        async with Session(engines=pools, record=False, clock=clock) as session:
            return await session(Pipeline("p", answer=generate("{x}").fallback("backup")), x="x")

    assert run_virtual(main())["answer"] == "from the backup"


def test_a_fallback_may_be_another_step() -> None:
    engine = FakeEngine(faults=[failing("refused")])
    pipeline = Pipeline("p", answer=generate("{x}").fallback(template("sorry, {name} {x}")))
    assert pipeline.inputs == {"x", "name"}
    assert served(lambda s: s(pipeline, x="x", name="Ann"), engine)["answer"] == "sorry, Ann x"


def test_a_step_may_limit_how_many_jobs_are_in_it() -> None:
    engine = FakeEngine(answer=echo, ttft_s=1.0)
    pipeline = Pipeline("p", answer=generate("{x}", max_concurrency=2))

    async def main(session: Session) -> float:
        await session.run(pipeline, [{"x": str(n)} for n in range(6)])
        return asyncio.get_running_loop().time()

    assert served(main, engine) == pytest.approx(3.0)


def test_passages_are_dropped_until_the_prompt_fits_and_the_record_shows_it() -> None:
    engine = FakeEngine(answer=echo, context_tokens=40)
    passages = [Passage(str(n), "word " * 10) for n in range(10)]
    pipeline = Pipeline(
        "p", prompt=template("{passages}\n\n{question}"), answer=generate("{prompt}", fit="passages")
    )
    record = served(lambda s: s(pipeline, passages=passages, question="why?"), engine)
    assert 0 < len(record["passages"]) < 10
    assert record["answer"] == f"re: {record['prompt']}"


def test_a_prompt_that_cannot_be_made_to_fit_is_an_error() -> None:
    engine = FakeEngine(answer=echo, context_tokens=5)
    pipeline = Pipeline("p", answer=generate("{passages} {question}", fit="passages"))
    with pytest.raises(EngineError) as caught:
        served(lambda s: s(pipeline, passages=[], question="why " * 20), engine)
    assert caught.value.fault == "too_long"


def test_fit_across_a_call_that_would_have_to_be_made_again_is_a_fault() -> None:
    pipeline = Pipeline("p", notes=generate("{passages}"), answer=generate("{notes}", fit="passages"))
    with pytest.raises(PipelineError, match="stands between"):
        served(lambda s: s(pipeline, passages=[]), FakeEngine())


def test_tokens_come_as_events_before_the_step_is_done() -> None:
    engine = FakeEngine(answer=lambda _: "one two three", ttft_s=1.0, token_s=1.0)

    async def main(session: Session) -> list[Any]:
        return [event async for event in session.events(ask, {"question": "x"})]

    events = served(main, engine)
    tokens = [event.text for event in events if isinstance(event, Token)]
    assert "".join(tokens) == "one two three"
    assert len(tokens) > 1
    assert events.index(StepDone("answer", "one two three")) > events.index(Token("answer", tokens[-1]))


def test_only_the_winners_tokens_of_a_race_are_shown() -> None:
    async def main() -> list[str]:
        clock = asyncio.get_running_loop().time
        pools = {
            "llm": FakeEngine(answer=lambda _: "slow slow slow", ttft_s=1.0, token_s=2.0),
            "quick": FakeEngine(answer=lambda _: "quick one", ttft_s=2.0),
        }
        race = Pipeline("race", answer=first_of(generate("{x}"), generate("{x}", engine="quick")))
        async with Session(engines=pools, record=False, clock=clock) as session:
            return [e.text async for e in session.events(race, {"x": "x"}) if isinstance(e, Token)]

    assert "".join(run_virtual(main())) == "quick one"


def test_a_cancelled_job_frees_its_place_at_the_engine() -> None:
    engine = FakeEngine(answer=echo, limit=1, ttft_s=10.0)

    async def main(session: Session) -> float:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(session(ask, question="a"))
            await asyncio.sleep(0.5)
            second = group.create_task(session(ask, question="b"))
            await asyncio.sleep(0.5)
            first.cancel()
        assert second.result()["answer"] == "re: b"
        assert session.snapshot().running == 0
        return asyncio.get_running_loop().time()

    assert served(main, engine) == pytest.approx(11.0)


def test_an_expired_job_is_aborted_and_its_queued_calls_are_never_sent() -> None:
    engine = FakeEngine(answer=echo, limit=1, ttft_s=10.0)

    async def main(session: Session) -> Any:
        records = [{"question": str(n)} for n in range(3)]
        return await session.run(ask, records, deadline_s=5.0, expire=True)

    result = served(main, engine)
    assert len(result.failures) == 3
    assert all(isinstance(failure.error, Expired) for failure in result.failures)
    assert len(engine.requests) == 1


@pytest.mark.parametrize("seed", range(40))
def test_many_jobs_of_all_kinds_end_with_nothing_left_behind(seed: int) -> None:
    """Failures, retries, races, batches and cancelled jobs together; then the scheduler holds nothing."""
    rng = random.Random(seed)
    kinds: list[EngineFault] = ["unreachable", "refused", "overloaded", "stalled", "failed"]
    faults = [failing(rng.choice(kinds)) if rng.random() < 0.3 else None for _ in range(400)]
    engines = [
        FakeEngine(name=f"fake:{n}", answer=echo, limit=3, ttft_s=0.7, faults=faults[n::2]) for n in (0, 1)
    ]
    pipeline = Pipeline(
        "p",
        vector=embed("{x}", max_concurrency=5),
        plan=generate("plan {x}", temperature=0.5),
        parts=each("xs", generate("part {item} of {x}"), on_error="skip"),
        race=first_of(generate("a {x}"), generate("b {plan}")),
        end=template("{plan} {parts} {race}"),
    )

    async def main(session: Session) -> Any:
        records = [{"x": str(n), "xs": [1, 2, 3]} for n in range(50)]
        limits = {"timeout_s": rng.uniform(2.0, 30.0), "max_inflight": rng.randint(1, 30)}
        result = await session.run(pipeline, records, **limits)  # type: ignore[arg-type]  # by name
        session._scheduler.check()
        return result, session.snapshot()

    embedder = FakeEngine(limit=2, text_s=0.2)
    result, snapshot = served(main, *engines, embedder=embedder)
    assert len(result.records) + len(result.failures) == 50
    assert all(isinstance(failure, JobFailure) for failure in result.failures)
    assert (snapshot.admitted, snapshot.waiting, snapshot.running, snapshot.delayed) == (0, 0, 0, 0)
    assert all(endpoint.in_flight == 0 for endpoint in snapshot.endpoints)


def test_a_used_up_budget_rejects_what_is_left_and_says_so() -> None:
    engine = FakeEngine(answer=echo, limit=1, ttft_s=1.0)

    async def main(session: Session) -> Any:
        return await session.run(
            ask, [{"question": f"q {n}"} for n in range(20)], budget_tokens=60, max_inflight=2
        )

    result = served(main, engine)
    assert 0 < len(result.records) < 20
    assert len(result.records) + len(result.failures) == 20
    assert all(
        failure.outcome == "rejected" and "budget of 60 tokens" in str(failure) for failure in result.failures
    )
    assert len(engine.requests) == len(result.records)


def test_several_answers_are_asked_for_at_once_and_come_as_a_list() -> None:
    engine = FakeEngine(answer=lambda request: f"seed {request.seed}", ttft_s=1.0)
    pipeline = Pipeline(
        "p", answers=generate("{x}", n=3, temperature=0.8, seed=7), first=lambda answers: answers[0]
    )

    async def main(session: Session) -> Any:
        return await session(pipeline, x="x"), asyncio.get_running_loop().time()

    record, took_s = served(main, engine)
    assert record["answers"] == ["seed 7", "seed 8", "seed 9"]
    assert took_s == pytest.approx(1.0)


def test_several_answers_need_a_temperature() -> None:
    with pytest.raises(InputError, match="temperature"):
        generate("{x}", n=2)


def test_every_attempt_of_a_call_carries_the_same_key_and_each_call_its_own() -> None:
    keys: list[str | None] = []

    class Watched(FakeEngine):
        async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
            keys.append(request.idempotency_key)
            if len(keys) == 1:
                raise EngineError("busy", fault="overloaded")
            return await super().generate(request, emit)

    pipeline = Pipeline("p", answer=generate("{x}"))
    Pipeline.run(pipeline, [{"x": "a"}], engines={"llm": Watched()})
    Pipeline.run(pipeline, [{"x": "b"}], engines={"llm": Watched()})
    assert keys[0] is not None
    assert keys[0] == keys[1]
    assert keys[2] != keys[1]
