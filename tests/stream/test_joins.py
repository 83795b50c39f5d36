"""Joins and merges equal a brute-force model, in any interleaving; the side that is ahead waits for the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sage import InputError, stream
from sage.stream import count
from sage.stream.joins import JoinStage, SortedMerge, Waiting
from sage.stream.specs import Join, Merge

from .conftest import Carry
from .test_windows import Caught, Host

Event = tuple[int, int, str]  # side, time, key


def through_join(spec: Join, events: list[Event], cut: int) -> tuple[JoinStage, Caught, Caught]:
    """A join fed with events in this order, those of one side that follow each other in lists."""
    stage = JoinStage("join", Host(), spec, Waiting())
    stage.num_inputs = 2
    found, late = Caught(), Caught()
    stage.connect("", found, 0)
    stage.connect("late", late, 0)
    items: list[dict[str, Any]] = []
    side = 0
    for n, (of, at, key) in enumerate(events):
        if items and (of != side or len(items) == cut):
            stage.take(items, side)
            items = []
        side = of
        items.append({"time": at, "key": key, "n": n})
    if items:
        stage.take(items, side)
    stage.end(0)
    stage.end(1)
    return stage, found, late


def modelled(
    events: list[Event], within: int, wait: int
) -> tuple[Counter[tuple[int, int]], list[int], set[int]]:
    """All pairs by definition, the late events, and the left ones without a partner."""
    never = -(10**9)
    newest = [never, never]
    good: list[tuple[int, int, int, str]] = []
    late: list[int] = []
    for n, (side, at, key) in enumerate(events):
        if at < min(newest) - wait:
            late.append(n)
            continue
        newest[side] = max(newest[side], at)
        good.append((n, side, at, key))
    pairs = Counter(
        (one, other)
        for one, side, at, key in good
        for other, other_side, other_at, other_key in good
        if side == 0 and other_side == 1 and key == other_key and abs(at - other_at) <= within
    )
    alone = {n for n, side, _, _ in good if side == 0} - {one for one, _ in pairs}
    return pairs, late, alone


events = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40), st.sampled_from("ab")), max_size=50)


@given(
    events,
    st.integers(0, 12),
    st.sampled_from([0, 3, 50]),
    st.integers(1, 5),
    st.sampled_from(["inner", "left"]),
)
def test_a_join_equals_the_model(events: list[Event], within: int, wait: int, cut: int, how: Any) -> None:
    spec = Join(key=("key",), within=within, into="other", wait=wait, how=how)
    stage, found, late = through_join(spec, events, cut)
    pairs, expected_late, alone = modelled(events, within, wait)
    got = Counter((r["n"], r["other"]["n"]) for r in found.records if r["other"] is not None)
    assert got == pairs
    assert [r["n"] for r in late.records] == expected_late
    assert {r["n"] for r in found.records if r["other"] is None} == (alone if how == "left" else set())
    assert stage.pending == 0
    assert stage.taken == len(events)


@given(st.lists(st.lists(st.integers(0, 30), max_size=15).map(sorted), min_size=2, max_size=4), st.data())
def test_a_merge_of_sorted_streams_is_sorted_in_any_interleaving(sides: list[list[int]], data: Any) -> None:
    stage = SortedMerge("merge", Host(), Merge(by="time"), Waiting(), len(sides))
    stage.num_inputs = len(sides)
    found = Caught()
    stage.connect("", found, 0)
    left = {number: list(side) for number, side in enumerate(sides)}
    while left:
        number = data.draw(st.sampled_from(sorted(left)))
        take = data.draw(st.integers(1, 4))
        items, left[number] = left[number][:take], left[number][take:]
        if items:
            stage.take([{"time": at} for at in items], number)
        if not left[number]:
            del left[number]
            stage.end(number)
    assert [r["time"] for r in found.records] == sorted(at for side in sides for at in side)


def test_a_merge_takes_records_as_they_come(run: Carry) -> None:
    one, other = stream.records([{"n": 1}]), stream.records([{"n": 2}])
    assert [r["n"] for r in run(one.merge(other)).records] == [1, 2]
    assert len(run(one.merge(one, other)).records) == 3


@pytest.mark.slow
def test_the_faster_of_two_files_does_not_pile_up(run: Carry) -> None:
    def clicks() -> Iterator[dict[str, Any]]:
        yield from ({"time": n / 1000, "user": n % 7} for n in range(200_000))

    def users() -> Iterator[dict[str, Any]]:
        yield from ({"time": n / 10, "user": n % 7} for n in range(2_000))

    made = (
        stream.records(clicks)
        .key_by("user")
        .join(stream.records(users), within=0.05, into="who")
        .reduce(count)
    )
    result = run(made)
    assert result.records == [{"count": result.counts["join"].given}]
    assert result.counts["join"].most_pending < 20_000


def test_a_sorted_merge_holds_the_side_back_that_is_ahead(run: Carry) -> None:
    many = stream.records([{"time": n} for n in range(20_000)])
    few = stream.records([{"time": n} for n in range(0, 20_000, 100)])
    result = run(many.merge(few, by="time"))
    assert [r["time"] for r in result.records] == sorted(r["time"] for r in result.records)
    assert result.counts["merge"].most_pending < 3_000


@pytest.mark.slow
def test_two_branches_of_one_source_can_be_joined(run: Carry) -> None:
    """Neither may wait for the other: they come from the same place."""
    source = stream.records([{"time": n, "k": n // 2, "n": n} for n in range(100_000)])
    even, odd = source.split(lambda n: n % 2 == 0)
    result = run(even.key_by("k").join(odd, within=5, into="odd").reduce(count))
    assert result.records == [{"count": 50_000}]


@pytest.mark.slow
def test_joins_that_disagree_on_who_is_ahead_do_not_lock_up(run: Carry) -> None:
    """By one time the first source is ahead, by the other the second."""
    one = stream.records([{"up": n, "down": n * 100, "k": 0} for n in range(30_000)])
    two = stream.records([{"up": n * 100, "down": n, "k": 0} for n in range(30_000)])
    up = one.key_by("k").join(two, within=1, into="o", time="up")
    down = one.key_by("k").join(two, within=1, into="o", time="down")
    assert run(up.merge(down).reduce(count), max_inflight=1).records[0]["count"] > 0


def test_an_inner_join_counts_records_without_a_partner(run: Carry) -> None:
    one = stream.records([{"time": 1, "k": "a"}, {"time": 2, "k": "b"}])
    result = run(one.key_by("k").join(stream.records([{"time": 1, "k": "a"}]), within=1, into="o"))
    assert len(result.records) == 1
    assert result.counts["join"].dropped == 1


def test_a_record_that_has_the_field_already_fails_alone(run: Carry) -> None:
    one = stream.records([{"time": 1, "k": "a", "o": 1}, {"time": 1, "k": "a"}])
    result = run(one.key_by("k").join(stream.records([{"time": 1, "k": "a"}]), within=1, into="o"))
    assert len(result.records) == 1
    assert "has a field 'o' already; say another one with into=" in str(result.failures[0].error)


def test_what_a_join_keeps_is_bounded(run: Carry) -> None:
    one = stream.records([{"time": 1, "k": n} for n in range(100)])
    with pytest.raises(
        InputError, match="holds 100 records, and max_pending allows no more; join within a shorter"
    ):
        run(one.key_by("k").join(stream.records([{"time": 1, "k": 1}]), within=1, into="o", max_pending=50))
