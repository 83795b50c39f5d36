"""``sage runs export``: a run in the form of another tool."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sage.cli.output import print_json

if TYPE_CHECKING:
    from sage.runtime.runs import StoredRun

__all__ = ["export"]


class Form(StrEnum):
    """What a run can be exported as."""

    perfetto = "perfetto"
    otel = "otel"


def export(
    run: Annotated[str, typer.Argument(help="A run's id, how it begins, or 'last'.")] = "last",
    form: Annotated[
        Form,
        typer.Option("--format", help="perfetto: a trace for ui.perfetto.dev; otel: spans as OTLP JSON."),
    ] = Form.perfetto,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; by default RUN.FORMAT.json here.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Write a run for Perfetto or as OpenTelemetry spans. Neither holds prompts, answers or keys."""
    from sage.errors import InputError
    from sage.runtime.formats import cannot
    from sage.runtime.runs import load_run
    from sage.settings import Settings

    stored = load_run(Settings.load(), run)
    path = out if out is not None else Path(f"{stored.manifest.run_id}.{form}.json")
    content = msgspec.json.encode(_content(stored, form))
    try:
        path.write_bytes(content + b"\n")
    except OSError as error:
        raise InputError(cannot("write", path, error)) from error
    if as_json:
        print_json({"run_id": stored.manifest.run_id, "format": form, "file": str(path)})
    else:
        print(path)


def _content(stored: StoredRun, form: Form) -> dict[str, Any]:
    if form is Form.perfetto:
        from sage.runtime.perfetto import perfetto_trace

        return perfetto_trace(stored.events(), stored.manifest)
    from sage.runtime.spans import job_spans, otlp
    from sage.runtime.trail import trails

    manifest = stored.manifest
    return otlp((span for trail in trails(stored.events()) for span in job_spans(trail, manifest)), manifest)
