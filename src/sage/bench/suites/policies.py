"""Policies side by side: who is done in time, under which load, and who paid for it. Simulated.

One mix of chat, retrieval, agents and map-reduce jobs (``policies.yaml``) meets every policy of a grid at the same
offered loads. Loads are shares of saturation, and saturation is measured here first: the throughput of a closed
loop of more clients than the engines have slots for, while all of them are busy.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import thread_time_ns
from typing import Any

import msgspec

from sage.bench.results import Axis, open_experiment, write_json
from sage.bench.simulation import simulate
from sage.bench.simulation_figures import CellFigures, Row, row_of
from sage.bench.simulation_spec import Spec, described, read_spec
from sage.bench.stats import Spread, balance_of, spread_of
from sage.bench.suites.policies_goals import Goal, goals_of
from sage.errors import InputError, nearest
from sage.events import Event, JobEnded, TaskEnded
from sage.ops import register
from sage.runtime.figures import Stat, stat_of
from sage.runtime.runs import read_events
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import Command
from sage.scheduling.messages import Event as Told
from sage.scheduling.policy import Policy, parse_policy

__all__ = [
    "MANAGED",
    "PRESETS",
    "UNMANAGED",
    "PolicyRow",
    "Preset",
    "Report",
    "Saturation",
    "mix",
    "run_policies",
    "saturation_of",
]

#: More jobs at once than ever come: where a policy says no ``max_inflight``, its other rules decide who gets in.
UNBOUNDED = 1_000_000

#: No scheduler to speak of: everything goes to the engines at once, in turn.
UNMANAGED = "fifo"
#: The graph-aware preset, as one would use it for a service.
MANAGED = "slack"

#: Told what is going on, and how much of it is done.
Progress = Callable[[str, int, int], None]


@register
def policies_following(number: int) -> int:
    """The number of an agent's next turn."""
    return number + 1


@register
def policies_done(number: int, turns: int) -> bool:
    """Whether an agent's turn was its last."""
    return number >= turns


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """How much is run."""

    policies: tuple[str, ...]
    shares: tuple[float, ...] = (0.5, 0.7, 0.85, 0.95, 1.2)  # of saturation
    seeds: int = 5
    first_seed: int = 0
    duration_s: float = 300.0  # in which jobs come
    warmup_s: float = 100.0  # of it; jobs that come then are not counted
    saturation_seeds: int = 3


#: Slots of the mix's engines: the cap that keeps them just busy.
CAP = 512


def _grid() -> tuple[str, ...]:
    """Every order with every place and every admission, and what else is worth a row."""
    orders, places = ("fifo", "job_fifo", "edf", "slack"), ("least_loaded", "prefix_affinity")
    admits = ("admit=open", f"max_inflight={CAP}", "admit=feasible")
    crossed = (
        f"order={order},place={place},{admit}"
        for order, place, admit in itertools.product(orders, places, admits)
    )
    others = (
        "order=shortest_remaining_job", "order=least_attained", "priority", "share=weighted_fair,order=slack",
        "slack,limit=static", "slack,share=none", "slack,place=least_loaded",
    )  # fmt: skip
    return (UNMANAGED, MANAGED, *crossed, *others)


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(
        policies=(UNMANAGED, f"order=slack,max_inflight={CAP}", MANAGED),
        shares=(0.7, 0.95, 1.2),
        seeds=3,
        duration_s=120.0,
        warmup_s=40.0,
        saturation_seeds=1,
    ),
    "presets": Preset(policies=(UNMANAGED, "load_aware", "priority", MANAGED, "slack,limit=static")),
    "full": Preset(policies=_grid()),
}


class SaturationRun(msgspec.Struct, frozen=True, kw_only=True):
    """One closed-loop run: what its engines got done while all of them were busy."""

    seed: int
    clients: int
    jobs: int
    window_s: float  # from a quarter of the jobs done to the last one begun
    tokens_per_s: float  # in and out, of calls that ended in the window
    tokens_per_job: float  # of all jobs
    jobs_per_s: float  # the one over the other
    work_shares: Mapping[str, float]  # pipeline -> its share of all tokens


class Saturation(msgspec.Struct, frozen=True, kw_only=True):
    """The most jobs a second that the engines get done, and the runs it comes from."""

    jobs_per_s: float
    over_runs: Spread
    runs: tuple[SaturationRun, ...]


class PolicyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one share of saturation, over all seeds."""

    share: float
    figures: Row
    fairness: Spread  # Jain's index over the classes' attainment: 1, if all fare alike
    classes: Mapping[str, Spread]  # pipeline/tenant -> attainment
    rejected_share: Spread  # of jobs
    decision_us: Stat  # CPU time of one event handled, of the first seed


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the suite came to; ``summary.json``."""

    suite: str = "policies"
    kind: str = "simulated"
    preset: str
    saturation: Saturation
    rows: tuple[PolicyRow, ...]
    goals: tuple[Goal, ...]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """``summary.json`` of one cell."""

    share: float
    figures: CellFigures
    decision_us: Stat


