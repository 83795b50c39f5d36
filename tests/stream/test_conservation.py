"""Every record that comes into a stage goes out, or is counted by what became of it, however the stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from sage import InputError, Pipeline, Session, stream
from sage.events import StageCounted
from sage.stream import Stream, count
from sage.stream.flow import Flow

#: What one record in so many makes fail.
FIELDS = st.sampled_from([None, 0, 1, 2, 3, "x"])


def inverse(n: Any) -> Any:
    return 1 / n


async def waited(n: Any) -> Any:
    await asyncio.sleep(0)
    return 1 / n


def several(n: Any) -> list[dict[str, Any]]:
    return [{"n": n, "time": n}] * n


STRAIGHT, WAITING = Pipeline("straight", m=inverse), Pipeline("waiting", w=waited)

LINKS = {
    "map": lambda s: s.map(i=inverse),
    "filter": lambda s: s.filter("n"),
    "select": lambda s: s.select("n", "time"),
    "straight": lambda s: s.through(STRAIGHT).select("n", "time"),
    "waiting": lambda s: s.through(WAITING).select("n", "time"),
    "unordered": lambda s: s.through(WAITING, ordered=False).select("n", "time"),
    "scan": lambda s: s.key_by("n").scan(seen=count),
    "merge": lambda s: s.merge(s.filter("n")),
    "split": lambda s: s.filter("n").rest,
    "flat_map": lambda s: s.flat_map(several),
}
ONE_TO_ONE = {"map", "select", "scan", "through", "filter", "merge", "read", "records", "take", "write"}


def carried(made: Stream) -> tuple[dict[str, StageCounted], int, bool]:
    """A stream's counts, how many failures were told, and whether it broke."""

    async def main() -> tuple[dict[str, StageCounted], int, bool]:
        async with Session(record=False) as session:
            flow = Flow(made, session, {})
            try:
                await flow.carry_out()
            except InputError:
                return flow.counts(), flow.num_failed, True
            return flow.counts(), flow.num_failed, False

    return asyncio.run(main())


@given(
    st.lists(st.tuples(FIELDS, FIELDS), max_size=20),
    st.lists(st.sampled_from(sorted(LINKS)), max_size=5),
    st.sampled_from(["", "take", "window", "broken"]),
)
def test_nothing_is_lost_without_being_counted(
    values: list[tuple[Any, Any]], links: list[str], end: str
) -> None:
    def source() -> Iterator[dict[str, Any]]:
        yield from ({"n": n, "time": time} for n, time in values)
        if end == "broken":
            raise InputError("the cable is cut")

    made = stream.records(source)
    for link in links:
        made = LINKS[link](made)
    made = made.take(3) if end == "take" else made.window(2).reduce(count) if end == "window" else made
    counts, num_failed, broke = carried(made)
    kinds = {name: node.spec.KIND for name, node in zip(made.graph.names, made.graph.nodes, strict=True)}
    assert broke == (end == "broken")
    assert sum(of.failed for of in counts.values()) == num_failed
    for name, of in counts.items():
        if kinds[name] in ONE_TO_ONE:
            assert of.taken == of.given + of.failed + of.dropped + of.unfinished, (name, of)
