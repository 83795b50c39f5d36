"""The RAG pipeline against a real vLLM server: streaming, JSON schema, prefix cache, errors, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest

from sage import EngineError, Index, Passage, Pipeline, Session, Token
from sage.events import TaskEnded
from sage.ops import embed, generate, search, template

pytestmark = [pytest.mark.vllm, pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(300)]

PASSAGES = [
    Passage("bisect", "bisect_left locates the insertion point for x in a sorted list.", title="bisect"),
    Passage("heapq", "heappush pushes an item onto a heap and keeps the heap invariant.", title="heapq"),
    Passage("json", "dumps serialises an object to a JSON formatted str.", title="json"),
]

rag = Pipeline(
    "rag",
    vector=embed("{question}"),
    passages=search("docs", near="vector", text="{question}", k=2),
    prompt=template("Answer from the passages only.\n\n{passages}\n\nQuestion: {question}\nAnswer:"),
    answer=generate("{prompt}", max_tokens=32),
)


def served(main: Callable[[Session], Coroutine[Any, Any, Any]], vllm_url: str, index: Index) -> Any:
    async def opened() -> Any:
        engines = {"llm": f"openai:{vllm_url}"}
        async with Session(engines=engines, indexes={"docs": index}) as session:
            return await main(session)

    return asyncio.run(opened())


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(
        PASSAGES, path=tmp_path_factory.mktemp("index") / "docs", embedder="bert:all-minilm-l6-v2"
    )


def test_the_rag_pipeline_answers_and_its_tokens_are_counted_by_the_server(
    vllm_url: str, index: Index
) -> None:
    async def main(session: Session) -> Any:
        questions = [f"How do I find the place for {n} in a sorted list?" for n in range(6)]
        return await session.run(rag, [{"question": question} for question in questions])

    result = served(main, vllm_url, index)
    assert not result.failures
    assert all(record["answer"].strip() and record["passages"][0].id == "bisect" for record in result.records)
    calls = [e for e in result.events if isinstance(e, TaskEnded) and e.pool == "llm"]
    assert all(call.usage_from == "server" and 0 < call.completion_tokens <= 32 for call in calls)
    assert all(call.first is not None and call.dispatched <= call.first <= call.t for call in calls)


def test_a_shared_prefix_is_served_from_the_cache_and_seen_in_the_log(vllm_url: str, index: Index) -> None:
    prefix = "The quick brown fox jumps over the lazy dog. " * 20
    ask = Pipeline("ask", answer=generate(prefix + "{question}", max_tokens=4))

    async def main(session: Session) -> Any:
        await session.run(ask, [{"question": "Why?"}])
        return await session.run(ask, [{"question": "When?"}])

    (call,) = [event for event in served(main, vllm_url, index).events if isinstance(event, TaskEnded)]
    assert call.cached_tokens > 100


def test_an_answer_streams_piece_by_piece(vllm_url: str, index: Index) -> None:
    async def main(session: Session) -> list[str]:
        events = session.events(rag, {"question": "What does json do?"})
        return [event.text async for event in events if isinstance(event, Token)]

    assert len(served(main, vllm_url, index)) > 3


def test_a_schema_is_kept_by_guided_decoding(vllm_url: str, index: Index) -> None:
    label = Pipeline("label", label=generate("Is '{text}' good or bad?", schema=Literal["good", "bad"]))
    assert served(lambda s: s(label, text="I love it"), vllm_url, index)["label"] in {"good", "bad"}


def test_a_prompt_that_is_too_long_is_shortened_if_it_may_be(vllm_url: str, index: Index) -> None:
    ask = Pipeline("ask", answer=generate("{words}\n\nSummarise.", fit="words", max_tokens=16))
    words = ["word " * 200] * 30

    record = served(lambda s: s(ask, words=words), vllm_url, index)
    assert 0 < len(record["words"]) < 30
    with pytest.raises(EngineError) as caught:
        served(
            lambda s: s(Pipeline("p", a=generate("{w}", max_tokens=16)), w="word " * 6000), vllm_url, index
        )
    assert caught.value.fault == "too_long"


def test_a_model_the_server_does_not_have_is_named_with_those_it_has(vllm_url: str, index: Index) -> None:
    ask = Pipeline("ask", answer=generate("{x}"))
    with pytest.raises(Exception, match="smollm2"):
        ask.run([{"x": "x"}], engines={"llm": f"openai:{vllm_url}?model=smollm3"})


def test_a_cancelled_call_ends_at_the_server_too(vllm_url: str, index: Index) -> None:
    long = Pipeline("long", answer=generate("Write a long story about {x}.", max_tokens=1500))

    async def main(session: Session) -> float:
        begun = asyncio.Event()

        async def watch(x: str) -> None:
            async for event in session.events(long, {"x": x}):
                if isinstance(event, Token):
                    begun.set()

        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(watch("a fox"))
            await begun.wait()
            cancelled = loop.time()
            watcher.cancel()
        took = loop.time() - cancelled
        assert session.snapshot().running == 0
        return took

    assert served(main, vllm_url, index) < 1.0
