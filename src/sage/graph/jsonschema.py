"""JSON schemas as plain data: refs inlined, objects closed, values checked, and the Python type they stand for.

The part of JSON Schema 2020-12 that guided decoding understands. A keyword outside it is refused rather than
passed over, except those that only describe (``title``, ``description``, ``default``, ``examples``,
``format``, …): they never decide whether a value is right.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from sage.errors import InputError, nearest
from sage.graph.hints import union

__all__ = ["check_schema", "closed", "guiding", "inlined", "problem", "supported", "type_of"]

Schema = dict[str, Any]

_DESCRIBING = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "format",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",
        "contentEncoding",
        "contentMediaType",
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
    ]
)
_NAMED = ("properties", "$defs", "definitions")  # keyword -> name -> schema
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")  # keyword -> list of schemas
_SINGLE = ("items", "additionalProperties")  # keyword -> schema (or a bool)

#: What the value of a keyword may be; of those not named here, anything.
_FORMS: Mapping[tuple[type, ...], tuple[str, ...]] = {
    (Mapping,): _NAMED,
    (list, tuple): (*_LISTED, "required", "enum"),
    (Mapping, bool): _SINGLE,
    (str,): ("pattern", "$ref"),
    (str, list, tuple): ("type",),
    (bool,): ("uniqueItems",),
    (int,): ("minLength", "maxLength", "minItems", "maxItems"),
    (int, float): ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def inlined(schema: Mapping[str, Any]) -> Schema:
    """The schema with every local ``$ref`` replaced by what it names; recursive ones keep ``$ref`` and ``$defs``.

    Raises:
        InputError: a ref that leads nowhere, or out of the schema.
    """
    kept: dict[str, Schema] = {}

    def resolve(node: Schema, inside: tuple[str, ...]) -> Schema:
        ref = node.get("$ref")
        if ref is None:
            return _rebuilt(
                {k: v for k, v in node.items() if k not in _NAMED[1:]}, lambda sub: resolve(sub, inside)
            )
        rest = {key: value for key, value in node.items() if key not in {"$ref", *_NAMED[1:]}}
        beside = _rebuilt(rest, lambda sub: resolve(sub, inside))
        if ref in inside:
            kept.setdefault(ref, {})
            return {"$ref": _own_name(ref), **beside}
        body = resolve(_named(schema, ref), (*inside, ref))
        if ref in kept:
            kept[ref] = body
            return {"$ref": _own_name(ref), **beside} if inside else {**body, **beside}
        return {**body, **beside}

    found = resolve(dict(schema), ())
    return {**found, "$defs": {_own_name(ref)[8:]: body for ref, body in kept.items()}} if kept else found


def _named(schema: Mapping[str, Any], ref: str) -> Schema:
    target: Any = schema
    path = [part.replace("~1", "/").replace("~0", "~") for part in ref.removeprefix("#").split("/") if part]
    for part in path if ref.startswith("#") else ["?"]:
        target = target.get(part) if isinstance(target, Mapping) else None
    if not isinstance(target, Mapping):
        raise InputError(
            f"JSON schema: $ref {ref!r} names nothing in this schema; refs look like '#/$defs/Name'"
        )
    return {key: value for key, value in target.items() if target is not schema or key not in _NAMED[1:]}


def _own_name(ref: str) -> str:
    return "#/$defs/" + (re.sub(r"\W", "_", ref.rpartition("/")[2].removeprefix("#")) or "root")


def _rebuilt(node: Schema, visit: Callable[[Schema], Schema]) -> Schema:
    """The schema with ``visit`` done to every schema directly inside it."""
    built = dict(node)
    for keyword, value in node.items():
        if keyword in _NAMED and isinstance(value, Mapping):
            built[keyword] = {name: visit(sub) for name, sub in value.items()}
        elif keyword in _LISTED and isinstance(value, list | tuple):
            built[keyword] = [visit(sub) for sub in value]
        elif keyword in _SINGLE and isinstance(value, Mapping):
            built[keyword] = visit(dict(value))
    return built


def closed(schema: Schema) -> Schema:
    """The schema of a type as guided decoding wants it: objects of named properties are complete.

    All properties are required and no others allowed; defaults and discriminators go, and exclusive
    alternatives become plain ones, since the types behind them tell them apart when the answer is parsed.
    """
    node = {key: value for key, value in schema.items() if key not in {"default", "discriminator"}}
    if "oneOf" in node and "anyOf" not in node:
        node["anyOf"] = node.pop("oneOf")
    built = _rebuilt(node, closed)
    if "properties" in built:
        built["required"] = list(built["properties"])
        built.setdefault("additionalProperties", False)
    return built


def guiding(schema: Schema) -> Schema:
    """The schema without what no engine can enforce while it decodes; the answer is checked for that later."""
    return _rebuilt({key: value for key, value in schema.items() if key != "uniqueItems"}, guiding)


def supported(schema: Mapping[str, Any]) -> Schema:
    """The schema without keywords that :func:`problem` does not know: what is left is checked, the rest is not.

    >>> supported({"type": "object", "if": {}, "properties": {"a": {"type": "string", "contains": 1}}})
    {'type': 'object', 'properties': {'a': {'type': 'string'}}}
    """
    known = {
        key: value for key, value in schema.items() if key in _CHECKS or key in _DESCRIBING or key == "$ref"
    }
    return _rebuilt(known, supported)


def check_schema(schema: Mapping[str, Any], at: str = "$") -> None:
    """Raise InputError where the schema says something :func:`problem` could not check."""
    for keyword, value in schema.items():
        _check_keyword(keyword, value, at)
        for name, sub in _children(keyword, value):
            if not isinstance(sub, Mapping):
                raise InputError(f"JSON schema at {at}.{name}: expected an object, got {type(sub).__name__}")
            check_schema(sub, f"{at}.{name}")


def _check_keyword(keyword: str, value: Any, at: str) -> None:
    at = f"JSON schema at {at}"
    if keyword not in _CHECKS and keyword not in _DESCRIBING and keyword != "$ref":
        raise InputError(f"{at}: keyword {keyword!r} is not supported: {nearest(keyword, _CHECKS)}")
    wanted = next((kinds for kinds, keywords in _FORMS.items() if keyword in keywords), None)
    if wanted and not (isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))):
        raise InputError(f"{at}: {keyword!r} cannot be {_shown(value)}")
    if keyword == "type" and (unknown := [name for name in _listed(value) if name not in _TYPES]):
        raise InputError(f"{at}: unknown type {unknown[0]!r}: {nearest(str(unknown[0]), _TYPES)}")
    if keyword == "pattern":
        try:
            re.compile(value)
        except re.error as error:
            raise InputError(f"{at}: pattern {value!r} is not valid: {error}") from error


def _children(keyword: str, value: Any) -> list[tuple[str, Any]]:
    if keyword in _NAMED:
        return [(f"{keyword}.{name}", sub) for name, sub in value.items()]
    if keyword in _LISTED:
        return [(f"{keyword}[{number}]", sub) for number, sub in enumerate(value)]
    return [(keyword, value)] if keyword in _SINGLE and not isinstance(value, bool) else []


def problem(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str = "$") -> str | None:
    """The first thing wrong with a value, with its path; None when it satisfies the schema."""
    if (ref := schema.get("$ref")) is not None and (found := problem(value, _named(root, ref), root, at)):
        return found
    for keyword, said in schema.items():
        check = _CHECKS.get(keyword)
        if check is not None and (found := check(value, said, schema, root, at)):
            return found
    return None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _kind(value: Any) -> str:
    return next(kind for kind in ("boolean", "null", *_TYPES) if _is(value, kind))


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _type(value: Any, said: Any, _schema: Any, _root: Any, at: str) -> str | None:
    if any(_is(value, kind) for kind in _listed(said)):
        return None
    return f"{at}: expected {' or '.join(_listed(said))}, got {_kind(value)}"


def _one_of(value: Any, said: Any, _schema: Any, _root: Any, at: str) -> str | None:
    if any(_same(value, choice) for choice in said):
        return None
    return f"{at}: expected one of {', '.join(map(repr, said))}, got {_shown(value)}"


def _properties(value: Any, said: Any, _schema: Any, root: Any, at: str) -> str | None:
    if not isinstance(value, dict):
        return None
    return _first(
        problem(value[name], sub, root, f"{at}.{name}") for name, sub in said.items() if name in value
    )


def _required(value: Any, said: Any, _schema: Any, _root: Any, at: str) -> str | None:
    if not isinstance(value, dict):
        return None
    return _first(f"{at}: lacks {name!r}" for name in said if name not in value)


def _others(value: Any, said: Any, schema: Any, root: Any, at: str) -> str | None:
    if not isinstance(value, dict) or said is True:
        return None
    others = [name for name in value if name not in schema.get("properties", {})]
    if said is False:
        return f"{at}: {others[0]!r} is not expected" if others else None
    return _first(problem(value[name], said, root, f"{at}.{name}") for name in others)


def _items(value: Any, said: Any, schema: Any, root: Any, at: str) -> str | None:
    if not isinstance(value, list) or said is True:
        return None
    before = len(schema.get("prefixItems", ()))
    if said is False:
        return f"{at}: expected at most {before} items, got {len(value)}" if len(value) > before else None
    return _first(problem(item, said, root, f"{at}[{i}]") for i, item in enumerate(value) if i >= before)


def _prefix(value: Any, said: Any, _schema: Any, root: Any, at: str) -> str | None:
    if not isinstance(value, list):
        return None
    pairs = enumerate(zip(value, said, strict=False))
    return _first(problem(item, sub, root, f"{at}[{i}]") for i, (item, sub) in pairs)


def _any_of(value: Any, said: Any, _schema: Any, root: Any, at: str) -> str | None:
    found = [problem(value, sub, root, at) for sub in said]
    return None if None in found else f"{at}: fits none of {len(found)} forms ({found[0]})"


def _exactly_one(value: Any, said: Any, schema: Any, root: Any, at: str) -> str | None:
    fitting = sum(problem(value, sub, root, at) is None for sub in said)
    if fitting > 1:
        return f"{at}: fits {fitting} of the forms, expected exactly one"
    return _any_of(value, said, schema, root, at)


def _all_of(value: Any, said: Any, _schema: Any, root: Any, at: str) -> str | None:
    return _first(problem(value, sub, root, at) for sub in said)


def _unique(value: Any, said: Any, _schema: Any, _root: Any, at: str) -> str | None:
    if not said or not isinstance(value, list):
        return None
    repeated = any(_same(a, b) for i, a in enumerate(value) for b in value[:i])
    return f"{at}: an item stands twice" if repeated else None


def _pattern(value: Any, said: Any, _schema: Any, _root: Any, at: str) -> str | None:
    fits = not isinstance(value, str) or re.search(said, value)
    return None if fits else f"{at}: {_shown(value)} does not match {said!r}"


def _bound(
    kinds: tuple[type, ...], measure: Callable[[Any], Any], fits: Callable[[Any, Any], bool], says: str
) -> Any:
    def check(value: Any, said: Any, _schema: Any, _root: Any, at: str) -> str | None:
        if not isinstance(value, kinds) or isinstance(value, bool) or fits(measure(value), said):
            return None
        return f"{at}: expected {says} {said}, got {measure(value)}"

    return check


def _first(found: Any) -> str | None:
    return next((fault for fault in found if fault), None)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _identity(value: Any) -> Any:
    return value


_NUMBER = (int, float)
_CHECKS: Mapping[str, Callable[[Any, Any, Any, Any, str], str | None]] = {
    "type": _type,
    "enum": _one_of,
    "const": lambda value, said, schema, root, at: _one_of(value, [said], schema, root, at),
    "properties": _properties,
    "required": _required,
    "additionalProperties": _others,
    "items": _items,
    "prefixItems": _prefix,
    "anyOf": _any_of,
    "oneOf": _exactly_one,
    "allOf": _all_of,
    "uniqueItems": _unique,
    "pattern": _pattern,
    "minLength": _bound((str,), len, lambda has, said: has >= said, "a length of at least"),
    "maxLength": _bound((str,), len, lambda has, said: has <= said, "a length of at most"),
    "minItems": _bound((list,), len, lambda has, said: has >= said, "a number of items of at least"),
    "maxItems": _bound((list,), len, lambda has, said: has <= said, "a number of items of at most"),
    "minimum": _bound(_NUMBER, _identity, lambda has, said: has >= said, "at least"),
    "maximum": _bound(_NUMBER, _identity, lambda has, said: has <= said, "at most"),
    "exclusiveMinimum": _bound(_NUMBER, _identity, lambda has, said: has > said, "more than"),
    "exclusiveMaximum": _bound(_NUMBER, _identity, lambda has, said: has < said, "less than"),
}


def type_of(schema: Mapping[str, Any]) -> Any:
    """The Python type of the values of a schema; Any where it does not say. Equal schemas give the same type."""
    return _type_of(msgspec.json.encode(schema, order="sorted"))


@functools.lru_cache(maxsize=1024)
def _type_of(canonical: bytes) -> Any:
    schema: Schema = msgspec.json.decode(canonical)
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices and all(choice is None or isinstance(choice, str | int) for choice in choices):
        return Literal.__getitem__(tuple(choices))
    if forms := schema.get("anyOf", schema.get("oneOf")):
        return union(type_of(form) for form in forms)
    kinds = _listed(schema.get("type", []))
    return union(_of_kind(kind, schema) for kind in kinds) if kinds else Any


def _of_kind(kind: str, schema: Schema) -> Any:
    if kind == "array":
        items = schema.get("items")
        return list.__class_getitem__(type_of(items)) if isinstance(items, dict) else list
    if kind == "object":
        return _object(schema)
    return {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}[kind]


def _object(schema: Schema) -> Any:
    properties, others = schema.get("properties"), schema.get("additionalProperties")
    if properties and others is False:
        required = set(schema.get("required", ()))
        fields = {
            name: type_of(sub) if name in required else NotRequired.__getitem__(type_of(sub))
            for name, sub in properties.items()
        }
        return TypedDict(str(schema.get("title", "object")), fields)  # type: ignore[operator]  # fields known at run time
    if not properties and isinstance(others, dict):
        return dict.__class_getitem__((str, type_of(others)))
    return dict.__class_getitem__((str, Any))
