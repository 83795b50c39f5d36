"""Control flow, declared: pipelines as steps, fan-out inside a job, branches, loops and races.

A body is a pipeline, an operator's step or a plain function. What it reads comes from the record around it.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sized
from dataclasses import replace
from typing import Any, Union

from sage.errors import InputError, SageError, nearest
from sage.graph.body import Body, body_from
from sage.graph.fields import Argument, Constant, Ref, field, getter, scalar, text
from sage.graph.plan import PlannedStep
from sage.graph.step import Step
from sage.graph.values import Record
from sage.ops.base import OPERATORS, Bodies, Composite, Context, Operator, Work
from sage.ops.functions import step
from sage.ops.text import as_text
from sage.tasks import spawn

__all__ = ["each", "first_of", "loop", "nested", "route"]

IN = "in."  # argument "in.x" is what the body's input x reads
MAX_AT_ONCE = 64  # items of one job under way together, where the step does not say

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
    until: str | Callable[..., Any],
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
    if callable(until):
        bodies["until"] = body_of(until)
        asked: tuple[str, ...] = bodies["until"].inputs
    else:
        own["until"] = Constant(until)  # a field of the turn's record, not of the one around the loop
        asked = (field(until).name,)
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
        return body_from(getattr(made, "__name__", type(made).__name__), step(made))
    return body_from(made.operator if isinstance(made, Step) else "body", made)


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


Call = Callable[[Record, Bodies], Awaitable[Any]]


def _outer(planned: PlannedStep, body: Body) -> Callable[[Record], Record]:
    """From the record around a body to what the body reads of it."""
    gets = {
        name: getter(planned.arguments[IN + name]) for name in body.inputs if IN + name in planned.arguments
    }
    return lambda record: {name: get(record) for name, get in gets.items()}


def _constant(planned: PlannedStep, name: str, default: Any) -> Any:
    argument = planned.arguments.get(name)
    return argument.value if isinstance(argument, Constant) else default


def _bind_nested(planned: PlannedStep, _context: Context) -> Work:
    outer = _outer(planned, planned.step.bodies["body"])

    async def call(record: Record, bodies: Bodies) -> Any:
        return await bodies.run("body", outer(record))

    return Composite(call)


def _bind_each(planned: PlannedStep, _context: Context) -> Work:
    body = planned.step.bodies["body"]
    outer = _outer(planned, body)
    items_of = getter(planned.arguments["items"])
    (name,) = [name for name in body.inputs if IN + name not in planned.arguments]
    limit = _constant(planned, "max_concurrency", MAX_AT_ONCE)
    skips = _constant(planned, "on_error", "fail") == "skip"

    async def call(record: Record, bodies: Bodies) -> list[Any]:
        items = items_of(record)
        around = outer(record)
        values: dict[int, Any] = {}

        async def one(number: int, item: Any) -> None:
            try:
                values[number] = await bodies.run("body", {**around, name: item}, at=f"[{number}]")
            except SageError as error:
                if not skips:
                    error.add_note(f"for item {number}")
                    raise

        if isinstance(items, AsyncIterable):
            await _as_they_come(items, one, limit)
        elif isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
            raise InputError(f"each needs a list, got a value of type {type(items).__name__!r}")
        else:
            await _together(items, one, limit)
        return [values[number] for number in sorted(values)]

    return Composite(call)


OnItem = Callable[[int, Any], Coroutine[Any, Any, None]]


async def _together(items: Iterable[Any], one: OnItem, limit: int) -> None:
    """At most so many items at once; a single worker needs no task of its own."""
    numbered = iter(enumerate(items))

    async def work() -> None:
        for number, item in numbered:
            await one(number, item)

    count = min(limit, len(items)) if isinstance(items, Sized) else limit
    if count <= 1:
        await work()
        return
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            spawn(group, work())


async def _as_they_come(items: AsyncIterable[Any], one: OnItem, limit: int) -> None:
    """The same for items that are still being made: each is begun as soon as it is there."""
    places = asyncio.Semaphore(limit)  # protects nothing: it counts items under way

    async def work(number: int, item: Any) -> None:
        async with places:
            await one(number, item)

    async with asyncio.TaskGroup() as group:
        number = 0
        async for item in items:
            spawn(group, work(number, item))
            number += 1


def _bind_route(planned: PlannedStep, _context: Context) -> Work:
    label_of = getter(planned.arguments["label"])
    outers = {label: _outer(planned, body) for label, body in planned.step.bodies.items()}
    labels = [label.removeprefix("to.") for label in outers if label != "default"]

    async def call(record: Record, bodies: Bodies) -> Any:
        said = as_text(label_of(record)).strip()
        chosen = f"to.{said}" if f"to.{said}" in outers else "default"
        if chosen not in outers:
            raise InputError(
                f"route: no branch for label {said[:60]!r}, and no default: {nearest(said, labels)}"
            )
        return await bodies.run(chosen, outers[chosen](record))

    return Composite(call)


def _bind_loop(planned: PlannedStep, _context: Context) -> Work:
    body = planned.step.bodies["body"]
    outer = _outer(planned, body)
    carried = {
        name.removeprefix("carry."): argument.value
        for name, argument in planned.arguments.items()
        if name.startswith("carry.") and isinstance(argument, Constant)
    }
    until = planned.step.bodies.get("until")
    is_over = None if until is not None else getter(field(_constant(planned, "until", "")))
    max_steps = _constant(planned, "max_steps", 8)

    async def call(record: Record, bodies: Bodies) -> Record:
        around = outer(record)
        turn: Record = {}
        for number in range(max_steps):
            turn = {**around, **await bodies.run("body", dict(around), at=f"[{number}]")}
            if until is None:
                assert is_over is not None
                over = is_over(turn)
            else:
                over = await bodies.run("until", {name: turn[name] for name in until.inputs})
            if over:
                return {**turn, "stopped": "until"}
            around |= {name: turn[source] for name, source in carried.items()}
        return {**turn, "stopped": "max_steps"}

    return Composite(call)


def _bind_first_of(planned: PlannedStep, _context: Context) -> Work:
    outers = {label: _outer(planned, body) for label, body in planned.step.bodies.items()}

    async def call(record: Record, bodies: Bodies) -> Any:
        won: list[tuple[Any, list[Any]]] = []
        errors: list[SageError] = []

        async def race(label: str) -> None:
            held: list[Any] = []
            try:
                value = await bodies.run(label, outers[label](record), at=f"[{label}]", held=held)
            except SageError as error:
                errors.append(error)
                return
            if not won:
                won.append((value, held))
                for racer in racers:
                    if racer is not asyncio.current_task():
                        racer.cancel()

        async with asyncio.TaskGroup() as group:
            racers = [spawn(group, race(label)) for label in outers]
        if not won:
            errors[-1].add_note(f"as all {len(errors)} racers did")
            raise errors[-1]
        value, held = won[0]
        bodies.show(held)
        return value

    return Composite(call)


OPERATORS["pipeline"] = Operator("pipeline", nested, None, _bind_nested)
OPERATORS["each"] = Operator("each", each, None, _bind_each)
OPERATORS["route"] = Operator("route", route, None, _bind_route)
OPERATORS["loop"] = Operator("loop", loop, None, _bind_loop)
OPERATORS["first_of"] = Operator("first_of", first_of, None, _bind_first_of)
