"""How the cost of a scheduling decision grows: with the queue, with the tenants, with the endpoints.

    python benchmarks/decision_curves.py [--out FOLDER] [--decisions N] [--most-queued N]

Writes ``curves.json`` and, where matplotlib is installed, ``curves.svg``. A decision is a task's whole way through
the scheduler: its TaskReady, and the TaskDone of another, which starts the next; an arrival is a job's JobArrived and
its JobOver, under the same conditions. Microseconds of CPU of the calls, collector on; reading the clock is in them
(``clock_us``). What does not vary is 10,000 tasks queued, 8 tenants, 64 endpoints of 4 places. Two minutes and 2 GB;
``--most-queued 100000`` takes a tenth of the memory.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import thread_time_ns
from typing import TYPE_CHECKING, Any

import msgspec
from decision import LIMIT, QUEUED, TENANTS, World, clock_us, figures
from rounds import noise, say, surroundings

from sage.scheduling.messages import JobArrived, JobOver

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POLICIES = ("fifo", "load_aware", "priority", "slack")
QUEUES = (100, 1_000, 10_000, 100_000, 1_000_000)
NUM_TENANTS = (1, 3, 10, 30, 100, 300, 1_000)
NUM_ENDPOINTS = (1, 4, 16, 64, 256, 1_000)
ENDPOINTS = 64
ARRIVALS = 2_000


@dataclass(frozen=True)
class Point:
    """One point of a curve."""

    varies: str  # "queued", "tenants" or "endpoints"
    policy: str
    queued: int
    tenants: int
    endpoints: int
    decision_us: dict[str, float]  # mean, p50, p99, max
    n: int
    arrival_us: dict[str, float]
    n_arrivals: int


def decided(world: World, number: int) -> list[float]:
    return [world.tell(world.task()) + world.tell(world.done()) for _ in range(number)]


def arrived(world: World, number: int) -> list[float]:
    """Jobs that come and go, one after the other; without tasks, so that the queue stays as it is."""
    times_us = []
    for job in range(world.num_jobs, world.num_jobs + number):
        events = JobArrived(world.job(job)), JobOver(job)
        began = thread_time_ns()
        for event in events:
            world.scheduler.handle(event, world.now)
        times_us.append((thread_time_ns() - began) / 1000)
    return times_us


def point(varies: str, policy: str, world: World, queued: int, endpoints: int, number: int) -> Point:
    decided(world, min(number, 500))  # not counted: what is made once
    gc.collect()
    decisions_us, arrivals_us = decided(world, number), arrived(world, ARRIVALS)
    assert world.scheduler.snapshot().queued["llm"] == queued
    return Point(
        varies, policy, queued, world.tenants, endpoints,
        figures(decisions_us), number, figures(arrivals_us), ARRIVALS,
    )  # fmt: skip


def along_the_queue(policy: str, number: int, most: int) -> Iterator[Point]:
    world, queued = World(policy, ENDPOINTS, 0), 0
    for longer in QUEUES:
        if longer <= most:
            world.queue(longer - queued)
            queued = longer
            yield point("queued", policy, world, queued, ENDPOINTS, number)


def along_the_tenants(policy: str, number: int) -> Iterator[Point]:
    for tenants in NUM_TENANTS:
        world = World(policy, ENDPOINTS, QUEUED, tenants)
        yield point("tenants", policy, world, QUEUED, ENDPOINTS, number)


def along_the_endpoints(policy: str, number: int) -> Iterator[Point]:
    for endpoints in NUM_ENDPOINTS:
        yield point("endpoints", policy, World(policy, endpoints), QUEUED, endpoints, number)


def measured(number: int, most: int) -> Iterator[Point]:
    for policy in POLICIES:
        for points in (
            along_the_queue(policy, number, most),
            along_the_tenants(policy, number),
            along_the_endpoints(policy, number),
        ):
            for one in points:
                cost = f"p50 {one.decision_us['p50']:g} us, p99 {one.decision_us['p99']:g}"
                where = f"{one.queued:,} queued, {one.tenants:,} tenants, {one.endpoints:,} endpoints"
                say(f"  {policy}, {where}: {cost}; an arrival p99 {one.arrival_us['p99']:g}")
                yield one


# ---- the picture

#: Told apart in grey too: by lightness, and by the marks.
LOOKS = {
    "fifo": ("#000000", "o"), "load_aware": ("#0072B2", "s"), "priority": ("#E69F00", "^"), "slack": ("#009E73", "D"),
}  # fmt: skip


def draw(points: list[Point], path: Path) -> None:
    """Three panels, one for each thing that varies: p50 in full lines, p99 in broken ones."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {"font.size": 9, "svg.hashsalt": "sage", "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        panels: Any = figure.subplots(1, 3, sharey=True)
        for panel, varies in zip(panels, ("queued", "tenants", "endpoints"), strict=True):
            _panel(panel, varies, [one for one in points if one.varies == varies])
        panels[0].set_ylabel("CPU of a decision, µs")
        panels[0].set_ylim(bottom=1)
        panels[0].legend(frameon=False, title="p50 full, p99 broken")
        figure.savefig(path, metadata={"Date": None})


def _panel(panel: Axes, varies: str, points: list[Point]) -> None:
    for policy, (colour, marker) in LOOKS.items():
        own = [one for one in points if one.policy == policy]
        x = [getattr(one, varies) for one in own]
        for quantile, line in (("p50", "-"), ("p99", "--")):
            y = [one.decision_us[quantile] for one in own]
            label = policy if quantile == "p50" else None
            panel.plot(x, y, line, color=colour, marker=marker, markersize=4, label=label)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel({"queued": "tasks queued"}.get(varies, varies))
    panel.grid(visible=True, which="major", color="#DDDDDD", linewidth=0.6)


def attempt(work: Callable[[], None]) -> str | None:
    """Why it could not be done, if it could not."""
    try:
        work()
    except ImportError as error:
        return f'{error}; pip install "sage-dataflow[bench]"'
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for curves.json and curves.svg; else JSON to stdout")
    parser.add_argument("--decisions", type=int, default=20_000, help="of each point")
    parser.add_argument("--most-queued", type=int, default=QUEUES[-1])
    given = parser.parse_args()
    began, before = time.perf_counter(), noise()
    points = list(measured(given.decisions, given.most_queued))
    report = {
        "benchmark": "decision_curves",
        **surroundings(),
        "fixed": {"queued": QUEUED, "tenants": TENANTS, "endpoints": ENDPOINTS, "limit": LIMIT},
        "clock_us": clock_us(),
        "took_s": time.perf_counter() - began,
        "noise": {"before": before, "after": noise()},
        "points": [asdict(one) for one in points],
    }
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    if given.out is None:
        sys.stdout.write(encoded.decode())
        return
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "curves.json").write_bytes(encoded)
    why_not = attempt(lambda: draw(points, given.out / "curves.svg"))
    say(f"written to {given.out}" + (f", without the picture: {why_not}" if why_not else ""))


if __name__ == "__main__":
    main()
