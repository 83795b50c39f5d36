"""Sets of tasks are read in every form they come in, and refused where they are broken."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.bench.agent_data.fetched import BFCL, fetched, unpack
from sage.bench.agent_data.sets import FORMATS, Task, picked, plain_schema, read_agent_set
from sage.errors import InputError, SetupError
from sage.graph.jsonschema import check_schema
from sage.settings import Settings


def write(folder: Path, **files: Any) -> Path:
    """Files of JSON lines, or of one JSON value where the name says so; ``__`` stands for a folder, ``_`` for a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path = path.with_name(path.name + (".jsonl" if isinstance(content, list) else ".json"))
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = content if isinstance(content, list) else [content]
        path.write_text("\n".join(json.dumps(line) for line in lines))
    return folder


TOOL = {
    "name": "add",
    "description": "a sum",
    "parameters": {"type": "dict", "properties": {"a": {"type": "float"}}},
}
OTHER = {"name": "add", "description": "adds a friend", "parameters": {}}
ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1 + 2"}]


def test_sages_own_form(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        tools=[{"name": "add", "description": "a sum"}],
        selection=[{"id": "1", "query": "1 + 2", "gold": ["add"]}, {"id": "2", "query": "hello", "gold": []}],
        timing=[{"id": "1", "query": "1 + 2", "label": "call"}],
        planning=[{"id": "1", "query": "twice", "gold": ["add", "add"], "edges": [[0, 1]]}],
    )
    data = read_agent_set(folder)
    assert (data.name, list(data.tools), sorted(data.tasks)) == (
        "mine",
        ["add"],
        ["planning", "selection", "timing"],
    )
    assert data.of("planning")[0].edges == ((0, 1),)
    assert set(data.sha256) == {"tools.jsonl", "selection.jsonl", "timing.jsonl", "planning.jsonl"}


def test_bfcl_as_made_and_as_packaged_say_the_same(tmp_path: Path) -> None:
    made = write(
        tmp_path / "made",
        tool_selection=[
            {
                "id": "m1",
                "category": "live_multiple",
                "messages": ASKED,
                "tools": [TOOL, {"name": "b"}],
                "gold_tools": ["add"],
            }
        ],
        timing_call_or_not=[
            {"id": "i1", "category": "irrelevance", "messages": ASKED, "tools": [OTHER], "label": "no_call"}
        ],
    )
    upstream = tmp_path / "upstream"
    (upstream / "possible_answer").mkdir(parents=True)
    lines = {
        "BFCL_v4_live_multiple.json": {"id": "m1", "question": [ASKED], "function": [TOOL, {"name": "b"}]},
        "possible_answer/BFCL_v4_live_multiple.json": {"id": "m1", "ground_truth": [{"add": {"a": [1]}}]},
        "BFCL_v4_irrelevance.json": {"id": "i1", "question": [ASKED], "function": [OTHER]},
    }
    for name, line in lines.items():
        (upstream / name).write_text(json.dumps(line) + "\n")
    one, two = read_agent_set(made), read_agent_set(upstream)
    assert one.tasks == two.tasks
    assert list(one.tools.values()) == list(two.tools.values())
    assert one.of("selection")[0] == Task(
        id="m1", query="1 + 2", gold=("add",), among=("add", "b"), group="live_multiple"
    )
    assert one.of("timing")[0].among == ("add~2",), "a tool of the same name that is described differently"


def test_metatool_in_both_forms(tmp_path: Path) -> None:
    made = write(
        tmp_path / "made",
        tools={"News": "what is new", "Maps": "where it is"},
        single_tool_queries=[{"query": "what is new", "tool": "News"}],
        select_multi_1=[{"query": "new places", "candidates": ["News", "Maps"], "gold": ["News", "Maps"]}],
        select_reliability_1=[
            {"query": "weather", "candidates": ["News"], "gold": [], "removed_tool": "Sky"}
        ],
        timing_awareness_1=[{"query": "why", "label": "no_tool", "tool": None}],
    )
    data = read_agent_set(made)
    assert {task.group for task in data.of("selection")} == {"single", "multi", "reliability"}
    assert data.of("timing")[0].label == "answer"
    upstream = write(tmp_path / "dataset", plugin_des={"News": "what is new"})
    (upstream / "data").mkdir()
    (upstream / "data" / "all_clean_data.csv").write_text('Query,Tool\n"what, is new",News\n')
    assert read_agent_set(upstream).of("selection", "single")[0].query == "what, is new"


