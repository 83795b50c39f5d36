"""The core as events in, commands out: jobs, tasks, endpoints."""

from __future__ import annotations

import random

import pytest

from sage.errors import InternalError
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import Admit, GiveUp, JobArrived, Start, TaskDropped, Tick
from sage.scheduling.policy import Policy
from sage.scheduling.views import JobView
from sage.testing.desk import Desk, open_desk, started


def test_a_job_under_the_limit_is_let_in_at_once() -> None:
    assert Desk().arrive(7) == [Admit(7)]


def test_a_job_over_the_limit_waits_and_gets_the_place_of_one_that_is_over() -> None:
    desk = Desk("max_inflight=1")
    assert desk.arrive(1) == [Admit(1)]
    assert desk.arrive(2) == desk.arrive(3) == []
    assert desk.over(1) == [Admit(2)]
    assert desk.over(2) == [Admit(3)]
    assert desk.over(3) == []


def test_a_waiting_job_that_is_over_leaves_the_line() -> None:
    desk = Desk("max_inflight=1")
    for job in (1, 2, 3):
        desk.arrive(job)
    assert desk.over(2) == []
    assert desk.over(1) == [Admit(3)]


def test_runs_do_not_share_their_limits() -> None:
    desk = Desk("max_inflight=1")
    assert desk.arrive(1, "a") == [Admit(1)]
    assert desk.arrive(2, "b") == [Admit(2)]
    assert desk.arrive(3, "a") == []


def test_a_run_may_have_a_limit_of_its_own() -> None:
    desk = Desk("max_inflight=1")
    assert desk.arrive(1, max_inflight=2) == [Admit(1)]
    assert desk.arrive(2, max_inflight=2) == [Admit(2)]
    assert desk.arrive(3, max_inflight=2) == []


def test_a_task_starts_when_an_endpoint_has_room() -> None:
    desk = open_desk()
    desk.join("a")
    assert desk.ready(1) == [Start((1,), "a")]
    assert desk.ready(2) == []
    assert desk.done(1) == [Start((2,), "a")]


def test_tasks_wait_for_the_first_endpoint_of_their_pool() -> None:
    desk = open_desk()
    desk.join("e", "embedder")
    assert desk.ready(1) == []
    assert desk.join("a", limit=2) == [Start((1,), "a")]


def test_fifo_starts_the_task_that_was_ready_first() -> None:
    desk = open_desk("fifo")
    desk.ready(2)
    desk.now += 1
    desk.ready(1)
    assert started(desk.join("a", limit=2)) == [((2,), "a"), ((1,), "a")]


def test_job_fifo_starts_the_task_of_the_job_that_arrived_first() -> None:
    desk = open_desk("order=job_fifo")
    desk.arrive(2)
    desk.ready(1, job=2)
    desk.ready(2, job=1)
    assert started(desk.join("a", limit=2)) == [((2,), "a"), ((1,), "a")]


def test_an_endpoint_that_left_gets_no_call_and_its_running_one_is_accounted_to_the_end() -> None:
    desk = open_desk()
    desk.join("a", limit=2)
    desk.ready(1)
    desk.leave("a")
    assert desk.ready(2) == []
    assert [(view.name, view.in_flight, view.state) for view in desk.scheduler.snapshot().endpoints] == [
        ("a", 1, "draining")
    ]
    desk.done(1)
    assert desk.scheduler.snapshot().endpoints == ()


def test_an_endpoint_that_comes_back_still_counts_its_running_call() -> None:
    desk = open_desk()
    desk.join("a", limit=1)
    desk.ready(1)
    desk.leave("a")
    desk.ready(2)
    assert desk.join("a", limit=1) == []
    assert desk.done(1) == [Start((2,), "a")]


def test_joining_again_changes_the_limit_both_ways() -> None:
    desk = open_desk()
    desk.join("a", limit=1)
    for task in (1, 2, 3):
        desk.ready(task)
    assert started(desk.join("a", limit=3)) == [((2,), "a"), ((3,), "a")]
    desk.join("a", limit=1)
    desk.ready(4)
    assert desk.done(1) == desk.done(2) == []
    assert desk.done(3) == [Start((4,), "a")]


def test_the_end_of_a_job_drops_its_queued_tasks() -> None:
    desk = open_desk()
    desk.arrive(2)
    desk.ready(1, job=1)
    desk.ready(2, job=2)
    assert desk.over(1) == []
    assert started(desk.join("a", limit=2)) == [((2,), "a")]