class Timed(Scheduler):
    """A scheduler that keeps how long each event took it, in nanoseconds of CPU."""

    def __init__(self, policy: Policy, rng: random.Random, *, has_rates: bool = False) -> None:
        super().__init__(policy, rng, has_rates=has_rates)
        self.took_ns = array("q")

    def handle(self, event: Told, now: float) -> list[Command]:
        """As ever."""
        began = thread_time_ns()
        answer = super().handle(event, now)
        self.took_ns.append(thread_time_ns() - began)
        return answer


def mix(file: Path | None = None) -> Spec:
    """The mix that is built in, the other one (``bursty``), or that of a file of the same form.

    Raises:
        InputError: it cannot be read, or its rates are no shares of jobs.
    """
    own = "policies_bursty.yaml" if file == Path("bursty") else "policies.yaml"
    built_in = file is None or file == Path("bursty")
    spec = read_spec(Path(__file__).with_name(own) if built_in or file is None else file)
    for name, traffic in spec.traffic.items():
        if traffic.arrivals.rate is None:
            raise InputError(f"{file}: traffic {name!r} has no rate: its share of the jobs is asked for")
    total = sum(traffic.arrivals.rate or 0.0 for traffic in spec.traffic.values())
    if abs(total - 1) > 1e-6:
        raise InputError(
            f"{file}: the rates of its traffic add up to {total:g}; they are shares of jobs, expected 1"
        )
    return spec