def test_seal_tools_in_both_forms(tmp_path: Path) -> None:
    about = {
        "api_name": "find",
        "api_description": "finds",
        "parameters": {"x": {"type": "str"}},
        "required": ["x"],
    }
    say = {"api_name": "say", "api_description": "says", "parameters": {"y": {"type": "str"}}}
    query = {"id": "test-difficult-1", "query": "find and say"}
    made = write(
        tmp_path / "made",
        tools=[about, say],
        test_in_domain=[{**query, "gold_steps": [{"tool": "find"}, {"tool": "say"}], "gold_edges": [[0, 1]]}],
    )
    calls = [{"api": "find", "parameters": {"x": "1"}}, {"api": "say", "parameters": {"y": "API_call_0"}}]
    upstream = write(tmp_path / "upstream", tool=[about, say], test_in_domain=[{**query, "calling": calls}])
    assert read_agent_set(made).tasks == read_agent_set(upstream).tasks
    assert read_agent_set(made).of("planning")[0].edges == ((0, 1),)


def test_nestful_in_both_forms(tmp_path: Path) -> None:
    spec = [
        {
            "name": "find",
            "description": "finds",
            "query_parameters": {"x": {"type": "string", "required": True}},
        }
    ]
    steps = [{"tool": "find", "args": {}}, {"tool": "undescribed", "args": {}}]
    made = write(
        tmp_path / "made",
        tools=[{"subset": "sgd", "tools": spec}],
        planning_1=[
            {"id": "sgd-0", "subset": "sgd", "query": "go", "gold_steps": steps, "gold_edges": [[0, 1]]}
        ],
    )
    calls = [
        {"name": "find", "arguments": {}, "label": "var1"},
        {"name": "undescribed", "arguments": {"x": "$var1.id$"}, "label": "var2"},
        {"name": "var_result", "arguments": {"all": "$var2$"}},
    ]
    upstream = tmp_path / "data"
    write(
        upstream,
        **{"non-executable__non-executable-sgd-spec": {}, "non-executable__non-executable-sgd-data": {}},
    )
    (upstream / "non-executable" / "non-executable-sgd-spec.json").write_text(json.dumps(spec))
    (upstream / "non-executable" / "non-executable-sgd-data.json").write_text(
        json.dumps([{"input": "go", "output": calls}])
    )
    one, two = read_agent_set(made), read_agent_set(upstream)
    assert one.tasks == two.tasks
    assert list(one.tools) == ["find", "undescribed"]


