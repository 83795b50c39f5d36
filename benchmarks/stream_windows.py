"""What windows and joins of streams cost, whether memory stays flat, and Bytewax on the same aggregate.

    python benchmarks/stream_windows.py [--rounds 5] [--records 400000] [--no-peers] [--out FILE]

Gives one JSON object: a row per question with its goal, what was measured, and every round. Each round is a process
of its own; contenders take turns. CPU time is of the whole process while it runs the stream, records made before.
Rates are of the fastest round. Bytewax gets an environment in ``.venv-peers``; where it cannot be installed its row
says why. About 3 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from rounds import Row, child, judged, noise, say, surroundings

from sage import Session, stream
from sage.stream import Stream, StreamResult, count, total

HERE = Path(__file__).parent
BYTEWAX = "bytewax==0.21.1"
MIB = 1 << 20
LIMIT_MIB = 48  # what a fast source before a slow sink may take beyond what was held before


def rows(
    num_records: int, step_s: float = 0.01, form: Callable[[float], Any] = float
) -> list[dict[str, Any]]:
    """Records of 100 users, in order of their times."""
    return [
        {"user": f"user{n * 7919 % 100}", "time": form(n * step_s), "words": n % 40}
        for n in range(num_records)
    ]


def as_text(seconds: float) -> str:
    """A time as ISO 8601 text."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat()


def tumbling(records: list[dict[str, Any]], **options: Any) -> Stream:
    return stream.records(records).key_by("user").window("5m", **options).reduce(count, words=total("words"))


def joined(num_records: int) -> Stream:
    """Each click with the view of its user just before it: two sides of half the records, one pair each."""
    half = num_records // 2
    left = [{"user": f"user{n % 1000}", "time": n * 0.01, "a": n} for n in range(half)]
    right = [{"user": f"user{n % 1000}", "time": n * 0.01, "b": n} for n in range(half)]
    return (
        stream.records(left).key_by("user").join(stream.records(right), within=1, into="other").reduce(count)
    )


def streams(name: str, n: int) -> Stream:
    """What is measured, with its records made."""
    if name == "tumbling":
        return tumbling(rows(n))
    if name == "tumbling, times as text":
        return tumbling(rows(n, form=as_text))
    if name == "sliding, 5 windows at once":
        return tumbling(rows(n), every="1m")
    if name == "by count":
        return stream.records(rows(n)).key_by("user").window(count=100).reduce(count, words=total("words"))
    if name == "join":
        return joined(n)
    raise ValueError(name)


def run(made: Stream) -> StreamResult:
    async def main() -> StreamResult:
        async with Session(record=False):
            return await made.arun()

    return asyncio.run(main())


def peak_mib() -> float:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name: str, n: int) -> dict[str, Any]:
    """One round, in this process."""
    if name == "memory":
        return memory(n)
    if name == "slow sink":
        return slow_sink(n)
    run(streams(name, 1000))
    made = streams(name, n)
    wall, cpu = time.perf_counter(), time.process_time()
    result = run(made)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    counted = sum(record["count"] for record in result.records)
    return {"n": n, "cpu_s": cpu_s, "wall_s": wall_s, "counted": counted, "groups": len(result.records)}


def generated(n: int) -> Iterator[dict[str, Any]]:
    """The same records one by one."""
    return ({"user": f"user{i * 7919 % 100}", "time": i * 0.01, "words": i % 40} for i in range(n))


def memory(n: int) -> dict[str, Any]:
    """Records from a generator through windows into a file that keeps nothing."""
    run(tumbling(list(generated(1000))))
    before = peak_mib()
    made = (
        stream.records(lambda: generated(n)).key_by("user").window("5m").reduce(count, words=total("words"))
    )
    result = run(made.write("/dev/null", "jsonl"))
    return {"n": n, "written": result.counts["write"].given, "grown_mib": peak_mib() - before}


class SlowSink:
    """Takes a list of records in two milliseconds."""

    num_records = 0

    async def write(self, records: list[Any]) -> None:
        await asyncio.sleep(0.002)
        self.num_records += len(records)

    def close(self) -> None:
        """Nothing is held."""


