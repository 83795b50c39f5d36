"""A step: one node of a pipeline, as declared. Pure data; the operators in ``sage.ops`` make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

from sage.errors import InputError
from sage.graph.fields import Argument, Constant, Ref, parse_ref
from sage.graph.shape import is_cpu

if TYPE_CHECKING:
    from sage.graph.body import Body

__all__ = ["Batch", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How calls of a step may be put together: at most so many items, waiting at most so long for company."""

    max_items: int = 64
    max_wait_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.max_items < 1 or self.max_wait_ms < 0:
            raise InputError(f"{self} makes no sense; max_items is at least 1 and max_wait_ms at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one field is made from.

    The field's name is the keyword the step is given to a Pipeline by. Modifiers return a new step.
    """

    operator: str  # its name in the registry of operators
    arguments: Mapping[str, Argument]  # as given, defaults left out; an item of a mapping as "parameter.key"
    gives: Any = Any  # type of the value
    expects: Mapping[str, Any] = field(
        default_factory=dict
    )  # argument -> type that a reference in it must have
    optional: Mapping[str, Ref] = field(default_factory=dict)  # arguments that bind only if the field exists
    function: Callable[..., Any] | None = None  # of a function step
    is_async: bool = False  # the function is awaited
    pool: str | None = None  # where it runs; None: inline
    batch: Batch | None = None
    attempts: int | None = None  # None: the policy's retry layer
    timeout_s: float | None = None  # per attempt
    gives_pieces: Any = None  # type of what it gives bit by bit before its value is whole; None: nothing
    takes_pieces: tuple[str, ...] = ()  # arguments that are read as they come, where their step gives pieces
    bodies: Mapping[str, Body] = field(default_factory=dict)  # plans that control flow runs, by label
    condition: Ref | None = None  # the step runs only if this is true; otherwise its value is None
    instead: Constant | None = None  # its value when it fails; None: the job fails
    otherwise: Body | None = None  # what is run when it fails
    reuse: Literal["memory", "disk"] | None = None  # where its answers are kept for equal inputs
    max_concurrency: int | None = None  # jobs of a session in this step at once

    def all_bodies(self) -> tuple[Body, ...]:
        """Every plan inside it, its fallback included."""
        return (*self.bodies.values(), *(() if self.otherwise is None else (self.otherwise,)))

    def retry(self, attempts: int) -> Step:
        """Try up to ``attempts`` times in all. Replaces the default retry layer."""
        if not isinstance(attempts, int) or attempts < 1:  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f"retry({attempts!r}): expected the number of attempts in all, 1 or more")
        return replace(self, attempts=attempts)

    def timeout(self, s: float) -> Step:
        """Give up an attempt after ``s`` seconds."""
        if not isinstance(s, int | float) or not s > 0:  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f"timeout(s={s!r}): expected seconds above 0")
        if not (self.is_async or self.bodies) and (self.pool is None or is_cpu(self.pool)):
            raise InputError(
                f"timeout(s={s}): Python cannot interrupt a plain function; make it async, or drop the timeout"
            )
        return replace(self, timeout_s=float(s))

    def when(self, condition: str) -> Step:
        """Run only if a field is true; otherwise the value is None, and readers must take None."""
        return replace(self, condition=parse_ref(condition), gives=_or_none(self.gives))

    def on_error(self, do: Literal["skip", "fail"]) -> Step:
        """Say what a final failure does: "skip" gives None and the job goes on, "fail" ends the job."""
        if do not in {"skip", "fail"}:
            raise InputError(
                f"on_error({do!r}): expected 'skip' or 'fail'; for another value use .default(value)"
            )
        if do == "fail":
            return replace(self, instead=None)
        return replace(self, instead=Constant(None), gives=_or_none(self.gives))

    def fallback(self, other: str | Step | Any) -> Step:
        """When the step fails for good, run something else; its value is then the step's.

        Args:
            other: the name of another engine pool for the same call, another step, or a pipeline.
        """
        from sage.graph.body import body_from

        if self.otherwise is not None:
            raise InputError("a step has one fallback; give that one a fallback of its own")
        if isinstance(other, str):
            if self.pool is None:
                raise InputError(
                    f"fallback({other!r}): operator {self.operator!r} calls no engine; give a step"
                )
            arguments = {**self.arguments, "engine": Constant(other)}
            other = replace(self, pool=other, arguments=arguments, otherwise=None)
        otherwise = body_from("fallback", other)
        known = self.gives is Any or otherwise.gives == self.gives
        gives = self.gives if known else Union[self.gives, otherwise.gives]  # noqa: UP007 - a computed type
        return replace(self, otherwise=otherwise, gives=gives)

    def cache(self, where: Literal["memory", "disk"] = "memory") -> Step:
        """Keep its answers for equal inputs: for the session, or on disk for later ones (model calls only)."""
        if where not in {"memory", "disk"}:
            raise InputError(f"cache({where!r}): expected 'memory' or 'disk'")
        if self.bodies or (where == "disk" and (self.pool is None or is_cpu(self.pool))):
            raise InputError(f"cache({where!r}): a step made by {self.operator!r} cannot be kept there")
        return replace(self, reuse=where)

    def default(self, value: Any) -> Step:
        """When the step fails for good, its value is this and the job goes on."""
        return replace(self, instead=Constant(value))


def _or_none(gives: Any) -> Any:
    return Any if gives is Any else Optional[gives]  # noqa: UP045 - a computed type
