"""One load, carried out: a server or a pipeline, and everything its figures are made from, in the folder of a cell."""

from __future__ import annotations

import asyncio
import gc
import itertools
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from sage.bench.audit_checks import Evidence
from sage.bench.load import (
    PIPELINE,
    POOL,
    STEP,
    Due,
    EngineSender,
    GoneError,
    PipelineSender,
    Send,
    closed_load,
    open_load,
)
from sage.bench.metrics import LoadSummary, summarize_load
from sage.bench.prompts import requests_for
from sage.bench.records import Request, requests_of
from sage.bench.results import write_json, write_lines
from sage.bench.serve_spec import Plan, Serve, plan_of
from sage.bench.slo import Slo
from sage.clock import Clock, monotonic
from sage.engines.base import Engine, GenerateRequest, open_engine
from sage.engines.emulated_prefix import PrefixCache
from sage.errors import InputError
from sage.events import Event, Outcome, RunEnded, TaskEnded, TaskReused
from sage.pipeline import Pipeline
from sage.runtime.manifest import Kind, Manifest, read_manifest
from sage.runtime.runs import EventLog, create_run, load_run, read_events
from sage.session import Session
from sage.settings import Settings

__all__ = ["INTERRUPTED", "Loaded", "Records", "load", "recomputed", "summary_of", "work_of"]

FLUSH_S = 0.5
HIDDEN = ".run"  # where the engine's run is written until it is over
INTERRUPTED = "interrupted"

