"""How much load the load generator can make, on two cores, beside the emulated server that answers it.

    python benchmarks/load_generator.py --out results/load_generator/DATE/load_generator.json

Two goals: 2,000 one-chunk requests a second by a schedule (open loop), and 1,000 streams at once of 10 tokens a second
each. A goal is met if the generator kept to its schedule (it says itself when it did not) and the rate came out. What
both processes took in CPU time says how much is left; it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from rounds import Row, judged, noise, say, surroundings

from sage.bench.arrivals import Arrivals
from sage.bench.load_run import Loaded, load
from sage.bench.metrics import LoadSummary
from sage.bench.prompts import Prompts
from sage.bench.serve_spec import Serve, Target
from sage.settings import Settings
from sage.testing.server import Behaviour, separate_server

PROMPT_WORDS = "32"
TARGET_RATE, TARGET_STREAMS, TOKENS_PER_S = 2_000.0, 1_000, 10.0


def one_chunk(rate: float, seconds: float) -> Serve:
    """So many requests a second, each answered at once by one token."""
    return Serve(
        arrivals=Arrivals(process="constant", rate=rate, jobs=round(rate * seconds)),
        prompts=Prompts(input_len=PROMPT_WORDS, output_len="1"),
        warmups=round(rate),  # a second of them
    )


def streams(at_once: int, seconds: float) -> Serve:
    """So many streams at once, each of a token every tenth of a second; each client has one more when one ends."""
    return Serve(
        arrivals=Arrivals(process="closed", clients=at_once, jobs=at_once),
        prompts=Prompts(input_len=PROMPT_WORDS, output_len=str(round(seconds * TOKENS_PER_S))),
        warmups=at_once,
    )


def carried_out(spec: Serve, behaviour: Behaviour) -> tuple[Loaded, dict[str, float]]:
    """The load, and the CPU seconds that the generator and the server took for it."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        with separate_server(behaviour) as url:
            target = Target(base_url=url, extra={"ignore_eos": True})
            wanted = msgspec.structs.replace(spec, target=target)
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            found = asyncio.run(load(wanted, Path(folder), Settings(home=Path(folder) / "home")))
            ours = {"wall_s": time.perf_counter() - wall, "generator_cpu_s": time.process_time() - cpu}
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    server = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return found, {**ours, "server_cpu_s": server}


def details(found: Loaded, took: dict[str, float]) -> dict[str, Any]:
    summary: LoadSummary = found.summary
    chunks = sum(len(request.chunks) for request in found.requests)
    return {
        **took,
        "requests": len(found.requests),
        "chunks": chunks,
        "generator_cpu_ms_per_request": 1000 * took["generator_cpu_s"] / len(found.requests),
        "server_cpu_ms_per_request": 1000 * took["server_cpu_s"] / len(found.requests),
        "generator_cpu_us_per_chunk": 1e6 * took["generator_cpu_s"] / max(1, chunks),
        "server_cpu_us_per_chunk": 1e6 * took["server_cpu_s"] / max(1, chunks),
        "summary": msgspec.to_builtins(summary),
    }


def open_row(rate: float, seconds: float) -> Row:
    found, took = carried_out(one_chunk(rate, seconds), Behaviour(answer_tokens=1, concurrency=100_000))
    summary = found.summary
    limited = summary.status != "complete"
    return judged(
        Row(
            name=f"one_chunk_{rate:g}_per_s",
            what=f"one-chunk requests a second that were answered, of {rate:g} scheduled",
            unit="requests/s",
            goal=0.98 * rate if rate == TARGET_RATE else None,
            more_is_better=True,
            measured=0.0 if limited and summary.requests_per_s is None else summary.requests_per_s,
            n=len(found.requests),
            of="requests",
            note="; ".join(flag.text for flag in summary.flags) or None,
            details=details(found, took),
        )
    )


def stream_row(at_once: int, seconds: float) -> Row:
    behaviour = Behaviour(ttft_s=1 / TOKENS_PER_S, token_s=1 / TOKENS_PER_S, concurrency=100_000)
    found, took = carried_out(streams(at_once, seconds), behaviour)
    summary = found.summary
    pace = None if summary.tpot_s.p50 is None else 1 / summary.tpot_s.p50
    return judged(
        Row(
            name=f"streams_{at_once}",
            what=f"tokens a second of the median stream, {at_once} streams at once",
            unit="tokens/s",
            goal=0.95 * TOKENS_PER_S if at_once == TARGET_STREAMS else None,
            more_is_better=True,
            measured=pace,
            n=len(found.requests),
            of="streams",
            note="; ".join(flag.text for flag in summary.flags) or None,
            details=details(found, took),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--rate", type=float, action="append", help="requests a second; may be repeated")
    parser.add_argument("--streams", type=int, action="append", help="at once; may be repeated")
    parser.add_argument("--out", type=Path, help="file for everything that was measured")
    options = parser.parse_args()
    before = noise()
    rows = [open_row(rate, options.seconds) for rate in options.rate or (500.0, 1_000.0, TARGET_RATE)]
    rows += [stream_row(count, options.seconds) for count in options.streams or (250, TARGET_STREAMS)]
    for row in rows:
        verdict = {True: "met    ", False: "missed ", None: ""}[row.met]
        more = row.details
        say(
            f"{verdict}{row.what}: {row.measured or 0:.4g}; CPU {more['generator_cpu_ms_per_request']:.2f} ms a request "
            f"({more['generator_cpu_us_per_chunk']:.0f} µs a chunk), the server {more['server_cpu_ms_per_request']:.2f} ms"
            + (f"\n       {row.note}" if row.note else "")
        )
    report = {
        **surroundings(),
        "noise": {"before": before, "after": noise()},
        "rows": msgspec.to_builtins(rows),
    }
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
