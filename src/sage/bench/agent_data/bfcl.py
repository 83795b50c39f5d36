"""Berkeley Function Calling Leaderboard, version 4: which function, and whether to call one at all.

Two forms: the files ``BFCL_v4_*.json`` with ``possible_answer/`` as the package ``bfcl-eval`` holds them (Apache-2.0),
and ``tool_selection.jsonl`` and ``timing_call_or_not.jsonl`` made from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sage.bench.agent_data.sets import FORMATS, AgentSet, Format, SetMaker, Task, any_file
from sage.errors import InputError

__all__ = ["CHOOSING", "DECIDING", "UPSTREAM"]

UPSTREAM = "BFCL_v4_{}.json"
#: Categories in which there are several functions to choose from.
CHOOSING = ("multiple", "live_multiple", "parallel_multiple", "live_parallel_multiple")
#: Categories in which a call is right, or is not.
DECIDING = {
    "simple_python": "call",
    "live_simple": "call",
    "live_relevance": "call",
    "irrelevance": "answer",
    "live_irrelevance": "answer",
}


def _read_made(folder: Path) -> AgentSet:
    maker = SetMaker("bfcl", folder)
    if maker.has("tool_selection.jsonl"):
        for said in maker.lines("tool_selection.jsonl"):
            _selection(
                maker, said["id"], said["category"], said["messages"], said["tools"], said["gold_tools"]
            )
    if maker.has("timing_call_or_not.jsonl"):
        for said in maker.lines("timing_call_or_not.jsonl"):
            label = {"call": "call", "no_call": "answer"}.get(said["label"])
            if label is None:
                raise InputError(
                    f"{folder}: task {said['id']!r} has label {said['label']!r}, expected 'call' or 'no_call'"
                )
            _timing(maker, said["id"], said["category"], said["messages"], said["tools"], label)
    return maker.made()


def _read_upstream(folder: Path) -> AgentSet:
    maker = SetMaker("bfcl", folder)
    for category in CHOOSING:
        file = UPSTREAM.format(category)
        if not maker.has(file):
            continue
        right = {said["id"]: said["ground_truth"] for said in maker.lines(f"possible_answer/{file}")}
        for said in maker.lines(file):
            gold = [name for call in right[said["id"]] for name in call]
            _selection(maker, said["id"], category, said["question"][0], said["function"], gold)
    for category, label in DECIDING.items():
        file = UPSTREAM.format(category)
        if maker.has(file):
            for said in maker.lines(file):
                _timing(maker, said["id"], category, said["question"][0], said["function"], label)
    return maker.made()


def _selection(
    maker: SetMaker,
    name: str,
    category: str,
    messages: Iterable[Mapping[str, Any]],
    tools: Iterable[Mapping[str, Any]],
    gold: Iterable[str],
) -> None:
    keys = _keys(maker, tools)
    right = tuple(dict.fromkeys(keys[each] for each in gold if each in keys))
    if not right:
        raise InputError(f"{maker.root}: task {name!r} has no right tool among those offered")
    task = Task(id=name, query=_asked(messages), gold=right, among=tuple(keys.values()), group=category)
    maker.add("selection", task)


def _timing(
    maker: SetMaker,
    name: str,
    category: str,
    messages: Iterable[Mapping[str, Any]],
    tools: Iterable[Mapping[str, Any]],
    label: str,
) -> None:
    among = tuple(_keys(maker, tools).values())
    maker.add("timing", Task(id=name, query=_asked(messages), label=label, among=among, group=category))


def _keys(maker: SetMaker, tools: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Upstream's name -> the set's, of the tools that one task offers."""
    return {
        tool["name"]: maker.add_tool(tool["name"], tool.get("description", ""), tool.get("parameters"))
        for tool in tools
    }


def _asked(messages: Iterable[Mapping[str, Any]]) -> str:
    """What was said, without the system's part; several turns one below the other."""
    said = [message for message in messages if message.get("role") != "system"]
    return "\n".join(str(message.get("content", "")) for message in said or messages)


def tools_of(said: Any) -> list[Mapping[str, Any]]:
    """Tools that stand there as JSON text, or as they are."""
    return [msgspec.json.decode(one) if isinstance(one, str) else one for one in said]


FORMATS["bfcl"] = Format(
    "tool_selection.jsonl or timing_call_or_not.jsonl",
    any_file("tool_selection.jsonl", "timing_call_or_not.jsonl"),
    _read_made,
)
FORMATS["bfcl-eval"] = Format(
    "BFCL_v4_live_multiple.json and its like, with possible_answer/",
    any_file(*(UPSTREAM.format(category) for category in (*CHOOSING, *DECIDING))),
    _read_upstream,
)
