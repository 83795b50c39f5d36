"""Two runs beside each other: what differs in their figures, and in what they were run with. Pure functions.

A difference of means comes with Welch's 95 % t-interval ("The generalization of 'Student's' problem", Biometrika,
1947) over jobs or calls. It says how sure the difference between these two runs is; what a third run would give
it cannot say, for jobs of one run share its luck. That takes repeats, see METRICS: three runs of each, or more.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from sage.events import Event
from sage.runtime.manifest import Manifest
from sage.runtime.trail import Trail, trails

__all__ = ["LEAST_EACH", "Change", "Difference", "RunsDiff", "StepDiff", "diff_runs", "t_quantile"]

LEAST_EACH = 20  # of each run: below it the interval of a mean of skewed times covers too little
CONFIDENCE = 0.975  # of one side
SAME_BY_NATURE = frozenset({"run_id", "started", "ended", "status", "counts", "schema_version"})
OUTCOMES = ("done", "failed", "rejected", "cancelled")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The means of one figure in both runs; ``difference`` is the second less the first, with its 95 % interval."""

    a: float | None
    b: float | None
    num_a: int
    num_b: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""  # why there is no interval

    @property
    def verdict(self) -> Literal["more", "less", "no difference shown", "n too small"]:
        """What the interval says of the second run."""
        if self.low is None or self.high is None:
            return "n too small"
        if self.low > 0:
            return "more"
        return "less" if self.high < 0 else "no difference shown"


class StepDiff(msgspec.Struct, frozen=True, kw_only=True):
    """One step in both runs. Times in seconds; tokens per call that was done."""

    pipeline: str
    step: str
    time_s: Difference  # ready to done
    queue_s: Difference  # per call
    service_s: Difference  # per call
    prompt_tokens: Difference
    completion_tokens: Difference


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something the two runs were not run with alike; None: not there."""

    name: str
    a: Any
    b: Any


class RunsDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs beside each other."""

    a: str
    b: str
    kinds: tuple[str, str]  # measured, simulated or replayed; different kinds are not to be compared
    jobs: Mapping[str, tuple[int, int]]  # outcome -> jobs in each
    e2e_s: Difference  # of jobs that were done
    steps: tuple[StepDiff, ...]
    changes: tuple[Change, ...]


def diff_runs(
    manifest_a: Manifest, events_a: Iterable[Event], manifest_b: Manifest, events_b: Iterable[Event]
) -> RunsDiff:
    """What differs between two runs. Each log is read once."""
    one, other = _figures(events_a), _figures(events_b)
    keys = dict.fromkeys([*one.steps, *other.steps])
    return RunsDiff(
        a=manifest_a.run_id,
        b=manifest_b.run_id,
        kinds=(manifest_a.kind, manifest_b.kind),
        jobs={outcome: (one.jobs[outcome], other.jobs[outcome]) for outcome in OUTCOMES},
        e2e_s=_difference(one.e2e, other.e2e),
        steps=tuple(
            StepDiff(
                pipeline=key[0],
                step=key[1],
                **{
                    name: _difference(one.steps[key][name], other.steps[key][name])
                    for name in ("time_s", "queue_s", "service_s", "prompt_tokens", "completion_tokens")
                },
            )
            for key in keys
        ),
        changes=tuple(_changes(manifest_a, manifest_b)),
    )


class _Sample:
    """Count, mean and sum of squared deviations, kept as values come (Welford, Technometrics, 1962)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = self.squares = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        off = value - self.mean
        self.mean += off / self.n
        self.squares += off * (value - self.mean)


class _Figures:
    def __init__(self) -> None:
        self.jobs: Counter[str] = Counter()
        self.e2e = _Sample()
        self.steps: defaultdict[tuple[str, str], defaultdict[str, _Sample]] = defaultdict(
            lambda: defaultdict(_Sample)
        )


def _figures(events: Iterable[Event]) -> _Figures:
    found = _Figures()
    for trail in trails(events):
        found.jobs[trail.job.outcome] += 1
        if trail.job.outcome == "done":
            found.e2e.add(trail.seconds)
        _add_steps(found, trail)
    return found


def _add_steps(found: _Figures, trail: Trail) -> None:
    for step in trail.steps:
        samples = found.steps[trail.job.pipeline, step.name]
        if step.ready is not None and step.done is not None:
            samples["time_s"].add(step.done - step.ready)
        for call in step.calls:
            if call.task.outcome == "done":
                samples["queue_s"].add(call.queue[1] - call.queue[0])
                samples["service_s"].add(call.task.t - call.task.dispatched)
                samples["prompt_tokens"].add(call.task.prompt_tokens)
                samples["completion_tokens"].add(call.task.completion_tokens)


def _difference(one: _Sample, other: _Sample) -> Difference:
    given: dict[str, Any] = {
        "a": one.mean if one.n else None,
        "b": other.mean if other.n else None,
        "num_a": one.n,
        "num_b": other.n,
    }
    if not one.n or not other.n:
        return Difference(**given, why="not seen in both")
    difference = other.mean - one.mean
    least = min(one.n, other.n)
    if least < LEAST_EACH:
        return Difference(**given, difference=difference, why=f"n too small: {least} of {LEAST_EACH}")
    parts = [sample.squares / (sample.n - 1) / sample.n for sample in (one, other)]
    variance = sum(parts)
    if variance == 0:
        return Difference(**given, difference=difference, low=difference, high=difference)
    freedom = variance**2 / sum(
        part**2 / (sample.n - 1) for part, sample in zip(parts, (one, other), strict=True)
    )
    half = t_quantile(CONFIDENCE, freedom) * math.sqrt(variance)
    return Difference(**given, difference=difference, low=difference - half, high=difference + half)


def t_quantile(share: float, freedom: float) -> float:
    """The point of Student's t distribution below which a share lies, for ten degrees of freedom or more.

    By the expansion around the normal distribution in Abramowitz and Stegun, "Handbook of Mathematical
    Functions", 1964, 26.7.5: right to three decimals there.

    >>> round(t_quantile(0.975, 20), 3)
    2.086
    """
    from statistics import NormalDist

    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _changes(one: Manifest, other: Manifest) -> Iterator[Change]:
    """What differs in the manifests, by the path to it."""
    left, right = (dict(_flat("", msgspec.to_builtins(manifest))) for manifest in (one, other))
    for name in dict.fromkeys([*left, *right]):
        if name.partition(".")[0] not in SAME_BY_NATURE and left.get(name) != right.get(name):
            yield Change(name=name, a=left.get(name), b=right.get(name))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), part)
    else:
        yield path, value
