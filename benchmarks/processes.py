"""Rows of the overhead report that need processes of their own, or real models."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rounds import Row, child

from sage import Index, Pipeline, Session, Settings
from sage.events import Event, JobEnded, PipelineSeen, TaskEnded
from sage.ops import embed, generate, search, template

HERE = Path(__file__).parent
FEW = 10_000

EMBEDDER, LLM = "bert:all-minilm-l6-v2", "llama:smollm2-135m-instruct"

FLAT = """\
pipeline: flat
steps:
  a: {template: "{x}"}
  b: {template: "{a}!"}
  c: {template: "{b}?"}
  d: {template: "{c} {x}"}
"""

QUESTIONS = (
    "How do I keep a list sorted while inserting into it?",
    "Which function joins parts of a path?",
    "How can I copy a nested list so that nothing is shared?",
    "What counts how often each element occurs?",
    "How do I parse a date in ISO format?",
    "Which class is a queue with fast appends on both ends?",
    "How do I read a CSV file as dictionaries?",
    "What makes a temporary folder that is removed afterwards?",
    "How do I run another program and get its output?",
    "Which function yields pairs of neighbours of an iterable?",
)


def peak(*arguments: str, **environment: str) -> dict[str, float]:
    """What ``peak.py`` measured of itself."""
    found: dict[str, float] = json.loads(
        child(str(HERE / "peak.py"), *arguments, environment=environment).splitlines()[-1]
    )
    return found


# ---- importing


async def import_rows(starts: int) -> list[Row]:
    """``import sage`` in fresh processes, beside one that imports nothing; byte code is compiled before."""
    peak("import")
    found: list[dict[str, float]] = []
    started: dict[str, list[float]] = {"import sage": [], "pass": []}
    for _ in range(starts):
        found.append(peak("import"))
        for code, times in started.items():
            began = time.perf_counter()
            child("-c", code)
            times.append((time.perf_counter() - began) * 1000)
    process_ms = {code: statistics.median(times) for code, times in started.items()}
    details = {"processes": found, "whole_process_ms": process_ms}
    common: dict[str, Any] = {"n": starts, "of": "processes"}
    return [
        Row(
            name="import_time",
            what="import sage in a fresh process: the statement's CPU time, median; wall time in the details",
            unit="ms",
            goal=120.0,
            measured=statistics.median(each["cpu_ms"] for each in found),
            details={"wall_ms": statistics.median(each["wall_ms"] for each in found), **details},
            **common,
        ),
        Row(
            name="import_memory",
            what="the most memory a process held that did nothing but import sage, the interpreter's in it",
            unit="MB",
            goal=35.0,
            measured=statistics.median(each["peak_mb"] for each in found),
            **common,
        ),
    ]


# ---- memory


async def memory_rows(many: int) -> list[Row]:
    """A stream, and the command line, with few records and with many: does memory grow?"""
    rows = [_memory_row("stream", many, lambda count: peak("stream", str(count)))]
    try:
        rows.append(_memory_row("run_output", many, _run_to_file))
    except (RuntimeError, ImportError) as error:
        rows.append(
            Row(name="memory_run_output", what="sage run --output", unit="MB", goal=5.0, why=str(error))
        )
    return rows


def _memory_row(name: str, many: int, measure: Any) -> Row:
    few_found, many_found = measure(FEW), measure(many)
    return Row(
        name=f"memory_{name}",
        what=f"peak memory at {many:,} records less that at {FEW:,}",
        unit="MB",
        goal=5.0,
        measured=many_found["peak_mb"] - few_found["peak_mb"],
        n=2,
        of="processes",
        details={
            str(FEW): few_found,
            str(many): many_found,
            "cpu_us_per_record": many_found["cpu_ms"] * 1000 / many,
        },
    )


def _run_to_file(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        (there / "flat.yaml").write_text(FLAT)
        with (there / "in.jsonl").open("w") as lines:
            lines.writelines(f'{{"x": "record {number}"}}\n' for number in range(count))
        found = peak(
            "sage", "run", str(there / "flat.yaml"), "--input", str(there / "in.jsonl"),
            "--output", str(there / "out.jsonl"), SAGE_HOME=str(there / "home"),
        )  # fmt: skip
        with (there / "out.jsonl").open("rb") as lines:
            written = sum(1 for _ in lines)
    if written != count:
        raise RuntimeError(f"sage run wrote {written} of {count} records")
    return found


# ---- other benchmarks of this folder


async def http_row(rounds: int) -> list[Row]:
    """One call over HTTP, by the benchmark that has a server for it."""
    found = json.loads(child(str(HERE / "http_call.py"), "--rounds", str(rounds)))
    return [
        Row(
            name="http_call",
            what="one streamed engine call over HTTP at 64 in flight, 8 tokens: CPU of the client, fastest round",
            unit="ms",
            goal=0.3,
            measured=found["sage_cpu_ms_per_call"],
            n=len(found["rounds_ms"]["sage"]),
            details=found,
        )
    ]


async def embed_row(rounds: int) -> list[Row]:
    """Short texts through the built-in embedder."""
    found = json.loads(child(str(HERE / "embed.py"), "--rounds", str(rounds)))
    return [
        Row(
            name="embedding",
            what="short texts embedded by MiniLM, per second of CPU",
            unit="texts per CPU second",
            goal=120.0,
            more_is_better=True,
            measured=found["lengths"]["short"]["texts_per_cpu_s"],
            n=found["rounds"],
            details=found,
        )
    ]


# ---- a whole answer


async def rag_row(answers: int) -> list[Row]:
    """The pipeline of the front page on the built-in models, one job at a time: what is SAGE's own share?"""
    from sage.index.stdlib import stdlib_passages

    rag = Pipeline(
        "rag",
        vector=embed("{question}"),
        passages=search("docs", near="vector", text="{question}", k=2),
        prompt=template("Answer from the passages only.\n\n{passages}\n\nQuestion: {question}\nAnswer:"),
        answer=generate("{prompt}", max_tokens=8),
    )
    settings = Settings.load()
    index = Index.build(stdlib_passages()[::20], embedder=EMBEDDER, settings=settings)
    records = [{"question": QUESTIONS[number % len(QUESTIONS)]} for number in range(answers)]
    engines = {"embedder": EMBEDDER, "llm": LLM}
    with tempfile.TemporaryDirectory() as home:
        there = _home_with_models(Path(home), settings)
        async with Session(settings=there, engines=engines, indexes={"docs": index}) as session:
            await session.run(rag, records[:1])
            result = await session.run(rag, records, max_inflight=1)
            shares = list(own_shares(result.events))
    if result.failures:
        raise RuntimeError(str(result.failures[0]))
    own_ms = [1000 * own for own, _ in shares]
    return [
        Row(
            name="rag_share",
            what="a RAG answer by the built-in models: latency outside engine calls and search, median",
            unit="ms",
            goal=2.0,
            measured=statistics.median(own_ms),
            n=len(shares),
            of="jobs",
            details={
                "own_ms": own_ms,
                "largest_ms": max(own_ms),
                "e2e_ms": [1000 * e2e for _, e2e in shares],
                "passages": len(index),
            },
        )
    ]


def _home_with_models(home: Path, settings: Settings) -> Settings:
    """Settings under which runs go to a folder that is thrown away, and models are where they were."""
    if settings.models_dir.exists():
        (home / "models").symlink_to(settings.models_dir)
    return Settings(home=home)


def own_shares(events: Iterable[Event]) -> Iterator[tuple[float, float]]:
    """Per job: seconds outside engine calls and search, and seconds in all, from the run's event log."""
    steps: dict[str, tuple[str, ...]] = {}
    outside: defaultdict[int, float] = defaultdict(float)
    for event in events:
        if isinstance(event, PipelineSeen):
            steps[event.pipeline] = tuple(
                name if operator == "search" else ""
                for name, operator in zip(event.steps, event.operators, strict=True)
            )
        elif isinstance(event, TaskEnded):
            outside[event.job] += event.t - event.dispatched
        elif isinstance(event, JobEnded):
            stamps = zip(steps[event.pipeline], event.stamps[::2], event.stamps[1::2], strict=True)
            for name, ready, done in stamps:
                if name and ready is not None and done is not None:
                    outside[event.job] += done - ready
            yield event.t - event.arrived - outside[event.job], event.t - event.arrived
