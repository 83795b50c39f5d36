"""``sage explain``: where a run's time went, and what to change first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.output import print_json, shown_seconds

if TYPE_CHECKING:
    from sage.runtime.figures import Stat
    from sage.runtime.runs import StoredRun
    from sage.runtime.stage_figures import StageFigures
    from sage.runtime.timings import Explanation, SlowJob, StepTime
    from sage.runtime.waits import Waits

__all__ = ["STAGE_HEADER", "app", "print_table", "stage_rows"]

app = typer.Typer(add_completion=False)

PLAIN_WIDTH = 160  # of tables, where output is no terminal
LEAST_WIDTH = 60
LEAST_SHARE = 0.005  # what is less is not worth a line
FIGURES = frozenset("0123456789+-")  # what a cell with a figure begins with


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="A run's id, how it begins, or 'last'.")] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    gantt: Annotated[bool, typer.Option("--gantt", help="Draw the endpoints and the slowest jobs.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="With --gantt: how many jobs.")] = 3,
    svg: Annotated[
        Path | None, typer.Option(help="With --gantt: write it as svg to this file.", show_default=False)
    ] = None,
    job: Annotated[
        int | None,
        typer.Option(min=0, help="Tell what happened to one job, counted from 0.", show_default=False),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="STEP", help="With --job: only to its calls in this step.")
    ] = None,
    under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY", help="Replay the run under another policy, such as order=edf; may be repeated."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="With --under: take the time of calls from a calibrated profile, not from the log."
        ),
    ] = None,
    imports: Annotated[
        list[Path] | None, typer.Option("--import", help="A Python file that registers members of policies.")
    ] = None,
) -> None:
    """Say where a run's time went, why its tasks waited, and what to change first.

    With --job, say what happened to one job and its calls: behind whom they waited, by which limit and which rule.
    With --under, say what the run would have been under another policy: its log, replayed in virtual time.
    """
    from sage.cli.explain_replay import explain_under
    from sage.cli.target import import_files
    from sage.errors import InputError
    from sage.runtime.runs import load_run
    from sage.settings import Settings

    if svg is not None and not gantt:
        raise InputError("--svg FILE draws the Gantt chart; say --gantt too")
    if task is not None and job is None:
        raise InputError(f"--task {task} is of which job? say --job N too")
    if job is not None and gantt:
        raise InputError("--job tells a story and --gantt draws a chart; say one of them")
    if profile is not None and not under:
        raise InputError(f"--profile {profile} is for a replay; say --under POLICY too")
    if under and (job is not None or gantt):
        raise InputError("--under replays the whole run; say it without --job and --gantt")
    import_files(imports or [])
    stored = load_run(Settings.load(), run)
    if under:
        explain_under(stored, under, profile, as_json=as_json)
        return
    if gantt:
        _gantt(stored, jobs, svg, as_json=as_json)
        return
    if job is not None:
        _tell(stored, job, task, as_json=as_json)
        return
    from sage.runtime.explain import explain as explain_events
    from sage.runtime.waits import waits

    found = explain_events(stored.events(), stored.manifest)
    waited = waits(stored.events(), stored.manifest)
    if as_json:
        about = {"run_id": stored.manifest.run_id, "kind": stored.manifest.kind}
        print_json({**about, "explanation": found, "waits": waited})
        return
    _print(stored, found, waited)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table under a title, words to the left and figures to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    cells = [tuple(row) for row in rows]
    for column, name in enumerate(header):
        is_figure = column > 0 and all(row[column][:1] in FIGURES for row in cells)
        shown.add_column(name, justify="right" if is_figure else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(Text(title, style="bold"))
    console.print(shown)
    console.print()


def _tell(stored: StoredRun, job: int, task: str | None, *, as_json: bool) -> None:
    from sage.cli.explain_waits import print_story
    from sage.runtime.story import story

    told = story(stored.events(), stored.manifest, shown_seconds, job=job, step=task)
    if as_json:
        print_json({"run_id": stored.manifest.run_id, "kind": stored.manifest.kind, "story": told})
    else:
        print_story(told)


def _print(stored: StoredRun, found: Explanation, waited: Waits) -> None:
    from sage.cli.explain_waits import print_waits

    manifest = stored.manifest
    if found.stages:
        print(f"run        {manifest.run_id} ({manifest.kind}, {found.status})\n")
        print_table(
            f"Stream {found.stages[0].stream}, stage by stage", STAGE_HEADER, stage_rows(found.stages)
        )
        if not sum(found.jobs.values()):
            return
    jobs = ", ".join(f"{count} {outcome}" for outcome, count in found.jobs.items() if count) or "none"
    if not found.stages:
        print(f"run        {manifest.run_id} ({manifest.kind}, {found.status})")
    print(f"jobs       {jobs}")
    print(f"took       {shown_seconds(found.window_s)}")
    print(f"a job      {_times(found.e2e_s)}")
    if found.outside_share is not None and found.outside_share >= LEAST_SHARE:
        print(f"let in     after {_percent(found.outside_share)} of their time")
    print("\nWhat to change first")
    for number, finding in enumerate(found.advice, 1):
        print(f"  {number}. {finding.text}")
    if found.note:
        print(f"  {found.note}")
    print()
    print_waits(waited, print_table)
    print_table("Steps, by how long they held jobs up", _STEP_HEADER, _step_rows(found))
    if found.endpoints:
        print_table("Endpoints", _ENDPOINT_HEADER, _endpoint_rows(found))
    if found.paths:
        rows = [(str(path.jobs), path.pipeline, " → ".join(path.steps) or "-") for path in found.paths]
        print_table("Critical paths", ("jobs", "pipeline", "steps"), rows)
    if found.slowest:
        print_table("Slowest jobs", ("job", "took", "where"), [_slow_row(job) for job in found.slowest])


STAGE_HEADER = (
    "stage", "kind", "reads", "in", "out", "failed", "late", "dropped", "most kept", "unfinished", "in/s",
)  # fmt: skip


def stage_rows(stages: Iterable[StageFigures]) -> list[tuple[str, ...]]:
    """The stages of a stream as rows of a table, for ``explain`` and ``runs show``."""
    return [
        (
            of.stage,
            of.kind,
            ", ".join(of.reads) or "-",
            f"{of.taken:,}",
            f"{of.given:,}",
            f"{of.failed:,}",
            f"{of.late:,}",
            f"{of.dropped:,}",
            f"{of.most_pending:,}",
            f"{of.unfinished:,}",
            "-" if of.per_s is None else f"{of.per_s:,.0f}",
        )
        for of in stages
    ]


_STEP_HEADER = (
    "step", "n", "critical path", "all time", "median", "waited", "queue", "service", "first token",
    "calls", "retries", "reused", "failed",
)  # fmt: skip


def _step_rows(found: Explanation) -> list[tuple[str, ...]]:
    several = len({step.pipeline for step in found.steps}) > 1
    return [
        (
            _step_name(step, several=several),
            str(step.n),
            _percent(step.path_share),
            _percent(step.share),
            shown_seconds(step.time_s.p50),
            shown_seconds(step.waited_s.p50),
            shown_seconds(step.queue_s.p50),
            shown_seconds(step.service_s.p50),
            shown_seconds(step.first_s.p50),
            str(step.calls),
            str(step.retries),
            str(step.reused),
            str(step.failed_jobs if not step.is_inside else step.failed_calls),
        )
        for step in found.steps
    ]


def _step_name(step: StepTime, *, several: bool) -> str:
    if step.is_inside:
        return f"  {step.step}"
    return f"{step.pipeline}: {step.step}" if several else step.step


_ENDPOINT_HEADER = ("endpoint", "pool", "calls", "failed", "retries", "at once", "limit", "used", "batch")


def _endpoint_rows(found: Explanation) -> list[tuple[str, ...]]:
    return [
        (
            end.endpoint,
            end.pool,
            str(end.calls),
            str(end.tasks.get("failed", 0)),
            str(end.retries),
            "-" if end.in_flight is None else f"{end.in_flight:.2f}",
            "-" if end.limit is None else str(end.limit),
            _percent(end.utilisation),
            "1" if end.batch.mean is None else f"{sum(end.tasks.values()) / max(1, end.calls):.1f}",
        )
        for end in found.endpoints
    ]


def _slow_row(job: SlowJob) -> tuple[str, str, str]:
    parts = []
    for part in job.path:
        said = [
            f"{name} {shown_seconds(seconds)}"
            for name, seconds in (
                ("waited", part.waited),
                ("queue", part.queued),
                ("pause", part.paused),
                ("service", part.service),
                ("own", part.other),
                ("shared answer", part.shared),
            )
            if seconds >= 0.01 * job.e2e_s and seconds > 0
        ]
        if said:
            parts.append(f"{part.step}: {', '.join(said)}")
    return str(job.job), shown_seconds(job.e2e_s), " → ".join(parts) or "-"


def _times(stat: Stat) -> str:
    """Median and tail; a percentile the sample does not carry says so."""
    said = [f"median {shown_seconds(stat.p50)}"]
    for name in ("p95", "p99"):
        value = getattr(stat, name)
        said.append(f"{name} {shown_seconds(value) if value is not None else stat.why.get(name, '-')}")
    return f"{', '.join(said)}, n {stat.n}" if stat.n else "none was done"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _gantt(stored: StoredRun, jobs: int, svg: Path | None, *, as_json: bool) -> None:
    from rich.console import Console

    from sage.errors import InputError
    from sage.runtime.formats import cannot
    from sage.runtime.gantt import chart, gantt_text
    from sage.runtime.gantt_svg import gantt_svg

    found = chart(stored.events(), stored.manifest, jobs=jobs)
    if svg is not None:
        manifest = stored.manifest
        title = f"Run {manifest.run_id} of {', '.join(manifest.pipelines) or 'no pipeline'} ({manifest.kind})"
        try:
            svg.write_text(gantt_svg(found, title, shown_seconds), encoding="utf-8")
        except OSError as error:
            raise InputError(cannot("write", svg, error)) from error
    if as_json:
        print_json({"run_id": stored.manifest.run_id, "gantt": found})
    elif svg is None:
        width = Console().width if sys.stdout.isatty() else PLAIN_WIDTH
        print("\n".join(gantt_text(found, max(LEAST_WIDTH, width), shown_seconds)))
    else:
        print(svg)
