"""From declared steps to a checked, ordered plan: every fault is found here, before anything runs."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from sage.errors import Fault, InputError, PipelineError, nearest
from sage.graph.fields import Argument, Ref, Template
from sage.graph.step import Step
from sage.graph.types import Missing, assignable, part_type, type_name

__all__ = ["Plan", "PlannedStep", "check_record", "compile_plan"]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step in its place: what it reads and what it waits for."""

    name: str
    step: Step
    arguments: Mapping[str, Argument]  # the given ones and the optional ones that found their field
    needs: tuple[str, ...]  # fields it reads, inputs included
    after: tuple[str, ...]  # steps that must be done before it; of live ones, begun
    live: tuple[str, ...] = ()  # steps whose pieces it reads as they come


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked pipeline. Steps stand in an order in which they can run; declared order where it is free."""

    name: str
    steps: tuple[PlannedStep, ...]
    inputs: tuple[str, ...]  # fields a record must have
    optional_inputs: tuple[str, ...] = ()  # declared, read only through a default
    outputs: tuple[str, ...] | None = None  # None: every field

    def step(self, name: str) -> PlannedStep:
        """The planned step that produces a field.

        Raises:
            KeyError: there is none.
        """
        for planned in self.steps:
            if planned.name == name:
                return planned
        raise KeyError(name)

    def pools(self) -> tuple[str, ...]:
        """The pools its steps run in, those inside bodies included."""
        found: dict[str, None] = {}
        for planned in self.steps:
            if planned.step.pool is not None:
                found[planned.step.pool] = None
            for body in planned.step.all_bodies():
                found |= dict.fromkeys(body.plan.pools())
        return tuple(found)

    def ancestors(self, name: str) -> frozenset[str]:
        """The steps that must be done before a step, directly or not."""
        found: set[str] = set()
        waiting = list(self.step(name).after)
        while waiting:
            step = waiting.pop()
            if step not in found:
                found.add(step)
                waiting += self.step(step).after
        return frozenset(found)


def compile_plan(
    name: str,
    steps: Mapping[str, Step],
    *,
    declared_inputs: tuple[str, ...] | None = None,
    outputs: tuple[str, ...] | None = None,
    faults: Iterable[Fault] = (),
) -> Plan:
    """The plan of these steps.

    Args:
        name: the pipeline's.
        steps: field -> what it is made from.
        declared_inputs: if given, a reference to anything else that no step produces is a fault.
        outputs: fields the finished record is narrowed to.
        faults: what was already found wrong; reported together with the rest.

    Raises:
        PipelineError: with every fault at once.
    """
    found = list(faults)
    planned = {field: _planned(field, step, steps, declared_inputs or ()) for field, step in steps.items()}
    order, cycle = _order(planned)
    in_order = dict.fromkeys([*order, *planned])  # the second for what stands in a cycle
    read = dict.fromkeys(need for field in in_order for need in planned[field].needs if need not in steps)
    if declared_inputs is not None:
        found += _unknown_references(planned, steps, declared_inputs)
    found += _bad_outputs(outputs, steps, tuple(read) if declared_inputs is None else declared_inputs)
    found += cycle
    found += _type_faults(planned, steps)
    if found:
        raise PipelineError(name, found)
    required = _required(planned, steps)
    inputs = tuple(field for field in declared_inputs or read if field in required or declared_inputs is None)
    optional = tuple(field for field in declared_inputs or () if field not in required)
    return Plan(name, tuple(planned[field] for field in order), inputs, optional, outputs)


def _planned(name: str, step: Step, steps: Mapping[str, Step], inputs: tuple[str, ...]) -> PlannedStep:
    bound = {arg: ref for arg, ref in step.optional.items() if ref.name in steps or ref.name in inputs}
    arguments: dict[str, Argument] = {**step.arguments, **bound}
    refs = [ref for argument in arguments.values() for ref in argument.references]
    refs += _asides(step)
    needs = dict.fromkeys(ref.name for ref in refs)
    after = tuple(need for need in needs if need in steps)
    return PlannedStep(name, step, arguments, tuple(needs), after, _live(step, arguments, steps))


def _live(step: Step, arguments: Mapping[str, Argument], steps: Mapping[str, Step]) -> tuple[str, ...]:
    """The steps whose pieces this one reads. A step that also reads the whole value waits for it."""
    live: dict[str, None] = {}
    for name in step.takes_pieces:
        argument = arguments.get(name)
        if isinstance(argument, Ref) and not argument.parts and argument.name in steps:
            source = steps[argument.name]
            if source.gives_pieces is not None and (
                step.function is not None or get_origin(source.gives) is list
            ):
                live[argument.name] = None
    whole = {
        ref.name
        for name, argument in arguments.items()
        if name not in step.takes_pieces
        for ref in argument.references
    } | {ref.name for ref in _asides(step)}
    return tuple(name for name in live if name not in whole)


def _asides(step: Step) -> list[Ref]:
    """What a step reads besides its arguments: its condition, and what its fallback needs."""
    condition = [] if step.condition is None else [step.condition]
    return condition + ([] if step.otherwise is None else [Ref(name) for name in step.otherwise.inputs])


def _required(planned: Mapping[str, PlannedStep], steps: Mapping[str, Step]) -> frozenset[str]:
    """Inputs that some step reads without having a default for them."""
    return frozenset(
        ref.name
        for step in planned.values()
        for name, argument in step.arguments.items()
        if name not in step.step.optional
        for ref in argument.references
        if ref.name not in steps
    ) | frozenset(
        ref.name for step in planned.values() for ref in _asides(step.step) if ref.name not in steps
    )


def _unknown_references(
    planned: Mapping[str, PlannedStep], steps: Mapping[str, Step], inputs: tuple[str, ...]
) -> list[Fault]:
    known = [*inputs, *steps]
    return [
        Fault(
            step.name, f"reads {need!r}, which is neither a step nor a declared input: {nearest(need, known)}"
        )
        for step in planned.values()
        for need in step.needs
        if need not in known
    ] + [
        Fault(None, f"input {name!r} is also a step; rename one of them") for name in inputs if name in steps
    ]


def _bad_outputs(
    outputs: tuple[str, ...] | None, steps: Mapping[str, Step], inputs: tuple[str, ...]
) -> list[Fault]:
    known = [*steps, *inputs]
    return [
        Fault(None, f"output {name!r} is no field of it: {nearest(name, known)}")
        for name in outputs or ()
        if name not in known
    ]


def _order(planned: Mapping[str, PlannedStep]) -> tuple[list[str], list[Fault]]:
    """Kahn's order, the earliest declared first among those that are free; and the cycle, if there is one."""
    rank = {name: number for number, name in enumerate(planned)}
    waits_for = {name: len(step.after) for name, step in planned.items()}
    readers: dict[str, list[str]] = {name: [] for name in planned}
    for name, step in planned.items():
        for needed in step.after:
            readers[needed].append(name)
    free = [rank[name] for name, count in waits_for.items() if count == 0]
    heapq.heapify(free)
    names = list(planned)
    order: list[str] = []
    while free:
        name = names[heapq.heappop(free)]
        order.append(name)
        for reader in readers[name]:
            waits_for[reader] -= 1
            if waits_for[reader] == 0:
                heapq.heappush(free, rank[reader])
    if len(order) == len(planned):
        return order, []
    return order, [_cycle_fault(planned, set(planned) - set(order))]


