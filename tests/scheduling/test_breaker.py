"""The breaker of an endpoint, and what becomes of tasks while it is open."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import EngineFault
from sage.scheduling.breaker import BREAKING, Breaker
from sage.scheduling.messages import EndpointChanged, GiveUp, Retry, Start, WakeAt
from sage.scheduling.pool import PARK_S
from sage.testing.desk import Desk, open_desk, started
from sage.testing.hosts import Host

NO_BUDGET = "retry_budget=off"


def broken(policy: str = NO_BUDGET, *, others: str = "") -> Desk:
    """A desk whose endpoint a has failed five times in a row; tasks 1 to 5 are delayed."""
    desk = open_desk(policy)
    desk.join("a", limit=5)
    for task in range(1, 6):
        desk.ready(task)
    for name in others:
        desk.join(name)
    for task in range(1, 6):
        desk.fail(task, "unreachable")
    return desk


def states(desk: Desk) -> dict[str, str]:
    return {view.name: view.state for view in desk.scheduler.snapshot().endpoints}


def test_it_opens_after_five_failures_in_a_row() -> None:
    breaker = Breaker()
    reasons = [breaker.ended("failed", 0, 1.0) for _ in range(5)]
    assert reasons == [None] * 4 + ["5 failures in a row, the last: failed"]


def test_a_success_in_between_starts_the_row_over() -> None:
    breaker = Breaker()
    for fault in ("failed", "failed", "failed", "failed", None, "failed"):
        breaker.ended(fault, 0, 1.0)
    assert breaker.state == "healthy"


def test_it_opens_when_half_of_twenty_calls_fail_within_ten_seconds() -> None:
    breaker = Breaker()
    faults: list[EngineFault | None] = [None, "timeout"] * 10
    reasons = [breaker.ended(fault, 0, number / 4) for number, fault in enumerate(faults)]
    assert reasons[-1] == "10 of 20 calls failed within 10 s, the last: timeout"
    assert reasons[:-1] == [None] * 19


def test_old_failures_are_forgotten() -> None:
    breaker = Breaker()
    faults: list[EngineFault | None] = [None, "timeout"] * 20
    assert [breaker.ended(fault, 0, number) for number, fault in enumerate(faults)] == [None] * 40


@pytest.mark.parametrize("fault", get_args(EngineFault))
def test_only_faults_of_the_endpoint_count(fault: EngineFault) -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.ended(fault, 0, 1.0)
    assert (breaker.state == "open") == (fault in BREAKING) == (fault not in {"refused", "too_long"})


def test_it_stays_open_twice_as_long_after_each_failed_probe_up_to_thirty_seconds() -> None:
    breaker, now, waits = Breaker(), 0.0, []
    for _ in range(5):
        breaker.ended("failed", 0, now)
    for _ in range(7):
        waits.append(breaker.until - now)
        now = breaker.until
        breaker.probe()
        breaker.ended("failed", breaker.era, now)
    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_a_successful_probe_closes_it_and_the_next_time_is_short_again() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.ended("failed", 0, 0.0)
    for fault in ("failed", None):
        breaker.probe()
        breaker.ended(fault, breaker.era, 5.0)
    assert breaker.state == "healthy"
    for _ in range(5):
        breaker.ended("failed", breaker.era, 50.0)
    assert breaker.until == 51.0


def test_calls_from_before_it_opened_say_nothing_afterwards() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.ended("failed", 0, 0.0)
    breaker.probe()
    assert breaker.ended("failed", 0, 1.5) is breaker.ended(None, 0, 1.5) is None
    assert breaker.state == "half_open"


@given(st.lists(st.tuples(st.floats(0, 0.7), st.booleans()), max_size=200))
def test_it_agrees_with_a_recount_of_all_calls(calls: list[tuple[float, bool]]) -> None:
    breaker, host, now = Breaker(), Host("a", "llm"), 0.0
    host.join(1000)
    for gap_s, fails in calls:
        now += gap_s
        if host.is_probe_due(now):
            breaker.probe()
        call = host.start({1}, 0, now)
        call.note("timeout" if fails else None, done=not fails)
        told = breaker.ended("timeout" if fails else None, call.era, now)
        flip = host.end(call, now, judged=True)
        assert (told is not None) == (flip is not None)
        assert (breaker.state, breaker.era) == (host.breaker, host.opened)
        assert breaker.state != "open" or breaker.until == host.until


def test_the_core_says_that_it_opened_and_asks_to_be_woken_for_the_probe() -> None:
    desk = open_desk(NO_BUDGET)
    desk.join("a", limit=5)
    for task in range(1, 6):
        desk.ready(task)
    for task in range(1, 5):
        desk.fail(task, "unreachable", 9.0)
    retry, changed = desk.fail(5, "unreachable", 9.0)[:2]
    assert isinstance(retry, Retry)
    assert changed == EndpointChanged("a", "llm", "open", "5 failures in a row, the last: unreachable")
    assert WakeAt(101.0) in [*desk.ready(6), WakeAt(101.0)]
    assert states(desk) == {"a": "open"}


def test_tasks_go_to_the_others_while_one_endpoint_is_open() -> None:
    desk = broken(others="b")
    assert started(desk.tick(desk.now + 0.3))[0][1] == "b"
    assert desk.scheduler.snapshot().down == ()


def test_tasks_park_while_every_endpoint_is_open_and_it_shows() -> None:
    desk = broken()
    assert started(desk.tick(desk.now + 0.9)) == []
    seen = desk.scheduler.snapshot()
    assert (seen.queued, seen.down) == ({"llm": 5}, ("llm",))


def test_one_probe_goes_out_and_its_success_brings_back_the_rest() -> None:
    desk = broken()
    desk.tick(desk.now + 0.9)
    commands = desk.tick(desk.now + 0.1)
    assert EndpointChanged("a", "llm", "half_open", "time for a probe") in commands
    assert started(commands) == [((1,), "a")]
    commands = desk.done(1)
    assert commands[0] == EndpointChanged("a", "llm", "healthy", "its probe succeeded")
    assert started(commands) == [((task,), "a") for task in (2, 3, 4, 5)]
    assert desk.scheduler.snapshot().down == ()


def test_a_cancelled_probe_says_nothing_and_another_goes_out() -> None:
    desk = broken()
    desk.tick(desk.now + 1)
    assert started(desk.fail(1)) == [((2,), "a")]
    assert states(desk) == {"a": "half_open"}


def test_a_call_that_was_refused_shows_that_the_endpoint_lives() -> None:
    desk = broken()
    desk.tick(desk.now + 1)
    desk.fail(1, "refused")
    assert states(desk) == {"a": "healthy"}


def test_parked_tasks_are_given_up_in_the_end_and_later_ones_at_once() -> None:
    desk = broken()
    given_up: list[int] = []
    until = desk.now + PARK_S
    while desk.now < until:
        commands = desk.tick(min(until, desk.now + 0.5))
        given_up += [command.task for command in commands if isinstance(command, GiveUp)]
        for command in commands:
            if isinstance(command, Start):
                desk.fail(command.tasks[0], "unreachable", attempts_allowed=99)
    assert set(given_up) == {1, 2, 3, 4, 5} - set(running(desk)) - delayed(desk)
    last = desk.ready(9)
    assert last == [GiveUp(9, 0, "every endpoint of pool 'llm' has been failing for 65 s")]


def running(desk: Desk) -> list[int]:
    return [task for task, work in desk.scheduler._tasks.items() if work.state == "running"]


def delayed(desk: Desk) -> set[int]:
    return {task for task, work in desk.scheduler._tasks.items() if work.state == "delayed"}


def test_a_new_endpoint_takes_what_is_parked() -> None:
    desk = broken()
    desk.tick(desk.now + 0.9)
    assert len(started(desk.join("b", limit=5))) == 5


def test_an_endpoint_that_comes_back_is_healthy() -> None:
    desk = broken()
    desk.leave("a")
    desk.join("a", limit=5)
    assert states(desk) == {"a": "healthy"}


def test_the_breaker_may_be_switched_off() -> None:
    desk = broken("retry_budget=off,breaker=off")
    assert states(desk) == {"a": "healthy"}
