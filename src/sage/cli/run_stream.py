"""``sage run`` of a stream: its own sources and sinks, a line of progress, and what came of every stage."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage.cli import is_broken_pipe
from sage.cli.output import Bar, print_json, say, table
from sage.cli.run_results import MAX_SAID, failed_as_json, metrics_of, plain, ticking
from sage.clock import monotonic
from sage.errors import EngineError, InputError

if TYPE_CHECKING:
    from sage.events import StageCounted
    from sage.graph.values import Record
    from sage.runtime.base import JobFailure
    from sage.runtime.files import RecordWriter
    from sage.runtime.options import ManyArguments
    from sage.settings import Settings
    from sage.stream import Stream
    from sage.stream.flow import Flow

__all__ = ["run_stream"]

INTERRUPTED = 130


def run_stream(
    stream: Stream,
    session: dict[str, Any],
    options: ManyArguments,
    output: str | None,
    errors: str | None,
    settings: Settings,
    *,
    as_json: bool,
) -> int:
    """Carry a stream out, say what came of it, and return the exit code."""
    graph = stream.graph
    if output is not None and not graph.keeps:
        raise InputError(
            "--output: the stream writes its own results; leave it out, or drop the last write stage"
        )
    _refuse_unused(graph, session["engines"])
    if output is None and graph.keeps and not as_json:
        output = "-"
    work = _Work(stream.write(output) if output is not None else stream, session, options, errors)
    try:
        asyncio.run(work.carry_out())
    except (KeyboardInterrupt, asyncio.CancelledError):
        work.interrupted = True
    except Exception as error:
        if any(of.taken for of in work.counts.values()) and not is_broken_pipe(error):
            work.say_counts()
        raise
    work.report(settings, output, as_json=as_json)
    return work.exit_code


@dataclass(slots=True)
class _Work:
    """One stream under way, and what came of it so far."""

    stream: Stream
    session: dict[str, Any]
    options: ManyArguments
    errors: str | None
    records: list[Any] = field(default_factory=list)
    counts: dict[str, StageCounted] = field(default_factory=dict)
    flow: Flow | None = None
    failures: RecordWriter | None = None
    interrupted: bool = False
    num_failed: int = 0
    num_unreachable: int = 0
    began: float = 0.0

    async def carry_out(self) -> None:
        """Do it. The first interrupt stops the sources, the second one everything."""
        from sage.runtime.files import RecordWriter
        from sage.session import Session
        from sage.stream.flow import Flow

        self.began = monotonic()
        async with Session(**self.session) as session:
            with ExitStack() as stack:
                if self.errors is not None:
                    self.failures = stack.enter_context(RecordWriter(self.errors, "jsonl"))
                self.flow = Flow(self.stream, session, self.options, self._keep)
                working = asyncio.current_task()
                assert working is not None
                self._on_interrupt(working)
                bar = stack.enter_context(Bar("records", None, self.progress))
                try:
                    with ticking(bar):
                        await self.flow.carry_out()
                finally:
                    self.counts = self.flow.counts()

    def _on_interrupt(self, working: asyncio.Task[Any]) -> None:
        def interrupt() -> None:
            if self.interrupted or self.flow is None:
                working.cancel()
                return
            self.interrupted = True
            say("stopping: what is under way is finished; once more to abort it")
            self.flow.stop()

        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)

    def _keep(self, result: Record | JobFailure) -> None:
        from sage.runtime.base import JobFailure

        if isinstance(result, JobFailure):
            self._keep_failure(result)
        else:
            self.records.append(plain(result))

    def _keep_failure(self, failure: JobFailure) -> None:
        self.num_failed += 1
        self.num_unreachable += (
            isinstance(failure.error, EngineError) and failure.error.fault == "unreachable"
        )
        if self.failures is not None:
            self.failures.write(failed_as_json(failure))
            self.failures.flush()
        elif self.num_failed <= MAX_SAID:
            say(f"failed: {failure.error if not failure.record else failure}")

    def progress(self) -> str:
        """Records in and out, what went wrong, and how fast."""
        if self.flow is None:
            return ""
        counts = self.flow.counts()
        taken, given = _in_and_out(self.flow, counts)
        elapsed = max(monotonic() - self.began, 1e-9)
        late = sum(counted.late for counted in counts.values())
        return f"{taken:,} in, {given:,} out, {late:,} late, {self.num_failed:,} failed, {taken / elapsed:,.0f}/s"

    @property
    def exit_code(self) -> int:
        """As of a pipeline: 0 all done, 3 nothing was because no engine answers, 130 interrupted, else 1."""
        if self.interrupted:
            return INTERRUPTED
        if not self.num_failed:
            return 0
        jobs = {} if self.flow is None else self.flow.jobs
        return 3 if self.num_failed == self.num_unreachable and not jobs.get("done") else 1

    def say_counts(self) -> None:
        """The stages, one a line, on stderr."""
        header = ("stage", "in", "out", "failed", "late", "dropped", "most kept", "unfinished")
        rows = [
            (
                name,
                *(
                    f"{value:,}"
                    for value in (
                        of.taken, of.given, of.failed, of.late, of.dropped, of.most_pending, of.unfinished,
                    )
                ),
            )
            for name, of in self.counts.items()
        ]  # fmt: skip
        if rows:
            say(table(header, rows))

    def report(self, settings: Settings, output: str | None, *, as_json: bool) -> None:
        """Say what came of it."""
        if self.num_failed > MAX_SAID and self.errors is None:
            say(f"… and {self.num_failed - MAX_SAID:,} more; --errors FILE keeps them all")
        recorded = self.session["record"]
        run_id = "" if self.flow is None else self.flow.run_id
        if as_json:
            metrics = metrics_of(settings, run_id) if recorded and run_id else {}
            kept = {"records": self.records} if output is None and self.stream.graph.keeps else {}
            print_json(
                {
                    "run_id": run_id,
                    "interrupted": self.interrupted,
                    "num_failed": self.num_failed,
                    "stages": self.counts,
                    "metrics": metrics,
                    **kept,
                }
            )
        if output == "-" and not (self.num_failed or self.interrupted):
            return
        self.say_counts()
        shown = f"; sage runs show {run_id}" if recorded and run_id else ""
        say(f"{'interrupted: ' if self.interrupted else ''}{self.progress()}{shown}")


def _in_and_out(flow: Flow, counts: dict[str, StageCounted]) -> tuple[int, int]:
    """Records read by the sources; and written, or given at the end where nothing is written."""
    nodes = dict(zip(flow.graph.names, flow.graph.nodes, strict=True))
    taken = sum(of.taken for name, of in counts.items() if not nodes[name].inputs)
    written = [of.given for name, of in counts.items() if nodes[name].spec.KIND == "write"]
    return taken, sum(written) if written else counts[flow.graph.names[-1]].given if counts else 0


def _refuse_unused(graph: Any, engines: dict[str, Any]) -> None:
    """An engine for a pool that no pipeline names is a slip of the pen."""
    from sage.errors import nearest

    pools = {
        pool
        for node in graph.nodes
        if node.spec.KIND == "through"
        for pool in node.spec.pipeline.plan.pools()
    }
    for pool in engines:
        if pool not in pools:
            raise InputError(
                f"--engine {pool}=…: no pipeline of the stream uses pool {pool!r}: {nearest(pool, pools)}"
            )
