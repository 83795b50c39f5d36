"""A plan bound to a session's engines and indexes, in the form the driver runs fastest.

Inline steps are closures over the record. Where awaiting steps can never overlap, the program is a chain and
runs straight through; otherwise it is a graph whose ready steps run as strands.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sage.errors import EngineError, Fault, InputError, PipelineError, StepError
from sage.graph.body import Body
from sage.graph.fields import Constant, Ref, getter
from sage.graph.plan import Plan, PlannedStep, check_record
from sage.graph.step import Step
from sage.graph.values import Record
from sage.ops.base import OPERATORS, Composite, Compute, Context, Embed, Generate, Inline, Work
from sage.runtime.hops import Carrier, Hop, hops_of
from sage.runtime.reuse import remembering

__all__ = ["FALLBACK", "Node", "Program", "build_program"]

FALLBACK = "otherwise"  # its label among a node's bodies
BACKOFF_S = 0.1  # the first retry of a function waits up to this, each further one up to twice as long


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One step, ready to run."""

    index: int  # in plan order
    name: str
    planned: PlannedStep
    work: Work
    call: Callable[[Record], Any] | None  # of inline work
    awaits: bool  # the call's result is awaited, or the work goes to an endpoint
    is_one_call: bool  # the work is a call to an endpoint, neither several nor one that may be shortened
    waits_for: int  # how many steps must be done first
    readers: tuple[int, ...]  # steps that wait for this one to be done
    live_readers: tuple[int, ...]  # steps that read its pieces, and wait for it to begin
    takes: tuple[str, ...]  # fields it reads as async iterators
    is_stream: bool  # its call gives an async generator
    path: tuple[str, ...]  # the endpoint-bound steps on the longest path from here to the end, its own first
    remaining_steps: int  # how many those are
    own_steps: int  # of these, its own: 0 for inline work, those of the longest body for control flow
    bodies: Mapping[str, Program]  # of control flow
    condition: Callable[[Record], Any] | None  # the step runs only if this is true
    instead: Constant | None  # its value if it fails
    otherwise: Program | None  # what is run if it fails
    gate: asyncio.Semaphore | None  # how many jobs at once; protects nothing else
    hop: Hop | None = None  # what is done with it, where functions of the cpu pool run elsewhere

    @property
    def is_plain(self) -> bool:
        """Whether the step always runs at once, and its failure is the job's."""
        return (
            self.condition is None and self.instead is None and self.otherwise is None and self.gate is None
        )

    @property
    def forgives(self) -> bool:
        """Whether something stands in when it fails."""
        return self.instead is not None or self.otherwise is not None


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What the driver runs for each job of a pipeline."""

    plan: Plan
    nodes: tuple[Node, ...]
    inputs: frozenset[str]
    fields: frozenset[str]  # names of the steps
    is_plain: bool  # every step always runs, and its failure is the job's
    is_inline: bool  # plain, and nothing awaits: jobs run in one go
    is_chain: bool  # awaiting steps never overlap
    is_free: bool  # plain, and needs no endpoint: only functions
    calls: tuple[tuple[str, Callable[[Record], Any], bool], ...]  # name, function, is awaited: of functions

    def check_record(self, record: Record) -> None:
        """Refuse a record that lacks an input, or that already has a field a step would write.

        Raises:
            InputError: naming the field and what is there instead.
        """
        check_record(self.plan, record, self.fields)

    def shrink(self, node: Node, record: Record, error: EngineError) -> int:
        """Drop items from the end of the field that a step's ``fit=`` names and redo what was made from it.

        Args:
            node: the step whose prompt is too long.
            record: changed in place, so that it shows what was really sent.
            error: says, if the engine counted, how much too long it is.

        Returns:
            How many items are left. Raises the error when there is nothing left to drop.
        """
        assert isinstance(node.work, Generate)
        field = node.work.fit
        assert field is not None
        items = record[field]
        if not items:
            raise error
        keep = len(items) - 1
        if error.prompt_tokens and error.context_tokens:
            keep = min(keep, len(items) * error.context_tokens // error.prompt_tokens)
        record[field] = items[:keep]
        for step in _between(self, field, node.name):
            assert step.call is not None
            record[step.name] = step.call(record)
        return keep


def build_program(plan: Plan, context: Context, carrier: Carrier | None = None) -> Program:
    """Bind every step of a plan.

    Args:
        plan: what is to be run.
        context: the session's engines and indexes.
        carrier: brings the functions of the cpu pool elsewhere; None: they run in this process.

    Raises:
        PipelineError: with everything this session cannot do for it.
    """
    works: dict[str, Work] = {}
    bodies: dict[str, dict[str, Program]] = {}
    faults: list[Fault] = []
    for planned in plan.steps:
        try:
            bodies[planned.name] = {
                label: build_program(body.plan, context.within(body.plan), carrier)
                for label, body in _labelled(planned.step)
            }
            works[planned.name] = OPERATORS[planned.step.operator].bind(planned, context)
            faults += _limits(planned, works[planned.name], carrier)
        except InputError as error:
            faults.append(Fault(planned.name, str(error)))
        except PipelineError as error:
            faults += [Fault(planned.name, f"in {error.pipeline!r}: {fault}") for fault in error.faults]
    if faults:
        raise PipelineError(plan.name, faults)
    hops = {} if carrier is None else hops_of(plan, works, carrier)
    program = _assemble(plan, works, bodies, hops)
    faults = [fault for node in program.nodes for fault in _fit_faults(program, node)]
    if faults:
        raise PipelineError(plan.name, faults)
    return program


def _taken(planned: PlannedStep) -> tuple[str, ...]:
    """Fields that the step reads as async iterators: all it takes piece by piece if it is a function."""
    if planned.step.function is None:
        return planned.live
    refs = (planned.arguments.get(name) for name in planned.step.takes_pieces)
    return tuple(ref.name for ref in refs if isinstance(ref, Ref) and not ref.parts)


def _labelled(step: Step) -> list[tuple[str, Body]]:
    otherwise = [] if step.otherwise is None else [(FALLBACK, step.otherwise)]
    return [*step.bodies.items(), *otherwise]


def _assemble(
    plan: Plan,
    works: Mapping[str, Work],
    bodies: Mapping[str, Mapping[str, Program]],
    hops: Mapping[str, Hop],
) -> Program:
    works = {**works, **{name: Compute(hop.calls[0]) for name, hop in hops.items()}}
    place = {planned.name: number for number, planned in enumerate(plan.steps)}
    readers: dict[str, list[int]] = {planned.name: [] for planned in plan.steps}
    live: dict[str, list[int]] = {planned.name: [] for planned in plan.steps}
    for planned in plan.steps:
        for name in planned.after:
            (live if name in planned.live else readers)[name].append(place[planned.name])
    ahead: dict[str, tuple[str, ...]] = {}
    for planned in reversed(plan.steps):
        following = readers[planned.name] + live[planned.name]
        furthest = max((ahead[plan.steps[reader].name] for reader in following), key=len, default=())
        ahead[planned.name] = _own_path(plan, planned, works[planned.name], bodies[planned.name]) + furthest
    nodes = tuple(
        _node(
            number,
            planned,
            works[planned.name],
            bodies[planned.name],
            tuple(readers[planned.name]),
            tuple(live[planned.name]),
            ahead[planned.name],
            len(_own_path(plan, planned, works[planned.name], bodies[planned.name])),
            hops.get(planned.name),
        )
        for number, planned in enumerate(plan.steps)
    )
    is_plain = all(node.is_plain for node in nodes)
    return Program(
        plan=plan,
        nodes=nodes,
        inputs=frozenset(plan.inputs),
        fields=frozenset(place),
        is_plain=is_plain,
        is_inline=is_plain and not any(node.awaits for node in nodes),
        is_chain=not any(node.live_readers for node in nodes)
        and _is_chain(plan, [node.name for node in nodes if node.awaits]),
        is_free=is_plain and all(node.call is not None for node in nodes),
        calls=tuple((node.name, node.call, node.awaits) for node in nodes if node.call is not None),
    )


def _node(
    number: int,
    planned: PlannedStep,
    work: Work,
    bodies: Mapping[str, Program],
    readers: tuple[int, ...],
    live_readers: tuple[int, ...],
    path: tuple[str, ...],
    own_steps: int,
    hop: Hop | None,
) -> Node:
    if hop is not None and planned.step.pool is None:  # a plain function that leads a hop
        planned = replace(planned, step=replace(planned.step, pool=hop.pool))
    call = work.call if isinstance(work, Inline) else None
    awaits = not isinstance(work, Inline) or work.is_async
    if call is not None and planned.step.reuse is not None:
        call = remembering(_function_name(planned), _arguments(planned), call, is_async=awaits)
    if planned.step.attempts or planned.step.timeout_s:
        if call is not None:
            call, awaits = _resilient(planned, call), True
        elif isinstance(work, Composite):
            work = Composite(_resilient(planned, work.call))
    return Node(
        index=number,
        name=planned.name,
        planned=planned,
        work=work,
        call=call,
        awaits=awaits,
        is_one_call=isinstance(work, Embed | Compute)
        or (isinstance(work, Generate) and work.n == 1 and work.fit is None),
        waits_for=len(planned.after),
        readers=readers,
        live_readers=live_readers,
        takes=_taken(planned),
        is_stream=call is not None and planned.step.gives_pieces is not None,
        path=path,
        remaining_steps=len(path),
        own_steps=own_steps,
        bodies=bodies,
        condition=None if planned.step.condition is None else getter(planned.step.condition),
        instead=planned.step.instead,
        otherwise=bodies.get(FALLBACK),
        gate=None
        if planned.step.max_concurrency is None
        else asyncio.Semaphore(planned.step.max_concurrency),
        hop=hop,
    )


def _function_name(planned: PlannedStep) -> str:
    function = planned.step.function
    if function is None:
        return planned.step.operator
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', planned.name)}"


def _arguments(planned: PlannedStep) -> Callable[[Record], dict[str, Any]]:
    gets = {name: getter(argument) for name, argument in planned.arguments.items()}
    return lambda record: {name: get(record) for name, get in gets.items()}


def _own_path(plan: Plan, planned: PlannedStep, work: Work, bodies: Mapping[str, Program]) -> tuple[str, ...]:
    """The endpoint-bound steps of one step: none for inline work, those of the longest body for control flow."""
    if isinstance(work, Inline):
        return ()
    if not isinstance(work, Composite):
        return (f"{plan.name}/{planned.name}",)
    inside = [body for label, body in bodies.items() if label != FALLBACK]
    return max((node.path for body in inside for node in body.nodes), key=len, default=())


def _is_chain(plan: Plan, awaiting: list[str]) -> bool:
    """Whether every awaiting step waits, directly or not, for the one before it."""
    return all(earlier in plan.ancestors(later) for earlier, later in itertools.pairwise(awaiting))


def _limits(planned: PlannedStep, work: Work, carrier: Carrier | None) -> list[Fault]:
    step = planned.step
    if carrier is not None and isinstance(work, Compute):
        why = carrier.check(work.call)
        if why is not None:
            return [Fault(planned.name, f"its function cannot be sent to a worker: {why}")]
    if (
        step.function is not None
        and step.gives_pieces is not None
        and (step.attempts or step.timeout_s or step.reuse)
    ):
        return [
            Fault(
                planned.name,
                "yields pieces as they come, so it cannot be retried, timed or cached as a whole",
            )
        ]
    blocking = isinstance(work, Compute) or (isinstance(work, Inline) and not work.is_async)
    if planned.step.timeout_s is not None and blocking:
        return [
            Fault(
                planned.name,
                "has a timeout, but Python cannot interrupt a plain function; make it async or drop .timeout()",
            )
        ]
    return []


def _resilient(planned: PlannedStep, once: Callable[..., Any]) -> Callable[..., Any]:
    """A call with its own attempts and time limit, awaited. Waits are full jitter, doubling."""
    attempts = planned.step.attempts or 1
    jitter = random.Random(planned.name)

    async def call(*given: Any) -> Any:
        for attempt in range(1, attempts + 1):
            try:
                async with asyncio.timeout(planned.step.timeout_s):
                    value = once(*given)
                    return await value if inspect.isawaitable(value) else value
            except Exception as error:
                if attempt == attempts:
                    raise _after(planned, error, attempts) from error
            await asyncio.sleep(jitter.uniform(0, BACKOFF_S * 2 ** (attempt - 1)))
        raise AssertionError

    return call


def _after(planned: PlannedStep, error: Exception, attempts: int) -> StepError:
    if isinstance(error, TimeoutError) and planned.step.timeout_s is not None:
        message = f"took longer than its timeout of {planned.step.timeout_s:g} s"
    else:
        message = f"raised {type(error).__name__}: {error}"
    return StepError(planned.name, message, attempts=attempts)


def _between(program: Program, field: str, name: str) -> list[Node]:
    """The steps made from a field that another step is made from, in order."""
    above = program.plan.ancestors(name)
    return [
        node
        for node in program.nodes
        if node.name in above and (field in node.planned.needs or field in program.plan.ancestors(node.name))
    ]


def _fit_faults(program: Program, node: Node) -> list[Fault]:
    if not isinstance(node.work, Generate) or node.work.fit is None:
        return []
    field = node.work.fit
    return [
        Fault(
            node.name,
            f"fit={field!r} cannot be done: step {other.name!r} stands between and would have to be awaited again",
        )
        for other in _between(program, field, node.name)
        if other.awaits
    ]