def slow_sink(n: int) -> dict[str, Any]:
    """A source as fast as Python before a sink that waits, in an address space that has room for little of it."""
    run(tumbling(list(generated(1000))))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + LIMIT_MIB * MIB, resource.RLIM_INFINITY))
    before, sink = peak_mib(), SlowSink()
    wall = time.perf_counter()
    result = run(stream.records(lambda: generated(n)).write(sink))
    return {
        "n": n,
        "written": sink.num_records,
        "grown_mib": peak_mib() - before,
        "most_waiting": result.counts["write"].most_pending,
        "limit_mib": LIMIT_MIB,
        "wall_s": time.perf_counter() - wall,
    }


def bytewax(n: int) -> dict[str, Any]:
    """One round of Bytewax, in its own environment."""
    sys.path.insert(0, str(HERE / "peers"))
    from run import Peer, python_of  # type: ignore[import-not-found]  # beside the peers

    python = python_of(Peer("Bytewax", "bytewax_windows.py", (BYTEWAX,)))
    command = [str(python), str(HERE / "peers" / "bytewax_windows.py"), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def rate_row(name: str, goal: float | None, ran: list[dict[str, Any]], why: str | None = None) -> Row:
    """Records per second of CPU time, by the fastest round."""
    rate = max((each["n"] / each["cpu_s"] for each in ran), default=None)
    return judged(
        Row(
            name=name,
            what="records per second of CPU time",
            unit="1/s",
            goal=goal,
            more_is_better=True,
            measured=rate,
            n=len(ran),
            why=why,
            details={"rounds": ran},
        )
    )


GOALS = {
    "tumbling": 200_000.0,
    "tumbling, times as text": None,
    "sliding, 5 windows at once": None,
    "by count": 200_000.0,
    "join": 100_000.0,
}


def measured(arguments: argparse.Namespace) -> list[Row]:
    """All rows."""
    ran: dict[str, list[dict[str, Any]]] = {name: [] for name in (*GOALS, "Bytewax, tumbling")}
    why = "left out" if arguments.no_peers else None
    for number in range(arguments.rounds):
        say(f"round {number + 1} of {arguments.rounds}")
        for name in GOALS:
            ran[name].append(json.loads(child(__file__, "--one", name, "--records", str(arguments.records))))
        if why is None:
            try:
                ran["Bytewax, tumbling"].append(bytewax(arguments.records))
            except (OSError, subprocess.SubprocessError) as error:
                why = str(error)[:200]
    found = [rate_row(name, goal, ran[name]) for name, goal in GOALS.items()]
    found.append(rate_row("Bytewax, tumbling", None, ran["Bytewax, tumbling"], why))
    return [*found, memory_row(), sink_row()]


def memory_row() -> Row:
    """What ten times the records add to the most memory held."""
    say("a million records")
    few, many = (
        json.loads(child(__file__, "--one", "memory", "--records", str(n))) for n in (100_000, 1_000_000)
    )
    return judged(
        Row(
            name="a million records through windows",
            what="most memory held, beyond that of 100,000 records",
            unit="MiB",
            goal=8.0,
            measured=many["grown_mib"] - few["grown_mib"],
            n=1_000_000,
            of="records",
            details={"few": few, "many": many},
        )
    )


def sink_row() -> Row:
    """Whether a source that never waits fits before a sink that does."""
    say("a fast source before a slow sink")
    told = json.loads(child(__file__, "--one", "slow sink", "--records", "1000000"))
    return judged(
        Row(
            name="fast source, slow sink",
            what=f"memory grown, in an address space with room for {LIMIT_MIB} MiB more",
            unit="MiB",
            goal=float(LIMIT_MIB),
            measured=told["grown_mib"],
            n=told["written"],
            of="records",
            details=told,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--no-peers", action="store_true", help="leave Bytewax out")
    parser.add_argument("--out", type=Path, help="write the JSON here, instead of to stdout")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.records)))
        return
    before = noise()
    found = measured(arguments)
    report = {"surroundings": surroundings(), "noise": [before, noise()], "rows": found}
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
    for row in found:
        goal = "" if row.goal is None else f"  goal {row.goal:,.0f}: {'met' if row.met else 'missed'}"
        shown = row.why if row.measured is None else f"{row.measured:12,.1f} {row.unit}{goal}"
        say(f"{row.name:36} {shown}")
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
