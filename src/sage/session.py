"""A session: the place where engines, scheduler and event logs live; and the one used when nobody opens one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from sage.clock import Clock, monotonic
from sage.engines.base import Engine
from sage.engines.engine_metrics import EngineMetrics
from sage.errors import InputError, PolicyError
from sage.graph.values import Record
from sage.runtime.base import JobFailure, Run, RunEvent, only_of_group
from sage.runtime.books import Books, check_limits
from sage.runtime.calls import Calls
from sage.runtime.driver import Driver
from sage.runtime.endpoints import Endpoints, addresses_from
from sage.runtime.feed import Channel, Collected, InOrder, Sink, Source, feed
from sage.runtime.inline import Inline
from sage.runtime.ledger import Ledger
from sage.runtime.local import open_runtime, parse_runtime
from sage.runtime.manifest import Kind
from sage.runtime.options import MAX_INFLIGHT, JobArguments, JobOptions, ManyArguments, options_from
from sage.runtime.program import Program
from sage.runtime.programs import Programs
from sage.runtime.prometheus import exposition
from sage.runtime.recorder import Recorder, RunResult
from sage.runtime.reuse import Reuse
from sage.runtime.slots import NOWHERE
from sage.runtime.stream import OpenStream, error_of, results_of
from sage.runtime.together import Part, Stagger, asked_together, checked_stagger, feed_together
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import EndpointJoined, EndpointLeft, EndpointMeasured
from sage.scheduling.policy import parse_policy
from sage.scheduling.views import Snapshot
from sage.settings import Settings
from sage.tenants import tenants_from

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from sage.pipeline import Pipeline
    from sage.runtime.ray_cluster import RayCluster

__all__ = ["CURRENT", "RunResult", "Session"]


MAX_OPTIONS = 256  # of single calls, remembered

#: The session that is open around the calling code, if any.
CURRENT: contextvars.ContextVar[Session | None] = contextvars.ContextVar("sage_session", default=None)


class Session:
    """A service in your event loop: many pipelines, one scheduler in front of shared engines.

    >>> import asyncio, sage
    >>> from sage.ops import template
    >>> async def main():
    ...     async with sage.Session(record=False) as session:
    ...         hello = sage.Pipeline("hello", line=template("Hello, {name}!"))
    ...         return (await session(hello, name="Ada"))["line"]
    >>> asyncio.run(main())
    'Hello, Ada!'

    Args:
        engines: pool -> address (``"openai:http://127.0.0.1:8000/v1?model=m"``), several addresses, or an open
            Engine. Pools are opened when a pipeline first needs them and closed with the session.
        indexes: name -> folder of an index, or an open Index.
        policy: a preset or choices, such as ``"fifo"`` or ``"order=job_fifo,place=least_loaded"``.
        max_inflight: jobs of one run at once, where the run does not say.
        record: keep a manifest and an event log of every run.
        settings: everything else; None: ``sage.toml`` and the environment.
        seed: of everything random in scheduling.
        clock: seconds that never go back; a loop in virtual time brings its own.
        telemetry: an exporter of OpenTelemetry's SDK; gets a span for every job, step and call of recorded runs, and
            is closed with the session. Needs the extra ``otel``. If it fails, there is one warning and runs go on.
        tenants: name -> what it may claim of shared engines, beside those of the settings; those not named count
            as equals.
        kind: what the manifests of its runs say they are; "simulated" where engines and clock are.
        runtime: "local", or "ray" for workers and engines on the nodes of a Ray cluster; a
            :class:`sage.runtime.ray_cluster.RayCluster` says which.
        scheduler: makes the scheduler, from what ``Scheduler`` takes; for measurements that watch it decide.
    """

    def __init__(
        self,
        *,
        engines: Mapping[str, Any] | None = None,
        indexes: Mapping[str, Any] | None = None,
        policy: str | None = None,
        max_inflight: int | None = None,
        record: bool | None = None,
        settings: Settings | None = None,
        seed: int = 0,
        clock: Clock = monotonic,
        telemetry: SpanExporter | None = None,
        tenants: Mapping[str, Any] | None = None,
        kind: Kind = "measured",
        runtime: str | RayCluster = "local",
        scheduler: Callable[..., Scheduler] = Scheduler,
    ) -> None:
        base = settings if settings is not None else Settings.load()
        self._settings = replace(
            base,
            policy=policy if policy is not None else base.policy,
            max_inflight=max_inflight if max_inflight is not None else base.max_inflight,
            record=record if record is not None else base.record,
        )
        if self._settings.max_inflight is not None and self._settings.max_inflight < 1:
            raise InputError(f"max_inflight is {self._settings.max_inflight}, expected at least 1")
        self._policy = parse_policy(self._settings.policy)
        self._addresses = {**base.engines, **addresses_from(engines or {})}
        self._indexes = {**base.indexes, **(indexes or {})}
        self._seed = seed
        self._clock = clock
        self._tenants = {**base.tenants, **tenants_from(tenants or {})}
        self._books = Books(
            self._settings,
            clock,
            policy=str(self._policy),
            seed=seed,
            kind=kind,
            tenants=self._tenants,
            telemetry=telemetry,
        )
        self._cluster = parse_runtime(runtime)
        self._make_scheduler = scheduler
        self._feeds: set[asyncio.Task[None]] = set()
        self._single: Recorder | None = None  # the run that single calls belong to
        self._single_runs: dict[JobOptions, Run] = {}  # the same, by what is said of the jobs
        self._singles = 0
        self._stack: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise InputError("this session is open already; make a new Session for another scope")
        self._stack = AsyncExitStack()
        self._runtime = await self._stack.enter_async_context(open_runtime(self._cluster, self._settings))
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        has_rates = any(tenant.tokens_per_s is not None for tenant in self._tenants.values())
        self._scheduler = self._make_scheduler(self._policy, random.Random(self._seed), has_rates=has_rates)
        slots = self._runtime.slots(self, self._group)
        self._endpoints = Endpoints(self._addresses, self._runtime, self._group, self, slots)
        self._programs = Programs(self._endpoints, self._indexes)
        self._reuse = Reuse(self._settings.cache_dir / "answers.sqlite")
        self._calls = Calls(self._scheduler, self._endpoints, self._reuse, self._clock, self._group)
        ledger = Ledger(self._clock)
        self._driver = Driver(self._calls, ledger, self._clock, self._tenants)
        self._inline = Inline(ledger, self._clock)
        self._flushing = self._group.create_task(self._books.flush()) if self._settings.record else None
        self._token = CURRENT.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stack is not None
        with contextlib.suppress(ValueError):  # closed in another context than it was opened in
            CURRENT.reset(self._token)
        for task in self._feeds:
            task.cancel()
        if self._feeds:
            await asyncio.wait(self._feeds)
        if self._single is not None:
            self._books.end(self._single, "complete" if error is None else "partial")
        if self._flushing is not None:
            self._flushing.cancel()
        self._reuse.close()
        await self._calls.ended()
        await self._endpoints.close()
        try:
            await self._stack.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise only_of_group(group) from None
        finally:
            await self._books.close()

    async def __call__(self, pipeline: Pipeline, /, **fields: Any) -> Record:
        """Run one record and return it, finished.

        Raises:
            SageError: the job failed; what a function step raised is the cause.
        """
        return await self.call(pipeline, fields)

    async def call(
        self, pipeline: Pipeline, record: Mapping[str, Any], /, **arguments: Unpack[JobArguments]
    ) -> Record:
        """The same, with a record that may have any field names, and options for the job."""
        result = await self._one(pipeline, record, JobOptions(**arguments), None)
        if isinstance(result, JobFailure):
            raise error_of(result)
        return result

    async def run(
        self, pipeline: Pipeline, records: Source, /, **arguments: Unpack[ManyArguments]
    ) -> RunResult:
        """Run many records and keep the results, in the order of the source."""
        sink = Collected()
        recorder = self._books.begin(arguments)
        program = await self._program(pipeline, recorder)
        try:
            await feed(self._driver, self._inline, self._clock, recorder.run, program, records, sink)
        except BaseException as error:
            self._books.end(recorder, "failed" if isinstance(error, PolicyError) else "partial")
            raise
        self._books.end(recorder, "complete")
        return recorder.result(sink.in_source_order())

    async def run_all(
        self,
        parts: Sequence[tuple[Any, ...]],
        /,
        *,
        stagger_s: Stagger = None,
        sinks: Sequence[Sink] | None = None,
        **arguments: Unpack[ManyArguments],
    ) -> list[RunResult]:
        """Run several pipelines at once, behind the same scheduler and in one log.

        Args:
            parts: (pipeline, records) or (pipeline, records, options): what is said of its jobs, as for ``run``.
            stagger_s: seconds between the starts of one pipeline and the next; "computed": each starts when the one
                before it has finished its first job.
            sinks: where the results of each go, instead of into the RunResults.
            **arguments: what is said of all jobs whose part does not say otherwise.

        Returns:
            A result for each, in their order; all name the same run.

        Raises:
            InputError: there is nothing to run, a part is not of that form, or two pipelines that differ have one name.
        """
        stagger = checked_stagger(stagger_s)
        several = asked_together(parts)
        kept = [Collected() for _ in several]
        going = sinks if sinks is not None else kept
        said = [{**arguments, **options} for _, _, options in several]
        for options in said:
            check_limits(options)
            options_from(options).resolver()  # refuses what cannot be, before anything is opened
        limits = {
            pipeline.name: own.get("max_inflight")
            for (pipeline, _, _), own in zip(several, said, strict=True)
        }
        recorder = self._books.begin(arguments, parts=limits)
        try:
            together = [
                Part(
                    self._part_run(recorder, number, options),
                    await self._program(pipeline, recorder),
                    records,
                    sink,
                )
                for number, ((pipeline, records, _), options, sink) in enumerate(
                    zip(several, said, going, strict=True)
                )
            ]
            await feed_together(self._driver, self._inline, self._clock, together, stagger)
        except BaseException as error:
            self._books.end(recorder, "failed" if isinstance(error, PolicyError) else "partial")
            raise
        self._books.end(recorder, "complete")
        return [recorder.result(sink.in_source_order()) for sink in kept]

    def _part_run(self, recorder: Recorder, number: int, said: Mapping[str, Any]) -> Run:
        """The run of one of several pipelines: options and limits of its own, log and counts in common."""
        run, limit = recorder.run, said.get("max_inflight", self._settings.max_inflight)
        return replace(
            run,
            id=f"{run.id}/{number}",
            options=options_from(said),
            max_inflight=limit or MAX_INFLIGHT,
            said_inflight=limit,
            budget_tokens=said.get("budget_tokens"),
            counts=run.counts,
            seen=run.seen,
        )

    async def stream(
        self,
        pipeline: Pipeline,
        records: Source,
        /,
        *,
        ordered: bool = False,
        errors: Literal["raise", "yield"] = "raise",
        **arguments: Unpack[ManyArguments],
    ) -> AsyncIterator[Record | JobFailure]:
        """Run many records and yield each as it finishes. See :meth:`sage.Pipeline.stream`."""
        opened = await self.open_stream(pipeline, records, ordered, arguments)
        async for result in results_of(opened.take, opened.close, errors):
            yield result

    async def open_stream(
        self, pipeline: Pipeline, records: Source, ordered: bool, arguments: ManyArguments
    ) -> OpenStream:
        """A stream as an object with ``take`` and ``close``, for callers on another event loop."""
        recorder = self._books.begin(arguments)
        program = await self._program(pipeline, recorder)
        limit = recorder.run.max_inflight
        channel = Channel(max(limit, 64))
        sink: Sink = InOrder(channel, 2 * limit) if ordered else channel
        task = self.keep(self._feed(recorder, program, records, sink, channel))
        return OpenStream(channel, task, recorder.run.id)

    def begin(self, arguments: ManyArguments) -> Recorder:
        """Begin a run that several feeds share, as the pipelines of a stream do. Its owner calls ``end``."""
        return self._books.begin(arguments)

    async def feed(
        self,
        recorder: Recorder,
        pipeline: Pipeline,
        records: Source,
        sink: Sink,
        *,
        options: JobOptions | None = None,
        max_inflight: int | None = None,
    ) -> None:
        """Take every record of a source through a pipeline, within a run; what is not said is the run's."""
        program = await self._program(pipeline, recorder)
        run = recorder.run.within(options, max_inflight)
        await feed(self._driver, self._inline, self._clock, run, program, records, sink)

    async def straight(
        self, recorder: Recorder, pipeline: Pipeline, *, options: JobOptions | None = None
    ) -> Callable[[Any], Record | JobFailure] | None:
        """Runs a record through a pipeline that never waits, at once, within a run; None: it may have to wait."""
        program = await self._program(pipeline, recorder)
        run, carry = recorder.run.within(options), self._inline.carry
        if not program.is_inline or run.numbers is None:
            return None
        numbers = run.numbers
        return lambda record: carry(run, program, next(numbers), record)

    def end(self, recorder: Recorder, status: Literal["complete", "partial", "failed"]) -> None:
        """End a run that was begun with ``begin``."""
        self._books.end(recorder, status)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something in the background, at most until the session closes."""
        task = self._group.create_task(work)
        self._feeds.add(task)
        task.add_done_callback(self._feeds.discard)
        return task

    @property
    def clock(self) -> Clock:
        """Seconds, as everything in the session counts them."""
        return self._clock

    async def events(
        self, pipeline: Pipeline, record: Mapping[str, Any], /, **arguments: Unpack[JobArguments]
    ) -> AsyncIterator[RunEvent]:
        """Run one record and yield what happens to it. See :meth:`sage.Pipeline.events`."""
        opened = self.open_events(pipeline, record, JobOptions(**arguments))
        async for event in results_of(opened.take, opened.close, "raise"):
            yield event

    def open_events(self, pipeline: Pipeline, record: Mapping[str, Any], options: JobOptions) -> OpenStream:
        """The events of one job as an object with ``take`` and ``close``, for callers on another event loop."""
        channel = Channel(1 << 30)  # bounded by the tokens of one job

        async def run() -> None:
            try:
                result = await self._one(pipeline, record, options, channel.add)
                channel.end(error_of(result) if isinstance(result, JobFailure) else None)
            except Exception as error:  # noqa: BLE001 - handed to the consumer
                channel.end(error)

        return OpenStream(channel, self.keep(run()), "")

    @property
    def run_id(self) -> str | None:
        """Names the run that single calls and their events belong to; None before the first."""
        return None if self._single is None else self._single.run.id

    @property
    def run_began(self) -> float | None:
        """When that run began, by the session's clock: the zero of the times in its log."""
        return None if self._single is None else self._single.run.began

    def snapshot(self) -> Snapshot:
        """What the scheduler holds right now: jobs, queues, endpoints."""
        return self._scheduler.snapshot()

    def prometheus(self) -> str:
        """The same and, where runs are recorded, what was counted since the session began, as Prometheus reads it.

        Serve it under ``/metrics`` as ``text/plain; version=0.0.4``. Call it on the session's event loop.
        """
        return exposition(self.snapshot(), self._books.counts())

    async def ready(self, pipeline: Pipeline) -> None:
        """Open everything a pipeline needs, so that its first record does not wait for it.

        Raises:
            PipelineError: it names something this session does not have.
            SetupError, EngineError: an engine cannot be opened.
        """
        await self._program(pipeline, None)

    async def engine(self, pool: str) -> Engine:
        """The first open engine of a pool, opened if need be. For direct calls that bypass the scheduler.

        Raises:
            InputError: the pool is not known. EngineError: its engines have ended, and are being opened anew.
        """
        await self._endpoints.open(pool)
        return self._endpoints.first(pool)

    async def _one(
        self,
        pipeline: Pipeline,
        record: Mapping[str, Any],
        options: JobOptions,
        listen: Callable[[RunEvent], None] | None,
    ) -> Record | JobFailure:
        if self._single is None:
            self._single = self._books.begin({}, pulled=False)
        program = await self._program(pipeline, self._single)
        run = self._single_run(self._single, options)
        number, self._singles = self._singles, self._singles + 1
        if program.is_inline and listen is None:
            return self._inline.carry(run, program, number, record)
        return await self._driver.carry(run, program, number, record, listen)

    def _single_run(self, recorder: Recorder, options: JobOptions) -> Run:
        """The run of single calls, for those of which this is said; counts, log and numbers are those of all."""
        try:
            known = self._single_runs.get(options)
        except TypeError:  # an option that has no hash is none: it is refused below
            known = None
        if known is None:
            run = recorder.run
            known = replace(run, options=options, pulled=False, counts=run.counts, seen=run.seen)
            if len(self._single_runs) >= MAX_OPTIONS:
                self._single_runs.clear()
            self._single_runs[options] = known
        return known

    async def _feed(
        self, recorder: Recorder, program: Program, records: Source, sink: Sink, channel: Channel
    ) -> None:
        """Feed a channel, and end it and its run whatever happens."""
        try:
            await feed(self._driver, self._inline, self._clock, recorder.run, program, records, sink)
        except Exception as error:  # noqa: BLE001 - handed to the consumer of the stream
            self._books.end(recorder, "failed" if isinstance(error, PolicyError) else "partial")
            channel.end(error)
        except BaseException:
            self._books.end(recorder, "partial")
            channel.end()
            raise
        else:
            self._books.end(recorder, "complete")
            channel.end()

    async def _program(self, pipeline: Pipeline, recorder: Recorder | None) -> Program:
        program = await self._programs.of(pipeline.plan)
        if recorder is not None:
            recorder.uses(pipeline.plan, self._endpoints, self._runtime.facts)
        return program

    def joined(self, name: str, pool: str, limit: int) -> None:
        """An endpoint takes so many calls at once from now on. For runtimes."""
        if not name.endswith(NOWHERE):
            self._books.joined(name, pool, limit)
        self._calls.tell(EndpointJoined(name, pool, limit))

    def left(self, name: str) -> None:
        """An endpoint takes no further calls. For runtimes."""
        self._calls.tell(EndpointLeft(name))

    def measured(self, name: str, metrics: EngineMetrics) -> None:
        """An endpoint's server said what its load is. For engines."""
        self._calls.tell(EndpointMeasured(name, metrics.running, metrics.waiting, metrics.kv_used))
