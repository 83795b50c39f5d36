"""Two runs beside each other: figures with intervals, and what they were run with."""

from __future__ import annotations

import math
import statistics
from typing import Any

import msgspec
import pytest

from sage import Pipeline
from sage.events import JobEnded, PipelineSeen
from sage.ops import generate
from sage.runtime.manifest import Manifest
from sage.runtime.runs_diff import LEAST_EACH, RunsDiff, diff_runs, t_quantile
from sage.testing import FakeEngine

PLAN = PipelineSeen(0.0, "p", ("a",), ("fn",), ((),))


def times(*seconds: float) -> list[Any]:
    return [
        PLAN,
        *(JobEnded(took, n, "p", "done", 0.0, 0.0, (0.0, took)) for n, took in enumerate(seconds)),
    ]


def compared(one: list[Any], other: list[Any], **changes: Any) -> RunsDiff:
    manifest = Manifest(run_id="a", started="2026-01-01T00:00:00+00:00")
    return diff_runs(manifest, one, msgspec.structs.replace(manifest, run_id="b", **changes), other)


def test_few_jobs_give_a_difference_without_an_interval() -> None:
    found = compared(times(1.0, 2.0), times(2.0, 4.0)).e2e_s
    assert (found.a, found.b, found.difference) == (1.5, 3.0, 1.5)
    assert (found.low, found.why, found.verdict) == (None, f"n too small: 2 of {LEAST_EACH}", "n too small")


def test_a_clear_difference_is_shown() -> None:
    one = [1.0 + 0.01 * (n % 5) for n in range(40)]
    found = compared(times(*one), times(*(2 * value for value in one))).e2e_s
    assert found.verdict == "more"
    assert compared(times(*(2 * value for value in one)), times(*one)).e2e_s.verdict == "less"


def test_a_run_does_not_differ_from_itself() -> None:
    one = times(*(1.0 + n % 7 for n in range(40)))
    found = compared(one, one)
    assert found.e2e_s.verdict == "no difference shown"
    assert found.changes == ()


def test_the_interval_is_welchs() -> None:
    """Equal sizes and variances give 38 degrees of freedom, for which tables say 2.0244."""
    one, other = [float(n) for n in range(20)], [n + 7.0 for n in range(20)]
    found = compared(times(*one), times(*other)).e2e_s
    half = 2.0244 * math.sqrt(2 * statistics.variance(one) / 20)
    assert found.low == pytest.approx(7 - half, abs=1e-3)
    assert found.high == pytest.approx(7 + half, abs=1e-3)


@pytest.mark.parametrize(("freedom", "point"), [(10, 2.2281), (20, 2.0860), (60, 2.0003), (1e9, 1.96)])
def test_points_of_the_t_distribution_are_those_of_the_tables(freedom: float, point: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(point, abs=2e-4)


def test_equal_values_differ_for_sure() -> None:
    found = compared(times(*[1.0] * 20), times(*[2.0] * 20)).e2e_s
    assert (found.low, found.high) == (1.0, 1.0)


def test_a_step_of_one_run_only_has_no_difference() -> None:
    other = PipelineSeen(0.0, "p", ("b",), ("fn",), ((),))
    found = compared(times(1.0), [other, JobEnded(1.0, 0, "p", "done", 0.0, 0.0, (0.0, 1.0))])
    assert [step.step for step in found.steps] == ["a", "b"]
    assert found.steps[0].time_s.why == "not seen in both"


def test_what_the_runs_were_run_with_is_compared_by_name() -> None:
    changes = compared([], [], policy="slack", packages={"numpy": "2.0"}, started="later").changes
    assert [(change.name, change.a, change.b) for change in changes] == [
        ("packages", {}, None),
        ("policy", "", "slack"),
        ("packages.numpy", None, "2.0"),
    ]


def test_jobs_are_counted_by_outcome() -> None:
    found = compared(times(1.0, 1.0), [PLAN, JobEnded(1.0, 0, "p", "rejected", 0.0)])
    assert found.jobs == {"done": (2, 0), "failed": (0, 0), "rejected": (0, 1), "cancelled": (0, 0)}


def test_service_and_tokens_of_steps_are_compared(recorded: Any) -> None:
    pipeline = Pipeline("p", answer=generate("{q}", max_tokens=4))
    runs = [
        recorded(
            pipeline,
            [{"q": str(n)} for n in range(30)],
            {"llm": FakeEngine(answer=lambda _: "a b c d", ttft_s=ttft_s)},
        )
        for ttft_s in (1.0, 3.0)
    ]
    both = sorted(runs, key=lambda run: next(e.t for e in run.events() if isinstance(e, JobEnded)))
    found = diff_runs(both[0].manifest, both[0].events(), both[1].manifest, both[1].events())
    (step,) = found.steps
    assert step.service_s.difference == pytest.approx(2.0)
    assert step.service_s.verdict == "more"
    assert step.completion_tokens.difference == 0.0
