"""Every registered member of every axis, against the conformance suite and in its own words."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError, InternalError
from sage.scheduling.learn import WINDOW, Learner, Recent
from sage.scheduling.limit import Adaptive
from sage.scheduling.messages import Admit, Reject, TaskDone, WakeAt
from sage.scheduling.order import ORDERS
from sage.scheduling.place import PLACES, Place
from sage.scheduling.policy import PRESETS, make, parse_policy
from sage.scheduling.views import EndedCall, EndpointView, TaskView
from sage.testing.conformance_policies import POLICY_CHECKS, PolicyCheck, members
from sage.testing.desk import Desk, open_desk, started
from sage.testing.worlds import simulate


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "name"), members())
@pytest.mark.parametrize("check", POLICY_CHECKS)
def test_every_member_keeps_the_promises_of_its_axis(check: PolicyCheck, axis: str, name: str) -> None:
    check(axis, name)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_keeps_every_invariant(preset: str) -> None:
    for seed in range(100):
        simulate(seed, policy=parse_policy(preset))


# ---- orders


def task(number: int, **fields: Any) -> TaskView:
    given = {"step": "s", "ready": float(number), **fields}
    return TaskView(number, number, pipeline="p", pool="llm", kind="generate", arrived=0.0, **given)


@pytest.mark.parametrize(
    ("order", "first", "second"),
    [
        ("priority", task(2, priority=10), task(1)),
        ("priority", task(1), task(20, priority=10)),  # it has aged
        ("strict_priority", task(99, priority=1), task(1)),
        ("edf", task(2, deadline=5.0), task(1, deadline=6.0)),
        ("edf", task(2, deadline=5.0), task(1)),
        ("slack", task(2, deadline=9.0, remaining_path_s=5.0, service_s=1.0), task(1, deadline=6.0)),
        ("slack", task(2, deadline=59.0), task(1)),  # without a deadline: due 60 s after its arrival
        ("slack", task(2, deadline=9.0, priority=5), task(1, deadline=6.0)),
        ("shortest_remaining_job", task(2, remaining_work_s=1.0), task(1, remaining_work_s=2.0)),
        ("least_attained", task(2, attained_s=0.9), task(1, attained_s=1.1)),
        ("least_attained", task(1, attained_s=1.1), task(2, attained_s=2.9)),  # one level: who came first
    ],
)
def test_an_order_puts_first(order: str, first: TaskView, second: TaskView) -> None:
    key = make(ORDERS, order).key
    assert key(first) < key(second)


def test_a_freed_slot_waits_a_moment_for_the_next_step_of_the_same_job() -> None:
    desk = open_desk("order=job_fifo")
    desk.arrive(2)
    desk.join("a")
    desk.ready(1, job=1)
    desk.ready(2, job=2)
    assert desk.done(1) == [WakeAt(desk.now)]
    assert started(desk.ready(3, job=1)) == [((3,), "a")]


def test_without_a_next_step_the_slot_goes_to_the_one_that_waits() -> None:
    desk = open_desk("order=job_fifo")
    desk.join("a")
    desk.ready(1)
    desk.ready(2)
    desk.done(1)
    assert started(desk.tick(desk.now)) == [((2,), "a")]


# ---- places


def pool_of(place: Place, number: int, limit: int = 4) -> Counter[str]:
    for index in range(number):
        place.update(EndpointView(f"e{index}", "llm", limit))
    return Counter()


def send(place: Place, calls: Counter[str], prefix: str | None, limit: int = 4) -> str:
    name = place.choose(task(1, prefix_key=prefix))
    calls[name] += 1
    place.update(EndpointView(name, "llm", limit, calls[name]))
    return name


def test_pack_fills_one_endpoint_before_the_next() -> None:
    place = make(PLACES, "pack")
    calls = pool_of(place, 3)
    assert [send(place, calls, None) for _ in range(6)] == ["e0"] * 4 + ["e1"] * 2


def test_random_takes_everyone_about_as_often() -> None:
    place = make(PLACES, "random", rng=random.Random(0))
    calls = pool_of(place, 4, 10_000)
    for _ in range(4_000):
        send(place, calls, None, 10_000)
    assert all(900 < count < 1_100 for count in calls.values())


@pytest.mark.parametrize("number", [3, 200])
def test_calls_with_one_prefix_have_one_home_as_long_as_it_is_not_too_full(number: int) -> None:
    place = make(PLACES, "prefix_affinity")
    pool_of(place, number)
    homes = {prefix: {place.choose(task(n, prefix_key=prefix)) for n in range(5)} for prefix in "abcdefgh"}
    assert all(len(home) == 1 for home in homes.values())
    assert len(set().union(*homes.values())) > 1


@pytest.mark.parametrize("number", [10, 100])
def test_an_endpoint_that_leaves_moves_only_its_own_prefixes(number: int) -> None:
    place = make(PLACES, "prefix_affinity")
    pool_of(place, number)
    prefixes = [f"prefix {n}" for n in range(500)]
    before = {prefix: place.choose(task(1, prefix_key=prefix)) for prefix in prefixes}
    assert max(Counter(before.values()).values()) < 6 * 500 / number
    place.remove("e3")
    after = {prefix: place.choose(task(1, prefix_key=prefix)) for prefix in prefixes}
    moved = [prefix for prefix in prefixes if before[prefix] != after[prefix]]
    assert {prefix for prefix in prefixes if before[prefix] == "e3"} <= set(moved)
    assert len(moved) <= 2 * 500 / number


def test_one_hot_prefix_loads_its_home_to_the_bound_and_no_further() -> None:
    place = make(PLACES, "prefix_affinity")
    calls = pool_of(place, 8, 64)
    for _ in range(160):
        send(place, calls, "hot", 64)
    assert max(calls.values()) <= 1.25 * 160 / 8 + 1
    assert max(calls.values()) > 160 / 8


# ---- limits


def test_an_overloaded_engine_gets_four_fifths_at_once() -> None:
    limit = Adaptive()
    assert limit.of("a", 50) == 50
    assert limit.ended("a", EndedCall(0.0, 1.0, 50, 0, 1, overloaded=True, failed=True)) == 40
    assert (
        limit.ended("a", EndedCall(0.5, 1.1, 49, 0, 1, overloaded=True, failed=True)) is None
    )  # began before


def test_a_limit_never_falls_below_one() -> None:
    limit, now = Adaptive(), 0.0
    limit.of("a", 3)
    for _ in range(9):
        now += 1
        last = limit.ended("a", EndedCall(now, now, 1, 0, 1, overloaded=True, failed=True))
    assert last == 1


#: What happens to an endpoint: it says its limit, on joining or on coming back; many calls end; its cache is full.
HAPPENINGS = st.one_of(
    st.tuples(st.just("says"), st.integers(1, 12)),
    st.tuples(
        st.just("calls"), st.sampled_from((1, 30)), st.sampled_from((0.01, 2.0)), st.booleans(), st.booleans()
    ),
    st.tuples(st.just("pressed"), st.sampled_from((0.5, 0.99))),
)


@given(st.integers(1, 12), st.lists(HAPPENINGS, max_size=40))
def test_a_limit_stays_between_one_and_what_the_endpoint_says_last(
    said: int, happenings: list[tuple[Any, ...]]
) -> None:
    limit, now = Adaptive(), 0.0
    current = limit.of("a", said)
    for kind, *about in happenings:
        if kind == "says":
            said = about[0]
            current = limit.of("a", said)
        elif kind == "pressed":
            now += 10.0
            current = limit.pressed("a", about[0], now) or current
        else:
            number, token_s, is_full, is_overloaded = about
            for _ in range(number):
                now += token_s
                call = EndedCall(
                    now - token_s, now, current if is_full else 0, 10, 1, overloaded=is_overloaded
                )
                current = limit.ended("a", call) or current
        assert 1 <= current <= said


# ---- admission


def test_a_staggered_job_is_put_off_and_let_in_at_its_time() -> None:
    desk = Desk("admit=stagger(seconds=2)")
    assert desk.arrive(1) == [Admit(1)]
    assert desk.arrive(2) == [WakeAt(102.0)]
    assert desk.arrive(3) == []
    assert desk.tick(102.0) == [Admit(2), WakeAt(104.0)]
    assert desk.scheduler.snapshot().waiting == 1


def test_a_job_that_was_put_off_may_lose_interest() -> None:
    desk = Desk("admit=stagger(seconds=2)")
    desk.arrive(1)
    desk.arrive(2)
    assert desk.over(2) == []
    assert desk.tick(102.0) == []


def spend(desk: Desk, job: int, tokens: int) -> None:
    desk.ready(1000 + job, job, max_out_tokens=tokens)
    desk.tell(TaskDone(1000 + job, 0, tokens))
    desk.over(job)


def test_a_tenant_above_its_rate_is_put_off_and_others_are_not() -> None:
    desk = Desk("admit=token_bucket(rate=10,burst_s=30)")
    desk.join("a")
    desk.arrive(1, tenant="x")
    spend(desk, 1, 200)  # of 300 saved up
    assert desk.arrive(2, tenant="y") == [Admit(2)]
    assert desk.arrive(3, tenant="x") == [WakeAt(110.0)]  # 200 are expected, 100 are there
    assert desk.tick(110.0) == [Admit(3)]


def test_a_tenant_far_above_its_rate_is_told_when_to_come_back() -> None:
    desk = Desk("admit=token_bucket(rate=10,burst_s=1)")
    desk.join("a")
    desk.arrive(1)
    spend(desk, 1, 500)
    (rejected,) = desk.arrive(2)
    assert isinstance(rejected, Reject)
    assert rejected.retry_after_s == pytest.approx(99.0)
    assert desk.over(2) == []


def test_a_pulled_job_waits_instead_of_being_rejected() -> None:
    desk = Desk("admit=token_bucket(rate=10,burst_s=1)")
    desk.join("a")
    desk.arrive(1)
    spend(desk, 1, 500)
    assert desk.arrive(2, pulled=True) == [WakeAt(199.0)]


def test_rules_judge_in_their_order() -> None:
    desk = Desk("admit=stagger(seconds=1)+token_bucket(rate=10,burst_s=1)+max_inflight(jobs=1)")
    assert desk.arrive(1) == [Admit(1)]
    desk.arrive(2)
    assert desk.tick(101.0) == []  # past the rules, and waiting for a place
    assert desk.over(1) == [Admit(2)]


@pytest.mark.parametrize("fields", [{"weight": 0.0}, {"weight": -1.0}, {"reserved": -1}])
def test_a_tenant_without_weight_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InternalError, match="weight"):
        Desk().arrive(1, **fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admit=feasible+feasible", "twice"),
        ("admit=feasibel", "did you mean 'feasible'"),
        ("admit=feasible(load=2)", "expected 0 to 1"),
        ("admit=feasible(is_fair=1)", "no argument 'is_fair'"),
        ("admit=stagger(seconds=-1)", "at least 0"),
        ("admit=token_bucket(rate=0)", "more than 0"),
        ("admit=max_inflight(jobs=2),max_inflight=3", "twice"),
        ("order=priority(aging_s=0)", "more than 0"),
        ("order=slack(relaxed_s=-1)", "more than 0"),
        ("place=prefix_affinity(bound=0.5)", "at least 1"),
        ("place=random(rng=1)", "no argument 'rng'"),
        ("limit=adaptive(target_ms=0)", "more than 0"),
        ("share=weighted", "did you mean 'weighted_fair'"),
        ("breaker=yes", "expected 'on' or 'off'"),
    ],
)
def test_what_is_wrong_is_said(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_policy(text)
    assert expected in str(caught.value)


def test_a_list_of_rules_is_printed_and_max_inflight_joins_it() -> None:
    policy = parse_policy("slack,max_inflight=8,breaker=off")
    assert policy.admit == "feasible+max_inflight(jobs=8)"
    assert parse_policy(str(policy)) == policy


# ---- learning


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(0, 0.99))
def test_quantiles_are_exact_over_the_window(figures: list[float], share: float) -> None:
    recent = Recent()
    for figure in figures:
        recent.add(figure)
    last = sorted(figures[-WINDOW:])
    assert recent.quantile(share) == last[int(share * len(last))]


def test_items_of_a_loop_are_one_step_and_nothing_known_is_no_harm() -> None:
    learner = Learner()
    view = task(1, step="summaries[3].answer")
    learner.task_done(view, 2.0, 30)
    learner.task_done(task(2, step="summaries[4].answer"), 4.0, 50)
    assert learner._step_s("p/summaries.answer", "llm") == 3.0
    assert learner._step_s("p/other", "nowhere") == 3.0