#: Told how a request ended.
OnEnd = Callable[[Outcome], None]

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Records:
    """What a pipeline is loaded with: records to warm up with, then those that count."""

    pipeline: Pipeline
    warmup: Iterator[dict[str, Any]]
    counted: Iterator[dict[str, Any]]
    session: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the session


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load came to.

    Attributes:
        ended: "" where every request was sent and ended; else why not: interrupted, or the server was gone.
    """

    summary: LoadSummary
    requests: list[Request] = field(
        repr=False
    )  # asyncio writes out what a task returns, and there may be many
    ended: str


async def load(
    spec: Serve,
    cell: Path,
    settings: Settings,
    *,
    repeat: int = 0,
    records: Records | None = None,
    engine: Engine | None = None,
    clock: Clock = monotonic,
    kind: Kind = "measured",
    on_end: OnEnd | None = None,
) -> Loaded:
    """Carry out one load, and leave a cell's files in its folder: also when it is interrupted or the server goes.

    Args:
        spec: what is loaded, and how.
        cell: an empty folder.
        settings: of session and engines.
        repeat: which of several loads that differ by their seed.
        records: what a pipeline is loaded with; None: the spec's target is loaded.
        engine: an open one, in place of the spec's target.
        clock: that of the event loop.
        kind: "simulated" where engine and clock are.
        on_end: told how each request ended, warm-up too.

    Raises:
        InputError: the spec cannot be.
        EngineError: the server does not answer at all.
    """
    plan = plan_of(spec, repeat)
    write_json(cell / "schedule.json", plan.table)
    if records is not None:
        of_jobs, began, ended = await _load_pipeline(plan, cell, settings, records, clock, kind, on_end)
        return _kept(cell, of_jobs, began, ended, None)
    async with open_engine(_address(spec), settings) if engine is None else nullcontext(engine) as opened:
        sent, began, ended = await _load_engine(plan, cell, settings, opened, clock, kind, on_end)
    return _kept(cell, sent, began, ended, partial(_cold_cached_tokens, sent))


def _kept(
    cell: Path,
    sent: Sequence[Due[Any]],
    began: float,
    ended: str,
    cold_cached: Callable[[Sequence[Request]], int] | None,
) -> Loaded:
    """Write down requests and figures, beside the log and the manifest that they are made from."""
    events = list(read_events(cell / "events.jsonl"))
    due = {number: one.scheduled - began for number, one in enumerate(sent)}
    requests = [
        msgspec.structs.replace(request, warmup=sent[request.id].warmup)
        for request in requests_of(events, due)
    ]
    write_lines(cell / "requests.jsonl", requests)
    manifest = read_manifest(cell / "run.json")
    if cold_cached is not None:
        arguments = {**manifest.arguments, "cold_cached_tokens": cold_cached(requests)}
        manifest = msgspec.structs.replace(manifest, arguments=arguments)
    summary = summary_of(manifest, requests, events)
    write_json(cell / "summary.json", summary)
    write_json(cell / "run.json", msgspec.structs.replace(manifest, status=summary.status))
    return Loaded(summary, requests, ended)


def summary_of(manifest: Manifest, requests: Sequence[Request], events: Sequence[Event]) -> LoadSummary:
    """The figures of a load, from what its folder holds and nothing else."""
    said = manifest.arguments
    last = events[-1] if events else None
    cached = said.get("cold_cached_tokens")
    return summarize_load(
        requests,
        slo=msgspec.convert(said["slo"], Slo) if said.get("slo") else None,
        open_loop=said.get("arrivals", {}).get("process") != "closed",
        interrupted=not (isinstance(last, RunEnded) and last.status == "complete"),
        cold_cached_tokens=cached if isinstance(cached, int) else None,
        wanted_tokens=_wanted_tokens(said),
        reused=frozenset(event.job for event in events if isinstance(event, TaskReused)),
        work=work_of(events, manifest),
    )


def recomputed(evidence: Evidence) -> LoadSummary:
    """The same, for an audit."""
    return summary_of(evidence.manifest, evidence.requests, evidence.events)


def work_of(events: Iterable[Event], manifest: Manifest) -> dict[str, list[float]]:
    """Per pool of a run, the tasks that each configured endpoint has served, idle ones as 0."""
    served = Counter(
        (event.pool, event.endpoint)
        for event in events
        if isinstance(event, TaskEnded) and event.outcome == "done"
    )
    return {
        pool: [float(served[pool, endpoint]) for endpoint in endpoints]
        for pool, endpoints in manifest.engines.items()
    }


def _wanted_tokens(said: Mapping[str, Any]) -> int | None:
    """How long every answer was asked to be, if it was."""
    extra, prompts = (said.get("target") or {}).get("extra") or {}, said.get("prompts") or {}
    length = prompts.get("output_len", "") if prompts.get("dataset") == "random" else ""
    return int(length) if extra.get("ignore_eos") and length.isdecimal() else None


def _address(spec: Serve) -> str:
    if spec.target is None:
        raise InputError("nothing to load: say a server or a pipeline")
    return spec.target.address(spec.sampling.timeout_s)


# --- carrying it out -----------------------------------------------------------------------------------


async def _load_engine(
    plan: Plan, cell: Path, settings: Settings, engine: Engine, clock: Clock, kind: Kind, on_end: OnEnd | None
) -> tuple[list[Due[GenerateRequest]], float, str]:
    """What was sent, the zero of the log, and why the load ended early if it did."""
    spec, address = plan.spec, engine.info.address
    work = requests_for(
        spec.prompts,
        spec.sampling,
        seed=plan.seed,
        warmups=plan.table.num_warmups,
        count=len(plan.schedule.times),
        asked=plan.schedule.asked,
    )
    folder = create_run(
        replace(settings, home=cell / HIDDEN),
        seed=spec.seed,
        arguments=plan.arguments,
        pipelines={
            PIPELINE: {"inputs": ["prompt"], "steps": [{"name": STEP, "operator": "generate", "after": []}]}
        },
        engines={POOL: (address,)},
        kind=kind,
    )
    folder.update(limits={address: plan.schedule.clients or spec.max_concurrency or len(plan.table.due)})
    counts: Counter[Outcome] = Counter()

    def count(outcome: Outcome) -> None:
        counts[outcome] += 1
        if on_end is not None:
            on_end(outcome)

    began = clock()
    sender = EngineSender(
        engine,
        folder.log,
        clock,
        began=began,
        slots=spec.max_concurrency if plan.schedule.clients is None else None,
        key=folder.manifest.run_id,
        on_end=count,
    )
    ended = ""
    try:
        async with _flushed(folder.log):
            ended = await _driven(plan, work, sender.send, clock, began)
    finally:
        status: Literal["complete", "partial"] = "partial" if ended or sys.exc_info()[0] else "complete"
        folder.log.append(RunEnded(clock() - began, status))
        folder.finish(status, {str(outcome): number for outcome, number in counts.items()})
        _take(folder.path, cell)
        shutil.rmtree(cell / HIDDEN)
    return sender.sent, began, ended


async def _load_pipeline(
    plan: Plan,
    cell: Path,
    settings: Settings,
    records: Records,
    clock: Clock,
    kind: Kind,
    on_end: OnEnd | None,
) -> tuple[list[Due[dict[str, Any]]], float, str]:
    """The same for a pipeline. The session's own run folder stays where it is; the cell gets a copy."""
    work = itertools.chain(itertools.islice(records.warmup, plan.table.num_warmups), records.counted)
    session = Session(
        settings=replace(settings, record=True),
        seed=plan.spec.seed,
        clock=clock,
        kind=kind,
        **records.session,
    )
    ended = ""
    try:
        async with session:
            await session.ready(records.pipeline)
            sender = PipelineSender(
                session, records.pipeline, clock, options=plan.spec.options, on_end=on_end
            )
            ended = await _driven(plan, work, sender.send, clock, clock())
            if ended:
                raise _StoppedError  # so that the session's own run is partial, too
    except _StoppedError:
        pass
    if session.run_id is None or session.run_began is None:
        raise InputError("nothing was sent: there are no records")
    _take(load_run(settings, session.run_id).path, cell)
    manifest = read_manifest(cell / "run.json")
    write_json(cell / "run.json", msgspec.structs.replace(manifest, arguments=plan.arguments))
    return sender.sent, session.run_began, ended


