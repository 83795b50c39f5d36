"""What ``sage simulate`` is told: pipelines and who sends them what, engines, tenants, failures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sage.bench.arrivals import Arrivals, Schedule
from sage.bench.traces import Asked
from sage.engines.emulated_profile import answer_lengths
from sage.errors import InputError, nearest
from sage.graph.yaml import load_data
from sage.pipeline import Pipeline
from sage.runtime.options import JobOptions

__all__ = [
    "EngineSpec",
    "FailureSpec",
    "Spec",
    "TenantSpec",
    "TrafficSpec",
    "options_of",
    "pipelines_of",
    "read_spec",
    "records_of",
]

CHARS_PER_TOKEN = 4
CPU_POOL = "cpu"


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool of emulated endpoints that are alike. See ``sage.engines.emulated``."""

    profile: str  # built in, or a file beside the spec
    count: int = 1  # endpoints
    output: str = "max"  # tokens of answers
    limit: int | None = None  # calls at once per endpoint; None: as many as fit a step
    prefix_cache: bool = False


class TenantSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant: what it may claim, and what its jobs are unless their traffic says otherwise."""

    weight: float = 1.0
    reserved: int = 0
    tokens_per_s: float | None = None  # in and out; None: no limit of its own
    burst_tokens: float | None = None
    priority: int | str = 0
    deadline_s: float | None = None
    expire: bool = False


class TrafficSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jobs of one pipeline, coming by one process."""

    pipeline: str | dict[str, Any]  # a YAML file beside the spec, or the pipeline itself
    arrivals: Arrivals
    record: dict[str, Any] = {}  # field -> what stands in it, see ``records_of``
    tenant: str = "default"
    priority: int | str | None = None
    deadline_s: float | None = None
    expire: bool | None = None


class FailureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint is gone for a time."""

    pool: str
    at_s: float
    endpoint: int = 1  # which of the pool, counted from 1
    for_s: float = float("inf")


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a spec file."""

    simulate: str  # its name
    engines: dict[str, EngineSpec]
    traffic: dict[str, TrafficSpec]
    tenants: dict[str, TenantSpec] = {}
    indexes: dict[str, str] = {}  # name -> folder beside the spec
    failures: tuple[FailureSpec, ...] = ()
    policies: tuple[str, ...] = ("load_aware",)
    loads: tuple[float, ...] = (1.0,)  # each multiplies the rates of all traffic
    seeds: int = 1  # so many
    first_seed: int = 0  # and the next ones
    warmup_s: float = 0.0  # jobs that come this early are run and not counted
    max_inflight: int | None = None  # jobs at once; None leaves it to the policy
    clients: int | None = None  # all jobs in their order, each as a client is free; None: at their times

    def lasting(self, duration_s: float) -> Spec:
        """The same, with jobs that come for so long."""
        traffic = {
            name: msgspec.structs.replace(
                one, arrivals=msgspec.structs.replace(one.arrivals, duration_s=duration_s)
            )
            for name, one in self.traffic.items()
        }
        return msgspec.structs.replace(self, traffic=traffic)


def read_spec(path: Path) -> Spec:
    """The spec in a YAML or JSON file; files it names are looked for beside it.

    Raises:
        InputError: it cannot be read, says something unknown or impossible, or lacks something.
    """
    try:
        spec = msgspec.convert(load_data(path), Spec)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from error
    wrong = _wrong(spec)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}")
    return _placed(spec, path.parent)


