"""Retries: which failures, when, and how many of them."""

from __future__ import annotations

import random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import EngineError, EngineFault
from sage.scheduling.messages import Command, GiveUp, Retry, Start, TaskFailed, WakeAt
from sage.scheduling.retry import BACKOFF_S, MAX_BACKOFF_S, RESERVE, RETRYABLE, Budget, Retries
from sage.testing.desk import Desk, open_desk, started


def running(policy: str = "load_aware", **fields: Any) -> Desk:
    """A desk where task 1 runs on endpoint a."""
    desk = open_desk(policy)
    desk.join("a")
    desk.ready(1, **fields)
    return desk


def the_retry(commands: list[Command]) -> Retry:
    return next(command for command in commands if isinstance(command, Retry))


def test_a_retryable_failure_is_tried_again_after_its_delay() -> None:
    desk = running()
    retry, wake = desk.fail(1, "unreachable")
    assert isinstance(retry, Retry)
    assert wake == WakeAt(desk.now + retry.delay_s)
    assert (retry.attempt, 0 <= retry.delay_s <= BACKOFF_S) == (1, True)
    assert desk.tick(desk.now + retry.delay_s / 2) == []
    assert desk.tick(wake.time) == [Start((1,), "a")]


def test_any_event_after_the_delay_serves_as_the_tick() -> None:
    desk = running()
    wake_at = desk.now + the_retry(desk.fail(1, "unreachable")).delay_s
    desk.now = wake_at + 1
    assert started(desk.arrive(2)) == [((1,), "a")]


def test_a_retried_task_keeps_its_place() -> None:
    desk = running()
    desk.ready(2)
    desk.ready(3)
    desk.fail(1, "unreachable")
    desk.tick(desk.now + MAX_BACKOFF_S)
    assert desk.done(2) == [Start((1,), "a")]


def test_attempts_are_counted_up_to_those_allowed() -> None:
    desk = running()
    for attempt in (1, 2):
        assert the_retry(desk.fail(1, "failed")).attempt == attempt
        desk.tick(desk.now + MAX_BACKOFF_S)
    assert desk.fail(1, "failed") == [GiveUp(1, 3, "all 3 attempts are used")]


def test_a_step_may_allow_itself_one_attempt() -> None:
    assert running().fail(1, "failed", attempts_allowed=1) == [GiveUp(1, 1, "its only attempt is used")]


@pytest.mark.parametrize("fault", [*get_args(EngineFault), None])
def test_only_faults_that_may_pass_are_retried(fault: EngineFault | None) -> None:
    retried = any(isinstance(command, Retry) for command in running().fail(1, fault))
    assert retried == (fault in RETRYABLE)


def test_what_an_engine_error_calls_retryable_is_retried() -> None:
    retryable = {fault for fault in get_args(EngineFault) if EngineError("x", fault=fault).retryable}
    assert RETRYABLE - retryable == {"stalled", "garbled"}  # restarted where nobody saw a token
    assert retryable <= RETRYABLE


def test_an_answer_that_was_seen_in_part_is_not_tried_again() -> None:
    assert running().fail(1, "stalled", seen_tokens=True) == [GiveUp(1, 1, "its tokens were seen already")]


def test_retry_after_is_obeyed() -> None:
    assert the_retry(running().fail(1, "overloaded", 7.5)).delay_s == 7.5


def test_retry_after_is_capped_by_the_deadline() -> None:
    assert the_retry(running(deadline=102.0).fail(1, "overloaded", 7.5)).delay_s == 2.0


def test_a_deadline_that_has_passed_caps_nothing() -> None:
    assert the_retry(running(deadline=99.0).fail(1, "overloaded", 7.5)).delay_s == 7.5


def test_a_delayed_retry_is_dropped_with_its_job() -> None:
    desk = running()
    desk.fail(1, "unreachable")
    assert desk.over(1) == []
    assert desk.tick(desk.now + 60) == []


