"""Streams in YAML, which loads to an equal one, and in pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from sage import InputError, Pipeline, PipelineError, register, stream
from sage.ops import generate, template
from sage.ops.functions import FUNCTIONS
from sage.stream import Stream, count, first, fold, gather, last, least, mean, most, total


def is_long(text: str) -> bool:
    return len(text) > 20


def twice(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [record, record]


def added(state: int, n: int) -> int:
    return state + n


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    before = dict(FUNCTIONS)
    for function in (is_long, twice, added):
        register(function)
    yield
    FUNCTIONS._members = before


# ---- any stream

fields = st.sampled_from(["user", "lang", "n", "x y", "true", "time"])
durations = st.sampled_from(["5m", "30s", 1.5, 90])
aggregates = st.one_of(
    st.just(count),
    st.builds(
        lambda make, name: make(name), st.sampled_from([total, mean, least, most, first, last]), fields
    ),
    st.builds(
        lambda name, limit: gather(name, limit=limit), st.none() | fields, st.none() | st.integers(1, 9)
    ),
    st.builds(lambda start: fold(added, start), st.sampled_from([None, 0, "x", [1]])),
)
named_aggregates = st.dictionaries(st.sampled_from(["a", "b", "c_1"]), aggregates, min_size=1, max_size=3)


def labelled(name: str, text: str, *, narrow: bool) -> Pipeline:
    made = Pipeline(name, label=generate(text, max_tokens=9), line=template("{label}!"))
    return made.outputs("label") if narrow else made


pipelines = st.builds(
    labelled,
    st.sampled_from(["classify", "rag.v2"]),
    st.sampled_from(["Sort: {text}", "two\nlines {text}\n"]),
    narrow=st.booleans(),
)


@st.composite
def streams(draw: Any) -> Stream:
    """A stream of a few stages, some of which branch off earlier ones."""
    made = [draw(st.sampled_from([
        stream.read("a.jsonl"), stream.read("b.txt", follow=True), stream.read("c", "csv"),
        stream.documents("notes", every="2s"), stream.documents("notes"),
    ]))]  # fmt: skip
    for _ in range(draw(st.integers(0, 7))):
        now = draw(st.sampled_from(made[-3:]))
        kind = draw(st.integers(0, 13))
        key = draw(st.lists(fields, min_size=1, max_size=2, unique=True))
        if kind == 0:
            now = now.filter(draw(st.sampled_from([is_long, "n"])))
        elif kind == 1:
            now = now.filter(n={"gte": 20}, lang="en")
        elif kind == 2:
            now = draw(st.sampled_from([now.filter("n").rest, now.map(is_long), now.map(long=is_long)]))
        elif kind == 3:
            now = now.flat_map(twice).select(*key)
        elif kind == 4:
            options = draw(
                st.sampled_from([{}, {"tenant": "{user}"}, {"deadline_s": 3.5, "priority": "batch"}])
            )
            now = now.through(draw(pipelines), ordered=draw(st.booleans()), **options)
        elif kind == 5:
            now = now.key_by(*key).scan(**draw(named_aggregates))
        elif kind == 6:
            now = (
                now.key_by(*key)
                .window(draw(durations), time=draw(fields), wait=draw(durations))
                .reduce(**draw(named_aggregates), max_pending=draw(st.sampled_from([1_000_000, 7])))
            )
        elif kind == 7:
            now = now.window(count=9, every=draw(st.none() | st.integers(1, 9))).reduce(
                **draw(named_aggregates)
            )
        elif kind == 8:
            now = now.reduce(**draw(named_aggregates))
        elif kind == 9:
            other = draw(st.sampled_from(made))
            now = now.key_by(*key).join(
                other, within=draw(durations), into="o", how=draw(st.sampled_from(["inner", "left"]))
            )
        elif kind == 10:
            now = now.merge(draw(st.sampled_from(made)), by=draw(st.none() | fields))
        elif kind == 11:
            now = now.take(5).batch(3)
        elif kind == 12:
            now = now.write(f"out{len(made)}.jsonl").stage(f"kept{len(made)}")
        else:
            now = now.window("5m", every="1m").reduce(count).late
        made.append(now)
    last: Stream = made[-1]
    return last.named(draw(st.sampled_from(["stream", "per user", "1"])))


@given(streams())
def test_what_is_written_loads_to_an_equal_stream(made: Stream) -> None:
    loaded = Stream.from_yaml(made.to_yaml())
    expected = made if not made.output.port else Stream.from_yaml(made.to_yaml())
    assert loaded == expected
    assert loaded.to_yaml() == made.to_yaml()


@given(streams())
def test_every_stream_can_be_drawn(made: Stream) -> None:
    names = made.graph.names
    assert [line.split()[0] for line in made.show("text").splitlines()[4:]] == list(names)
    assert made.show("mermaid").startswith("flowchart TD\n")
    assert [stage["name"] for stage in msgspec.json.decode(made.show("json"))["stages"]] == list(names)
    picture = ET.fromstring(made.show("svg"))
    assert len(picture.findall(".//{http://www.w3.org/2000/svg}rect")) == len(names)


# ---- by hand

CHAIN = """
stream: per user
stages:
  - read: messages.jsonl
  - through: classify.yaml
  - reduce: [count, {most: words}]
    key_by: user
    window: 5m
    as: counts
  - write: counts.jsonl
  - write: late.jsonl
    of: counts.late