def test_a_dropped_task_does_not_start_and_its_job_goes_on() -> None:
    desk = open_desk()
    desk.ready(1)
    desk.ready(2)
    assert desk.tell(TaskDropped(1)) == []
    assert started(desk.join("a", limit=2)) == [((2,), "a")]


def test_an_aborted_task_frees_its_slot_and_is_given_up() -> None:
    desk = open_desk()
    desk.join("a")
    desk.ready(1)
    desk.ready(2)
    assert desk.fail(1) == [GiveUp(1, 1, "cancelled"), Start((2,), "a")]


def test_a_tick_that_nobody_asked_for_changes_nothing() -> None:
    desk = open_desk()
    desk.join("a")
    before = desk.scheduler.snapshot()
    assert desk.tell(Tick()) == []
    assert desk.scheduler.snapshot() == before


def test_the_snapshot_counts_what_is_there() -> None:
    desk = Desk("max_inflight=1")
    desk.arrive(1)
    desk.arrive(2)
    desk.join("a")
    for task in (1, 2, 3):
        desk.ready(task, in_tokens=5, max_out_tokens=2)
    desk.fail(1, "unreachable")
    seen = desk.scheduler.snapshot()
    assert (seen.admitted, seen.waiting, seen.running, seen.delayed, seen.queued) == (1, 1, 1, 1, {"llm": 1})
    assert [(view.in_flight, view.in_flight_tokens, view.limit) for view in seen.endpoints] == [(1, 7, 1)]


def test_everything_is_forgotten_when_everything_is_over() -> None:
    desk = open_desk()
    desk.join("a")
    for task in range(1, 200):
        desk.ready(task)
    for task in range(1, 100):
        desk.done(task)
    desk.fail(100)
    desk.fail(101)
    desk.done(102)
    desk.fail(103, "failed")
    while running := [task for task, work in desk.scheduler._tasks.items() if work.state == "running"]:
        desk.done(running[0])
    desk.over(1)
    seen = desk.scheduler.snapshot()
    assert (seen.admitted, seen.running, seen.delayed, seen.queued) == (0, 0, 0, {"llm": 0})


def test_a_second_end_of_a_task_is_refused() -> None:
    desk = open_desk()
    desk.join("a")
    desk.ready(1)
    desk.done(1)
    with pytest.raises(InternalError, match="task 1 ended, but it has ended already"):
        desk.done(1)


def test_the_end_of_a_task_that_still_queues_is_refused() -> None:
    desk = open_desk()
    desk.ready(1)
    with pytest.raises(InternalError, match="is queued, not running"):
        desk.done(1)


def test_a_task_of_a_job_that_was_not_let_in_is_refused() -> None:
    with pytest.raises(InternalError, match="is of job 1, which is not let in"):
        Desk().ready(1)


def test_a_task_that_is_ready_twice_is_refused() -> None:
    desk = open_desk()
    desk.ready(1)
    with pytest.raises(InternalError, match="ready twice"):
        desk.ready(1)


def test_a_job_that_is_over_while_a_task_runs_is_refused() -> None:
    desk = open_desk()
    desk.join("a")
    desk.ready(1)
    with pytest.raises(InternalError, match="its task 1 is still running"):
        desk.over(1)


def test_the_second_end_of_a_job_is_refused() -> None:
    desk = open_desk()
    desk.over(1)
    with pytest.raises(InternalError, match="over already"):
        desk.over(1)


def test_a_running_task_cannot_be_dropped() -> None:
    desk = open_desk()
    desk.join("a")
    desk.ready(1)
    with pytest.raises(InternalError, match="abort it"):
        desk.tell(TaskDropped(1))


def test_an_unknown_endpoint_cannot_leave_and_a_known_one_cannot_change_its_pool() -> None:
    desk = open_desk()
    with pytest.raises(InternalError, match="had not joined"):
        desk.leave("a")
    desk.join("a")
    with pytest.raises(InternalError, match="but is in 'llm'"):
        desk.join("a", "embedder")


def test_time_does_not_go_back() -> None:
    scheduler = Scheduler(Policy(), random.Random(0))
    scheduler.handle(JobArrived(JobView(1, "r", "p", 2.0)), 2.0)
    with pytest.raises(AssertionError, match="time went back"):
        scheduler.handle(Tick(), 1.0)


def test_a_job_that_arrives_twice_is_refused() -> None:
    with pytest.raises(InternalError, match="job 1 arrived twice"):
        open_desk().arrive(1)
