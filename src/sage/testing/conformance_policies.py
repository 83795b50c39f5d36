"""What every member of a policy's axes must do, as checks of one member by its axis and name.

Feed them from the registries, so that registering a member is having it tested:

    @pytest.mark.parametrize(("axis", "name"), members())
    @pytest.mark.parametrize("check", POLICY_CHECKS)
    def test_keeps_its_promises(check, axis, name):
        check(axis, name)

A check returns None, passes over what does not concern the axis, or raises AssertionError or Violation with what
was seen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from msgspec.structs import replace

from sage.scheduling.order import ORDERS, OrderWithLateness
from sage.scheduling.place import PLACES
from sage.scheduling.policy import AXES, make, options, parse_policy
from sage.scheduling.views import EndpointView, TaskView
from sage.testing.shop import Op, Order, Shop
from sage.testing.worlds import simulate

__all__ = [
    "POLICY_CHECKS",
    "PolicyCheck",
    "check_invariants",
    "check_is_documented",
    "check_keys",
    "check_places",
    "check_same_seed_same_decisions",
    "check_serves_everyone",
    "members",
]

#: One property of a member, given its axis and its name.
PolicyCheck = Callable[[str, str], None]

WORLDS = 25


def members() -> list[tuple[str, str]]:
    """Every registered member: (axis, name)."""
    return [(axis, name) for axis, registry in AXES.items() for name in registry]


def check_invariants(axis: str, name: str) -> None:
    """In small random worlds, every invariant of the core holds after every event, and every job ends once."""
    for seed in range(WORLDS):
        result = simulate(seed, policy=parse_policy(f"{axis}={name}"))
        assert result.outcomes.total() == result.jobs, (seed, result.outcomes)


def check_same_seed_same_decisions(axis: str, name: str) -> None:
    """The same events and the same seed give the same commands."""
    policy = parse_policy(f"{axis}={name}")
    for seed in range(3):
        assert simulate(seed, policy=policy).log == simulate(seed, policy=policy).log, seed


def check_serves_everyone(axis: str, name: str) -> None:
    """Work that came is done in the end: tenants, classes, deadlines, chains and fan-outs, on busy endpoints."""
    rng = random.Random(1)
    orders = [
        Order(
            rng.uniform(0, 20),
            [
                [Op(rng.uniform(0.1, 2.0), rng.randint(1, 50))] * rng.randint(1, 3)
                for _ in range(rng.randint(1, 4))
            ],
            rng.choice("abc"),
            rng.randint(-3, 3),
            rng.choice((None, 5.0, 60.0)),
            rng.choice("pq"),
        )
        for _ in range(60)
    ]
    played = Shop(f"{axis}={name}", {"llm": [2, 1]}).play(orders)
    assert len(played.done) + len(played.rejected) == len(orders)


def check_keys(axis: str, name: str) -> None:
    """An order's key is a tuple of numbers, always as long, the same for equal tasks, and a total order."""
    if axis != "order":
        return
    order, rng, keys = make(ORDERS, name), random.Random(2), []
    for number in range(200):
        task = _task(number, rng)
        key = order.key(task)
        assert key == order.key(replace(task)), (
            f"{name}: equal tasks, keys {key} and {order.key(replace(task))}"
        )
        assert not any(map(math.isnan, key)), key
        keys.append(key)
        if isinstance(order, OrderWithLateness) and (late := order.late(task)) is not None:
            assert task.deadline is not None, f"{name}: late without a deadline"
            assert late.after <= task.deadline, late
    assert len({len(key) for key in keys}) == 1, f"{name}: keys of different lengths"
    assert len(set(keys)) == len(keys), f"{name}: different tasks with equal keys"


def check_places(axis: str, name: str) -> None:
    """A place chooses an endpoint that is here and has room, whatever came and went before."""
    if axis != "place":
        return
    rng = random.Random(3)
    place, endpoints = make(PLACES, name, rng=rng), dict[str, EndpointView]()
    for number in range(2_000):
        endpoint = f"e{rng.randrange(30)}"
        known = endpoints.get(endpoint)
        if known is not None and rng.random() < 0.1:
            place.remove(endpoint)
            del endpoints[endpoint]
        else:
            in_flight = rng.randint(0, 4)
            endpoints[endpoint] = EndpointView(endpoint, "llm", 4, in_flight, in_flight * 10)
            place.update(endpoints[endpoint])
        if any(view.in_flight < view.limit for view in endpoints.values()):
            chosen = endpoints.get(place.choose(_task(number, rng)))
            assert chosen is not None, f"{name} chose an endpoint that left"
            assert chosen.in_flight < chosen.limit, f"{name} chose {chosen}, which is full"
            chosen = endpoints[chosen.name] = replace(chosen, in_flight=chosen.in_flight + 1)
            place.update(chosen)


def check_is_documented(axis: str, name: str) -> None:
    """The docstring says what it does, when to use it and when not; arguments have numbers as defaults."""
    member = AXES[axis][name]
    said = " ".join((member.__doc__ or "").split())
    for word in ("When: ", "When not: "):
        assert word in said, f"{axis} {name}: no {word!r} in its docstring"
    for option in options(member):
        assert isinstance(option.default, int | float), f"{axis} {name}: {option.name} is no number"


def _task(number: int, rng: random.Random) -> TaskView:
    return TaskView(
        number,
        rng.randrange(20),
        "s",
        "p",
        "llm",
        "generate",
        rng.uniform(0, 10),
        rng.uniform(10, 20),
        rng.choice("abc"),
        rng.randint(-10, 10),
        rng.choice((None, rng.uniform(20, 60))),
        rng.randrange(100),
        rng.randrange(100),
        remaining_steps=rng.randint(1, 5),
        prefix_key=rng.choice((None, "a", "b", "c")),
        service_s=1.0,
        remaining_path_s=rng.uniform(1, 9),
        remaining_work_s=rng.uniform(9, 20),
        attained_s=rng.uniform(0, 9),
    )


POLICY_CHECKS: tuple[PolicyCheck, ...] = (
    check_invariants,
    check_same_seed_same_decisions,
    check_serves_everyone,
    check_keys,
    check_places,
    check_is_documented,
)