"""


def test_a_file_says_what_python_says(tmp_path: Path) -> None:
    classify = Pipeline("classify", label=generate("Sort: {text}"))
    (tmp_path / "classify.yaml").write_text(classify.to_yaml(), encoding="utf-8")
    (tmp_path / "s.yaml").write_text(CHAIN, encoding="utf-8")
    counts = (
        stream.read("messages.jsonl")
        .through(classify)
        .key_by("user")
        .window("5m")
        .reduce(count, most("words"))
    ).stage("counts")
    both = counts.write("counts.jsonl").merge(counts.late.write("late.jsonl"))
    assert Stream.from_yaml(tmp_path / "s.yaml") == both.named("per user")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: {}", "is no stream; expected stream: NAME"),
        ("stream: x", "it has no stages"),
        ("stream: 3\nstages: [{read: a.jsonl}]", "its name is 3"),
        ("stream: x\nstaged: []", "did you mean 'stages'? (line 2)"),
        ("stream: x\nstages:\n  - reed: a.jsonl", "stage 1: names no kind of stage, only 'reed'; expected one: did you mean 'read'? (line 3)"),
        ("stream: x\nstages:\n  - {read: a.jsonl, write: b.jsonl}", "names 'read' and 'write'"),
        ("stream: x\nstages:\n  - 3", "is 3, expected {KIND: …}"),
        ("stream: x\nstages:\n  - filter: n", "nothing comes before it"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - write: b.jsonl\n    of: reed", "there is no stage 'reed' before it: did you mean 'read'? (line 4)"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - write: b.jsonl\n    of: read.late", ".late is of a reduce or a join"),
        ("stream: x\nstages:\n  - read: a.jsonl\n    of: y", "begins a stream and reads no stage"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - reduce: cunt", "unknown aggregate 'cunt': did you mean 'count'?"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - reduce: total", "total needs a field"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - reduce: {n: {total: x, limit: 3}}", "total has no option 'limit'"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - reduce: count\n    window: {size: 5m, evry: 1m}", "window has no 'evry': did you mean 'every'?"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - map: {fn: unheard}", "unknown function 'unheard'"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - map: loud", "map is 'loud', expected {fn: NAME}"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - take: many", "take is 'many'"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - join: read\n    key_by: k", "join needs within: as well"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - through: {pipeline: p, steps: {a: {generat: hi}}}", "unknown operator 'generat'"),
        ("stream: x\nstages:\n  - read: a.jsonl\n    as: one two", "a stage's name is a word"),
        ("stream: x\nstages:\n  - {read: a.jsonl, as: a}\n  - {take: 3, as: a}", "two stages are called 'a'"),
        ("stream: x\nstages:\n  - read: a.jsonl\n  - write: a.jsonl", "'a.jsonl' is read and written"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError if "is no stream" in said else PipelineError) as raised:
        Stream.from_yaml(text)
    assert said in str(raised.value)


def test_every_fault_is_told_at_once() -> None:
    text = "stream: x\nstages:\n  - reed: a\n  - take: 0\n  - windw: 5m\n  - write: b.json"
    with pytest.raises(PipelineError) as raised:
        Stream.from_yaml(text)
    assert str(raised.value).startswith("stream 'x' has 4 faults:")


def test_python_objects_cannot_be_written_down() -> None:
    with pytest.raises(InputError, match="a file cannot hold a Python object"):
        stream.records([]).to_yaml()
    with pytest.raises(
        InputError, match=r"stage 'map' cannot be written as YAML: function '<lambda>' is not registered"
    ):
        stream.read("a.jsonl").map(lambda n: {"n": n}).to_yaml()


def test_two_stages_that_write_one_file_are_refused() -> None:
    source = stream.read("a.jsonl")
    with pytest.raises(PipelineError, match=r"two stages write 'b\.jsonl'"):
        source.write("b.jsonl").merge(source.write("b.jsonl")).show()


def test_a_picture_shows_what_reads_what() -> None:
    words = stream.read("a.jsonl").key_by("user").window("5m").reduce(count)
    assert words.write("b.jsonl").show() == (
        "stream  stream\n\n"
        "stage   kind    about              reads\n"
        "------  ------  -----------------  ------\n"
        "read    read    a.jsonl            -\n"
        "reduce  reduce  count by user, 5m  read\n"
        "write   write   b.jsonl            reduce\n"
    )
