"""The beginning of a JSON text, closed so that it can be read."""

from __future__ import annotations

import re

__all__ = ["completed"]

_LITERALS = ("true", "false", "null")
_CUT_ESCAPE = re.compile(
    r"(?<!\\)(?:\\\\)*((?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?|\\u[dD][89abAB][0-9a-fA-F]{2})$"
)
_NUMBER_END = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")


def completed(text: str) -> str | None:
    """The value that begins at the first ``{`` or ``[``, with everything open closed; None if none begins.

    A text that is cut in a key, behind a colon, or in a literal or number loses that unfinished item, so that
    what is read is never wrong, only early. A string that is cut keeps what is there.

    >>> completed('Sure: {"city": "Par')
    '{"city": "Par"}'
    >>> completed('{"a": [1, 2, tr')
    '{"a": [1, 2]}'
    >>> completed('{"a": 1, "b":')
    '{"a": 1}'
    """
    start = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=-1)
    if start < 0:
        return None
    stack: list[str] = []  # closing brackets of what is open
    safe = ""  # the longest prefix that closes well
    keeps = True  # whether a string being read is a value (and not a key)
    in_string = escaped = False
    expects_key = [False]
    place = start
    while place < len(text):
        char = text[place]
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
                if keeps:
                    safe = _closed(text[start : place + 1], stack)
        elif char == '"':
            in_string = True
            keeps = not expects_key[-1]
        elif char in "{[":
            stack.append("}" if char == "{" else "]")
            expects_key.append(char == "{")
            safe = _closed(text[start : place + 1], stack)
        elif char in "}]":
            if not stack or stack.pop() != char:
                return safe or None
            expects_key.pop()
            safe = _closed(text[start : place + 1], stack)
            if not stack:
                return safe
        elif char == ":":
            expects_key[-1] = False
        elif char == ",":
            expects_key[-1] = stack[-1] == "}"
        elif not char.isspace():
            end = _scalar_end(text, place)
            if end is None:
                return safe
            place = end
            safe = _closed(text[start:place], stack)
            continue
        place += 1
    if in_string and keeps:
        return _closed(_cut_escape(text[start:]) + '"', stack)
    return safe


def _closed(text: str, stack: list[str]) -> str:
    return text + "".join(reversed(stack))


def _scalar_end(text: str, place: int) -> int | None:
    """Where a number or literal ends; None if it may still go on, or is none."""
    for literal in _LITERALS:
        if text.startswith(literal, place):
            return place + len(literal)
    match = _NUMBER_END.match(text, place)
    if match is None or match.end() == len(text) or text[match.end()] not in " \t\r\n,]}":
        return None
    return match.end()


def _cut_escape(text: str) -> str:
    """Without an escape that is cut in the middle, nor the first half of a character that takes two."""
    match = _CUT_ESCAPE.search(text)
    return text if match is None else text[: match.start(1)]
