"""Every file in examples/ is run, with answers of a few tokens where real models answer."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sage.testing  # noqa: F401 - adds the engine fake:
from sage import Pipeline

EXAMPLES = Path(__file__).parents[1] / "examples"
FAKE = ("--engine", "fake:memory")

Run = Callable[..., tuple[Any, str]]


def example(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example with arguments; what it returned and what it printed."""

    def run_example(name: str, *arguments: str) -> tuple[Any, str]:
        returned = example(name).main(list(arguments))
        return returned, capsys.readouterr().out

    return run_example


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "retry.md").write_text("# Retry\n\nWrite retry(3) for three attempts.\n", encoding="utf-8")
    (folder / "heap.txt").write_text("The smallest item of a heap is its first.\n", encoding="utf-8")
    return folder


def test_functions_reports_on_every_file(run: Run, notes: Path) -> None:
    returned, printed = run("functions", str(notes / "retry.md"), str(notes / "heap.txt"))
    assert returned == 0
    assert "retry.md: 7 words" in printed
    assert "heap.txt: 9 words, 9.0 a sentence, often smallest" in printed
    assert "pipeline 'wrong' has 3 faults" in printed


def test_functions_fails_only_where_a_file_is_missing(run: Run, notes: Path) -> None:
    returned, printed = run("functions", str(notes / "none.md"), str(notes / "heap.txt"))
    assert returned == 1
    assert "heap.txt: 9 words" in printed


def test_the_file_says_the_same_pipeline_as_the_code() -> None:
    assert Pipeline.from_yaml(EXAMPLES / "rag.yaml") == example("rag").rag


def test_streaming_shows_the_tokens_of_both_steps(run: Run) -> None:
    _, printed = run("streaming", "heap", *FAKE)
    assert "what: 'heap? '" in printed
    assert "use: 'heap? '" in printed
    assert printed.endswith("You said: When does one use a heap? Answer in one sentence.\n")


def test_the_service_answers_every_tenant_and_refuses_a_wrong_record(run: Run) -> None:
    _, printed = run("service", "--requests", "9", *FAKE)
    lines = [line.split() for line in printed.splitlines()]
    assert lines == [
        ["acme", "bad", "request", "1"],
        ["acme", "ok", "3"],
        ["globex", "ok", "3"],
        ["initech", "ok", "3"],
    ]


def test_the_service_stops_what_is_late(run: Run) -> None:
    _, printed = run("service", "--requests", "3", "--within-s", "0.000001", *FAKE)
    assert printed.count("too late") == 3


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("rag", ("How do I retry?",), "retry.md"),
        ("streaming", ("heap", "--max-tokens", "3"), "both: done"),
        ("service", ("--requests", "4", "--max-tokens", "3"), "globex   ok           1"),
    ],
)
def test_an_example_runs_on_the_embedded_models(
    run: Run, notes: Path, name: str, arguments: tuple[str, ...], expected: str
) -> None:
    folder = ("--folder", str(notes)) if name == "rag" else ()
    _, printed = run(name, *arguments, *folder)
    assert expected in printed


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".yaml"}]
    assert [name for name in files if f"[{name}]({name})" not in listed] == []


def test_the_rag_file_asks_for_a_question_and_nothing_else() -> None:
    assert Pipeline.from_yaml(EXAMPLES / "rag.yaml").inputs == {"question"}
