from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.events import Event, JobEnded, Notice, PipelineSeen, RunEnded, TaskEnded, TaskRetried
from sage.runtime.figures import LEAST
from sage.runtime.summary import Summary, percentile, stat_of, summarize, wilson

PLAN = PipelineSeen(0.0, "rag", ("vector", "answer"), ("embed", "generate"), ((), ("vector",)))


def job(number: int, *, arrived: float = 0.0, end: float = 1.0, **more: Any) -> JobEnded:
    return JobEnded(end, number, "rag", **{"outcome": "done", "arrived": arrived, **more})


def task(number: int, **more: Any) -> TaskEnded:
    said: dict[str, Any] = {
        "pool": "llm",
        "endpoint": "llm-0",
        "outcome": "done",
        "ready": 0.1,
        "dispatched": 0.3,
    }
    return TaskEnded(more.pop("t", 0.9), number, more.pop("step", "answer"), **{**said, **more})


LOG: list[Event] = [
    PLAN,
    task(0, step="vector", pool="embedder", endpoint="e", ready=0.0, dispatched=0.0, t=0.1, prompt_tokens=5),
    TaskRetried(0.35, 0, "answer", "llm-1", 1, 0.1, "503"),
    task(0, outcome="failed", endpoint="llm-1", t=0.35, prompt_tokens=7, completion_tokens=1),
    task(
        0,
        first=0.5,
        pieces=(0.5, 0.6, 0.8),
        prompt_tokens=10,
        completion_tokens=4,
        cached_tokens=8,
        attempt=2,
    ),
    Notice(0.9, "fit", "2 passages left out", 0, "answer"),
    job(0, deadline=1.0, stamps=(0.0, 0.1, 0.1, 0.9)),
    task(1, first=1.2, pieces=(1.2,), ready=1.0, dispatched=1.1, t=1.4, completion_tokens=6),
    job(1, arrived=1.0, end=2.0, outcome="failed", step="answer", deadline=3.0, stamps=(1.0, 1.0, 1.0, None)),
    job(2, arrived=1.0, end=1.0, outcome="rejected"),
    RunEnded(2.0, "complete"),
]


def test_a_log_becomes_figures() -> None:
    found = summarize(LOG)
    assert found.status == "complete"
    assert found.faults == ()
    assert found.jobs == {"done": 1, "failed": 1, "rejected": 1, "cancelled": 0}
    assert found.window_s == 2.0
    assert found.e2e_s.mean == 1.0
    assert found.e2e_s.n == 1
    assert (found.in_time.good, found.in_time.n) == (1, 2)
    assert found.jobs_per_s == 0.5
    assert found.out_tokens_per_s == 2.0  # the failed job's tokens and the failed call's are no success
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens) == (22, 11, 8)
    assert found.retries == {"llm-1": 1}
    assert found.notices == {"fit": 1}


def test_pace_is_of_calls_that_were_done() -> None:
    found = summarize(LOG)
    assert found.ttft_s.n == 2
    assert found.ttft_s.mean == pytest.approx(0.15)
    assert found.tpot_s.n == 1
    assert found.tpot_s.mean == pytest.approx((0.8 - 0.5) / 3)
    assert found.tbt_s.n == 2
    assert found.worst_tbt_s.max == pytest.approx(0.2)


def test_steps_and_pools_have_their_own_figures() -> None:
    found = summarize(LOG)
    vector, answer = found.steps
    assert (vector.operator, vector.ms.n, vector.calls, vector.retries) == ("embed", 2, 1, 0)
    assert vector.ms.mean == pytest.approx(50.0)
    assert (answer.operator, answer.ms.n, answer.calls, answer.retries) == ("generate", 1, 3, 1)
    embedder, llm = found.pools
    assert embedder.pool == "embedder"
    assert llm.tasks == {"failed": 1, "done": 2}
    assert llm.endpoints == {"llm-0": 2}
    assert llm.queue_s.mean == pytest.approx(0.15)
    assert llm.service_s.max == pytest.approx(0.6)


def test_a_summary_is_json_and_comes_back() -> None:
    found = summarize(LOG)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Summary) == found


def test_failures_count_as_endless_in_the_adjusted_percentiles() -> None:
    outcomes = ["failed"] * 40 + ["done"] * 360
    events: list[Event] = [PLAN]
    events += [job(n, arrived=n, end=n + 1, outcome=outcome) for n, outcome in enumerate(outcomes)]
    found = summarize([*events, RunEnded(401.0, "complete")])
    assert found.e2e_s.p95 == 1.0
    assert found.adjusted_e2e_s.n == 400
    assert found.adjusted_e2e_s.p50 == 1.0
    assert found.adjusted_e2e_s.p95 is None
    assert found.adjusted_e2e_s.why["p95"] == "40 of 400 did not end well"
    assert found.adjusted_e2e_s.mean is None


