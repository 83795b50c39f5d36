"""Steps back as plain data, the way YAML says them (see ``sage.graph.form``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sage.errors import InputError
from sage.graph.body import Body
from sage.graph.fields import Argument, Constant, Ref, Template
from sage.graph.form import MODIFIERS, Operator, Operators, made, problems, shown
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
    """A pipeline as plain data, which :func:`read_form` turns into equal steps.

    Raises:
        InputError: a step has no such form: a function that is not registered, a Python type as schema.
    """
    form: dict[str, Any] = {"pipeline": name}
    form |= {"inputs": list(declared)} if declared is not None else {}
    form |= {"outputs": list(outputs)} if outputs is not None else {}
    form["steps"] = {field: _written(field, step, operators[step.operator]) for field, step in steps.items()}
    return form


def _written(field: str, step: Step, operator: Operator) -> dict[str, Any]:
    """One step's options; equality with what they make is checked, so nothing is lost in silence."""
    try:
        given = operator.given(step)
        options = _options(step, operator, given)
    except InputError as error:
        raise InputError(f"step {field!r} cannot be written as YAML: {error}") from error
    found = next((said for said in (*_skipping(options), options) if _makes(operator, said, step)), None)
    if found is None:
        raise InputError(
            f"step {field!r} cannot be written as YAML: it would load as another step. Use lists instead of "
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
    except (InputError, TypeError):
        return False


def _options(step: Step, operator: Operator, given: Mapping[str, Argument]) -> dict[str, Any]:
    options: dict[str, Any] = {operator.name: None}
    for parameter, argument in given.items():
        key, dot, item = parameter.partition(".")
        if dot:
            options.setdefault(key, {})[item] = _plain(parameter, argument)
        else:
            options[operator.name if key == operator.first else key] = _plain(parameter, argument)
    if operator.first is None:
        raise InputError(f"{operator.name} holds other pipelines, for which YAML has no form")
    modifiers = {
        "batch": None if step.batch is None else dataclasses.asdict(step.batch),
        "max_concurrency": step.max_concurrency,
        "retry": step.attempts,
        "timeout_s": step.timeout_s,
        "when": None if step.condition is None else str(step.condition),
        "cache": step.reuse,
        "fallback": None if step.otherwise is None else _fallback_pool(step.otherwise),
    }
    options |= {key: value for key, value in modifiers.items() if value is not None}
    return options if step.instead is None else {**options, "default": _plain("default", step.instead)}


def _fallback_pool(otherwise: Body) -> str:
    """The pool that takes over, where the fallback is the same call to another one."""
    pools = [planned.step.pool for planned in otherwise.plan.steps]
    if len(pools) != 1 or pools[0] is None:
        raise InputError(
            "its fallback is another step, for which YAML has no form; only a pool's name has one"
        )
    return pools[0]


def _skipping(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``on_error: skip`` gives None as ``default: null`` does, but says so in the step's type."""
    if "default" in options and options["default"] is None:
        yield {key: value for key, value in options.items() if key != "default"} | {"on_error": "skip"}


def _plain(parameter: str, argument: Argument) -> Any:
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
