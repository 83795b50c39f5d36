"""Edge contracts: whether one declared type may go where another is expected, and what its parts are.

Everything here looks at declarations, never at values. Where a declaration does not decide, the edge is let
through: a false refusal is worse than an error at run time that names its step.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from sage.errors import nearest
from sage.graph.hints import (
    KEY_QUALIFIERS,
    arguments_as,
    class_hints,
    is_typed_dict,
    plain,
    substituted,
    type_name,
    unaliased,
    union,
    union_members,
    unknown,
)
from sage.graph.signatures import Parameter, Signature, signature_of

__all__ = ["Missing", "Parameter", "Signature", "assignable", "part_type", "signature_of", "type_name"]

#: Types nested deeper than this are let through; it also ends the comparison of recursive types.
_DEPTH = 12

_CALLABLE: Any = collections.abc.Callable


@dataclass(frozen=True, slots=True)
class Missing:
    """The answer of :func:`part_type` when the type surely has no such part."""

    part: str | int
    of: Any
    parts: tuple[str, ...] = ()  # those it has

    def __str__(self) -> str:
        name = type_name(self.of)
        if isinstance(self.part, int):
            return f"{name} has no item [{self.part}]"
        if self.parts:
            return f"{name} has no part {self.part!r}: {nearest(self.part, self.parts)}"
        if _item_type(plain(self.of)) is not None:
            return f"{name} has no part {self.part!r}: take an item of it first, as in {{x[0].{self.part}}}"
        return f"{name} has no parts, so no {self.part!r}"


# --- assignability --------------------------------------------------------------------------------------


def assignable(source: Any, target: Any) -> bool:
    """Whether a value declared ``source`` may go where ``target`` is expected.

    Covariant in every type argument, since values on edges are read and not written. A NewType stands for
    its base in both directions, but not for another NewType.

    >>> assignable(list[int], list[float]), assignable(list[int], list[str]), assignable(str | None, str)
    (True, False, False)
    """
    return _fits(source, target, 0)


def _fits(source: Any, target: Any, depth: int) -> bool:
    source, target = unaliased(source), unaliased(target)
    if depth > _DEPTH or source is target or unknown(source) or unknown(target):
        return True
    if isinstance(source, typing.NewType) or isinstance(target, typing.NewType):
        return _new_type_fits(source, target, depth)
    deeper = depth + 1
    if members := union_members(source):
        return all(_fits(member, target, deeper) for member in members)
    if members := union_members(target):
        return any(_fits(source, member, deeper) for member in members)
    if get_origin(source) is Literal:
        return all(_literal_fits(value, target, deeper) for value in get_args(source))
    if get_origin(target) is Literal:
        return source is bool and {True, False} <= set(get_args(target))
    if is_typed_dict(source) or is_typed_dict(target):
        return _typed_dict_fits(source, target, deeper)
    have, want = get_origin(source) or source, get_origin(target) or target
    if not (isinstance(have, type) and isinstance(want, type)):
        return True
    return _class_fits(have, want) and _arguments_fit(source, target, want, deeper)


def _new_type_fits(source: Any, target: Any, depth: int) -> bool:
    def line(hint: Any) -> list[Any]:
        found = [hint]
        while isinstance(hint, typing.NewType):
            hint = unaliased(hint.__supertype__)
            found.append(hint)
        return found

    if isinstance(source, typing.NewType) and isinstance(target, typing.NewType):
        return target in line(source) or source in line(target)
    return _fits(line(source)[-1], line(target)[-1], depth + 1)


def _literal_fits(value: Any, target: Any, depth: int) -> bool:
    if get_origin(target) is Literal:
        return any(value == other and type(value) is type(other) for other in get_args(target))
    return _fits(type(value), target, depth)


def _class_fits(have: type, want: type) -> bool:
    if have is want or want is object:
        return True
    if want is complex and issubclass(have, int | float):
        return True
    if want is float and issubclass(have, int):
        return True
    try:
        return issubclass(have, want)
    except TypeError:  # a protocol that only says what it wants to a type checker
        return True


def _arguments_fit(source: Any, target: Any, want: type, depth: int) -> bool:
    wanted = get_args(target)
    if not wanted or want is _CALLABLE or want.__module__.partition(".")[0] == "numpy":
        return True
    if want is tuple:
        return _tuple_fits(source, wanted, depth)
    given = arguments_as(source, want)
    if given is None or len(given) != len(wanted):
        return True
    return all(_fits(a, b, depth) for a, b in zip(given, wanted, strict=True))


def _tuple_fits(source: Any, wanted: tuple[Any, ...], depth: int) -> bool:
    given = get_args(source)
    if not given or get_origin(source) is not tuple:
        return True
    if wanted[-1] is Ellipsis:
        return all(_fits(item, wanted[0], depth) for item in given if item is not Ellipsis)
    if given[-1] is Ellipsis:
        return all(_fits(given[0], item, depth) for item in wanted)
    return len(given) == len(wanted) and all(_fits(a, b, depth) for a, b in zip(given, wanted, strict=True))


def _typed_dict_fits(source: Any, target: Any, depth: int) -> bool:
    """Either side may be a plain mapping: then every key must fit its value type."""
    if not is_typed_dict(target):
        want, wanted = get_origin(target) or target, get_args(target)
        if not isinstance(want, type) or not _class_fits(dict, want):
            return False
        values = wanted[1] if len(wanted) == 2 else Any
        return all(_fits(hint, values, depth) for hint in class_hints(source).values())
    wanted_keys = class_hints(get_origin(target) or target)
    if is_typed_dict(source):
        keys, sure = class_hints(get_origin(source) or source), source.__required_keys__
        return all(name in sure for name in target.__required_keys__) and all(
            _fits(keys[name], hint, depth) for name, hint in wanted_keys.items() if name in keys
        )
    have, given = get_origin(source) or source, get_args(source)
    if not isinstance(have, type) or not issubclass(have, Mapping):
        return False
    return len(given) < 2 or all(_fits(given[1], hint, depth) for hint in wanted_keys.values())


# --- parts and names ------------------------------------------------------------------------------------


def part_type(of: Any, part: str | int) -> Any | Missing:
    """The type of ``{x.part}`` or ``{x[0]}``, for x of the type ``of``.

    Of a union, the members that have the part decide. What cannot be known is Any; a :class:`Missing` means
    that there is surely no such part.

    >>> part_type(list[float], 0)
    <class 'float'>
    """
    bare = plain(of)
    if unknown(bare) or bare is object:
        return Any
    if members := union_members(bare):
        found = [part_type(member, part) for member in members]
        present = tuple(item for item in found if not isinstance(item, Missing))
        if present:
            return union(present)
        absent = [name for item in found if isinstance(item, Missing) for name in item.parts]
        return Missing(part, of, tuple(dict.fromkeys(absent)))
    if get_origin(bare) is Literal:
        return part_type(union(type(value) for value in get_args(bare)), part)
    if not isinstance(get_origin(bare) or bare, type):
        return Missing(part, of) if get_origin(bare) is _CALLABLE else Any
    return _item(of, bare, part) if isinstance(part, int) else _named(of, bare, part)


def _item(of: Any, bare: Any, position: int) -> Any | Missing:
    have, given = get_origin(bare) or bare, get_args(bare)
    if issubclass(have, Mapping):
        keys = (arguments_as(bare, collections.abc.Mapping) or (Any, Any))[:1]
        return (
            _value_type(bare) if _fits(int, keys[0], 0) and not is_typed_dict(bare) else Missing(position, of)
        )
    if have is tuple and given and given[-1] is not Ellipsis:
        return given[position] if 0 <= position < len(given) else Missing(position, of)
    if names := getattr(have, "_fields", ()) if issubclass(have, tuple) else ():
        return (
            class_hints(have).get(names[position], Any)
            if 0 <= position < len(names)
            else Missing(position, of)
        )
    found = _item_type(bare)
    return Missing(position, of) if found is None else found


def _item_type(bare: Any) -> Any | None:
    """The type of what ``x[0]`` gives, None when a value of this type surely has no items by position."""
    have = get_origin(bare) or bare
    if not isinstance(have, type):
        return None
    if issubclass(have, collections.abc.Sequence):
        return (arguments_as(bare, collections.abc.Sequence) or (Any,))[0]
    return Any if hasattr(have, "__getitem__") else None


def _value_type(bare: Any) -> Any:
    given = arguments_as(bare, collections.abc.Mapping) or ()
    return given[1] if len(given) == 2 else Any


def _named(of: Any, bare: Any, part: str) -> Any | Missing:
    have: type = get_origin(bare) or bare
    if issubclass(have, Mapping) and not is_typed_dict(bare):
        keys = (arguments_as(bare, collections.abc.Mapping) or (str,))[0]
        return _value_type(bare) if _fits(str, keys, 0) else Missing(part, of)
    declared = _declared_parts(have)
    fields = declared if declared is not None else _annotated_parts(have)
    known = dict(zip(getattr(have, "__parameters__", ()), get_args(bare), strict=False))
    if part in fields and not part.startswith("_"):
        hint = substituted(fields[part], known)
        return get_args(hint)[0] if get_origin(hint) in KEY_QUALIFIERS else hint
    open_ended = declared is None and have.__module__ not in {"builtins", "collections", "collections.abc"}
    return Any if open_ended else Missing(part, of, tuple(name for name in fields if name[0] != "_"))


def _declared_parts(have: type) -> Mapping[str, Any] | None:
    """The parts of a class that lists all of them; None for a class that may set any attribute."""
    if is_typed_dict(have):
        return class_hints(have)
    models = getattr(have, "model_fields", None)
    if isinstance(models, Mapping):
        fields = {name: getattr(field, "annotation", Any) for name, field in models.items()}
    elif (names := _field_names(have)) is not None:
        fields = {name: class_hints(have).get(name, Any) for name in names}
    elif issubclass(have, enum.Enum):
        fields = {"name": str, "value": union(type(member.value) for member in have)} if len(have) else {}
    else:
        return None
    return {**_annotated_properties(have), **fields}


def _field_names(have: type) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(have):
        return tuple(field.name for field in dataclasses.fields(have))
    names = getattr(have, "__struct_fields__", None) or getattr(have, "_fields", None)
    return names if isinstance(names, tuple) else None


def _annotated_parts(have: type) -> Mapping[str, Any]:
    return {**class_hints(have), **_annotated_properties(have)}


def _annotated_properties(have: type) -> dict[str, Any]:
    """Properties and cached properties of a class, with the types they say they give."""
    found: dict[str, Any] = {}
    for base in reversed(have.__mro__[:-1]):
        for name, member in vars(base).items():
            getter = getattr(member, "fget", None) or (
                getattr(member, "func", None) if _cached(member) else None
            )
            if inspect.isfunction(getter):
                found[name] = signature_of(getter).returns
    return found


def _cached(member: Any) -> bool:
    return type(member).__name__ == "cached_property"
