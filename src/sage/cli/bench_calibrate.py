"""``sage bench calibrate``: a profile of the emulated engine that takes the time a real one takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from sage.cli.output import Bar, print_json, say, table
from sage.errors import InputError

if TYPE_CHECKING:
    from sage.bench.calibrate import Calibration, Served

__all__ = ["calibrate"]


def calibrate(
    log: Annotated[str | None, typer.Option(metavar="RUN", help="A recorded run, or 'last'.")] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measured requests, as JSON lines.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|embedded", help="Send requests to this engine first, and record them."),
    ] = None,
    requests: Annotated[int, typer.Option(min=40, help="With --engine: how many to send.")] = 200,
    rate: Annotated[
        float, typer.Option(help="With --engine: requests a second at the end of the rise.")
    ] = 2.0,
    pool: Annotated[str | None, typer.Option(help="With --log: the pool, where it used several.")] = None,
    fit: Annotated[
        int | None, typer.Option(help="Requests to fit, the first ones; otherwise half.", show_default=False)
    ] = None,
    hold_out: Annotated[
        int | None,
        typer.Option(min=1, help="Requests after them to judge by; otherwise all.", show_default=False),
    ] = None,
    max_seqs: Annotated[
        int | None,
        typer.Option(min=1, help="Sequences in a step; otherwise the most seen at once.", show_default=False),
    ] = None,
    max_step_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens in a step; otherwise 64 with --engine embedded, which works prompts off so, else 8192.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the profile.")] = "calibrated",
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Where the profile goes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Fit the emulated engine to the times of measured requests, and print how far off it is on later ones."""
    from sage.bench.calibrate import calibrate as fitted
    from sage.runtime.runs import write_private

    if [log, trace, engine].count(None) != 2:
        raise InputError("say one of --log RUN, --trace FILE and --engine ADDRESS: where the times come from")
    if not 0 < rate < float("inf"):
        raise InputError(f"--rate is {rate}, expected requests a second, above 0")
    if out is not None and (out.suffix.lower() != ".json" or out.exists()):
        raise InputError(f"--out {out}: expected a new .json file; profiles are never overwritten")
    served, source = _served(log, trace, engine, pool, requests, rate)
    found = fitted(
        served,
        name=name,
        source=source,
        fit=fit,
        hold_out=hold_out,
        max_seqs=max_seqs,
        max_step_tokens=max_step_tokens or _step_tokens(engine),
    )
    if out is not None:
        write_private(out, msgspec.json.format(msgspec.json.encode(found.profile), indent=2) + b"\n")
        say(f"profile -> {out}; use it as emulated:{out}")
    if as_json:
        print_json(found)
    else:
        print(_shown(found))


def _step_tokens(engine: str | None) -> int:
    """How many tokens a step of the engine takes, as far as that is known here."""
    if engine is not None and (engine == "embedded" or engine.startswith("llama:")):
        from sage.engines.llama import PROMPT_STEP_TOKENS

        return PROMPT_STEP_TOKENS
    return 8192


def _served(
    log: str | None, trace: Path | None, engine: str | None, pool: str | None, requests: int, rate: float
) -> tuple[list[Served], str]:
    """The measured requests, and where they come from in a few words."""
    from sage.bench.calibrate import read_served, served_in
    from sage.bench.calibrate_run import measure
    from sage.runtime.endpoints import DEFAULT_ENGINES
    from sage.runtime.runs import load_run
    from sage.settings import Settings

    if trace is not None:
        return read_served(trace), f"measured requests of {trace.name}"
    settings = Settings.load()
    if log is not None:
        run = load_run(settings, log)
        if run.manifest.kind != "measured":
            raise InputError(
                f"run {run.manifest.run_id} is {run.manifest.kind}; only a measured one says anything"
            )
        return served_in(run.events(), pool), f"run {run.manifest.run_id}"
    assert engine is not None
    address = DEFAULT_ENGINES["llm"] if engine == "embedded" else engine
    if ":" in address and address.partition(":")[0] in {"http", "https"}:
        address = f"openai:{address}"
    with Bar("requests", requests) as bar:

        def on_end() -> None:
            bar.advance()
            bar.tick()

        served, run_id = asyncio.run(measure(address, settings, requests=requests, rate=rate, on_end=on_end))
    return served, f"{requests} requests sent by run {run_id}"


def _shown(found: Calibration) -> str:
    step = found.profile.step
    assert step is not None
    lines = [
        (
            f"a step takes {1e3 * step.a_s:.4g} ms + {1e6 * step.b_s:.4g} µs a prefilled token + "
            f"{1e6 * step.c_s:.4g} µs a decoding sequence + {1e9 * step.d_s:.4g} ns a token of their context"
        ),
        (
            f"fitted to {found.fitted} requests (mean error {100 * found.residual:.2f} %), "
            f"judged by {found.held_out} later ones"
        ),
    ]
    if found.e2e_mape is None:
        return "\n".join([*lines, "nothing was held out, so nothing is known of its error"])
    lines.append(f"held-out requests, one by one: mean |error| of E2E {100 * found.e2e_mape:.2f} %")
    names = {"e2e_s": "E2E", "ttft_s": "TTFT", "tpot_s": "TPOT"}
    rows = [
        (names[metric], name, f"{one.measured:.4g} s", f"{one.emulated:.4g} s", f"{100 * one.error:+.2f} %")
        for metric, figures in found.figures.items()
        for name, one in figures.items()
    ]
    return "\n".join([*lines, table(("held out", "", "measured", "emulated", "error"), rows)])
