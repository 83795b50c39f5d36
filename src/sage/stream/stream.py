"""What a user holds: a stream of records, declared link by link, and carried out when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from sage.errors import InputError, nearest
from sage.graph.values import Record
from sage.runtime.options import JobArguments, RunArguments
from sage.stream.aggregates import gather
from sage.stream.calls import reading
from sage.stream.grouped import Keyed, Windowed, field_name, reduced, scanned, whole_number, window_of
from sage.stream.node import Graph, Input, Node, graph_of
from sage.stream.specs import (
    MAX_PENDING,
    Filter,
    FlatMap,
    Map,
    Merge,
    Select,
    Spec,
    Take,
    Through,
    Write,
)

if TYPE_CHECKING:
    from sage.pipeline import Pipeline
    from sage.runtime.base import JobFailure
    from sage.stream.result import StreamResult

__all__ = ["Stream"]

Function = Callable[..., Any]


class Stream:
    """A description of records on their way; immutable. Every method gives a new stream.

    Functions read the fields their parameters are named after, as in a Pipeline; a parameter named ``record`` takes
    the whole record. A record that makes one fail is counted and told, and the stream goes on.

    >>> from sage import stream
    >>> words = stream.records([{"text": "to be"}, {"text": "or not"}]).map(n=lambda text: len(text.split()))
    >>> words.reduce(stream.count, longest=stream.most("n")).run(record=False).records
    [{'count': 2, 'longest': 2}]
    """

    __slots__ = ("__weakref__", "_name", "_node", "_port")
    _node: Node
    _port: str
    _name: str

    def __init__(self, node: Node, port: str = "", name: str = "stream") -> None:
        object.__setattr__(self, "_node", node)
        object.__setattr__(self, "_port", port)
        object.__setattr__(self, "_name", name)

    # ---- records, one at a time

    def map(self, function: Function | None = None, /, **fields: Function) -> Stream:
        """The record a function makes of each (it returns a mapping), or fields added: ``map(words=count_words)``."""
        if (function is None) == (not fields):
            raise InputError("map takes a function that makes a record, or fields: map(words=count_words)")
        for made in (function, *fields.values()):
            if made is not None:
                reading(made, "map")
        return self.then(Map(function=function, fields=dict(fields)))

    def filter(self, test: Function | str | None = None, /, **where: Any) -> Stream:
        """Only records that pass: a function, the name of a field that must be true, or conditions on fields.

        ``filter(lang="en", words={"gte": 20})`` compares as the ``where=`` of a search does. What does not pass is
        the stream ``.rest``.
        """
        if (test is None) == (not where):
            raise InputError('filter takes a function, a field, or conditions: filter(words={"gte": 20})')
        if callable(test):
            reading(test, "filter")
        elif where:
            _check_where(where)
        return self.then(Filter(test=test, where=dict(where)))

    def split(self, test: Function | str | None = None, /, **where: Any) -> tuple[Stream, Stream]:
        """Two streams: the records that pass, and the others."""
        passed = self.filter(test, **where)
        return passed, passed.rest

    def flat_map(self, function: Function, /) -> Stream:
        """Each of the records a function gives for one: a list, or a generator, async too, pulled as there is room."""
        reading(function, "flat_map", may_stream=True)
        return self.then(FlatMap(function=function))

    def select(self, *fields: str) -> Stream:
        """Only these fields of each record."""
        if not fields:
            raise InputError("select needs the names of the fields to keep")
        return self.then(Select(fields=fields))

    def take(self, count: int) -> Stream:
        """The first records; then sources that nothing else reads are stopped."""
        return self.then(Take(count=whole_number("take", count)))

    def through(
        self,
        pipeline: Pipeline,
        /,
        *,
        ordered: bool = True,
        max_inflight: int | None = None,
        **options: Unpack[JobArguments],
    ) -> Stream:
        """Each record as a job of a pipeline, many at once.

        Args:
            pipeline: what makes the new fields.
            ordered: results keep the order of the records, as windows by time after it want; False: as they finish.
            max_inflight: jobs at once; otherwise the run's.
            **options: of the jobs, such as ``tenant="{user}"`` or ``deadline_s=3``; otherwise the run's.
        """
        from sage.pipeline import Pipeline as Expected

        if not isinstance(pipeline, Expected):
            raise InputError(f"through takes a Pipeline, got {pipeline!r:.60}; for a function use map")
        unknown = [name for name in options if name not in JobArguments.__annotations__]
        if unknown:
            raise InputError(
                f"through has no option {unknown[0]!r}: {nearest(unknown[0], JobArguments.__annotations__)}"
            )
        if max_inflight is not None:
            whole_number("max_inflight", max_inflight)
        return self.then(
            Through(pipeline=pipeline, ordered=ordered, max_inflight=max_inflight, options=dict(options))
        )

    # ---- records together

    def key_by(self, *fields: str, **computed: Function) -> Keyed:
        """Apart by the values of fields, for what follows; a computed field is added first: ``key_by(day=day_of)``."""
        if not fields and not computed:
            raise InputError('key_by needs a field, such as key_by("user")')
        return Keyed(self.map(**computed) if computed else self, (*map(field_name, fields), *computed))

    def window(
        self,
        size: str | float | None = None,
        /,
        *,
        count: int | None = None,
        every: str | float | None = None,
        time: str = "time",
        wait: str | float = 0,
        **units: float,
    ) -> Windowed:
        """Put together by event time, ``window("5m")`` or ``window(minutes=5)``, or by number, ``window(count=100)``.

        Args:
            size: how long, as text or in seconds; or ``seconds=``, ``minutes=``, ``hours=``, ``days=``.
            count: how many records.
            every: when the next window begins; None: where the last one ends. Sliding windows overlap.
            time: the field with the event time: seconds since 1970, ISO 8601 text, or a datetime.
            wait: how long, in event time, a window stays open for stragglers. What comes later still is counted as
                late, and is the stream ``.late`` of what ``reduce`` gives.
            **units: parts of the size, added up.
        """
        return Windowed(self, (), window_of(size, count, every, time, wait, units))

    def reduce(self, *aggregates: Any, max_pending: int = MAX_PENDING, **named_: Any) -> Stream:
        """One record of everything, at the end: aggregates such as ``count`` or ``longest=most("words")``."""
        return reduced(self, (), None, aggregates, named_, max_pending)

    def scan(self, *aggregates: Any, max_pending: int = MAX_PENDING, **named_: Any) -> Stream:
        """Each record with what all so far amount to: ``scan(so_far=total("price"))``."""
        return scanned(self, (), aggregates, named_, max_pending)

    def batch(self, count: int, into: str = "records") -> Stream:
        """Lists of so many records, each list in a record of one field; the last one may be shorter."""
        return self._batched(whole_number("batch", count), {field_name(into): gather()}).select(into)

    def merge(self, *others: Stream, by: str | None = None) -> Stream:
        """This and other streams as one: as records come, or in the order of a time that each is sorted by."""
        if not others:
            raise InputError("merge needs another stream")
        return self.then(Merge(by=by), *others)

    # ---- ends

    def write(self, path: str | Path | Any, format: str | None = None) -> Stream:  # noqa: A002 - the public word for it
        """Each record also into a file (.jsonl, .csv, .tsv, .parquet, "-" for standard output), or a Sink."""
        from sage.stream.sinks import check_sink

        if isinstance(path, str | Path):
            check_sink(str(path), format)
            return self.then(Write(path=str(path), format=format))
        if not callable(getattr(path, "write", None)) or not callable(getattr(path, "close", None)):
            raise InputError(
                f"write takes a path, or a Sink with write(records) and close(); got {path!r:.60}"
            )
        return self.then(Write(sink=path))

    @property
    def rest(self) -> Stream:
        """Of a filter: the records that did not pass."""
        return self.port("rest")

    @property
    def late(self) -> Stream:
        """Of a reduce or a join: the records that came when their windows were closed."""
        return self.port("late")

    # ---- names

    @property
    def name(self) -> str:
        """What the whole is called in logs and pictures."""
        return self._name

    def named(self, name: str) -> Stream:
        """The same stream under another name."""
        if not isinstance(name, str) or not name.strip():  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f"a stream's name is text, got {name!r}")
        return Stream(self._node, self._port, name)

    def stage(self, name: str) -> Stream:
        """The same with a name for the last stage, in logs and pictures. Say it before branching off."""
        if not isinstance(name, str) or not name.isidentifier():  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f"a stage's name is a word of letters, digits and _, got {name!r}")
        if self._port:
            raise InputError(f"name the stage before its port {self._port!r} is taken")
        return Stream(replace(self._node, name=name), "", self._name)

    # ---- carrying it out

    def run(self, **arguments: Unpack[RunArguments]) -> StreamResult:
        """Carry it out and say what came of it. Blocks; inside an event loop use ``arun``."""
        from sage.stream.carry import run_blocking

        return run_blocking(self, arguments)

    async def arun(self, **arguments: Unpack[RunArguments]) -> StreamResult:
        """Carry it out, in the session that is open around it if there is one."""
        from sage.stream.carry import run_anywhere

        return await run_anywhere(self, arguments)

    def iterate(
        self, *, errors: Literal["raise", "yield"] = "raise", **arguments: Unpack[RunArguments]
    ) -> AsyncGenerator[Record | JobFailure, None]:
        """Carry it out and yield each record as it comes; one who takes them slowly holds the sources back.

        With ``errors="raise"`` the first failure is raised at the end, with "yield" each stands in its place.
        """
        from sage.stream.carry import stream_anywhere

        return stream_anywhere(self, errors, arguments)

    def __aiter__(self) -> AsyncGenerator[Any, None]:  # noqa: PYI058 - ``aclosing`` wants to close it
        """The same with nothing said: ``async for record in stream``."""
        return self.iterate()

    # ---- other forms

    @property
    def graph(self) -> Graph:
        """Every stage, in order.

        Raises:
            PipelineError: two stages have one name, or write one file.
        """
        if self._port:
            return self.then(Merge()).graph
        return graph_of(self._name, self._node)

    def show(self, form: Literal["text", "mermaid", "svg", "json"] = "text") -> str:
        """The stages as text, a mermaid chart, an svg picture, or JSON."""
        from sage.stream.picture import shown

        return shown(self.graph, form)

    def to_yaml(self) -> str:
        """The stream as YAML, which ``from_yaml`` turns into an equal one.

        Raises:
            InputError: a stage cannot be written, such as a function that is not registered.
        """
        from sage.stream.form_write import dump_stream

        return dump_stream(self.graph)

    @classmethod
    def from_yaml(cls, source: str | Path, /) -> Stream:
        """A stream from YAML text, or from a file given as a Path.

        Raises:
            InputError: it is no YAML, or no stream, with everything that is wrong.
        """
        from sage.stream.form import load_stream

        return load_stream(source)

    def _repr_html_(self) -> str:
        from sage.graph.html import picture_html

        return picture_html(self.show("svg"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stream):
            return NotImplemented
        return self._name == other._name and self._port == other._port and self.graph.form == other.graph.form

    def __hash__(self) -> int:
        return hash((self._name, self._port, self.graph.names))

    def __repr__(self) -> str:
        return f"<Stream {self._name!r}: {' -> '.join(self.graph.names)}>"

    def __setattr__(self, name: str, _value: Any) -> None:
        raise AttributeError(f"streams are immutable; cannot set {name!r}. Every method gives a new one")

    def _batched(self, count: int, aggregates: dict[str, Any]) -> Stream:
        return self.window(count=count).reduce(**aggregates)

    def then(self, spec: Spec, *others: Stream) -> Stream:
        """A stage behind this output, and behind those of other streams; all the methods above come down to this."""
        for other in others:
            _check_stream(spec.KIND, other)
        return Stream(Node(spec, (self.output, *(other.output for other in others))), "", self._name)

    @property
    def output(self) -> Input:
        """What a next stage reads."""
        return Input(self._node, self._port)

    def port(self, port: str) -> Stream:
        """Another output of the last stage, by its name."""
        if port not in self._node.spec.PORTS:
            has = {"rest": "a filter", "late": "a reduce or a join"}[port]
            raise InputError(f".{port} is of {has}; this is the output of {self._node.spec.KIND}")
        return Stream(self._node, port, self._name)


def _check_where(where: Mapping[str, Any]) -> None:
    from sage.index.filters import refuse_bad_where

    refuse_bad_where(where, where)


def _check_stream(what: str, other: Any) -> None:
    if isinstance(other, Keyed | Windowed):
        raise InputError(f"{what}: a keyed stream is not finished; reduce, scan or join it first")
    if not isinstance(other, Stream):
        raise InputError(f"{what} takes a stream, got {other!r:.60}")
