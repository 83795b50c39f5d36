"""``sage bench``: the list, and the retrieval suite from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sage.testing  # noqa: F401 - registers the fake engine's addresses
from sage.bench.suites import SUITES
from sage.cli.bench import app
from sage.errors import InputError

RUNNER = CliRunner()
ENGINES = ["--engine", "embedder=fake:words?dimension=256", "--engine", "llm=fake:echo?answer_tokens=4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two passages, two questions."""
    rows: dict[str, list[dict[str, Any]]] = {
        "passages": [{"pid": "p0", "text": "heaps are trees"}, {"pid": "p1", "text": "queues are lines"}],
        "questions": [
            {"qid": "q0", "question": "what are heaps", "gold_pids": ["p0"], "answers": ["trees"]},
            {"qid": "q1", "question": "what are queues", "gold_pids": ["p1"], "answers": ["lines"]},
        ],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


def test_every_suite_is_listed_and_is_a_command() -> None:
    listed = RUNNER.invoke(app, ["list"])
    assert listed.exit_code == 0
    assert json.loads(RUNNER.invoke(app, ["list", "--json"]).stdout)["suites"].keys() == SUITES.keys()
    for name in SUITES:
        assert name in listed.stdout
        assert RUNNER.invoke(app, [*name.split(), "--help"]).exit_code == 0


def test_retrieval_prints_one_json_object_and_keeps_its_results(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = RUNNER.invoke(
        app,
        ["retrieval", "--data", str(folder), "--json", "--limit-answers", "1", "--out", str(out), *ENGINES],
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == json.loads((out / "summary.json").read_text())
    assert report["questions"] == report["found"][0]["hit"]["1"]["n"] == 2
    assert report["answered"]["questions"] == 1


def test_retrieval_shows_a_table_for_people(folder: Path) -> None:
    done = RUNNER.invoke(app, ["retrieval", "--data", str(folder), *ENGINES])
    assert done.exit_code == 0, done.output
    for word in ("hybrid", "recall@5", "bm25", "F1", "fake:echo"):
        assert word in done.stdout


def test_failed_answers_are_counted_and_end_with_one(folder: Path) -> None:
    engines = [*ENGINES[:2], "--engine", "llm=fake:tiny?context_tokens=3"]
    done = RUNNER.invoke(app, ["retrieval", "--data", str(folder), *engines])
    assert done.exit_code == 1
    assert "answers to 2, 2 failed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "lm=fake:x"], "did you mean 'llm'"),
        (["--engine", "llm="], "expected POOL=ADDRESS"),
        (["--engine", "embedder=fake:a", "--engine", "embedder=fake:b"], "one embedder"),
    ],
)
def test_bad_engines_are_refused_before_anything_runs(folder: Path, arguments: list[str], said: str) -> None:
    done = RUNNER.invoke(app, ["retrieval", "--data", str(folder), *arguments])
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)


def test_results_are_never_written_over_others(folder: Path) -> None:
    done = RUNNER.invoke(app, ["retrieval", "--data", str(folder), "--out", str(folder), *ENGINES])
    assert isinstance(done.exception, InputError)
    assert "never overwritten" in str(done.exception)
