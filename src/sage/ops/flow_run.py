"""How control flow runs: each step's bodies, called within the job they are part of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sized
from typing import Any

from sage.errors import InputError, SageError, nearest
from sage.graph.body import Body
from sage.graph.fields import Constant, field, getter
from sage.graph.plan import PlannedStep
from sage.graph.values import Record
from sage.ops.base import Bodies, Composite, Context, Work
from sage.ops.text import as_text
from sage.tasks import spawn

__all__ = ["IN", "MAX_AT_ONCE", "bind_each", "bind_first_of", "bind_loop", "bind_nested", "bind_route"]

IN = "in."  # argument "in.x" is what the body's input x reads
MAX_AT_ONCE = 64  # items of one job under way together, where the step does not say


def _outer(planned: PlannedStep, body: Body) -> Callable[[Record], Record]:
    """From the record around a body to what the body reads of it."""
    gets = {
        name: getter(planned.arguments[IN + name]) for name in body.inputs if IN + name in planned.arguments
    }
    return lambda record: {name: get(record) for name, get in gets.items()}


def _constant(planned: PlannedStep, name: str, default: Any) -> Any:
    argument = planned.arguments.get(name)
    return argument.value if isinstance(argument, Constant) else default


def bind_nested(planned: PlannedStep, _context: Context) -> Work:
    """The work of a step that is its one body."""
    outer = _outer(planned, planned.step.bodies["body"])

    async def call(record: Record, bodies: Bodies) -> Any:
        return await bodies.run("body", outer(record))

    return Composite(call)


def bind_each(planned: PlannedStep, _context: Context) -> Work:
    """The work of ``each``: a body for every item, in order of the items."""
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


def bind_route(planned: PlannedStep, _context: Context) -> Work:
    """The work of ``route``: the body whose label it is."""
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


def bind_loop(planned: PlannedStep, _context: Context) -> Work:
    """The work of ``loop``: turns of the body, one after the other."""
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


def bind_first_of(planned: PlannedStep, _context: Context) -> Work:
    """The work of ``first_of``: bodies that race."""
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
