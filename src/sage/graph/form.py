"""A pipeline as plain data, the way YAML says it: read into steps here, written in ``form_write``.

``{"pipeline": "rag", "steps": {"vector": {"embed": "{question}"}, …}}``, with ``inputs`` and ``outputs`` where they
were said. A step names one operator, whose value is the operator's first argument; everything else are options of
the operator, or the modifiers of MODIFIERS.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from sage.errors import Fault, InputError, nearest
from sage.graph.fields import Argument
from sage.graph.hints import hints_of
from sage.graph.step import Batch, Step

__all__ = ["MODIFIERS", "Operator", "Operators", "Written", "made", "problems", "read_form", "shown"]

TOP = ("pipeline", "inputs", "outputs", "steps")

#: Where something stands: the keys that lead to it.
Path = tuple[str, ...]


class Operator(Protocol):
    """What has to be known of an operator; see ``sage.ops.base.Operator``."""

    @property
    def name(self) -> str:
        """Its key in a step."""

    @property
    def make(self) -> Callable[..., Step]:
        """Makes the step."""

    @property
    def first(self) -> str | None:
        """The argument that stands under the operator's name."""

    @property
    def given(self) -> Callable[[Step], Mapping[str, Argument]]:
        """The arguments that make a step again."""


Operators = Mapping[str, Operator]


@dataclass(frozen=True, slots=True)
class _Modifier:
    """What may be said of any step: the type of its value, and the change it makes."""

    type: Any
    change: Callable[[Step, Any], Step]


MODIFIERS: Mapping[str, _Modifier] = {
    "retry": _Modifier(int, Step.retry),
    "timeout_s": _Modifier(float, Step.timeout),
    "when": _Modifier(str, Step.when),
    "on_error": _Modifier(Literal["skip", "fail"], Step.on_error),
    "default": _Modifier(Any, Step.default),
    "cache": _Modifier(Literal["memory", "disk"], Step.cache),
    "fallback": _Modifier(str, Step.fallback),
}


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
    """One pipeline being read."""

    form: dict[str, Any]
    operators: Operators
    lines: Mapping[Path, int]
    faults: list[Fault] = field(default_factory=list)

    def read(self) -> Written:
        for key in self.form:
            if key not in TOP:
                self._fault(None, f"unknown key {key!r}: {nearest(key, TOP)}", (key,))
        name = self.form.get("pipeline")
        if not isinstance(name, str) or not name.strip():
            said = "it has no name" if name is None else f"its name is {shown(name)}, expected text"
            self._fault(None, f"{said}; begin with pipeline: NAME", ("pipeline",))
            name = "unnamed"
        steps = self._steps()
        return Written(name, steps, self._names("inputs"), self._names("outputs"), tuple(self.faults))

    def _names(self, key: str) -> tuple[str, ...] | None:
        names = self.form.get(key)
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._fault(None, f"{key} is {shown(names)}, expected a list of field names", (key,))
            return None
        return tuple(names)

    def _steps(self) -> dict[str, Step]:
        said = self.form.get("steps")
        if not isinstance(said, dict) or not said:
            got = "it has no steps" if not said else f"steps is {shown(said)}"
            self._fault(None, f"{got}; expected steps: {{FIELD: {{OPERATOR: …}}}}", ("steps",))
            return {}
        steps: dict[str, Step] = {}
        for name, options in said.items():
            try:
                steps[name] = self._step(name, options)
            except InputError as error:
                self._fault(name, str(error), ("steps", name))
                steps[name] = Step(operator="?", arguments={})
        return steps

    def _step(self, name: str, options: Any) -> Step:
        """One step; each thing wrong with its options is a fault of its own."""
        if not isinstance(options, dict) or not options:
            raise InputError(f"is {shown(options)}, expected {{OPERATOR: …}} such as {{template: 'Hello'}}")
        operator = _operator(options, self.operators)
        wrong = False
        for option, problem in problems(operator, options):
            self._fault(name, problem, ("steps", name, option))
            wrong = True
        return Step(operator="?", arguments={}) if wrong else made(operator, options)

    def _fault(self, step: str | None, message: str, path: Path) -> None:
        while path and path not in self.lines:
            path = path[:-1]
        self.faults.append(Fault(step, f"{message} (line {self.lines[path]})" if path else message))


