"""What the options of ``sage bench serve`` ask for, as a spec; what contradicts itself is refused."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from sage.bench.arrivals import Arrivals
from sage.bench.load_run import Records
from sage.bench.prompts import Prompts
from sage.bench.results import Axis
from sage.bench.serve_spec import Serve, Target, plan_of
from sage.cli.target import import_files, load_target
from sage.errors import InputError, nearest
from sage.runtime.files import read_records

if TYPE_CHECKING:
    from sage.pipeline import Pipeline

__all__ = ["Piped", "arrivals_said", "pairs", "piped_said", "prompts_said", "sweep_said", "target_said"]

DEFAULT_PROMPTS = 400  # enough for a p99
DATASETS = ("random", "file", "trace")
BACKENDS: Mapping[str, str] = {"openai-chat": "chat", "openai": "completions", "vllm": "completions"}
ENDPOINTS: Mapping[str, str] = {"chat/completions": "chat", "completions": "completions"}


@dataclass(frozen=True, slots=True)
class Step:
    """One load of a sweep: what differs."""

    concurrency: int | None
    rate: float | None
    axes: Mapping[str, Axis]


def sweep_said(concurrency: Sequence[int], rates: Sequence[float]) -> list[Step]:
    """The loads that are asked for: one, or one for each value of what is repeated.

    Raises:
        InputError: both are, or a value is.
    """
    if len(concurrency) > 1 and len(rates) > 1:
        raise InputError("--max-concurrency and --request-rate are both repeated: sweep one of them")
    for name, values in (("--max-concurrency", concurrency), ("--request-rate", rates)):
        if len(set(values)) < len(values):
            raise InputError(f"{name} has a value twice; use --repeats for several loads of one kind")
    if len(concurrency) > 1:
        return [Step(one, rates[0] if rates else None, {"concurrency": one}) for one in concurrency]
    most = concurrency[0] if concurrency else None
    if len(rates) > 1:
        return [Step(most, one, {"rate": one}) for one in rates]
    return [Step(most, rates[0] if rates else None, {})]


def arrivals_said(
    *,
    num_prompts: int | None,
    rate: float | None,
    max_concurrency: int | None,
    burstiness: float,
    burst_size: int | None,
    think_s: float,
    ramp: tuple[str | None, float | None, float | None],
    trace: Path | None,
) -> Arrivals:
    """When requests come.

    Raises:
        InputError: what was said does not go together.
    """
    if rate is not None and not rate > 0:
        raise InputError(f"--request-rate is {rate:g}, expected requests a second above 0, or inf")
    if not burstiness > 0:
        raise InputError(f"--burstiness is {burstiness:g}, expected a number above 0")
    finite = None if rate is None or math.isinf(rate) else rate
    jobs = num_prompts or DEFAULT_PROMPTS
    if trace is not None:
        _only(
            "a trace",
            burstiness=burstiness != 1,
            burst_size=burst_size,
            think_s=think_s,
            ramp_up_strategy=ramp[0],
        )
        return Arrivals(process="trace", trace=str(trace), jobs=num_prompts, rate=finite)
    strategy, start, end = ramp
    if strategy is not None or start is not None or end is not None:
        _only("a ramp", burstiness=burstiness != 1, burst_size=burst_size, think_s=think_s, request_rate=rate)
        return _ramp(strategy, start, end, jobs)
    if finite is not None:
        _only("a rate", think_s=think_s)
        if burst_size is not None:
            return Arrivals(process="burst", rate=finite, size=burst_size, jobs=jobs)
        if burstiness == 1:
            return Arrivals(rate=finite, jobs=jobs)
        if math.isinf(burstiness):
            return Arrivals(process="constant", rate=finite, jobs=jobs)
        return Arrivals(process="gamma", rate=finite, burstiness=burstiness, jobs=jobs)
    if burst_size is not None or burstiness != 1:
        raise InputError("--burst-size and --burstiness shape a rate: say --request-rate, too")
    if max_concurrency is None:
        _only("all requests at once", think_s=think_s)
        return Arrivals(process="burst", rate=1.0, size=jobs, jobs=jobs)
    return Arrivals(process="closed", clients=max_concurrency, think_s=think_s, jobs=jobs)


def _only(what: str, **others: object) -> None:
    for name, said in others.items():
        if said:
            raise InputError(f"--{name.replace('_', '-')} does not go with {what}; leave one of them out")


def _ramp(strategy: str | None, start: float | None, end: float | None, jobs: int) -> Arrivals:
    if strategy not in {None, "linear"}:
        raise InputError(f"--ramp-up-strategy {strategy!r}: expected linear, the one there is")
    if start is None or end is None or not 0 < start < math.inf or not 0 < end < math.inf:
        raise InputError("a ramp needs --ramp-up-start-rps and --ramp-up-end-rps, both above 0")
    return Arrivals(process="ramp", rate=start, to_rate=end, jobs=jobs)


def prompts_said(
    *,
    dataset: str,
    path: Path | None,
    input_len: str,
    output_len: str,
    range_ratio: float,
    prefix_len: int,
) -> Prompts:
    """What requests ask.

    Raises:
        InputError: no such data set, or lengths that do not go together.
    """
    known = {"custom": "file", "jsonl": "file"}.get(dataset, dataset)
    if known not in DATASETS:
        raise InputError(f"--dataset-name {dataset!r}: {nearest(dataset, DATASETS)}")
    if (known == "random") != (path is None):
        need = "leave it out for random prompts" if known == "random" else f"a {known} needs one"
        raise InputError(f"--dataset-path: {need}")
    lengths = [_spread(text, range_ratio) for text in (input_len, output_len)]
    kind: Any = known
    return Prompts(
        dataset=kind,
        path=None if path is None else str(path),
        input_len=lengths[0],
        output_len=lengths[1],
        prefix_len=prefix_len,
    )


def _spread(length: str, ratio: float) -> str:
    """A length and the share it varies by, as vLLM has it."""
    if not ratio:
        return length
    if not length.isdecimal():
        raise InputError(f"--random-range-ratio spreads a plain number of tokens, not {length!r}")
    low, high = math.floor(int(length) * (1 - ratio)), math.ceil(int(length) * (1 + ratio))
    return f"uniform({max(1, low)},{high})"


def target_said(
    base_url: str,
    *,
    model: str | None,
    backend: str,
    endpoint: str | None,
    extra_body: str | None,
    ignore_eos: bool,
    count_along: bool,
) -> Target:
    """Which server.

    Raises:
        InputError: the address or a field of the body cannot be.
    """
    if backend not in BACKENDS:
        raise InputError(f"--backend {backend!r}: {nearest(backend, BACKENDS)}")
    url, api = _base(base_url), BACKENDS[backend]
    if endpoint is not None:
        path = endpoint.strip("/").removeprefix("v1/")
        if path not in ENDPOINTS:
            raise InputError(f"--endpoint {endpoint!r}: expected /v1/chat/completions or /v1/completions")
        api = ENDPOINTS[path]
    extra: dict[str, Any] = {}
    if extra_body is not None:
        try:
            extra = msgspec.json.decode(extra_body, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise InputError(f"--extra-body {extra_body!r} is no JSON object: {error}") from error
    if ignore_eos:
        extra["ignore_eos"] = True
    return Target(base_url=url, model=model, api=api, count_along=count_along, extra=extra)


def _base(url: str) -> str:
    """An address up to /v1, whether that was said or not."""
    bare = url.rstrip("/")
    return f"{bare}/v1" if urlsplit(bare).path in {"", "/"} else bare


@dataclass(frozen=True, slots=True)
class Piped:
    """A pipeline to load, and what with.

    Attributes:
        described: it, as YAML; just its name where that cannot be.
        session: arguments of the session.
        data: name -> SHA-256 of the file of records.
    """

    pipeline: Pipeline
    described: str
    session: Mapping[str, Any]
    data: Mapping[str, str]
    records: Sequence[dict[str, Any]]

    def make(self, spec: Serve) -> Records:
        """Records for one load: those of the file over and over; warm-up takes those that do not count, if any."""
        table = plan_of(spec).table
        warmups, count = table.num_warmups, len(table.schedule.times)
        spare = itertools.cycle([*self.records[count:], *self.records[: min(count, len(self.records))]])
        counted = itertools.islice(itertools.cycle(self.records), count)
        return Records(self.pipeline, itertools.islice(spare, warmups), counted, self.session)


def piped_said(
    target: str,
    source: str | None,
    *,
    engine: Sequence[str],
    index: Sequence[str],
    policy: str | None,
    imports: Sequence[Path],
) -> Piped:
    """Which pipeline.

    Raises:
        InputError, PipelineError: it or its records cannot be read, or do not fit each other.
    """
    import_files(imports)
    pipeline = load_target(target)
    if source is None:
        raise InputError(f"--pipeline {target} needs records: say --input FILE.jsonl")
    records = list(read_records(source))
    if not records:
        raise InputError(f"{source}: has no records")
    for number, record in enumerate(records, 1):
        missing = sorted(pipeline.inputs - record.keys())
        if missing:
            raise InputError(f"{source}: record {number} lacks {missing[0]!r}, which the pipeline reads")
    engines = pairs("--engine", "POOL=ADDRESS", engine)
    indexes = pairs("--index", "NAME=FOLDER", index)
    for pool in engines:
        if pool not in pipeline.plan.pools():
            raise InputError(f"--engine {pool}=…: {nearest(pool, pipeline.plan.pools())}")
    session: dict[str, Any] = {}
    if engines:
        session["engines"] = {pool: tuple(addresses) for pool, addresses in engines.items()}
    if indexes:
        session["indexes"] = {name: folders[-1] for name, folders in indexes.items()}
    if policy is not None:
        session["policy"] = policy
    return Piped(pipeline, _described(pipeline), session, {Path(source).name: _sha256(Path(source))}, records)


def _described(pipeline: Pipeline) -> str:
    """It as YAML; just its name where it holds a function that YAML cannot say."""
    try:
        return pipeline.to_yaml()
    except InputError:
        return pipeline.name


def pairs(option: str, form: str, said: Sequence[str]) -> dict[str, list[str]]:
    """``NAME=VALUE`` options by name.

    Raises:
        InputError: one is not of that form.
    """
    found: dict[str, list[str]] = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {text!r}: expected {form}")
        found.setdefault(name, []).append(value)
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
