"""Steps back as plain data, the way YAML says them (see ``sage.graph.form``)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sage.errors import InputError, PipelineError
from sage.graph.body import Body
from sage.graph.fields import Constant, Ref, Template
from sage.graph.form import (
    MODIFIERS,
    OWN,
    Given,
    Operator,
    Operators,
    is_pipeline,
    made,
    options_of,
    problems,
    shown,
)
from sage.graph.plan import Plan, compile_plan
from sage.graph.step import Step

__all__ = ["write_form"]

MAX_INT = 10**30


def write_form(
    name: str,
    steps: Mapping[str, Step],
    declared: tuple[str, ...] | None,
    outputs: tuple[str, ...] | None,
    operators: Operators,
) -> dict[str, Any]:
    """A pipeline as plain data, which ``read_form`` turns into equal steps.

    Raises:
        InputError: a step has no such form: a function that is not registered, a Python type as schema.
    """
    return _pipeline(name, steps, declared, outputs, operators, "")


def _pipeline(
    name: str,
    steps: Mapping[str, Step],
    declared: tuple[str, ...] | None,
    outputs: tuple[str, ...] | None,
    operators: Operators,
    within: str,
) -> dict[str, Any]:
    form: dict[str, Any] = {"pipeline": name}
    form |= {"inputs": list(declared)} if declared is not None else {}
    form |= {"outputs": list(outputs)} if outputs is not None else {}
    form["steps"] = {
        field: _short(_step(within + field, step, operators), operators) for field, step in steps.items()
    }
    return form


def _short(options: dict[str, Any], operators: Operators) -> dict[str, Any]:
    """A pipeline as a step, of which nothing else is said, stands there as it is."""
    inner = options.get("pipeline")
    return (
        inner if isinstance(inner, dict) and len(options) == 1 and is_pipeline(inner, operators) else options
    )


def _step(at: str, step: Step, operators: Operators) -> dict[str, Any]:
    """One step's options, bodies written too. ``at`` is its name, after those of the steps around it."""
    options = _options(at, step, operators[step.operator])
    return {
        key: _with_bodies(at if key == step.operator else f"{at}.{key}", value, operators)
        for key, value in options.items()
    }


def _with_bodies(at: str, value: Any, operators: Operators) -> Any:
    """An option as a file holds it: bodies in it, and in the list or mapping it is, become plain data."""
    if isinstance(value, Step):
        return _step(at, value, operators)
    if isinstance(value, Body):
        plan = value.plan
        steps = {planned.name: planned.step for planned in plan.steps}
        return _pipeline(plan.name, steps, _declared(at, plan, steps), plan.outputs, operators, f"{at}.")
    if isinstance(value, dict):
        return {key: _with_bodies(f"{at}.{key}", item, operators) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_bodies(f"{at}[{number}]", item, operators) for number, item in enumerate(value)]
    return value


def _declared(at: str, plan: Plan, steps: Mapping[str, Step]) -> tuple[str, ...] | None:
    """The inputs that have to be said for these steps to make the plan.

    Raises:
        InputError: the plan is none that steps make.
    """
    for declared in (None, (*plan.inputs, *plan.optional_inputs)):
        with contextlib.suppress(PipelineError):
            if compile_plan(plan.name, steps, declared_inputs=declared, outputs=plan.outputs) == plan:
                return declared
    raise InputError(f"step {at!r} cannot be written as YAML: its body would load as another one")


def _options(at: str, step: Step, operator: Operator) -> dict[str, Any]:
    """The options that make a step; that they do is checked, so nothing is lost in silence."""
    try:
        given = operator.given(step)
        arguments = _arguments(operator, given)
        ways = [_placed(operator, arguments, modifiers) for modifiers in _modifiers(step)]
    except InputError as error:
        raise InputError(f"step {at!r} cannot be written as YAML: {error}") from error
    found = next((options for options in ways if _makes(operator, options, step)), None)
    if found is None:
        raise InputError(
            f"step {at!r} cannot be written as YAML: it would load as another step. Use lists instead of "
            f"tuples, and call no parameter of a function {', '.join(MODIFIERS)} or batch"
        )
    for parameter, argument in given.items():
        if isinstance(argument, Ref) and "." not in parameter:
            key = operator.name if parameter == operator.first else parameter
            shorter = {**found, key: str(argument)}  # ``near: vector``, where that means ``near: "{vector}"``
            found = shorter if _makes(operator, shorter, step) else found
    return found


