"""The numbered pipelines in examples/: the code and the file say the same, and both run on real models."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sage import EngineError, Pipeline
from sage.testing import FakeEngine

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("[0-9]*"))
ENGINE = "llama:smollm2-135m-instruct"


@pytest.fixture(scope="module")
def ten() -> Any:
    """examples/run_ten.py as a module."""
    spec = importlib.util.spec_from_file_location("example_run_ten", EXAMPLES / "run_ten.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_ten_and_each_is_listed(ten: Any) -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"[{name}]({name}/pipeline.py)" in listed] == ten.NAMES
    assert len(NAMES) == 10


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_the_same_as_the_code(ten: Any, name: str) -> None:
    assert Pipeline.from_yaml(ten.load(name).to_yaml()) == ten.load(name)
    assert Pipeline.from_yaml(EXAMPLES / name / "pipeline.yaml") == ten.load(name)


@pytest.mark.parametrize("name", NAMES)
def test_its_input_has_what_it_reads(ten: Any, name: str) -> None:
    lines = (EXAMPLES / name / "input.jsonl").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not ten.load(name).inputs <= json.loads(line).keys()] == []


#: What a finished record surely has, however weak the model is.
HOLDS: dict[str, Any] = {
    "01_multi_query_rag": lambda r: r["question"] == r["all_queries"][0] and len(r["passages"]) == 3,
    "02_chat": lambda r: r["next_history"][-1] == {"role": "assistant", "content": r["reply"]},
    "03_map_reduce": lambda r: len(r["notes"]) > 2 and all([*r["notes"], r["summary"]]),
    "04_agent": lambda r: r["stopped"] in {"answered", "max_steps", "unparsable"} and r["turns"],
    "05_router": lambda r: r["intent"] in {"billing", "shipping", "other"} and r["answer"],
    "06_race": lambda r: r["answer"],
    "07_judge": lambda r: r["verdict"]["score"] in range(1, 6) and 0 <= r["recall"] <= 1,
    "08_translation": lambda r: len(r["translated"]) == len(r["parts"]) > 0,
    "09_hybrid_search": lambda r: len(r["passages"]) == 2 and r["rewritten"],
    "10_classification": lambda r: r["id"] == 1 and r["ticket"]["topic"],
}


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_embedded_models(ten: Any, name: str) -> None:
    result = ten.run(name, ENGINE, 1)
    assert not result.failures
    assert HOLDS[name](result.records[0])


@pytest.mark.models
@pytest.mark.slow
def test_the_router_answers_when_its_first_engine_refuses(ten: Any) -> None:
    refusals = [EngineError("no such model", fault="refused")] * 4
    pools = {"llm": FakeEngine(faults=refusals), "backup": ENGINE}
    result = ten.load("05_router").run([{"text": "Where is my parcel?"}], engines=pools)
    assert result.records[0]["answer"]
    assert result.metrics.notices["fallback"] >= 1