def made(operator: Operator, options: Mapping[str, Any]) -> Step:
    """The step that sound options make.

    Raises:
        InputError: the operator refuses them.
    """
    modifiers = _modifiers(operator)
    given = {key: value for key, value in options.items() if key != operator.name and key not in modifiers}
    if isinstance(given.get("batch"), dict):
        given["batch"] = _batch(given["batch"])
    first = options[operator.name]
    step = operator.make(*(() if first is None else (first,)), **given)
    for key, modifier in modifiers.items():
        if key in options:
            step = modifier.change(step, options[key])
    return step


def _modifiers(operator: Operator) -> dict[str, _Modifier]:
    """Those that are not also the name of an option."""
    options = inspect.signature(operator.make).parameters
    return {key: modifier for key, modifier in MODIFIERS.items() if key not in options}


def _operator(options: Mapping[str, Any], operators: Operators) -> Operator:
    """The operator a step names. If it names two, the one that takes any option, such as a function."""
    named = [operators[key] for key in options if key in operators]
    if len(named) > 1:
        named = [operator for operator in named if _takes_any(operator)] or named
    if len(named) > 1:
        raise InputError(
            f"names the operators {', '.join(repr(operator.name) for operator in named)}; expected one, "
            "make a step of each"
        )
    if not named:
        key = next((key for key in options if nearest(key, operators).startswith("did")), next(iter(options)))
        raise InputError(f"names no operator; unknown operator {key!r}: {nearest(key, operators)}")
    if named[0].first is None:
        raise InputError(
            f"{named[0].name} holds other pipelines, for which YAML has no form; declare it in Python"
        )
    return named[0]


def problems(operator: Operator, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the options of a step, as (option, sentence)."""
    parameters = inspect.signature(operator.make).parameters
    first = next(iter(parameters))
    types, _ = hints_of(operator.make)
    known = {
        name: types.get(name, Any) for name, item in parameters.items() if item.kind is item.KEYWORD_ONLY
    } | {key: modifier.type for key, modifier in _modifiers(operator).items()}
    if "batch" in known:
        known["batch"] = dict[str, float]
    problems: list[tuple[str, str]] = []
    for option, value in options.items():
        if option == operator.name:
            expected = Any if value is None and parameters[first].default is None else types.get(first, Any)
        elif option in known or (_takes_any(operator) and option != "batch"):
            expected = known.get(option, Any)
        else:
            problems.append((option, f"{operator.name} has no option {option!r}: {nearest(option, known)}"))
            continue
        if reason := _mismatch(value, expected):
            problems.append((option, f"{option} is {shown(value)}: {reason}"))
    return problems


def _mismatch(value: Any, hint: Any) -> str | None:
    """Why a value from a file does not fit an annotation; None if it does."""
    try:
        msgspec.convert(value, hint)
    except TypeError:  # an annotation that msgspec cannot check; the operator will
        return None
    except msgspec.ValidationError as error:
        said = {"yes": "; write true", "on": "; write true", "no": "; write false", "off": "; write false"}
        reason = str(error).replace("`", "'")
        return (
            reason[0].lower() + reason[1:] + (said.get(value.lower(), "") if isinstance(value, str) else "")
        )
    return None


def _batch(said: Mapping[str, Any]) -> Batch:
    known = [item.name for item in dataclasses.fields(Batch)]
    for key in said:
        if key not in known:
            raise InputError(f"batch has no {key!r}: {nearest(key, known)}")
    try:
        return msgspec.convert(said, Batch)
    except msgspec.ValidationError as error:
        raise InputError(f"batch is {shown(said)}: {error}".replace("`", "'")) from error


def _takes_any(operator: Operator) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(operator.make).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def shown(value: Any) -> str:
    """A value from a file in an error: short, in the words of the file."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
