"""``sage bench``: measurements that are ready to run, one command each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli import bench_agent
from sage.cli.bench_calibrate import calibrate
from sage.cli.bench_checks import audit, compare
from sage.cli.bench_experiments import NAMES, command
from sage.cli.bench_policies import policies
from sage.cli.bench_report import report
from sage.cli.bench_serve import serve
from sage.cli.output import Bar, print_json, say, shown_seconds
from sage.errors import InputError, nearest

if TYPE_CHECKING:
    from sage.bench.stats import Mean, Share
    from sage.bench.suites.retrieval import Progress
    from sage.bench.suites.retrieval_report import Answered, Report
    from sage.settings import Settings

__all__ = ["app", "engines_of"]

app = typer.Typer(
    name="bench",
    help="Measure: each command is one suite.",
    no_args_is_help=True,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


app.command()(serve)
app.command()(compare)
app.command()(audit)
app.command()(calibrate)
app.command()(policies)
app.command()(report)
for _name in NAMES:
    app.command(_name)(command(_name))
app.add_typer(bench_agent.app)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the suites: what each measures, and what it needs."""
    from sage.bench.suites import SUITES
    from sage.cli.output import table

    if as_json:
        print_json(
            {"suites": {name: {"measures": s.measures, "needs": s.needs} for name, s in SUITES.items()}}
        )
        return
    print(table(("suite", "measures", "needs"), [(name, s.measures, s.needs) for name, s in SUITES.items()]))


@app.command()
def retrieval(
    data: Annotated[
        Path, typer.Option(help="Folder with passages.jsonl and questions.jsonl.", show_default=False)
    ],
    limit_answers: Annotated[
        int, typer.Option(min=0, help="Questions to answer, picked by the hash of their ids; 0: search only.")
    ] = 100,
    passages: Annotated[int, typer.Option(min=1, help="Passages an answer is made from.")] = 1,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="POOL=ADDRESS", help="What embeds (embedder) and what answers (llm)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; it must be empty or not there yet.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure search by vector, words and both over all questions, and answers to some of them."""
    from sage.bench.questions import read_questions
    from sage.bench.suites.retrieval import measure, open_index
    from sage.bench.suites.retrieval_report import keep_report, refuse_full
    from sage.settings import Settings

    if out is not None:
        refuse_full(out)
    settings = Settings.load()
    engines = engines_of(engine or [], settings)
    embedder = engines["embedder"]
    if isinstance(embedder, tuple):
        raise InputError("--engine embedder=… stands twice; the index needs one embedder")
    asked = read_questions(data)
    with _stages() as progress:
        index = open_index(asked, embedder, settings, progress)
        measured = asyncio.run(
            measure(
                asked,
                index,
                engines=engines,
                settings=replace(settings, record=True),
                limit_answers=limit_answers,
                passages=passages,
                progress=progress,
            )
        )
    if out is not None:
        keep_report(measured, out)
    if as_json:
        print_json(measured.report)
    else:
        _print_report(measured.report)
    say(f"runs {', '.join(measured.report.runs.values())}" + (f" -> {out}" if out is not None else ""))
    answered = measured.report.answered
    if measured.report.failed_searches or (answered is not None and answered.failed):
        raise typer.Exit(1)


def engines_of(said: list[str], settings: Settings) -> Mapping[str, str | tuple[str, ...]]:
    """The addresses of both pools: as said, else as configured, else the built-in ones."""
    from sage.runtime.endpoints import DEFAULT_ENGINES

    named: dict[str, tuple[str, ...]] = {}
    for text in said:
        pool, _, address = text.partition("=")
        if pool not in DEFAULT_ENGINES:
            raise InputError(f"--engine {text!r}: unknown pool {pool!r}: {nearest(pool, DEFAULT_ENGINES)}")
        if not address:
            raise InputError(f"--engine {text!r}: expected POOL=ADDRESS")
        named[pool] = (*named.get(pool, ()), address)
    given = {pool: said[0] if len(said) == 1 else said for pool, said in named.items()}
    configured = {pool: settings.engines[pool] for pool in DEFAULT_ENGINES if pool in settings.engines}
    return {**DEFAULT_ENGINES, **configured, **given}


@contextlib.contextmanager
def _stages() -> Iterator[Progress]:
    """A bar on stderr for each stage of a suite, one after the other."""
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


def _print_report(report: Report) -> None:
    """Tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"{report.data}: {report.questions:,} questions over {report.passages:,} passages; 95 % intervals",
        soft_wrap=True,
    )
    found = Table("search", "recall@1" if report.single_gold else "hit@1")
    columns = ["recall@5"] if report.single_gold else ["hit@5", "all@5"]
    for title in (*columns, f"MRR@{report.depth}", f"nDCG@{report.depth}"):
        found.add_column(title)
    for mode in report.found:
        both = () if report.single_gold else (_share(mode.complete[5]),)
        found.add_row(
            mode.mode, _share(mode.hit[1]), _share(mode.hit[5]), *both, _bare(mode.mrr), _bare(mode.ndcg)
        )
    console.print(found)
    for name, gain in report.gain.items():
        console.print(f"{name} at rank 1: {_gain(gain)}")
    if report.failed_searches:
        console.print(f"{report.failed_searches} searches failed and count as not found")
    if report.answered is not None:
        console.print(_answers(report.answered), soft_wrap=True)
    console.print(f"embedder {report.engines['embedder']}, llm {report.engines['llm']}")


def _answers(answered: Answered) -> str:
    each = max(1, answered.questions - answered.failed)
    rate = "" if answered.answers_per_s is None else f", {answered.answers_per_s:.2f} answers/s"
    return (
        f"answers to {answered.questions}, {answered.failed} failed: exact {_share(answered.exact)}, "
        f"F1 {_mean(answered.f1)}\n"
        f"  the prompt held a right passage: {_share(answered.shown)}; F1 of those {_mean(answered.f1_shown)}\n"
        f"  {answered.inflight} at once: median {shown_seconds(answered.e2e_s.p50)}, p90 "
        f"{shown_seconds(answered.e2e_s.p90)}, first token {shown_seconds(answered.ttft_s.p50)}{rate}; "
        f"{answered.prompt_tokens / each:.0f} tokens in, {answered.completion_tokens / each:.1f} out each"
    )


def _share(share: Share) -> str:
    if share.share is None or share.low is None or share.high is None:
        return "-"
    return f"{100 * share.share:.1f} % ({100 * share.low:.1f}-{100 * share.high:.1f})"


def _mean(mean: Mean) -> str:
    if mean.mean is None:
        return "-"
    return f"{mean.mean:.3f}" + ("" if mean.low is None else f" ({mean.low:.3f}-{mean.high:.3f})")


def _bare(mean: Mean) -> str:
    return "-" if mean.mean is None else f"{mean.mean:.3f}"


def _gain(mean: Mean) -> str:
    if mean.mean is None:
        return "-"
    interval = "" if mean.low is None else f" ({100 * mean.low:+.1f} to {100 * (mean.high or 0.0):+.1f})"
    return f"{100 * mean.mean:+.1f} points{interval}"
