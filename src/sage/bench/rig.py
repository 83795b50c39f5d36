"""One cell of an experiment: the engines it stands on, the load it gets, and the files it leaves."""

from __future__ import annotations

import asyncio
import itertools
import resource
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.bench.arrivals import Arrivals, Schedule, draw
from sage.bench.cell_figures import CellFigures, cell_figures
from sage.bench.plain import PlainLoop
from sage.bench.records import requests_of
from sage.bench.results import write_json, write_lines
from sage.bench.workloads import TIMED_POOL, Corpus, Job, Size, jobs_of
from sage.clock import Clock, monotonic
from sage.engines.base import Engine, open_engine
from sage.engines.emulated import EmulatedEngine, EmulatedOptions
from sage.engines.emulated_answers import hashed_vectors
from sage.engines.emulated_profile import FixedTimes, Profile, load_profile
from sage.engines.emulated_steps import Capacity
from sage.errors import InputError, SageError
from sage.events import RunEnded
from sage.graph.shape import CPU_POOL
from sage.index.index import Index
from sage.runtime.endpoints import DEFAULT_ENGINES
from sage.runtime.manifest import Kind, Manifest, Status
from sage.runtime.options import MAX_INFLIGHT
from sage.runtime.ray_cluster import RayCluster
from sage.runtime.runs import create_run, read_events
from sage.runtime.simulated import closed_loop, open_loop
from sage.runtime.virtual import run_virtual
from sage.session import Session
from sage.settings import Settings
from sage.testing.behaviour import Behaviour
from sage.testing.server import separate_server

__all__ = ["ENGINES", "RUNTIMES", "Lab", "Load", "Setup", "open_lab", "run_cell"]

ENGINES = ("emulated", "http", "embedded")
RUNTIMES = ("simulated", "local", "ray")

EngineSet = Literal["emulated", "http", "embedded"]
RuntimeName = Literal["simulated", "local", "ray"]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What comes to one pipeline."""

    arrivals: Arrivals
    start_s: float = 0.0  # when its first job comes, on the cell's clock


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides one cell, but for its seed."""

    workload: str
    size: Size
    loads: tuple[Load, ...]  # one per pipeline
    warmup: int  # first jobs of each pipeline that are run and not counted
    system: Literal["sage", "asyncio"] = "sage"
    policy: str = "load_aware"
    nodes: int = 1

    @property
    def jobs(self) -> int:
        """How many there are, those of the warm-up included."""
        return sum(len(draw(load.arrivals, 0).times) for load in self.loads)


@dataclass(frozen=True, slots=True)
class Lab:
    """What all cells of an experiment share."""

    runtime: RuntimeName
    engines: EngineSet
    corpus: Corpus
    index: Index
    profile: Profile  # of emulated engines
    profile_name: str
    output: str  # length of their answers
    unit_s: float  # of computing, in virtual time
    slots: int  # for computing per node, in virtual time
    urls: Sequence[str]  # of emulated servers, one a node
    home: Path  # for runs while they go on; its models are the user's

    @property
    def kind(self) -> Kind:
        """What its results are."""
        return "simulated" if self.runtime == "simulated" else "measured"

    @property
    def settings(self) -> Settings:
        """For sessions of its cells."""
        return Settings(home=self.home, record=True)


