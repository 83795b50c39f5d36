"""``sage bench serve``: load a server or a pipeline, and say how it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from sage.cli.output import Bar, typed_command
from sage.clock import monotonic
from sage.errors import InputError

if TYPE_CHECKING:
    from sage.bench.load_run import OnEnd
    from sage.bench.suites.serve import Point, Served
    from sage.cli.bench_serve_said import Piped
    from sage.events import Outcome

__all__ = ["serve"]

TICK_S = 0.5
DEFAULT_TIMEOUT_S = 600.0


def serve(
    objectives: Annotated[
        list[str] | None, typer.Argument(hidden=True, help="More objectives after --goodput.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The server, such as http://127.0.0.1:8000.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to ask for; without it the first that is listed.")
    ] = None,
    backend: Annotated[str, typer.Option(help="openai-chat, or openai for /v1/completions.")] = "openai-chat",
    endpoint: Annotated[str | None, typer.Option(help="Path of the API; says the same as --backend.")] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET", help="Load a pipeline in place of a server: FILE.yaml or FILE.py:NAME."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--input", help="Records for the pipeline: .jsonl, .json, .csv, .tsv.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="POOL=ADDRESS", help="What answers for a pool.")
    ] = None,
    index: Annotated[list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Where an index is.")] = None,
    policy: Annotated[str | None, typer.Option(help="How calls of the pipeline are scheduled.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option(help="Seconds each job of the pipeline may take.")
    ] = None,
    imports: Annotated[
        list[Path] | None, typer.Option("--import", help="A Python file that registers functions.")
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Requests that count; 400, or all of a trace.", show_default=False),
    ] = None,
    request_rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Requests a second; inf: all at once, or as clients are free. Repeated: one load each.",
            show_default="inf",
        ),
    ] = None,
    max_concurrency: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Requests at once; without a rate, so many clients. Repeated: one load each."
        ),
    ] = None,
    burstiness: Annotated[
        float, typer.Option(help="Of gaps: 1 is Poisson, less is burstier, inf is even.")
    ] = 1.0,
    burst_size: Annotated[
        int | None, typer.Option(min=1, help="So many requests at the same moment.")
    ] = None,
    ramp_up_strategy: Annotated[
        str | None, typer.Option(help="linear: the rate rises evenly, from and to:")
    ] = None,
    ramp_up_start_rps: Annotated[
        float | None, typer.Option(help="… requests a second at the beginning.")
    ] = None,
    ramp_up_end_rps: Annotated[float | None, typer.Option(help="… and at the end.")] = None,
    think_s: Annotated[float, typer.Option(min=0, help="What a client waits after an answer.")] = 0.0,
    dataset_name: Annotated[
        str, typer.Option(help="random, file (JSON lines) or trace (Azure, Mooncake).")
    ] = "random",
    dataset_path: Annotated[Path | None, typer.Option(metavar="FILE", help="Of a file or a trace.")] = None,
    random_input_len: Annotated[
        str, typer.Option(metavar="LENGTH", help="Words of a prompt: N, uniform(A,B), lognormal(M,S).")
    ] = "1024",
    random_output_len: Annotated[
        str, typer.Option(metavar="LENGTH", help="Most tokens of an answer.")
    ] = "128",
    random_range_ratio: Annotated[
        float, typer.Option(min=0, max=0.999, help="Spread both lengths evenly by this share.")
    ] = 0.0,
    random_prefix_len: Annotated[int, typer.Option(min=0, help="Words that all prompts begin with.")] = 0,
    num_warmups: Annotated[
        int | None,
        typer.Option(
            min=0, help="Requests before, never counted; as many as the concurrency.", show_default=False
        ),
    ] = None,
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:MS",
            help="Objectives, such as ttft:500 tpot:50 e2el:3000; a good request meets all.",
        ),
    ] = None,
    percentile_metrics: Annotated[str, typer.Option(help="Latencies to show.")] = "ttft,tpot,itl,e2el",
    metric_percentiles: Annotated[str, typer.Option(help="Percentiles to show.")] = "50,90,95,99",
    temperature: Annotated[float, typer.Option(min=0, help="Of the answers.")] = 0.0,
    top_p: Annotated[float | None, typer.Option(help="Of the answers.")] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for answers of full length, as vLLM can.")
    ] = False,
    extra_body: Annotated[
        str | None, typer.Option(metavar="JSON", help="Further fields of every request.")
    ] = None,
    count_along: Annotated[
        bool,
        typer.Option("--count-along", help="Ask for token counts with every piece, as vLLM can: exact ITL."),
    ] = False,
    timeout_s: Annotated[
        float, typer.Option(min=0.001, help="Give a request up after so many seconds.")
    ] = DEFAULT_TIMEOUT_S,
    repeats: Annotated[
        int, typer.Option(min=1, help="Loads that differ by their seed; from 3 on, intervals.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of arrivals and prompts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default=False)] = None,
    save_result: Annotated[
        bool, typer.Option("--save-result", help="Write vLLM's names and ours into one flat JSON file, too.")
    ] = False,
    result_dir: Annotated[Path, typer.Option(help="Where that file goes.")] = Path(),
    result_filename: Annotated[str | None, typer.Option(help="And its name.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Send requests to any OpenAI-compatible server, or records through a pipeline, and measure what a client sees.

    Without --request-rate, --max-concurrency clients send one request after the other (closed loop). With it, requests
    come at that rate however slowly they are answered (open loop), and what they wait for a slot is part of their
    latency. Several values of either make a load each, and show where more stops paying. The result is a folder that
    sage bench audit, compare and report read.

    Ends with 1 if requests failed or the load was cut short, 3 if the server cannot be reached, 130 if interrupted.
    """
    from sage.bench.prompts import Sampling
    from sage.bench.serve_spec import Serve
    from sage.bench.slo import parse_slo
    from sage.bench.suites.serve import Point
    from sage.cli.bench_serve_said import arrivals_said, piped_said, prompts_said, sweep_said, target_said
    from sage.cli.bench_serve_shown import Shown

    shown = Shown.parse(percentile_metrics, metric_percentiles)
    if (base_url is None) == (pipeline is None):
        raise InputError("say what is loaded: --base-url URL of a server, or --pipeline FILE.yaml")
    sweep = sweep_said(max_concurrency or [], request_rate or [])
    arrivals = [
        arrivals_said(
            num_prompts=num_prompts,
            rate=one.rate,
            max_concurrency=one.concurrency,
            burstiness=burstiness,
            burst_size=burst_size,
            think_s=think_s,
            ramp=(ramp_up_strategy, ramp_up_start_rps, ramp_up_end_rps),
            trace=dataset_path if dataset_name == "trace" else None,
        )
        for one in sweep
    ]
    spec = Serve(
        arrivals=arrivals[0],
        prompts=prompts_said(
            dataset=dataset_name,
            path=dataset_path,
            input_len=random_input_len,
            output_len=random_output_len,
            range_ratio=random_range_ratio,
            prefix_len=random_prefix_len,
        ),
        sampling=Sampling(temperature=temperature, top_p=top_p, timeout_s=timeout_s),
        warmups=num_warmups,
        slo=parse_slo([*(goodput or []), *(objectives or [])]),
        seed=seed,
    )
    piped = None
    if base_url is not None:
        only = {"input": source, "engine": engine, "index": index, "policy": policy, "deadline-s": deadline_s}
        _refuse("a server", only)
        target = target_said(
            base_url,
            model=model,
            backend=backend,
            endpoint=endpoint,
            extra_body=extra_body,
            ignore_eos=ignore_eos,
            count_along=count_along,
        )
        spec = msgspec.structs.replace(spec, target=target)
    else:
        assert pipeline is not None
        _refuse(
            "a pipeline",
            {
                "model": model,
                "endpoint": endpoint,
                "backend": backend != "openai-chat",
                "extra-body": extra_body,
                "ignore-eos": ignore_eos,
                "count-along": count_along,
                "timeout-s": timeout_s != DEFAULT_TIMEOUT_S,
                "temperature": temperature,
                "top-p": top_p,
                "dataset-path": dataset_path,
                "random-input-len": random_input_len != "1024",
                "random-output-len": random_output_len != "128",
                "random-prefix-len": random_prefix_len,
            },
        )
        if any(
            one.concurrency is not None and how.process != "closed"
            for one, how in zip(sweep, arrivals, strict=True)
        ):
            raise InputError("--max-concurrency and a rate: a pipeline's engines have limits of their own")
        piped = piped_said(
            pipeline, source, engine=engine or [], index=index or [], policy=policy, imports=imports or []
        )
        options = {} if deadline_s is None else {"deadline_s": deadline_s}
        spec = msgspec.structs.replace(
            spec, pipeline=piped.described, records=source, options=options, session=piped.session
        )
    points = [
        Point(
            one.axes,
            msgspec.structs.replace(
                spec, arrivals=how, max_concurrency=one.concurrency if how.process != "closed" else None
            ),
        )
        for one, how in zip(sweep, arrivals, strict=True)
    ]
    found = _carried_out(points, out, repeats, piped)
    shown.tell(found, as_json=as_json)
    if save_result:
        shown.save(found, result_dir, result_filename)
    raise typer.Exit(_exit_code(found))


