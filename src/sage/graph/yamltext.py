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
    """A pipeline's form (see ``sage.graph.form``) as YAML.

    >>> print(yaml_text({"pipeline": "p", "steps": {"line": {"template": "Hello, {name}!"}, "size": {"fn": "count"}}}))
    pipeline: p
    steps:
      line: {template: "Hello, {name}!"}
      size: {fn: count}
    <BLANKLINE>
    """
    lines = [f"{_key(key)}: {_flow(value)}" for key, value in form.items() if key != "steps"]
    steps: Mapping[str, Mapping[str, Any]] = form["steps"]
    width = max((len(_key(name)) for name in steps if len(_key(name)) <= MAX_ALIGNED), default=0)
    lines.append("steps:")
    for name, options in steps.items():
        line = f"  {_key(name)}:{' ' * max(1, width - len(_key(name)) + 1)}{_flow(options)}"
        if len(line) <= MAX_COLUMNS and not any(_has_lines(value) for value in options.values()):
            lines.append(line)
        else:
            lines.append(f"  {_key(name)}:")
            lines += [f"    {_key(option)}: {_block(value, 6)}" for option, value in options.items()]
    return "\n".join(lines) + "\n"


def _block(value: Any, indent: int) -> str:
    if not _has_lines(value):
        return _flow(value)
    head, body = ("|", value[:-1]) if value.endswith("\n") else ("|-", value)
    return "\n".join([head, *(" " * indent + line if line else "" for line in body.split("\n"))])


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
