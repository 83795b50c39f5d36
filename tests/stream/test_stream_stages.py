"""What each kind of stage does with records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage import InputError, JobFailure, Pipeline, Session, StepError, stream
from sage.ops import template
from sage.stream import Stream, count, first, fold, gather, last, least, mean, most, total

from .conftest import Carry

NUMBERS = [{"n": n} for n in range(6)]


def given(run: Carry, made: Stream) -> list[dict[str, Any]]:
    return run(made).records


def test_map_makes_another_record(run: Carry) -> None:
    assert given(run, stream.records(NUMBERS).map(lambda n: {"square": n * n}))[3] == {"square": 9}


def test_map_adds_fields(run: Carry) -> None:
    made = stream.records(NUMBERS).map(square=lambda n: n * n, half=lambda n: n / 2)
    assert given(run, made)[3] == {"n": 3, "square": 9, "half": 1.5}


def test_a_parameter_named_record_takes_all_of_it(run: Carry) -> None:
    assert given(run, stream.records(NUMBERS).map(size=lambda record: len(record)))[0] == {"n": 0, "size": 1}


def test_a_parameter_with_a_default_keeps_it_where_the_field_is_missing(run: Carry) -> None:
    records = [{"a": 1}, {"a": 1, "b": 2}]
    assert [r["c"] for r in given(run, stream.records(records).map(c=lambda a, b=0: a + b))] == [1, 3]


def test_none_is_a_value(run: Carry) -> None:
    made = stream.records([{"x": None}, {"x": 1}]).map(y=lambda x: x).key_by("y").reduce(count, last("x"))
    assert given(run, made) == [
        {"y": None, "count": 1, "last_x": None},
        {"y": 1, "count": 1, "last_x": 1},
    ]


def test_map_that_forgets_to_return_is_told_of(run: Carry) -> None:
    result = run(stream.records(NUMBERS).map(lambda n: None))
    assert result.num_failed == 6
    assert "gave None, expected a record; to add a field write map(FIELD=" in str(result.failures[0].error)


def test_filter_by_function_field_and_conditions(run: Carry) -> None:
    source = stream.records([{"n": n, "odd": n % 2 == 1, "lang": "en"} for n in range(6)])
    assert [r["n"] for r in given(run, source.filter(lambda n: n > 3))] == [4, 5]
    assert [r["n"] for r in given(run, source.filter("odd"))] == [1, 3, 5]
    assert [r["n"] for r in given(run, source.filter(n={"gte": 4}, lang="en"))] == [4, 5]


def test_what_a_filter_leaves_out_is_counted_unless_someone_reads_it(run: Carry) -> None:
    small, big = stream.records(NUMBERS).split(lambda n: n < 2)
    assert run(small).counts["filter"].dropped == 4
    both = run(small.map(size=lambda: "small").merge(big.map(size=lambda: "big")))
    assert [r["size"] for r in both.records] == ["small"] * 2 + ["big"] * 4
    assert both.counts["filter"].dropped == 0


def test_flat_map_takes_lists_generators_and_async_generators(run: Carry) -> None:
    async def later(n: int) -> AsyncIterator[dict[str, int]]:
        for m in range(n):
            yield {"m": m}

    def now(n: int) -> Iterator[dict[str, int]]:
        yield from ({"m": m} for m in range(n))

    for function in (later, now, lambda n: [{"m": m} for m in range(n)]):
        assert len(given(run, stream.records(NUMBERS).flat_map(function))) == 15


def test_flat_map_pulls_a_generator_only_as_there_is_room(run: Carry) -> None:
    pulled = 0

    def endless() -> Iterator[dict[str, int]]:
        nonlocal pulled
        while True:
            pulled += 1
            yield {"m": pulled}

    assert len(given(run, stream.records([{"n": 0}]).flat_map(endless).take(5))) == 5
    assert pulled < 2000


def test_select_keeps_fields_and_fails_records_that_lack_one(run: Carry) -> None:
    result = run(stream.records([{"a": 1, "b": 2}, {"a": 1}]).select("b"))
    assert result.records == [{"b": 2}]
    said = "step 'select': the record has no field 'b': choose from 'a'; a parameter named 'record' takes"
    assert str(result.failures[0].error).startswith(said)


def test_take_ends_an_endless_source(run: Carry) -> None:
    def endless() -> Iterator[dict[str, int]]:
        n = 0
        while True:
            yield {"n": (n := n + 1)}

    assert given(run, stream.records(endless).take(3)) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_take_ends_a_source_that_gives_nothing_more(run: Carry) -> None:
    async def stalls() -> AsyncIterator[dict[str, int]]:
        yield {"n": 1}
        await asyncio.Event().wait()

    async def main() -> list[Any]:
        made = stream.records(stalls).merge(stream.records(NUMBERS)).take(3)
        return (await made.arun(record=False)).records

    assert len(asyncio.run(asyncio.wait_for(main(), 5))) == 3


def test_what_is_written_is_not_cut_short_by_a_take_behind_it(run: Carry, tmp_path: Path) -> None:
    result = run(stream.records(NUMBERS).write(tmp_path / "all.jsonl").take(2))
    assert len(result.records) == 2
    assert len((tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()) == 6


def test_scan_gives_what_each_key_amounts_to_so_far(run: Carry) -> None:
    records = [{"k": "a", "n": 1}, {"k": "b", "n": 5}, {"k": "a", "n": 2}]
    made = stream.records(records).key_by("k").scan(so_far=total("n"))
    assert [r["so_far"] for r in given(run, made)] == [1, 5, 3]


def test_reduce_knows_every_aggregate(run: Carry) -> None:
    records = [{"n": 2, "t": "b"}, {"n": None, "t": "a"}, {"n": 4, "t": "c"}]
    made = stream.records(records).reduce(
        count, total("n"), mean("n"), least("n"), most("n"), first("t"), last("t"), gather("t", limit=2),
        all=gather(), longest=fold(lambda best, t: max(best, t), start=""),
    )  # fmt: skip
    assert given(run, made) == [
        {
            "count": 3, "total_n": 6, "mean_n": 3.0, "least_n": 2, "most_n": 4, "first_t": "b", "last_t": "c",
            "gather_t": ["b", "a"], "all": records, "longest": "c",
        }
    ]  # fmt: skip


def test_nothing_reduces_to_one_record_and_by_key_to_none(run: Carry) -> None:
    empty = stream.records([])
    assert given(run, empty.reduce(count, mean("n"))) == [{"count": 0, "mean_n": None}]
    assert given(run, empty.key_by("k").reduce(count)) == []


def test_a_folds_start_is_not_shared_between_keys(run: Carry) -> None:
    def seen(state: list[int], n: int) -> list[int]:
        state.append(n)
        return state

    made = stream.records(NUMBERS).key_by(odd=lambda n: n % 2).reduce(seen=fold(seen, start=[]))
    assert [r["seen"] for r in given(run, made)] == [[0, 2, 4], [1, 3, 5]]


def test_batch_puts_records_into_lists(run: Carry) -> None:
    assert [len(r["records"]) for r in given(run, stream.records(NUMBERS).batch(4))] == [4, 2]


def test_keys_of_mixed_type_stay_apart(run: Carry) -> None:
    keys = [1, "1", True, None, 1.0, [1], (1,), {"a": 1}, float("nan"), float("nan"), "x"]
    made = stream.records([{"k": key} for key in keys]).key_by("k").reduce(count)
    found = [(repr(r["k"]), r["count"]) for r in given(run, made)]
    assert found == [
        ("1", 2), ("'1'", 1), ("True", 1), ("None", 1), ("[1]", 2), ("{'a': 1}", 1), ("nan", 2), ("'x'", 1),
    ]  # fmt: skip


def test_through_makes_jobs_and_keeps_the_order(run: Carry) -> None:
    async def slow_first(n: int) -> int:
        for _ in range(10 - n):
            await asyncio.sleep(0)
        return n

    pipeline = Pipeline("p", m=slow_first)
    assert [r["m"] for r in given(run, stream.records(NUMBERS).through(pipeline))] == list(range(6))
    unordered = given(run, stream.records(NUMBERS).through(pipeline, ordered=False))
    assert [r["m"] for r in unordered] == [5, 4, 3, 2, 1, 0]


def test_a_job_that_fails_is_counted_and_the_others_go_on(run: Carry) -> None:
    result = run(stream.records([{"n": 2}, {"n": 0}, {"n": 4}]).through(Pipeline("p", m=lambda n: 4 / n)))
    assert [r["m"] for r in result.records] == [2, 1]
    assert result.counts["p"].failed == 1
    assert isinstance(result.failures[0], JobFailure)


def test_several_pipelines_share_one_run_and_its_job_numbers() -> None:
    once, twice = Pipeline("once", a=template("{n}")), Pipeline("twice", b=template("{a}{a}"))

    async def main() -> Any:
        async with Session() as session:
            assert session.run_id is None
            return await stream.records(NUMBERS).through(once).through(twice).arun()

    result = asyncio.run(main())
    assert result.metrics.jobs["done"] == 12
    assert result.metrics.faults == ()
    assert [r["b"] for r in result.records][:2] == ["00", "11"]


def test_options_of_through_read_fields() -> None:
    pipeline = Pipeline("p", line=template("{n}"))

    async def main() -> Any:
        async with Session():
            made = stream.records([{"n": 1, "who": "ada"}]).through(pipeline, tenant="{who}")
            return await made.arun(priority="batch")

    (ended,) = [event for event in asyncio.run(main()).events if type(event).__name__ == "JobEnded"]
    assert (ended.tenant, ended.priority) == ("ada", -10)


def test_one_record_after_another_and_failures_in_their_place() -> None:
    made = stream.records(NUMBERS).map(inverse=lambda n: 1 / n)

    async def main() -> list[Any]:
        return [result async for result in made.iterate(errors="yield", record=False)]

    found = asyncio.run(main())
    assert len(found) == 6
    assert isinstance(found[0], JobFailure)


def test_iterating_raises_the_first_failure_at_the_end() -> None:
    seen = []

    async def main() -> None:
        async with Session(record=False):
            async for record in stream.records(NUMBERS).map(inverse=lambda n: 1 / n):
                seen.append(record)

    with pytest.raises(StepError, match="raised ZeroDivisionError"):
        asyncio.run(main())
    assert len(seen) == 5


def test_a_slow_reader_holds_the_source_back() -> None:
    pulled = 0

    async def source() -> AsyncIterator[dict[str, int]]:
        nonlocal pulled
        while True:
            pulled += 1
            yield {"n": pulled}

    async def main() -> int:
        async with Session(record=False):
            results = aiter(stream.records(source).map(m=lambda n: n))
            await anext(results)
            for _ in range(200):
                await asyncio.sleep(0)
            seen = pulled
            await results.aclose()
            return seen

    assert asyncio.run(main()) <= 130


def test_a_stream_can_be_run_again_and_a_used_up_iterator_says_so(run: Carry) -> None:
    again = stream.records(NUMBERS).map(m=lambda n: n)
    assert given(run, again) == given(run, again)
    once = stream.records(iter(NUMBERS))
    assert len(given(run, once)) == 6
    with pytest.raises(InputError, match="was read already and cannot be read again"):
        given(run, once)


def test_streams_are_immutable_and_equal_by_what_they_say() -> None:
    def one() -> Stream:
        return stream.read("a.jsonl").filter("n").key_by("k").window("5m").reduce(count).write("b.jsonl")

    assert one() == one()
    assert one() != one().named("other")
    assert one() != stream.read("a.jsonl").filter("n").key_by("k").window("6m").reduce(count).write("b.jsonl")
    assert hash(one()) == hash(one())
    with pytest.raises(AttributeError, match="streams are immutable"):
        one()._name = "x"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda s: s.map(), "map takes a function that makes a record, or fields"),
        (lambda s: s.map(len), "by position only"),
        (lambda s: s.filter(), "filter takes a function, a field, or conditions"),
        (lambda s: s.filter(n={"gte": []}), "takes a number or a string"),
        (lambda s: s.filter(n={"above": 1}), "unknown operator 'above'"),
        (lambda s: s.through(lambda n: n), "through takes a Pipeline"),
        (lambda s: s.through(Pipeline("p", x=lambda n: n), tenent="a"), "did you mean 'tenant'"),
        (lambda s: s.window("5 minutes"), "expected a duration such as 30s"),
        (lambda s: s.window(), "a length of time or a count"),
        (lambda s: s.window(minuts=5), "did you mean 'minutes'"),
        (lambda s: s.window("5m", every="6m"), "records between two windows would be lost"),
        (lambda s: s.window(count=5, wait=3), "a window by count knows no time"),
        (lambda s: s.reduce(), "needs at least one aggregate"),
        (lambda s: s.reduce(total), "say which field: total"),
        (lambda s: s.reduce(lambda state, n: n), "a function without a name needs one"),
        (lambda s: s.reduce(count, count), "two aggregates give the field 'count'"),
        (lambda s: s.key_by("k").reduce(k=count), "'k' is a field of the result already"),
        (lambda s: s.reduce(best=lambda: 1), "its first parameter is the state"),
        (lambda s: s.key_by("k").join(s.key_by("j"), within=1, into="x"), "the keys differ"),
        (lambda s: s.key_by("k").join(s, within=1, into="x", how="outer"), "expected 'inner' or 'left'"),
        (lambda s: s.merge(s.key_by("k")), "a keyed stream is not finished"),
        (lambda s: s.merge(3), "merge takes a stream"),
        (lambda s: s.take(0), "take is 0"),
        (lambda s: s.late, ".late is of a reduce or a join"),
        (lambda s: s.write("x.json"), "a JSON array cannot be written record by record"),
        (lambda s: s.write(3), "write takes a path, or a Sink"),
        (lambda s: s.stage("a b"), "a stage's name is a word"),
        (lambda s: stream.records({"n": 1}), "records takes several records, got one 'dict'"),
        (lambda s: stream.read("x.docx"), "cannot tell the format"),
        (lambda s: stream.read("x.csv", follow=True), "only files of lines can be followed"),
        (lambda s: stream.documents("x", every=0), "every is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_said(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(").replace(")", r"\)")):
        make(stream.records(NUMBERS))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda s: s.key_by("k").filter("n"),
            "a keyed stream has join, reduce, scan, window; say filter before key_by",
        ),
        (lambda s: s.window("5m").map(len), "a windowed stream has reduce; say map before window"),
        (
            lambda s: s.key_by("k").run(),
            "a keyed stream has join, reduce, scan, window; say run after one of these",
        ),
    ],
)
def test_what_is_not_finished_says_what_to_do(make: Any, said: str) -> None:
    with pytest.raises(AttributeError, match=said):
        make(stream.records(NUMBERS))


def test_async_functions_belong_into_a_pipeline() -> None:
    async def ask(n: int) -> int:
        return n

    with pytest.raises(InputError, match=r"'ask' is async; make it a step, .* through\(Pipeline\('ask'"):
        stream.records(NUMBERS).map(m=ask)