def _wrong(spec: Spec) -> str | None:
    if not spec.traffic:
        return "no traffic; name at least one pipeline and its arrivals under 'traffic'"
    for pool, engine in spec.engines.items():
        if engine.count < 1:
            return f"engine pool {pool!r} has count {engine.count}, expected at least 1 endpoint"
    for name, traffic in spec.traffic.items():
        if traffic.tenant != "default" and traffic.tenant not in spec.tenants:
            return f"traffic {name!r}: unknown tenant {traffic.tenant!r}: {nearest(traffic.tenant, spec.tenants)}"
    for failure in spec.failures:
        if failure.pool not in spec.engines:
            return f"failures: unknown engine pool {failure.pool!r}: {nearest(failure.pool, spec.engines)}"
        count = spec.engines[failure.pool].count
        if not 1 <= failure.endpoint <= count:
            return f"failures: endpoint {failure.endpoint} of pool {failure.pool!r}, which has {count}"
        if failure.at_s < 0 or not failure.for_s > 0:
            return f"failures: at {failure.at_s:g} s for {failure.for_s:g} s; neither may be negative, nor the second 0"
    if not spec.policies or not spec.loads or spec.seeds < 1:
        return "nothing to do: expected at least one of 'policies', 'loads' and 'seeds'"
    if not 0 <= spec.warmup_s < float("inf"):
        return f"warmup_s is {spec.warmup_s}, expected at least 0 seconds"
    if spec.clients is not None and spec.clients < 1:
        return f"clients is {spec.clients}, expected at least 1"
    closed = [name for name, traffic in spec.traffic.items() if traffic.arrivals.process == "closed"]
    if spec.clients is not None and closed:
        return f"traffic {closed[0]!r} has clients of its own, and the spec has 'clients' for all; keep one"
    if any(not 0 < load < float("inf") for load in spec.loads):
        return f"loads are {spec.loads}, expected numbers above 0"
    return None


def _placed(spec: Spec, folder: Path) -> Spec:
    """The spec with the files it names found from the folder it stands in."""

    def placed(name: str, *endings: str) -> str:
        return str(folder / name) if Path(name).suffix.lower() in endings else name

    engines = {
        pool: msgspec.structs.replace(engine, profile=placed(engine.profile, ".toml", ".json"))
        for pool, engine in spec.engines.items()
    }
    traffic = {}
    for name, item in spec.traffic.items():
        pipeline = item.pipeline if isinstance(item.pipeline, dict) else str(folder / item.pipeline)
        trace = None if item.arrivals.trace is None else str(folder / item.arrivals.trace)
        arrivals = msgspec.structs.replace(item.arrivals, trace=trace)
        traffic[name] = msgspec.structs.replace(item, pipeline=pipeline, arrivals=arrivals)
    indexes = {name: str(folder / index) for name, index in spec.indexes.items()}
    return msgspec.structs.replace(spec, engines=engines, traffic=traffic, indexes=indexes)


def pipelines_of(spec: Spec) -> dict[str, Pipeline]:
    """The pipeline of each traffic.

    Raises:
        InputError, PipelineError: one cannot be read, or two that differ have one name.
    """
    found: dict[str, Pipeline] = {}
    named: dict[str, Pipeline] = {}
    for name, traffic in spec.traffic.items():
        said = traffic.pipeline
        source = Path(said) if isinstance(said, str) else msgspec.json.encode(said).decode()
        pipeline = Pipeline.from_yaml(source)
        same = named.setdefault(pipeline.name, pipeline)
        if same != pipeline:
            raise InputError(
                f"traffic {name!r}: another pipeline is named {pipeline.name!r} already; rename one"
            )
        for pool in pipeline.plan.pools():
            if pool == CPU_POOL:
                raise InputError(
                    f"traffic {name!r}: a step runs in pool 'cpu', in threads, which have no place in virtual time"
                )
            if pool not in spec.engines:
                raise InputError(
                    f"traffic {name!r}: unknown engine pool {pool!r}: {nearest(pool, spec.engines)}"
                )
        missing = sorted(same.inputs - traffic.record.keys())
        if missing:
            raise InputError(
                f"traffic {name!r}: pipeline {pipeline.name!r} reads {missing[0]!r}, which its record lacks"
            )
        found[name] = same
    return found


