"""``sage advise``: policy, endpoints, calls at once and admission that meet an objective, with the evidence."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.output import Bar, print_json, shown_seconds, table

if TYPE_CHECKING:
    from sage.bench.advise import Advice, Evidence, Trials
    from sage.bench.slo import Slo

__all__ = ["app"]

app = typer.Typer(add_completion=False)

SPECS = {".yaml", ".yml", ".json"}


@app.command()
def advise(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SPEC|RUN",
            help="A spec as for sage simulate, or a recorded run: its id, how it begins, or 'last'.",
            show_default=False,
        ),
    ],
    slo: Annotated[
        str,
        typer.Option(
            help="What each job should meet, in seconds: e2e:3 from arrival to end, ttft:0.5 to its first token, "
            "tpot:0.05 per token after it; 500ms is understood.",
            show_default=False,
        ),
    ],
    attain: Annotated[
        float, typer.Option(help="Share of jobs that should meet it; the low end of the interval must.")
    ] = 0.95,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A policy to choose from, in place of the presets; may be repeated."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Whose endpoints are advised on, where several pools are used.")
    ] = None,
    max_endpoints: Annotated[int, typer.Option(min=1, help="No more endpoints are tried.")] = 64,
    load: Annotated[float, typer.Option(help="Of a spec: what all rates are multiplied by.")] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, help="Of a spec: runs of each setting.")] = 3,
    profile: Annotated[
        str | None, typer.Option(help="Of a run: take the time of calls from a calibrated profile.")
    ] = None,
    imports: Annotated[
        list[Path] | None,
        typer.Option("--import", help="A Python file that registers functions, or members of policies."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Say with what policy, endpoints, calls at once and admission an objective is met, from simulation or replay.

    Every line is a setting that was tried. Ends with 1 if nothing that was tried meets the objective.
    """
    from sage.bench.advise import advise as search
    from sage.bench.advise_trials import slo_in_seconds
    from sage.cli.target import import_files
    from sage.errors import InputError

    wanted = slo_in_seconds(slo)
    if not 0 < attain <= 1:
        raise InputError(f"--attain is {attain:g}, expected a share above 0 and at most 1")
    import_files(imports or [])
    trials = _trials(target, wanted, pool=pool, load=load, seeds=seeds, profile=profile)
    with ExitStack() as stack:
        bar = stack.enter_context(Bar(f"runs {trials.kind}", None))

        def tell() -> None:
            bar.advance()
            bar.tick()

        found = search(
            trials, wanted, wanted=attain, policies=policy or [], most_endpoints=max_endpoints, tell=tell
        )
    if as_json:
        print_json(found)
    else:
        print(_shown(found))
    raise typer.Exit(0 if found.is_met else 1)


def _trials(
    target: str, slo: Slo, *, pool: str | None, load: float, seeds: int, profile: str | None
) -> Trials:
    from sage.bench.advise_trials import RunTrials, SpecTrials
    from sage.bench.simulation_spec import read_spec
    from sage.errors import InputError
    from sage.runtime.runs import load_run
    from sage.settings import Settings

    if Path(target).suffix.lower() in SPECS:
        if profile is not None:
            raise InputError(f"--profile {profile} is for a recorded run; a spec names its profiles itself")
        return SpecTrials(read_spec(Path(target)), slo, pool=pool, load=load, seeds=seeds)
    if load != 1.0:
        raise InputError(f"--load {load:g} is for a spec; the jobs of a recorded run came when they came")
    return RunTrials(load_run(Settings.load(), target), slo, pool=pool, profile=profile)


def _shown(found: Advice) -> str:
    limits = {"ttft": found.slo.ttft_s, "tpot": found.slo.tpot_s, "e2e": found.slo.e2e_s}
    slo = " ".join(f"{name}:{limit:g}" for name, limit in limits.items() if limit is not None)
    lines = "\n".join(f"  {line}" for line in found.lines)
    rows = sorted(found.evidence, key=lambda row: (row.setting.endpoints, -row.attainment))
    shown = table(_HEADER, [_cells(row, is_best=row == found.best) for row in rows])
    by = "over seeds" if found.best.interval == "seeds" else "over jobs (Wilson)"
    assumed = "\n".join(f"  - {text}" for text in found.assumptions)
    return (
        f"{found.of}, {found.kind}: {slo} (seconds) for {100 * found.wanted:g} % of jobs\n{lines}\n\n"
        f"what was tried, {found.kind}; 95 % intervals {by}\n{shown}\nassumed:\n{assumed}"
    )


_HEADER = (
    "", "policy", "endpoints", "at once", "attained", "interval", "worst class", "rejected", "jobs/s", "p95", "tried for",
)  # fmt: skip


def _cells(row: Evidence, *, is_best: bool) -> tuple[str, ...]:
    return (
        "*" if is_best else "+" if row.meets else "",
        row.setting.policy,
        str(row.setting.endpoints),
        "-" if row.setting.limit is None else str(row.setting.limit),
        f"{100 * row.attainment:.1f} %",
        f"{100 * row.low:.1f} to {100 * row.high:.1f}",
        f"{100 * row.worst_class:.1f} %",
        str(row.rejected),
        "-" if row.jobs_per_s is None else f"{row.jobs_per_s:.2f}",
        shown_seconds(row.p95_s),
        row.why,
    )
