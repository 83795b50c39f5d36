"""Figures of a load, from requests written by hand: each formula, each reason to doubt, each thing left unsaid."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import InputError
from sage.bench.metrics import LoadSummary, Metric, isolation, metric_of, speed_up, summarize_load
from sage.bench.records import Request
from sage.bench.slo import Slo, parse_slo


def request(number: int = 0, **said: Any) -> Request:
    """A request of five tokens: due at 0, sent at 0.1, answered from 0.5 to 0.9, a chunk a token."""
    usual: dict[str, Any] = {
        "outcome": "done",
        "scheduled": 0.0,
        "handed": 0.0,
        "dispatched": 0.1,
        "first": 0.5,
        "last": 0.9,
        "ended": 1.0,
        "chunks": (0.5, 0.6, 0.7, 0.8, 0.9),
        "prompt_tokens": 10,
        "output_tokens": 5,
        "tokens_from": "server",
        "endpoint": "e",
        "pipeline": "serve",
    }
    return Request(**{"id": number, **usual, **said})


def failed(number: int = 0, **said: Any) -> Request:
    nothing: dict[str, Any] = {
        "first": None,
        "last": None,
        "chunks": (),
        "output_tokens": 0,
        "tokens_from": "",
    }
    return request(number, **{"outcome": "failed", "error": "failed 500", **nothing, **said})


def kinds(summary: LoadSummary) -> list[str]:
    return [flag.kind for flag in summary.flags]


# ---- formulas


def test_every_time_is_counted_from_the_moment_its_name_says() -> None:
    found = summarize_load([request(scheduled=-0.2, handed=-0.1)])
    assert found.ttft_s.mean == pytest.approx(0.4)
    assert found.ttft_sched_s.mean == pytest.approx(0.7)
    assert found.tpot_s.mean == pytest.approx(0.1)
    assert found.e2e_s.mean == pytest.approx(0.8)
    assert found.e2e_sched_s.mean == pytest.approx(1.1)
    assert found.lag_s.mean == pytest.approx(0.1)
    assert found.queue_s.mean == pytest.approx(0.2)
    assert found.window_s == pytest.approx(1.2)
    assert found.requests_per_s == pytest.approx(1 / 1.2)
    assert found.output_tokens_per_s == pytest.approx(5 / 1.2)
    assert found.total_tokens_per_s == pytest.approx(15 / 1.2)


def test_gaps_between_chunks_and_between_tokens_differ_where_a_chunk_holds_several() -> None:
    found = summarize_load([request(chunks=(0.5, 0.9), chunk_tokens=(1, 4))])
    assert found.tbt_s.mean == pytest.approx(0.4)
    assert found.itl_s.n == 4
    assert found.itl_s.mean == pytest.approx(0.1)
    assert found.tpot_s.mean == pytest.approx(0.1)


def test_tokens_of_chunks_that_nobody_counted_are_left_out_and_said() -> None:
    found = summarize_load([request(chunks=(0.5, 0.9)), request(1)])
    assert found.itl_s.n == 4
    assert "1 of 2 answers" in found.itl_s.why["n"]
    assert found.tbt_s.n == 5


def test_the_answer_of_a_job_of_several_calls_is_its_last_call() -> None:
    found = summarize_load([request(output_tokens=105, answer_tokens=5)])
    assert found.tpot_s.mean == pytest.approx(0.1)
    assert found.output_tokens == 105


def test_an_answer_of_one_token_has_no_pace() -> None:
    found = summarize_load([request(chunks=(0.5,), last=0.5, output_tokens=1)])
    assert (found.tpot_s.n, found.itl_s.n, found.tbt_s.n) == (0, 0, 0)
    assert found.ttft_s.n == 1


def test_warm_up_is_in_no_figure() -> None:
    alone = summarize_load([request()])
    both = summarize_load([request(5, scheduled=-9.0, handed=-9.0, warmup=True), request()])
    assert both == msgspec.structs.replace(alone, warmup=1)


def test_a_failure_counts_as_endless_and_never_vanishes() -> None:
    found = summarize_load([request(n) for n in range(90)] + [failed(n) for n in range(90, 100)])
    assert found.e2e_sched_s.p90 == pytest.approx(0.9)
    assert found.adjusted_e2e_sched_s.n == 100
    assert found.adjusted_e2e_sched_s.p50 == pytest.approx(0.9)
    assert found.adjusted_e2e_sched_s.p95 is None
    assert "10 of 100 did not end well" in found.adjusted_e2e_sched_s.why["p95"]
    assert found.errors == {"failed 500": 10}
    assert "failures" in kinds(found)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=120), st.integers(0, 20))
def test_percentiles_are_those_of_numpy_and_lie_in_their_interval(sample: list[float], endless: int) -> None:
    found = metric_of(sample, endless=endless)
    whole = np.array([*sample, *[1e9] * endless])  # stands for endless, with which numpy cannot interpolate
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95)):
        value = getattr(found, name)
        if value is not None:
            assert value == pytest.approx(float(np.quantile(whole, share)))
        if name in found.intervals:
            assert found.intervals[name][0] <= value <= found.intervals[name][1]
    ordered = [value for value in (found.p50, found.p90, found.p95) if value is not None]
    assert ordered == sorted(ordered)


def test_the_most_in_flight_and_the_mean_are_from_dispatched_to_last() -> None:
    found = summarize_load([request(0), request(1, dispatched=0.5), request(2, dispatched=0.8)])
    assert found.in_flight.most == 3
    assert found.in_flight.mean == pytest.approx(0.8 + 0.4 + 0.1)


def test_a_request_that_begins_when_another_ends_is_not_beside_it() -> None:
    found = summarize_load(
        [request(0), request(1, dispatched=0.9, first=1.2, last=1.5, chunks=(1.2,), ended=1.5)]
    )
    assert found.in_flight.most == 1


# ---- objectives


SLO = Slo(ttft_s=0.6, tpot_s=0.2, e2e_s=1.0)


@pytest.mark.parametrize(
    ("one", "good"),
    [
        (request(), True),
        (request(scheduled=-0.2), False),  # it waited longer than it was served
        (request(last=1.5), False),
        (failed(), False),
        (request(outcome="timeout"), False),
        (request(outcome="rejected"), False),
        (request(chunks=(0.5,), last=0.5, output_tokens=1), True),  # no second token to be late
        (request(first=None, last=0.9, chunks=(), output_tokens=0), False),  # never a first token
    ],
)
def test_a_request_is_good_when_it_met_every_objective_from_its_scheduled_start(
    one: Request, good: bool
) -> None:
    found = summarize_load([one], slo=SLO).goodput
    assert found is not None
    assert (found.attainment.good, found.attainment.n) == (int(good), 1)


def test_goodput_is_over_the_window_and_over_all_requests() -> None:
    found = summarize_load([request(0), request(1, last=1.9, ended=2.0), failed(2)], slo=SLO).goodput
    assert found is not None
    assert found.per_s == pytest.approx(0.5)
    assert found.attainment.share == pytest.approx(1 / 3)
    assert found.by_work == pytest.approx(1 / 3)


def test_the_worst_class_is_named() -> None:
    found = summarize_load(
        [request(0, tenant="a"), request(1, tenant="b", last=9.0, ended=9.0)], slo=SLO
    ).goodput
    assert found is not None
    assert (found.worst_class, found.worst_attainment) == ("serve/b", 0.0)


def test_what_we_cancelled_is_judged_by_nobody() -> None:
    found = summarize_load(
        [request(0), failed(1, outcome="cancelled", error=None)], slo=SLO, interrupted=True
    )
    assert found.goodput is not None
    assert found.goodput.attainment.n == 1
    assert found.status == "partial"


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (["ttf:500"], "did you mean 'ttft'"),
        (["ttft"], "expected ttft:MILLISECONDS"),
        (["ttft:fast"], "expected ttft:MILLISECONDS"),
        (["ttft:0"], "above 0"),
        (["tpot:-3"], "above 0"),
        (["e2el:inf"], "above 0"),
        (["ttft:1 ttft:2"], "stands twice"),
        (["e2e:1", "e2el:2"], "stands twice"),
    ],
)
def test_objectives_that_cannot_be_are_refused(said: list[str], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        parse_slo(said)


def test_no_objective_is_none() -> None:
    assert parse_slo([]) is None
    assert summarize_load([request()]).goodput is None


# ---- what a reader must know


def test_nothing_counted_is_vacuous() -> None:
    found = summarize_load([])
    assert (found.status, kinds(found)) == ("failed", ["vacuous"])
    assert found.requests_per_s is None


def test_nothing_answered_is_vacuous_and_says_why() -> None:
    found = summarize_load([failed(n, error="unreachable") for n in range(3)])
    assert (found.status, kinds(found)) == ("failed", ["vacuous"])
    assert "none of 3 requests was answered, 3 of them: unreachable" in found.flags[0].text
    assert found.ttft_s == Metric(n=0, why={"n": "nothing was seen"})


def test_one_request_has_a_median_and_nothing_beyond_its_sample() -> None:
    found = summarize_load([request()])
    assert found.e2e_s.p50 is not None
    assert (found.e2e_s.std, found.e2e_s.p90, found.e2e_s.p99) == (None, None, None)
    assert found.e2e_s.why["p99"] == "n too small: 1 of 368"
    assert found.e2e_s.intervals == {}


def test_no_token_at_all_is_said() -> None:
    found = summarize_load([request(first=None, last=1.0, chunks=(), output_tokens=0)])
    assert kinds(found) == ["empty_answers"]
    assert (found.ttft_s.n, found.e2e_s.n) == (0, 1)


def test_missing_counts_are_said() -> None:
    assert kinds(summarize_load([request(tokens_from="pieces")])) == ["no_usage"]


def test_answers_shorter_than_asked_for_are_said() -> None:
    assert kinds(summarize_load([request()], wanted_tokens=6)) == ["short_answers"]
    assert kinds(summarize_load([request()], wanted_tokens=5)) == []


def test_a_late_generator_is_said() -> None:
    late = [request(n, scheduled=-0.1) for n in range(10)]
    found = summarize_load(late, open_loop=True)
    assert found.status == "generator_limited"
    assert "left 100.0 ms late" in found.flags[0].text
    slow_server = [request(n, scheduled=-0.004) for n in range(10)]
    assert summarize_load(slow_server, open_loop=True).status == "complete"


def test_a_generator_that_falls_behind_its_schedule_is_said() -> None:
    slow = [request(n, scheduled=n / 1000, handed=n / 950, dispatched=n / 950 + 0.1) for n in range(50)]
    found = summarize_load(slow, open_loop=True)
    assert "was to send 1000" in found.flags[0].text
    assert summarize_load(slow).flags == ()  # a closed loop has no schedule to fall behind


def later(number: int, wait: float) -> Request:
    due = number / 10
    times = {"scheduled": due, "handed": due, "dispatched": due + wait, "first": due + wait + 0.4}
    return request(number, **times, last=due + wait + 0.5, ended=due + wait + 0.5, chunks=())


def test_requests_that_come_faster_than_they_are_served_are_said() -> None:
    found = summarize_load([later(n, n / 10) for n in range(40)], open_loop=True)
    assert kinds(found) == ["overloaded"]
    assert "10 requests a second came and 5 were served" in found.flags[0].text
    assert summarize_load([later(n, 1.0) for n in range(40)], open_loop=True).flags == ()


def test_a_warm_prefix_cache_is_said_and_a_shared_beginning_is_not() -> None:
    warm = [request(n, cached_tokens=9) for n in range(4)]
    assert kinds(summarize_load(warm, cold_cached_tokens=0)) == ["warm_prefix_cache"]
    assert kinds(summarize_load(warm, cold_cached_tokens=36)) == []
    assert kinds(summarize_load(warm)) == []  # nobody knows what a cold one would have


def test_a_warm_up_below_the_concurrency_is_said() -> None:
    found = summarize_load([request(9, warmup=True), request(0), request(1)])
    assert "say --num-warmups 2" in found.flags[0].text


# ---- over runs


def test_speed_up_needs_a_single_one() -> None:
    assert speed_up({2: 4.0}) == {}
    assert speed_up({1: 2.0, 8: 8.0})[8] == (4.0, 0.5)


def test_isolation_is_by_pipeline() -> None:
    assert isolation({"a": 2.0, "b": 1.0}, {"a": 1.0}) == {"a": 2.0}
