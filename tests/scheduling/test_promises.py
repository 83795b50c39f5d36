"""More of what policies promise: isolation, limits that follow a change, stale loads, and the order of a job's times."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.bench.simulation import simulate
from sage.bench.simulation_spec import Spec
from sage.events import JobEnded, TaskEnded
from sage.runtime.runs import read_events
from sage.scheduling.messages import JobArrived, JobOver, Reject, TaskDone, TaskReady
from sage.scheduling.place import PLACES
from sage.scheduling.policy import PRESETS, make
from sage.scheduling.views import EndpointView, JobView, TaskView
from sage.testing.desk import Desk, started
from sage.testing.shop import Op, Order, Played, Shop


def play(policy: str, orders: Sequence[Order], slots: Sequence[int] = (1,)) -> Played:
    return Shop(policy, {"llm": slots}).play(orders)


def single(at: float, size_s: float, **fields: object) -> Order:
    return Order(at, [[Op(size_s)]], **fields)  # type: ignore[arg-type]  # fields of Order


# ---- isolation


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("policy", "slots", "weight"),
    [
        ("share=weighted_fair", (1, 1), 1.0),
        ("slack,limit=static", (2, 2), 1.0),
        ("share=weighted_fair,order=edf", (3,), 3.0),
    ],
)
def test_a_tenant_below_its_share_keeps_its_p99_beside_any_flood(
    policy: str, slots: tuple[int, ...], weight: float, seed: int
) -> None:
    rng = random.Random(seed)
    total = sum(slots)
    share = weight / (weight + 1)
    every_s = 1.0 / (0.5 * share * total)  # half of its share, with tasks of a second
    calm = [
        single(number * every_s, rng.uniform(0.5, 1.5), tenant="calm", weight=weight) for number in range(300)
    ]
    end_s, flood, at = 300 * every_s, list[Order](), 0.0
    while at < end_s:
        at += rng.expovariate(3.0 * total)
        flood.append(single(at, rng.uniform(0.5, 1.5), tenant="flood"))
    alone, together = (play(policy, orders, slots) for orders in (calm, calm + flood))
    p99_alone, p99 = (sorted(p.took_s(job) for job in range(300))[296] for p in (alone, together))
    assert p99 <= 1.2 * p99_alone + 1.5


# ---- adaptive limits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [(0.1, 0.05), (0.05, 0.1), (0.1, 0.4)],
    ids=["twice as quick", "half as quick", "a quarter as quick"],
)
def test_an_adaptive_limit_is_near_the_best_within_a_minute_of_a_change(before: float, after: float) -> None:
    """A call beside n - 1 others takes 1 + n * slope times as long; the target allows three times as long."""
    change_s, allowed = 60.0, 3.0
    orders = [Order(0.0, [[Op(0.2, 20)]]) for _ in range(6_500)]

    def slow_down(in_flight: int, now: float) -> float:
        return 1.0 + in_flight * (before if now < change_s else after)

    shop = Shop("order=fifo,limit=adaptive(target_ms=30)", {"llm": [64]}, slow_down=slow_down)
    limits = shop.play(orders).limits
    last = limits[-1][0]
    for since, until, slope in (
        (40.0, change_s, before),
        (change_s + 60.0, min(last - 5, change_s + 90.0), after),
    ):
        best = min(64, (allowed - 1) / slope)
        seen = [limit for at, limit in limits if since <= at <= until]
        assert len(seen) > 100, (since, until, last)
        mean = sum(seen) / len(seen)
        assert 0.85 * best - 1 <= mean <= 1.15 * best + 1, (best, mean)
        turns = sum(a != b for a, b in itertools.pairwise(seen))
        assert turns <= 0.4 * (until - since), "it oscillates"


# ---- loads that are not what they were


@given(
    st.integers(2, 24),
    st.integers(4, 12),
    st.sampled_from(["least_loaded", "prefix_affinity"]),
    st.randoms(use_true_random=False),
)
def test_a_burst_on_stale_loads_sends_nobody_twice_the_mean(
    endpoints: int, each: int, place: str, rng: random.Random
) -> None:
    """What a place knew before the burst is up to 5 s old: since then up to ``each`` calls came or went anywhere."""
    chooser = make(PLACES, place, rng=rng)
    known = {
        f"e{number}": EndpointView(f"e{number}", "llm", 10_000, rng.randint(0, each))
        for number in range(endpoints)
    }
    for view in known.values():
        chooser.update(view)
    got: Counter[str] = Counter()
    for number in range(endpoints * each):
        prefix = rng.choice((None, "a", "b"))
        task = TaskView(number, 1, "s", "p", "llm", "generate", 0.0, 0.0, prefix_key=prefix)
        name = chooser.choose(task)
        got[name] += 1
        known[name] = msgspec.structs.replace(known[name], in_flight=known[name].in_flight + 1)
        chooser.update(known[name])
    bound = 2.0 if place == "least_loaded" else 1.25 * 2.0  # a prefix may load its home that much more
    assert max(got.values()) <= bound * each + 1


# ---- overload


@pytest.mark.slow
@pytest.mark.parametrize("slots", [(8,), (2, 2, 2, 2), (1, 3)], ids=str)
def test_goodput_holds_up_to_twice_what_can_be_done_on_any_endpoints(slots: tuple[int, ...]) -> None:
    def goodput(seed: int, load: float) -> float:
        rng = random.Random(seed)
        orders, at = [], 0.0
        for _ in range(800):
            at += rng.expovariate(load * sum(slots) / 1.7)
            kind = rng.choices(("chat", "fan", "chain"), (6, 2, 2))[0]
            stages = {
                "chat": [[Op(1.0)]],
                "fan": [[Op(0.5)] * 4, [Op(0.5)]],
                "chain": [[Op(0.75)]] * 4,
            }[kind]
            orders.append(
                Order(at, stages, deadline_s={"chat": 5.0, "fan": 8.0, "chain": 12.0}[kind], pipeline=kind)
            )
        played = play("slack,limit=static", orders, slots)
        counted = [job for job in range(200, 800) if played.in_time(job)]
        assert not {ran.job for ran in played.ran} & played.rejected.keys()
        return sum(orders[job].work_s for job in counted) / (orders[-1].at - orders[200].at)

    at = {load: sum(goodput(seed, load) for seed in range(2)) / 2 for load in (1.0, 1.5, 2.0)}
    assert all(value >= 0.97 * at[1.0] for value in at.values()), at


# ---- the time order of a job


STAGES: dict[str, Any] = {
    "pipeline": "stages",
    "steps": {
        "vector": {"embed": "{question}"},
        "parts": {"each": "pages", "body": {"generate": "{item}", "max_tokens": 50}},
        "joined": {"generate": "{parts} {vector}", "max_tokens": 60},
        "last": {"generate": "{joined}", "max_tokens": 40},
    },
}
#: Step -> the steps it is made from, items of a fan-out under their common name.
PARENTS = {"joined": ("parts", "vector"), "last": ("joined",)}


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_times_of_a_job_are_in_order_and_no_step_is_ready_before_its_parents_are_done(
    policy: str, tmp_path: Path
) -> None:
    spec = msgspec.convert(
        {
            "simulate": "causes",
            "engines": {"llm": {"profile": "vllm-llama-3.1-8b", "count": 2, "limit": 3, "output": "uniform(5,60)"},
                        "embedder": {"profile": "vllm-llama-3.1-8b"}},
            "traffic": {"all": {
                "pipeline": STAGES,
                "arrivals": {"process": "poisson", "rate": 2.0, "jobs": 60},
                "record": {"question": {"tokens": 20}, "pages": {"list": "uniform(1,4)", "of": {"tokens": 50}}},
                "deadline_s": 12,
            }},
            "policies": [policy],
        },
        Spec,
    )  # fmt: skip
    (cell,) = simulate(spec, tmp_path / "out").cells
    events = list(read_events(tmp_path / "out" / str(cell.folder) / "events.jsonl"))
    jobs = {event.job: event for event in events if isinstance(event, JobEnded)}
    steps: defaultdict[int, defaultdict[str, list[TaskEnded]]] = defaultdict(lambda: defaultdict(list))
    for task in (event for event in events if isinstance(event, TaskEnded)):
        job = jobs[task.job]
        assert job.admitted is not None
        assert (
            job.arrived
            <= job.admitted
            <= task.ready
            <= task.dispatched
            <= (task.first or task.t)
            <= task.t
            <= job.t
        )
        steps[task.job][task.step.partition("[")[0].partition(".")[0]].append(task)
    assert jobs
    for by_name in steps.values():
        for child, parents in PARENTS.items():
            done = max((task.t for parent in parents for task in by_name[parent]), default=0.0)
            assert all(task.ready >= done for task in by_name[child]), child


# ---- what a loop takes is learned


def test_an_agent_is_as_urgent_as_the_turns_that_agents_took() -> None:
    desk = Desk("order=slack")
    desk.join("a")

    def turn(job: int, task: int) -> None:
        view = TaskView(task, job, "s", "agent", "llm", "generate", 0.0, desk.now, path=("agent/turn",))
        desk.tell(TaskReady(view))
        desk.now += 2.0
        desk.tell(TaskDone(task))

    for job in range(1, 4):
        desk.tell(JobArrived(JobView(job, "r", "agent", desk.now)))
        for number in range(5):
            turn(job, 100 * job + number)
        desk.tell(JobOver(job))
    # an agent whose graph shows one turn of 2 s, but agents took 10 s; and a single call of the same deadline
    due = desk.now + 30.0
    for job, pipeline in ((7, "call"), (8, "agent")):
        desk.tell(JobArrived(JobView(job, "r", pipeline, desk.now, deadline=due)))
    blocker = TaskView(700, 7, "s", "call", "llm", "generate", desk.now, desk.now, deadline=due)
    desk.tell(TaskReady(blocker))
    for task, job, pipeline in ((701, 7, "call"), (801, 8, "agent")):
        view = TaskView(
            task,
            job,
            "s",
            pipeline,
            "llm",
            "generate",
            desk.now,
            desk.now,
            deadline=due,
            path=(f"{pipeline}/turn",),
        )
        desk.tell(TaskReady(view))
    desk.now += 1.0
    commands = desk.tell(TaskDone(700)) + desk.tick(desk.now)
    assert started(commands) == [((801,), "a")]


def test_what_is_known_of_loops_makes_admission_say_no() -> None:
    desk = Desk("admit=feasible(load=0.0),order=slack")
    desk.join("a")
    task = itertools.count(1)
    for job in range(1, 4):
        desk.tell(JobArrived(JobView(job, "r", "agent", desk.now)))
        for number in task:
            desk.tell(TaskReady(TaskView(number, job, "s", "agent", "llm", "generate", desk.now, desk.now)))
            desk.now += 2.0
            desk.tell(TaskDone(number))
            if number % 5 == 0:
                break
        desk.tell(JobOver(job))
    (answer,) = desk.tell(JobArrived(JobView(9, "r", "agent", desk.now, deadline=desk.now + 8.0)))
    assert isinstance(answer, Reject)


def test_a_limit_is_not_cut_for_tokens_that_are_slow_whatever_it_is() -> None:
    orders = [Order(0.0, [[Op(1.0, 10)]]) for _ in range(1500)]  # 100 ms a token, however many run beside
    limits = Shop("order=fifo,limit=adaptive(target_ms=60)", {"llm": [8]}).play(orders).limits
    mean = sum(limit for _, limit in limits) / len(limits)
    assert mean >= 0.9 * 8
