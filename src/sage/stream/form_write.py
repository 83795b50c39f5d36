"""Streams back as YAML (see ``sage.stream.form``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InputError
from sage.graph.yamltext import yaml_text
from sage.pipeline import Pipeline
from sage.stream.aggregates import Aggregate
from sage.stream.calls import function_name
from sage.stream.node import Graph, Input, Node
from sage.stream.specs import (
    MAX_PENDING,
    Documents,
    Filter,
    FlatMap,
    Join,
    Map,
    Merge,
    Read,
    Records,
    Reduce,
    Scan,
    Select,
    Spec,
    Take,
    Through,
    Window,
    Write,
)

__all__ = ["dump_stream"]


def dump_stream(graph: Graph) -> str:
    """A stream as YAML, which :func:`load_stream` turns into an equal one.

    Raises:
        InputError: a stage has no such form: a Python object as source or sink, a function that is not registered.
    """
    names = {id(node): name for node, name in zip(graph.nodes, graph.names, strict=True)}
    stages: list[dict[str, Any]] = []
    before: Node | None = None
    for node, name in zip(graph.nodes, graph.names, strict=True):
        try:
            stages.append(_stage_form(node, before, names))
        except InputError as error:
            raise InputError(f"stage {name!r} cannot be written as YAML: {error}") from error
        before = node
    return yaml_text({"stream": graph.name, "stages": stages})


def _stage_form(node: Node, before: Node | None, names: Mapping[int, str]) -> dict[str, Any]:
    reads = [_reference(item, names) for item in node.inputs]
    spec = node.spec
    value, options = _value(spec)
    if isinstance(spec, Merge):
        value = reads
    form: dict[str, Any] = {spec.KIND: reads[1] if isinstance(spec, Join) else value}
    if node.name is not None:
        form["as"] = node.name
    if reads and not isinstance(spec, Merge) and (node.inputs[0].node is not before or node.inputs[0].port):
        form["of"] = reads[0]
    return form | options


def _reference(item: Input, names: Mapping[int, str]) -> str:
    return names[id(item.node)] + (f".{item.port}" if item.port else "")


def _value(spec: Spec) -> tuple[Any, dict[str, Any]]:
    """What stands under a stage's kind, and its options, defaults left out."""
    match spec:
        case Read():
            return spec.path, _said(format=spec.format, follow=spec.follow or None)
        case Documents():
            return spec.path, _said(every=spec.every)
        case Map(function=None):
            return {field: _named_function(function) for field, function in spec.fields.items()}, {}
        case Map():
            assert spec.function is not None
            return _named_function(spec.function), {}
        case Filter():
            return _filter_form(spec), {}
        case FlatMap():
            return _named_function(spec.function), {}
        case Select():
            return list(spec.fields), {}
        case Take():
            return spec.count, {}
        case Through():
            own = _said(ordered=None if spec.ordered else False, max_inflight=spec.max_inflight)
            return _pipeline_form(spec.pipeline), own | dict(spec.options)
        case Scan():
            return _aggregates_form(spec.aggregates), _grouping(spec)
        case Reduce():
            return _aggregates_form(spec.aggregates), _grouping(spec) | _window_form(spec.window)
        case Join():
            given = _said(
                time=spec.time if spec.time != "time" else None,
                wait=spec.wait if spec.wait != 0 else None,
                how=spec.how if spec.how != "inner" else None,
            )
            return None, {**_grouping(spec), "within": spec.within, "into": spec.into, **given}
        case Merge():
            return None, _said(by=spec.by)
        case Write(path=str(path)):
            return path, _said(format=spec.format)
        case Records() | Write():
            raise InputError("a file cannot hold a Python object; read from a file and write to one")
    raise InputError(f"{type(spec).__name__} has no form")


def _said(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _named_function(function: Callable[..., Any]) -> dict[str, str]:
    from sage.ops.functions import FUNCTIONS

    name = function_name(function)
    if name not in FUNCTIONS or FUNCTIONS[name] is not function:
        raise InputError(
            f"function {name!r} is not registered, and YAML names functions only; "
            "decorate a named function with sage.ops.register"
        )
    return {"fn": name}


def _filter_form(spec: Filter) -> Any:
    if spec.test is None:
        form = dict(spec.where)
        if list(form) == ["fn"] and isinstance(form["fn"], str):
            raise InputError(
                "a condition on a field called 'fn' alone reads as a function; write {fn: {eq: …}}"
            )
        return form
    return spec.test if isinstance(spec.test, str) else _named_function(spec.test)


def _pipeline_form(pipeline: Pipeline) -> dict[str, Any]:
    from sage.graph.form_write import write_form
    from sage.ops import OPERATORS

    declared, outputs = pipeline.declared_inputs, pipeline.plan.outputs
    return write_form(pipeline.name, pipeline.steps, declared, outputs, OPERATORS)


def _grouping(spec: Scan | Reduce | Join) -> dict[str, Any]:
    key: Any = spec.key[0] if len(spec.key) == 1 else list(spec.key)
    pending = spec.max_pending if spec.max_pending != MAX_PENDING else None
    return _said(key_by=key or None, max_pending=pending)


def _window_form(window: Window | None) -> dict[str, Any]:
    if window is None:
        return {}
    said = _said(
        size=window.size,
        count=window.count,
        every=window.every,
        time=window.time if window.time != "time" else None,
        wait=window.wait if window.wait != 0 else None,
    )
    return {"window": said["size"] if list(said) == ["size"] and isinstance(window.size, str) else said}


def _aggregates_form(aggregates: Mapping[str, Aggregate]) -> Any:
    return {field: _aggregate_form(of) for field, of in aggregates.items()}


def _aggregate_form(of: Aggregate) -> Any:
    if of.function is not None:
        return _named_function(of.function) | _said(start=of.start)
    if of.limit is not None or of.field is not None:
        return {of.kind: of.field} | _said(limit=of.limit)
    return of.kind
