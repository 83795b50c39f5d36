"""``sage bench agent`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sage.testing  # noqa: F401 - registers the fake engine's addresses
from sage.bench.suites.agent import STRATEGIES
from sage.cli.bench import app
from sage.errors import InputError

RUNNER = CliRunner()
ENGINES = ["--engine", "embedder=fake:words?dimension=128", "--engine", "llm=fake:echo"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tools, and tasks about them."""
    files: dict[str, list[dict[str, Any]]] = {
        "tools": [{"name": "add", "description": "a sum"}, {"name": "say", "description": "some words"}],
        "selection": [{"id": f"s{n}", "query": f"a sum of {n}", "gold": ["add"]} for n in range(4)],
        "timing": [
            {
                "id": f"t{n}",
                "query": f"a sum of {n}" if n % 2 else f"hello {n}",
                "label": "call" if n % 2 else "answer",
            }
            for n in range(12)
        ],
        "planning": [{"id": "p", "query": "a sum", "gold": ["add"]}],
    }
    target = tmp_path / "tasks"
    target.mkdir()
    for name, rows in files.items():
        (target / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target


def agent(*words: str) -> Any:
    done = RUNNER.invoke(app, ["agent", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.parametrize("kind", STRATEGIES)
def test_it_prints_one_json_object_and_keeps_its_results(kind: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = agent(kind, "--data", str(folder), "--json", "--out", str(out), *ENGINES)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["kind"], report["data"]) == (kind, "tasks")
    assert json.loads(agent("show", str(out), "--json").stdout) == report
    assert (out / "experiment.json").exists()


def test_without_strategies_it_takes_those_that_need_no_model(folder: Path) -> None:
    report = json.loads(agent("selection", "--data", str(folder), "--json", *ENGINES).stdout)
    assert [cell["strategy"] for cell in report["cells"]] == ["bm25", "embedding", "hybrid", "examples"]
    assert report["cells"][0]["shares"]["hit@1"]["n"] == 4


def test_it_shows_a_table_for_people(folder: Path) -> None:
    done = agent("timing", "--data", str(folder), "--strategy", "rule", "--limit", "10", *ENGINES)
    assert "tasks all: 10 tasks of timing" in done.stdout
    assert "majority" in done.stdout
    assert "rule, right -> said: answer -> answer" in done.stdout


def test_every_strategy_is_listed() -> None:
    listed = json.loads(agent("list", "--json").stdout)["strategies"]
    assert {(one["kind"], one["name"]) for one in listed} == {
        (kind, name) for kind, registry in STRATEGIES.items() for name in registry
    }
    assert "two_stage" in agent("list").stdout


def test_jobs_that_fail_show_in_the_exit_code(folder: Path) -> None:
    tiny = ["--engine", "embedder=fake:words", "--engine", "llm=fake:tiny?context_tokens=4"]
    done = agent("selection", "--data", str(folder), "--strategy", "llm", *tiny)
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["selection", "--data", "no/such/folder"], "is no folder"),
        (["selection", "--data", "{}", "--strategy", "hybrd"], "did you mean 'hybrid'"),
        (["timing", "--data", "{}", "--group", "x"], "no group 'x'"),
        (["show", "{}"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(folder: Path, words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        agent(*(word.replace("{}", str(folder)) for word in words))
