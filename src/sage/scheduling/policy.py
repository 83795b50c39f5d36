"""A policy: one choice for each question of scheduling. Plain data, printed and parsed as text."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, TypeVar

from sage.errors import InputError, nearest
from sage.registry import Registry
from sage.scheduling.admit import ADMITS, MaxInflight, Rule
from sage.scheduling.batch import BATCHES
from sage.scheduling.checked import checked
from sage.scheduling.limit import LIMITS
from sage.scheduling.order import ORDERS
from sage.scheduling.place import PLACES
from sage.scheduling.rules import Feasible
from sage.scheduling.share import SHARES

__all__ = ["AXES", "PRESETS", "Policy", "make", "make_admits", "options", "parse_policy"]

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

    ``admit`` may be several, joined by ``+``: they judge in this order, and ``max_inflight`` is always the last.

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
    breaker: bool = True  # endpoints that keep failing are not called for a while

    def __post_init__(self) -> None:
        for axis, registry in AXES.items():
            said = getattr(self, axis)
            shown = _canonical_admits(said) if axis == "admit" else _canonical(registry, said)
            object.__setattr__(self, axis, shown)
        if self.retry_budget is not None and not 0 <= self.retry_budget <= 1:
            raise InputError(f"retry_budget is {self.retry_budget}, expected 0 to 1, or 'off'")

    def __str__(self) -> str:
        for name, preset in PRESETS.items():
            if self == preset:
                return name
        default = Policy()
        items = [(item.name, getattr(self, item.name)) for item in fields(self)]
        return ",".join(f"{name}={_shown(value)}" for name, value in items if value != getattr(default, name))


def _shown(value: str | float | bool | None) -> str:
    if value is True:
        return "on"
    return "off" if value is None or value is False else str(value)


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
    changes: dict[str, str | float | bool | None] = {}
    for item in items:
        axis, value = _change(item, text)
        if axis in changes:
            raise InputError(f"policy {text!r} says {axis!r} twice; keep one")
        changes[axis] = value
    places = changes.pop("max_inflight", None)
    if places is not None:
        changes["admit"] = _with_places(str(changes.get("admit", base.admit)), str(places), text)
    return replace(base, **changes)  # type: ignore[arg-type]  # _change checked the names and types


def _with_places(admit: str, places: str, text: str) -> str:
    others = [said for said in _members(admit) if said != "max_inflight"]
    if any(said.startswith("max_inflight") for said in others) and "admit=" in text.replace(" ", ""):
        raise InputError(f"policy {text!r} says 'max_inflight' twice; keep one")
    return "+".join([*(said for said in others if not said.startswith("max_inflight")), places])


def _change(item: str, text: str) -> tuple[str, str | float | bool | None]:
    axis, equals, value = (part.strip() for part in item.partition("="))
    known = [*AXES, "max_inflight", "retry_budget", "breaker"]
    if not equals or not value:
        raise InputError(f"policy {text!r}: {item!r} is no choice; write AXIS=NAME, such as order=fifo")
    if axis not in known:
        raise InputError(f"policy {text!r}: unknown axis {axis!r}: {nearest(axis, known)}")
    if axis == "max_inflight":
        return axis, f"max_inflight(jobs={value})"
    if axis == "retry_budget":
        return axis, None if value == "off" else _number(value, float, "retry_budget")
    if axis == "breaker":
        if value not in {"on", "off"}:
            raise InputError(f"breaker is {value!r}, expected 'on' or 'off'")
        return axis, value == "on"
    return axis, value


def _members(text: str) -> list[str]:
    """The parts of a list of members."""
    return [part.strip() for part in text.split("+")]


def make_admits(text: str, *, has_rates: bool = False, **given: Any) -> list[Rule | MaxInflight]:
    """Fresh rules of admission from their text, in its order.

    With ``has_rates``, tenants have rates of their own: they are kept to though the text names no ``token_bucket``.

    Raises:
        InputError: as in ``make``; or a rule is said twice.
    """
    parts = _members(text)
    names = [part.partition("(")[0].strip() for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"admit {text!r} says {name!r} twice; keep one")
    members = [make(ADMITS, part, **given) for part in parts]
    if has_rates and "token_bucket" not in names:
        members.insert(0, ADMITS["token_bucket"](rate=math.inf))
    return members


def _canonical_admits(text: str) -> str:
    make_admits(text, is_fair=False)
    parts = [_canonical(ADMITS, part) for part in _members(text)]
    said = [part for part in parts if part not in {"open", "max_inflight"}]
    return "+".join(said) or parts[0]


@cache
def _signature(member: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(member)


def options(member: Callable[..., object]) -> list[inspect.Parameter]:
    """What can be said to a member in text. Keyword-only parameters without default come from the scheduler."""
    parameters = _signature(member).parameters.values()
    return [parameter for parameter in parameters if parameter.default is not parameter.empty]


def make(registry: Registry[Callable[..., T]], text: str, **given: Any) -> T:
    """A fresh member of an axis from its text: ``name`` or ``name(argument=value, …)``.

    ``given`` is what the scheduler hands to members that ask for it: ``rng`` to places, ``is_fair`` to rules.

    Raises:
        InputError: an unknown name or argument, or an argument out of its range.
    """
    name, arguments = _parse_member(registry, text)
    parameters = _signature(registry[name]).parameters.values()
    asked = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    member = registry[name](**arguments, **{key: given[key] for key in asked})
    held: T = checked(registry.kind, name, member)
    return held


def _canonical(registry: Registry[Callable[..., T]], text: str) -> str:
    """The one spelling of a member: arguments in their own order, those equal to their default left out."""
    make(registry, text, rng=None, is_fair=False)
    name, arguments = _parse_member(registry, text)
    said = [(p.name, arguments[p.name]) for p in options(registry[name]) if p.name in arguments]
    changed = [f"{key}={value}" for key, value in said if value != _default(registry[name], key)]
    return f"{name}({','.join(changed)})" if changed else name


def _default(member: Callable[..., object], name: str) -> object:
    return _signature(member).parameters[name].default


def _parse_member(registry: Registry[Callable[..., T]], text: str) -> tuple[str, dict[str, float]]:
    matched = _MEMBER.fullmatch(text.strip())
    if matched is None:
        raise InputError(
            f"{registry.kind} {text!r} is not NAME or NAME(ARGUMENT=VALUE,…): {nearest(text, registry)}"
        )
    name = matched["name"]
    parameters = {parameter.name: parameter for parameter in options(registry[name])}
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
PRESETS["priority"] = Policy(order="priority", place="least_loaded")
PRESETS["slack"] = Policy(
    admit="feasible",
    share="weighted_fair",
    order="slack",
    place="prefix_affinity",
    limit="adaptive(target_ms=60)",
)
assert ADMITS["feasible"] is Feasible  # its module is imported, so that its rules are registered
