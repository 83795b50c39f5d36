"""What SAGE costs on Ray, beside Ray's own ways of doing the same, in one run, taking turns.

    python benchmarks/ray_nodes.py [--rounds 3] [--small] [--out results/ray/DATE/ray.json]

Four functions that do nothing, 64 records in flight; two that sleep 5 and 50 ms, on 1, 2 and 4 workers; two that
sleep 10 to 90 ms by the record; records of 1 KB and 4 KB. Contenders: SAGE; actors in a chain, called one after the
other; Ray Data ``map_batches``; Ray Serve handles. The last two take part where their packages are installed (make
bench-ray does so in an environment of its own). Throughput is wall time; CPU is of the driver's process and of all
worker processes, apart. All processes share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import proc

from sage import Pipeline, Session
from sage.ops import step
from sage.runtime.ray_cluster import RayCluster, connected

INFLIGHT = 64
FAST_S, SLOW_S = 0.005, 0.050
WORKERS = (1, 2, 4)


def noop(x: Any) -> Any:
    return x


def sleep_fast(x: Any) -> Any:
    time.sleep(FAST_S)
    return x


def sleep_slow(x: Any) -> Any:
    time.sleep(SLOW_S)
    return x


def sleep_as_said(x: Any) -> Any:
    time.sleep(x["s"])
    return x


@dataclass(frozen=True)
class Case:
    """One test: functions in a row, over so many records, on so many workers."""

    name: str
    functions: tuple[Callable[[Any], Any], ...]
    records: int
    slow_records: int  # for contenders that would take minutes
    workers: int = 1
    slots: int = 1  # functions at once in a worker
    payload_bytes: int = 0
    variable: bool = False

    def inputs(self, count: int) -> list[Any]:
        rng = random.Random(0)
        if self.variable:
            return [{"s": rng.uniform(0.010, 0.090)} for _ in range(count)]
        return [
            rng.randbytes(self.payload_bytes // 2).hex() if self.payload_bytes else x for x in range(count)
        ]

    def ideal_s(self, inputs: list[Any]) -> float | None:
        """What the sleeping alone takes with every place busy; None for functions that do nothing."""
        if self.variable:
            return float(sum(2 * x["s"] for x in inputs)) / INFLIGHT
        one: dict[Any, float] = {sleep_fast: FAST_S, sleep_slow: SLOW_S}
        each = sum(one.get(function, 0.0) for function in self.functions)
        return each * -(-len(inputs) // INFLIGHT) if each else None


def cases(small: bool) -> list[Case]:
    many, some = (2_000, 200) if small else (20_000, 1_000)
    waits = 256 if small else 2_000
    found = [Case("4 functions that do nothing", (noop,) * 4, many, some)]
    found += [
        Case(f"the same, records of {size // 1000} KB", (noop,) * 4, many // 2, some, payload_bytes=size)
        for size in (1_000, 4_000)
    ]
    for workers in WORKERS:
        found.append(
            Case(
                f"5 + 50 ms, {workers} workers",
                (sleep_fast, sleep_slow),
                waits,
                waits,
                workers,
                INFLIGHT // workers,
            )
        )
    variable = (sleep_as_said, sleep_as_said)
    found += [
        Case(
            f"2 x 10 to 90 ms, {workers} workers",
            variable,
            waits,
            waits,
            workers,
            INFLIGHT // workers,
            variable=True,
        )
        for workers in WORKERS
    ]
    return found


@dataclass
class Round:
    """One contender's go at one case."""

    case: str
    contender: str
    records: int
    wall_s: float
    driver_cpu_s: float
    workers_cpu_s: float
    ideal_s: float | None = None
    per_s: float = field(init=False)
    driver_us: float = field(init=False)  # CPU of the driver's process for each record
    all_us: float = field(init=False)  # of it and all workers
    times_ideal: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.per_s = self.records / self.wall_s
        self.driver_us = 1e6 * self.driver_cpu_s / self.records
        self.all_us = 1e6 * (self.driver_cpu_s + self.workers_cpu_s) / self.records
        self.times_ideal = None if self.ideal_s is None else self.wall_s / self.ideal_s


@contextlib.contextmanager
def measured(
    case: Case, contender: str, inputs: list[Any], into: list[Round], told: str | None = None
) -> Iterator[None]:
    """Times what runs inside it; ``told`` is a folder where workers that may end leave what they have taken."""
    below, driver, wall = proc.Below(), time.process_time(), time.perf_counter()
    yield
    took, driven = time.perf_counter() - wall, time.process_time() - driver
    below.end()
    worked = below.spent_s(proc.told(told) if told is not None else None)
    into.append(Round(case.name, contender, len(inputs), took, driven, worked, case.ideal_s(inputs)))


