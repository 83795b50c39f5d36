"""Random worlds: the core keeps its promises in all of them, and a planted fault is found in some."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from sage.errors import InternalError
from sage.scheduling.admit import Gate, MaxInflight
from sage.scheduling.batch import Group
from sage.scheduling.breaker import Breaker
from sage.scheduling.core import Scheduler
from sage.scheduling.fleet import Call, Endpoint, Fleet
from sage.scheduling.lanes import Lane, Late, Task
from sage.scheduling.limit import Adaptive
from sage.scheduling.line import Line
from sage.scheduling.messages import Command, Reject, TaskDone
from sage.scheduling.place import LeastLoaded
from sage.scheduling.policy import PRESETS, parse_policy
from sage.scheduling.retry import Retries
from sage.scheduling.share import Tenant, WeightedFair
from sage.scheduling.views import EndpointView, JobView
from sage.testing.worlds import simulate

#: A planted fault must be found within so many worlds.
WORLDS_PER_FAULT = 500
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


@pytest.mark.parametrize("policy", [*PRESETS, "order=job_fifo,batch=none"])
def test_a_world_may_be_played_under_a_given_policy(policy: str) -> None:
    assert simulate(3, policy=parse_policy(policy)).jobs == simulate(3).jobs


class DeafToEnds(Scheduler):
    """Lost wake-up: a slot that gets free is not given to anyone."""

    def _task_done(self, event: TaskDone, now: float, out: list[Command]) -> None:
        task = self._running(event.task)
        task.pool.fleet.end(task, None, 0, now, done=True)
        task.pool.line.share.settle(task, None)
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


def _free_twice(fleet: Fleet, task: Task, *args: Any, **kwargs: Any) -> Call:
    call = task.call
    assert call is not None
    if call.tasks > 1:
        call.endpoint.in_flight -= 1
        fleet.in_flight -= 1
    return _end(fleet, task, *args, **kwargs)


def _wrong_subtraction(fleet: Fleet, task: Task, *args: Any, **kwargs: Any) -> Call:
    call = task.call
    assert call is not None
    call.tokens -= task.view.max_out_tokens * (task.failures > 0)
    return _end(fleet, task, *args, **kwargs)


def _pop_the_newest(lane: Lane, now: float = 0.0) -> Task | None:
    newest = max(lane.tasks(), key=lambda task: task.key, default=None)
    if newest is not None:
        lane._heap.remove((*newest.key, newest.ticket, newest))
    return newest


def _late_ones_first(lane: Lane, now: float = float("-inf")) -> Task | None:
    task = _pop(lane, now)
    if task is not None and lane._late:
        task.late = Late(float("inf"), 0.0)
        lane.push(task)
        late: Task = lane._late.pop(0)[-1]
        return late
    return task


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


def _ignore_the_limit(fleet: Fleet, endpoint: Endpoint) -> None:
    endpoint.limit += 1
    _account(fleet, endpoint)
    endpoint.limit -= 1


def _probe_at_will(endpoint: Endpoint) -> int:
    return endpoint.limit if endpoint.joined and endpoint.breaker.state != "open" else 0


def _forgive(breaker: Breaker, fault: str | None, era: int, now: float) -> str | None:
    return _ended(breaker, None if breaker._in_a_row == 4 else fault, era, now)  # type: ignore[arg-type]  # a fault


def _any_era(breaker: Breaker, fault: str | None, era: int, now: float) -> str | None:
    return _ended(breaker, fault, breaker.era, now)  # type: ignore[arg-type]  # a fault


def _only_the_first(share: WeightedFair, tenant: Tenant) -> None:
    if tenant.name == "acme" or not tenant.in_flight:
        _line_up(share, tenant)


def _reject_all(gate: Gate, job: JobView, first: int, now: float) -> Reject:
    return Reject(job.id, "no", 1.0)


def _retry_all(retries: Retries, failed: object, attempt: int, budget: object, *, paid: bool) -> str | None:
    return None if attempt < 3 else "enough"


def _by_tokens_only(place: LeastLoaded, endpoint: EndpointView) -> None:
    place._ranking.put(endpoint, (-endpoint.in_flight_tokens,))


def _hasty(retries: Retries, failed: object, attempt: int, budget: object, now: float) -> float:
    return now + retries._rng.uniform(0, 0.1)


_line_up = WeightedFair._line_up
_account, _end, _pop, _ended = Fleet._account, Fleet.end, Lane.pop, Breaker.ended
_system = random.SystemRandom()

#: What is broken, and how: an attribute replaced, or a scheduler of its own.
FAULTS: dict[str, tuple[type, str, Callable[..., Any] | property] | type[Scheduler]] = {
    "lost wake-up": DeafToEnds,
    "no Tick asked for": NeverWoken,
    "needless Ticks": ChattyWakes,
    "dropped retry": DroppedRetry,
    "a slot freed by each task of a call": (Fleet, "end", _free_twice),
    "order inverted": (Lane, "pop", _pop_the_newest),
    "admission leaks places": (MaxInflight, "over", _keep_the_place),
    "admission lets the newest in": (MaxInflight, "over", _let_the_newest_in),
    "batch too large": (Group, "fits", lambda group, task, items, tokens: True),
    "batch too small": (Group, "fits", lambda group, task, items, tokens: False),
    "one call too many": (Fleet, "_account", _ignore_the_limit),
    "dropped tasks start": (Scheduler, "_drop", Scheduler._forget),
    "retries what is final": (Retries, "refusal", _retry_all),
    "Retry-After ignored": (Retries, "next_call", _hasty),
    "placed on the most loaded": (LeastLoaded, "update", _by_tokens_only),
    "held for ever": (Line, "open_due", lambda line, now, idle: None),
    "wrong subtraction": (Fleet, "end", _wrong_subtraction),
    "late tasks first": (Lane, "pop", _late_ones_first),
    "breaker never opens": (Breaker, "ended", lambda breaker, fault, era, now: None),
    "breaker opens one failure late": (Breaker, "ended", _forgive),
    "breaker hears calls from before it opened": (Breaker, "ended", _any_era),
    "no probe is sent": (Fleet, "probe_due", lambda fleet, now: None),
    "several probes at once": (Endpoint, "allowed", property(_probe_at_will)),
    "parked for ever": (Scheduler, "_park", lambda core, pool, now, out: None),
    "a limit above what was said": (Adaptive, "of", lambda limit, endpoint, said: said + 1),
    "pulled jobs rejected": (Gate, "_judge", _reject_all),
    "jobs put off are forgotten": (Gate, "due", lambda gate, now: []),
    "a tenant's lane is overlooked": (WeightedFair, "_line_up", _only_the_first),
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
    def delay(retries: Retries, failed: object, attempt: int, budget: object, now: float) -> float:
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
