"""Reading type annotations: resolved, stripped of what does not matter to an edge, and shown in messages."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = [
    "KEY_QUALIFIERS",
    "arguments_as",
    "class_hints",
    "hints_of",
    "is_typed_dict",
    "plain",
    "substituted",
    "type_name",
    "unaliased",
    "union",
    "union_members",
    "unknown",
]

#: What a key of a TypedDict may be wrapped in.
KEY_QUALIFIERS = (typing.Required, typing.NotRequired)


@functools.lru_cache(maxsize=256)
def class_hints(cls: type) -> Mapping[str, Any]:
    """The annotations of a class and its bases, resolved; Any for those that name something unknown."""
    return types.MappingProxyType(hints_of(cls)[0])


def hints_of(target: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Resolved annotations, and a note for each that names something unknown (it counts as Any)."""
    if not isinstance(target, type):
        return _resolved(target, getattr(target, "__globals__", {}))
    hints: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for base in reversed(target.__mro__):
        inner = {name: member for name, member in vars(base).items() if isinstance(member, type)}
        scope = {**inner, **vars(sys.modules.get(base.__module__, types))}
        for holder in (base, vars(base).get("__new__"), vars(base).get("__init__")):
            if holder is base or inspect.isfunction(holder):
                found, unsure = _resolved(holder, scope)
                found.pop("return", None)
                hints |= found
                notes = {name: note for name, note in notes.items() if name not in found} | unsure
    return hints, notes


def _resolved(holder: Any, scope: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    hints: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for name, annotation in inspect.get_annotations(holder).items():

        def lone() -> None: ...

        lone.__annotations__ = {name: annotation}
        try:
            hints[name] = get_type_hints(lone, scope, include_extras=True)[name]
        except (NameError, AttributeError, TypeError, SyntaxError) as error:
            hints[name] = Any
            notes[name] = f"the annotation {annotation!r} of {name!r} counts as Any: {error}"
    return hints, notes


def unaliased(hint: Any) -> Any:
    """The type behind None, Annotated, TypedDict qualifiers, type aliases and type variables."""
    while True:
        if hint is None:
            return NoneType
        if get_origin(hint) in {Annotated, typing.Final, typing.ClassVar, *KEY_QUALIFIERS}:
            hint = get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif isinstance(hint, typing.TypeVar):
            hint = union(hint.__constraints__) if hint.__constraints__ else hint.__bound__ or Any
        elif hint is typing.LiteralString:
            return str
        else:
            return hint


def plain(hint: Any) -> Any:
    """As :func:`unaliased`, and a NewType is its base."""
    hint = unaliased(hint)
    while isinstance(hint, typing.NewType):
        hint = unaliased(hint.__supertype__)
    return hint


def unknown(hint: Any) -> bool:
    """Whether an annotation says nothing that could be checked."""
    return (
        hint is Any
        or hint is inspect.Parameter.empty
        or hint in (typing.Never, typing.NoReturn, typing.Self)
        or isinstance(hint, str | typing.ForwardRef)
    )


def union_members(hint: Any) -> tuple[Any, ...]:
    """What an ``X | Y`` is made of; empty for anything else."""
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else ()


def union(members: Iterable[Any]) -> Any:
    """One type for several; there is at least one."""
    return Union[tuple(members)]  # noqa: UP007 - of a number known at run time only


def is_typed_dict(hint: Any) -> bool:
    """Whether this is a TypedDict, with or without type arguments."""
    return typing.is_typeddict(get_origin(hint) or hint)


def arguments_as(source: Any, want: type) -> tuple[Any, ...] | None:
    """The type arguments of ``source`` seen as the generic class ``want``; None when that is not known."""
    have, given = get_origin(source) or source, get_args(source)
    if have is want:
        return given or None
    if issubclass(have, str | bytes):
        return (str,) if issubclass(have, str) else (int,)
    if have is tuple:
        return (union(item for item in given if item is not Ellipsis),) if given else None
    parameters = getattr(have, "__parameters__", ())
    known = dict(zip(parameters, given or [Any] * len(parameters), strict=False))
    for base in getattr(have, "__orig_bases__", ()):
        if isinstance(origin := get_origin(base), type) and issubclass(origin, want):
            return arguments_as(substituted(base, known), want)
    if not given or have.__module__ not in {"builtins", "collections", "collections.abc"}:
        return None
    if have is collections.abc.Coroutine:
        return given[-1:]
    return given[: len(getattr(want, "__parameters__", ())) or (2 if issubclass(want, Mapping) else 1)]


def substituted(hint: Any, known: Mapping[Any, Any]) -> Any:
    """A hint with its type variables replaced."""
    if isinstance(hint, typing.TypeVar):
        return known.get(hint, Any)
    parameters = getattr(hint, "__parameters__", ()) if get_origin(hint) is not None else ()
    return hint[tuple(known.get(item, Any) for item in parameters)] if parameters else hint


def type_name(hint: Any) -> str:
    """A type as it stands in a message.

    >>> type_name(list[str | None]), type_name(Any)
    ('list[str | None]', 'Any')
    """
    if hint is None or hint is NoneType:
        return "None"
    if isinstance(hint, str | typing.ForwardRef):
        return hint if isinstance(hint, str) else hint.__forward_arg__
    if isinstance(hint, list):  # the parameters of a Callable
        return f"[{', '.join(type_name(item) for item in hint)}]"
    if hint is Ellipsis:
        return "..."
    if members := union_members(hint):
        ordered = sorted(members, key=lambda member: member is NoneType)
        return " | ".join(type_name(member) for member in ordered)
    origin, given = get_origin(hint), get_args(hint)
    if origin in {Annotated, *KEY_QUALIFIERS}:
        return type_name(given[0])
    if origin is Literal:
        return f"Literal[{_short_list([repr(value) for value in given])}]"
    name = str(getattr(origin or hint, "__name__", None) or getattr(hint, "_name", None) or hint)
    if name == "ndarray" and len(given) == 2:
        return f"NDArray[{', '.join(type_name(item) for item in get_args(given[1])) or 'Any'}]"
    return f"{name}[{', '.join(type_name(item) for item in given)}]" if given else name


def _short_list(shown: list[str]) -> str:
    return ", ".join(shown[:6]) + (", …" if len(shown) > 6 else "")
