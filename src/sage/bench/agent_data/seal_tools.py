"""Seal-Tools (Wu et al., "Seal-Tools: Self-Instruct Tool Learning Dataset for Agent Tuning", NLPCC 2024; Apache-2.0).

Two forms: ``tool.jsonl`` with ``test_in_domain.jsonl`` as in the repository's ``Seal-Tools_Dataset``, whose tasks have
``calling``; and ``tools.jsonl`` with tasks that have ``gold_steps`` and ``gold_edges``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sage.bench.agent_data.sets import FORMATS, AgentSet, Format, SetMaker, Task, any_file, edges_of

__all__: list[str] = []

TASKS = "test_in_domain.jsonl"
TOOLS = ("tools.jsonl", "tool.jsonl")


def _read(folder: Path) -> AgentSet:
    maker = SetMaker("seal-tools", folder)
    for said in maker.lines(next(file for file in TOOLS if maker.has(file))):
        parameters = {"properties": said["parameters"], "required": said.get("required", [])}
        maker.add_tool(said["api_name"], said["api_description"], parameters)
    for said in maker.lines(TASKS):
        names, edges = _plan(said)
        common: dict[str, Any] = {"id": said["id"], "query": said["query"], "group": _group(said["id"])}
        maker.add("selection", Task(gold=tuple(dict.fromkeys(names)), **common))
        maker.add("planning", Task(gold=names, edges=edges, **common))
    return maker.made()


def _plan(said: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    if "gold_steps" in said:
        edges = tuple((int(before), int(after)) for before, after in said["gold_edges"])
        return tuple(step["tool"] for step in said["gold_steps"]), edges
    calls = list(_calls(said))
    labels = [f"API_call_{number}" for number in range(len(calls))]
    return tuple(call["api"] for call in calls), edges_of([call["parameters"] for call in calls], labels)


def _calls(said: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from said["calling"]


def _group(name: str) -> str:
    return "difficult" if "difficult" in name else "easy"


def _fits(folder: Path) -> bool:
    return any_file(*TOOLS)(folder) and (folder / TASKS).is_file()


FORMATS["seal-tools"] = Format("tool.jsonl or tools.jsonl, with test_in_domain.jsonl", _fits, _read)
