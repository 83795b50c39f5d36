"""An admitted job on its way through the steps of its program: in turn, or as strands where steps can overlap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sage.clock import Clock
from sage.errors import EngineError, SageError
from sage.graph.body import VALUE
from sage.graph.values import Record
from sage.ops.base import Composite, Generate
from sage.runtime.base import Job, StepDone, StepStarted, Token, as_step_error, first_of_group
from sage.runtime.calls import Calls
from sage.runtime.ledger import SLOW_STEP_S, Ledger, loggable
from sage.runtime.pipe import Pipe, pieces_of
from sage.runtime.program import FALLBACK, Node, Program
from sage.tasks import spawn

__all__ = ["Steps"]


class Steps:
    """Runs the steps of jobs. What a step raises for good is raised; whose job it is decides what becomes of it.

    Args:
        calls: makes the calls that steps need.
        ledger: where notices are written.
        clock: monotonic seconds.
    """

    def __init__(self, calls: Calls, ledger: Ledger, clock: Clock) -> None:
        self._calls = calls
        self._ledger = ledger
        self._clock = clock

    async def advance(self, job: Job) -> None:
        """Run every step of an admitted job."""
        if not job.program.is_chain:
            await self._run_graph(job)
        elif job.goes_straight:
            await self.run_chain(job)
        else:
            for node in job.program.nodes:
                await self._run_node(job, node)

    async def run_chain(self, job: Job) -> None:
        """A chain that nobody is told of while it runs, and in which every step counts."""
        values, stamps, clock = job.record, job.stamps, self._clock
        for node in job.program.nodes:
            if node.index <= job.through:
                continue
            job.at = node.name
            if job.ahead and node.name in job.ahead:
                values[node.name] = self._carried(job, node)
                continue
            ready = clock() if stamps is not None else 0.0
            if node.is_one_call:
                values[node.name] = await self._calls.make(job, node)
            elif node.call is None:
                values[node.name] = await self._work(job, node)
            elif node.awaits:
                values[node.name] = await node.call(values)
            else:
                values[node.name] = node.call(values)
            if stamps is not None:
                self._stamp(job, node, ready, clock() if node.hop is None else self._done_at(job, node))

    def _carried(self, job: Job, node: Node) -> Any:
        """The value of a step that was done in a hop with an earlier one; its times are kept."""
        ahead = job.ahead.pop(node.name)
        if ahead.error is not None:
            raise ahead.error
        if job.stamps is not None:
            job.stamps[2 * node.index] = ahead.ready - job.run.began
            job.stamps[2 * node.index + 1] = ahead.done - job.run.began
        return ahead.value

    def _done_at(self, job: Job, node: Node) -> float:
        """When a step was done that led a hop; those that went with it follow from there."""
        return job.ahead.pop(node.name).done if node.name in job.ahead else self._clock()

    def _stamp(self, job: Job, node: Node, ready: float, done: float) -> None:
        """Keep a step's times, and say so if it held everything else up."""
        if job.stamps is not None:
            job.stamps[2 * node.index] = ready - job.run.began
            job.stamps[2 * node.index + 1] = done - job.run.began
        if not node.awaits and done - ready > SLOW_STEP_S:
            self._ledger.slow_step(job, node.name, done - ready)

    async def _run_graph(self, job: Job) -> None:
        """Ready steps at once, each as soon as its inputs are there."""
        waits_for = [node.waits_for for node in job.program.nodes]
        job.pipes = {node.name: Pipe() for node in job.program.nodes if node.live_readers}
        async with asyncio.TaskGroup() as strands:
            first = [node for node in job.program.nodes if node.waits_for == 0]
            await self._run_strand(job, first, waits_for, strands)

    async def _run_strand(
        self, job: Job, ready: list[Node], waits_for: list[int], strands: asyncio.TaskGroup
    ) -> None:
        """Run these steps and all that they make ready; what would overlap goes on in strands of its own."""
        while ready:
            inline = [node for node in ready if not node.awaits]
            awaiting = [node for node in ready if node.awaits]
            if inline:
                ready = awaiting
                for node in inline:
                    await self._run_node(job, node)
                    ready += _made_ready(job, node.readers, waits_for)
                continue
            for (
                node
            ) in awaiting:  # grows while it is gone through: who reads pieces begins with who gives them
                awaiting += _made_ready(job, node.live_readers, waits_for)
            for node in awaiting[1:]:
                spawn(strands, self._run_branch(job, node, waits_for, strands))
            await self._run_node(job, awaiting[0])
            ready = _made_ready(job, awaiting[0].readers, waits_for)

    async def _run_branch(
        self, job: Job, node: Node, waits_for: list[int], strands: asyncio.TaskGroup
    ) -> None:
        await self._run_node(job, node)
        await self._run_strand(job, _made_ready(job, node.readers, waits_for), waits_for, strands)

    async def _run_node(self, job: Job, node: Node) -> None:
        """Run one step and keep its value and its times."""
        ready = self._clock()
        if job.listen is not None:
            job.listen(StepStarted(job.shown(node.name)))
        carried = job.ahead.get(node.name)
        try:
            if carried is not None:
                value = self._carried(job, node)
            elif node.gate is not None:
                async with node.gate:
                    value = await self._value(job, node)
            elif node.call is not None and not node.awaits and node.condition is None:
                value = node.call(job.record)  # what takes pieces awaits
            else:
                value = await self._value(job, node)
        except Exception as raised:  # noqa: BLE001 - raised again, unless the step says what stands in
            error = as_step_error(raised, job.shown(node.name))
            began = node.live_readers and job.pipes[node.name].has_begun
            if began or not node.forgives:
                job.at = node.name
                raise error from _other_than(error, raised)
            value = await self._recover(job, node, error)
        job.record[node.name] = value
        if node.live_readers:
            job.pipes[node.name].end(value)
        if carried is None:
            done = self._clock() if node.hop is None else self._done_at(job, node)
            self._stamp(job, node, ready, done)
        else:
            ready, done = carried.ready, carried.done
        if job.listen is not None:
            job.listen(StepDone(job.shown(node.name), value, done - ready))

    async def _value(self, job: Job, node: Node) -> Any:
        """What a step gives, if its condition holds."""
        if node.condition is not None and not node.condition(job.record):
            return None
        if node.call is None:
            return await self._work(job, node)
        value = node.call(_with_pieces(job, node) if node.takes else job.record)
        if node.is_stream:
            return await self._drained(job, node, value)
        return await value if node.awaits else value

    async def _drained(self, job: Job, node: Node, pieces: AsyncIterator[Any]) -> list[Any]:
        """Everything a generator yields, handed on as it comes."""
        value: list[Any] = []
        pipe = job.pipes.get(node.name)
        async for piece in pieces:
            value.append(piece)
            if pipe is not None:
                pipe.put(piece)
            if job.listen is not None and isinstance(piece, str):
                job.listen(Token(job.shown(node.name), piece))
        return value

    async def run_body(
        self, outer: Job, node: Node, label: str, record: Record, at: str, held: list[Any] | None
    ) -> Any:
        """A plan inside a step, for a record of its own; the value it gives."""
        program, step = node.bodies[label], node.planned.step
        body = step.bodies[label] if label != FALLBACK else step.otherwise
        assert body is not None
        where = outer.shown(node.name) + at
        try:
            if program.is_inline:
                for name, call, _ in program.calls:
                    record[name] = call(record)
            else:
                await self.advance(_inner(outer, node, program, record, where, held))
        except Exception as raised:  # noqa: BLE001 - raised again, with the step it came from
            error = as_step_error(raised, where)
            raise error from _other_than(error, raised)
        return body.value(record)

    async def _recover(self, job: Job, node: Node, error: SageError) -> Any:
        """What stands in for the value of a step that failed for good: its fallback's, then its default."""
        why = f"{loggable(error)}; "
        shown = job.shown(node.name)
        if node.otherwise is not None:
            self._ledger.notice(job, shown, "fallback", why + "its fallback is run")
            reads = {name: job.record[name] for name in node.otherwise.plan.inputs}
            try:
                return await self.run_body(job, node, FALLBACK, reads, "", None)
            except Exception as raised:
                if node.instead is None:
                    job.at = node.name
                    raise
                why = f"{loggable(as_step_error(raised, shown))}; "
        assert node.instead is not None
        self._ledger.notice(job, shown, "instead", why + "its default stands in")
        return node.instead.value

    def notice(self, job: Job, node: Node, kind: str, text: str) -> None:
        """Log something a user should know of a step that is no failure."""
        self._ledger.notice(job, job.shown(node.name), kind, text)

    async def _work(self, job: Job, node: Node) -> Any:
        """What a step that is no function gives."""
        if node.is_one_call:
            return await self._calls.make(job, node)
        if isinstance(node.work, Composite):
            reads = _with_pieces(job, node) if node.takes else job.record
            return await node.work.call(reads, _JobBodies(self, job, node))
        return await self._call_endpoint(job, node)

    async def _call_endpoint(self, job: Job, node: Node) -> Any:
        """One step's call; if its prompt is too long and it may be shortened, again with less."""
        while True:
            try:
                if isinstance(node.work, Generate) and node.work.n > 1:
                    return await self._several(job, node, node.work.n)
                return await self._calls.make(job, node)
            except EngineError as error:
                if error.fault != "too_long" or not isinstance(node.work, Generate) or node.work.fit is None:
                    raise
                left = job.program.shrink(node, job.record, error)
                self._ledger.notice(
                    job,
                    node.name,
                    "fit",
                    f"prompt too long; {left} of {node.work.fit!r} sent to {node.name!r}",
                )

    async def _several(self, job: Job, node: Node, n: int) -> list[Any]:
        """Several answers to one request, asked for at once."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [spawn(group, self._calls.make(job, node, number)) for number in range(n)]
        except ExceptionGroup as failed:
            raise first_of_group(failed) from failed
        return [one.result() for one in asked]


def _inner(
    outer: Job, node: Node, program: Program, record: Record, where: str, held: list[Any] | None
) -> Job:
    """The same job, inside one of its steps."""
    return Job(
        id=outer.id,
        index=outer.index,
        run=outer.run,
        program=program,
        record=record,
        arrived=outer.arrived,
        tenant=outer.tenant,
        priority=outer.priority,
        deadline=outer.deadline,
        listen=outer.listen if held is None or outer.listen is None else held.append,
        prefix=where,
        is_step=len(program.nodes) == 1 and program.nodes[0].name == VALUE,
        path_after=node.path[node.own_steps :] + outer.path_after,
    )


def _with_pieces(job: Job, node: Node) -> Record:
    """The record as a step sees it that reads some fields piece by piece."""
    record = dict(job.record)
    for name in node.takes:
        is_live = name in node.planned.live and name in job.pipes
        record[name] = job.pipes[name].read() if is_live else pieces_of(record[name])
    return record


class _JobBodies:
    """The bodies of one step, run within one job."""

    def __init__(self, steps: Steps, job: Job, node: Node) -> None:
        self._steps = steps
        self._job = job
        self._node = node

    async def run(self, label: str, record: Record, at: str = "", held: list[Any] | None = None) -> Any:
        return await self._steps.run_body(self._job, self._node, label, record, at, held)

    def show(self, held: list[Any]) -> None:
        if self._job.listen is not None:
            for event in held:
                self._job.listen(event)

    def notice(self, kind: str, text: str) -> None:
        self._steps.notice(self._job, self._node, kind, text)


def _other_than(error: BaseException, raised: BaseException) -> BaseException | None:
    """What to chain to an error: what was raised, if it is not the error itself, else what is chained already."""
    return error.__cause__ if error is raised else raised


def _made_ready(job: Job, readers: tuple[int, ...], waits_for: list[int]) -> list[Node]:
    ready = []
    for reader in readers:
        waits_for[reader] -= 1
        if waits_for[reader] == 0:
            ready.append(job.program.nodes[reader])
    return ready
