"""What SAGE itself costs, beside asyncio written by hand in the same process.

    python benchmarks/overhead.py [--quick] [--only inline,join] [--out FILE]

Gives one JSON object: a row per question, each with its goal, what was measured, whether the goal is met, and
every round behind it. Contenders take turns (A B A B …); CPU time is of the whole process; ``measured`` is the
ratio of the fastest rounds, or the median, as the row says. Progress goes to stderr. Under 4 minutes; --quick
takes fewer rounds and records and is for trying things out, not for publishing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from processes import embed_row, http_row, import_rows, memory_rows, rag_row
from rounds import Row, Times, compared, interleave, judged, noise, raw, say, surroundings

from sage import Pipeline, Session, Settings
from sage.engines.base import GenerateRequest, Message, ignore_pieces
from sage.ops import generate, step
from sage.testing.fake import FakeEngine

INFLIGHT = 64
NUM_INLINE = 20_000  # gather's cost grows with it, so it is fixed
FAST_S, SLOW_S = 0.005, 0.050


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    num_awaited: int
    num_calls: int
    num_joins: int
    starts: int  # of a process, to see how long importing takes
    many: int  # records through a stream, to see whether memory stays flat
    answers: int
    other_rounds: int  # of the benchmarks that are called


FULL = Size(
    rounds=9,
    num_awaited=2000,
    num_calls=2000,
    num_joins=10,
    starts=11,
    many=1_000_000,
    answers=20,
    other_rounds=3,
)
QUICK = Size(
    rounds=3, num_awaited=640, num_calls=1000, num_joins=3, starts=3, many=100_000, answers=4, other_rounds=1
)


# ---- inline steps


def one(x: int) -> int:
    return x


async def aone(x: int) -> int:
    return x


def four(function: Callable[..., Any], name: str) -> Pipeline:
    """x -> a -> b -> c -> d, each the same function."""
    names = ("x", "a", "b", "c", "d")
    return Pipeline(name, **{to: step(function, x=f"{{{of}}}") for of, to in itertools.pairwise(names)})


async def sync_by_hand(records: list[dict[str, int]]) -> object:
    gate = asyncio.Semaphore(INFLIGHT)

    async def carry(record: dict[str, int]) -> dict[str, int]:
        async with gate:
            values = dict(record)
            values["a"] = one(values["x"])
            values["b"] = one(values["a"])
            values["c"] = one(values["b"])
            values["d"] = one(values["c"])
            return values

    return await asyncio.gather(*[carry(record) for record in records])


async def async_by_hand(records: list[dict[str, int]]) -> object:
    gate = asyncio.Semaphore(INFLIGHT)

    async def carry(record: dict[str, int]) -> dict[str, int]:
        async with gate:
            values = dict(record)
            values["a"] = await aone(values["x"])
            values["b"] = await aone(values["a"])
            values["c"] = await aone(values["b"])
            values["d"] = await aone(values["c"])
            return values

    return await asyncio.gather(*[carry(record) for record in records])


async def inline_rows(size: Size) -> list[Row]:
    """Four steps that do nothing: all that is left is the framework."""
    records = [{"x": number} for number in range(NUM_INLINE)]
    plain, awaited = four(one, "sync"), four(aone, "async")
    with tempfile.TemporaryDirectory() as home:
        async with Session(
            settings=Settings(home=Path(home)), record=False, max_inflight=INFLIGHT
        ) as session:
            times = await interleave(
                {
                    "sage": lambda: session.run(plain, records),
                    "by_hand": lambda: sync_by_hand(records),
                    "sage_traced": lambda: session.run(plain, records, record=True),
                    "sage_async": lambda: session.run(awaited, records),
                    "async_by_hand": lambda: async_by_hand(records),
                },
                size.rounds,
            )
    return [
        _inline_row(times, "inline_sync", "4 inline steps", "sage", "by_hand", 0.35),
        _inline_row(times, "inline_async", "4 async steps", "sage_async", "async_by_hand", 0.5),
        _inline_row(times, "inline_traced", "4 inline steps, recorded", "sage_traced", "by_hand", 0.5),
    ]


def _inline_row(times: dict[str, Times], name: str, what: str, ours: str, theirs: str, goal: float) -> Row:
    both = {each: times[each] for each in (ours, theirs)}
    ratio = compared(times[ours].cpu_s, times[theirs].cpu_s)
    per_record = {f"{each}_us": min(times[each].cpu_s) / NUM_INLINE * 1e6 for each in both}
    return Row(
        name=name,
        what=f"{what}, {NUM_INLINE:,} records, {INFLIGHT} in flight: CPU against semaphore and gather",
        unit="ratio of fastest rounds",
        goal=goal,
        measured=ratio["ratio_of_minima"],
        n=len(times[ours].cpu_s),
        details={**ratio, "cpu_per_record": per_record, "rounds": raw(both)},
    )


# ---- awaited steps


async def fast(x: int) -> int:
    await asyncio.sleep(FAST_S)
    return x


async def slow(y: int) -> int:
    await asyncio.sleep(SLOW_S)
    return y


async def workers_by_hand(records: list[dict[str, int]], inflight: int, slots: int | None = None) -> object:
    """Workers that pull records from one iterator; ``slots``: how many may be in the slow step at once."""
    source: Iterator[dict[str, int]] = iter(records)
    results: list[dict[str, int]] = []
    gate = asyncio.Semaphore(slots or inflight)

    async def work() -> None:
        for record in source:
            values = dict(record)
            values["y"] = await fast(values["x"])
            if slots is None:
                values["z"] = await slow(values["y"])
            else:
                async with gate:
                    values["z"] = await slow(values["y"])
            results.append(values)

    async with asyncio.TaskGroup() as group:
        for _ in range(inflight):
            group.create_task(work())
    return results


async def awaited_rows(size: Size) -> list[Row]:
    """Two steps that wait 5 and 50 ms, with 64 jobs in flight: no order can end before 32 waves of 55 ms."""
    records = [{"x": number} for number in range(size.num_awaited)]
    pipeline = Pipeline("awaited", y=fast, z=slow)
    waves = -(-size.num_awaited // INFLIGHT)
    async with Session(record=False, max_inflight=INFLIGHT) as session:
        times = await interleave(
            {
                "sage": lambda: session.run(pipeline, records),
                "by_hand": lambda: workers_by_hand(records, INFLIGHT),
            },
            max(3, size.rounds - 2),
        )
    ideal_s = waves * (FAST_S + SLOW_S)
    rows = _awaited(times, "awaited", f"{INFLIGHT} jobs in flight", ideal_s, f"{waves} waves of 55 ms", size)
    return [*rows, _cpu_row(times, "awaited_cpu", "2 awaited steps", size.num_awaited)]


async def slots_rows(size: Size) -> list[Row]:
    """The same with 64 slots at an engine for the slow step, and more jobs in flight so that the fast one hides.

    Now the ideal is 5 ms and 32 waves of 50 ms: 1.605 s for 2,000 records.
    """
    inflight = INFLIGHT + INFLIGHT // 4
    records = [{"x": number} for number in range(size.num_awaited)]
    pipeline = Pipeline("slots", y=fast, z=generate("{y}"))
    waves = -(-size.num_awaited // INFLIGHT)
    engine = FakeEngine(limit=INFLIGHT, ttft_s=SLOW_S, answer=lambda _request: "z")
    async with Session(record=False, max_inflight=inflight, engines={"llm": engine}) as session:
        times = await interleave(
            {
                "sage": lambda: session.run(pipeline, records),
                "by_hand": lambda: workers_by_hand(records, inflight, INFLIGHT),
            },
            max(3, size.rounds - 2),
        )
    ideal_s = waves * SLOW_S + FAST_S
    what = f"{INFLIGHT} engine slots, {inflight} jobs in flight"
    return _awaited(times, "slots", what, ideal_s, f"5 ms, then {waves} waves of 50 ms", size)


def _awaited(
    times: dict[str, Times], name: str, what: str, ideal_s: float, ideal: str, size: Size
) -> list[Row]:
    ratio = compared(times["sage"].wall_s, times["by_hand"].wall_s)
    fastest = min(times["sage"].wall_s)
    common: dict[str, Any] = {"unit": "ratio of fastest rounds", "n": len(times["sage"].wall_s)}
    title = f"steps of 5 and 50 ms, {size.num_awaited:,} records, {what}: wall time"
    return [
        Row(
            name=f"{name}_by_hand",
            what=f"{title} against workers by hand",
            goal=1.01,
            measured=ratio["ratio_of_minima"],
            details={**ratio, "rounds": raw(times)},
            **common,
        ),
        Row(
            name=f"{name}_ideal",
            what=f"{title} against the ideal, {ideal}",
            goal=1.03,
            measured=fastest / ideal_s,
            details={
                "ideal_s": ideal_s,
                "fastest_s": fastest,
                "median_s": statistics.median(times["sage"].wall_s),
                "by_hand_against_ideal": min(times["by_hand"].wall_s) / ideal_s,
            },
            **common,
        ),
    ]


def _cpu_row(times: dict[str, Times], name: str, what: str, records: int) -> Row:
    per_record = {each: min(found.cpu_s) / records * 1e6 for each, found in times.items()}
    return Row(
        name=name,
        what=f"{what}: CPU per record",
        unit="us",
        goal=50.0,
        measured=per_record["sage"],
        n=len(times["sage"].cpu_s),
        details={
            "fastest_us": per_record,
            "median_us": {e: statistics.median(t.cpu_s) / records * 1e6 for e, t in times.items()},
        },
    )


# ---- branches


async def wait(after: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return after


def last(left: int, right: int) -> int:
    return left + right


def branches(a: str, b: str, c: str, d: str, e: str) -> Pipeline:
    """Two branches, 10 + 100 ms and 100 + 10 ms, and a step that joins them, under any names."""
    steps = {
        a: step(wait, after="{x}", seconds=0.010),
        b: step(wait, after=f"{{{a}}}", seconds=0.100),
        c: step(wait, after="{x}", seconds=0.100),
        d: step(wait, after=f"{{{c}}}", seconds=0.010),
        e: step(last, left=f"{{{b}}}", right=f"{{{d}}}"),
    }
    return Pipeline("join", **{name: steps[name] for name in sorted(steps)})


async def join_rows(size: Size) -> list[Row]:
    """The longest way through is 110 ms; a framework that goes level by level needs 200."""
    names: dict[str, list[float]] = {}
    async with Session(record=False) as session:
        for order in ("abcde", "edcba", "cdabe", "badce"):
            pipeline = branches(*order)
            await session(pipeline, x=1)
            names[order] = [await _once_ms(session, pipeline) for _ in range(size.num_joins)]
    medians = {order: statistics.median(times) for order, times in names.items()}
    return [
        Row(
            name="join",
            what="two branches of 110 ms, unbalanced, under four orders of names: the slowest order's median",
            unit="ms",
            goal=112.0,
            measured=max(medians.values()),
            n=size.num_joins * len(names),
            of="jobs",
            details={"median_ms": medians, "ms": names},
        )
    ]


async def _once_ms(session: Session, pipeline: Pipeline) -> float:
    began = time.perf_counter()
    await session(pipeline, x=1)
    return (time.perf_counter() - began) * 1000


# ---- calls


async def call_rows(size: Size) -> list[Row]:
    """Through the scheduler to an engine that answers at once, against the same engine called by hand."""
    records = [{"q": f"question {number}"} for number in range(size.num_calls)]
    pipeline = Pipeline("calls", answer=generate("{q}"))
    engine = FakeEngine(limit=INFLIGHT, answer=lambda _request: "yes")

    async def by_hand() -> object:
        gate = asyncio.Semaphore(INFLIGHT)

        async def carry(record: dict[str, str]) -> dict[str, str]:
            async with gate:
                request = GenerateRequest(messages=(Message("user", record["q"]),))
                return {**record, "answer": (await engine.generate(request, ignore_pieces)).text}

        return await asyncio.gather(*[carry(record) for record in records])

    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        async with Session(settings=settings, record=False, engines={"llm": engine}) as session:
            times = await interleave(
                {
                    "sage": lambda: session.run(pipeline, records, max_inflight=INFLIGHT),
                    "sage_traced": lambda: session.run(pipeline, records, max_inflight=INFLIGHT, record=True),
                    "by_hand": by_hand,
                },
                size.rounds,
            )
    us = {name: min(each.cpu_s) / size.num_calls * 1e6 for name, each in times.items()}
    return [
        Row(
            name="scheduled_call",
            what=f"a call to an engine that answers at once, {INFLIGHT} in flight: SAGE's own CPU per record",
            unit="us",
            measured=us["sage"] - us["by_hand"],
            n=size.rounds,
            note="fastest rounds, less what the same calls cost by semaphore and gather",
            details={"cpu_per_record_us": us, "records": size.num_calls, "rounds": raw(times)},
        )
    ]


# ---- the report

#: Each group of rows, in the order they are measured: what depends on quiet first.
GROUPS: dict[str, Callable[[Size], Awaitable[list[Row]]]] = {
    "inline": inline_rows,
    "calls": call_rows,
    "awaited": awaited_rows,
    "slots": slots_rows,
    "join": join_rows,
    "import": lambda size: import_rows(size.starts),
    "http": lambda size: http_row(size.other_rounds),
    "embed": lambda size: embed_row(size.other_rounds),
    "rag": lambda size: rag_row(size.answers),
    "memory": lambda size: memory_rows(size.many),
}


async def measured(name: str, size: Size) -> list[Row]:
    """The rows of a group, judged; a group that breaks is a row that says why."""
    say(f"{name} …")
    began = time.perf_counter()
    try:
        rows = [judged(row) for row in await GROUPS[name](size)]
    except Exception as error:  # noqa: BLE001 - one broken group must not cost the others' results
        rows = [Row(name=name, what=name, unit="", why=f"{type(error).__name__}: {error}")]
    for row in rows:
        say(f"  {line(row)}")
    say(f"  ({time.perf_counter() - began:.1f} s)")
    return rows


def line(row: Row) -> str:
    """A row for people."""
    if row.measured is None:
        return f"{row.name}: not measured: {row.why}"
    goal = "" if row.goal is None else f", goal {'>=' if row.more_is_better else '<='} {row.goal:g}"
    verdict = {True: ", met", False: ", MISSED", None: ""}[row.met]
    return f"{row.name}: {row.measured:.4g} {row.unit}{goal}{verdict} (n {row.n} {row.of})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and records; at most 40 seconds")
    parser.add_argument("--only", help=f"groups, by comma: {', '.join(GROUPS)}")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, not to standard output")
    given = parser.parse_args()
    chosen = given.only.split(",") if given.only else list(GROUPS)
    if unknown := set(chosen) - GROUPS.keys():
        parser.error(f"unknown group {min(unknown)!r}; choose from {', '.join(GROUPS)}")
    size = QUICK if given.quick else FULL
    began, before = time.perf_counter(), noise()
    rows = [row for name in chosen for row in asyncio.run(measured(name, size))]
    report = {
        "benchmark": "overhead",
        **surroundings(),
        "quick": given.quick,
        "took_s": time.perf_counter() - began,
        "noise": {"before": before, "after": noise()},
        "rows": rows,
    }
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    if given.out is None:
        sys.stdout.write(encoded.decode())
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_bytes(encoded)
    missed = [row.name for row in rows if row.met is False]
    broken = [row.name for row in rows if row.why is not None]
    say(f"missed: {', '.join(missed) or 'none'}; not measured: {', '.join(broken) or 'none'}")


if __name__ == "__main__":
    main()
