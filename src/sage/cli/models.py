"""``sage models``: fetch models, say where they are, check them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sage.cli.output import print_json, say, shown_bytes
from sage.settings import Settings

if TYPE_CHECKING:
    from sage.engines.models import Installed
    from sage.engines.models_files import Progress

__all__ = ["app"]

app = typer.Typer(
    name="models",
    help="Fetch models, say where they are, check them.",
    no_args_is_help=True,
    add_completion=False,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the list."""

    name: str
    about: str
    licence: str
    state: Literal["here", "damaged", "missing"]
    size_bytes: int
    path: str | None


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
REFERENCE = "A built-in name, hf:owner/repo/path, or a path."


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the built-in models and what else is in the cache."""
    from sage.engines.models import MODELS, installed

    settings = Settings.load()
    here = {model.reference: model for model in installed(settings)}
    models = [
        _row(name, here.get(name)) for name in [*MODELS, *(name for name in here if name not in MODELS)]
    ]
    if as_json:
        print_json({"folder": str(settings.models_dir), "models": models})
        return
    for model in models:
        print(f"{model.name}  {shown_bytes(model.size_bytes)}  {model.state}")
        for detail in (f"{model.about} ({model.licence})" if model.about else "", model.path):
            if detail:
                print(f"    {detail}")


@app.command()
def pull(
    references: Annotated[
        list[str] | None,
        typer.Argument(help=f"{REFERENCE} Default: every built-in model.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download models that are not here, and check those that are."""
    from sage.engines.models import MODELS
    from sage.engines.models import pull as pull_model

    settings = Settings.load()
    paths: dict[str, Path] = {}
    for reference in references or list(MODELS):
        with _download_progress(reference) as progress:
            paths[reference] = pull_model(reference, settings, progress)
        if not as_json:
            print(f"{reference}  {paths[reference]}")
    if as_json:
        print_json({"models": {reference: str(path) for reference, path in paths.items()}})


@app.command()
def path(
    reference: Annotated[str, typer.Argument(help=REFERENCE, show_default=False)], as_json: AsJson = False
) -> None:
    """Print where a model's file or folder is."""
    from sage.engines.models import resolve

    found = resolve(reference, Settings.load())
    if as_json:
        print_json({"name": reference, "path": str(found)})
    else:
        print(found)


@app.command()
def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(help=f"{REFERENCE} Default: everything in the cache.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of models and compare it with the hashes known; exit code 2 if one differs."""
    from sage.engines.models import installed, model_faults

    settings = Settings.load()
    chosen = references or [model.reference for model in installed(settings)]
    found = {reference: model_faults(reference, settings) for reference in chosen}
    if as_json:
        print_json({"ok": not any(found.values()), "models": found})
    else:
        _print_faults(found)
    if any(found.values()):
        raise typer.Exit(2)


def _row(name: str, here: Installed | None) -> Row:
    from sage.engines.models import MODELS

    model = MODELS[name] if name in MODELS else None  # noqa: SIM401 - a registry's get() raises, too
    return Row(
        name=name,
        about=model.about if model else "",
        licence=model.licence if model else "",
        state="missing" if here is None else "here" if here.is_complete else "damaged",
        size_bytes=here.size_bytes if here else model.size_bytes if model else 0,
        path=str(here.path) if here else None,
    )


def _print_faults(found: dict[str, list[str]]) -> None:
    for reference, faults in found.items():
        print(f"{reference}  {'damaged' if faults else 'ok'}")
        for fault in faults:
            print(f"    {fault}; type `sage models pull {reference}`")
    if not found:
        print("no models here; type `sage models pull`")


@contextmanager
def _download_progress(name: str) -> Iterator[Progress]:
    """A bar on a terminal's stderr, a line every tenth of the way elsewhere; nothing if nothing is fetched."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tenths(name)
        return
    with Bar(TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console) as bar:
        tasks: Sequence[Any] = []

        def show(done_bytes: int, total_bytes: int | None) -> None:
            nonlocal tasks
            tasks = tasks or [bar.add_task(name, total=total_bytes)]
            bar.update(tasks[0], completed=done_bytes, total=total_bytes)

        yield show


def _tenths(name: str) -> Progress:
    """A progress that says a line on stderr at every tenth."""
    said = 0

    def show(done_bytes: int, total_bytes: int | None) -> None:
        nonlocal said
        if total_bytes and done_bytes * 10 // total_bytes > said:
            said = done_bytes * 10 // total_bytes
            say(f"{name}: {shown_bytes(done_bytes)} of {shown_bytes(total_bytes)}")

    return show
