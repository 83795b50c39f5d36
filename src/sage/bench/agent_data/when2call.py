"""When2Call (Ross et al., "When2Call: When (not) to Call Tools", NAACL 2025; Apache-2.0): call, ask back, or decline.

Two forms: ``when2call_test_llm_judge.jsonl`` as in the repository (``uuid``, ``correct_answer``, tools as JSON text), and
``test_judge*.jsonl`` made from it (``id``, ``label``, tools as they are).
"""

from __future__ import annotations

from pathlib import Path

from sage.bench.agent_data.bfcl import tools_of
from sage.bench.agent_data.sets import FORMATS, AgentSet, Format, SetMaker, Task
from sage.errors import InputError, nearest

__all__: list[str] = []

LABELS = {
    "tool_call": "call",
    "request_for_info": "ask",
    "cannot_answer": "decline",
    "direct": "answer",
    "direct_answer": "answer",
}
FILES = ("when2call_test_llm_judge.jsonl", "test_judge*.jsonl")


def _files(folder: Path) -> list[Path]:
    return [file for pattern in FILES for file in sorted(folder.glob(pattern))]


def _read(folder: Path) -> AgentSet:
    maker = SetMaker("when2call", folder)
    for file in _files(folder):
        for said in maker.lines(file.name):
            name, label = said.get("id") or said["uuid"], said.get("label") or said["correct_answer"]
            if label not in LABELS:
                raise InputError(f"{file}: task {name!r} has label {label!r}: {nearest(label, LABELS)}")
            among = tuple(
                maker.add_tool(tool["name"], tool.get("description", ""), tool.get("parameters"))
                for tool in tools_of(said["tools"])
            )
            query = said["question"]
            task = Task(
                id=name, query=query, label=LABELS[label], among=tuple(dict.fromkeys(among)), group="judge"
            )
            maker.add("timing", task)
    return maker.made()


FORMATS["when2call"] = Format(
    "when2call_test_llm_judge.jsonl or test_judge*.jsonl", lambda folder: bool(_files(folder)), _read
)
