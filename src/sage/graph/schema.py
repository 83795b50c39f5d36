"""The shape of a structured answer: the JSON schema an engine is guided by, and the value its text becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sage.errors import InputError
from sage.graph.hints import type_name, unknown
from sage.graph.jsonschema import check_schema, closed, guiding, inlined, problem, type_of

__all__ = ["Shape", "shape_of"]

_FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\Z", re.DOTALL | re.IGNORECASE)
_SHOWN = 80  # characters of an answer in an error


@dataclass(frozen=True, slots=True)
class Shape:
    """What ``schema=`` of ``generate`` says, ready for an engine and for the answer that comes back."""

    type: Any  # of the value, for the check of the edges that read it
    json_schema: Mapping[str, Any] = field(hash=False)  # self-contained; what the engine is guided by
    _value: Callable[[bytes], Any] = field(compare=False, repr=False)

    def parse(self, text: str) -> Any:
        """The value in a model's answer: one JSON value, alone or in one code fence.

        >>> shape_of(list[int]).parse(" [1, 2] ")
        [1, 2]

        Raises:
            InputError: the text is no JSON, or JSON of another shape.
        """
        bare = text.strip()
        if fence := _FENCED.match(bare):
            bare = fence[1].strip()
        try:
            return self._value(bare.encode("utf-8", "replace"))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            reason = _reason(error)
        shown = f"{text[:_SHOWN]!r}…" if len(text) > _SHOWN else repr(text)
        raise InputError(f"the answer is no {type_name(self.type)}: {reason}; got {shown}")


def shape_of(spec: Any) -> Shape:
    """The shape that a type or a JSON schema asks for.

    A dataclass, TypedDict, NamedTuple, msgspec Struct, Enum, Literal, pydantic model, or a combination such as
    ``list[Passage]`` or ``dict[str, float]``: the JSON schema asks for every field and no other; parsing is
    strict in types, fills fields that have a default, and passes over fields the type does not have unless the
    type forbids them. A dict is a JSON schema and taken as written; only its refs are inlined.

    >>> from typing import Literal
    >>> shape = shape_of(Literal["yes", "no"])
    >>> shape.json_schema, shape.parse('"no"')
    ({'enum': ['no', 'yes']}, 'no')

    Raises:
        InputError: nothing a JSON answer could be checked against.
    """
    if isinstance(spec, Mapping):
        return _of_json_schema(spec)
    if _is_pydantic(spec):
        return Shape(spec, guiding(closed(inlined(spec.model_json_schema()))), _pydantic_reader(spec))
    try:
        if spec is None or unknown(spec):
            raise TypeError("it says nothing about the answer")
        described = msgspec.json.schema(spec, schema_hook=_describe)
        decoder = msgspec.json.Decoder(spec, dec_hook=_build)
    except (TypeError, NameError, ValueError) as error:
        raise InputError(
            f"schema={_shown(spec)} cannot be asked of a model: {_reason(error)}; expected a dataclass, TypedDict, "
            "pydantic model, msgspec Struct, Literal, a type such as list[str], or a JSON schema as a dict"
        ) from error
    return Shape(spec, guiding(closed(inlined(described))), decoder.decode)


def _of_json_schema(spec: Mapping[str, Any]) -> Shape:
    if not spec:
        raise InputError("schema={} says no shape; a JSON schema needs at least a 'type', 'enum' or 'anyOf'")
    check_schema(spec)
    schema = inlined(spec)

    def value(text: bytes) -> Any:
        found = msgspec.json.decode(text)
        if fault := problem(found, schema, schema):
            raise ValueError(fault)
        return found

    return Shape(type_of(schema), guiding(schema), value)


def _is_pydantic(spec: Any) -> bool:
    return (
        isinstance(spec, type) and hasattr(spec, "model_json_schema") and hasattr(spec, "model_validate_json")
    )


def _pydantic_reader(model: Any) -> Callable[[bytes], Any]:
    return lambda text: model.model_validate_json(text, strict=True)


def _describe(model: type) -> dict[str, Any]:
    """The schema of a class that msgspec does not know, inside one that it does."""
    if not _is_pydantic(model):
        raise TypeError(f"type {type_name(model)} has no JSON schema")
    schema = inlined(model.model_json_schema())  # type: ignore[attr-defined]  # looked at just above
    if "$defs" in schema:
        raise TypeError(
            f"the recursive pydantic model {type_name(model)} must stand alone, not inside another type"
        )
    return schema


def _build(model: type, found: Any) -> Any:
    return _pydantic_reader(model)(msgspec.json.encode(found))


def _shown(spec: Any) -> str:
    text = type_name(spec)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _reason(error: Exception) -> str:
    """What is wrong, in one line, without the value itself."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "truncated" in str(error) or "EOF while parsing" in str(error):
        return "it is cut off before its end (is max_tokens large enough?)"
    details = getattr(error, "errors", None)
    if callable(details) and (found := details()):
        where = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in found[0].get("loc", ())
        )
        return f"${where}: {found[0].get('msg', 'invalid')}"
    return " ".join(str(error).split())
