"""``sage run``: a pipeline over the records of a file, results written as they finish."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.cli.output import Bar, print_json, say
from sage.cli.source import Given, from_file, one_record
from sage.errors import EngineError, InputError, nearest

if TYPE_CHECKING:
    from sage import Pipeline, Record
    from sage.events import Outcome
    from sage.runtime.base import JobFailure
    from sage.runtime.files import RecordWriter
    from sage.runtime.options import ManyArguments
    from sage.settings import Settings

__all__ = ["app"]

MAX_SAID = 5  # failures named one by one, without --errors
TICK_S = 0.5

app = typer.Typer(add_completion=False)

Many = Annotated[list[str] | None, typer.Option(show_default=False)]


@app.command()
def run(
    target: Annotated[
        str, typer.Argument(help="FILE.yaml, FILE.py:NAME or module:NAME.", show_default=False)
    ],
    source: Annotated[
        str | None,
        typer.Option("--input", help="Records: .jsonl, .json, .csv, .tsv, or - for standard input."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Where results go: .jsonl, .csv, .tsv, or - for standard output.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=TEXT", help="A field of a single record; FIELD:=JSON for other than text."
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="POOL=ADDRESS", help="What answers for a pool; several make one pool."),
    ] = None,
    index: Annotated[list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Where an index is.")] = None,
    policy: Annotated[str | None, typer.Option(help="How calls are scheduled.")] = None,
    max_inflight: Annotated[int | None, typer.Option(min=1, help="Records under way at once.")] = None,
    tenant: Annotated[
        str | None, typer.Option(help="On whose behalf; '{field}' reads it from the record.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(help="A number, batch, normal, interactive, or '{field}'.")
    ] = None,
    deadline_s: Annotated[str | None, typer.Option(help="Seconds a record may take, or '{field}'.")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Stop a record after so many seconds.")] = None,
    expire: Annotated[
        bool, typer.Option("--expire", help="Give up records that are past their deadline.")
    ] = False,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Write results in the order of the input.")
    ] = False,
    errors: Annotated[str | None, typer.Option(help="Where failed records go, as JSON lines.")] = None,
    skip_bad_input: Annotated[
        bool, typer.Option("--skip-bad-input", help="Leave out lines that cannot be read.")
    ] = False,
    no_record: Annotated[bool, typer.Option("--no-record", help="Keep no manifest and event log.")] = False,
    imports: Annotated[
        list[Path] | None, typer.Option("--import", help="A Python file that registers functions for YAML.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Run a pipeline over records and write each result as it finishes.

    Ends with 1 if some records failed, 3 if no engine could be reached, 130 if it was interrupted: what was
    finished until then is kept.
    """
    from sage.cli.target import import_files, load_target
    from sage.settings import Settings

    if as_json and output == "-":
        raise InputError("--json and --output - both write to standard output; name a file, or leave one out")
    _refuse_same_file({"--input": source, "--output": output, "--errors": errors})
    import_files(imports or [])
    pipeline = load_target(target)
    engines = _pairs("--engine", "POOL=ADDRESS", engine or [])
    _refuse_unused(pipeline, engines)
    settings = Settings.load()
    job = Job(
        pipeline=pipeline,
        given=_given(pipeline, source, fields or [], skip_bad=skip_bad_input),
        session={
            "engines": {pool: tuple(addresses) for pool, addresses in engines.items()},
            "indexes": {
                name: said[-1] for name, said in _pairs("--index", "NAME=FOLDER", index or []).items()
            },
            "policy": policy,
            "max_inflight": max_inflight,
            "record": settings.record and not no_record,
            "settings": settings,
        },
        options=_job_options(tenant, priority, deadline_s, timeout_s, expire=expire),
        ordered=ordered,
        output=output if output is not None or as_json else "-",
        errors=errors,
    )
    interrupted = False
    try:
        asyncio.run(job.carry_out())
    except KeyboardInterrupt:
        interrupted = True
    job.report(settings, as_json=as_json, interrupted=interrupted)
    raise typer.Exit(130 if interrupted else job.exit_code)


