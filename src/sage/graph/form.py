"""One step as plain data, the way YAML says it: what may stand there, and the step that it makes.

A step names one operator, whose value is the operator's first argument; everything else are options of the operator,
or the modifiers of MODIFIERS. An option annotated with ``Body`` holds a step or a pipeline of its own. Whole
pipelines are read in ``form_read`` and written in ``form_write``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import msgspec

from sage.errors import InputError, nearest
from sage.graph.body import Body
from sage.graph.fields import Argument
from sage.graph.hints import hints_of
from sage.graph.step import Batch, Step

__all__ = [
    "MODIFIERS",
    "OWN",
    "TOP",
    "Given",
    "Operator",
    "Operators",
    "Options",
    "holds_bodies",
    "is_pipeline",
    "made",
    "options_of",
    "problems",
    "shown",
]

#: What may be said of a pipeline.
TOP = ("pipeline", "inputs", "outputs", "steps")

#: The option that holds modifiers whose name the operator has taken for an option of its own.
OWN = "step"

#: What is given to an operator: an argument, or the plans of its bodies.
Given = Argument | Body | list[Body]


class Operator(Protocol):
    """What has to be known of an operator; see ``sage.ops.base.Operator``."""

    @property
    def name(self) -> str:
        """Its key in a step."""

    @property
    def make(self) -> Callable[..., Step]:
        """Makes the step."""

    @property
    def first(self) -> str:
        """The argument that stands under the operator's name."""

    @property
    def given(self) -> Callable[[Step], Mapping[str, Given]]:
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
    "fallback": _Modifier(str | Body, Step.fallback),
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a step of one operator may say."""

    first: Any  # the type of the value under the operator's name
    types: Mapping[str, Any]  # of the options
    required: tuple[str, ...]
    takes_any: bool  # it has no fixed options, as a function step
    modifiers: Mapping[str, _Modifier]
    own: Mapping[str, _Modifier]  # those whose names are taken by options; they stand under OWN


def is_pipeline(said: Any, operators: Operators) -> bool:
    """Whether a body says a pipeline (``pipeline: NAME`` and ``steps``) rather than a single step."""
    if not isinstance(said, dict) or isinstance(said.get("pipeline"), dict | Body | Step):
        return False
    named = [key for key in said if key in operators]
    return named == ["pipeline"] or (not named and "steps" in said)


def holds_bodies(hint: Any) -> bool:
    """Whether an option of this type is, or may be, made of bodies."""
    return hint is Body or any(map(holds_bodies, get_args(hint)))


@functools.lru_cache(maxsize=256)
def options_of(make: Callable[..., Step]) -> Options:
    """What a step of an operator may say, from the signature of what makes it."""
    parameters = inspect.signature(make).parameters
    types, _ = hints_of(make)
    keywords = {name: item for name, item in parameters.items() if item.kind is item.KEYWORD_ONLY}
    return Options(
        first=types.get(next(iter(parameters)), Any),
        types={name: types.get(name, Any) for name in keywords},
        required=tuple(name for name, item in keywords.items() if item.default is item.empty),
        takes_any=any(item.kind is item.VAR_KEYWORD for item in parameters.values()),
        modifiers={key: modifier for key, modifier in MODIFIERS.items() if key not in parameters},
        own={key: modifier for key, modifier in MODIFIERS.items() if key in parameters},
    )


def made(operator: Operator, options: Mapping[str, Any]) -> Step:
    """The step that sound options make; bodies stand in them as a Body or a Step.

    Raises:
        InputError: the operator refuses them.
    """
    known = options_of(operator.make)
    taken = {operator.name, *known.modifiers} | ({OWN} if known.own else set())
    given = {key: value for key, value in options.items() if key not in taken}
    if isinstance(given.get("batch"), dict):
        given["batch"] = _batch(given["batch"])
    first = options[operator.name]
    step = operator.make(*(() if first is None else (first,)), **given)
    said = {key: value for key, value in options.items() if key in known.modifiers}
    said |= options.get(OWN, {}) if known.own else {}
    for key, modifier in MODIFIERS.items():
        if key in said:
            step = modifier.change(step, said[key])
    return step


def problems(operator: Operator, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the options of a step, as (option, sentence). Bodies are not looked at."""
    own = options_of(operator.make)
    types = {**own.types, **{key: modifier.type for key, modifier in own.modifiers.items()}}
    types |= {"batch": dict[str, float]} if "batch" in types else {}
    types |= {OWN: dict[str, Any]} if own.own else {}
    problems = [
        (operator.name, f"{operator.name} needs {name}: as well")
        for name in own.required
        if name not in options
    ]
    for option, value in options.items():
        if option == operator.name:
            expected = own.first
        elif option in types or (own.takes_any and option != "batch"):
            expected = types.get(option, Any)
        else:
            problems.append((option, f"{operator.name} has no option {option!r}: {nearest(option, types)}"))
            continue
        if reason := _mismatch(value, expected):
            problems.append((option, f"{option} is {shown(value)}: {reason}"))
        elif option == OWN and own.own:
            problems += _own_problems(value, own.own)
    return problems


def _own_problems(said: Mapping[str, Any], clashing: Mapping[str, _Modifier]) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    for key, value in said.items():
        if key not in clashing:
            problems.append((OWN, f"{OWN} takes only {', '.join(map(repr, clashing))} here, got {key!r}"))
        elif reason := _mismatch(value, clashing[key].type):
            problems.append((OWN, f"{key} is {shown(value)}: {reason}"))
    return problems


def _mismatch(value: Any, hint: Any) -> str | None:
    """Why a value from a file does not fit an annotation; None if it does."""
    if holds_bodies(hint):
        return None
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


def shown(value: Any) -> str:
    """A value from a file in an error: short, in the words of the file."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
