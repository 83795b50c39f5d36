"""``sage show``: what a pipeline or a stream is made of."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(add_completion=False)


class Form(StrEnum):
    """What a plan can be shown as."""

    text = "text"
    mermaid = "mermaid"
    svg = "svg"
    json = "json"


@app.command()
def show(
    target: Annotated[
        str, typer.Argument(help="FILE.yaml, FILE.py:NAME or module:NAME.", show_default=False)
    ],
    form: Annotated[Form, typer.Option(help="How to show it.")] = Form.text,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --form json.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write it to a file.", show_default=False)] = None,
    imports: Annotated[
        list[Path] | None, typer.Option("--import", help="A Python file that registers functions for YAML.")
    ] = None,
) -> None:
    """Show the steps of a pipeline, what each needs, and what can run at the same time; or the stages of a stream.

    Nothing is run.
    """
    from sage.cli.target import import_files, load_flow
    from sage.errors import InputError
    from sage.runtime.formats import cannot

    if as_json and form not in {Form.text, Form.json}:
        raise InputError(f"--json and --form {form} exclude each other; say one of them")
    import_files(imports or [])
    text = load_flow(target).show("json" if as_json else form.value)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(cannot("write", out, error)) from error
