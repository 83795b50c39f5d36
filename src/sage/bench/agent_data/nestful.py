"""NESTFUL (Basu et al., "NESTFUL: A Benchmark for Evaluating LLMs on Nested Sequences of API Calls", 2024; Apache-2.0).

Two forms: the repository's ``data`` folder (``executable/executable-data.json`` beside its ``-spec.json``, and so on),
and ``tools.jsonl`` with ``planning_*.jsonl`` made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.bench.agent_data.sets import FORMATS, AgentSet, Format, SetMaker, Task, any_file, edges_of

__all__: list[str] = []

#: Group -> where its files are in the repository's data folder, without the end of their names.
PARTS = {
    "executable": "executable/executable",
    "glaive": "non-executable/non-executable-glaive",
    "sgd": "non-executable/non-executable-sgd",
}

RESULT = "var_result"  # the last entry of upstream's answers: what is shown, not a call


def _read_made(folder: Path) -> AgentSet:
    maker = SetMaker("nestful", folder)
    keys: dict[str, dict[str, str]] = {
        said["subset"]: _tools(maker, said["tools"]) for said in maker.lines("tools.jsonl")
    }
    for file in sorted(folder.glob("planning_*.jsonl")):
        tasks = list(maker.lines(file.name))
        for said in tasks:
            for step in said["gold_steps"]:
                _key(maker, keys[said["subset"]], step["tool"])
        for said in tasks:
            known = keys[said["subset"]]
            task = Task(
                id=said["id"],
                query=said["query"],
                gold=tuple(_key(maker, known, step["tool"]) for step in said["gold_steps"]),
                edges=tuple((int(before), int(after)) for before, after in said["gold_edges"]),
                among=tuple(known.values()),
                group=said["subset"],
            )
            maker.add("planning", task)
    return maker.made()


def _read_upstream(folder: Path) -> AgentSet:
    maker = SetMaker("nestful", folder)
    for group, start in PARTS.items():
        if not maker.has(f"{start}-data.json"):
            continue
        known = _tools(maker, maker.whole(f"{start}-spec.json"))
        tasks = maker.whole(f"{start}-data.json")
        for name in [call["name"] for said in tasks for call in said["output"] if call["name"] != RESULT]:
            _key(maker, known, name)
        for number, said in enumerate(tasks):
            calls = [call for call in said["output"] if call["name"] != RESULT]
            labels = [f"${call['label']}." if call.get("label") else "" for call in calls]
            task = Task(
                id=f"{group}-{number}",
                query=said["input"],
                gold=tuple(_key(maker, known, call["name"]) for call in calls),
                edges=edges_of([call["arguments"] for call in calls], labels),
                among=tuple(known.values()),
                group=group,
            )
            maker.add("planning", task)
    return maker.made()


def _key(maker: SetMaker, known: dict[str, str], name: str) -> str:
    """A tool's key. Some answers of upstream name a function that its specification lacks; it has a name only."""
    if name not in known:
        known[name] = maker.add_tool(name, "")
    return known[name]


def _tools(maker: SetMaker, tools: list[Mapping[str, Any]]) -> dict[str, str]:
    """Upstream's name -> the set's, of one part."""
    return {
        tool["name"]: maker.add_tool(
            tool["name"], tool.get("description", ""), tool.get("query_parameters") or tool.get("arguments")
        )
        for tool in tools
    }


def _fits_made(folder: Path) -> bool:
    return (folder / "tools.jsonl").is_file() and any(folder.glob("planning_*.jsonl"))


FORMATS["nestful"] = Format("tools.jsonl with planning_*.jsonl", _fits_made, _read_made)
FORMATS["nestful-repository"] = Format(
    "executable/executable-data.json beside executable/executable-spec.json",
    any_file(*(f"{start}-data.json" for start in PARTS.values())),
    _read_upstream,
)
