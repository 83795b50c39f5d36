"""Random pipelines of every construct equal a naive interpreter that takes one step after the other.

And wherever a job is cancelled, nothing of it is left: no task, no place at an engine, no open generator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sage import Pipeline, Session
from sage.engines.base import GenerateRequest
from sage.ops import each, first_of, generate, loop, route, step, template
from sage.testing import FakeEngine, run_virtual

Record = dict[str, Any]


@dataclass
class Made:
    """A step, and what a naive interpreter does for it."""

    step: Any
    naive: Callable[[Record], Any]


def text_of(*values: Any) -> str:
    return "".join(str(value) if not isinstance(value, str) else value for value in values)[-24:]


def bound(reads: list[str]) -> dict[str, Any]:
    return {name: "{" + name + "}" for name in reads}


def join(reads: list[str]) -> Made:
    def joined(**fields: Any) -> str:
        return "<" + text_of(*(fields[name] for name in reads)) + ">"

    made = step(joined, **bound(reads))
    return Made(made, lambda record: joined(**{name: record[name] for name in reads}))


def join_later(reads: list[str], turns: int) -> Made:
    async def joined(**fields: Any) -> str:
        for _ in range(turns):
            await asyncio.sleep(1.0)
        return "(" + text_of(*(fields[name] for name in reads)) + ")"

    made = step(joined, **bound(reads))
    return Made(made, lambda record: "(" + text_of(*(record[name] for name in reads)) + ")")


def echo(request: GenerateRequest) -> str:
    return f"re {request.messages[-1].content}"[-24:]


def ask(reads: list[str]) -> Made:
    prompt = "? " + "".join("{" + name + "}" for name in reads)
    return Made(
        generate(prompt, max_tokens=99),
        lambda record: ("re ? " + "".join(str(record[name]) for name in reads))[-24:],
    )


def over_items(reads: list[str]) -> Made:
    name = reads[0]
    made = each("letters", template("{item}" + "{" + name + "}"), max_concurrency=2)
    return Made(made, lambda record: "".join(f"{item}{record[name]}" for item in record["letters"]))


def branch(reads: list[str]) -> Made:
    name = reads[0]
    up = Pipeline("up", out=step(lambda text: text.upper(), text="{" + name + "}")).outputs("out")
    made = route("{kind}", up=up, default=template("no {" + name + "}"))

    def naive(record: Record) -> Any:
        return {"out": record[name].upper()} if record["kind"].strip() == "up" else f"no {record[name]}"

    return Made(made, naive)


def turns(reads: list[str]) -> Made:
    name = reads[0]
    body = Pipeline(
        "body", more=step(lambda text: text + "!", text="{" + name + "}"), done=lambda more: "!!" in more
    )
    made = loop(body, until="done", carry={name: "more"}, max_steps=3)

    def naive(record: Record) -> Any:
        text, stopped = record[name], "max_steps"
        for _ in range(3):
            before, text = text, text + "!"
            if "!!" in text:
                stopped = "until"
                break
        return {name: before, "more": text, "done": "!!" in text, "stopped": stopped}

    return Made(made, naive)


def race(reads: list[str]) -> Made:
    winner, loser = join(reads), join_later(reads, 50)
    return Made(first_of(loser.step, winner.step), winner.naive)


def maybe(reads: list[str]) -> Made:
    made = join(reads)
    return Made(made.step.when("flag"), lambda record: made.naive(record) if record["flag"] else None)


def fails(reads: list[str]) -> Made:
    def broken(**_fields: Any) -> str:
        raise ValueError("always")

    made = step(broken, **bound(reads))
    return Made(made.fallback(template("spare")), lambda _record: "spare")


INPUTS: dict[str, st.SearchStrategy[Any]] = {
    "x": st.text(alphabet="abc", max_size=3),
    "letters": st.lists(st.sampled_from("xyz"), max_size=4),
    "kind": st.sampled_from(["up", " up", "other"]),
    "flag": st.booleans(),
}
KINDS: dict[str, Callable[[list[str]], Made]] = {
    "join": join,
    "later": lambda reads: join_later(reads, len(reads)),
    "ask": ask,
    "each": over_items,
    "route": branch,
    "loop": turns,
    "race": race,
    "when": maybe,
    "fails": fails,
}
TEXTUAL = {"join", "later", "ask", "race", "fails"}  # kinds whose value others may read


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, Made], Record]:
    """Steps in any order of writing, and a record for them."""
    made: dict[str, Made] = {}
    readable = ["x"]
    for number in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(sorted(KINDS)))
        reads = draw(st.lists(st.sampled_from(readable), min_size=1, max_size=3, unique=True))
        made[f"s{number}"] = KINDS[kind](reads)
        if kind in TEXTUAL:
            readable.append(f"s{number}")
    order = draw(st.permutations(list(made)))
    return {name: made[name] for name in order}, {name: draw(values) for name, values in INPUTS.items()}


def naively(made: dict[str, Made], record: Record) -> Record:
    result = dict(record)
    for number in range(len(made)):
        result[f"s{number}"] = made[f"s{number}"].naive(result)
    return result


def plain(value: Any) -> Any:
    """Values to compare: what ``each`` gives as one text."""
    return "".join(value) if isinstance(value, list) else value


def engine() -> FakeEngine:
    return FakeEngine(answer=echo, limit=2, ttft_s=0.5, token_s=0.1)


@given(worlds())
def test_every_pipeline_equals_a_naive_interpreter(world: tuple[dict[str, Made], Record]) -> None:
    made, record = world
    pipeline = Pipeline("p", **{name: each_made.step for name, each_made in made.items()})

    async def main() -> Record:
        clock = asyncio.get_running_loop().time
        async with Session(engines={"llm": engine()}, record=False, clock=clock) as session:
            return await session(pipeline, **record)

    expected = naively(made, record)
    found = run_virtual(main())
    assert {name: plain(value) for name, value in found.items()} == {
        name: plain(value) for name, value in expected.items()
    }


@given(worlds(), st.floats(0.0, 8.0))
@settings(max_examples=100)
def test_wherever_a_job_is_cancelled_nothing_of_it_is_left(
    world: tuple[dict[str, Made], Record], after_s: float
) -> None:
    made, record = world
    pipeline = Pipeline("p", **{name: each_made.step for name, each_made in made.items()})

    async def main() -> None:
        loop_now = asyncio.get_running_loop()
        async with Session(engines={"llm": engine()}, record=False, clock=loop_now.time) as session:
            await session.ready(pipeline)
            before = asyncio.all_tasks()
            async with asyncio.TaskGroup() as group:
                jobs = [group.create_task(session(pipeline, **record)) for _ in range(3)]
                await asyncio.sleep(after_s)
                for job in jobs:
                    job.cancel()
            left = asyncio.all_tasks() - before
            assert not left, left
            snapshot = session.snapshot()
            assert (snapshot.admitted, snapshot.running, snapshot.delayed) == (0, 0, 0)
            assert not any(snapshot.queued.values())
            session._scheduler.check()

    run_virtual(main())