def _cycle_fault(planned: Mapping[str, PlannedStep], stuck: set[str]) -> Fault:
    """Walk backwards among the stuck steps until one repeats: that is a cycle."""
    path = [next(name for name in planned if name in stuck)]
    while path[-1] not in path[:-1]:
        path.append(next(name for name in planned[path[-1]].after if name in stuck))
    cycle = path[path.index(path[-1]) :]
    shown = " -> ".join(repr(name) for name in reversed(cycle))
    return Fault(cycle[0], f"is part of a cycle: {shown}; a step cannot need its own result")


def _type_faults(planned: Mapping[str, PlannedStep], steps: Mapping[str, Step]) -> list[Fault]:
    faults: list[Fault] = []
    for step in planned.values():
        for name, argument in step.arguments.items():
            for ref in argument.references:
                if ref.name in steps:
                    faults += _edge_faults(step, name, argument, ref, steps[ref.name].gives)
        if (otherwise := step.step.otherwise) is None:
            continue
        for name in otherwise.inputs:
            if name in steps and not assignable(steps[name].gives, otherwise.input_type(name)):
                faults.append(
                    Fault(step.name, f"its fallback reads {name!r}, which is {type_name(steps[name].gives)}")
                )
    return faults


def _piece_type(given: Any) -> Any:
    """The type of one piece of a value of this type: of a list its items, of a text the text."""
    return (*get_args(given), Any)[0] if get_origin(given) is list else given


def _edge_faults(reader: PlannedStep, name: str, argument: Argument, ref: Ref, given: Any) -> list[Fault]:
    """What is wrong with one edge: a part that does not exist, or a value of a type the reader does not take."""
    for part in ref.parts:
        found = part_type(given, part)
        if isinstance(found, Missing):
            return [
                Fault(
                    reader.name, f"reads {{{ref}}}, but step {ref.name!r} gives {type_name(given)}, {found}"
                )
            ]
        given = found
    wanted = reader.step.expects.get(name, Any)
    if name in reader.step.takes_pieces and reader.step.function is not None:
        given, wanted = _piece_type(given), (*get_args(wanted), Any)[0]
    rendered = isinstance(argument, Template) and argument.alone is None
    if rendered or assignable(given, wanted):
        return []
    return [
        Fault(
            reader.name,
            f"its parameter {name!r} takes {type_name(wanted)}, "
            f"but step {ref.name!r} gives {type_name(given)}",
        )
    ]


def _hint(missing: str, record: Mapping[str, Any], fields: AbstractSet[str]) -> str:
    """What to do about a field that a record lacks."""
    if not record:
        return f"give it as {missing}=…"
    close = difflib.get_close_matches(missing, [*record, *fields], n=1)
    if close and close[0] in record:
        return f"rename the record's field {close[0]!r} to {missing!r}?"
    if close:
        return f"did you mean the step {close[0]!r}? Then read {{{close[0]}}} in the pipeline"
    return "add the field to the record"


def check_record(plan: Plan, record: Mapping[str, Any], fields: AbstractSet[str]) -> None:
    """Refuse a record that lacks an input of a plan, or that has one of the fields its steps write.

    Raises:
        InputError: naming the field and what is there instead.
    """
    missing = [name for name in plan.inputs if name not in record]
    if missing:
        have = ", ".join(repr(name) for name in record) or "no field"
        hint = _hint(missing[0], record, fields)
        raise InputError(
            f"pipeline {plan.name!r} needs {', '.join(map(repr, missing))}, but the record has {have}; {hint}"
        )
    clash = fields & record.keys()
    if clash:
        raise InputError(
            f"the record has a field {min(clash)!r}, which step {min(clash)!r} of pipeline "
            f"{plan.name!r} would write; rename one of them"
        )