class _StoppedError(Exception):
    """The load ended before its schedule did."""


async def _driven(plan: Plan, work: Iterator[W], send: Send[W], clock: Clock, began: float) -> str:
    """Send everything; why that ended early, if it did."""
    clients = plan.schedule.clients
    gc.freeze()  # a collection then looks at what the load made only, and is no pause that a client would seem to see
    try:
        if clients is None:
            await open_load(plan.table.due, work, send, clock, began=began, warmups=plan.table.num_warmups)
        else:
            think_s = plan.schedule.think_s
            await closed_load(
                work, send, clock, clients=clients, think_s=think_s, warmups=plan.table.num_warmups
            )
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()  # what was seen is still to be written down
        return INTERRUPTED
    except BaseExceptionGroup as group:
        gone, others = group.split(GoneError)
        if gone is None or others is not None:
            raise
        return str(_first(gone))
    finally:
        gc.unfreeze()
    return ""


def _first(group: BaseExceptionGroup[GoneError]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


@asynccontextmanager
async def _flushed(log: EventLog) -> AsyncIterator[None]:
    """Write the log down twice a second, so that a load that is killed loses little of it."""

    async def flush() -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            log.flush()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(flush())
        try:
            yield
        finally:
            task.cancel()


def _take(run: Path, cell: Path) -> None:
    """The files of a finished run, into a cell."""
    for name in ("run.json", "events.jsonl"):
        shutil.copyfile(run / name, cell / name)


def _cold_cached_tokens(sent: Sequence[Due[GenerateRequest]], requests: Sequence[Request]) -> int:
    """Prompt tokens of the counted requests that even a server which had seen nothing before would have cached."""
    cache, cold = PrefixCache(1 << 24), 0
    for due, request in zip(sent, requests, strict=True):
        tokens = cache.take(due.work.messages, max(1, request.prompt_tokens))
        if request.outcome == "done" and not request.warmup:
            cold += tokens
    return cold
