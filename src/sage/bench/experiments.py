"""Experiments: a question, one YAML file of presets, one small module that says what its cells are."""

from __future__ import annotations

import itertools
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from sage.bench.arrivals import Arrivals, draw
from sage.bench.results import Axis, StoredExperiment, open_experiment, read_experiment
from sage.bench.rig import EngineSet, Lab, Load, RuntimeName, Setup, open_lab, run_cell
from sage.bench.workloads import (
    SIZES,
    WORKLOADS,
    Corpus,
    Size,
    documentation,
    filler_corpus,
    given_corpus,
)
from sage.clock import monotonic
from sage.engines.cpus import usable_cpus
from sage.errors import InputError, nearest
from sage.graph.yaml import load_data
from sage.registry import Registry
from sage.scheduling.policy import parse_policy
from sage.testing.behaviour import Behaviour

__all__ = [
    "EXPERIMENTS",
    "Bursts",
    "Expected",
    "Planned",
    "Preset",
    "Suite",
    "cells_of",
    "closed",
    "expected",
    "planned",
    "read_preset",
    "run_experiment",
]


class Bursts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jobs of one pipeline that come together, again and again."""

    size: int  # jobs at the same moment
    period_s: float  # from one burst to the next
    count: int  # bursts that are counted; one more comes first and is not


class Preset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run of an experiment is made of. Lists are axes; a suite uses those it has."""

    engines: EngineSet = "emulated"
    runtime: RuntimeName = "simulated"
    workloads: tuple[str, ...] = ("rag",)
    systems: tuple[str, ...] = ("sage",)  # and "asyncio", the baseline
    policies: tuple[str, ...] = ("load_aware",)
    complexity: tuple[str, ...] = ("medium",)
    sizes: Mapping[str, Size] = {}  # in place of the usual ones
    concurrency: tuple[int, ...] = (8,)  # jobs in flight, of each pipeline
    pipelines: tuple[int, ...] = (1,)  # at once
    delays_s: tuple[float, ...] = (0.0,)  # from the start of one pipeline to that of the next
    nodes: tuple[int, ...] = (1,)
    scaling: tuple[str, ...] = ("fixed",)  # load as nodes are added: "fixed" or "per_node"
    bursts: Bursts | None = None
    jobs: int = 400  # counted, of each pipeline
    repeats: int = 1  # each with another seed
    seed: int = 0
    profile: str = "vllm-llama-3.1-8b"  # of emulated engines
    output: str = "max"  # length of their answers
    unit_s: float = 0.005  # of computing, in virtual time
    slots: int = 8  # for computing per node, in virtual time
    server: Behaviour = Behaviour()  # of engines over HTTP


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that is to be run."""

    name: str
    axes: Mapping[str, Axis]
    setup: Setup
    repeat: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Suite:
    """An experiment that can be run."""

    question: str
    cells: Callable[[Preset], Iterator[tuple[dict[str, Axis], Setup]]]  # without repeats


#: Experiments by name. Each has a file of presets of its name beside its module.
EXPERIMENTS: Registry[Suite] = Registry("experiment")


def closed(preset: Preset, workload: str, *, clients: int, **changes: Any) -> Setup:
    """A cell where each client sends its next job when its last is over; as many pipelines as ``pipelines`` says."""
    count = changes.pop("pipelines", 1)
    arrivals = Arrivals(process="closed", clients=clients, jobs=preset.jobs + clients)
    defaults: dict[str, Any] = {"size": size_of(preset, preset.complexity[0]), "policy": preset.policies[0]}
    return Setup(
        workload=workload, loads=(Load(arrivals=arrivals),) * count, warmup=clients, **{**defaults, **changes}
    )


def size_of(preset: Preset, complexity: str) -> Size:
    """What jobs of a complexity are made of.

    Raises:
        InputError: no such complexity.
    """
    known = {**SIZES, **preset.sizes}
    if complexity not in known:
        raise InputError(f"unknown complexity {complexity!r}: {nearest(complexity, known)}")
    return known[complexity]


# --- presets ----------------------------------------------------------------------------------------------


def presets_of(name: str, file: Path | None = None) -> Mapping[str, Mapping[str, Any]]:
    """The presets of an experiment: those that come with SAGE, or those of a user's file.

    Raises:
        InputError: the file cannot be read or has no presets of this experiment.
    """
    _ = EXPERIMENTS[name]
    if file is None:
        with resources.as_file(resources.files("sage.bench.suites") / f"{name}.yaml") as built_in:
            data = load_data(built_in)
    else:
        data = load_data(file)
    where = file or f"{name}.yaml"
    if (
        not isinstance(data, dict)
        or set(data) != {"experiment", "presets"}
        or not isinstance(data["presets"], dict)
    ):
        raise InputError(f"{where}: expected 'experiment: {name}' and 'presets:' with a mapping of them")
    if data["experiment"] != name:
        raise InputError(f"{where}: is of experiment {data['experiment']!r}, expected {name!r}")
    presets: Mapping[str, Mapping[str, Any]] = data["presets"]
    return presets


def read_preset(name: str, preset: str, *, file: Path | None = None, **changes: Any) -> Preset:
    """A preset with what the caller chose in place of what it says; None and empty choices change nothing.

    Raises:
        InputError: no such preset, or something in it cannot be.
    """
    presets = presets_of(name, file)
    if preset not in presets:
        raise InputError(f"experiment {name!r} has no preset {preset!r}: {nearest(preset, presets)}")
    chosen = {key: value for key, value in changes.items() if value not in (None, (), [])}
    if chosen.get("engines", "emulated") != "emulated":
        chosen.setdefault("runtime", "local")
    try:
        read = msgspec.convert({**(presets[preset] or {}), **chosen}, Preset)
    except msgspec.ValidationError as error:
        raise InputError(f"experiment {name!r}, preset {preset!r}: {error}") from error
    wrong = _wrong(read)
    if wrong is not None:
        raise InputError(f"experiment {name!r}, preset {preset!r}: {wrong}")
    return read


def _wrong(preset: Preset) -> str | None:
    for workload in preset.workloads:
        _ = WORKLOADS[workload]
    for policy in preset.policies:
        parse_policy(policy)
    for complexity in preset.complexity:
        size_of(preset, complexity)
    for name in ("concurrency", "pipelines", "nodes"):
        if any(value < 1 for value in getattr(preset, name)):
            return f"{name} is {getattr(preset, name)}, expected whole numbers above 0"
    for name in ("jobs", "repeats", "slots"):
        if getattr(preset, name) < 1:
            return f"{name} is {getattr(preset, name)}, expected at least 1"
    known = {"systems": ("sage", "asyncio"), "scaling": ("fixed", "per_node")}
    for name, choices in known.items():
        for value in getattr(preset, name):
            if value not in choices:
                return f"{name} has {value!r}: {nearest(value, choices)}"
    if any(delay < 0 for delay in preset.delays_s):
        return f"delays_s is {preset.delays_s}, expected seconds that are not negative"
    if preset.runtime == "simulated" and preset.engines != "emulated":
        return f"engines {preset.engines!r} take real time; say runtime 'local'"
    if preset.runtime == "ray" and (preset.engines == "http" or "asyncio" in preset.systems):
        return "on runtime 'ray' the engines are 'emulated', one a node, and the system is 'sage'"
    axes = ("workloads", "systems", "policies", "complexity", "concurrency", "pipelines", "delays_s", "nodes")
    empty = [name for name in axes if not getattr(preset, name)]
    return f"{empty[0]} is empty, expected at least one" if empty else None


# --- plans ------------------------------------------------------------------------------------------------


def cells_of(name: str, preset: Preset) -> list[Planned]:
    """Every cell of an experiment, repeats after one another so that a drift of the machine meets all alike.

    Raises:
        InputError: there is nothing to do, or a cell cannot be.
    """
    points = list(EXPERIMENTS[name].cells(preset))
    if not points:
        raise InputError(f"experiment {name!r}: nothing to do")
    return [
        Planned(
            name=_name_of(axes, repeat),
            axes=axes,
            setup=setup,
            repeat=repeat,
            seed=preset.seed + repeat,
        )
        for repeat in range(preset.repeats)
        for axes, setup in points
    ]


def _name_of(axes: Mapping[str, Axis], repeat: int) -> str:
    parts = [f"{value:g}" if isinstance(value, float) else str(value) for value in axes.values()]
    named = [f"{axis}-{part}" for axis, part in zip(axes, parts, strict=True)]
    return "_".join([*named, f"repeat-{repeat}"]).replace("/", "-")


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """How long an experiment will take, from a few jobs of each kind that were run just now."""

    least_s: float  # if jobs do not slow each other down
    most_s: float  # if they run as if one after the other
    probed_jobs: int


PROBE_JOBS = 4


def expected(lab: Lab, cells: Sequence[Planned]) -> Expected:
    """Run a few jobs of each kind, one after the other, and reckon."""
    took: dict[tuple[str, Size, str], float] = {}
    probed = 0
    least = most = 0.0
    for cell in cells:
        setup = cell.setup
        kind = (setup.workload, setup.size, setup.system)
        if kind not in took:
            one = Load(arrivals=Arrivals(process="closed", clients=1, jobs=PROBE_JOBS + 1))
            probe = msgspec.structs.replace(setup, loads=(one,), warmup=1, nodes=1)
            with tempfile.TemporaryDirectory(prefix="sage-probe-") as folder:
                began = monotonic()
                figures = run_cell(lab, probe, cell.seed, Path(folder))
                took[kind] = (
                    monotonic() - began
                    if lab.runtime == "simulated"
                    else (figures.e2e_s.mean or 0.0) * (PROBE_JOBS + 1)
                )
            took[kind] /= PROBE_JOBS + 1
            probed += PROBE_JOBS
        each, atonce = took[kind], 0
        last_s = 0.0
        for load in setup.loads:
            schedule = draw(load.arrivals, 0)
            atonce += schedule.clients or 0
            last_s = max(last_s, load.start_s + schedule.times[-1])
        if lab.runtime == "simulated":
            least, most = least + setup.jobs * each, most + setup.jobs * each
        else:
            least += max(last_s, setup.jobs * each / max(1, atonce)) if atonce else last_s + each
            most += max(last_s + each, setup.jobs * each)
    return Expected(least_s=least, most_s=most, probed_jobs=probed)


# --- runs -------------------------------------------------------------------------------------------------

#: Told what is counted, how many are done, and how many there are.
Progress = Callable[[str, int, int], None]


def lab_of(preset: Preset, data: Path | None = None) -> Any:
    """What the cells of a preset stand on; a context manager."""
    return open_lab(
        runtime=preset.runtime,
        engines=preset.engines,
        corpus=_corpus(preset, data),
        profile=preset.profile,
        output=preset.output,
        unit_s=preset.unit_s,
        slots=preset.slots,
        server=preset.server,
        nodes=max(preset.nodes),
    )


def _corpus(preset: Preset, data: Path | None) -> Corpus:
    if data is not None:
        return given_corpus(data)
    return (
        documentation()
        if preset.engines == "embedded" and preset.workloads != ("compute",)
        else filler_corpus()
    )


def run_experiment(
    name: str,
    preset: Preset,
    out: Path,
    *,
    preset_name: str = "",
    arguments: Sequence[str] = (),
    data: Path | None = None,
    progress: Progress | None = None,
) -> StoredExperiment:
    """Run every cell that the folder does not hold yet.

    Args:
        name: of the experiment.
        preset: what it is made of.
        out: its folder; goes on where it stopped.
        preset_name: for the record.
        arguments: of the command line that makes it again, without ``--out``.
        data: folder of passages and questions in place of the usual ones.
        progress: told now and then.

    Raises:
        InputError: the folder holds something else.
    """
    cells = cells_of(name, preset)
    total = sum(cell.setup.jobs for cell in cells)
    ended = itertools.count(1)

    def tell() -> None:
        number = next(ended)
        if progress is not None and (number % 16 == 0 or number == total):
            progress(f"jobs ({name})", number, total)

    with (
        lab_of(preset, data) as lab,
        open_experiment(
            out,
            name,
            kind=lab.kind,
            config=msgspec.to_builtins(preset),
            preset=preset_name,
            command=shlex.join(["sage", "bench", name, *arguments]),
            seed=preset.seed,
            data={lab.corpus.name: lab.corpus.sha256},
            planned=len(cells),
        ) as folder,
    ):
        if preset.runtime == "ray":
            folder.update(notes=(ON_ONE_MACHINE.format(cpus=usable_cpus()),))
        for cell in cells:
            if folder.has(cell.name):
                for _ in range(cell.setup.jobs):
                    tell()
                continue
            with folder.running(cell.name, axes=cell.axes, repeat=cell.repeat, seed=cell.seed) as path:
                run_cell(lab, cell.setup, cell.seed, path, tell)
    return read_experiment(out)


#: What a reader of results of runtime "ray" must know.
ON_ONE_MACHINE = (
    "all nodes share one machine with {cpus} CPUs, which bound what is computed and what SAGE itself costs; "
    "engines are emulated, one a node"
)


def planned(name: str, preset: Preset, out: Path | None) -> list[tuple[Planned, bool]]:
    """Every cell, and whether a folder holds it already."""
    held: set[str] = set()
    if out is not None and (out / "experiment.json").exists():
        held = {cell.name for cell in read_experiment(out).manifest.cells}
    return [(cell, cell.name in held) for cell in cells_of(name, preset)]