def test_a_job_may_be_over_at_the_very_moment_its_retry_is_due() -> None:
    desk = running()
    desk.now += the_retry(desk.fail(1, "unreachable")).delay_s
    assert desk.over(1) == []


def test_a_later_retry_is_woken_too_although_an_earlier_one_was_asked_for_first() -> None:
    desk = running()
    desk.fail(1, "overloaded", 1.0)
    desk.ready(2)
    assert desk.fail(2, "overloaded", 5.0) == [Retry(2, 1, 5.0)]
    assert desk.tick(desk.now + 1.0) == [Start((1,), "a"), WakeAt(105.0)]


def test_tasks_that_failed_in_one_call_are_tried_again_in_one_call() -> None:
    desk = open_desk()
    desk.join("e", "embedder")
    for task in (1, 2, 3):
        desk.embed(task)
    desk.done(1)
    retries = [the_retry(desk.fail(task, "timeout")) for task in (2, 3)]
    assert retries[0].delay_s == retries[1].delay_s
    assert started(desk.tick(desk.now + retries[0].delay_s)) == [((2, 3), "e")]


def test_the_budget_stops_retries_and_is_filled_by_calls() -> None:
    retries, endpoint = Retries(0.1, random.Random(0)), Budget(0.1)
    failed = TaskFailed(1, "failed")
    granted = 0
    while retries.refusal(failed, 1, endpoint, paid=False) is None:
        retries.next_call(failed, 1, endpoint, 0.0)
        granted += 1
    assert granted == RESERVE
    assert "10% of calls" in str(retries.refusal(failed, 1, endpoint, paid=False))
    for _ in range(11):
        retries.called(endpoint)
    assert retries.refusal(failed, 1, endpoint, paid=False) is None


def test_a_bad_endpoint_spends_its_own_budget_not_that_of_others() -> None:
    retries, bad, good = Retries(0.1, random.Random(0)), Budget(0.1), Budget(0.1)
    failed = TaskFailed(1, "failed")
    for _ in range(int(RESERVE)):
        retries.next_call(failed, 1, bad, 0.0)
    for _ in range(500):
        retries.called(good)
    assert "of this endpoint" in str(retries.refusal(failed, 1, bad, paid=False))
    assert retries.refusal(failed, 1, good, paid=False) is None


def test_without_a_budget_retries_go_on() -> None:
    retries, endpoint = Retries(None, random.Random(0)), Budget(None)
    for _ in range(1000):
        retries.next_call(TaskFailed(1, "failed"), 1, endpoint, 0.0)
    assert retries.refusal(TaskFailed(1, "failed"), 1, endpoint, paid=False) is None


@given(seed=st.integers(0, 2**32), attempt=st.integers(1, 40), after_s=st.none() | st.floats(0, 1e4))
def test_the_delay_is_full_jitter_and_never_before_the_engine_said(
    seed: int, attempt: int, after_s: float | None
) -> None:
    retries = Retries(0.1, random.Random(seed))
    delay_s = retries.next_call(TaskFailed(1, "overloaded", after_s), attempt, Budget(0.1), 50.0) - 50.0
    bound_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1))
    assert (after_s or 0.0) - 1e-9 <= delay_s <= max(bound_s, after_s or 0.0) + 1e-9


def test_a_task_whose_worker_is_lost_is_tried_at_once_and_charges_no_budget() -> None:
    retries = Retries(0.0, random.Random(0))
    budget = Budget(0.0)
    lost = TaskFailed(1, fault="lost", attempts_allowed=8)
    for attempt in range(1, 8):
        assert retries.refusal(lost, attempt, budget, paid=False) is None
        assert retries.next_call(lost, attempt, budget, now=3.0) == 3.0
    assert retries.refusal(lost, 8, budget, paid=False) == "all 8 attempts are used"
    assert not budget.is_spent
