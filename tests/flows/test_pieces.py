"""Steps that read an answer while it is written, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import EngineError, InputError, Pipeline, PipelineError, Session, StepError, Token
from sage.ops import each, generate, parse_json, sentences, step, template
from sage.ops.partial_json import completed
from sage.ops.pieces import grow_json, split_sentences
from sage.runtime.pipe import pieces_of
from sage.testing import FakeEngine, run_virtual

STORY = "It rained. Nobody came! Who knows?\n\nThe end"


def served(main: Any, **engine: Any) -> Any:
    async def opened() -> Any:
        clock = asyncio.get_running_loop().time
        fake = FakeEngine(**{"answer": lambda _: STORY, "token_s": 1.0, **engine})
        async with Session(engines={"llm": fake}, record=False, clock=clock) as session:
            return await main(session)

    return run_virtual(opened())


def test_a_step_that_takes_pieces_begins_with_the_first_one() -> None:
    times: list[float] = []

    async def watch(text: AsyncIterator[str]) -> int:
        count = 0
        async for _ in text:
            times.append(asyncio.get_running_loop().time())
            count += 1
        return count

    pipeline = Pipeline("p", text=generate("{x}"), count=watch)
    record = served(lambda s: s(pipeline, x="x"))
    assert record["text"] == STORY
    assert record["count"] == len(times) > 5
    assert times[0] < times[-1]


def test_other_readers_wait_for_the_whole() -> None:
    async def first(text: AsyncIterator[str]) -> str:
        async for piece in text:
            return piece
        return ""

    pipeline = Pipeline("p", text=generate("{x}"), first=first, size=lambda text: len(text))
    record = served(lambda s: s(pipeline, x="x"))
    assert record["size"] == len(STORY)
    assert STORY.startswith(record["first"])


def test_each_over_sentences_begins_before_the_answer_is_whole_and_keeps_their_order() -> None:
    begun: list[float] = []

    async def loud(item: str) -> str:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(5.0 - len(begun))
        return item.upper()

    pipeline = Pipeline("p", text=generate("{x}"), parts=sentences("text"), loud=each("parts", loud))

    async def main(session: Session) -> Any:
        record = await session(pipeline, x="x")
        return record, asyncio.get_running_loop().time()

    record, _ = served(main)
    assert record["parts"] == ["It rained.", "Nobody came!", "Who knows?", "The end"]
    assert record["loud"] == [part.upper() for part in record["parts"]]
    assert begun[0] < begun[1] < begun[-1]


def test_a_value_that_is_whole_already_comes_in_its_own_pieces() -> None:
    async def count(text: AsyncIterator[str]) -> int:
        return len([piece async for piece in text])

    pipeline = Pipeline(
        "p", whole=template("{x} {y}"), pieces=step(count, text="{whole}"), given=step(count, text="{l}")
    )
    record = served(lambda s: s(pipeline, x="a", y="b", l=["a", "b", "c"]))
    assert (record["pieces"], record["given"]) == (1, 3)


def test_a_kept_answer_still_reaches_who_reads_pieces() -> None:
    pipeline = Pipeline("p", text=generate("{x}").cache(), parts=sentences("text"))

    async def main(session: Session) -> Any:
        return [await session(pipeline, x="x") for _ in range(2)]

    first, second = served(main)
    assert first["parts"] == second["parts"]


def test_an_answer_whose_pieces_were_read_is_not_asked_for_again() -> None:
    fault = EngineError("it stalled", fault="stalled")
    engine: dict[str, Any] = {"faults": [fault]}
    with pytest.raises(EngineError):
        served(lambda s: s(Pipeline("p", text=generate("{x}"), parts=sentences("text")), x="x"), **engine)


def test_a_generator_that_raises_in_the_middle_fails_its_job_and_names_the_step() -> None:
    async def bad(text: AsyncIterator[str]) -> AsyncIterator[str]:
        async for piece in text:
            yield piece
            raise ValueError("enough")

    with pytest.raises(StepError, match=r"'part'.*enough"):
        served(lambda s: s(Pipeline("p", text=generate("{x}"), part=bad), x="x"))


def test_what_a_generator_yields_is_shown_as_tokens() -> None:
    pipeline = Pipeline("p", text=generate("{x}"), parts=sentences("text"))

    async def main(session: Session) -> list[str]:
        events = session.events(pipeline, {"x": "x"})
        return [event.text async for event in events if isinstance(event, Token) and event.step == "parts"]

    assert served(main) == ["It rained.", "Nobody came!", "Who knows?", "The end"]


def test_a_plain_function_cannot_take_pieces() -> None:
    def count(text: AsyncIterator[str]) -> int:
        return 0

    with pytest.raises(InputError, match="make it async"):
        step(count)


def test_pieces_of_another_type_are_a_fault() -> None:
    async def add(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    with pytest.raises(PipelineError, match="'numbers'"):
        Pipeline("p", text=generate("{x}"), total=step(add, numbers="{text}"))


def test_a_generator_cannot_be_retried_as_a_whole() -> None:
    with pytest.raises(PipelineError, match="pieces as they come"):
        served(lambda s: s(Pipeline("p", text=generate("{x}"), parts=sentences("text").retry(2)), x="x"))


async def cut(text: str, places: list[int]) -> AsyncIterator[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    for start, end in itertools.pairwise(edges):
        yield text[start:end]


@given(st.text(alphabet="ab. !?\n\"'", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_sentences_keep_every_word_however_the_text_is_cut(text: str, places: list[int]) -> None:
    async def main() -> tuple[list[str], list[str]]:
        in_pieces = [sentence async for sentence in split_sentences(cut(text, places))]
        whole = [sentence async for sentence in split_sentences(pieces_of(text))]
        return in_pieces, whole

    in_pieces, whole = asyncio.run(main())
    assert "".join("".join(in_pieces).split()) == "".join("".join(whole).split()) == "".join(text.split())


values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4), st.booleans())
def test_json_cut_anywhere_reads_as_a_beginning_of_itself(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    for end in range(1, len(text) + 1):
        closed = completed(text[:end])
        if closed:
            assert is_beginning(json.loads(closed), value), (text[:end], closed)
    assert json.loads(completed(text) or "null") == value


def is_beginning(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_beginning(item, whole[key]) for key, item in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(is_beginning, part, whole))
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part) or "\\" in json.dumps(whole)
    return bool(part == whole)


def test_json_grows_as_it_is_written() -> None:
    async def main() -> list[Any]:
        return [
            value async for value in grow_json(cut('ok: {"city": "Paris", "n": [1, 2]}', [12, 18, 27, 30]))
        ]

    grown = asyncio.run(main())
    assert grown[-1] == {"city": "Paris", "n": [1, 2]}
    assert len(grown) > 1


def test_parse_json_is_a_step() -> None:
    pipeline = Pipeline("p", text=generate("{x}"), data=parse_json("text"), last=lambda data: data[-1])
    record = served(lambda s: s(pipeline, x="x"), answer=lambda _: 'Here: {"a": [1, 2, 3]}')
    assert record["last"] == {"a": [1, 2, 3]}
