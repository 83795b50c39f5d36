# ruff: noqa: RUF001 - the table is for people
"""SAGE beside its peers: overhead, input and output, a join, and retrieval with generation over HTTP, taking turns.

    python benchmarks/peers/run.py [--rounds 3] [--only rag] [--peer langgraph,sage] [--out DIR]

Makes an environment for every peer in ``.venv-peers`` (once, pinned versions), runs every test of every peer in a
process of its own, round by round, and prints the tables; with --out also ``peers.json`` with every round, and
``peers.md``, or, of a part of the tests or peers, ``part.json`` and ``part.md``. CPU time is of the whole process,
after a warm-up. About 15 minutes on two cores, the first time 5 more.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import rag

from sage.engines.emulated_answers import hashed_vectors, plain_answer
from sage.testing.server import Behaviour, separate_server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv-peers"

sys.path.insert(0, str(HERE.parent))

import proc  # noqa: E402 - of the folder above
from rounds import noise, surroundings  # noqa: E402 - of the folder above


@dataclass(frozen=True)
class Peer:
    """A contender: its file here, and what is installed for it; nothing: it runs where SAGE is installed."""

    name: str
    file: str
    requirements: tuple[str, ...] = ()


NUMPY, OPENAI = "numpy==2.4.6", "openai==3.57.0"
RAY = "ray[data,serve]==2.60.0"
LLAMA_INDEX = ("llama-index-llms-openai-like==0.8.1", "llama-index-embeddings-openai-like==0.4.0")

PEERS = (
    Peer("asyncio by hand", "plain_asyncio.py"),
    Peer("asyncio + openai SDK", "openai_.py", (OPENAI, NUMPY)),
    Peer("SAGE", "sage_.py"),
    Peer("Bytewax", "bytewax_.py", ("bytewax==0.21.1",)),
    Peer("Hamilton", "hamilton_.py", ("sf-hamilton==1.90.0", OPENAI, NUMPY)),
    Peer("isage", "isage_.py", ("isage==0.3.2.4",)),
    Peer("Haystack", "haystack_.py", ("haystack-ai==3.4.0", OPENAI, NUMPY)),
    Peer("pydantic-graph", "pydantic_graph_.py", ("pydantic-graph==2.68.0", OPENAI, NUMPY)),
    Peer("LangGraph", "langgraph_.py", ("langgraph==1.2.22", "langchain-openai==1.7.4", OPENAI, NUMPY)),
    Peer("LlamaIndex Workflows", "llamaindex_.py", ("llama-index-workflows==2.26.1", *LLAMA_INDEX, NUMPY)),
    Peer("Ray Data", "ray_data_.py", (RAY, OPENAI, NUMPY)),
    Peer("Ray Serve", "ray_serve_.py", (RAY, OPENAI, NUMPY)),
)

#: Test -> how much of it. gather's cost per record grows with the number, so all take the same.
TESTS = {"overhead": 10_000, "io": 2_000, "join": 10, "rag": 384}
INFLIGHT, FAST_S, SLOW_S, JOIN_S = 64, 0.005, 0.050, 0.110
TIMEOUT_S = 300
#: More places than records in flight: nobody waits for the server.
BEHAVIOUR = Behaviour(
    text_s=rag.TEXT_S,
    ttft_s=rag.TTFT_S,
    token_s=rag.TOKEN_S,
    answer_tokens=rag.TOKENS,
    concurrency=2 * INFLIGHT,
)


def python_of(peer: Peer) -> Path:
    """The interpreter that has the peer installed; installs it if need be."""
    if not peer.requirements:
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer.requirements[0]
    python, installed = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(peer.requirements)
    if not installed.exists() or installed.read_text(encoding="utf-8") != wanted:
        say(f"installing {', '.join(peer.requirements)}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", *peer.requirements], check=True, stdout=sys.stderr
        )
        installed.write_text(wanted, encoding="utf-8")
    return python


@dataclass(frozen=True)
class Server:
    """The emulated server that all peers call, in a process of its own."""

    url: str
    process: int


def taken(peer: Peer, test: str, server: Server) -> dict[str, Any]:
    """One round: what the peer's process printed, or why there is nothing."""
    command = [str(python_of(peer)), peer.file, test, str(TESTS[test]), server.url]
    environment = {
        name: said for name, said in os.environ.items() if name != "PYTHONPATH" or not peer.requirements
    }
    before_s, load = proc.cpu_s(server.process), os.getloadavg()[0]
    try:
        done = subprocess.run(
            command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"test": test, "skipped": f"not done in {TIMEOUT_S} s"}
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["failed"])[-1].replace(f"{ROOT}/", "")
        return {"test": test, "skipped": why[:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) | {"load": load}
    if test == "rag" and "skipped" not in result:
        result["server_cpu_s"] = proc.cpu_s(server.process) - before_s  # its warm-up counted
        if result["answers"] != right_answers(result["n"]):
            return {"test": test, "skipped": "its answers are not those of asyncio by hand", "was": result}
    return result


@functools.cache
def right_answers(number: int) -> str:
    """The digest of what the server answers if every prompt is right."""
    texts = rag.passages()
    shelf = rag.Shelf(texts, hashed_vectors(texts, Behaviour().dimension))
    answers = [
        plain_answer(rag.prompt_of(question, shelf.nearest(vector)), rag.TOKENS)
        for question in rag.questions(number)
        for vector in hashed_vectors([question], Behaviour().dimension)
    ]
    return rag.digest(answers)


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
    if good["rag"]:
        figures |= rag_figures(good["rag"])
    figures["skipped"] = {
        test: ran[0]["skipped"] for test, ran in rounds.items() if ran and "skipped" in ran[0]
    }
    return figures


def rag_figures(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the workload over HTTP: least time and CPU of the rounds, most memory, and times of all their records."""
    each_s = sorted(seconds for one in rounds for seconds in one["each_s"])
    ideal_s = math.ceil(rounds[0]["n"] / INFLIGHT) * rag.IDEAL_S
    figures = {
        "rag_client": rounds[0]["client"],
        "rag_ideal": min(one["wall_s"] for one in rounds) / ideal_s,
        "rag_cpu_us": min(one["cpu_s"] / one["n"] for one in rounds) * 1e6,
        "rag_p50_ms": statistics.median(each_s) * 1e3,
        "rag_p99_ms": each_s[math.ceil(0.99 * len(each_s)) - 1] * 1e3,
        "rag_peak_mb": max(one["peak_mb"] for one in rounds),
    }
    if any(one["others_peak_mb"] for one in rounds):
        figures["rag_others_cpu_us"] = min(one["others_cpu_s"] / one["n"] for one in rounds) * 1e6
        figures["rag_others_peak_mb"] = max(one["others_peak_mb"] for one in rounds)
    return figures


def cell(row: dict[str, Any], key: str, shape: str) -> str:
    return shape.format(row[key]) if key in row else "–"


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown: a table of the small tests, one of the workload over HTTP."""
    parts = [small_table(rows), rag_table(rows)]
    return "\n".join(part for part in parts if part)


def small_table(rows: list[dict[str, Any]]) -> str:
    rows = [row for row in rows if row.keys() & {"overhead_us", "io_ideal", "join_ms"}]
    if not rows:
        return ""
    base = next((row.get("overhead_us") for row in rows if row["name"] == "asyncio by hand"), None)
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


def others_cpu(row: dict[str, Any]) -> str:
    return f"{row['rag_others_cpu_us'] / 1000:.2f} ms" if "rag_others_cpu_us" in row else "–"


def rag_table(rows: list[dict[str, Any]]) -> str:
    rows = [row for row in rows if "rag_ideal" in row]
    if not rows:
        return ""
    what = f"RAG over HTTP, {rag.IDEAL_S * 1000:.0f} ms a record at best"
    figures = "× ideal | CPU per record | p50 | p99 | peak memory | CPU of its other processes | their memory"
    lines = [f"| {what} | version | calls made with | {figures} |", "|---" * 10 + "|"]
    lines += [
        f"| {row['name']} | {row['version']} | {row['rag_client']} | {row['rag_ideal']:.2f} "
        f"| {row['rag_cpu_us'] / 1000:.2f} ms | {row['rag_p50_ms']:.0f} ms | {row['rag_p99_ms']:.0f} ms "
        f"| {row['rag_peak_mb']:.0f} MB | {others_cpu(row)} "
        f"| {cell(row, 'rag_others_peak_mb', '{:,.0f} MB')} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="tests, with commas: overhead, io, join, rag")
    parser.add_argument("--peer", default="", help="peers, with commas, by the beginning of their names")
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    tests, chosen = chosen_tests(said.only), chosen_peers(said.peer)
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = {
        peer.name: {test: [] for test in TESTS} for peer in chosen
    }
    for peer in chosen:
        python_of(peer)
    about, before = surroundings(), noise()
    with separate_server(BEHAVIOUR) as url:
        server = Server(url, *proc.below(os.getpid()))
        for number in range(said.rounds):
            for test in tests:
                for peer in chosen:
                    say(f"round {number + 1} of {said.rounds}: {test}, {peer.name}")
                    rounds[peer.name][test].append(taken(peer, test, server))
            rows = [summary(name, ran) for name, ran in rounds.items()]
            if said.out is not None:  # after every round: an interrupted run keeps what it has
                told = {
                    "surroundings": about,
                    "noise": {"before": before, "after": noise()},
                    "tests": {test: TESTS[test] for test in tests},
                    "server": msgspec.to_builtins(BEHAVIOUR),
                    "rows": rows,
                    "rounds": rounds,
                }
                whole = len(tests) == len(TESTS) and len(chosen) == len(PEERS)
                write(said.out / ("peers" if whole else "part"), told, table(rows))
    print(table(rows))


def write(stem: Path, told: dict[str, Any], tables: str) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(told, indent=1, default=str)
    text = re.sub(r"\[[\s\d.,e+-]*\]", lambda found: "".join(found[0].split()), text)  # numbers on one line
    stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(tables, encoding="utf-8")
    say(f"wrote {stem.with_suffix('.json')}")


def chosen_tests(said: str) -> list[str]:
    wanted = said.split(",") if said else list(TESTS)
    if unknown := set(wanted) - TESTS.keys():
        sys.exit(f"--only: there is no test {', '.join(sorted(unknown))}; there are {', '.join(TESTS)}")
    return wanted


def chosen_peers(said: str) -> list[Peer]:
    chosen = []
    for name in said.lower().split(","):
        found = [peer for peer in PEERS if peer.name.lower().startswith(name)]
        if not found:
            sys.exit(f"--peer: there is no peer {name!r}; there are {', '.join(peer.name for peer in PEERS)}")
        chosen += [peer for peer in found if peer not in chosen]
    return chosen


if __name__ == "__main__":
    main()
