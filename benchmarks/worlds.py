"""Random worlds around the scheduler core, many of them, with every invariant checked after every event.

    python benchmarks/worlds.py [--worlds 100000] [--first 0] [--chunk 500] [--out FILE]

Plays the world of every seed from ``--first`` on (``sage.testing.worlds``). After each chunk the file is written anew,
so an interrupted run keeps what it has; started again with the same file and the same source, it goes on behind the
last whole chunk. A world whose invariants break, or that does not end well, is kept by its seed and message, and
the exit code is 1. ``source_sha256`` is of every file that decides or judges: figures of another source are not mixed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections import Counter
from pathlib import Path
from time import process_time
from typing import Any

import sage
from sage.errors import InternalError
from sage.testing.worlds import simulate

ROOT = Path(sage.__file__).parent
JUDGED = ("scheduling/*.py", "testing/worlds.py", "testing/witness.py", "testing/hosts.py")


def source_sha256() -> str:
    """One hash over the core and its witness."""
    digest = hashlib.sha256()
    for pattern in JUDGED:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def play(first: int, worlds: int) -> dict[str, Any]:
    """A chunk of worlds: what happened in them, and what was broken."""
    outcomes: Counter[str] = Counter()
    events = commands = 0
    broken: list[dict[str, Any]] = []
    began = process_time()
    for seed in range(first, first + worlds):
        try:
            result = simulate(seed)
        except (InternalError, AssertionError) as error:
            broken.append({"seed": seed, "error": f"{type(error).__name__}: {error}"})
            continue
        outcomes += result.outcomes
        events += len(result.decisions)
        commands += sum(len(answer) for _, _, answer in result.decisions)
        if result.outcomes.total() != result.jobs:
            broken.append({"seed": seed, "error": f"{result.jobs} jobs, {result.outcomes.total()} ended"})
    return {
        "first": first,
        "worlds": worlds,
        "jobs": dict(sorted(outcomes.items())),
        "events": events,
        "commands": commands,
        "broken": broken,
        "cpu_s": round(process_time() - began, 2),
    }


def totals(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """All chunks together."""
    jobs: Counter[str] = Counter()
    for chunk in chunks:
        jobs += Counter(chunk["jobs"])
    sums = {key: sum(chunk[key] for chunk in chunks) for key in ("worlds", "events", "commands")}
    broken = [one for chunk in chunks for one in chunk["broken"]]
    cpu_s = round(sum(chunk["cpu_s"] for chunk in chunks), 1)
    return {**sums, "jobs": dict(sorted(jobs.items())), "broken": broken, "cpu_s": cpu_s}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    head = {
        "command": f"python benchmarks/worlds.py --worlds {given.worlds} --first {given.first}",
        "source_sha256": source_sha256(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    chunks: list[dict[str, Any]] = []
    if given.out is not None and given.out.exists():
        before = json.loads(given.out.read_text())
        if before["source_sha256"] == head["source_sha256"] and before["first"] == given.first:
            chunks = before["chunks"]
    report: dict[str, Any] = {}
    end = given.first + given.worlds
    at = given.first + sum(chunk["worlds"] for chunk in chunks)
    while True:
        report = {**head, "first": given.first, "total": totals(chunks), "chunks": chunks}
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            draft = given.out.with_suffix(".part")
            draft.write_text(json.dumps(report, indent=1) + "\n")
            draft.replace(given.out)
        if at >= end:
            break
        chunks.append(play(at, min(given.chunk, end - at)))
        at += chunks[-1]["worlds"]
        sys.stderr.write(
            f"{at - given.first} of {given.worlds} worlds, {len(totals(chunks)['broken'])} broken\n"
        )
    sys.stdout.write(json.dumps({**head, "first": given.first, "total": report["total"]}, indent=1) + "\n")
    return 1 if report["total"]["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
