"""What every benchmark here stands on: interleaved rounds, rows with a goal, and who and where measured."""

from __future__ import annotations

import dataclasses
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sage.clock import wall_time
from sage.runtime.manifest import packages, this_machine

ROOT = Path(__file__).parents[1]

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Times:
    """One contender's rounds, in seconds, in the order they were run."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a report. ``met`` is None where there is no goal, or nothing could be measured (``why``)."""

    name: str
    what: str
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    measured: float | None = None
    met: bool | None = None
    n: int = 0  # samples behind ``measured``: rounds, runs or records, as ``of`` says
    of: str = "rounds"
    why: str | None = None
    note: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)  # everything it was computed from


def judged(row: Row) -> Row:
    """The row with its goal compared with what was measured."""
    if row.goal is None or row.measured is None:
        return row
    met = row.measured >= row.goal if row.more_is_better else row.measured <= row.goal
    return dataclasses.replace(row, met=met)


async def interleave(contenders: Mapping[str, Work], rounds: int) -> dict[str, Times]:
    """Run the contenders in turn, A B A B …, after one round that is not counted.

    Garbage of earlier rounds is collected before each; the collector stays on while it is timed.
    """
    times = {name: Times() for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            await work()
            took_cpu, took_wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:
                times[name].cpu_s.append(took_cpu)
                times[name].wall_s.append(took_wall)
    return times


def compared(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Ours against theirs: by the fastest round of each, by the medians, and round by round."""
    pairs = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {
        "ratio_of_minima": min(ours) / min(theirs),
        "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
        "ratio_per_round": pairs,
        "median_of_ratios": statistics.median(pairs),
    }


def raw(times: Mapping[str, Times]) -> dict[str, Any]:
    """All rounds as they were, for the file."""
    return {name: dataclasses.asdict(each) for name, each in times.items()}


def noise() -> dict[str, Any]:
    """How much others use this machine: what a fixed loop takes, and how much of that time it was not running."""
    wall, cpu = time.perf_counter(), time.process_time()
    total = 0
    for number in range(3_000_000):
        total += number & 7
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    return {"load_average": os.getloadavg(), "loop_cpu_s": cpu_s, "loop_wall_s": wall_s}


def surroundings() -> dict[str, Any]:
    """Command without where the result goes, commit ("-dirty" where what was run differs from it), versions, machine."""
    command = ["python", *sys.orig_argv[1:]]
    if "--out" in command:
        del command[(at := command.index("--out")) : at + 2]
    return {
        "at": wall_time(),
        "command": command,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": dict(packages()),
        "machine": msgspec.to_builtins(this_machine()),
    }


def child(*command: str, timeout_s: float = 300.0, environment: Mapping[str, str] | None = None) -> str:
    """What a Python process of its own printed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        end = (done.stderr or done.stdout).strip()[-400:]
        raise RuntimeError(f"{' '.join(command)[:80]}: exit code {done.returncode}: {end}")
    return done.stdout


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _commit() -> str | None:
    def said(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = said("rev-parse", "--short", "HEAD")
    return (f"{commit}-dirty" if said("status", "--porcelain", "--", "src", "benchmarks") else commit) or None
