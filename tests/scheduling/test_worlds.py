"""Random worlds: the core keeps its promises in all of them, and a planted fault is found in some."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from sage.errors import InternalError
from sage.scheduling.admit import MaxInflight
from sage.scheduling.batch import Group
from sage.scheduling.core import Scheduler
from sage.scheduling.lanes import Lane, Task
from sage.scheduling.messages import Command, TaskDone
from sage.scheduling.place import LeastLoaded
from sage.scheduling.policy import parse_policy
from sage.scheduling.pool import Call, Endpoint, Pool
from sage.scheduling.retry import Retries
from sage.scheduling.views import EndpointView, JobView
from sage.testing.worlds import simulate

#: A planted fault must be found within so many worlds.
WORLDS_PER_FAULT = 200
PARTS = 8


@pytest.mark.slow
@pytest.mark.timeout(3600)  # under the soak profile
@pytest.mark.parametrize("part", range(PARTS))
def test_every_invariant_holds_after_every_event(part: int) -> None:
    for seed in range(part, settings().max_examples, PARTS):  # as many worlds as a property has examples
        result = simulate(seed)
        assert result.outcomes.total() == result.jobs


def test_the_same_seed_gives_the_same_decisions() -> None:
    for seed in range(10):
        assert simulate(seed).log == simulate(seed).log


@pytest.mark.parametrize("policy", ["fifo", "load_aware", "order=job_fifo,batch=none"])
def test_a_world_may_be_played_under_a_given_policy(policy: str) -> None:
    assert simulate(3, policy=parse_policy(policy)).jobs == simulate(3).jobs


class DeafToEnds(Scheduler):
    """Lost wake-up: a slot that gets free is not given to anyone."""

    def _task_done(self, event: TaskDone, now: float, out: list[Command]) -> None:
        task = self._running(event.task)
        task.pool.end(task)
        self._forget(task)


class NeverWoken(Scheduler):
    """Delayed retries and windows are forgotten: no Tick is asked for."""

    def _ask(self, time: float, out: list[Command]) -> None:
        pass


class ChattyWakes(Scheduler):
    """A Tick is asked for by everyone who wants one, needed or not."""

    def _ask(self, time: float, out: list[Command]) -> None:
        self._wakes.clear()
        super()._ask(time, out)


class DroppedRetry(Scheduler):
    """A retry is promised and never made."""

    def _queue_due(self, now: float, out: list[Command]) -> None:
        self._delayed.clear()
        super()._queue_due(now, out)


def _free_twice(pool: Pool, task: Task) -> Call:
    call = task.call
    assert call is not None
    task.call = None
    call.tasks -= 1
    call.endpoint.in_flight -= 1
    call.endpoint.in_flight_tokens -= call.tokens
    pool.in_flight -= 1
    pool._account(call.endpoint)
    return call


def _pop_the_newest(lane: Lane) -> Task | None:
    newest = max(lane.tasks(), key=lambda task: task.key, default=None)
    if newest is not None:
        lane._heap.remove((*newest.key, newest.ticket, newest))
    return newest


def _keep_the_place(gate: MaxInflight, job: JobView) -> JobView | None:
    return None


def _let_the_newest_in(gate: MaxInflight, job: JobView) -> JobView | None:
    run = gate._runs[job.run]
    if run.waiting:
        _, following = run.waiting.popitem(last=True)
        del gate._run_of[following.id]
        return following
    run.admitted -= 1
    return None


def _ignore_the_limit(pool: Pool, endpoint: Endpoint) -> None:
    endpoint.limit += 1
    _account(pool, endpoint)
    endpoint.limit -= 1


def _retry_all(retries: Retries, failed: object, attempt: int, *, paid: bool) -> str | None:
    return None if attempt < 3 else "enough"


def _by_tokens_only(place: LeastLoaded, endpoint: EndpointView) -> None:
    place._ranking.put(endpoint, (-endpoint.in_flight_tokens,))


def _hasty(retries: Retries, failed: object, attempt: int, now: float) -> float:
    return now + retries._rng.uniform(0, 0.1)


_account = Pool._account
_system = random.SystemRandom()

#: What is broken, and how: an attribute replaced, or a scheduler of its own.
FAULTS: dict[str, tuple[type, str, Callable[..., Any]] | type[Scheduler]] = {
    "lost wake-up": DeafToEnds,
    "no Tick asked for": NeverWoken,
    "needless Ticks": ChattyWakes,
    "dropped retry": DroppedRetry,
    "a slot freed by each task of a call": (Pool, "end", _free_twice),
    "order inverted": (Lane, "pop", _pop_the_newest),
    "admission leaks places": (MaxInflight, "over", _keep_the_place),
    "admission lets the newest in": (MaxInflight, "over", _let_the_newest_in),
    "batch too large": (Group, "fits", lambda group, task, items, tokens: True),
    "batch too small": (Group, "fits", lambda group, task, items, tokens: False),
    "one call too many": (Pool, "_account", _ignore_the_limit),
    "dropped tasks start": (Scheduler, "_drop", Scheduler._forget),
    "retries what is final": (Retries, "refusal", _retry_all),
    "Retry-After ignored": (Retries, "next_call", _hasty),
    "placed on the most loaded": (LeastLoaded, "update", _by_tokens_only),
    "held for ever": (Pool, "open_due", lambda pool, now: None),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_the_witness_alone(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = FAULTS[fault]
    scheduler: type[Scheduler] = Scheduler
    if isinstance(planted, tuple):
        monkeypatch.setattr(*planted)
    else:
        scheduler = planted
    with pytest.raises((InternalError, AssertionError)):
        play(range(WORLDS_PER_FAULT), scheduler)


def play(seeds: range, scheduler: type[Scheduler]) -> None:
    for seed in seeds:
        simulate(seed, scheduler=scheduler, audit=False)


def test_unseeded_randomness_is_found_by_comparing_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    def delay(retries: Retries, failed: object, attempt: int, now: float) -> float:
        return now + _system.uniform(0, 0.2)

    monkeypatch.setattr(Retries, "next_call", delay)
    policy = parse_policy("max_inflight=4,batch=none")
    logs = [[_log(seed, policy) for seed in range(20)] for _ in range(2)]
    assert logs[0] != logs[1]


def _log(seed: int, policy: Any) -> list[str]:
    try:
        return simulate(seed, policy=policy).log
    except InternalError:  # the delay disregards Retry-After, which the witness may notice first
        return []
