"""The local runtime: engines in this process or behind addresses, functions in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from sage.engines.base import Engine, open_engine
from sage.errors import InputError
from sage.runtime.ray_cluster import RayCluster
from sage.runtime.slots import Membership, Slots, ThreadSlots
from sage.settings import Settings

__all__ = ["RUNTIMES", "LocalRuntime", "Runtime", "open_runtime", "parse_runtime", "split_place"]

#: How a session's calls can be carried out, by name.
RUNTIMES = ("local", "ray")


class Runtime(Protocol):
    """How the calls of a session are carried out."""

    def slots(self, members: Membership, group: asyncio.TaskGroup) -> Slots:
        """What carries out the functions of the cpu pools."""

    async def opening(self, address: str) -> Mapping[str, AbstractAsyncContextManager[Engine]]:
        """What opens an engine's address, by the place it is to be at.

        Raises:
            InputError: the address is wrong.
        """

    def look_s(self, address: str) -> float | None:
        """How often an engine's places may change; None: they stay."""

    def facts(self) -> dict[str, object]:
        """What the manifest of a run says of it; JSON data."""


class LocalRuntime:
    """Everything in this process.

    Args:
        settings: where models are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def slots(self, members: Membership, _group: asyncio.TaskGroup) -> Slots:
        """Threads."""
        return ThreadSlots(members)

    async def opening(self, address: str) -> Mapping[str, AbstractAsyncContextManager[Engine]]:
        """One engine, here."""
        plain, place = split_place(address)
        if place.get("where", "driver") != "driver":
            raise InputError(
                f"engine {address!r} is to be at {place['where']!r}, but only runtime='ray' has nodes"
            )
        return {"": open_engine(plain, self._settings)}

    def look_s(self, _address: str) -> float | None:
        """Never: here stays here."""
        return None

    def facts(self) -> dict[str, object]:
        """Nothing that the manifest does not say already."""
        return {}


def split_place(address: str) -> tuple[str, dict[str, str]]:
    """An engine's address without the options that say where it is to be, and those options.

    >>> split_place("llama:smollm2-135m-instruct?where=node&slots=2")
    ('llama:smollm2-135m-instruct?slots=2', {'where': 'node'})

    Raises:
        InputError: an option has a value that makes no sense.
    """
    target, mark, query = address.partition("?")
    options = query.split("&") if mark else []
    place = dict(
        option.split("=", 1) for option in options if option.split("=", 1)[0] in _PLACE and "=" in option
    )
    rest = [option for option in options if option.split("=", 1)[0] not in place]
    if place.get("where", "node") not in {"driver", "node"}:
        raise InputError(f"engine {address!r}: where is {place['where']!r}, expected 'driver' or 'node'")
    return target + ("?" + "&".join(rest) if rest else ""), place


_PLACE = frozenset({"where", "on"})


def parse_runtime(said: str | RayCluster) -> RayCluster | None:
    """The cluster that a runtime's name means; None for the local one.

    Raises:
        InputError: there is no such runtime.
    """
    if isinstance(said, RayCluster):
        return said
    if said not in RUNTIMES:
        raise InputError(f"unknown runtime {said!r}; choose from {', '.join(map(repr, RUNTIMES))}")
    return RayCluster() if said == "ray" else None


@asynccontextmanager
async def open_runtime(cluster: RayCluster | None, settings: Settings) -> AsyncIterator[Runtime]:
    """The runtime of a session, for as long as the session lasts."""
    if cluster is None:
        yield LocalRuntime(settings)
        return
    from sage.runtime.ray import open_ray

    async with open_ray(cluster, settings) as runtime:
        yield runtime
