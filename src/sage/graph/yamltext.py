"""Plain data as compact YAML text: a step a line where it fits, text of several lines as it stands."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from sage.errors import InputError

__all__ = ["yaml_text"]

MAX_COLUMNS = 110
MAX_ALIGNED = 24  # keys longer than this do not push the others to the right
MAX_KEY = 1000  # parsers look back a limited way for a key

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # of YAML 1.1
_ODD = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_ESCAPED = re.compile(rf'[\\"\t]|{_ODD.pattern}')
_NAMED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def yaml_text(form: Mapping[str, Any]) -> str:
    """A pipeline's form (see ``sage.graph.form``) as YAML, or a stream's, whose ``stages`` are a list.

    >>> print(yaml_text({"pipeline": "p", "steps": {"line": {"template": "Hello, {name}!"}, "size": {"fn": "count"}}}))
    pipeline: p
    steps:
      line: {template: "Hello, {name}!"}
      size: {fn: count}
    <BLANKLINE>
    """
    lines: list[str] = []
    for key, value in form.items():
        if key == "steps":
            lines += ["steps:", *_entries(value, 2)]
        elif key == "stages":
            lines += ["stages:", *(line for item in value for line in _item(item, 2))]
        else:
            lines.append(f"{_key(key)}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _entries(mapping: Mapping[str, Any], indent: int) -> list[str]:
    """A mapping's lines: an entry on one line where it fits, the values of those side by side."""
    keys = {name: _key(name) for name in mapping}
    width = max((len(key) for key in keys.values() if len(key) <= MAX_ALIGNED), default=0)
    lines: list[str] = []
    for name, value in mapping.items():
        key = f"{' ' * indent}{keys[name]}:"
        line = f"{key}{' ' * max(1, width - len(keys[name]) + 1)}{_flow(value)}"
        fits = len(line) <= MAX_COLUMNS and not _holds_lines(value)
        lines += [line] if fits else _broken(key, value, indent)
    return lines


def _broken(start: str, value: Any, indent: int) -> list[str]:
    """What follows the start of a line at an indent, over as many lines as it takes."""
    if _has_lines(value):
        head, body = ("|", value[:-1]) if value.endswith("\n") else ("|-", value)
        return [f"{start} {head}", *(" " * (indent + 2) + line if line else "" for line in body.split("\n"))]
    if isinstance(value, dict) and value:
        return [start, *_options(value, indent + 2)]
    if isinstance(value, list) and value:
        return [start, *(line for item in value for line in _item(item, indent + 2))]
    return [f"{start} {_flow(value)}"]


def _options(mapping: Mapping[str, Any], indent: int) -> list[str]:
    lines: list[str] = []
    for name, value in mapping.items():
        if name == "steps" and isinstance(value, dict) and value:
            lines += [f"{' ' * indent}steps:", *_entries(value, indent + 2)]
        else:
            key = f"{' ' * indent}{_key(name)}:"
            line = f"{key} {_flow(value)}"
            fits = len(line) <= MAX_COLUMNS and not _holds_lines(value)
            lines += [line] if fits else _broken(key, value, indent)
    return lines


def _item(value: Any, indent: int) -> list[str]:
    """An item of a list; its first line begins with a dash."""
    start = " " * indent + "-"
    line = f"{start} {_flow(value)}"
    if len(line) <= MAX_COLUMNS and not _holds_lines(value):
        return [line]
    if isinstance(value, dict | list) and value:
        inner = _broken("", value, indent)[1:]
        return [start + inner[0][indent + 1 :], *inner[1:]]
    return _broken(start, value, indent)


def _holds_lines(value: Any) -> bool:
    """Whether text that stands over several lines is in it."""
    if isinstance(value, dict):
        return any(map(_holds_lines, value.values()))
    return any(map(_holds_lines, value)) if isinstance(value, list) else _has_lines(value)


def _has_lines(value: Any) -> bool:
    """Whether this is text that can stand as it is, line by line, and be the same when it is read."""
    if not isinstance(value, str) or "\n" not in value.rstrip("\n") or value.endswith("\n\n"):
        return False
    lines = value.removesuffix("\n").split("\n")
    odd = any(line.isspace() or _ODD.search(line) for line in lines)
    return not odd and lines[0] != "" and not lines[0].startswith((" ", "\t"))


def _key(key: str) -> str:
    written = _text(key)
    if len(written) > MAX_KEY:
        raise InputError(
            f"the name {key[:40]!r}… is too long for YAML, {len(written)} characters; shorten it"
        )
    return written


def _flow(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        return _float(value)
    return {None: "null", True: "true", False: "false"}[value] if not _is_int(value) else str(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _float(value: float) -> str:
    """With a point before the exponent, without which YAML 1.1 reads text."""
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    digits, exponent, power = repr(value).partition("e")
    return digits + (".0" if "." not in digits else "") + exponent + power


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _NAMED.get(character) or f"\\u{ord(character):04x}"
