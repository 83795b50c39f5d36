"""The pipelines a session knows, bound to its engines and indexes when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sage.engines.base import EngineInfo
from sage.errors import Fault, InputError, PipelineError, nearest
from sage.graph.plan import Plan
from sage.graph.shape import is_cpu
from sage.runtime.endpoints import Endpoints
from sage.runtime.program import Program, build_program

if TYPE_CHECKING:
    from sage.index.index import Index

__all__ = ["Programs"]

MAX_PROGRAMS = 256  # the one that was bound first is forgotten first


class Programs:
    """Binds plans, and opens what they need.

    Args:
        endpoints: of the session.
        indexes: name -> folder of an index, or an open Index.
    """

    def __init__(self, endpoints: Endpoints, indexes: Mapping[str, Any]) -> None:
        self._endpoints = endpoints
        self._indexes = dict(indexes)
        self._bound: dict[int, Program] = {}  # by identity of the plan, which the program keeps alive

    async def of(self, plan: Plan) -> Program:
        """The plan, bound. Its pools are open then.

        Raises:
            PipelineError: it names something this session does not have.
            SetupError, EngineError: an engine cannot be opened.
        """
        program = self._bound.get(id(plan))
        if program is None:
            await self._open_pools(plan)
            context = _Context(plan, self._endpoints, self._index)
            program = build_program(plan, context, self._endpoints.slots.carrier)
            while len(self._bound) >= MAX_PROGRAMS:
                del self._bound[next(iter(self._bound))]
            self._bound[id(plan)] = program
        return program

    async def _open_pools(self, plan: Plan) -> None:
        known = self._endpoints.known_pools()
        faults = [
            Fault(None, f"unknown engine pool {pool!r}: {nearest(pool, known)}")
            for pool in plan.pools()
            if pool not in known and not is_cpu(pool)
        ]
        if faults:
            raise PipelineError(plan.name, faults)
        for pool in plan.pools():
            await self._endpoints.open(pool)

    def _index(self, name: str) -> Index:
        """An index by its name, opened when it is first asked for."""
        from sage.index.index import Index

        if name not in self._indexes:
            raise InputError(
                f"unknown index {name!r}: {nearest(name, self._indexes)}; "
                f"say what it is with indexes={{{name!r}: 'FOLDER'}}, --index {name}=FOLDER or in sage.toml"
            )
        said = self._indexes[name]
        if not isinstance(said, Index):
            said = self._indexes[name] = Index.open(said)
        return said


@dataclass(frozen=True, slots=True)
class _Context:
    """What steps may ask for while they are bound."""

    plan: Plan
    endpoints: Endpoints
    index: Callable[[str], Index]

    def within(self, plan: Plan) -> _Context:
        return replace(self, plan=plan)

    def engine(self, pool: str) -> EngineInfo:
        return self.endpoints.info(pool)
