"""Batching: who shares a call, and how long the first waits for company."""

from __future__ import annotations

import pytest

from sage.errors import InputError
from sage.scheduling.batch import Window
from sage.scheduling.messages import Start, TaskDropped, WakeAt
from sage.scheduling.views import BatchLimits
from sage.testing.desk import Desk, open_desk, started

WAITING = "batch=window(max_items=3,max_wait_ms=5)"


def embedder(policy: str, *, endpoints: int = 1) -> Desk:
    desk = open_desk(policy)
    for number in range(endpoints):
        desk.join(f"e{number}", "embedder")
    return desk


def test_a_lone_task_starts_at_once() -> None:
    assert embedder("load_aware").embed(1) == [Start((1,), "e0")]


def test_those_who_queued_while_the_endpoint_was_busy_share_the_next_call() -> None:
    desk = embedder("load_aware")
    for task in (1, 2, 3, 4):
        desk.embed(task)
    assert desk.done(1) == [Start((2, 3, 4), "e0")]


def test_tasks_of_different_jobs_share_a_call() -> None:
    desk = embedder("load_aware")
    desk.arrive(2)
    desk.embed(1)
    desk.embed(2, job=1)
    desk.embed(3, job=2)
    assert desk.done(1) == [Start((2, 3), "e0")]


def test_other_keys_and_none_do_not_share() -> None:
    desk = embedder("load_aware")
    for task, key in enumerate(("m", "m", "n", None, "m", None), start=1):
        desk.embed(task, key=key)
    assert started(desk.done(1)) == [((2, 5), "e0")]
    assert started(desk.done(2) + desk.done(5)) == [((3,), "e0")]
    assert started(desk.done(3)) == [((4,), "e0")]


def test_without_batching_every_task_has_its_own_call() -> None:
    desk = embedder("batch=none")
    for task in (1, 2, 3):
        desk.embed(task)
    assert desk.done(1) == [Start((2,), "e0")]


def test_a_call_takes_no_more_than_max_items() -> None:
    desk = embedder("batch=window(max_items=2)")
    for task in (1, 2, 3, 4):
        desk.embed(task)
    assert desk.done(1) == [Start((2, 3), "e0")]


def test_a_call_takes_no_more_than_max_tokens_but_one_large_task_goes_alone() -> None:
    desk = embedder("batch=window(max_tokens=25)")
    desk.embed(1)
    for task, tokens in ((2, 100), (3, 10), (4, 15), (5, 1)):
        desk.embed(task, in_tokens=tokens)
    assert desk.done(1) == [Start((2,), "e0")]
    assert desk.done(2) == [Start((3, 4), "e0")]


def test_a_step_may_tighten_the_limits_and_not_widen_them() -> None:
    window = Window(max_items=8, max_tokens=100)
    desk = embedder("batch=window(max_items=8,max_tokens=100)")
    for task in (1, 2, 3, 4):
        desk.embed(task, batch=BatchLimits(2, 1000))
    assert desk.done(1) == [Start((2, 3), "e0")]
    assert window.limits(desk.scheduler._tasks[4].view) == BatchLimits(2, 100, 0.0)


def test_the_slot_is_free_when_the_last_of_the_call_has_ended() -> None:
    desk = embedder("load_aware")
    for task in (1, 2, 3, 4):
        desk.embed(task)
    desk.done(1)
    desk.embed(5)
    assert started(desk.done(2)) == started(desk.fail(4)) == []
    assert desk.done(3) == [Start((5,), "e0")]


def test_with_a_wait_tasks_are_held_for_company_while_the_pool_works() -> None:
    desk = embedder(WAITING, endpoints=2)
    assert started(desk.embed(1)) == [((1,), "e0")]
    assert desk.embed(2) == [WakeAt(desk.now + 0.005)]
    assert desk.embed(3) == []
    assert started(desk.embed(4)) == [((2, 3, 4), "e1")]


def test_the_wait_is_bounded() -> None:
    desk = embedder(WAITING, endpoints=2)
    desk.embed(1)
    desk.embed(2)
    desk.now += 0.002
    desk.embed(3)
    assert started(desk.tick(desk.now + 0.003)) == [((2, 3), "e1")]


def test_nobody_is_held_on_an_idle_pool() -> None:
    desk = embedder(WAITING, endpoints=2)
    desk.embed(1)
    desk.embed(2)
    assert started(desk.done(1)) == [((2,), "e1")]


def test_others_pass_by_those_who_are_held() -> None:
    desk = embedder(WAITING, endpoints=2)
    desk.embed(1)
    desk.embed(2)
    assert started(desk.embed(3, key=None)) == [((3,), "e1")]


def test_a_held_task_can_be_dropped() -> None:
    desk = embedder(WAITING, endpoints=2)
    desk.embed(1)
    desk.embed(2)
    assert desk.tell(TaskDropped(2)) == []
    assert desk.tick(desk.now + 1) == []


@pytest.mark.parametrize("argument", ["max_items=0", "max_tokens=-1", "max_wait_ms=-1"])
def test_a_window_out_of_range_is_refused(argument: str) -> None:
    with pytest.raises(InputError, match=argument.partition("=")[0]):
        Desk(f"batch=window({argument})")