def test_when2call_in_both_forms(tmp_path: Path) -> None:
    made = write(
        tmp_path / "made",
        test_judge_1=[{"id": "u", "question": "what?", "tools": [TOOL], "label": "request_for_info"}],
    )
    upstream = write(
        tmp_path / "upstream",
        when2call_test_llm_judge=[
            {
                "uuid": "u",
                "question": "what?",
                "tools": [json.dumps(TOOL)],
                "correct_answer": "request_for_info",
            }
        ],
    )
    assert read_agent_set(made).tasks == read_agent_set(upstream).tasks
    assert read_agent_set(made).of("timing")[0].label == "ask"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no tasks in a known form"),
        ({"tools": [], "selection": [{"id": "1"}]}, "task 1: Object missing required field `query`"),
        (
            {"tools": [], "selection": [{"id": "1", "query": "", "gold": ["x"]}]},
            "names tool 'x', which is not described",
        ),
        ({"tools": [], "timing": [{"id": "1", "query": ""}, {"id": "1", "query": ""}]}, "two tasks '1'"),
        (
            {"test_judge_1": [{"id": "u", "question": "", "tools": [], "label": "tool_cal"}]},
            "did you mean 'tool_call'",
        ),
        (
            {
                "tool_selection": [
                    {"id": "1", "category": "", "messages": [], "tools": [], "gold_tools": ["x"]}
                ]
            },
            "no right tool",
        ),
    ],
)
def test_what_is_broken_is_refused_with_the_place(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_agent_set(write(tmp_path, **files))


def test_a_line_that_is_no_json_is_named_by_its_number(tmp_path: Path) -> None:
    folder = write(tmp_path, tools=[])
    (folder / "selection.jsonl").write_text('\n{"id": 1')
    with pytest.raises(InputError, match=r"selection.jsonl:2: is no JSON"):
        read_agent_set(folder)


def test_unknown_kinds_and_groups_say_what_there_is(tmp_path: Path) -> None:
    data = read_agent_set(write(tmp_path, tools=[], timing=[{"id": "1", "query": "", "group": "g"}]))
    with pytest.raises(InputError, match="it has 'timing'"):
        data.of("selection")
    with pytest.raises(InputError, match="it has 'g'"):
        data.of("timing", "h")


@given(
    said=st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {}, optional={"type": st.text(max_size=5), "required": st.booleans(), "enum": st.integers()}
        ),
        max_size=4,
    )
)
def test_any_parameters_become_a_schema_that_can_be_checked(said: dict[str, Any]) -> None:
    check_schema(plain_schema(said))
    check_schema(plain_schema({"type": "dict", "properties": said, "required": list(said)}))


def test_the_same_tasks_are_picked_in_any_order() -> None:
    tasks = [Task(id=str(number), query="") for number in range(9)]
    assert picked(tasks, 4) == picked(tasks[::-1], 4)
    assert len(picked(tasks, None)) == 9


# ---- data inside a wheel


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"bfcl_eval/data/{name}", "{}")
    return path


def test_the_data_of_a_wheel_is_unpacked_if_it_is_the_one_we_know(tmp_path: Path) -> None:
    path = wheel(tmp_path / "x.whl", "a.json", "b/c.json")
    known = replace(BFCL, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), files=("a.json", "b/c.json"))
    unpack(path, known, tmp_path / "out")
    assert (tmp_path / "out" / "b" / "c.json").read_text() == "{}"


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path / "x.whl", "a.json")
    with pytest.raises(SetupError, match="is not the file we know"):
        unpack(path, BFCL, tmp_path / "out")
    lacking = replace(BFCL, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), files=("b.json",))
    with pytest.raises(SetupError, match="is not the package we know"):
        unpack(path, lacking, tmp_path / "out")


def test_data_that_is_there_is_not_fetched_again(tmp_home: Settings) -> None:
    folder = tmp_home.cache_dir / "agent-data" / f"{BFCL.wheel.package}-{BFCL.wheel.version}"
    folder.mkdir(parents=True)
    assert fetched(BFCL, tmp_home) == folder


# ---- the real sets


@pytest.mark.parametrize(
    ("name", "tools", "counts"),
    [
        ("bfcl-v4", 1808, {"selection": 755, "timing": 890}),
        ("metatool", 199, {"selection": 11_028, "timing": 518}),
        ("seal-tools", 4076, {"selection": 371, "planning": 371}),
        ("nestful", 139, {"planning": 155}),
        ("when2call", 359, {"timing": 150}),
    ],
)
def test_real_sets_are_read_whole(shared_data: Path, name: str, tools: int, counts: dict[str, int]) -> None:
    data = read_agent_set(shared_data / "agents" / name)
    assert len(data.tools) == tools
    assert {kind: len(tasks) for kind, tasks in data.tasks.items()} == counts


def test_every_format_says_what_it_is_known_by() -> None:
    from sage.bench.agent_data import bfcl, metatool, nestful, seal_tools, when2call  # noqa: F401 - they register

    assert len(FORMATS) == 9
    assert all(form.about for form in FORMATS.values())
