"""A policy: one choice for each question of scheduling. Plain data, printed and parsed as text."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from sage.errors import InputError, nearest
from sage.registry import Registry
from sage.scheduling.admit import ADMITS
from sage.scheduling.batch import BATCHES
from sage.scheduling.limit import LIMITS
from sage.scheduling.order import ORDERS
from sage.scheduling.place import PLACES
from sage.scheduling.share import SHARES

__all__ = ["AXES", "PRESETS", "Policy", "make", "parse_policy"]

T = TypeVar("T")

#: Question -> who can answer it.
AXES: Mapping[str, Registry[Any]] = {
    "admit": ADMITS,
    "share": SHARES,
    "order": ORDERS,
    "place": PLACES,
    "limit": LIMITS,
    "batch": BATCHES,
}

_MEMBER = re.compile(r"(?P<name>\w+)(?:\((?P<arguments>[^()]*)\))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who gets in, whose turn, which task, where, how many, together with whom.

    Each is a registered name, with arguments where the default ones do not suit:

    >>> policy = Policy(order="job_fifo", batch="window(max_items=16)")
    >>> str(policy)
    'order=job_fifo,batch=window(max_items=16)'
    >>> parse_policy(str(policy)) == policy
    True

    Raises:
        InputError: an unknown name or argument, or an argument out of its range.
    """

    admit: str = "max_inflight"
    share: str = "none"
    order: str = "fifo"
    place: str = "least_loaded"
    limit: str = "static"
    batch: str = "window"
    retry_budget: float | None = 0.1  # retries for each call made; None: no budget

    def __post_init__(self) -> None:
        for axis, registry in AXES.items():
            object.__setattr__(self, axis, _canonical(registry, getattr(self, axis)))
        if self.retry_budget is not None and not 0 <= self.retry_budget <= 1:
            raise InputError(f"retry_budget is {self.retry_budget}, expected 0 to 1, or 'off'")

    def __str__(self) -> str:
        for name, preset in PRESETS.items():
            if self == preset:
                return name
        default = Policy()
        items = [(item.name, getattr(self, item.name)) for item in fields(self)]
        return ",".join(f"{name}={_shown(value)}" for name, value in items if value != getattr(default, name))


def _shown(value: str | float | None) -> str:
    return "off" if value is None else str(value)


def parse_policy(text: str) -> Policy:
    """The policy that a text names: a preset, choices for single axes, or a preset with changes.

    ``max_inflight=32`` is short for ``admit=max_inflight(jobs=32)``. What is not said is as in ``load_aware``.

    >>> parse_policy("fifo").place
    'round_robin'
    >>> str(parse_policy("order=job_fifo,place=least_loaded,max_inflight=32"))
    'admit=max_inflight(jobs=32),order=job_fifo'
    >>> parse_policy("order=fifu")
    Traceback (most recent call last):
    sage.errors.InputError: unknown order 'fifu': did you mean 'fifo'?

    Raises:
        InputError: something in it is unknown, said twice, or out of its range.
    """
    items = [item.strip() for item in re.split(r",(?![^()]*\))", text)]
    base = Policy()
    if items and "=" not in items[0].partition("(")[0]:
        base = PRESETS[items.pop(0)]
    changes: dict[str, str | float | None] = {}
    for item in items:
        axis, value = _change(item, text)
        if axis in changes:
            raise InputError(f"policy {text!r} says {axis!r} twice; keep one")
        changes[axis] = value
    return replace(base, **changes)  # type: ignore[arg-type]  # _change checked the names and types


def _change(item: str, text: str) -> tuple[str, str | float | None]:
    axis, equals, value = (part.strip() for part in item.partition("="))
    known = [*AXES, "max_inflight", "retry_budget"]
    if not equals or not value:
        raise InputError(f"policy {text!r}: {item!r} is no choice; write AXIS=NAME, such as order=fifo")
    if axis not in known:
        raise InputError(f"policy {text!r}: unknown axis {axis!r}: {nearest(axis, known)}")
    if axis == "max_inflight":
        return "admit", f"max_inflight(jobs={value})"
    if axis == "retry_budget":
        return axis, None if value == "off" else _number(value, float, "retry_budget")
    return axis, value


def make(registry: Registry[Callable[..., T]], text: str) -> T:
    """A fresh member of an axis from its text: ``name`` or ``name(argument=value, …)``.

    Raises:
        InputError: an unknown name or argument, or an argument out of its range.
    """
    name, arguments = _parse_member(registry, text)
    return registry[name](**arguments)


def _canonical(registry: Registry[Callable[..., T]], text: str) -> str:
    """The one spelling of a member: arguments in their own order, those equal to their default left out."""
    make(registry, text)
    name, arguments = _parse_member(registry, text)
    parameters = inspect.signature(registry[name]).parameters.values()
    said = [(p.name, arguments[p.name]) for p in parameters if arguments.get(p.name, p.default) != p.default]
    return f"{name}({','.join(f'{key}={value}' for key, value in said)})" if said else name


def _parse_member(registry: Registry[Callable[..., T]], text: str) -> tuple[str, dict[str, float]]:
    matched = _MEMBER.fullmatch(text.strip())
    if matched is None:
        raise InputError(
            f"{registry.kind} {text!r} is not NAME or NAME(ARGUMENT=VALUE,…): {nearest(text, registry)}"
        )
    name = matched["name"]
    parameters = inspect.signature(registry[name]).parameters
    arguments: dict[str, float] = {}
    for item in (matched["arguments"] or "").split(","):
        if not item.strip():
            continue
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in parameters:
            raise InputError(f"{registry.kind} {name!r} has no argument {key!r}: {nearest(key, parameters)}")
        arguments[key] = _number(value, type(parameters[key].default), f"{registry.kind} {name!r}: {key}")
    return name, arguments


def _number(text: str, kind: type[int | float], what: str) -> float:
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} is {text!r}, expected {'a whole number' if kind is int else 'a number'}")
    return number


#: Whole policies with a name of their own.
PRESETS: Registry[Policy] = Registry("policy")
PRESETS["fifo"] = Policy(order="fifo", place="round_robin")
PRESETS["load_aware"] = Policy(order="fifo", place="least_loaded")
