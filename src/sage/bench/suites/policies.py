"""Policies side by side: who is done in time, under which load, and who paid for it.

One mix of chat, retrieval, agents and map-reduce jobs (``policies.yaml``) meets every policy of a grid at the same
offered loads, in virtual time; or, scaled down (``policies_http.yaml``), in real time on emulated engines behind HTTP.
Loads are shares of saturation, which is found first, in the same way (``policies_saturation``).
"""

from __future__ import annotations

import random
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import thread_time_ns
from typing import Any, Literal

import msgspec

from sage.bench.over_http import measure_cell
from sage.bench.results import (
    Axis,
    ExperimentFolder,
    StoredCell,
    StoredExperiment,
    compact,
    open_experiment,
    write_json,
)
from sage.bench.simulation import simulate
from sage.bench.simulation_figures import CellFigures, Row, row_of
from sage.bench.simulation_spec import Spec, described
from sage.bench.stats import Spread, balance_of, spread_of
from sage.bench.suites.policies_goals import MANAGED, UNMANAGED, Goal, goals_of
from sage.bench.suites.policies_presets import Preset, mix
from sage.bench.suites.policies_saturation import (
    LOOP_POLICY,
    UNBOUNDED,
    Saturation,
    SaturationRun,
    saturation_of,
    saturation_run,
)
from sage.errors import InputError
from sage.ops import register
from sage.runtime.figures import Stat, stat_of
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import Command
from sage.scheduling.messages import Event as Told
from sage.scheduling.policy import Policy, parse_policy

__all__ = ["PolicyRow", "Report", "repeated", "run_policies"]

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


class PolicyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one share of saturation, over all seeds."""

    share: float
    figures: Row
    fairness: Spread  # Jain's index over the classes' attainment: 1, if all fare alike
    classes: Mapping[str, Spread]  # pipeline/tenant -> attainment
    rejected_share: Spread  # of jobs
    lag_p95_s: float | None  # how late jobs were handed over, of the worst seed; None where they never are
    decision_us: Stat  # CPU time of one event handled, of the first seed


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the suite came to; ``summary.json``."""

    suite: str = "policies"
    kind: Literal["simulated", "measured"]
    preset: str
    saturation: Saturation
    late_cells: int  # in which this process was too late to hand jobs over; see their run.json
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
        spec: the mix; None: the preset's.
        out: folder of an experiment; if it holds a part of this one, the rest is run. None keeps nothing. Event logs
            of simulations are not kept: they are the same to the byte when a cell is run again.
        command: what makes it again, for the manifest.
        progress: told now and then.
    """
    tell = progress or (lambda _what, _done, _total: None)
    if not 0 <= preset.warmup_s < preset.duration_s:
        raise InputError(
            f"warmup is {preset.warmup_s:g} s of {preset.duration_s:g} s; expected less than all of it"
        )
    spec = spec or mix(Path(preset.mix) if preset.mix else None)
    spec = msgspec.structs.replace(spec.lasting(preset.duration_s), warmup_s=preset.warmup_s)
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
    planned = len(cells) + preset.saturation_seeds
    with open_experiment(
        out, "policies", kind=preset.kind, config=config, preset=name, command=command, planned=planned
    ) as kept:
        saturation = _saturation(kept, spec, preset, tell)
        found = []
        for number, (policy, share, seed) in enumerate(cells):
            tell("cells", number, len(cells))
            path = f"{_spelt(policy)}_share-{share:g}_seed-{seed}"
            if not kept.has(path):
                axes: dict[str, Axis] = {"policy": str(parse_policy(policy)), "share": share}
                with kept.running(path, axes=axes, repeat=seed, seed=seed) as folder:
                    cell = _run_cell(spec, preset.kind, policy, share, seed, saturation, folder)
                    write_json(folder / "summary.json", cell)
            found.append(msgspec.json.decode((out / path / "summary.json").read_bytes(), type=Cell))
        tell("cells", len(cells), len(cells))
    rows = tuple(_rows(found))
    report = Report(
        kind=preset.kind,
        preset=name,
        saturation=saturation,
        late_cells=sum(cell.status == "generator_limited" for cell in kept.manifest.cells),
        rows=rows,
        goals=goals_of(rows, UNMANAGED, MANAGED),
    )
    compact(out)
    write_json(out / "summary.json", report)
    return report


def _saturation(kept: ExperimentFolder, spec: Spec, preset: Preset, tell: Progress) -> Saturation:
    """Saturation from its runs, a cell each; those that are there already are not run again."""
    found = []
    for number in range(preset.saturation_seeds):
        tell("saturation", number, preset.saturation_seeds)
        seed = preset.first_seed + number
        path = f"saturation_seed-{seed}"
        if not kept.has(path):
            axes: dict[str, Axis] = {"policy": LOOP_POLICY, "share": 0.0}
            with kept.running(path, axes=axes, repeat=seed, seed=seed) as folder:
                write_json(folder / "summary.json", saturation_run(spec, preset.kind, seed, folder))
        found.append(
            msgspec.json.decode((kept.path / path / "summary.json").read_bytes(), type=SaturationRun)
        )
    tell("saturation", preset.saturation_seeds, preset.saturation_seeds)
    return saturation_of(found)


def repeated(stored: StoredExperiment, cell: StoredCell) -> Mapping[str, Any]:
    """The summary of a simulated cell, made by simulating it again; without the CPU time, which never repeats."""
    config = stored.manifest.config
    spec = msgspec.convert(config["mix"], Spec)
    runs = [one.summary(SaturationRun) for one in stored.cells if one.manifest.axes["share"] == 0]
    seed = cell.manifest.seed
    assert seed is not None, "every cell of this suite has a seed"
    if cell.manifest.axes["share"] == 0:
        return _plain(saturation_run(spec, "simulated", seed, cell.path))
    policy, share = cell.summary(Cell).figures.policy, float(cell.manifest.axes["share"])  # as it was written
    again = _run_cell(spec, "simulated", policy, share, seed, saturation_of(runs), cell.path)
    return {name: value for name, value in _plain(again).items() if name != "decision_us"}


def _plain(value: Any) -> dict[str, Any]:
    """As it is read back from a file."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return plain


def _spelt(policy: str) -> str:
    """A policy as the name of a folder."""
    return "".join(char if char.isalnum() or char in "=.-" else "_" for char in policy).strip("_")


def _run_cell(
    spec: Spec,
    kind: Literal["simulated", "measured"],
    policy: str,
    share: float,
    seed: int,
    saturation: Saturation,
    folder: Path,
) -> Cell:
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
    if kind == "measured":
        figures = measure_cell(cell, policy, cell.loads[0], seed, folder, scheduler=timed)
    else:
        (figures,) = simulate(cell, scheduler=timed).cells
    return Cell(
        share=share,
        figures=msgspec.structs.replace(figures, folder=None),
        decision_us=stat_of(took / 1000 for took in made[0].took_ns),
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
            lag_p95_s=max((one.lag_s.p95 for one in figures if one.lag_s and one.lag_s.p95), default=None),
            decision_us=several[0].decision_us,
        )


def _attained(figures: CellFigures) -> list[float]:
    return [one.in_time.share or 0.0 for one in figures.classes]
