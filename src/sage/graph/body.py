"""A plan inside a step: what control flow runs for each item, on a branch, or in every turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict
from weakref import WeakValueDictionary

from sage.errors import InputError
from sage.graph.plan import Plan, compile_plan
from sage.graph.step import Step

__all__ = ["VALUE", "Body", "body_from"]

#: The one field of a body that is a single step; no reference can name it, so nothing that a body reads is hidden.
VALUE = "_value"

#: Every TypedDict is a class of its own; equal records share one as long as it is in use, so that equal steps are equal.
_RECORDS: WeakValueDictionary[Any, Any] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Body:
    """A plan, and which of its fields is the value; None: the whole record."""

    plan: Plan
    field: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Fields it reads from outside."""
        return self.plan.inputs

    @property
    def gives(self) -> Any:
        """The type of its value."""
        types = {planned.name: planned.step.gives for planned in self.plan.steps}
        if self.field is not None:
            return types[self.field]
        shown = self.plan.outputs if self.plan.outputs is not None else (*self.plan.inputs, *types)
        return _record_type(self.plan.name, {name: types.get(name, Any) for name in shown})

    def value(self, record: Mapping[str, Any]) -> Any:
        """The value in a finished record of the plan."""
        if self.field is not None:
            return record[self.field]
        outputs = self.plan.outputs
        return record if outputs is None else {name: record[name] for name in outputs}

    def input_type(self, name: str) -> Any:
        """What a value for one of its inputs must be; Any if nobody says, or several say different things."""
        wanted = [
            planned.step.expects.get(argument, Any)
            for planned in self.plan.steps
            for argument, given in planned.arguments.items()
            for ref in given.references
            if ref.name == name and not ref.parts
        ]
        return wanted[0] if len(wanted) == 1 else Any


def _record_type(name: str, fields: Mapping[str, Any]) -> Any:
    make: Any = TypedDict  # its functional form, with computed names, is beyond the type checker
    name = "".join(letter if letter.isprintable() else "_" for letter in name)  # as a class may be called
    key = (name, *fields.items())
    try:
        return _RECORDS.setdefault(key, make(name, dict(fields)))
    except TypeError:  # one of the types cannot be hashed
        return make(name, dict(fields))


def body_from(name: str, made: Any) -> Body:
    """A pipeline as a body, whose value is its record; or a single step, whose value is the step's.

    Args:
        name: what a single step is called in errors.
        made: a Body, anything with a ``plan``, or a Step.

    Raises:
        InputError: it is none of these.
        PipelineError: the step has a fault.
    """
    if isinstance(made, Body):
        return made
    plan = getattr(made, "plan", None)
    if isinstance(plan, Plan):
        return Body(plan)
    if isinstance(made, Step):
        return Body(compile_plan(name, {VALUE: made}), VALUE)
    raise InputError(
        f"{made!r} is no body; give a pipeline, an operator such as generate(…), or step(function)"
    )