@dataclass(slots=True)
class Job:
    """One execution of the verb: what is to be done, and what came of it so far."""

    pipeline: Pipeline
    given: Given
    session: dict[str, Any]
    options: ManyArguments
    ordered: bool
    output: str | None  # None: results are kept for the JSON object
    errors: str | None
    run_id: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    records: list[Any] = field(default_factory=list)
    num_written: int = 0
    num_failures: int = 0
    num_unreachable: int = 0

    async def carry_out(self) -> None:
        """Run all records. Cancelled, it keeps what is finished."""
        from sage.runtime.files import RecordWriter
        from sage.session import Session

        async with Session(**self.session) as session:
            await session.ready(self.pipeline)
            with ExitStack() as stack:
                results = None if self.output is None else stack.enter_context(RecordWriter(self.output))
                failures = (
                    None if self.errors is None else stack.enter_context(RecordWriter(self.errors, "jsonl"))
                )
                bar = stack.enter_context(Bar("records", self.given.total))
                self.options["on_end"] = lambda outcome: self._count(bar, outcome)
                opened = await session.open_stream(
                    self.pipeline, self.given.records, self.ordered, self.options
                )
                self.run_id = opened.run_id
                with _ticking(bar):
                    try:
                        while taken := await opened.take():
                            self._keep(taken, results, failures)
                    finally:
                        await opened.close()
                        self._keep(await opened.take(), results, failures)

    def _count(self, bar: Bar, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1
        bar.advance(bad=outcome != "done")

    def _keep(
        self, taken: list[Record | JobFailure], results: RecordWriter | None, failures: RecordWriter | None
    ) -> None:
        """Write results, and make sure they stay: a run that is killed loses none that it wrote."""
        from sage.runtime.base import JobFailure

        for result in taken:
            if isinstance(result, JobFailure):
                self._keep_failure(result, failures)
            elif results is not None:
                results.write(result)
                self.num_written += 1
            else:
                self.records.append(_plain(result))
        for writer in (results, failures):
            if writer is not None:
                writer.flush()

    def _keep_failure(self, failure: JobFailure, failures: RecordWriter | None) -> None:
        self.num_failures += 1
        error = failure.error
        self.num_unreachable += isinstance(error, EngineError) and error.fault == "unreachable"
        if failures is not None:
            failures.write(
                {
                    "index": failure.index,
                    "outcome": failure.outcome,
                    "step": failure.step,
                    "attempts": failure.attempts,
                    "error": str(error),
                    "record": failure.record,
                }
            )
        elif self.num_failures <= MAX_SAID:
            say(f"failed: {failure}")

    @property
    def exit_code(self) -> int:
        """0 all done; 3 nothing was, and only because engines could not be reached; else 1."""
        if not self.num_failures:
            return 0
        return 3 if self.num_failures == self.num_unreachable and not self.outcomes["done"] else 1

    def report(self, settings: Settings, *, as_json: bool, interrupted: bool) -> None:
        """Say what came of it."""
        jobs = {outcome: self.outcomes[outcome] for outcome in ("done", "failed", "rejected", "cancelled")}
        recorded = self.session["record"]
        if self.num_failures > MAX_SAID and self.errors is None:
            say(f"… and {self.num_failures - MAX_SAID} more; --errors FILE keeps them all")
        if as_json:
            metrics = _metrics(settings, self.run_id) if recorded and self.run_id else {}
            kept = {"records": self.records} if self.output is None else {}
            print_json(
                {"run_id": self.run_id, "jobs": jobs, "output": self.output, "metrics": metrics, **kept}
            )
        counts = ", ".join(
            f"{count} {outcome}" for outcome, count in jobs.items() if count or outcome == "done"
        )
        where = f" -> {self.output}" if self.output not in {None, "-"} else ""
        shown = f"; sage runs show {self.run_id}" if recorded and self.run_id else ""
        if interrupted or where or self.num_failures or as_json:
            say(f"{'interrupted: ' if interrupted else ''}{counts}{where}{shown}")


@contextlib.contextmanager
def _ticking(bar: Bar) -> Iterator[None]:
    """Show a bar while the body runs."""
    loop = asyncio.get_running_loop()

    due: list[asyncio.TimerHandle] = []

    def tick() -> None:
        bar.tick()
        due[:] = [loop.call_later(TICK_S, tick)]

    tick()
    try:
        yield
    finally:
        due[0].cancel()


def _plain(record: Record) -> Any:
    from sage.graph.values import to_json

    try:
        return to_json(record)
    except TypeError as error:
        raise InputError(f"a finished record cannot be printed: {error}; narrow it with outputs") from error


def _metrics(settings: Settings, run_id: str) -> Any:
    from sage.runtime.runs import load_run
    from sage.runtime.summary import summarize

    return summarize(load_run(settings, run_id).events())


def _given(pipeline: Pipeline, source: str | None, fields: list[str], *, skip_bad: bool) -> Given:
    if source is not None and fields:
        raise InputError("--input and --set exclude each other; a single record is given by --set alone")
    if source is not None:
        return from_file(pipeline.plan, source, skip_bad=skip_bad)
    if not fields and pipeline.inputs:
        wanted = " ".join(f"--set {name}=…" for name in pipeline.plan.inputs)
        raise InputError(f"there are no records to run; give --input FILE, or one record: {wanted}")
    return one_record(pipeline.plan, fields)


def _pairs(option: str, form: str, said: list[str]) -> dict[str, list[str]]:
    """``NAME=VALUE`` options by name."""
    found: dict[str, list[str]] = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {text!r}: expected {form}")
        found.setdefault(name, []).append(value)
    return found


def _refuse_unused(pipeline: Pipeline, engines: Mapping[str, Any]) -> None:
    """An engine for a pool that no step names is a slip of the pen."""
    for pool in engines:
        if pool not in pipeline.plan.pools():
            raise InputError(
                f"--engine {pool}=…: no step of {pipeline.name!r} uses pool {pool!r}: "
                f"{nearest(pool, pipeline.plan.pools())}"
            )


def _refuse_same_file(paths: Mapping[str, str | None]) -> None:
    seen: dict[Path, str] = {}
    for option, path in paths.items():
        if path is None or path == "-":
            continue
        other = seen.setdefault(Path(path).resolve(), option)
        if other != option:
            raise InputError(f"{other} and {option} are the same file, {path}; it would be overwritten")


def _job_options(
    tenant: str | None, priority: str | None, deadline_s: str | None, timeout_s: float | None, *, expire: bool
) -> ManyArguments:
    if timeout_s is not None and timeout_s <= 0:
        raise InputError(f"--timeout-s is {timeout_s:g}, expected seconds above 0")
    said: dict[str, Any] = {
        "tenant": tenant,
        "priority": _number(priority, int),
        "deadline_s": _number(deadline_s, float),
        "timeout_s": timeout_s,
        "expire": expire or None,
    }
    options: Any = {name: value for name, value in said.items() if value is not None}
    checked: ManyArguments = options
    return checked


def _number(text: str | None, kind: type[int | float]) -> int | float | str | None:
    """A number where the text is one; names and references stay text."""
    try:
        return None if text is None else kind(text)
    except ValueError:
        return text
