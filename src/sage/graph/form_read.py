"""A pipeline as plain data, the way YAML says it, into steps (see ``sage.graph.form``).

``{"pipeline": "rag", "steps": {"vector": {"embed": "{question}"}, …}}``, with ``inputs`` and ``outputs`` where they
were said. A body of control flow is a step or a pipeline of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from sage.errors import Fault, InputError, PipelineError, nearest
from sage.graph.body import VALUE, Body
from sage.graph.form import (
    TOP,
    Operator,
    Operators,
    holds_bodies,
    is_pipeline,
    made,
    options_of,
    problems,
    shown,
)
from sage.graph.plan import compile_plan
from sage.graph.step import Step

__all__ = ["Written", "read_form"]

#: Where something stands: the keys that lead to it.
Path = tuple[str, ...]

WRONG = Step(operator="?", arguments={})  # in the place of a step that has a fault


@dataclass(frozen=True, slots=True)
class Written:
    """A pipeline as it was written down, with everything found wrong on the way."""

    name: str
    steps: Mapping[str, Step]
    inputs: tuple[str, ...] | None = None  # None: derived
    outputs: tuple[str, ...] | None = None  # None: every field
    faults: tuple[Fault, ...] = ()


def read_form(form: Any, operators: Operators, lines: Mapping[Path, int] | None = None) -> Written:
    """The pipeline that plain data says. A step that is wrong leaves a fault, and a step in its place.

    Args:
        form: what a YAML or JSON file holds.
        operators: by name.
        lines: the line each key stands on, by the keys that lead to it; told in faults.

    Raises:
        InputError: it is no pipeline at all.
    """
    if not isinstance(form, dict):
        raise InputError(
            f"expected a mapping with 'pipeline' and 'steps', got {shown(form)}; give a file as a Path"
        )
    return _Form(form, operators, lines or {}).read()


@dataclass(slots=True)
class _Form:
    """One pipeline being read: the whole file, or a body in it."""

    form: dict[str, Any]
    operators: Operators
    lines: Mapping[Path, int]
    faults: list[Fault] = field(default_factory=list)  # of the whole file
    path: Path = ()  # of a body
    within: str = ""  # the steps around a body, as faults name them

    def read(self) -> Written:
        for key in self.form:
            if key not in TOP:
                self._fault(self.within, f"unknown key {key!r}: {nearest(key, TOP)}", (*self.path, key))
        name = self.form.get("pipeline")
        if not isinstance(name, str) or not name.strip():
            said = "it has no name" if name is None else f"its name is {shown(name)}, expected text"
            self._fault(self.within, f"{said}; begin with pipeline: NAME", (*self.path, "pipeline"))
            name = "unnamed"
        steps = self._steps()
        return Written(name, steps, self._names("inputs"), self._names("outputs"), tuple(self.faults))

    def _names(self, key: str) -> tuple[str, ...] | None:
        names = self.form.get(key)
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._fault(
                self.within, f"{key} is {shown(names)}, expected a list of field names", (*self.path, key)
            )
            return None
        return tuple(names)

    def _steps(self) -> dict[str, Step]:
        said = self.form.get("steps")
        if not isinstance(said, dict) or not said:
            got = "it has no steps" if not said else f"steps is {shown(said)}"
            self._fault(
                self.within, f"{got}; expected steps: {{FIELD: {{OPERATOR: …}}}}", (*self.path, "steps")
            )
            return {}
        return {
            name: self._step(
                f"{self.within}.{name}" if self.within else name, options, (*self.path, "steps", name)
            )
            for name, options in said.items()
        }

    def _step(self, at: str, options: Any, path: Path) -> Step:
        """One step; each thing wrong with its options is a fault of its own."""
        before = len(self.faults)
        try:
            if is_pipeline(options, self.operators):
                body = self._body(at, options, path)
                return WRONG if body is None else made(self.operators["pipeline"], {"pipeline": body})
            if not isinstance(options, dict) or not options:
                raise InputError(
                    f"is {shown(options)}, expected {{OPERATOR: …}} such as {{template: 'Hello'}}"
                )
            operator = _operator(options, self.operators)
            for option, problem in problems(operator, options):
                self._fault(at, problem, (*path, option))
            options = self._with_bodies(at, operator, options, path)
            return WRONG if len(self.faults) > before else made(operator, options)
        except InputError as error:
            self._fault(at, str(error), path)
        except PipelineError as error:
            self._compile_faults(error, at, path)
        return WRONG

    def _with_bodies(
        self, at: str, operator: Operator, options: dict[str, Any], path: Path
    ) -> dict[str, Any]:
        """The options, those that hold bodies read."""
        own = options_of(operator.make)
        types = {**{key: modifier.type for key, modifier in own.modifiers.items()}, **own.types}
        types[operator.name] = own.first
        return {
            option: self._bodies(
                at if option == operator.name else f"{at}.{option}", value, types[option], (*path, option)
            )
            if holds_bodies(types.get(option))
            else value
            for option, value in options.items()
        }

    def _bodies(self, at: str, said: Any, hint: Any, path: Path) -> Any:
        """What an option of this type says: a body, or a list or mapping of bodies."""
        kind = get_origin(hint)
        if kind is list:
            if isinstance(said, list):
                return [
                    self._bodies(f"{at}[{number}]", item, Body, (*path, str(number)))
                    for number, item in enumerate(said)
                ]
            self._fault(at, f"is {shown(said)}, expected a list of steps or pipelines", path)
            return None
        if kind is dict:
            if isinstance(said, dict):
                return {
                    key: self._bodies(f"{at}.{key}", item, Body, (*path, key)) for key, item in said.items()
                }
            self._fault(at, f"is {shown(said)}, expected {{LABEL: a step or a pipeline}}", path)
            return None
        if (said is None and type(None) in get_args(hint)) or (
            isinstance(said, str) and str in get_args(hint)
        ):
            return said
        return self._body(at, said, path)

    def _body(self, at: str, said: Any, path: Path) -> Body | Step | None:
        """A step, or the plan of a pipeline; None if it has faults, which are told."""
        if not is_pipeline(said, self.operators):
            return self._step(at, said, path)
        before = len(self.faults)
        written = _Form(said, self.operators, self.lines, self.faults, path, at).read()
        for name in written.steps:
            if name.startswith("_"):
                self._fault(
                    f"{at}.{name}",
                    "a field's name does not start with an underscore; rename the step",
                    (*path, "steps", name),
                )
        try:
            plan = compile_plan(
                written.name, written.steps, declared_inputs=written.inputs, outputs=written.outputs
            )
        except PipelineError as error:
            self._compile_faults(error, at, path)
            return None
        return None if len(self.faults) > before else Body(plan)

    def _compile_faults(self, error: PipelineError, at: str, path: Path) -> None:
        """What was found wrong with a body as a whole, with the names of the steps around it."""
        for fault in error.faults:
            inner = () if fault.step in {None, VALUE} else (fault.step,)
            self._fault(".".join((at, *inner)), fault.message, (*path, *(("steps", *inner) if inner else ())))

    def _fault(self, step: str, message: str, path: Path) -> None:
        while path and path not in self.lines:
            path = path[:-1]
        self.faults.append(Fault(step or None, f"{message} (line {self.lines[path]})" if path else message))


def _operator(options: Mapping[str, Any], operators: Operators) -> Operator:
    """The operator a step names. If it names two, the one that takes any option, such as a function."""
    named = [operators[key] for key in options if key in operators]
    if len(named) > 1:
        named = [operator for operator in named if options_of(operator.make).takes_any] or named
    if len(named) > 1:
        raise InputError(
            f"names the operators {', '.join(repr(operator.name) for operator in named)}; expected one, "
            "make a step of each"
        )
    if not named:
        key = next((key for key in options if nearest(key, operators).startswith("did")), next(iter(options)))
        raise InputError(f"names no operator; unknown operator {key!r}: {nearest(key, operators)}")
    return named[0]
