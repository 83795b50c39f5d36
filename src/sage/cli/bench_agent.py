"""``sage bench agent``: which tools agents choose, how they plan, and whether they call."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.bench_agent_shown import print_report
from sage.cli.output import Bar, print_json, say, typed_command
from sage.errors import InputError, nearest

if TYPE_CHECKING:
    from sage.bench.agent_data.sets import AgentSet
    from sage.bench.agent_fit import Progress
    from sage.bench.agent_items import Kind
    from sage.bench.suites.agent import Order
    from sage.settings import Settings

__all__ = ["app"]

app = typer.Typer(
    name="agent",
    help="How agents behave: tools chosen, plans made, calls made at the right time.",
    no_args_is_help=True,
    add_completion=False,
)

Data = Annotated[
    str,
    typer.Option(
        help="A folder in one of the formats of docs/agents.md, or bfcl, which is fetched.",
        show_default=False,
    ),
]
Strategies = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        help="Several times: what to compare; without it all that need no llm.",
        show_default=False,
    ),
]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        metavar="POOL=ADDRESS",
        help="What writes (llm) and what embeds (embedder).",
        show_default=False,
    ),
]
Group = Annotated[str | None, typer.Option(help="Only this group of the set's tasks.", show_default=False)]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Tasks of each group, picked by the hash of their ids.", show_default=False),
]
Fit = Annotated[int, typer.Option(min=10, help="Tasks that fitting may look at; each only for the others.")]
Shortlist = Annotated[int, typer.Option(min=1, help="Tools that retrieval shows a model, where both choose.")]
Inflight = Annotated[int, typer.Option(min=1, help="Tasks under way at once; latencies are of this load.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the results; one that was interrupted is gone on with.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


#: Kind -> what its command says of itself, and the options that it has no use for.
KINDS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "selection": ("Measure which tools are chosen for a request, and whether none is where none fits.", ()),
    "planning": (
        "Measure which calls are planned for a task, in what order, and what each needs. No tool is called.",
        ("fit",),
    ),
    "timing": (
        "Measure whether a request is met with a call, a question back, an answer, or a refusal.",
        ("shortlist",),
    ),
}


def _command_of(kind: Kind, without: tuple[str, ...]) -> Callable[..., None]:
    """The command of a kind, with the options that all have but some."""

    def command(
        data: Data,
        strategy: Strategies = None,
        group: Group = None,
        limit: Limit = None,
        fit: Fit = 2000,
        shortlist: Shortlist = 10,
        engine: Engines = None,
        max_inflight: Inflight = 8,
        out: Out = None,
        as_json: AsJson = False,
    ) -> None:
        from sage.bench.suites.agent import Order
        from sage.settings import Settings

        settings = Settings.load()
        order = Order(
            kind=kind,
            strategies=_strategies(kind, strategy),
            engines=_engines(engine or [], settings),
            settings=settings,
            group=group,
            limit=limit,
            fit=fit,
            shortlist=shortlist,
            max_inflight=max_inflight,
            command=typed_command(),
        )
        _run(_data(data, settings), order, out, as_json=as_json)

    signature = inspect.signature(command, eval_str=True)
    kept = [option for name, option in signature.parameters.items() if name not in without]
    command.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # typer reads it
    return command


for _kind, (_about, _without) in KINDS.items():
    app.command(_kind, help=_about)(_command_of(_kind, _without))


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the strategies of each kind: what each does, and which engines it needs."""
    from sage.bench.suites.agent import FLOORS, STRATEGIES
    from sage.cli.output import table

    rows = [
        (kind, name, strategy.about, ", ".join(sorted(strategy.uses)) or "none")
        for kind, registry in STRATEGIES.items()
        for name, strategy in registry.items()
    ]
    if as_json:
        print_json(
            {
                "floors": dict(FLOORS),
                "strategies": [
                    {"kind": kind, "name": name, "about": about, "engines": uses}
                    for kind, name, about, uses in rows
                ],
            }
        )
        return
    print(table(("kind", "strategy", "what it does", "engines"), rows))


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="What --out named.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Compute the figures of finished results again, from their files alone."""
    from sage.bench.agent_report import read_agent_report

    report = read_agent_report(folder)
    if as_json:
        print_json(report)
    else:
        print_report(report)


def _strategies(kind: Kind, said: list[str] | None) -> list[str]:
    """Those that were named, else all that need no model to write."""
    from sage.bench.suites.agent import MAJORITY, STRATEGIES

    known = STRATEGIES[kind]
    for name in said or ():
        if name not in known and not (kind == "timing" and name == MAJORITY):
            raise InputError(f"--strategy {name!r}: {nearest(name, known)}")
    return said or [name for name, one in known.items() if "llm" not in one.uses]


def _run(data: AgentSet, order: Order, out: Path | None, *, as_json: bool) -> None:
    from sage.bench.agent_report import read_agent_report
    from sage.bench.suites.agent import measure

    with tempfile.TemporaryDirectory() as scratch, _stages() as progress:
        folder = out if out is not None else Path(scratch) / "results"
        measure(data, order, folder, progress)
        report = read_agent_report(folder)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    if out is not None:
        say(f"-> {out}")
    if any(cell.failed for cell in report.cells):
        raise typer.Exit(1)


def _data(said: str, settings: Settings) -> AgentSet:
    from sage.bench.agent_data.fetched import FETCHED, fetched
    from sage.bench.agent_data.sets import read_agent_set

    if said in FETCHED and not Path(said).is_dir():
        return read_agent_set(fetched(FETCHED[said], settings))
    return read_agent_set(Path(said))


def _engines(said: list[str], settings: Settings) -> dict[str, str | tuple[str, ...]]:
    """The addresses of both pools: as said, else as configured, else the built-in ones."""
    from sage.cli.bench import engines_of

    return dict(engines_of(said, settings))


@contextlib.contextmanager
def _stages() -> Iterator[Progress]:
    """A bar on stderr for each stage, one after the other."""
    with ExitStack() as stack:
        at: tuple[str, Bar, int] | None = None

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal at
            if at is None or at[0] != stage:
                stack.close()
                at = (stage, stack.enter_context(Bar(stage, total)), 0)
            _, bar, before = at
            for _ in range(done - before):
                bar.advance()
            bar.tick()
            at = (stage, bar, done)

        yield progress
