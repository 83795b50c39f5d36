"""What a function in the cpu pool asks of the machine it runs on: its shape, which names its pool."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sage.errors import InputError

__all__ = ["CPU_POOL", "is_cpu", "pool_of", "shape_of"]

CPU_POOL = "cpu"

_NAME = re.compile(r"[\w.:-]+")


def pool_of(cpu: float = 1, gpu: float = 0, resources: Mapping[str, float] | None = None) -> str:
    """The pool for functions of a shape; the plain one for those that take one CPU and nothing else.

    >>> pool_of(), pool_of(cpu=2, gpu=1, resources={"fast_disk": 1})
    ('cpu', 'cpu(cpu=2,gpu=1,fast_disk=1)')

    Raises:
        InputError: an amount that is no number from 0 up, or a resource that has no name.
    """
    shape = {"cpu": cpu, "gpu": gpu, **(resources or {})}
    for name, amount in shape.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < float("inf"):  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f"a function asks for {name}={amount!r}, expected a number from 0 up")
        if not isinstance(name, str) or not _NAME.fullmatch(name):  # type: ignore[redundant-expr]  # as above
            raise InputError(f"resource {name!r} is no name; letters, digits and _ . : - make one")
    if len(shape) < 2 + len(resources or {}):
        raise InputError("say cpu= and gpu= outside resources=")
    asked = [f"{name}={amount:g}" for name, amount in shape.items() if amount or name == "cpu"]
    return CPU_POOL if asked == ["cpu=1"] else f"{CPU_POOL}({','.join(asked)})"


def is_cpu(pool: str | None) -> bool:
    """Whether a pool is of functions rather than engines."""
    return pool is not None and (pool == CPU_POOL or pool.startswith(f"{CPU_POOL}("))


def shape_of(pool: str) -> Mapping[str, float]:
    """What each worker of a pool of functions takes.

    >>> shape_of("cpu"), shape_of("cpu(cpu=2,gpu=1)")
    ({'cpu': 1.0}, {'cpu': 2.0, 'gpu': 1.0})
    """
    assert is_cpu(pool), pool
    asked = pool.removeprefix(CPU_POOL).strip("()") or "cpu=1"
    return {name: float(amount) for name, _, amount in (item.rpartition("=") for item in asked.split(","))}