# ---- contenders: each warms up, then takes the case's records once


async def _sage(case: Case, cluster: RayCluster, into: list[Round]) -> None:
    names = [f"s{number}" for number in range(len(case.functions))]
    before = ["x", *names]
    steps = {}
    for number, (name, function) in enumerate(zip(names, case.functions, strict=True)):
        reads: dict[str, Any] = {parameter(function): f"{{{before[number]}}}"}
        steps[name] = step(function, pool="cpu", **reads)
    pipeline = Pipeline("p", **steps)
    inputs = case.inputs(case.records)
    async with Session(runtime=cluster, record=False, max_inflight=INFLIGHT) as session:
        await session.ready(pipeline)
        await session.run(pipeline, [{"x": x} for x in inputs[: max(INFLIGHT * 2, len(inputs) // 20)]])
        with measured(case, "SAGE", inputs, into):
            result = await session.run(pipeline, [{"x": x} for x in inputs])
        assert [record[names[-1]] for record in result.records] == inputs


def parameter(function: Callable[[Any], Any]) -> str:
    return function.__code__.co_varnames[0]


def actors(case: Case, ray: Any, into: list[Round]) -> None:
    """Actors called one after the other for each record, as Ray's own pages show it."""

    class Stage:
        def __init__(self, function: Callable[[Any], Any]) -> None:
            self.function = function

        def call(self, x: Any) -> Any:
            return self.function(x)

    remote = ray.remote(Stage)
    each = max(1, case.slots)
    stages = [
        [remote.options(num_cpus=0, max_concurrency=each).remote(function) for _ in range(case.workers)]
        for function in case.functions
    ]
    inputs = case.inputs(case.slow_records)

    def through(x: Any, number: int) -> Any:
        for stage in stages:
            x = stage[number % case.workers].call.remote(x)
        return x

    def run(inputs: list[Any]) -> None:
        waiting: list[Any] = []
        for number, x in enumerate(inputs):
            if len(waiting) >= INFLIGHT:
                done, waiting = ray.wait(waiting, num_returns=1)
                ray.get(done)
            waiting.append(through(x, number))
        ray.get(waiting)

    run(inputs[: INFLIGHT * 2])
    with measured(case, "actors in a chain", inputs, into):
        run(inputs)
    for stage in stages:
        for actor in stage:
            ray.kill(actor)


def data(case: Case, _ray: Any, into: list[Round]) -> None:
    """Ray Data: batches through functions. Those that sleep do so in threads, as many as a worker has places."""
    rd: Any = importlib.import_module("ray.data")
    context = rd.DataContext.get_current()
    context.enable_progress_bars = False
    inputs = case.inputs(case.records)
    sleeps = case.ideal_s(inputs) is not None

    with tempfile.TemporaryDirectory() as told:
        # One after the other: what Ray Data fuses runs in one process, and the last of it has the last word.
        mapped = [_batchwise(function, case.slots if sleeps else 0, told) for function in case.functions]

        def run(inputs: list[Any]) -> int:
            blocks = max(1, len(inputs) // case.slots) if sleeps else None  # None: as Ray Data chooses
            rows = rd.from_items([{"x": x} for x in inputs], override_num_blocks=blocks)
            for function in mapped:
                rows = rows.map_batches(function, batch_size=case.slots if sleeps else None)
            return sum(1 for _ in rows.iter_rows())

        run(inputs[:INFLIGHT])
        with measured(case, "Ray Data", inputs, into, told):
            assert run(inputs) == len(inputs)


def _batchwise(
    function: Callable[[Any], Any], threads: int, told: str
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function over batches, in so many threads, or one after the other; it leaves the CPU of its process."""

    def batchwise(batch: dict[str, Any]) -> dict[str, Any]:
        if threads:
            with ThreadPoolExecutor(threads) as several:
                values = list(several.map(function, batch["x"]))
        else:
            values = [function(x) for x in batch["x"]]
        proc.tell(told)
        return {"x": values}

    return batchwise


def serve(case: Case, _ray: Any, into: list[Round]) -> None:
    """Ray Serve: a deployment a function, composed by handles."""
    rs: Any = importlib.import_module("ray.serve")

    class Stage:
        def __init__(self, function: Callable[[Any], Any], following: Any) -> None:
            self.function, self.following = function, following

        async def __call__(self, x: Any) -> Any:
            value = await asyncio.to_thread(self.function, x)
            return value if self.following is None else await self.following.remote(value)

    following = None
    for number, function in reversed(list(enumerate(case.functions))):
        following = rs.deployment(
            name=f"s{number}",
            num_replicas=case.workers,
            max_ongoing_requests=INFLIGHT,
            ray_actor_options={"num_cpus": 0},
        )(Stage).bind(function, following)
    handle = rs.run(following, name="bench", route_prefix=None)
    inputs = case.inputs(case.slow_records)

    async def run(inputs: list[Any]) -> None:
        places = asyncio.Semaphore(INFLIGHT)

        async def one(x: Any) -> None:
            async with places:
                await handle.remote(x)

        async with asyncio.TaskGroup() as group:
            for x in inputs:
                group.create_task(one(x))

    async def all_of_it() -> None:
        await run(inputs[:INFLIGHT])
        with measured(case, "Ray Serve", inputs, into):
            await run(inputs)

    asyncio.run(all_of_it())
    rs.shutdown()


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def memory(records: int) -> list[dict[str, float]]:
    """Resident memory of the driver while so many records are streamed through, at every tenth of them."""
    steps = {
        f"s{number}": step(noop, pool="cpu", x=f"{{{before}}}") for number, before in enumerate(["x", "s0"])
    }
    found: list[dict[str, float]] = []
    cluster = RayCluster(nodes=1, cpus=2, workers=1)
    async with Session(runtime=cluster, record=False, max_inflight=INFLIGHT) as session:
        done = 0
        async for _ in session.stream(Pipeline("p", **steps), ({"x": x} for x in range(records))):
            done += 1
            if done % max(1, records // 10) == 0:
                found.append({"records": done, "mib": resident_mib()})
    return found


OTHERS: dict[str, tuple[Callable[[Case, Any, list[Round]], None], str]] = {
    "actors": (actors, "ray"),
    "data": (data, "pyarrow"),
    "serve": (serve, "starlette"),
}


def table(rounds: list[Round]) -> str:
    """The best round of each contender by case, as Markdown."""
    lines = [
        "| case | contender | records/s | x ideal | driver CPU, µs a record | with workers | rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(one.case for one in rounds):
        for contender in dict.fromkeys(one.contender for one in rounds if one.case == case):
            own = [one for one in rounds if (one.case, one.contender) == (case, contender)]
            best = min(own, key=lambda one: one.wall_s / one.records)
            ideal = "" if best.times_ideal is None else f"{best.times_ideal:.3f}"
            driver = min(one.driver_us for one in own)
            both = min(one.all_us for one in own)
            lines.append(
                f"| {case} | {contender} | {best.per_s:,.0f} | {ideal} | {driver:,.0f} | {both:,.0f} | {len(own)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a tenth of the records: to see that it works")
    parser.add_argument("--only", default="sage,actors,data,serve", help="contenders, with commas")
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    parser.add_argument("--memory", type=int, default=0, metavar="RECORDS", help="stream so many, too")
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    rounds: list[Round] = []
    chosen = [case for case in cases(said.small) if said.case in case.name]
    for number in range(said.rounds):
        for case in chosen:
            # The cluster is the case's own: as many CPUs as workers, so that each contender has the same.
            cluster = RayCluster(nodes=1, cpus=max(case.workers, 2), workers=case.workers, slots=case.slots)
            with connected(cluster) as connection:
                if "sage" in said.only:
                    asyncio.run(_sage(case, cluster, rounds))
                for name, (contender, package) in OTHERS.items():
                    if name in said.only and importlib.util.find_spec(package) is not None:
                        contender(case, connection.ray, rounds)
            for one in rounds:
                if one.case == case.name:
                    print(
                        f"round {number + 1}: {one.case}, {one.contender}: {one.per_s:,.0f}/s",
                        file=sys.stderr,
                    )
    print(table(rounds))
    grown = asyncio.run(memory(said.memory)) if said.memory else []
    for sample in grown:
        print(f"{sample['records']:,.0f} records: {sample['mib']:.0f} MiB", file=sys.stderr)
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "commit": subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
            ).stdout.strip(),
            "note": "all nodes and workers are processes of one machine",
        }
        said.out.write_text(
            json.dumps({"about": about, "rounds": [asdict(one) for one in rounds], "memory": grown}, indent=1)
            + "\n"
        )
        said.out.with_suffix(".md").write_text(table(rounds) + "\n")
        print(f"median load {statistics.fmean(os.getloadavg()):.1f}; wrote {said.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
