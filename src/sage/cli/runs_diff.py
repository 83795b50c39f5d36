"""``sage runs diff``: two runs beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sage.cli.output import print_json, shown_seconds

if TYPE_CHECKING:
    from sage.runtime.runs_diff import Difference, RunsDiff

__all__ = ["diff"]


def diff(
    a: Annotated[str, typer.Argument(help="A run's id, how it begins, or 'last'.", show_default=False)],
    b: Annotated[str, typer.Argument(help="The run to compare with it.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Two runs beside each other: jobs, times and tokens with 95 % intervals, and what they were run with."""
    from sage.runtime.runs import load_run
    from sage.runtime.runs_diff import diff_runs
    from sage.settings import Settings

    settings = Settings.load()
    one, other = load_run(settings, a), load_run(settings, b)
    found = diff_runs(one.manifest, one.events(), other.manifest, other.events())
    if as_json:
        print_json(found)
        return
    _print(found)


def _print(found: RunsDiff) -> None:
    from sage.cli.explain import print_table

    print(f"a  {found.a} ({found.kinds[0]})\nb  {found.b} ({found.kinds[1]})\n")
    if found.kinds[0] != found.kinds[1]:
        print("These are runs of different kinds: their times are not to be compared.\n")
    jobs = [(outcome, str(one), str(other)) for outcome, (one, other) in found.jobs.items() if one or other]
    print_table("Jobs", ("outcome", "a", "b"), jobs)
    rows = [_row("a job, arrival to end", found.e2e_s, seconds=True)]
    for step in found.steps:
        for name, difference, seconds in (
            ("time", step.time_s, True),
            ("queue", step.queue_s, True),
            ("service", step.service_s, True),
            ("prompt tokens", step.prompt_tokens, False),
            ("answer tokens", step.completion_tokens, False),
        ):
            if difference.num_a or difference.num_b:
                rows.append(_row(f"{step.step}: {name}", difference, seconds=seconds))
    print_table(
        "Means; the interval is of the difference between these two runs",
        ("what", "a", "b", "b - a", "95 % interval", "so b takes"),
        rows,
    )
    changes = [(change.name, _value(change.a), _value(change.b)) for change in found.changes]
    if changes:
        print_table("Run with", ("what", "a", "b"), changes)
    else:
        print("Run with the same: version, machine, policy, engines, arguments, pipelines.")


def _row(name: str, found: Difference, *, seconds: bool) -> tuple[str, ...]:
    interval = (
        found.why
        if found.low is None or found.high is None
        else f"{_signed(found.low, seconds=seconds)} to {_signed(found.high, seconds=seconds)}"
    )
    return (
        name,
        _shown(found.a, seconds=seconds),
        _shown(found.b, seconds=seconds),
        "-" if found.difference is None else _signed(found.difference, seconds=seconds),
        interval,
        found.verdict if found.low is not None else "-",
    )


def _shown(value: float | None, *, seconds: bool) -> str:
    if value is None:
        return "-"
    return shown_seconds(value) if seconds else f"{value:.1f}"


def _signed(value: float, *, seconds: bool) -> str:
    return f"{'-' if value < 0 else '+'}{_shown(abs(value), seconds=seconds)}"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:59]}…"
