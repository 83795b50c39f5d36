"""What a function step takes and gives, read from its signature and annotations."""

from __future__ import annotations

import collections.abc
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from sage.errors import InputError
from sage.graph.hints import hints_of

__all__ = ["Parameter", "Signature", "signature_of"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function step. ``type`` is Any when it has no annotation."""

    name: str
    type: Any = Any
    has_default: bool = False
    keyword_only: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function step is called and what it gives.

    ``returns`` is what a caller ends up with: after awaiting, for a coroutine function; the async iterator
    itself, for an async generator function.
    """

    parameters: tuple[Parameter, ...]
    returns: Any = Any
    is_async: bool = False  # the result must be awaited
    is_stream: bool = False  # an async generator function: the result is iterated, not awaited
    takes_extra: bool = False  # has **kwargs
    notes: tuple[str, ...] = ()  # annotations that could not be resolved and count as Any


def signature_of(fn: Callable[..., Any]) -> Signature:
    """Parameters and result of anything that can be called by keyword.

    A decorated function that names what it wraps (``functools.wraps``) is read as that.

    >>> def grade(answer: str, strict: bool = False) -> float: ...
    >>> [p.name for p in signature_of(grade).parameters], signature_of(grade).returns
    (['answer', 'strict'], <class 'float'>)

    Raises:
        InputError: not callable, no signature to read, ``*args``, or positional-only parameters.
    """
    name = _shown_name(fn)
    if not callable(fn):
        raise InputError(f"{name} is no function: got a value of type {type(fn).__name__!r}")
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} has no signature that can be read, so SAGE cannot tell which fields it needs; "
            f"put it in a function with named parameters, such as lambda text: {name}(text)"
        ) from error
    _refuse_unnamed(name, parameters)
    layers = _layers(fn)
    hints, notes = hints_of(layers[-1])
    is_async = any(inspect.iscoroutinefunction(layer) for layer in layers)
    returns = layers[-1] if isinstance(layers[-1], type) else hints.get("return", Any)
    if get_origin(returns) in {collections.abc.Awaitable, collections.abc.Coroutine} and not is_async:
        is_async, returns = True, get_args(returns)[-1]
    wanted = {item.name for item in parameters} | {"return"}
    return Signature(
        parameters=tuple(_parameter(item, hints) for item in parameters if item.kind is not item.VAR_KEYWORD),
        returns=returns,
        is_async=is_async,
        is_stream=any(inspect.isasyncgenfunction(layer) for layer in layers),
        takes_extra=any(item.kind is item.VAR_KEYWORD for item in parameters),
        notes=tuple(note for of, note in notes.items() if of in wanted),
    )


def _parameter(item: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter:
    return Parameter(
        item.name,
        hints.get(item.name, Any),
        has_default=item.default is not item.empty,
        keyword_only=item.kind is item.KEYWORD_ONLY,
    )


def _refuse_unnamed(name: str, parameters: Iterable[inspect.Parameter]) -> None:
    for item in parameters:
        if item.kind is item.VAR_POSITIONAL:
            raise InputError(
                f"{name} takes *{item.name}, so SAGE cannot tell which fields it needs; name its parameters "
                "(a decorator without functools.wraps hides them)"
            )
        if item.kind is item.POSITIONAL_ONLY:
            raise InputError(
                f"{name} takes {item.name!r} by position only, and SAGE passes fields by name; "
                f"put it in a function with named parameters, such as lambda text: {name}(text)"
            )


def _layers(fn: Any) -> list[Any]:
    """The function inside a partial or a callable object (or the class itself), then what each layer wraps."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not isinstance(fn, type) and not inspect.isroutine(fn):
        fn = type(fn).__call__ if not hasattr(fn, "__wrapped__") else fn
    layers = [fn]
    while not isinstance(fn, type) and hasattr(fn, "__wrapped__") and len(layers) < 100:
        fn = fn.__wrapped__
        layers.append(fn)
    return layers


def _shown_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__))
