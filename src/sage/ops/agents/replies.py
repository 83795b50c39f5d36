"""Reading what a model wrote: JSON where there is some, and a clear "unparsable" where there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from sage.engines.base import Reply
from sage.ops.agents.calling import as_call
from sage.ops.agents.tools import Call
from sage.ops.partial_json import completed

__all__ = ["Decision", "read_decision", "read_json"]

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:\w+)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_MOST_CALLS = 64  # of one reply


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn of a model comes to: calls, an answer, or neither, which is its fault."""

    calls: tuple[Call, ...] = ()
    answer: str | None = None
    fault: str | None = None  # why nothing could be read from it


def read_json(text: str) -> Any:
    r"""The first JSON object or array in a text, whatever stands around it, closed if it is cut; None if none is.

    >>> read_json('Sure! ```json\n{"tool": "add"}\n``` as you asked')
    {'tool': 'add'}
    >>> read_json("no idea") is None
    True
    """
    bare = _THOUGHT.sub("", text).strip()
    fenced = [match[1] for match in _FENCED.finditer(bare)]
    for candidate in (bare, *fenced, bare):
        try:
            value = msgspec.json.decode(candidate)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value
    for candidate in (*fenced, *_openings(bare)):
        try:
            closed = completed(candidate)
            value = msgspec.json.decode(closed) if closed else None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value or None  # it is cut before anything is whole; brackets further on are inside of it
    return None


def _openings(text: str, most: int = 8) -> list[str]:
    """The text from each of its first opening brackets on."""
    places = [place for place, letter in enumerate(text) if letter in "{["][:most]
    return [text[place:] for place in places]


def read_decision(reply: Reply) -> Decision:
    """The calls that a model asks for, natively or as JSON in its text, or its answer.

    >>> from sage.engines.base import Usage
    >>> read_decision(Reply('{"calls": [], "answer": "42"}', Usage())).answer
    '42'
    """
    if reply.tool_calls:
        return Decision(calls=tuple(map(as_call, reply.tool_calls[:_MOST_CALLS])), answer=reply.text or None)
    tagged = [read_json(match[1]) for match in _TAGGED.finditer(reply.text)]
    found = [call for said in tagged for call in _calls(said)]
    if found:
        return Decision(calls=tuple(found[:_MOST_CALLS]))
    said = read_json(reply.text)
    if said is None:
        return Decision(fault="it holds no JSON")
    calls = _calls(said)
    answer = said.get("answer") if isinstance(said, Mapping) else None
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    answer = answer.strip() if isinstance(answer, str) and answer.strip() else None
    if not calls and answer is None:
        return Decision(fault="it holds neither a call nor an answer")
    return Decision(calls=tuple(calls[:_MOST_CALLS]), answer=answer)


def _calls(said: Any) -> list[Call]:
    if isinstance(said, list):
        return [call for call in map(as_call, said) if call.tool]
    if not isinstance(said, Mapping):
        return []
    for key in ("calls", "tool_calls"):
        if isinstance(said.get(key), list):
            return _calls(said[key])
    call = as_call(said)
    return [call] if call.tool and "answer" not in said else []
