"""What policies promise over time, on small shops of known speed: fairness, deadlines, goodput, symmetry."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.scheduling.policy import PRESETS
from sage.testing.shop import Op, Order, Played, Shop

SIZES = st.floats(0.1, 3.0).map(lambda size: round(size, 3))


def play(policy: str, orders: Sequence[Order], slots: Sequence[int] = (1,)) -> Played:
    return Shop(policy, {"llm": slots}).play(orders)


def single(at: float, size_s: float, **fields: object) -> Order:
    return Order(at, [[Op(size_s)]], **fields)  # type: ignore[arg-type]  # fields of Order


# ---- no starvation


@given(st.lists(SIZES, min_size=1, max_size=30), st.floats(0.2, 2.0))
def test_under_priority_nobody_waits_for_work_that_came_after_its_aging(
    sizes: list[float], aging_s: float
) -> None:
    low = single(0.0, 1.0, priority=-10)
    flood = [single(number * 0.3, size, priority=10) for number, size in enumerate(sizes)]
    played = play(f"order=priority(aging_s={aging_s!r})", [single(0.0, 0.1, priority=99), low, *flood])
    overtakers = sum(order.work_s for order in flood if order.at <= 20 * aging_s + 1e-9)
    assert played.done[1] <= 0.1 + overtakers + 1.0 + 1e-6


@given(st.lists(SIZES, min_size=1, max_size=30))
def test_under_fair_share_a_flood_delays_another_tenants_task_by_few_of_its_own(sizes: list[float]) -> None:
    flood = [single(0.0, size, tenant="flood") for size in sizes]
    played = play("share=weighted_fair", [*flood, single(0.0, 0.5, tenant="calm")])
    assert played.done[len(sizes)] <= sizes[0] + 2 * max(sizes) + 0.5 + 1e-9


# ---- fairness and isolation


@given(
    st.lists(st.integers(1, 50), min_size=20, max_size=60),
    st.sampled_from([(1.0, 1.0), (3.0, 1.0), (0.5, 2.0)]),
    st.sampled_from([(1,), (2,), (1, 1, 1)]),
)
def test_backlogged_tenants_get_tokens_by_weight(
    tokens: list[int], weights: tuple[float, float], slots: tuple[int, ...]
) -> None:
    orders = [
        Order(0.0, [[Op(count / 10, out_tokens=count)]], tenant, weight=weight)
        for count in tokens
        for tenant, weight in zip("ab", weights, strict=True)
    ]
    played = play("share=weighted_fair", orders, slots)
    got = dict.fromkeys("ab", 0.0)
    left = {"a": len(tokens), "b": len(tokens)}
    for ran in played.ran:
        got[ran.tenant] += ran.tokens
        left[ran.tenant] -= 1
        if min(left.values()) < sum(slots):  # one of them has nothing left to queue
            break
        bound = sum((1 + sum(slots)) * max(tokens) / weight for weight in weights)
        assert abs(got["a"] / weights[0] - got["b"] / weights[1]) <= bound


def test_a_reserve_is_served_first_and_the_rest_is_borrowed() -> None:
    orders = [single(0.0, 1.0, tenant="flood", weight=100.0) for _ in range(40)]
    orders += [single(0.0, 1.0, tenant="small", weight=0.1, reserved=1) for _ in range(10)]
    played = play("share=weighted_fair", orders, [4])
    small = sorted(ran.started for ran in played.ran if ran.tenant == "small")
    assert small == [float(number + 1) for number in range(10)]


@pytest.mark.parametrize("policy", ["share=weighted_fair", "slack"])
def test_a_tenant_below_its_share_hardly_notices_a_flood(policy: str) -> None:
    rng = random.Random(1)
    calm = [single(number * 4.0, rng.uniform(0.5, 1.5), tenant="calm") for number in range(200)]
    flood = [single(number * 0.5, rng.uniform(0.5, 1.5), tenant="flood") for number in range(1600)]
    alone, together = (play(policy, orders, [1, 1]) for orders in (calm, calm + flood))
    p99_alone, p99 = (sorted(p.took_s(job) for job in range(200))[197] for p in (alone, together))
    assert p99 <= 1.2 * p99_alone + 1.5


# ---- order and deadlines


@given(
    st.lists(st.tuples(SIZES, st.floats(1, 40)), min_size=1, max_size=25), st.sampled_from(["edf", "slack"])
)
def test_tasks_that_can_be_in_time_start_in_order_of_their_deadlines(
    jobs: list[tuple[float, float]], order: str
) -> None:
    blocker = single(0.0, 0.01, deadline_s=0.5)
    orders = [blocker, *(single(0.001, size, deadline_s=100 + due) for size, due in jobs)]
    started = play(f"order={order}", orders).started[1:]
    deadlines = [orders[job].deadline_s for job in started]
    assert deadlines == sorted(deadlines, key=lambda deadline: deadline or 0.0)


@given(
    st.lists(st.tuples(SIZES, st.floats(0, 2)), min_size=1, max_size=20), st.sampled_from(["edf", "slack"])
)
def test_a_feasible_set_that_is_ready_at_once_misses_nothing(
    jobs: list[tuple[float, float]], order: str
) -> None:
    orders, end = [single(0.0, 0.01, deadline_s=0.1)], 0.01
    for size, spare in jobs:
        end += size
        orders.append(single(0.0, size, deadline_s=end + spare, pipeline=f"p{len(orders)}"))
    shuffled = [orders[0], *random.Random(len(jobs)).sample(orders[1:], len(jobs))]
    slowest = max(size for size, _ in jobs)  # what is not known yet is not taken for late
    played = play(
        f"order={order}",
        [replace(o, deadline_s=(o.deadline_s or 0) + slowest * (order == "slack")) for o in shuffled],
    )
    assert all(played.in_time(job) for job in range(len(orders)))


def test_slack_knows_from_the_graph_what_is_urgent() -> None:
    long = Order(20.0, [[Op(1.0)]] * 5, deadline_s=6.5, pipeline="agent")
    shorts = [single(20.0, 1.0, deadline_s=6.2) for _ in range(6)]
    orders = [Order(0.0, [[Op(1.0)]] * 5, pipeline="agent"), *shorts, long]
    met = {
        order: sum(play(f"order={order}", orders, [1, 1]).in_time(job) for job in range(8))
        for order in ("edf", "slack")
    }
    assert met == {"edf": 7, "slack": 8}


def test_late_work_steps_aside_under_slack() -> None:
    orders = [single(0.0, 1.0, deadline_s=9.0)]  # from which the step's time is learned
    orders += [single(1.0, 1.0, deadline_s=1.5 + 0.01 * number) for number in range(10)]
    orders += [single(2.5, 1.0, deadline_s=3.0)]
    played = play("order=slack", orders)
    assert sum(played.in_time(job) for job in range(12)) == 3
    assert not all(play("order=edf", orders).in_time(job) for job in (0, 1, 11))


def test_late_work_is_done_in_the_end_though_work_in_time_keeps_coming() -> None:
    orders = [single(0.0, 1.0, deadline_s=9.0), single(0.5, 1.0, deadline_s=0.6)]
    orders += [single(0.6 + number * 1.0, 1.0, deadline_s=30.0) for number in range(300)]
    assert play("order=slack(relaxed_s=20)", orders).done[1] < 60


# ---- shortest job first, makespan


def srpt_mean_s(orders: Sequence[Order]) -> float:
    """The mean time of jobs on one machine that always goes on with the one that needs least."""
    left = {job: order.work_s for job, order in enumerate(orders)}
    now, took = 0.0, 0.0
    while left:
        here = [job for job in left if orders[job].at <= now]
        nexts = [orders[job].at for job in left if orders[job].at > now]
        if not here:
            now = min(nexts)
            continue
        job = min(here, key=lambda job: left[job])
        step_s = min([left[job], *(at - now for at in nexts)])
        now += step_s
        left[job] -= step_s
        if left[job] <= 1e-12:
            took += now - orders[job].at
            del left[job]
    return took / len(orders)


@given(st.integers(0, 10**6))
def test_shortest_remaining_job_is_near_the_best_mean(seed: int) -> None:
    rng = random.Random(seed)
    kinds = {f"k{kind}": rng.uniform(1, 20) for kind in range(6)}
    warm = [Order(0.0, [[Op(size / 25)]] * 25, pipeline=kind) for kind, size in kinds.items()]
    later = 10 * sum(kinds.values())
    orders = []
    for _ in range(20):
        later += rng.expovariate(0.15)
        kind = rng.choice(sorted(kinds))
        orders.append(Order(later, [[Op(kinds[kind] / 25)]] * 25, pipeline=kind))
    played = play("order=shortest_remaining_job", warm + orders)
    mean_s = sum(played.took_s(len(warm) + job) for job in range(20)) / 20
    assert mean_s <= 1.05 * srpt_mean_s(orders) + 1e-9


@given(st.lists(SIZES, min_size=1, max_size=40), st.integers(1, 5), st.sampled_from(sorted(PRESETS)))
def test_the_makespan_is_within_grahams_bound(sizes: list[float], machines: int, policy: str) -> None:
    played = play(policy, [single(0.0, size) for size in sizes], [1] * machines)
    lower = max(sum(sizes) / machines, *sizes)
    assert played.makespan_s <= (2 - 1 / machines) * lower + 1e-9


# ---- overload


def mix(seed: int, load: float, slots: int, num: int = 1500) -> list[Order]:
    """Chat and agents, Poisson arrivals at a load of so many slots."""
    rng = random.Random(seed)
    chat, agent = [[Op(1.0)]], [[Op(0.8)]] * 4
    work_s = 0.8 * 1.0 + 0.2 * 3.2
    orders, at = [], 0.0
    for _ in range(num):
        at += rng.expovariate(load * slots / work_s)
        is_chat = rng.random() < 0.8
        stages = chat if is_chat else agent
        orders.append(
            Order(at, stages, deadline_s=4.0 if is_chat else 9.0, pipeline="chat" if is_chat else "agent")
        )
    return orders


def goodput(played: Played) -> float:
    """Work of jobs done in time, per second from the first arrival after a warm-up to the last of their ends."""
    jobs = [job for job in range(300, len(played.orders)) if played.in_time(job)]
    span_s = max(played.done[job] for job in jobs) - played.orders[300].at
    return sum(played.orders[job].work_s for job in jobs) / span_s


@pytest.mark.slow
def test_goodput_does_not_fall_when_twice_as_much_comes_as_can_be_done() -> None:
    at = {
        load: sum(goodput(play("slack,limit=static", mix(seed, load, 8), [8])) for seed in range(3)) / 3
        for load in (1.0, 1.3, 1.6, 2.0)
    }
    best = max(at.values())
    assert all(value >= 0.97 * at[1.0] for value in at.values()), at
    assert best <= 8.0


def test_what_was_rejected_used_no_engine_and_says_when_to_come_back() -> None:
    played = play("slack", mix(1, 2.0, 4, num=600), [4])
    assert len(played.rejected) > 100
    assert not {ran.job for ran in played.ran} & played.rejected.keys()
    assert all(r.retry_after_s is None or r.retry_after_s > 0 for r in played.rejected.values())


def test_below_the_gate_nothing_is_rejected() -> None:
    orders = [single(2.0 * number, 1.0, deadline_s=0.5) for number in range(50)]
    assert play("slack", orders, [4]).rejected == {}


def test_a_job_without_a_deadline_is_never_rejected() -> None:
    orders = [replace(order, deadline_s=None) for order in mix(1, 2.0, 2, num=200)]
    assert play("slack", orders, [2]).rejected == {}


# ---- placement


@pytest.mark.parametrize("place", ["least_loaded", "prefix_affinity"])
def test_a_burst_spreads_evenly_since_the_ledger_is_never_stale(place: str) -> None:
    played = play(f"place={place}", [single(0.0, 5.0 + number % 7) for number in range(64)], [64] * 8)
    counts: dict[str, int] = defaultdict(int)
    for ran in played.ran:
        counts[ran.endpoint] += 1
    assert max(counts.values()) <= 2 * 64 / 8


# ---- metamorphic


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_stretching_time_stretches_every_latency(policy: str) -> None:
    text = "order=slack(relaxed_s=240,aging_s=4)" if policy == "slack" else policy
    text = "order=priority(aging_s=4)" if policy == "priority" else text
    base = {"slack": "order=slack", "priority": "order=priority"}.get(policy, policy)
    orders = mix(2, 0.9, 2, num=150)
    slow = [
        replace(
            o,
            at=o.at * 4,
            stages=[[op._replace(service_s=op.service_s * 4) for op in stage] for stage in o.stages],
            deadline_s=(o.deadline_s or 0) * 4,
        )
        for o in orders
    ]
    one, other = play(base, orders, [2]), play(text, slow, [2])
    assert all(abs(other.took_s(job) - 4 * one.took_s(job)) < 1e-6 for job in range(150))


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_renaming_tenants_changes_nothing_else(policy: str) -> None:
    orders = [replace(o, tenant="abc"[n % 3]) for n, o in enumerate(mix(3, 1.2, 2, num=200))]
    renamed = [replace(o, tenant={"a": "z", "b": "y", "c": "x"}[o.tenant]) for o in orders]
    one, other = play(policy, orders, [2]), play(policy, renamed, [2])
    assert (one.done, one.rejected.keys()) == (other.done, other.rejected.keys())


@pytest.mark.slow
@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_one_endpoint_more_does_not_lower_goodput(policy: str) -> None:
    means = []
    for slots in ([2] * 3, [2] * 4):
        means.append(sum(goodput(play(policy, mix(seed, 0.9, 6, num=500), slots)) for seed in range(30)) / 30)
    assert means[1] >= 0.99 * means[0]


# ---- adaptive limit


def linear(in_flight: int, now: float) -> float:
    """Every call makes the others slower; from 60 s on, half as much."""
    return 1.0 + in_flight * (0.1 if now < 60 else 0.05)


@pytest.mark.slow
def test_an_adaptive_limit_finds_the_best_one_and_stays() -> None:
    size_s, tokens, target_ms = 0.2, 20, 30  # 10 ms a token alone: 30 ms at 20 in flight, at 40 later
    orders = [Order(0.0, [[Op(size_s, tokens)]]) for _ in range(12_000)]
    shop = Shop(f"order=fifo,limit=adaptive(target_ms={target_ms})", {"llm": [64]}, slow_down=linear)
    limits = shop.play(orders).limits
    for since, until, best in ((40.0, 60.0, 20), (110.0, limits[-1][0] - 5, 40)):
        seen = [limit for at, limit in limits if since <= at <= until]
        assert len(seen) > 100
        assert all(0.85 * best - 1 <= limit <= 1.15 * best for limit in seen), (since, min(seen), max(seen))
        turns = sum(a != b for a, b in itertools.pairwise(seen))
        assert turns <= 0.4 * (until - since), "it oscillates"
