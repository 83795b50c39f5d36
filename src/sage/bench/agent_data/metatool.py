"""MetaTool (Huang et al., "MetaTool Benchmark for Large Language Models", ICLR 2024; MIT): 199 tools without parameters.

Two forms: the repository's ``dataset`` folder (``plugin_des.json``, ``data/all_clean_data.csv``,
``data/multi_tool_query_golden.json``), and files made from it that also hold the reliability tasks, from which the right
tool was removed, and the tasks of whether a tool is needed.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from sage.bench.agent_data.sets import FORMATS, AgentSet, Format, SetMaker, Task, any_file
from sage.errors import InputError

__all__: list[str] = []

#: Group -> the file that holds it, by how it begins.
CHOSEN = {"multi": "select_multi*.jsonl", "reliability": "select_reliability*.jsonl"}
AWARE = "timing_awareness*.jsonl"


def _read_made(folder: Path) -> AgentSet:
    maker = SetMaker("metatool", folder)
    for name, about in maker.whole("tools.json").items():
        maker.add_tool(name, about)
    if maker.has("single_tool_queries.jsonl"):
        _add_single(
            maker, ((said["query"], said["tool"]) for said in maker.lines("single_tool_queries.jsonl"))
        )
    for group, pattern in CHOSEN.items():
        for file in sorted(folder.glob(pattern)):
            for number, said in enumerate(maker.lines(file.name)):
                task = Task(
                    id=f"{group}-{number}",
                    query=said["query"],
                    gold=tuple(said["gold"]),
                    among=tuple(said["candidates"]),
                    group=group,
                )
                maker.add("selection", task)
    for file in sorted(folder.glob(AWARE)):
        for number, said in enumerate(maker.lines(file.name)):
            label = {"tool": "call", "no_tool": "answer"}.get(said["label"])
            if label is None:
                raise InputError(
                    f"{file}: task {number} has label {said['label']!r}, expected 'tool' or 'no_tool'"
                )
            maker.add(
                "timing", Task(id=f"awareness-{number}", query=said["query"], label=label, group="awareness")
            )
    return maker.made()


def _read_upstream(folder: Path) -> AgentSet:
    maker = SetMaker("metatool", folder)
    for name, about in maker.whole("plugin_des.json").items():
        maker.add_tool(name, about if isinstance(about, str) else " ".join(about))
    rows = csv.DictReader(io.StringIO(maker.text("data/all_clean_data.csv").decode("utf-8")))
    _add_single(maker, ((row["Query"], row["Tool"]) for row in rows))
    if maker.has("data/multi_tool_query_golden.json"):
        for number, said in enumerate(maker.whole("data/multi_tool_query_golden.json")):
            task = Task(id=f"multi-{number}", query=said["query"], gold=tuple(said["tool"]), group="multi")
            maker.add("selection", task)
    return maker.made()


def _add_single(maker: SetMaker, pairs: object) -> None:
    assert hasattr(pairs, "__iter__")
    for number, (query, tool) in enumerate(pairs):
        maker.add("selection", Task(id=f"single-{number}", query=query, gold=(tool,), group="single"))


FORMATS["metatool"] = Format(
    "tools.json with single_tool_queries.jsonl", any_file("single_tool_queries.jsonl"), _read_made
)
FORMATS["metatool-repository"] = Format(
    "plugin_des.json with data/all_clean_data.csv", any_file("plugin_des.json"), _read_upstream
)
