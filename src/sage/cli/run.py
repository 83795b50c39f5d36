"""``sage run``: a pipeline over the records of a file, results written as they finish."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.cli.cluster import Address, Nodes, RuntimeName, Slots, Workers, cluster_from
from sage.cli.output import Bar, print_json, say
from sage.cli.run_many import Many, for_each
from sage.cli.run_options import (
    given_of,
    job_options,
    only_one,
    pairs,
    parts_of,
    paths_of,
    policy_of,
    refuse_for_streams,
    refuse_same_file,
    refuse_unused,
    stagger_of,
    tenants_of,
)
from sage.cli.run_results import MAX_SAID, failed_as_json, metrics_of, plain, ticking
from sage.cli.source import Given
from sage.errors import EngineError, InputError

if TYPE_CHECKING:
    from sage import Pipeline, Record
    from sage.events import Outcome
    from sage.runtime.base import JobFailure
    from sage.runtime.files import RecordWriter
    from sage.runtime.options import ManyArguments
    from sage.settings import Settings

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET",
            help="FILE.yaml, FILE.py:NAME or module:NAME; several run at once, on shared engines.",
            show_default=False,
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Records: .jsonl, .json, .csv, .tsv, or - for standard input. Of several pipelines, once for each.",
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            help="Where results go: .jsonl, .csv, .tsv, or - for standard output. Of several, once for each."
        ),
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
    runtime: RuntimeName = "local",
    address: Address = None,
    nodes: Nodes = None,
    workers: Workers = None,
    slots: Slots = None,
    share: Annotated[
        str | None,
        typer.Option(help="Whose turn it is, as in --policy share=…: weighted_fair, fair_pipelines."),
    ] = None,
    tenants: Annotated[
        Path | None,
        typer.Option(
            help="What tenants may claim: a TOML or YAML file with the table [tenants] of sage.toml."
        ),
    ] = None,
    stagger_s: Annotated[
        str | None,
        typer.Option(
            help="Of several pipelines: seconds between their starts, or computed: after the first job of the one before."
        ),
    ] = None,
    max_inflight: Annotated[int | None, typer.Option(min=1, help="Records under way at once.")] = None,
    tenant: Annotated[
        list[str] | None,
        typer.Option(
            help="On whose behalf; '{field}' reads it from the record. Of several, once for all or for each."
        ),
    ] = None,
    priority: Annotated[
        list[str] | None,
        typer.Option(help="A number, batch, normal, interactive, or '{field}'; said like --tenant."),
    ] = None,
    deadline_s: Annotated[
        list[str] | None, typer.Option(help="Seconds a record may take, or '{field}'; said like --tenant.")
    ] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Stop a record after so many seconds.")] = None,
    budget_tokens: Annotated[
        int | None,
        typer.Option(
            help="Reject further records once calls have used so many tokens; of several, each pipeline's."
        ),
    ] = None,
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
    """Run a pipeline over records, or several at once, and write each result as it finishes; or a stream.

    A stream names its own sources and sinks. Ctrl-C stops the sources of a stream, and what is under way is finished; a
    second one aborts it. Ends with 1 if some records failed, 3 if no engine could be reached, 130 if it was interrupted: what was
    finished until then is kept.
    """
    from sage import Pipeline
    from sage.cli.target import import_files, load_flow
    from sage.settings import Settings

    sources, outputs = source or [], output or []
    if as_json and "-" in outputs:
        raise InputError("--json and --output - both write to standard output; name a file, or leave one out")
    refuse_same_file([*paths_of("--input", sources), *paths_of("--output", outputs), ("--errors", errors)])
    import_files(imports or [])
    flows = [load_flow(target) for target in targets]
    pipelines = [flow for flow in flows if isinstance(flow, Pipeline)]
    engines = pairs("--engine", "POOL=ADDRESS", engine or [])
    if len(pipelines) == len(flows):
        refuse_unused(pipelines, engines)
    settings = Settings.load()
    session = {
        "engines": {pool: tuple(addresses) for pool, addresses in engines.items()},
        "indexes": {name: said[-1] for name, said in pairs("--index", "NAME=FOLDER", index or []).items()},
        "policy": policy_of(policy, share, settings),
        "max_inflight": max_inflight,
        "record": settings.record and not no_record,
        "settings": settings,
        "tenants": tenants_of(tenants),
        "runtime": cluster_from(runtime, address, nodes, workers, slots),
    }
    each = [
        for_each(option, said or [], len(flows))
        for option, said in (("--tenant", tenant), ("--priority", priority), ("--deadline-s", deadline_s))
    ]
    options = [
        job_options(whose, class_, due, timeout_s, budget_tokens, expire=expire)
        for whose, class_, due in zip(*each, strict=True)
    ]
    stream = next((flow for flow in flows if not isinstance(flow, Pipeline)), None)
    if stream is not None:
        from sage.cli.run_stream import run_stream

        if len(flows) > 1:
            raise InputError("a stream runs alone; merge several into one, which share its session")
        for_pipelines = {"--input": sources, "--set": fields, "--ordered": ordered, "--stagger-s": stagger_s}
        refuse_for_streams({**for_pipelines, "--skip-bad-input": skip_bad_input})
        to = only_one("--output", outputs)
        raise typer.Exit(run_stream(stream, session, options[0], to, errors, settings, as_json=as_json))
    if len(pipelines) > 1:
        if ordered or fields:
            raise InputError(
                f"--{'ordered' if ordered else 'set'} is for one pipeline; there are {len(pipelines)}"
            )
        parts = parts_of(pipelines, sources, outputs, options, skip_bad=skip_bad_input)
        many = Many(parts, session, stagger_of(stagger_s), errors, as_json)
        interrupted = _carried_out(many)
        many.report(interrupted=interrupted)
        raise typer.Exit(130 if interrupted else many.exit_code)
    if stagger_s is not None:
        raise InputError("--stagger-s is between the starts of several pipelines; there is one")
    given, to = only_one("--input", sources), only_one("--output", outputs)
    job = Job(
        pipeline=pipelines[0],
        given=given_of(pipelines[0], given, fields or [], skip_bad=skip_bad_input),
        session=session,
        options=options[0],
        ordered=ordered,
        output=to if to is not None or as_json else "-",
        errors=errors,
    )
    interrupted = _carried_out(job)
    job.report(settings, as_json=as_json, interrupted=interrupted)
    raise typer.Exit(130 if interrupted else job.exit_code)


def _carried_out(work: Job | Many) -> bool:
    """Whether it was interrupted."""
    try:
        asyncio.run(work.carry_out())
    except KeyboardInterrupt:
        return True
    return False


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
                with ticking(bar):
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
                self.records.append(plain(result))
        for writer in (results, failures):
            if writer is not None:
                writer.flush()

    def _keep_failure(self, failure: JobFailure, failures: RecordWriter | None) -> None:
        self.num_failures += 1
        error = failure.error
        self.num_unreachable += isinstance(error, EngineError) and error.fault == "unreachable"
        if failures is not None:
            failures.write(failed_as_json(failure))
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
            metrics = metrics_of(settings, self.run_id) if recorded and self.run_id else {}
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
