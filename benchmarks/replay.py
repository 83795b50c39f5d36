"""How true a replay is: what the log of one policy says another would have given, beside what that one really gave.

    python benchmarks/replay.py [--jobs N] [--out FILE]

Runs the same jobs once under each policy, in real time, on two emulated endpoints; then replays every log under every
policy. Prints one JSON object: for each pair of policies the figures that were replayed and those that were measured,
and their relative difference. Of a pair of the same policy that is the error that ``sage explain --under`` prints by
itself. A second log of the first policy shows how far two measured runs differ anyway. Under 2 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rounds import say, surroundings

from sage import Pipeline, Session
from sage.bench.replay import replay_one, source_of
from sage.bench.simulation_figures import CellFigures, figures_of
from sage.ops import generate
from sage.runtime.runs import StoredRun, list_runs
from sage.settings import Settings

POLICIES = ("fifo", "order=job_fifo", "order=edf,share=weighted_fair", "order=priority", "slack")
PIPELINE = Pipeline(
    "chain",
    draft=generate("Draft {question}", max_tokens=60),
    check=generate("Check {draft}", max_tokens=20),
    answer=generate("{draft} {check}", max_tokens=40),
)
FIGURES = ("mean", "p50", "p95")


def records(jobs: int) -> list[dict[str, Any]]:
    rng = random.Random(1)
    return [
        {
            "question": f"{number} {'word ' * rng.randint(5, 200)}",
            "whose": "small" if number % 5 == 0 else "large",
            "class": rng.choice((-10, 0, 10)),
        }
        for number in range(jobs)
    ]


async def record(policy: str, jobs: int, home: Settings) -> StoredRun:
    """The jobs under a policy, in real time."""
    engines = {
        "llm": [f"emulated:vllm-llama-3.1-8b?limit=8&output=uniform(10,60)&seed={seed}" for seed in (0, 1)]
    }
    tenants = {"small": {"weight": 3}, "large": {"weight": 1}}
    known = {run.manifest.run_id for run in list_runs(home)}
    async with Session(engines=engines, policy=policy, settings=home, tenants=tenants) as session:
        await session.run(
            PIPELINE,
            records(jobs),
            tenant="{whose}",
            priority="{class}",
            deadline_s=8.0,
            max_inflight=jobs,
        )
    (run,) = [run for run in list_runs(home) if run.manifest.run_id not in known]
    return run


def shown(figures: CellFigures) -> dict[str, float | None]:
    told: dict[str, float | None] = {f"{name}_s": getattr(figures.e2e_sched_s, name) for name in FIGURES}
    return told | {"jobs_per_s": figures.jobs_per_s, "in_time": figures.in_time.share}


def differences(told: Mapping[str, float | None], was: Mapping[str, float | None]) -> dict[str, float]:
    """Relative; of ``in_time`` in shares of all jobs."""
    found = {}
    for name, value in was.items():
        other = told[name]
        if value is not None and other is not None:
            found[name] = other - value if name == "in_time" else other / value - 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Settings(home=Path(folder))
        runs: dict[str, StoredRun] = {}
        for name in (*POLICIES, f"{POLICIES[0]} again"):
            say(f"running {name}")
            runs[name] = asyncio.run(record(name.removesuffix(" again"), arguments.jobs, home))
        measured = {name: shown(figures_of(run.events(), policy=name, load=1.0, seed=0, schedules={})[1])
                    for name, run in runs.items()}  # fmt: skip
        pairs: list[dict[str, Any]] = []
        for logged in POLICIES:
            say(f"replaying the log of {logged}")
            source = source_of(runs[logged])
            for policy in POLICIES:
                told = shown(replay_one(source, policy))
                pairs.append(
                    {
                        "log_of": logged,
                        "under": policy,
                        "replayed": told,
                        "measured": measured[policy],
                        "difference": differences(told, measured[policy]),
                    }
                )
    first = POLICIES[0]
    result = {
        "what": "replayed figures beside measured ones, of the same jobs under each policy",
        "surroundings": surroundings(),
        "jobs": arguments.jobs,
        "measured": measured,
        "two_runs_of_one_policy": differences(measured[f"{first} again"], measured[first]),
        "pairs": pairs,
        "largest": {
            name: max((abs(pair["difference"].get(name, 0.0)) for pair in pairs), default=0.0)
            for name in measured[first]
        },
    }
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
