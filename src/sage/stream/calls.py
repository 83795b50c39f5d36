"""Functions of the user's over records: which fields they read, and what is said when one is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import InputError, StepError, nearest
from sage.graph.signatures import signature_of
from sage.graph.values import Record

__all__ = ["WHOLE", "folding", "function_name", "reading", "step_error"]

#: A parameter of this name takes the whole record.
WHOLE = "record"

Call = Callable[[Record], Any]


def function_name(function: Callable[..., Any]) -> str:
    """What a function is called in errors and pictures."""
    from sage.ops.functions import name_of

    return name_of(function)


def reading(function: Callable[..., Any], stage: str, *, may_stream: bool = False) -> Call:
    """From a record to the call: parameters read the fields of their names, ``record`` takes all of it.

    A parameter with a default keeps it where the record lacks the field.

    Raises:
        InputError: the function is async (unless it ``may_stream``), or has no parameters that can be read.
    """
    required, optional = _parameters(function, stage, may_stream=may_stream)
    if not optional:
        if required == [WHOLE]:
            return function
        if len(required) == 1 and WHOLE not in required:
            (one,) = required
            return lambda record: function(record[one])
        if len(required) == 2 and WHOLE not in required:
            one, two = required
            return lambda record: function(record[one], record[two])
    return lambda record: function(**_bound(record, required, optional))


def folding(function: Callable[..., Any], stage: str) -> Callable[[Any, Record], Any]:
    """From a state and a record to the next state: the first parameter is the state, the others read fields.

    Raises:
        InputError: as :func:`reading`, or there is no parameter for the state.
    """
    required, optional = _parameters(function, stage, may_stream=False)
    if not required:
        raise InputError(
            f"{stage}: {function_name(function)!r} folds records into a state, so its first parameter is the state; "
            "it has none without a default"
        )
    state, *fields = required
    if fields == [WHOLE] and not optional:
        return function
    if len(fields) == 1 and not optional:
        (one,) = fields
        return lambda before, record: function(before, record[one])
    return lambda before, record: function(**{state: before}, **_bound(record, fields, optional))


def _parameters(function: Callable[..., Any], stage: str, *, may_stream: bool) -> tuple[list[str], list[str]]:
    if not callable(function):
        raise InputError(f"{stage}: expected a function, got {function!r:.60}")
    signature = signature_of(function)
    if signature.is_async or (signature.is_stream and not may_stream):
        name = function_name(function)
        raise InputError(
            f"{stage}: {name!r} is async; make it a step, where many can wait at once: "
            f"through(Pipeline('{name}', value={name}))"
        )
    names = [(p.name, p.has_default) for p in signature.parameters]
    return [name for name, default in names if not default], [name for name, default in names if default]


def _bound(record: Record, required: list[str], optional: list[str]) -> dict[str, Any]:
    given = {name: record if name == WHOLE else record[name] for name in required}
    for name in optional:
        if name == WHOLE:
            given[name] = record
        elif name in record:
            given[name] = record[name]
    return given


def step_error(stage: str, error: Exception, record: Any) -> StepError:
    """What went wrong with one record in a stage; a field that is missing is named, with the nearest one there is."""
    if isinstance(error, KeyError) and error.args and isinstance(record, dict):
        name = error.args[0]
        if isinstance(name, str) and name not in record:
            found = StepError(
                stage, f"the record has no field {name!r}: {nearest(name, map(str, record))}{_hint(name)}"
            )
            found.__cause__ = error
            return found
    said = str(error) if isinstance(error, InputError) else f"raised {type(error).__name__}: {error}"
    found = StepError(stage, said)
    found.__cause__ = error
    return found


def _hint(name: str) -> str:
    return "; a parameter named 'record' takes the whole record" if len(name) == 1 else ""
