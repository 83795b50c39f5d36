"""How a stream is carried out: its stages built and wired, its sources pulled, its end and its failures seen to.

1. What the pipelines need is opened. Then every node of the graph becomes a stage (``singles``, ``windows``, ``joins``,
   ``waits``, ``sinks``), and files are opened.
2. Each source is pulled by a task, list by list; a list runs down the graph at once, as far as nothing has to wait.
   Stages that may have to wait have an inbox and a task. Pulling goes on when every gate below has room.
3. When the sources have ended, stages give what they kept, from the top down. When they were cut off (a source broke,
   the stream was stopped) what is complete is given all the same; what is not is counted as unfinished.
4. Whatever happens the sinks are closed, and the counts of every stage are the last events of the log.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

from sage.errors import InputError, SageError
from sage.events import Notice, StageCounted, StreamSeen
from sage.graph.values import Record
from sage.runtime.base import JobFailure, first_of_group
from sage.runtime.feed import Sink as Results
from sage.runtime.ledger import loggable
from sage.runtime.options import JobArguments, JobOptions, ManyArguments
from sage.stream.build import End, Out, SourceStage, stage_of
from sage.stream.joins import JoinStage, SortedMerge, Waiting
from sage.stream.node import Graph
from sage.stream.result import MAX_KEPT, StreamResult
from sage.stream.sinks import AsyncWriteStage, WriteStage
from sage.stream.specs import Through
from sage.stream.stages import Gate, Items, Stage, room
from sage.stream.waits import ThroughStage, WaitingStage

if TYPE_CHECKING:
    from sage.session import Session
    from sage.stream.stream import Stream

__all__ = ["Flow"]

COUNT_S = 5.0  # the counts of every stage are written down so often
YIELD_S = 0.002  # records that never wait let other tasks run this often
MAX_NOTICES = 20  # failed records that the log names


class Flow:
    """One stream under way, in a session. Make it, and await ``carry_out`` once.

    Args:
        stream: what is to be done.
        session: where.
        arguments: of the run, as for pipelines.
        out: gets records that come out at the end, and failures; None: they are only counted.
        gate: holds the stream back when whoever is behind ``out`` has enough.
    """

    def __init__(
        self,
        stream: Stream,
        session: Session,
        arguments: ManyArguments,
        out: Out | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.graph: Graph = stream.graph
        self._session = session
        self._check(arguments)
        self._recorder = session.begin(arguments)
        self._recorder.run.numbers = itertools.count()
        self.max_inflight = arguments.get("max_inflight")
        self._out = out
        self._gate = gate
        self.clock = session.clock
        self.waiting = Waiting()
        self._stages: dict[str, Stage] = {}
        self._pumps: dict[asyncio.Task[None], SourceStage] = {}
        self._satisfied: set[SourceStage] = set()  # sources that nobody wants more of
        self._broken: Exception | None = None
        self._counted: dict[str, StageCounted] = {}
        self.is_cut = False
        self.is_stopped = False
        self.failures: list[JobFailure] = []
        self.num_failed = 0

    @property
    def run_id(self) -> str:
        """Names the run."""
        return self._recorder.run.id

    @property
    def jobs(self) -> dict[str, int]:
        """Outcome -> jobs of all its pipelines so far."""
        return {str(outcome): number for outcome, number in self._recorder.run.counts.items()}

    def counts(self) -> dict[str, StageCounted]:
        """What every stage has dealt with so far."""
        t = self.clock() - self._recorder.run.began
        return {name: stage.counted(t) for name, stage in self._stages.items()}

    def result(self, records: list[Record]) -> StreamResult:
        """What came of it, with the records that came out."""
        return StreamResult(
            records=records,
            failures=self.failures,
            num_failed=self.num_failed,
            counts=self.counts(),
            run_id=self.run_id,
            folder=self._recorder.folder,
        )

    async def carry_out(self) -> None:
        """Do all of it.

        Raises:
            SageError: it cannot begin, a source broke, or a sink failed; with a note of what is unfinished.
        """
        status: Literal["complete", "partial"] = "partial"
        try:
            try:
                for (
                    node
                ) in self.graph.nodes:  # what a pipeline lacks is found before anything is read or written
                    if isinstance(node.spec, Through):
                        await self._session.ready(node.spec.pipeline)
                self._build()
                self._announce()
                await self._work()
                if self._broken is not None:
                    raise self._broken
            except BaseException as error:
                self._give_up(error)
                raise
            finally:
                await self._close_sinks()
            if not (self.is_cut or self.is_stopped):
                status = "complete"
        finally:
            self._count()
            self._session.end(self._recorder, status)

    def stop(self) -> None:
        """Stop the sources; jobs under way are finished, and windows that are not complete are not given."""
        self.is_stopped = True
        self._cut()

    def _cut(self) -> None:
        if self._pumps:
            self.is_cut = True
            for pump in self._pumps:
                pump.cancel()

    def failed(self, failure: JobFailure) -> None:
        """A record came to nothing: keep it, tell it, write it down."""
        self.num_failed += 1
        if len(self.failures) < MAX_KEPT:
            self.failures.append(failure)
        if self.num_failed <= MAX_NOTICES:
            self._note("failed_record", loggable(failure.error), failure.step)
        if self._out is not None:
            self._out(failure)

    def satisfied(self) -> None:
        """A stage wants nothing more: sources that nothing else reads are stopped."""
        current = asyncio.current_task()
        for pump, source in self._pumps.items():
            if source.is_done and pump is not current:
                self._satisfied.add(source)
                pump.cancel()

    # ---- building

    def _check(self, arguments: ManyArguments) -> None:
        if "budget_tokens" in arguments and any(
            isinstance(node.spec, Through) and (node.spec.options or node.spec.max_inflight)
            for node in self.graph.nodes
        ):
            raise InputError(
                "budget_tokens is of a whole run; leave the options of through() out, or the budget"
            )

    def _build(self) -> None:
        roots: dict[str, frozenset[str]] = {}
        names = {id(node): name for node, name in zip(self.graph.nodes, self.graph.names, strict=True)}
        for node, name in zip(self.graph.nodes, self.graph.names, strict=True):
            stage = self._stages[name] = stage_of(node, name, self)
            stage.num_inputs = len(node.inputs)
            for number, item in enumerate(node.inputs):
                self._stages[names[id(item.node)]].connect(item.port, stage, number)
            above = [roots[names[id(item.node)]] for item in node.inputs]
            roots[name] = frozenset().union(*above) if above else frozenset({name})
            if isinstance(stage, JoinStage | SortedMerge):
                stage.gated = frozenset(
                    side
                    for side, own in enumerate(above)
                    if not any(own & other for at, other in enumerate(above) if at != side)
                )
        last = self._stages[self.graph.names[-1]]
        if self.graph.keeps and self._out is not None:
            end = End(self, self._out, self._gate)
            end.num_inputs = 1
            last.connect("", end, 0)
        self.waiting.num_sources = sum(not node.inputs for node in self.graph.nodes)

    async def feed(self, spec: Through, records: AsyncIterable[Record], sink: Results) -> None:
        """Take records through a stage's pipeline, within the run."""
        await self._session.feed(
            self._recorder,
            spec.pipeline,
            records,
            sink,
            options=self._options(spec),
            max_inflight=spec.max_inflight,
        )

    async def straight(self, spec: Through) -> Callable[[Record], Record | JobFailure] | None:
        """Runs a record through a stage's pipeline at once, if that never has to wait."""
        return await self._session.straight(self._recorder, spec.pipeline, options=self._options(spec))

    def _options(self, spec: Through) -> JobOptions | None:
        """What a stage says of its jobs, beside what the run says; None: nothing."""
        if not spec.options:
            return None
        run = self._recorder.run
        own: Any = {name: getattr(run.options, name) for name in JobArguments.__annotations__} | dict(
            spec.options
        )
        return JobOptions(**own)

    # ---- working

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as around:
                ticking = around.create_task(self._tick())
                async with asyncio.TaskGroup() as group:
                    for stage in self._stages.values():
                        if isinstance(stage, WaitingStage | AsyncWriteStage):
                            group.create_task(stage.work())
                    for stage in self._stages.values():
                        if isinstance(stage, SourceStage):
                            self._begin(group, stage)
                ticking.cancel()
        except ExceptionGroup as several:
            first = first_of_group(several)
            raise first from first.__cause__  # which tells more than the group it came in

    def _begin(self, group: asyncio.TaskGroup, source: SourceStage) -> None:
        pump = group.create_task(self._pump(source))
        self._pumps[pump] = source

    async def _pump(self, source: SourceStage) -> None:
        """Pull a source until it ends, nobody wants more, or the stream is stopped."""
        try:
            await self._pull(source)
        except asyncio.CancelledError:
            if not (self.is_cut or source in self._satisfied):
                raise
        except _SourceBroken as broken:
            self._broken = self._broken or broken.error
            self._pumps.pop(_this_task(), None)
            self.is_cut = True
            self._cut()
        self._pumps.pop(_this_task(), None)
        self.waiting.num_sources -= 1
        self.waiting.change()
        source.close()

    async def _pull(self, source: SourceStage) -> None:
        gates, clock = source.outlets(), self.clock
        yielded = clock()
        async with aclosing(_guarded(source.lists)) as lists:
            async for items in lists:
                source.taken += len(items)
                source.give(items)
                await room(gates)
                if source.is_done:
                    return
                if clock() - yielded > YIELD_S:
                    await asyncio.sleep(0)
                    yielded = clock()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(COUNT_S)
            self._count()

    # ---- ending

    def _give_up(self, error: BaseException) -> None:
        """Hand on what is complete, count what is not, and say so."""
        self.is_cut = True
        for stage in self._stages.values():
            if isinstance(stage, ThroughStage):
                try:
                    stage.release()
                except SageError:  # where it goes is what failed
                    break
        for stage in self._stages.values():
            stage.abandon()
        if isinstance(error, SageError) and self._num_read:
            error.add_note(self._so_far())

    def _so_far(self) -> str:
        held = [f"{stage.name} {stage.unfinished:,}" for stage in self._stages.values() if stage.unfinished]
        unfinished = f"not finished: {', '.join(held)}" if held else "nothing was under way"
        return f"after {self._num_read:,} records were read; {unfinished}"

    @property
    def _num_read(self) -> int:
        return sum(stage.taken for stage in self._stages.values() if isinstance(stage, SourceStage))

    async def _close_sinks(self) -> None:
        """Close every sink, whatever happens to one of them."""
        failed: Exception | None = None
        for stage in self._stages.values():
            if isinstance(stage, WriteStage):
                try:
                    await stage.end_sink()
                except Exception as error:  # noqa: BLE001 - raised below, when all are closed
                    failed = failed or error
        if failed is not None and self._broken is None and not self.is_cut:
            raise failed

    # ---- writing down

    def _announce(self) -> None:
        nodes, names = self.graph.nodes, self.graph.names
        kinds = tuple(node.spec.KIND for node in nodes)
        self._recorder.streams(self.graph.name, dict(zip(names, kinds, strict=True)))
        log, run = self._recorder.run.log, self._recorder.run
        if log is not None:
            log.append(
                StreamSeen(self.clock() - run.began, self.graph.name, names, kinds, self.graph.after())
            )

    def _count(self) -> None:
        """Write down the counts that have changed."""
        log = self._recorder.run.log
        if log is None:
            return
        for name, counted in self.counts().items():
            before = self._counted.get(name)
            if before is None or _numbers(before) != _numbers(counted):
                self._counted[name] = counted
                log.append(counted)

    def _note(self, kind: str, text: str, stage: str | None) -> None:
        run = self._recorder.run
        if run.log is not None:
            run.log.append(Notice(self.clock() - run.began, kind, text, step=stage))


class _SourceBroken(Exception):  # noqa: N818 - a signal within this module
    """What a source raised, told from what its records caused further down."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


async def _guarded(lists: AsyncIterator[Items]) -> AsyncGenerator[Items]:
    """The lists of a source; what it raises is marked as its own."""
    try:
        while True:
            try:
                items = await anext(lists)
            except StopAsyncIteration:
                return
            except Exception as error:
                raise _SourceBroken(error) from error
            yield items
    finally:
        await lists.aclose()  # type: ignore[attr-defined]  # every source here is an async generator


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _numbers(counted: StageCounted) -> tuple[int, ...]:
    return (
        counted.taken, counted.given, counted.failed, counted.late, counted.dropped, counted.pending,
        counted.most_pending, counted.unfinished,
    )  # fmt: skip
