"""``sage runs``: what recorded runs there are, what came of one, and room for new ones.

``diff`` and ``export`` have files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.cli.explain import STAGE_HEADER, stage_rows
from sage.cli.output import print_json, say, shown_bytes, shown_seconds, table
from sage.cli.runs_diff import diff
from sage.cli.runs_export import export
from sage.errors import InputError

if TYPE_CHECKING:
    from sage.runtime.runs import StoredRun
    from sage.runtime.summary import Stat, Summary

__all__ = ["app"]

app = typer.Typer(help="List, look at and remove recorded runs.", no_args_is_help=True, add_completion=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


app.command()(diff)
app.command()(export)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """All recorded runs, the latest first, with what they take on disk."""
    from sage.runtime.runs import list_runs
    from sage.settings import Settings

    settings = Settings.load()
    runs = list_runs(settings, on_bad=lambda error: say(f"left out: {error}"))
    rows = [_row(run) for run in runs]
    total = sum(row["size_bytes"] for row in rows)
    if as_json:
        print_json({"folder": str(settings.runs_dir), "size_bytes": total, "runs": rows})
        return
    if not rows:
        print(f"no runs are recorded in {settings.runs_dir}")
        return
    shown = [
        (
            row["run_id"],
            row["status"],
            ", ".join((*row["streams"], *row["pipelines"])) or "-",
            _jobs(row["jobs"]),
            shown_bytes(row["size_bytes"]),
        )
        for row in rows
    ]
    print(table(("run", "status", "pipelines", "jobs", "size"), shown))
    print(f"\n{len(rows)} in {settings.runs_dir}, {shown_bytes(total)}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id, how it begins, or 'last'.")] = "last",
    as_json: AsJson = False,
) -> None:
    """What one run was and what came of it, computed from its event log."""
    from sage.runtime.runs import load_run
    from sage.runtime.summary import summarize
    from sage.settings import Settings

    stored = load_run(Settings.load(), run)
    summary = summarize(stored.events())
    if as_json:
        row = {"run_id": stored.manifest.run_id, "folder": str(stored.path), "size_bytes": stored.size_bytes}
        print_json({**row, "manifest": stored.manifest, "metrics": summary})
        return
    print("\n".join(_head(stored, summary)))
    if summary.stages:
        print("\n" + table(STAGE_HEADER, stage_rows(summary.stages)))
    steps = [
        (step.pipeline, step.step, step.operator, *_times(step.ms), str(step.calls), str(step.retries))
        for step in summary.steps
    ]
    if steps:
        print("\n" + table(("pipeline", "step", "operator", "n", "median", "p95", "calls", "retries"), steps))
    for fault in summary.faults:
        say(f"the log cannot be true: {fault}")


@app.command()
def prune(
    keep: Annotated[int | None, typer.Option(help="Keep the latest N runs.", show_default=False)] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Remove runs older than this: 30m, 12h, 7d, 4w.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove recorded runs. With both options a run goes only if both let it go."""
    from sage.runtime import runs
    from sage.settings import Settings

    if keep is None and older_than is None:
        raise InputError(
            "say what may go: --keep N keeps the latest N runs, --older-than 7d removes older ones"
        )
    age_s = None if older_than is None else _seconds(older_than)
    settings = Settings.load()
    before = len(runs.list_runs(settings))
    freed = runs.prune(settings, keep=keep, older_than_s=age_s)
    left = runs.list_runs(settings)
    if as_json:
        print_json({"removed": before - len(left), "freed_bytes": freed, "left": len(left)})
        return
    print(f"removed {before - len(left)} of {before} runs, {shown_bytes(freed)}")


def _row(run: StoredRun) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "run_id": manifest.run_id,
        "started": manifest.started,
        "status": manifest.status,
        "pipelines": list(manifest.pipelines),
        "streams": list(manifest.streams),
        "jobs": dict(manifest.counts),
        "size_bytes": run.size_bytes,
    }


def _head(run: StoredRun, summary: Summary) -> list[str]:
    manifest = run.manifest
    engines = ", ".join(f"{pool}: {' '.join(addresses)}" for pool, addresses in manifest.engines.items())
    tokens = f"{summary.prompt_tokens} in, {summary.completion_tokens} out, {summary.cached_tokens} cached"
    count, median, p95 = _times(summary.e2e_s, 1000)
    lines = {
        "run": f"{manifest.run_id} ({manifest.kind}, {manifest.status})",
        "started": manifest.started,
        "stream": ", ".join(manifest.streams),
        "pipelines": ", ".join(manifest.pipelines),
        "policy": manifest.policy,
        "engines": engines,
        "jobs": _jobs(summary.jobs),
        "took": shown_seconds(summary.window_s) if sum(summary.jobs.values()) or not summary.stages else "",
        "a record": f"median {median}, p95 {p95}, n {count}" if int(count) or not summary.stages else "",
        "tokens": tokens if summary.prompt_tokens or summary.completion_tokens else "",
        "notices": ", ".join(f"{count} {kind}" for kind, count in summary.notices.items()),
        "folder": f"{run.path} ({shown_bytes(run.size_bytes)})",
    }
    return [f"{name:10} {text}" for name, text in lines.items() if text]


def _times(stat: Stat, to_ms: float = 1.0) -> tuple[str, str, str]:
    """n, median and 95th percentile; a dash where the sample does not carry it."""
    shown = [None if value is None else value * to_ms / 1000 for value in (stat.p50, stat.p95)]
    return str(stat.n), shown_seconds(shown[0]), shown_seconds(shown[1])


def _jobs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "-"


def _seconds(text: str) -> float:
    """An age such as ``7d`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise InputError(f"--older-than {text!r}: expected a number with a unit, such as 30m, 12h, 7d or 4w")
    return float(match[1]) * UNITS_S[match[2]]