def _refuse(what: str, said: Mapping[str, object]) -> None:
    for name, value in said.items():
        if value:
            raise InputError(f"--{name} says nothing about {what}; leave it out")


def _carried_out(points: Sequence[Point], out: Path | None, repeats: int, piped: Piped | None) -> Served:
    from sage.bench.serve_spec import plan_of
    from sage.bench.suites.serve import serve as carry_out
    from sage.runtime.runs import new_run_id
    from sage.settings import Settings

    folder = out if out is not None else Path("sage-results") / f"serve-{new_run_id()}"
    total = repeats * sum(len(plan_of(point.spec).table.due) for point in points)
    with _ticking("requests", total) as on_end:
        return carry_out(
            points,
            folder,
            Settings.load(),
            repeats=repeats,
            records=None if piped is None else piped.make,
            command=typed_command(),
            data={} if piped is None else piped.data,
            on_end=on_end,
        )


@contextmanager
def _ticking(what: str, total: int) -> Iterator[OnEnd]:
    """A bar that is shown at most twice a second, however many requests end."""
    with Bar(what, total) as bar:
        due = 0.0

        def on_end(outcome: Outcome) -> None:
            nonlocal due
            bar.advance(bad=outcome != "done")
            now = monotonic()
            if now >= due:
                due = now + TICK_S
                bar.tick()

        yield on_end


def _exit_code(found: Served) -> int:
    """0 all done; 130 interrupted; 3 nothing was answered because the server could not be reached; else 1."""
    from sage.bench.load_run import INTERRUPTED

    if found.ended == INTERRUPTED:
        return 130
    summaries = found.summaries
    done = sum(summary.requests["done"] for summary in summaries)
    failures = Counter[str]()
    for summary in summaries:
        failures.update(summary.errors)
    if not failures and not found.ended:
        return 0
    return 3 if not done and failures and set(failures) == {"unreachable"} else 1