def options_of(spec: Spec, name: str) -> JobOptions:
    """What is said of the jobs of a traffic: by itself, else by its tenant."""
    traffic = spec.traffic[name]
    tenant = spec.tenants.get(traffic.tenant, TenantSpec())
    options = JobOptions(
        tenant=traffic.tenant,
        priority=tenant.priority if traffic.priority is None else traffic.priority,
        deadline_s=tenant.deadline_s if traffic.deadline_s is None else traffic.deadline_s,
        expire=tenant.expire if traffic.expire is None else traffic.expire,
    )
    options.resolver()  # refuses what cannot be
    return options


# --- what stands in records ----------------------------------------------------------------------------

#: Makes a field of the job that goes by a key, with its call of the trace, if there is one.
Maker = Callable[[str, Asked | None], Any]


def records_of(name: str, traffic: TrafficSpec, schedule: Schedule, seed: int) -> Iterator[dict[str, Any]]:
    """The records of a traffic's jobs, made as they are needed; the same for the same seed.

    Of a field's value, ``{tokens: LENGTH}`` is filler of so many tokens, different for each job, ``{number:
    LENGTH}`` the number itself, ``{pick: [...]}`` one of several, ``{list: LENGTH, of: VALUE}`` several values;
    anything else stands as it is. LENGTH is as for answers, or ``prompt`` or ``output``: as the trace says.

    Raises:
        InputError: a value is none of these.
    """
    makers = {field: _maker(f"{name}.{field}", said, seed) for field, said in traffic.record.items()}

    def record(number: int) -> dict[str, Any]:
        asked = schedule.asked[number] if schedule.asked else None
        key = f"{name}/{number}/"
        return {field: make(key + field, asked) for field, make in makers.items()}

    return map(record, range(len(schedule.times)))


def _maker(where: str, said: Any, seed: int) -> Maker:
    if not isinstance(said, dict):
        return lambda _key, _asked: said
    match said:
        case {"tokens": length, **rest} if not rest:
            count = _length(where, length, seed)
            return lambda key, asked: filler(key, count(key, asked))
        case {"number": length, **rest} if not rest:
            return _length(where, length, seed)
        case {"pick": [_, *_] as choices, **rest} if not rest:
            return lambda key, _asked: random.Random(f"{seed}/{key}").choice(choices)
        case {"list": length, "of": item, **rest} if not rest:
            count, make = _length(where, length, seed), _maker(f"{where}.of", item, seed)
            return lambda key, asked: [make(f"{key}/{n}", asked) for n in range(count(key, asked))]
    raise InputError(
        f"{where} is {said!r}, expected {{tokens: …}}, {{number: …}}, {{pick: […]}}, {{list: …, of: …}} or a plain value"
    )


def _length(where: str, said: Any, seed: int) -> Callable[[str, Asked | None], int]:
    if said in {"prompt", "output"}:

        def of_trace(_key: str, asked: Asked | None) -> int:
            if asked is None:
                raise InputError(f"{where} is as long as the trace's {said!r}, but its arrivals are no trace")
            return max(1, asked.prompt_tokens if said == "prompt" else asked.output_tokens)

        return of_trace
    try:
        drawn = answer_lengths(str(said), seed)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if str(said) == "max":
        raise InputError(f"{where}: a length of its own cannot be 'max'")
    return lambda key, _asked: drawn(key, 1 << 20)


def filler(key: str, tokens: int) -> str:
    """Text of so many tokens (4 characters each) that no other key has, where it is long enough to tell.

    >>> filler("q/7", 3)
    'q/7 word wor'
    """
    chars = tokens * CHARS_PER_TOKEN
    return f"{key} {'word ' * (chars // 5 + 1)}"[:chars]


def described(spec: Spec) -> Mapping[str, Any]:
    """The spec as JSON data, for manifests."""
    data: Mapping[str, Any] = msgspec.to_builtins(spec)
    return data