@contextmanager
def open_lab(
    *,
    runtime: RuntimeName,
    engines: EngineSet,
    corpus: Corpus,
    profile: str,
    output: str,
    unit_s: float,
    slots: int,
    server: Behaviour,
    nodes: int,
) -> Iterator[Lab]:
    """Start what the cells stand on: emulated servers, an index of the corpus.

    Raises:
        InputError: engines and runtime do not go together. SetupError: a server or a model cannot be started.
    """
    if runtime == "simulated" and engines != "emulated":
        raise InputError(
            f"engines {engines!r} take real time and have no place in runtime 'simulated'; say runtime 'local'"
        )
    if runtime == "ray" and engines == "http":
        raise InputError("on runtime 'ray' every node has an engine of its own; say engines 'emulated'")
    if engines == "embedded" and nodes > 1:
        raise InputError(
            f"{nodes} nodes need engines 'emulated' or 'http'; there is one embedded engine here"
        )
    user = Settings.load()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sage-bench-")))
        if user.models_dir.is_dir():
            (home / "models").symlink_to(user.models_dir.resolve())
        settings = Settings(home=home, record=True)
        urls = [
            stack.enter_context(separate_server(server)) for _ in range(nodes if engines == "http" else 0)
        ]
        kind = load_profile(profile)
        texts = [f"{passage.title}\n{passage.text}" for passage in corpus.passages]
        if engines == "emulated":
            assert kind.embed is not None, "the profile of an experiment embeds"
            dimension = kind.embed.dimension
            vectors = hashed_vectors(texts, dimension)
            index = Index.build(corpus.passages, vectors=vectors, fingerprint=f"emulated:{dimension}")
        else:
            address = _address(urls[0]) if urls else str(DEFAULT_ENGINES["embedder"])
            index = Index.build(corpus.passages, embedder=address, settings=settings)
        yield Lab(runtime, engines, corpus, index, kind, profile, output, unit_s, slots, urls, home)


def _address(url: str) -> str:
    return f"openai:{url}?model=emulated"


def run_cell(
    lab: Lab, setup: Setup, seed: int, folder: Path, tell: Callable[[], None] | None = None
) -> CellFigures:
    """Run one cell and write its ``run.json``, ``events.jsonl``, ``requests.jsonl`` and ``summary.json``.

    Args:
        lab: what it stands on.
        setup: what it is.
        seed: of its jobs and of scheduling.
        folder: an empty one.
        tell: called when a job ends.
    """
    schedules = [draw(load.arrivals, f"{seed}/{number}") for number, load in enumerate(setup.loads)]
    lags: dict[int, float] = {}
    ahead: set[int] = set()
    before = resource.getrusage(resource.RUSAGE_SELF)
    run = _Run(lab, setup, seed, schedules, lags, ahead, tell or (lambda: None))
    path = run_virtual(run.carried_out()) if lab.runtime == "simulated" else asyncio.run(run.carried_out())
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for name in ("run.json", "events.jsonl"):
        shutil.move(path / name, folder / name)
    path.rmdir()
    return _written(lab, setup, schedules, lags, ahead, folder, None if lab.runtime == "simulated" else cpu_s)


def _written(
    lab: Lab,
    setup: Setup,
    schedules: Sequence[Schedule],
    lags: Mapping[int, float],
    ahead: set[int],
    folder: Path,
    cpu_s: float | None,
) -> CellFigures:
    events = list(read_events(folder / "events.jsonl"))
    requests = [
        msgspec.structs.replace(
            request, scheduled=request.handed - lags.get(request.id, 0.0), warmup=request.id in ahead
        )
        for request in requests_of(events)
    ]
    write_lines(folder / "requests.jsonl", requests)
    manifest = msgspec.json.decode((folder / "run.json").read_bytes(), type=Manifest)
    figures = cell_figures(events, requests, manifest.engines, cpu_s=cpu_s)
    if figures.faults:
        raise SageError(f"the log cannot be true: {figures.faults[0]}; this is a bug in SAGE")
    write_json(folder / "summary.json", figures)
    said = {
        "setup": msgspec.to_builtins(setup),
        "schedules": [schedule.sha256 for schedule in schedules],
        "cpu_s": cpu_s,
        "engine_set": lab.engines,
        "corpus": {"name": lab.corpus.name, "sha256": lab.corpus.sha256},
    }
    status: Status = "generator_limited" if figures.generator_limited else manifest.status
    write_json(
        folder / "run.json",
        msgspec.structs.replace(manifest, arguments={**manifest.arguments, **said}, status=status),
    )
    return figures


