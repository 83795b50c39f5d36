"""Policies as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError
from sage.scheduling.order import ORDERS
from sage.scheduling.place import PLACES
from sage.scheduling.policy import AXES, PRESETS, Policy, parse_policy


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_known_by_its_name(name: str) -> None:
    assert str(parse_policy(name)) == name


def test_load_aware_is_the_default() -> None:
    assert Policy() == parse_policy("load_aware")


def test_single_axes_change_the_default() -> None:
    policy = parse_policy("order=job_fifo,place=least_loaded,max_inflight=32")
    assert policy == Policy(admit="max_inflight(jobs=32)", order="job_fifo")


def test_a_preset_may_be_changed() -> None:
    policy = parse_policy("fifo, batch = window(max_items=8, max_wait_ms=2.5), retry_budget=off")
    assert (policy.place, policy.batch) == ("round_robin", "window(max_items=8,max_wait_ms=2.5)")
    assert policy.retry_budget is None


def test_what_equals_the_default_is_not_said() -> None:
    assert Policy(batch="window( max_items = 64 )") == Policy()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("load_awear", "did you mean 'load_aware'"),
        ("order=job_fif", "did you mean 'job_fifo'"),
        ("odrer=fifo", "did you mean 'order'"),
        ("batch=window(max_item=3)", "did you mean 'max_items'"),
        ("batch=window(max_items=x)", "expected a whole number"),
        ("batch=window(max_wait_ms=nan)", "expected a number"),
        ("batch=window(3)", "no argument '3'"),
        ("order=fifo(", "is not NAME"),
        ("order=fifo,order=fifo", "says 'order' twice"),
        ("max_inflight=0", "at least 1"),
        ("max_inflight=-3", "at least 1"),
        ("retry_budget=2", "expected 0 to 1"),
        ("retry_budget=some", "expected a number"),
        ("order=fifo,,", "is no choice"),
        ("order=", "is no choice"),
        ("", "unknown policy ''"),
    ],
)
def test_what_is_wrong_is_said(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_policy(text)
    assert expected in str(caught.value)


@given(
    policy=st.builds(
        Policy,
        admit=st.integers(1, 10**6).map("max_inflight(jobs={})".format),
        order=st.sampled_from(sorted(ORDERS)),
        place=st.sampled_from(sorted(PLACES)),
        batch=st.sampled_from(["none", "window"])
        | st.builds(
            "window(max_items={},max_wait_ms={})".format, st.integers(1, 999), st.floats(0, 1e4).map(repr)
        ),
        retry_budget=st.none() | st.floats(0, 1),
    )
)
def test_every_policy_survives_being_printed(policy: Policy) -> None:
    assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize("axis", list(AXES))
def test_every_axis_is_a_field_of_the_policy_and_its_default_is_registered(axis: str) -> None:
    assert getattr(Policy(), axis).partition("(")[0] in AXES[axis]
