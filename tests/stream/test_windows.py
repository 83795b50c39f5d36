"""Windows equal a brute-force model, whatever the order of events, how they are cut into lists, and their keys."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from sage import InputError, stream
from sage.stream import count, fold, gather, most, total
from sage.stream.specs import Reduce, Window
from sage.stream.stages import Stage
from sage.stream.times import duration_us, instant_us, shown_instant
from sage.stream.windows import window_stage

from .conftest import Carry


class Host:
    """The flow around a stage: keeps failures, and may be cut off."""

    def __init__(self) -> None:
        self.is_cut = self.is_stopped = False
        self.failures: list[Any] = []

    def failed(self, failure: Any) -> None:
        self.failures.append(failure)

    def satisfied(self) -> None:
        pass


class Caught(Stage):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("caught", Host())
        self.records: list[dict[str, Any]] = []

    def take(self, items: list[dict[str, Any]], _number: int, /) -> None:
        self.records += items


def through_windows(spec: Reduce, lists: list[list[dict[str, Any]]]) -> tuple[Stage, Caught, Caught]:
    """A window stage fed with lists; what it gave, and what was late."""
    stage = window_stage(spec)("reduce", Host(), spec)
    stage.num_inputs = 1
    given_, late = Caught(), Caught()
    stage.connect("", given_, 0)
    stage.connect("late", late, 0)
    for items in lists:
        stage.take(items, 0)
    stage.end(0)
    return stage, given_, late


def modelled(
    records: list[dict[str, Any]], size: int, every: int, wait: int
) -> tuple[Counter[tuple[int, Any, int, int]], list[int]]:
    """Every window by definition: (start, key, records, their sum), and the numbers of the late records."""
    groups: dict[tuple[int, Any], list[int]] = {}
    late: list[int] = []
    newest = -(10**9)
    for record in records:
        newest = max(newest, record["time"])
        watermark = newest - wait
        starts = [
            start
            for start in range(-200, 400)
            if start % every == 0 and start <= record["time"] < start + size and start + size > watermark
        ]
        if not starts:
            late.append(record["n"])
        for start in starts:
            groups.setdefault((start, record["key"]), []).append(record["n"])
    return Counter((start, key, len(held), sum(held)) for (start, key), held in groups.items()), late


times = st.lists(st.integers(-20, 60), max_size=60)
cuts = st.integers(1, 7)


@given(
    times, st.lists(st.sampled_from(["a", "b", None]), min_size=60, max_size=60), cuts, st.integers(1, 9),
    st.integers(1, 9), st.sampled_from([0, 1, 5, 40]),
)  # fmt: skip
@example([5, 0, 10, 4], ["a"] * 60, 1, 5, 5, 0)
def test_windows_by_time_equal_the_model(
    at: list[int], keys: list[Any], cut: int, size: int, every: int, wait: int
) -> None:
    every = min(every, size)
    records = [{"time": t, "key": keys[n], "n": n} for n, t in enumerate(at)]
    window = Window(size=size, every=every, wait=wait)
    spec = Reduce(aggregates={"count": count, "sum": total("n")}, key=("key",), window=window)
    lists = [records[i : i + cut] for i in range(0, len(records), cut)]
    stage, found, late = through_windows(spec, lists)
    expected, expected_late = modelled(records, size, every, wait)
    got = Counter((r["window_start"], r["key"], r["count"], r["sum"]) for r in found.records)
    assert got == expected
    assert [r["n"] for r in late.records] == expected_late
    assert stage.late == len(expected_late)
    assert stage.pending == 0
    assert all(r["window_end"] - r["window_start"] == size for r in found.records)


@given(st.lists(st.sampled_from("ab"), max_size=40), st.integers(1, 6), st.integers(1, 6), cuts)
def test_windows_by_count_equal_the_model(keys: list[str], size: int, every: int, cut: int) -> None:
    every = min(every, size)
    records = [{"key": key, "n": n} for n, key in enumerate(keys)]
    spec = Reduce(
        aggregates={"all": gather("n")},
        key=("key",),
        window=Window(count=size, every=every if every < size else None),
    )
    _, found, _ = through_windows(spec, [records[i : i + cut] for i in range(0, len(records), cut)])
    expected = set()
    for key in set(keys):
        own = [record["n"] for record in records if record["key"] == key]
        for start in range(0, len(own), every):
            held = own[start : start + size]
            expected.add((key, start, start + len(held), tuple(held)))
    assert {
        (r["key"], r["window_start"], r["window_end"], tuple(r["all"])) for r in found.records
    } == expected
    assert len(found.records) == len(expected)


@given(st.permutations(range(30)), cuts)
def test_with_enough_patience_no_order_of_events_matters(order: list[int], cut: int) -> None:
    records = [{"time": t, "key": "ab"[t % 2]} for t in order]
    spec = Reduce(aggregates={"count": count}, key=("key",), window=Window(size=4, wait=30))
    stage, found, _ = through_windows(spec, [records[i : i + cut] for i in range(0, len(records), cut)])
    assert stage.late == 0
    assert sum(r["count"] for r in found.records) == 30


def test_a_window_is_given_as_soon_as_the_watermark_passes_its_end() -> None:
    spec = Reduce(aggregates={"count": count}, window=Window(size=10, wait=5))
    stage = window_stage(spec)("w", Host(), spec)
    stage.num_inputs = 1
    found = Caught()
    stage.connect("", found, 0)
    stage.take([{"time": 1}, {"time": 14.9}], 0)
    assert found.records == []
    stage.take([{"time": 15}], 0)
    assert found.records == [{"window_start": 0, "window_end": 10, "count": 1}]
    assert (stage.pending, stage.most_pending) == (1, 2)


def test_what_a_cut_off_stream_has_not_completed_is_counted_not_given() -> None:
    spec = Reduce(aggregates={"count": count}, window=Window(size=10))
    host = Host()
    stage = window_stage(spec)("w", host, spec)
    stage.num_inputs = 1
    found = Caught()
    stage.connect("", found, 0)
    stage.take([{"time": t} for t in (1, 2, 11, 12, 13)], 0)
    host.is_cut = True
    stage.end(0)
    assert [r["count"] for r in found.records] == [2]
    assert stage.unfinished == 3


def test_times_are_given_back_in_the_form_they_came_in(run: Carry) -> None:
    forms = {
        "text": ("2026-11-26T18:03:00Z", "2026-11-26T18:00:00+00:00"),
        "no zone": ("2026-11-26T18:03:00", "2026-11-26T18:00:00+00:00"),
        "another zone": ("2026-11-26T19:03:00+01:00", "2026-11-26T18:00:00+00:00"),
        "text of a number": ("1795716180.5", 1_795_716_000),
        "text of a date": ("20261126", "2026-11-26T00:00:00+00:00"),
        "number": (1_795_716_180, 1_795_716_000),
        "moment": (datetime(2026, 11, 26, 18, 3, tzinfo=UTC), datetime(2026, 11, 26, 18, tzinfo=UTC)),
    }
    for said, expected in forms.values():
        made = stream.records([{"at": said}]).window(minutes=5, time="at").reduce(count)
        assert run(made).records[0]["window_start"] == expected


def test_decimal_seconds_fall_into_the_right_window(run: Carry) -> None:
    made = stream.records([{"time": n / 10} for n in range(10)]).window("100ms").reduce(count)
    assert [r["count"] for r in run(made).records] == [1] * 10


@pytest.mark.parametrize("bad", [None, "yesterday", True, float("nan"), float("inf"), [], "2026-13-01"])
def test_a_record_without_a_time_fails_alone(run: Carry, bad: Any) -> None:
    result = run(stream.records([{"time": 1}, {"time": bad}, {}, {"time": 2}]).window(10).reduce(count))
    assert result.records[0]["count"] == 2
    assert result.num_failed == 2
    assert "is no time; expected seconds since 1970" in str(result.failures[0].error)
    assert "the record has no field 'time': there are none" in str(result.failures[1].error)


def test_a_record_that_fails_one_aggregate_leaves_no_trace_in_the_others(run: Carry) -> None:
    records = [{"time": 1, "n": 1}, {"time": 1, "n": "x"}, {"time": 2, "n": 2}]
    source = stream.records(records)
    for windows in (
        source.window(10),
        source.window(10, every=5),
        source.window(count=3),
        source.window(count=3, every=1),
    ):
        made = windows.reduce(
            gather("n"), count, total("n"), most("n"), last=fold(lambda state, n: n, start=0)
        )
        result = run(made)
        assert result.records[0]["gather_n"] == [1, 2]
        assert (result.records[0]["count"], result.records[0]["total_n"]) == (2, 3)
        assert result.num_failed == 1


def test_the_state_is_bounded_and_the_error_says_what_to_do(run: Carry) -> None:
    records = [{"time": 1, "k": k} for k in range(11)]
    for window in (None, {"size": 10}, {"count": 5}):
        keyed = stream.records(records).key_by("k")
        made = (
            keyed.reduce(count, max_pending=10)
            if window is None
            else keyed.window(window.get("size"), count=window.get("count")).reduce(count, max_pending=10)
        )
        with pytest.raises(
            InputError, match="holds 10 open groups, and max_pending allows no more"
        ) as raised:
            run(made)
        assert "not finished: reduce 10" in raised.value.__notes__[0]
    with pytest.raises(InputError, match="'scan' holds 11 keys"):
        run(stream.records(records).key_by("k").scan(count, max_pending=10))


def test_late_records_are_a_stream_of_their_own(run: Carry) -> None:
    windows = stream.records([{"time": t} for t in (1, 20, 2, 21)]).window(10).reduce(count)
    result = run(windows)
    assert result.counts["reduce"].late == 1
    both = run(windows.late.map(is_late=lambda: True).merge(windows))
    assert {"time": 2, "is_late": True} in both.records


@given(st.integers(0, 10**9), st.sampled_from([1, 0.001, 0.25]))
def test_an_instant_comes_back_as_it_went_in(n: int, unit: float) -> None:
    assert shown_instant(instant_us(n * unit), n) == pytest.approx(n * unit)


@pytest.mark.parametrize(
    ("said", "micros"), [("1.5h", 5_400_000_000), (" 30s ", 30_000_000), ("200ms", 200_000), (2, 2_000_000)]
)
def test_durations_are_read_with_their_units(said: Any, micros: int) -> None:
    assert duration_us(said, "x") == micros


@pytest.mark.parametrize("said", ["", "5", "5 min", "-5m", -1, True, float("nan"), None])
def test_what_is_no_duration_is_refused(said: Any) -> None:
    with pytest.raises(InputError, match="x is"):
        duration_us(said, "x")