class _Run:
    """One cell while it runs, inside an event loop in real or virtual time."""

    def __init__(
        self,
        lab: Lab,
        setup: Setup,
        seed: int,
        schedules: Sequence[Schedule],
        lags: dict[int, float],
        ahead: set[int],
        tell: Callable[[], None],
    ) -> None:
        self._lab = lab
        self._setup = setup
        self._seed = seed
        self._schedules = schedules
        self._lags = lags  # job -> how much later than due it was handed over
        self._ahead = ahead  # jobs of the warm-up
        self._tell = tell
        self._numbers = itertools.count()

    async def carried_out(self) -> Path:
        """Run it; the folder of its run."""
        virtual = self._lab.runtime == "simulated"
        clock: Clock = asyncio.get_running_loop().time if virtual else monotonic
        if self._setup.system == "asyncio":
            await self._by_hand(clock)
        else:
            await self._by_sage(clock)
        (path,) = self._lab.settings.runs_dir.iterdir()
        return path

    def _streams(self) -> list[list[Job]]:
        """The jobs of every pipeline."""
        setup, lab = self._setup, self._lab
        several = len(setup.loads) > 1
        return [
            list(
                itertools.islice(
                    jobs_of(
                        setup.workload,
                        f"{setup.workload}-{number}" if several else setup.workload,
                        setup.size,
                        lab.corpus,
                        seed=self._seed,
                        timed=lab.runtime == "simulated",
                    ),
                    len(schedule.times),
                )
            )
            for number, schedule in enumerate(self._schedules, 1)
        ]

    async def _by_sage(self, clock: Clock) -> None:
        lab = self._lab
        async with Session(
            engines=self._engines(),
            indexes={"docs": lab.index},
            policy=self._setup.policy,
            max_inflight=max(MAX_INFLIGHT, self._setup.jobs),  # the load bounds them, not admission
            settings=lab.settings,
            seed=self._seed,
            clock=clock,
            kind=lab.kind,
            runtime=self._nodes() if lab.runtime == "ray" else "local",
        ) as session:
            streams = self._streams()
            for pipeline in {job[0].name: job[0] for jobs in streams for job in jobs}.values():
                await session.ready(pipeline)

            async def carry(tenant: str, job: Job) -> None:
                await session.call(job[0], job[1], tenant=tenant)

            await self._load(streams, carry, clock)

    def _nodes(self) -> RayCluster:
        """A cluster for this cell alone, of nodes with one CPU."""
        return RayCluster(nodes=self._setup.nodes, cpus=1)

    async def _by_hand(self, clock: Clock) -> None:
        lab, setup = self._lab, self._setup
        async with AsyncExitStack() as stack:
            engines: dict[str, list[tuple[str, Engine]]] = {}
            for pool, said in self._engines().items():
                several = said if isinstance(said, tuple | list) else (said,)
                opened = [
                    one
                    if not isinstance(one, str)
                    else await stack.enter_async_context(open_engine(one, lab.settings))
                    for one in several
                ]
                engines[pool] = [
                    (_named(engine, number, len(opened)), engine) for number, engine in enumerate(opened, 1)
                ]
            virtual = lab.runtime == "simulated"
            threads = None if virtual else stack.enter_context(ThreadPoolExecutor(thread_name_prefix="plain"))
            names = {pool: tuple(name for name, _ in several) for pool, several in engines.items()}
            folder = create_run(
                lab.settings,
                policy="none: a plain asyncio loop",
                seed=self._seed,
                engines=names if virtual else {**names, CPU_POOL: (CPU_POOL,)},
                kind=lab.kind,
            )
            atonce = sum(schedule.clients or len(schedule.times) for schedule in self._schedules)
            endpoints = [name for several in folder.manifest.engines.values() for name in several]
            folder.update(limits=dict.fromkeys(endpoints, atonce))  # nothing holds a call back but its job
            loop = PlainLoop(engines, lab.index, setup.size, threads, lab.slots, folder, clock)
            began = clock()

            async def carry(_tenant: str, job: Job) -> None:
                await loop.carry(job)

            status: Literal["complete", "partial"] = "partial"
            try:
                await self._load(self._streams(), carry, clock)
                status = "complete"
            finally:
                folder.log.append(RunEnded(clock() - began, status))
                folder.finish(status, {outcome: n for outcome, n in loop.counts.items() if n})

    async def _load(
        self, streams: Sequence[Sequence[Job]], carry: Callable[[str, Job], Awaitable[None]], clock: Clock
    ) -> None:
        """Hand every stream's jobs over as its schedule says."""
        began = clock()
        async with asyncio.TaskGroup() as group:
            for number, (load, schedule, stream) in enumerate(
                zip(self._setup.loads, self._schedules, streams, strict=True), 1
            ):
                handed = self._carrier(f"pipeline-{number}", carry, clock)
                if schedule.clients is not None:
                    group.create_task(
                        closed_loop(((None, job) for job in stream), handed, clients=schedule.clients)
                    )
                else:
                    times = [load.start_s + at_s for at_s in schedule.times]
                    due = ((at_s, (began + at_s, job)) for at_s, job in zip(times, stream, strict=True))
                    group.create_task(open_loop(due, handed))

    def _carrier(
        self, tenant: str, carry: Callable[[str, Job], Awaitable[None]], clock: Clock
    ) -> Callable[[tuple[float | None, Job]], Awaitable[None]]:
        left = itertools.count(self._setup.warmup, -1)

        async def handed(due_and_job: tuple[float | None, Job]) -> None:
            due, job = due_and_job
            number = next(self._numbers)  # as the session counts, for nothing is awaited in between
            if due is not None:
                self._lags[number] = max(0.0, clock() - due)
            if next(left) > 0:
                self._ahead.add(number)
            try:
                await carry(tenant, job)
            except SageError:
                pass  # the log says how it ended
            finally:
                self._tell()

        return handed

    def _engines(self) -> dict[str, Any]:
        """Pool -> addresses or engines, one a node."""
        lab, nodes = self._lab, self._setup.nodes
        if lab.engines == "embedded":
            return dict(DEFAULT_ENGINES)
        if lab.engines == "http":
            addresses = tuple(_address(url) for url in lab.urls[:nodes])
            return {"llm": addresses, "embedder": addresses}
        if lab.runtime == "ray":  # one on every node, in a process of its own there
            said = f"output={lab.output}&seed={self._seed}&pieces=first&where=node"
            return dict.fromkeys(("llm", "embedder"), f"emulated:{lab.profile_name}?{said}")
        options = EmulatedOptions(output=lab.output, seed=self._seed, pieces="first")
        models = lab.profile
        pools: dict[str, Any] = {
            pool: tuple(
                EmulatedEngine(models, options, name=f"{pool}-{node}") for node in range(1, nodes + 1)
            )
            for pool in ("llm", "embedder")
        }
        if lab.runtime == "simulated":
            slots = Profile(
                name=TIMED_POOL,
                source="made up: worker slots that take the time a configuration gives a unit of computing",
                fixed=FixedTimes(first_token_s=lab.unit_s, token_s=lab.unit_s),
                capacity=Capacity(max_seqs=lab.slots),
            )
            waits = EmulatedOptions(output="max", limit=lab.slots, pieces="first")
            pools[TIMED_POOL] = tuple(
                EmulatedEngine(slots, waits, name=f"{TIMED_POOL}-{node}") for node in range(1, nodes + 1)
            )
        return pools


def _named(engine: Engine, number: int, count: int) -> str:
    address = engine.info.address
    return address if count == 1 else f"{address}#{number}"
