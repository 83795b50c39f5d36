"""What an operator is, and the kinds of work a step can become."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from sage.engines.base import EngineInfo, GenerateRequest, Reply
from sage.graph.form import Given
from sage.graph.plan import Plan, PlannedStep
from sage.graph.step import Step
from sage.graph.values import Record
from sage.registry import Registry

if TYPE_CHECKING:
    from sage.index.index import Index

__all__ = [
    "OPERATORS",
    "Bodies",
    "Composite",
    "Compute",
    "Context",
    "Embed",
    "Generate",
    "Inline",
    "Operator",
    "Work",
]


@dataclass(frozen=True, slots=True)
class Inline:
    """Cheap Python, run straight through: no task, no queue."""

    call: Callable[[Record], Any]  # a coroutine if is_async
    is_async: bool = False


@dataclass(frozen=True, slots=True)
class Compute:
    """Blocking or heavy Python, run in the worker slots of a pool."""

    call: Callable[[Record], Any]


@dataclass(frozen=True, slots=True)
class Generate:
    """One call to an engine that generates."""

    request: Callable[[Record], GenerateRequest]
    value: Callable[[Reply], Any]
    n: int = 1  # answers to the same request; several give a list
    fit: str | None = None  # a list field to drop items from the end of while the prompt is too long


@dataclass(frozen=True, slots=True)
class Embed:
    """Texts for an embedder; calls of several jobs may travel together."""

    texts: Callable[[Record], str | tuple[str, ...]]  # one text gives one vector, several give rows


class Bodies(Protocol):
    """How control flow runs the plans inside its step, within the job it is part of."""

    async def run(self, label: str, record: Record, at: str = "", held: list[Any] | None = None) -> Any:
        """The value of a body for a record of its own.

        Args:
            label: which body.
            record: the fields it reads.
            at: which time this is, such as ``"[3]"``; shown behind the step's name in events.
            held: where to put its events instead of showing them.
        """

    def show(self, held: list[Any]) -> None:
        """Show events that were held back."""

    def notice(self, kind: str, text: str) -> None:
        """Write into the run's log something a user should know that is no failure; without prompts or keys."""


@dataclass(frozen=True, slots=True)
class Composite:
    """Control flow: plans inside a step, run as the call says."""

    call: Callable[[Record, Bodies], Awaitable[Any]]


Work = Inline | Compute | Generate | Embed | Composite


class Context(Protocol):
    """What a step may ask for when it is bound to a session."""

    @property
    def plan(self) -> Plan:
        """The plan the step is part of."""

    def within(self, plan: Plan) -> Context:
        """The same for a plan inside one of the steps."""

    def index(self, name: str) -> Index:
        """The open index of that name.

        Raises:
            InputError: the session knows none.
        """

    def engine(self, pool: str) -> EngineInfo:
        """What is known of the engines of a pool that a step of this plan names.

        Raises:
            KeyError: no step of the plan uses the pool.
        """


@dataclass(frozen=True, slots=True)
class Operator:
    """A reusable kind of step.

    Attributes:
        name: its key in ``OPERATORS``, and in YAML.
        make: makes the declared step, as YAML says it: a value under the operator's name, and keyword options. It
            is the function a user calls, where that has this form. An option annotated with ``Body``,
            ``list[Body]`` or ``dict[str, Body]`` holds steps or pipelines.
        first: the parameter that YAML's ``{name: value}`` gives.
        bind: turns a planned step into work for one session.
        given: the inverse of ``make``: by parameter, the arguments and bodies that make a step again; an item of a
            mapping as ``"parameter.key"``.
    """

    name: str
    make: Callable[..., Step]
    first: str
    bind: Callable[[PlannedStep, Context], Work]
    given: Callable[[Step], Mapping[str, Given]] = attrgetter("arguments")


OPERATORS: Registry[Operator] = Registry("operator")