def _makes(operator: Operator, options: Mapping[str, Any], step: Step) -> bool:
    """Whether the options load as the step."""
    try:
        return not problems(operator, options) and made(operator, options) == step
    except (InputError, PipelineError, TypeError):
        return False


def _arguments(operator: Operator, given: Mapping[str, Given]) -> dict[str, Any]:
    options: dict[str, Any] = {operator.name: None}
    for parameter, argument in given.items():
        key, dot, item = parameter.partition(".")
        if dot:
            options.setdefault(key, {})[item] = _plain(parameter, argument)
        else:
            options[operator.name if key == operator.first else key] = _plain(parameter, argument)
    return options


def _modifiers(step: Step) -> Iterator[dict[str, Any]]:
    """What is said of a step besides its arguments, in every way it could be said, the shortest first."""
    said = {
        "batch": None if step.batch is None else dataclasses.asdict(step.batch),
        "max_concurrency": step.max_concurrency,
        "retry": step.attempts,
        "timeout_s": step.timeout_s,
        "when": None if step.condition is None else str(step.condition),
        "cache": step.reuse,
    }
    said = {key: value for key, value in said.items() if value is not None}
    fallbacks: list[dict[str, Any]] = [{}]
    if step.otherwise is not None:  # ``fallback: quick`` is the same call to another pool
        pools = step.otherwise.plan.pools()[:1]
        fallbacks = [{"fallback": other} for other in (*pools, _body(step.otherwise))]
    instead: list[dict[str, Any]] = [{}]
    if step.instead is not None:  # ``on_error: skip`` gives None too, but says so in the step's type
        default = {"default": _plain("default", step.instead)}
        skip = {"on_error": "skip"}
        instead = [*([skip] if default["default"] is None else []), default, skip | default]
    yield from (said | fallback | end for fallback in fallbacks for end in instead)


def _placed(operator: Operator, arguments: dict[str, Any], modifiers: dict[str, Any]) -> dict[str, Any]:
    """All options together; a modifier whose name is taken stands apart."""
    taken = options_of(operator.make).own
    own = {key: value for key, value in modifiers.items() if key in taken}
    rest = {key: value for key, value in modifiers.items() if key not in taken}
    return arguments | rest | ({OWN: own} if own else {})


def _body(body: Body) -> Body | Step:
    """A body as an operator is given it: a single step stands for itself."""
    return body if body.field is None else body.plan.step(body.field).step


def _plain(parameter: str, argument: Given) -> Any:
    if isinstance(argument, Body):
        return _body(argument)
    if isinstance(argument, list):
        return list(map(_body, argument))
    if isinstance(argument, Template):
        return argument.text
    if isinstance(argument, Constant):
        _check_plain(parameter, argument.value)
        return argument.value
    return f"{{{argument}}}"


def _check_plain(parameter: str, value: Any) -> None:
    """Refuse what a file cannot hold.

    Raises:
        InputError: naming the parameter.
    """
    if type(value) is dict and all(type(key) is str for key in value):
        for item in value.values():
            _check_plain(parameter, item)
    elif type(value) is list:
        for item in value:
            _check_plain(parameter, item)
    elif isinstance(value, type) or hasattr(value, "__origin__"):
        raise InputError(
            f"{parameter}={shown(value)} is a Python type, which a file cannot hold; give it as a JSON schema"
        )
    elif type(value) is int and abs(value) > MAX_INT:
        raise InputError(f"{parameter} is a number of more than 30 digits; give it as text")
    elif (type(value) is float and math.isnan(value)) or type(value) not in {
        str,
        int,
        float,
        bool,
        type(None),
    }:
        raise InputError(
            f"{parameter}={shown(value)} is of type {type(value).__name__!r}; a file holds text, numbers, "
            "true, false, null, lists, and mappings with text keys"
        )