def test_an_empty_log_has_no_figures_and_no_faults() -> None:
    found = summarize([])
    assert (found.status, found.faults, found.jobs_per_s, found.e2e_s.n) == ("unfinished", (), None, 0)
    assert found.in_time.share is None


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([PLAN, job(0), job(0)], "job 0 ended twice"),
        ([PLAN, job(0), job(2), RunEnded(1.0, "complete")], "1 of 3 jobs never ended, first job 1"),
        ([PLAN, job(0), task(1), RunEnded(1.0, "partial")], "1 of 2 jobs never ended, first job 1"),
        ([job(0)], "pipeline 'rag' is not described"),
        ([PLAN, job(0, stamps=(0.0, 1.0))], "2 stamps for 2 steps"),
        ([PLAN, job(0, arrived=2.0)], "job 0: times out of order: 2.000000, 1.000000"),
        ([PLAN, job(0, admitted=1.5)], "times out of order"),
        ([PLAN, job(0, stamps=(0.0, 0.5, 0.5, 1.5))], "job 0, step 'answer': times out of order"),
        ([PLAN, task(0, ready=0.4), job(0)], "job 0, step 'answer': times out of order"),
        ([PLAN, task(0, first=0.2), job(0)], "times out of order"),
        ([PLAN, task(0, first=0.5, pieces=(0.5, 1.5)), job(0)], "times out of order"),
    ],
)
def test_an_impossible_log_is_named(events: list[Event], says: str) -> None:
    assert any(says in fault for fault in summarize(events).faults)


def test_a_log_without_an_end_may_lack_jobs() -> None:
    assert summarize([PLAN, job(1)]).faults == ()


def test_jobs_counted_elsewhere_are_compared() -> None:
    assert summarize(LOG, num_arrived=3).faults == ()
    assert summarize(LOG, num_arrived=4).faults == ("4 jobs arrived, 3 ended",)


def test_faults_are_bounded() -> None:
    found = summarize([PLAN, *(job(n, arrived=2.0) for n in range(100))])
    assert len(found.faults) == 21
    assert found.faults[-1] == "and more"


finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(finite, min_size=1), st.floats(0, 1))
def test_a_percentile_equals_numpys(sample: list[float], share: float) -> None:
    ours = percentile(sorted(sample), share)
    assert ours == pytest.approx(float(np.percentile(sample, share * 100)), rel=1e-9, abs=1e-6)


@given(st.lists(finite, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_percentiles_are_in_order_and_inside_the_sample(
    sample: list[float], one: float, other: float
) -> None:
    ordered = sorted(sample)
    low, high = sorted((one, other))
    assert ordered[0] <= percentile(ordered, low) <= percentile(ordered, high) <= ordered[-1]


@given(st.lists(finite, max_size=50), st.integers(0, 20), st.integers(1, 90))
def test_a_figure_is_given_or_the_reason_why_not(sample: list[float], endless: int, times: int) -> None:
    found = stat_of(sample * times, endless=endless)
    assert found.n == len(sample) * times + endless
    for name, (_, least) in LEAST.items():
        assert (getattr(found, name) is None) == (name in found.why or found.n == 0)
        assert found.n >= least or getattr(found, name) is None
    values = [getattr(found, name) for name in LEAST if getattr(found, name) is not None]
    assert values == sorted(values)
    if found.mean is not None and found.n > 1:
        assert found.mean == pytest.approx(float(np.mean(sample * times)), abs=1e-6)
        assert found.std == pytest.approx(float(np.std(sample * times, ddof=1)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "known"), [(1, []), (36, ["p90"]), (72, ["p90", "p95"]), (368, ["p90", "p95", "p99"])]
)
def test_a_percentile_needs_its_sample(n: int, known: list[str]) -> None:
    for size in (n - 1, n):
        found = stat_of([1.0] * size)
        given_names = [name for name in ("p90", "p95", "p99", "p999") if getattr(found, name) is not None]
        assert given_names == (known if size == n else known[:-1])
    assert stat_of([1.0] * 35).why["p90"] == "n too small: 35 of 36"


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilsons_interval_holds_the_share(good: int, n: int) -> None:
    found = wilson(min(good, n), n)
    assert found.share is not None
    assert found.low is not None
    assert found.high is not None
    assert -1e-12 <= found.low <= found.share + 1e-12
    assert found.share - 1e-12 <= found.high <= 1.0


def test_wilsons_interval_is_the_textbooks() -> None:
    found = wilson(81, 263)
    assert found.low is not None
    assert found.high is not None
    assert math.isclose(found.low, 0.2553, abs_tol=5e-4)
    assert math.isclose(found.high, 0.3662, abs_tol=5e-4)


any_outcome = st.sampled_from(["done", "failed", "rejected", "cancelled"])


@given(st.lists(st.tuples(any_outcome, st.floats(0, 100), st.floats(0, 100)), max_size=60))
def test_every_job_is_in_exactly_one_count(jobs: list[tuple[str, float, float]]) -> None:
    events: list[Event] = [PLAN]
    events += [
        job(number, arrived=arrived, end=arrived + took, outcome=outcome)
        for number, (outcome, arrived, took) in enumerate(jobs)
    ]
    found = summarize([*events, RunEnded(200.0, "complete")], num_arrived=len(jobs))
    assert found.faults == ()
    assert sum(found.jobs.values()) == len(jobs)
    assert found.e2e_s.n == found.jobs["done"]
    assert found.adjusted_e2e_s.n == len(jobs)