def read_preset(name: str, **chosen: Any) -> Preset:
    """A preset, with what the caller chose in place of what it says; what is empty or None changes nothing.

    Raises:
        InputError: there is no such preset, or a policy is none.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: {nearest(name, PRESETS)}")
    changes = {key: value for key, value in chosen.items() if value not in (None, (), [])}
    preset = msgspec.structs.replace(PRESETS[name], **changes)
    for policy in preset.policies:
        parse_policy(policy)
    if any(not share > 0 for share in preset.shares):
        raise InputError(f"loads are {preset.shares}, expected shares of saturation above 0")
    if not preset.duration_s > 0:
        raise InputError(f"duration is {preset.duration_s:g} s, expected more than 0")
    return preset


def run_policies(
    preset: Preset,
    *,
    name: str = "",
    spec: Spec | None = None,
    out: Path | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Report:
    """Measure saturation, then run every policy at every load with every seed.

    Args:
        preset: what to run.
        name: of the preset, for the report.
        spec: the mix; None: the one that is built in.
        out: folder of an experiment; if it holds a part of this one, the rest is run. None keeps nothing. Event logs
            are not kept: they are the same to the byte when a cell is run again.
        command: what makes it again, for the manifest.
        progress: told now and then.
    """
    tell = progress or (lambda _what, _done, _total: None)
    if not 0 <= preset.warmup_s < preset.duration_s:
        raise InputError(
            f"warmup is {preset.warmup_s:g} s of {preset.duration_s:g} s; expected less than all of it"
        )
    spec = msgspec.structs.replace(_lasting(spec or mix(), preset.duration_s), warmup_s=preset.warmup_s)
    if out is None:
        with tempfile.TemporaryDirectory(prefix="sage-policies-") as scratch:
            return run_policies(preset, name=name, spec=spec, out=Path(scratch), progress=progress)
    cells = [
        (policy, share, seed)
        for policy in dict.fromkeys(preset.policies)
        for share in preset.shares
        for seed in range(preset.first_seed, preset.first_seed + preset.seeds)
    ]
    config = {"preset": msgspec.to_builtins(preset), "mix": described(spec)}
    with open_experiment(
        out, "policies", kind="simulated", config=config, preset=name, command=command, planned=len(cells) + 1
    ) as kept:
        if not kept.has("saturation"):
            with kept.running("saturation", axes={"policy": UNMANAGED, "share": 0.0}) as folder:
                write_json(folder / "summary.json", saturation_of(spec, preset, tell))
        saturation = msgspec.json.decode((out / "saturation" / "summary.json").read_bytes(), type=Saturation)
        found = []
        for number, (policy, share, seed) in enumerate(cells):
            tell("cells", number, len(cells))
            path = f"{_spelt(policy)}_share-{share:g}_seed-{seed}"
            if not kept.has(path):
                axes: dict[str, Axis] = {"policy": str(parse_policy(policy)), "share": share}
                with kept.running(path, axes=axes, repeat=seed, seed=seed) as folder:
                    write_json(folder / "summary.json", _run_cell(spec, policy, share, seed, saturation))
            found.append(msgspec.json.decode((out / path / "summary.json").read_bytes(), type=Cell))
        tell("cells", len(cells), len(cells))
    rows = tuple(_rows(found))
    report = Report(preset=name, saturation=saturation, rows=rows, goals=goals_of(rows, UNMANAGED, MANAGED))
    write_json(out / "summary.json", report)
    return report


def _lasting(spec: Spec, duration_s: float) -> Spec:
    """The mix with jobs that come for so long."""
    traffic = {
        name: msgspec.structs.replace(
            one, arrivals=msgspec.structs.replace(one.arrivals, duration_s=duration_s)
        )
        for name, one in spec.traffic.items()
    }
    return msgspec.structs.replace(spec, traffic=traffic)


def _spelt(policy: str) -> str:
    """A policy as the name of a folder."""
    return "".join(char if char.isalnum() or char in "=.-" else "_" for char in policy).strip("_")


def _run_cell(spec: Spec, policy: str, share: float, seed: int, saturation: Saturation) -> Cell:
    made: list[Timed] = []

    def timed(policy: Policy, rng: random.Random, *, has_rates: bool) -> Timed:
        made.append(Timed(policy, rng, has_rates=has_rates))
        return made[-1]

    cell = msgspec.structs.replace(
        spec,
        policies=(policy,),
        loads=(share * saturation.jobs_per_s,),
        first_seed=seed,
        seeds=1,
        max_inflight=None if "max_inflight" in policy else UNBOUNDED,
    )
    (figures,) = simulate(cell, scheduler=timed).cells
    return Cell(
        share=share,
        figures=msgspec.structs.replace(figures, folder=None),
        decision_us=stat_of(took / 1000 for took in made[0].took_ns),
    )


# --- saturation ----------------------------------------------------------------------------------------


def saturation_of(spec: Spec, preset: Preset, progress: Progress | None = None) -> Saturation:
    """The throughput of the engines in a closed loop of a quarter more clients than they have slots.

    The jobs are those of the mix, in the order an open loop would bring them, so that the mix stays what it is.
    """
    slots = sum(engine.count * (engine.limit or 1) for pool, engine in spec.engines.items() if pool == "llm")
    clients = slots * 5 // 4
    loop = msgspec.structs.replace(
        _lasting(spec, 6.0 * clients),
        clients=clients,
        policies=("load_aware",),
        max_inflight=UNBOUNDED,
        loads=(1.0,),
        seeds=1,
    )
    runs = []
    for number in range(preset.saturation_seeds):
        if progress is not None:
            progress("saturation", number, preset.saturation_seeds)
        seed = preset.first_seed + number
        with tempfile.TemporaryDirectory(prefix="sage-saturation-") as scratch:
            out = Path(scratch) / "loop"
            (cell,) = simulate(msgspec.structs.replace(loop, first_seed=seed), out).cells
            runs.append(_saturated(list(read_events(out / str(cell.folder) / "events.jsonl")), seed, clients))
    over = spread_of([run.jobs_per_s for run in runs])
    assert over.mean is not None
    return Saturation(jobs_per_s=over.mean, over_runs=over, runs=tuple(runs))


def _saturated(events: Sequence[Event], seed: int, clients: int) -> SaturationRun:
    jobs = {event.job: event for event in events if isinstance(event, JobEnded)}
    ends = sorted(job.t for job in jobs.values())
    since, until = ends[len(ends) // 4], max(job.arrived for job in jobs.values())
    used: defaultdict[str, int] = defaultdict(int)
    inside = 0
    for event in events:
        if isinstance(event, TaskEnded) and event.outcome == "done":
            tokens = event.prompt_tokens + event.completion_tokens
            used[jobs[event.job].pipeline] += tokens
            inside += tokens if since < event.t <= until else 0
    total = sum(used.values())
    per_job, per_s = total / len(jobs), inside / (until - since)
    return SaturationRun(
        seed=seed,
        clients=clients,
        jobs=len(jobs),
        window_s=until - since,
        tokens_per_s=per_s,
        tokens_per_job=per_job,
        jobs_per_s=per_s / per_job,
        work_shares={name: tokens / total for name, tokens in sorted(used.items())},
    )


# --- rows ----------------------------------------------------------------------------------------------


def _rows(cells: Sequence[Cell]) -> Iterator[PolicyRow]:
    together: defaultdict[tuple[str, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        together[cell.figures.policy, cell.share].append(cell)
    for (_, share), several in together.items():
        figures = [cell.figures for cell in several]
        names = [one.name for one in figures[0].classes]
        yield PolicyRow(
            share=share,
            figures=row_of(figures),
            fairness=spread_of([balance_of(_attained(one)).jain for one in figures]),
            classes={
                name: spread_of([_attained(one)[place] for one in figures])
                for place, name in enumerate(names)
            },
            rejected_share=spread_of([one.rejected / sum(one.jobs.values()) for one in figures]),
            decision_us=several[0].decision_us,
        )


def _attained(figures: CellFigures) -> list[float]:
    return [one.in_time.share or 0.0 for one in figures.classes]
