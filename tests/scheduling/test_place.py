"""Placement: round robin and least loaded."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sage.scheduling.messages import EndpointJoined, TaskReady
from sage.scheduling.place import PLACES, Place
from sage.scheduling.policy import make
from sage.scheduling.views import EndpointView, TaskView
from sage.testing.desk import open_desk, started

TASK = TaskView(1, 1, "s", "p", "llm", "generate", 0.0, 0.0)


def place_with(name: str, *endpoints: EndpointView) -> Place:
    place = make(PLACES, name, rng=random.Random(0))
    for endpoint in endpoints:
        place.update(endpoint)
    return place


def test_round_robin_takes_turns() -> None:
    desk = open_desk("fifo")
    for name in "abc":
        desk.join(name, limit=9)
    names = [started(desk.ready(task))[0][1] for task in range(1, 7)]
    assert names == ["a", "b", "c", "a", "b", "c"]


def test_round_robin_passes_over_full_endpoints() -> None:
    desk = open_desk("fifo")
    desk.join("a", limit=1)
    desk.join("b", limit=3)
    names = [started(desk.ready(task))[0][1] for task in range(1, 5)]
    assert names == ["a", "b", "b", "b"]


def test_least_loaded_prefers_the_fewest_calls_for_the_limit() -> None:
    place = place_with("least_loaded", EndpointView("a", "llm", 4, 2), EndpointView("b", "llm", 8, 3))
    assert place.choose(TASK) == "b"


def test_least_loaded_then_prefers_the_fewest_tokens() -> None:
    place = place_with("least_loaded", EndpointView("a", "llm", 4, 1, 50), EndpointView("b", "llm", 4, 1, 9))
    assert place.choose(TASK) == "b"


def test_least_loaded_ties_take_turns() -> None:
    desk = open_desk("load_aware")
    for name in "abc":
        desk.join(name)
    names = []
    for task in range(1, 7):
        names.append(started(desk.ready(task))[0][1])
        desk.done(task)
    assert names == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize("name", list(PLACES))
def test_no_place_chooses_a_full_or_departed_endpoint(name: str) -> None:
    endpoints = [EndpointView(key, "llm", 1, int(key == "a")) for key in "abc"]
    place = place_with(name, *endpoints)
    place.remove("b")
    assert place.choose(TASK) == "c"


@pytest.mark.parametrize("name", list(PLACES))
def test_every_place_fills_a_thousand_endpoints_evenly(name: str) -> None:
    desk = open_desk(f"place={name}")
    handle, calls = desk.scheduler.handle, Counter[str]()
    for number in range(1000):
        handle(EndpointJoined(f"e{number}", "llm", 2), desk.now)
    for task in range(1, 2001):
        ready = TaskReady(TaskView(task, 1, "s", "p", "llm", "generate", 0.0, 0.0))
        calls.update(endpoint for _, endpoint in started(handle(ready, desk.now)))
    assert set(calls.values()) == {2}
