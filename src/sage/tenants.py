"""Tenants: on whose behalf jobs run, and what each may claim of shared engines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sage.errors import InputError, nearest

__all__ = ["PRIORITIES", "Tenant", "priority_of", "tenant_from", "tenants_from"]

#: Names for priority classes; any int is allowed, higher runs first.
PRIORITIES: Mapping[str, int] = {"batch": -10, "normal": 0, "interactive": 10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """What a tenant may claim.

    Attributes:
        weight: twice the weight, twice the share.
        reserved: calls at once, in each pool, that it gets before others share the rest.
        tokens_per_s: tokens in and out that its jobs may use each second, on average; None: no limit of its own.
        burst_tokens: what it may save up of them; None: ten seconds' worth.
        priority: of its jobs that do not say theirs; a name of PRIORITIES becomes its number.

    Raises:
        InputError: one of them is out of its range.
    """

    weight: float = 1.0
    reserved: int = 0
    tokens_per_s: float | None = None
    burst_tokens: float | None = None
    priority: int | str = 0

    def __post_init__(self) -> None:
        if not _is_number(self.weight) or not 0 < self.weight < math.inf:
            raise InputError(f"a tenant's weight is {self.weight!r}, expected a number above 0")
        if not isinstance(self.reserved, int) or isinstance(self.reserved, bool) or self.reserved < 0:  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(
                f"a tenant's reserved calls are {self.reserved!r}, expected a whole number from 0"
            )
        for name in ("tokens_per_s", "burst_tokens"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or not 0 < value < math.inf):
                raise InputError(f"a tenant's {name} is {value!r}, expected a number above 0")
        if self.burst_tokens is not None and self.tokens_per_s is None:
            raise InputError(
                f"a tenant's burst_tokens is {self.burst_tokens!r} without tokens_per_s; say at which rate it fills"
            )
        object.__setattr__(self, "priority", priority_of(self.priority))


def priority_of(said: Any) -> int:
    """The number of a priority class that is given as one or by its name.

    Raises:
        InputError: it is neither.
    """
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    if isinstance(said, str) and said in PRIORITIES:
        return PRIORITIES[said]
    raise InputError(
        f"priority {said!r} is neither a whole number nor known: {nearest(str(said), PRIORITIES)}"
    )


def tenants_from(said: Any) -> dict[str, Tenant]:
    """Tenants from a table of names, as in ``sage.toml``.

    >>> tenants_from({"acme": {"weight": 2, "priority": "interactive"}})["acme"].priority
    10

    Raises:
        InputError: it is no such table; naming the tenant.
    """
    if not isinstance(said, Mapping):
        raise InputError(f"tenants are {said!r}, expected a table of name = {{weight = 1, …}}")
    return {str(name): tenant_from(str(name), table) for name, table in said.items()}


def tenant_from(name: str, said: Any) -> Tenant:
    """One tenant, from its table; one that is a Tenant already is itself.

    Raises:
        InputError: naming the tenant, and what is wrong.
    """
    if isinstance(said, Tenant):
        return said
    known = [field.name for field in fields(Tenant)]
    if not isinstance(said, Mapping):
        raise InputError(f"tenant {name!r} is {said!r}, expected a table such as {{weight = 1}}")
    for key in said:
        if key not in known:
            raise InputError(f"tenant {name!r}: unknown setting {key!r}: {nearest(str(key), known)}")
    if "weight" not in said:
        raise InputError(f"tenant {name!r} has no weight; say weight = 1 for the same share as others")
    try:
        return Tenant(**said)
    except InputError as error:
        raise InputError(f"tenant {name!r}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
