"""Streams in YAML: a list of stages, each reading the one before it unless it says otherwise.

``{"stream": "counts", "stages": [{"read": "messages.jsonl"}, {"reduce": "count", "key_by": "user", "window": "5m"}]}``.
A stage names its kind, whose value is what it is about, and options. ``as`` names it; ``of`` says which stage it
reads, or which output of one: ``counts.late``. What nothing reads is an end; several ends are carried out together.
Functions are registered ones, as ``{fn: name}``. A pipeline is its form, or the path of its file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage.errors import Fault, InputError, PipelineError, nearest
from sage.graph.yaml import load_document
from sage.pipeline import Pipeline, pipeline_of
from sage.runtime.options import JobArguments
from sage.stream.aggregates import AGGREGATES, Aggregate, fold, of_kind
from sage.stream.begin import documents, read
from sage.stream.grouped import Keyed
from sage.stream.node import Node
from sage.stream.specs import (
    Merge,
    Records,
    Through,
)
from sage.stream.stream import Stream

__all__ = ["KINDS", "load_stream"]

Lines = Mapping[tuple[str, ...], int]
Said = Mapping[str, Any]

_EVERYWHERE = ("as", "of")
_REDUCED = ("key_by", "max_pending")
_WINDOW = ("size", "count", "every", "time", "wait")

#: Kind -> the options its stages may say.
KINDS: Mapping[str, tuple[str, ...]] = {
    "read": ("format", "follow"),
    "documents": ("every",),
    "map": (),
    "filter": (),
    "flat_map": (),
    "select": (),
    "take": (),
    "through": ("ordered", "max_inflight", *JobArguments.__annotations__),
    "scan": _REDUCED,
    "reduce": (*_REDUCED, "window"),
    "join": ("key_by", "within", "into", "time", "wait", "how", "max_pending"),
    "merge": ("by",),
    "write": ("format",),
}
_SOURCES = frozenset({"read", "documents"})


#: In the place of a stage that has a fault.
_WRONG = Stream(Node(Records(source=())))


# ---- reading


def load_stream(source: str | Path) -> Stream:
    """The stream in YAML text, or in the file at a Path.

    Raises:
        InputError: the file cannot be read, or it is no YAML.
        PipelineError: it is no stream, with everything that is wrong.
    """
    name, data, lines = load_document(source)
    if not isinstance(data, dict) or "stream" not in data:
        raise InputError(f"{name}: is no stream; expected stream: NAME and stages: [ … ]")
    folder = source.parent if isinstance(source, Path) else Path()
    return _Reading(data, lines, folder).stream()


class _Reading:
    """One form being read: the stages so far, and what was found wrong."""

    def __init__(self, form: Said, lines: Lines, folder: Path) -> None:
        self._form = form
        self._lines = lines
        self._folder = folder
        self._faults: list[Fault] = []
        self._made: dict[str, Stream] = {}
        self._read: set[str] = set()  # stages that others read

    def stream(self) -> Stream:
        said = self._form["stream"]
        name = said if isinstance(said, str) and said.strip() else "stream"
        if name != said:
            self._fault(None, f"its name is {said!r}, expected text such as 'counts'", ("stream",))
        for key in self._form:
            if key not in {"stream", "stages"}:
                self._fault(None, f"unknown key {key!r}: {nearest(key, ['stream', 'stages'])}", (key,))
        stages = self._form.get("stages")
        if not isinstance(stages, list) or not stages:
            self._fault(None, "it has no stages; expected stages: [ {read: FILE}, … ]", ("stages",))
            stages = []
        last: Stream | None = None
        for number, said in enumerate(stages):
            last = self._stage(number, said, last)
        if self._faults:
            raise PipelineError(name, self._faults, what="stream")
        ends = [made for stage, made in self._made.items() if stage not in self._read]
        whole = ends[0] if len(ends) == 1 else ends[0].merge(*ends[1:])
        try:
            _ = whole.graph
        except PipelineError as error:
            raise PipelineError(name, error.faults, what="stream") from error
        return whole.named(name)

    def _stage(self, number: int, said: Any, last: Stream | None) -> Stream:
        """One stage; what is wrong with it is a fault, and something that others can read stands in its place."""
        before = len(self._faults)
        made = self._sound_stage(number, said, last)
        if len(self._faults) == before:
            assert made is not None
            return made
        called = said.get("as") if isinstance(said, dict) else None
        if isinstance(called, str):
            self._made.setdefault(called, _WRONG)
        return _WRONG

    def _sound_stage(self, number: int, said: Any, last: Stream | None) -> Stream | None:
        path: tuple[str, ...] = ("stages", str(number))
        at = f"stage {number + 1}"
        if not isinstance(said, dict) or not said:
            self._fault(at, f"is {said!r:.60}, expected {{KIND: …}} such as {{read: FILE}}", path)
            return None
        path = ("stages", str(number), str(next(iter(said))))
        kinds = [key for key in said if key in KINDS]
        if len(kinds) != 1:
            found = (
                f"names {' and '.join(map(repr, kinds))}"
                if kinds
                else f"names no kind of stage, only {', '.join(map(repr, said))}"
            )
            close = next((key for key in said if nearest(key, KINDS).startswith("did")), next(iter(said)))
            self._fault(at, f"{found}; expected one: {nearest(close, KINDS)}", path)
            return None
        (kind,) = kinds
        at = str(said.get("as", at))
        known = (kind, *KINDS[kind], *_EVERYWHERE)
        unknown = [key for key in said if key not in known]
        for key in unknown:
            self._fault(at, f"{kind} has no option {key!r}: {nearest(key, known)}", (*path[:2], key))
        if unknown:
            return None
        try:
            made = self._built(kind, said, last, path[:2])
            name = said.get("as")
            if name is not None:
                made = made.stage(name)
            return self._keep(kind, name, made)
        except PipelineError as error:
            self._faults += [Fault(fault.step, fault.message) for fault in error.faults]
        except (InputError, TypeError) as error:
            self._fault(at, str(error), (*path[:2], kind))
        return None

    def _keep(self, kind: str, name: str | None, made: Stream) -> Stream:
        """Remember a stage by the name others refer to it by."""
        spec = made.output.node.spec
        base = spec.pipeline.name if isinstance(spec, Through) else kind
        base = base.replace(".", "_")
        called, number = name or base, 1
        while name is None and called in self._made:
            number += 1
            called = f"{base}_{number}"
        if called in self._made:
            raise InputError(f"two stages are called {called!r}; rename one with as:")
        self._made[called] = made
        return made

    def _built(self, kind: str, said: Said, last: Stream | None, path: tuple[str, ...]) -> Stream:
        value = said[kind]
        options = {key: item for key, item in said.items() if key not in {kind, *_EVERYWHERE}}
        if kind in _SOURCES:
            if "of" in said:
                raise InputError(f"{kind} begins a stream and reads no stage; leave of: out")
            return _source(kind, value, options)
        if kind == "merge":
            if not isinstance(value, list) or len(value) < 1:
                raise InputError(f"merge is {value!r:.60}, expected a list of stages: [one, other]")
            first, *others = [self._named(item) for item in value]
            return first.merge(*others, **options) if others else first.then(Merge(**options))
        before = self._before(said, last)
        if kind == "join":
            return _joined(before, self._named(value), options)
        if kind == "through":
            return before.through(self._pipeline(value, path), **options)
        return _BUILDERS[kind](before, value, options)

    def _before(self, said: Said, last: Stream | None) -> Stream:
        if "of" in said:
            return self._named(said["of"])
        if last is None:
            raise InputError("nothing comes before it; begin with read: FILE or documents: FOLDER")
        self._read |= {name for name, made in self._made.items() if made is last}
        return last

    def _named(self, said: Any) -> Stream:
        """The output of a stage: ``name``, ``name.rest`` or ``name.late``."""
        if not isinstance(said, str):
            raise InputError(f"{said!r:.60} is no name of a stage")
        name, _, port = said.partition(".")
        if name not in self._made:
            raise InputError(f"there is no stage {name!r} before it: {nearest(name, self._made)}")
        self._read.add(name)
        made = self._made[name]
        if port not in {"", "rest", "late"}:
            raise InputError(f"{said!r}: an output is rest or late, got {port!r}")
        return made if not port else made.port(port)

    def _pipeline(self, value: Any, path: tuple[str, ...]) -> Pipeline:
        if isinstance(value, str):
            return Pipeline.from_yaml(self._folder / value)
        from sage.graph.form_read import read_form
        from sage.ops import OPERATORS

        here = (*path, "through")
        lines = {key[len(here) :]: line for key, line in self._lines.items() if key[: len(here)] == here}
        return pipeline_of(read_form(value, OPERATORS, lines))

    def _fault(self, stage: str | None, message: str, path: tuple[str, ...]) -> None:
        while path and path not in self._lines:
            path = path[:-1]
        where = f" (line {self._lines[path]})" if path else ""
        name = None if stage is None or stage.startswith("stage ") else stage
        said = message if name is not None or stage is None else f"{stage}: {message}"
        self._faults.append(Fault(name, said + where))


def _source(kind: str, value: Any, options: Said) -> Stream:
    if not isinstance(value, str):
        raise InputError(f"{kind} is {value!r:.60}, expected a path")
    return read(value, **options) if kind == "read" else documents(value, **options)


def _map(before: Stream, value: Any, _options: Said) -> Stream:
    if _is_function(value):
        return before.map(_function(value))
    if not isinstance(value, dict) or not value:
        raise InputError(f"map is {value!r:.60}, expected {{fn: NAME}}, or fields: {{words: {{fn: NAME}}}}")
    return before.map(**{field: _function(item) for field, item in value.items()})


def _filter(before: Stream, value: Any, _options: Said) -> Stream:
    if _is_function(value):
        return before.filter(_function(value))
    if isinstance(value, str):
        return before.filter(value)
    if not isinstance(value, dict):
        raise InputError(
            f"filter is {value!r:.60}, expected a field, {{fn: NAME}}, or conditions: {{words: {{gte: 20}}}}"
        )
    return before.filter(**value)


def _scan(before: Stream, value: Any, options: Said) -> Stream:
    keyed = Keyed(before, _key(options))
    return keyed.scan(**_aggregates("scan", value), **_pending(options))


def _reduce(before: Stream, value: Any, options: Said) -> Stream:
    keyed = Keyed(before, _key(options))
    aggregates = _aggregates("reduce", value)
    if "window" not in options:
        return keyed.reduce(**aggregates, **_pending(options))
    said = options["window"]
    window = dict(said) if isinstance(said, dict) else {"size": said}
    for key in window:
        if key not in _WINDOW:
            raise InputError(f"window has no {key!r}: {nearest(key, _WINDOW)}")
    size = window.pop("size", None)
    return keyed.window(size, **window).reduce(**aggregates, **_pending(options))


def _joined(before: Stream, other: Stream, options: Said) -> Stream:
    options = dict(options)
    for name in ("key_by", "within", "into"):
        if name not in options:
            raise InputError(f"join needs {name}: as well")
    key = _key(options)
    del options["key_by"]
    return Keyed(before, key).join(other, **options)


def _selected(before: Stream, value: Any, _options: Said) -> Stream:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"select is {value!r:.60}, expected a list of fields")
    return before.select(*value)


def _written(before: Stream, value: Any, options: Said) -> Stream:
    if not isinstance(value, str):
        raise InputError(f"write is {value!r:.60}, expected a path")
    return before.write(value, **options)


_BUILDERS: Mapping[str, Callable[[Stream, Any, Said], Stream]] = {
    "map": _map,
    "filter": _filter,
    "flat_map": lambda before, value, _options: before.flat_map(_function(value)),
    "select": _selected,
    "take": lambda before, value, _options: before.take(value),
    "scan": _scan,
    "reduce": _reduce,
    "write": _written,
}


def _key(options: Said) -> tuple[str, ...]:
    said = options.get("key_by", [])
    fields = [said] if isinstance(said, str) else said
    if not isinstance(fields, list) or not all(isinstance(field, str) and field for field in fields):
        raise InputError(f"key_by is {said!r:.60}, expected a field or a list of fields")
    return tuple(fields)


def _pending(options: Said) -> dict[str, Any]:
    return {"max_pending": options["max_pending"]} if "max_pending" in options else {}


def _is_function(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["fn"] and isinstance(value["fn"], str)


def _function(value: Any) -> Callable[..., Any]:
    from sage.ops.functions import FUNCTIONS

    if not _is_function(value):
        raise InputError(f"{value!r:.60} is no function; write {{fn: NAME}} of a registered one")
    return FUNCTIONS[value["fn"]]


def _aggregates(kind: str, value: Any) -> dict[str, Any]:
    """Field -> aggregate: ``count``, a list of aggregates, or each under the field it gives."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        made = [_aggregate(item) for item in value]
        found = {of.name: of for of in made}
        if len(found) < len(made):
            raise InputError(f"{kind}: two aggregates give one field; name them: {{FIELD: {{total: price}}}}")
        return found
    if not isinstance(value, dict) or not value:
        raise InputError(f"{kind} is {value!r:.60}, expected count, or {{FIELD: {{total: price}}}}")
    return {field: _aggregate(item) for field, item in value.items()}


def _aggregate(value: Any) -> Aggregate:
    if isinstance(value, str):
        return of_kind(value, None)
    if not isinstance(value, dict) or not value:
        raise InputError(
            f"{value!r:.60} is no aggregate; expected one of {', '.join(AGGREGATES)}, or {{fn: NAME}}"
        )
    if "fn" in value:
        _refuse_unknown("fn", value, ("fn", "start"))
        return fold(_function({"fn": value["fn"]}), value.get("start"))
    kind = next((key for key in value if key in AGGREGATES), next(iter(value)))
    _refuse_unknown(kind, value, (kind, *(("limit",) if kind == "gather" else ())))
    return of_kind(kind, value[kind], value.get("limit"))


def _refuse_unknown(kind: str, value: Said, known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            raise InputError(f"{kind} has no option {key!r}: {nearest(key, known)}")
