"""Several pipelines in one run: their jobs are numbered together, and they may start one after the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sage.clock import Clock
from sage.errors import InputError, nearest
from sage.events import Outcome
from sage.graph.plan import Plan
from sage.runtime.base import Run, first_of_group
from sage.runtime.driver import Driver
from sage.runtime.feed import Sink, Source, feed
from sage.runtime.inline import Inline
from sage.runtime.options import ManyArguments
from sage.runtime.program import Program

__all__ = ["Part", "Stagger", "asked_together", "checked_stagger", "feed_together"]

#: Between the starts of pipelines: seconds; "computed": when the one before it has finished its first job; None: none.
Stagger = float | Literal["computed"] | None


@dataclass(frozen=True, slots=True)
class Part:
    """One pipeline of a run, with its records and what is said of its jobs."""

    run: Run  # of its own, sharing log and counts with the others
    program: Program
    records: Source
    sink: Sink


def checked_stagger(said: Any) -> Stagger:
    """A stagger as a caller says it.

    Raises:
        InputError: it is none.
    """
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    if said is None or said == "computed" or (is_number and 0 <= said < float("inf")):
        return said  # type: ignore[no-any-return]  # checked
    raise InputError(f"stagger_s is {said!r}, expected seconds, not below 0, or 'computed'")


def asked_together(parts: Sequence[Any]) -> list[tuple[Any, Source, Mapping[str, Any]]]:
    """Pipelines with their records and options, as a caller gives them.

    Raises:
        InputError: there is none, one is not of that form, or two pipelines that differ have one name.
    """
    if not parts:
        raise InputError("run_all: there is no pipeline to run; give at least one (pipeline, records)")
    several = [_asked(number, part) for number, part in enumerate(parts)]
    named: dict[str, Any] = {}
    for pipeline, _, _ in several:
        if named.setdefault(pipeline.plan.name, pipeline) != pipeline:
            raise InputError(
                f"run_all: two pipelines that differ are named {pipeline.plan.name!r}; rename one"
            )
    return several


def _asked(number: int, said: Any) -> tuple[Any, Source, Mapping[str, Any]]:
    pipeline, *rest = said if isinstance(said, tuple | list) and said else (None,)
    if not isinstance(getattr(pipeline, "plan", None), Plan) or len(rest) not in {1, 2}:
        raise InputError(
            f"run_all: part {number} is a {type(said).__name__!r}, expected (pipeline, records) or "
            "(pipeline, records, options)"
        )
    options = rest[1] if len(rest) == 2 else {}
    if not isinstance(options, Mapping):
        raise InputError(f"run_all: part {number}: its options are {options!r}, expected a mapping")
    known = [name for name in ManyArguments.__annotations__ if name not in {"record", "on_end"}]
    for name in options:
        if name not in known:
            raise InputError(f"run_all: part {number}: unknown option {name!r}: {nearest(str(name), known)}")
    return pipeline, rest[0], options


async def feed_together(
    driver: Driver, inline: Inline, clock: Clock, parts: Sequence[Part], stagger: Stagger
) -> None:
    """Take the records of every part through its program, all at once or one start after the other.

    Raises:
        InputError: a source is no source of records. Whatever a source raises; the other parts are then cancelled.
    """
    numbers = itertools.count()
    begun = [asyncio.Event() for _ in parts]  # the part before it has let the next one go
    begun[0].set()

    async def one(number: int, part: Part) -> None:
        await _turn(number, stagger, begun[number])
        following = begun[number + 1] if number + 1 < len(parts) else asyncio.Event()
        run = replace(part.run, numbers=numbers, on_end=_telling(part.run, following))
        try:
            await feed(driver, inline, clock, run, part.program, part.records, part.sink)
        finally:
            following.set()

    try:
        async with asyncio.TaskGroup() as group:
            for number, part in enumerate(parts):
                group.create_task(one(number, part))
    except ExceptionGroup as failed:
        first = first_of_group(failed)
        raise first from first.__cause__ or failed


async def _turn(number: int, stagger: Stagger, begun: asyncio.Event) -> None:
    if stagger == "computed":
        await begun.wait()
    elif stagger is not None:
        await asyncio.sleep(number * stagger)


def _telling(run: Run, following: asyncio.Event) -> Callable[[Outcome], None]:
    """What is told of every job that ended: whoever watched, and the part that waits for the first."""

    def on_end(outcome: Outcome) -> None:
        following.set()
        if run.on_end is not None:
            run.on_end(outcome)

    return on_end
