"""The scores of agents, held to what must be true of them whatever comes."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sage.bench.agent_scores import (
    UNPARSABLE,
    edge_match,
    is_valid_plan,
    none_curve,
    ordered_match,
    same_up_to_order,
    score_classes,
    set_match,
)

NAMES = st.lists(st.sampled_from("abc"), max_size=5)
LABELS = st.sampled_from(["call", "ask", "answer"])


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[str], list[tuple[int, int]]]:
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
    pairs = list(itertools.combinations(range(len(names)), 2))
    return names, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


@given(found=NAMES, gold=NAMES)
def test_matches_are_shares_and_perfect_only_for_equals(found: list[str], gold: list[str]) -> None:
    for match, same in (
        (set_match(found, gold), sorted(found) == sorted(gold)),
        (ordered_match(found, gold), found == gold),
    ):
        assert 0 <= match.f1 <= 1
        assert (match.f1 == 1.0) == same
        assert min(match.precision, match.recall) <= match.f1 + 1e-9
        assert match.f1 <= max(match.precision, match.recall) + 1e-9


@given(found=NAMES, gold=NAMES)
def test_what_is_in_order_is_also_in_the_set(found: list[str], gold: list[str]) -> None:
    assert ordered_match(found, gold).f1 <= set_match(found, gold).f1
    assert ordered_match(found, gold).recall == ordered_match(gold, found).precision


@given(plan=plans())
def test_a_plan_matches_itself(plan: tuple[list[str], list[tuple[int, int]]]) -> None:
    names, edges = plan
    assert edge_match(names, edges, names, edges).f1 == 1.0
    assert same_up_to_order(names, names, edges)
    assert is_valid_plan(len(names), edges)


@given(plan=plans(), order=st.randoms(use_true_random=False))
def test_exact_up_to_order_is_what_trying_every_order_says(
    plan: tuple[list[str], list[tuple[int, int]]], order: Any
) -> None:
    names, edges = plan
    found = list(names)
    order.shuffle(found)
    by_trying = any(
        [names[place] for place in places] == found
        and all(places.index(before) < places.index(after) for before, after in edges)
        for places in itertools.permutations(range(len(names)))
    )
    assert same_up_to_order(found, names, edges) == by_trying


def test_a_plan_is_valid_if_it_could_be_carried_out() -> None:
    assert not is_valid_plan(0, [])
    assert not is_valid_plan(2, [(1, 0)])
    assert not is_valid_plan(2, [(0, 2)])
    assert not is_valid_plan(2, [], ["teleport"])


@given(pairs=st.lists(st.tuples(st.none() | LABELS, LABELS), min_size=1, max_size=20))
def test_every_decision_is_counted_once(pairs: list[tuple[str | None, str]]) -> None:
    said, right = [one for one, _ in pairs], [other for _, other in pairs]
    classes = score_classes(said, right)
    assert sum(count for row in classes.confusion.values() for count in row.values()) == len(pairs)
    assert classes.right == sum(one == other for one, other in pairs)
    assert classes.unparsable == said.count(None)
    assert 0 <= classes.macro_f1 <= 1
    assert (classes.macro_f1 == 1.0) == (classes.right == len(pairs))
    assert UNPARSABLE not in classes.recall


@given(
    answered=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20),
    empty=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_a_higher_threshold_finds_more_that_have_no_tool_and_fewer_that_have(
    answered: list[tuple[float, bool]], empty: list[float]
) -> None:
    curve = none_curve(answered, empty)
    assert curve == sorted(curve, key=lambda point: (point[0], -point[1], point[2]))
    assert [point[1] for point in curve] == sorted((point[1] for point in curve), reverse=True)
    assert [point[2] for point in curve] == sorted(point[2] for point in curve)
