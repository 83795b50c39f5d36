# ruff: noqa: RUF001 - the table is for people
"""SAGE beside its peers: overhead, input and output, and a join, all in one run, taking turns.

    python benchmarks/peers/run.py [--rounds 3] [--only langgraph,sage] [--out DIR]

Makes an environment for every peer in ``.venv-peers`` (once, pinned versions), runs every test of every peer in a
process of its own, round by round, and prints a table; with --out also ``peers.json`` with every round, and
``peers.md``. CPU time is of the whole process, after a warm-up. About 10 minutes on two cores, the first time 5
more.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv-peers"

sys.path.insert(0, str(HERE.parent))


@dataclass(frozen=True)
class Peer:
    """A contender: its file here, and what is installed for it; None: it runs where SAGE is installed."""

    name: str
    file: str
    requirement: str | None


PEERS = (
    Peer("asyncio by hand", "plain_asyncio.py", None),
    Peer("SAGE", "sage_.py", None),
    Peer("Bytewax", "bytewax_.py", "bytewax==0.21.1"),
    Peer("Hamilton", "hamilton_.py", "sf-hamilton==1.90.0"),
    Peer("isage", "isage_.py", "isage==0.3.2.4"),
    Peer("Haystack", "haystack_.py", "haystack-ai==3.4.0"),
    Peer("pydantic-graph", "pydantic_graph_.py", "pydantic-graph==2.68.0"),
    Peer("LangGraph", "langgraph_.py", "langgraph==1.2.22"),
    Peer("LlamaIndex Workflows", "llamaindex_.py", "llama-index-workflows==2.26.1"),
)

#: Test -> how much of it. gather's cost per record grows with the number, so all take the same.
TESTS = {"overhead": 20_000, "io": 2_000, "join": 10}
INFLIGHT, FAST_S, SLOW_S, JOIN_S = 64, 0.005, 0.050, 0.110
TIMEOUT_S = 300


def python_of(peer: Peer) -> Path:
    """The interpreter that has the peer installed; installs it if need be."""
    if peer.requirement is None:
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer.requirement
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        say(f"installing {peer.requirement}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", peer.requirement], check=True, stdout=sys.stderr
        )
        (folder / ".installed").touch()
    return python


def taken(peer: Peer, test: str) -> dict[str, Any]:
    """One round: what the peer's process printed, or why there is nothing."""
    command = [str(python_of(peer)), peer.file, test, str(TESTS[test])]
    try:
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"test": test, "skipped": f"not done in {TIMEOUT_S} s"}
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["failed"])[-1].replace(f"{ROOT}/", "")
        return {"test": test, "skipped": why[:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def ideal_s() -> float:
    """The least an endless supply of places of 64 takes for the waiting steps."""
    return math.ceil(TESTS["io"] / INFLIGHT) * (FAST_S + SLOW_S)


def summary(name: str, rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """One peer's figures: the least CPU of its rounds, the least wall time, the median of its joins."""
    good = {test: [one for one in ran if "skipped" not in one] for test, ran in rounds.items()}
    figures: dict[str, Any] = {"name": name}
    figures["version"] = next((one["version"] for ran in good.values() for one in ran), None)
    if good["overhead"]:
        figures["overhead_us"] = min(one["cpu_s"] / one["n"] for one in good["overhead"]) * 1e6
    if good["io"]:
        figures["io_ideal"] = min(one["wall_s"] for one in good["io"]) / ideal_s()
        figures["io_cpu_us"] = min(one["cpu_s"] / one["n"] for one in good["io"]) * 1e6
    if good["join"]:
        figures["join_ms"] = statistics.median(time for one in good["join"] for time in one["each_s"]) * 1e3
    figures["skipped"] = {test: ran[0]["skipped"] for test, ran in rounds.items() if "skipped" in ran[0]}
    return figures


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""

    def cell(row: dict[str, Any], key: str, shape: str) -> str:
        return shape.format(row[key]) if key in row else "–"

    base = next((row["overhead_us"] for row in rows if row["name"] == "asyncio by hand"), None)
    lines = [
        "| | version | CPU per record, 4 no-op steps | × asyncio | 5 + 50 ms, × ideal | CPU per record | join, 110 ms at best |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{row['overhead_us'] / base:.2f}" if base and "overhead_us" in row else "–"
        lines.append(
            f"| {row['name']} | {row['version'] or '–'} | {cell(row, 'overhead_us', '{:.1f} µs')} | {times} "
            f"| {cell(row, 'io_ideal', '{:.2f}')} | {cell(row, 'io_cpu_us', '{:.0f} µs')} "
            f"| {cell(row, 'join_ms', '{:.0f} ms')} |"
        )
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    chosen = [peer for peer in PEERS if not said.only or peer.name.split()[0].lower() in said.only.lower()]
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = {
        peer.name: {test: [] for test in TESTS} for peer in chosen
    }
    for number in range(said.rounds):
        for test in TESTS:
            for peer in chosen:
                say(f"round {number + 1} of {said.rounds}: {test}, {peer.name}")
                rounds[peer.name][test].append(taken(peer, test))
    rows = [summary(name, ran) for name, ran in rounds.items()]
    print(table(rows))
    if said.out is not None:
        from rounds import surroundings

        said.out.mkdir(parents=True, exist_ok=True)
        told = {"surroundings": surroundings(), "tests": TESTS, "rows": rows, "rounds": rounds}
        (said.out / "peers.json").write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")
        (said.out / "peers.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
