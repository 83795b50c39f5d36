"""How true the load generator's figures are: beside what the emulated server wrote down of the same calls.

    python benchmarks/instrument.py --out results/instrument/DATE/instrument.json

The server runs in a process of its own and stamps every call's arrival and every piece it hands to its socket, on the
same monotonic clock. Token counts must be equal; TPOT within 2 %, TTFT within 5 ms + 5 % and throughput within 2 % of
the server's, in mean, median and p95 over all requests. The file keeps every request's times, ours and the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
from rounds import noise, say, surroundings

from sage.bench.arrivals import Arrivals
from sage.bench.load_run import load
from sage.bench.prompts import Prompts
from sage.bench.serve_spec import Serve, Target
from sage.bench.truth import Told, agreement
from sage.runtime.manifest import read_manifest
from sage.settings import Settings
from sage.testing.server import Behaviour, separate_server

IGNORE_EOS = {"ignore_eos": True}
CLOSED = Arrivals(process="closed", clients=8, jobs=400)

#: Name -> how the server behaves, how it is loaded, and what is asked of it.
CASES: dict[str, tuple[Behaviour, Arrivals, dict[str, Any]]] = {
    "closed loop, a token a piece": (Behaviour(ttft_s=0.05, token_s=0.01), CLOSED, {}),
    "closed loop, four tokens a piece": (
        Behaviour(ttft_s=0.05, token_s=0.01, piece_tokens=4),
        CLOSED,
        {"count_along": True},
    ),
    "closed loop, a role first": (Behaviour(ttft_s=0.05, token_s=0.01, role_first=True), CLOSED, {}),
    "closed loop, one token": (Behaviour(ttft_s=0.02), CLOSED, {"output": 1}),
    "open loop, Poisson": (Behaviour(ttft_s=0.05, token_s=0.01), Arrivals(rate=20.0, jobs=400), {}),
}


def told_by(url: str) -> list[Told]:
    """Everything the server wrote down."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url.removesuffix("/v1") + "/truth", timeout=30) as answer:
        return msgspec.json.decode(msgspec.json.encode(json.load(answer)["requests"]), type=list[Told])


def measure(name: str, jobs: int) -> dict[str, Any]:
    behaviour, arrivals, said = CASES[name]
    arrivals = msgspec.structs.replace(arrivals, jobs=jobs)
    with separate_server(behaviour) as url, tempfile.TemporaryDirectory() as folder:
        spec = Serve(
            arrivals=arrivals,
            target=Target(base_url=url, extra=IGNORE_EOS, count_along=said.get("count_along", False)),
            prompts=Prompts(input_len="64", output_len=str(said.get("output", 32))),
        )
        found = asyncio.run(load(spec, Path(folder), Settings(home=Path(folder) / "home")))
        told = told_by(url)
        run_id = read_manifest(Path(folder) / "run.json").run_id
    agreed = agreement(found.requests, told, run_id)
    by_key = {one.idempotency_key: one for one in told}
    times = [
        {
            "ours": [request.dispatched, request.first, request.last, request.ended],
            "server": [truth.arrived, truth.pieces[0], truth.pieces[-1], truth.ended],
        }
        for request in found.requests
        if not request.warmup
        and request.outcome == "done"
        and (truth := by_key[f"{run_id}-{request.id}"]).pieces
    ]
    return {
        "ok": agreed.ok,
        "requests": agreed.requests,
        "wrong_counts": agreed.wrong_counts,
        "deviations": msgspec.to_builtins(agreed.deviations),
        "status": found.summary.status,
        "flags": msgspec.to_builtins(found.summary.flags),
        "behaviour": msgspec.to_builtins(behaviour),
        "times_s": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=400, help="in each case")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--out", type=Path, help="file for everything that was measured")
    options = parser.parse_args()
    before, cases = noise(), {}
    for name in options.case or CASES:
        cases[name] = measure(name, options.requests)
        worst = max(
            (abs(one["measured"] - one["truth"]) / one["allowed"], one["figure"])
            for one in cases[name]["deviations"]
        )
        say(
            f"{'ok    ' if cases[name]['ok'] else 'MISSED'} {name}: {cases[name]['requests']} requests, "
            f"{len(cases[name]['wrong_counts'])} wrong counts; nearest to its limit: {worst[1]} at {100 * worst[0]:.0f} %"
        )
    report = {**surroundings(), "noise": {"before": before, "after": noise()}, "cases": cases}
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
