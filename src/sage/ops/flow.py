"""Control flow, declared: pipelines as steps, fan-out inside a job, branches, loops and races.

A body is a pipeline, an operator's step or a plain function. What it reads comes from the record around it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Union

from sage.errors import InputError, nearest
from sage.graph.body import Body, body_from
from sage.graph.fields import Argument, Constant, Ref, field, scalar, text
from sage.graph.form import Given
from sage.graph.step import Step
from sage.ops.base import OPERATORS, Operator
from sage.ops.flow_run import IN, MAX_AT_ONCE, bind_each, bind_first_of, bind_loop, bind_nested, bind_route
from sage.ops.functions import name_of, step

__all__ = ["each", "first_of", "loop", "nested", "route"]

#: A pipeline, a step or a function.
Made = Any


def nested(pipeline: Made, /, **renamed: str) -> Step:
    """A pipeline as a step of another one. Its value is its record: read ``{step.field}``.

    Args:
        pipeline: its inputs are read from the fields of the same name around it.
        **renamed: inputs that read something else: ``question="{rewritten}"``.

    Raises:
        InputError: a renamed input does not exist.
    """
    body = body_of(pipeline)
    for name in renamed:
        if name not in body.inputs:
            raise InputError(
                f"pipeline {body.plan.name!r} has no input {name!r}: {nearest(name, body.inputs)}"
            )
    read = {name: scalar(renamed.get(name, "{" + name + "}")) for name in body.inputs}
    return _flow_step("pipeline", {"body": body}, {}, read, body.gives)


def each(
    items: str,
    body: Made,
    /,
    *,
    item: str = "item",
    max_concurrency: int = MAX_AT_ONCE,
    on_error: str = "fail",
) -> Step:
    """A body for every item of a list, at the same time. Its value is the list of the bodies' values, in order.

    Args:
        items: the field with the list.
        body: reads the item by the name ``item``; a body with one input takes it whatever its name is. Its
            other inputs come from the record around it.
        item: the name.
        max_concurrency: items under way together within one job.
        on_error: "fail" ends the job with the first item that fails; "skip" leaves failed items out.

    Raises:
        InputError: the body has several inputs and none is named like the item.
    """
    made = body_of(body)
    name = item
    if item not in made.inputs:
        if len(made.inputs) != 1:
            have = ", ".join(map(repr, made.inputs)) or "nothing"
            raise InputError(
                f"each({items!r}, …): the body reads {have}, and none is {item!r}; "
                'say which one is the item: item="chunk"'
            )
        (name,) = made.inputs
    _whole("each: max_concurrency", max_concurrency)
    if on_error not in {"fail", "skip"}:
        raise InputError(f"each: on_error is {on_error!r}, expected 'fail' or 'skip'")
    own: dict[str, Argument] = {"items": field(items)}
    given = {
        "item": (item, "item"),
        "max_concurrency": (max_concurrency, MAX_AT_ONCE),
        "on_error": (on_error, "fail"),
    }
    own |= {key: Constant(value) for key, (value, default) in given.items() if value != default}
    read = {other: Ref(other) for other in made.inputs if other != name}
    wanted = made.input_type(name)
    listed: Any = Iterable if wanted is Any else types.GenericAlias(Iterable, (wanted,))
    values = types.GenericAlias(list, (made.gives,))
    made_step = _flow_step("each", {"body": made}, own, read, values, {"items": listed})
    return replace(made_step, takes_pieces=("items",))


def route(
    label: str, branches: Mapping[str, Made] | None = None, /, *, default: Made = None, **named: Made
) -> Step:
    """One of several branches, chosen by a label; only that one runs, and its value is the step's.

    Args:
        label: text with references, compared after stripping white space.
        branches: label -> body, for labels that are no identifiers.
        default: where no label fits; without it such a job fails.
        **named: label -> body.

    Raises:
        InputError: no branch, or a label said twice.
    """
    made = {**(branches or {}), **named}
    twice = sorted(set(branches or {}) & set(named))
    if twice:
        raise InputError(f"route: label {twice[0]!r} has two branches; keep one")
    if not made:
        raise InputError("route needs at least one branch: route('{intent}', chat=…, search=…)")
    bodies = {f"to.{key}": body_of(body) for key, body in made.items()}
    if default is not None:
        bodies["default"] = body_of(default)
    gives = _one_of(bodies.values())
    read = {name: Ref(name) for body in bodies.values() for name in body.inputs}
    return _flow_step("route", bodies, {"label": text(label)}, read, gives)


def loop(
    body: Made,
    /,
    *,
    until: str | Callable[..., Any] | Step | Body,
    carry: Mapping[str, str] | None = None,
    max_steps: int = 8,
) -> Step:
    """A pipeline turn after turn, until its record says so. Its value is the last turn's record and ``stopped``.

    Args:
        body: a pipeline.
        until: a field of the turn's record that is true at the end, or a function over its fields.
        carry: input -> field of the turn before that it is made of. The first turn reads it around the loop.
        max_steps: turns at most. ``stopped`` is "until" or "max_steps".

    Raises:
        InputError: ``until`` or ``carry`` names a field there is not.
    """
    made = body_of(body)
    if made.field is not None:
        raise InputError("loop takes a pipeline, whose record says when it is over; got a single step")
    _whole("loop: max_steps", max_steps)
    known = [*made.inputs, *(planned.name for planned in made.plan.steps)]
    bodies = {"body": made}
    own: dict[str, Argument] = {}
    if isinstance(until, str):
        own["until"] = Constant(until)  # a field of the turn's record, not of the one around the loop
        asked: tuple[str, ...] = (field(until).name,)
    else:
        bodies["until"] = body_of(until)
        asked = bodies["until"].inputs
    for name in (*asked, *(carry or {}).values()):
        if name not in known:
            raise InputError(
                f"loop: pipeline {made.plan.name!r} has no field {name!r}: {nearest(name, known)}"
            )
    for name in carry or {}:
        if name not in made.inputs:
            raise InputError(
                f"loop: pipeline {made.plan.name!r} has no input {name!r}: {nearest(name, made.inputs)}"
            )
    own |= {f"carry.{name}": Constant(source) for name, source in (carry or {}).items()}
    if max_steps != 8:
        own["max_steps"] = Constant(max_steps)
    return _flow_step("loop", bodies, own, {name: Ref(name) for name in made.inputs}, dict[str, Any])


def first_of(*racers: Made) -> Step:
    """Bodies that race; its value is that of the first to succeed, and the others are cancelled.

    It fails only when all have failed. Only the winner's tokens are shown.

    Raises:
        InputError: fewer than two racers.
    """
    if len(racers) < 2:
        raise InputError(f"first_of needs at least two racers, got {len(racers)}")
    bodies = {str(number): body_of(racer) for number, racer in enumerate(racers)}
    gives = _one_of(bodies.values())
    read = {name: Ref(name) for body in bodies.values() for name in body.inputs}
    return _flow_step("first_of", bodies, {}, read, gives)


def _one_of(bodies: Iterable[Body]) -> Any:
    """The type of a value that one of these gives."""
    return Union.__getitem__(tuple(body.gives for body in bodies))


def _whole(what: str, number: Any) -> None:
    if not isinstance(number, int) or number < 1:
        raise InputError(f"{what} is {number!r}, expected a whole number above 0")


def body_of(made: Made) -> Body:
    """What a user gave as a body.

    Raises:
        InputError: it is none.
    """
    if callable(made) and not hasattr(made, "plan"):
        made = step(made)
    if not isinstance(made, Step):
        return body_from("body", made)
    function = made.function if made.operator == "fn" else None
    return body_from(made.operator if function is None else name_of(function), made)


def _flow_step(
    operator: str,
    bodies: Mapping[str, Body],
    own: Mapping[str, Argument],
    read: Mapping[str, Argument],
    gives: Any,
    expects: Mapping[str, Any] | None = None,
) -> Step:
    types = {IN + name: body.input_type(name) for body in bodies.values() for name in body.inputs}
    return Step(
        operator=operator,
        arguments={**own, **{IN + name: argument for name, argument in read.items()}},
        gives=gives,
        expects={**types, **(expects or {})},
        bodies=bodies,
    )


# ---- as YAML says them: bodies under the operator's name or in options, each a step or a pipeline


def _nested_form(pipeline: Body, *, inputs: dict[str, str] | None = None) -> Step:
    return nested(pipeline, **(inputs or {}))


def _nested_given(step: Step) -> Mapping[str, Given]:
    read = {name: step.arguments[IN + name] for name in step.bodies["body"].inputs}
    renamed = {f"inputs.{name}": argument for name, argument in read.items() if argument != Ref(name)}
    return {"pipeline": step.bodies["body"], **renamed}


def _each_form(
    items: str,
    *,
    body: Body,
    item: str = "item",
    max_concurrency: int = MAX_AT_ONCE,
    on_error: str = "fail",
) -> Step:
    return each(items, body, item=item, max_concurrency=max_concurrency, on_error=on_error)


def _each_given(step: Step) -> Mapping[str, Given]:
    own = _own(step)
    return {"items": own.pop("items"), "body": step.bodies["body"], **own}


def _route_form(label: str, *, to: dict[str, Body], default: Body | None = None) -> Step:
    return route(label, to, default=default)


def _loop_form(
    body: Body,
    *,
    until: str | Body,
    carry: dict[str, str] | None = None,
    max_steps: int = 8,
) -> Step:
    return loop(body, until=until, carry=carry, max_steps=max_steps)


def _first_of_form(racers: list[Body]) -> Step:
    return first_of(*racers)


def _own(step: Step) -> dict[str, Given]:
    """The arguments that are not merely what a body reads around it."""
    return {name: argument for name, argument in step.arguments.items() if not name.startswith(IN)}


def _with_own(step: Step) -> Mapping[str, Given]:
    return {**step.bodies, **_own(step)}


OPERATORS["pipeline"] = Operator("pipeline", _nested_form, "pipeline", bind_nested, _nested_given)
OPERATORS["each"] = Operator("each", _each_form, "items", bind_each, _each_given)
OPERATORS["route"] = Operator(
    "route", _route_form, "label", bind_route, lambda step: {**_own(step), **step.bodies}
)
OPERATORS["loop"] = Operator("loop", _loop_form, "body", bind_loop, _with_own)
OPERATORS["first_of"] = Operator(
    "first_of", _first_of_form, "racers", bind_first_of, lambda step: {"racers": [*step.bodies.values()]}
)
