from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage.cli import app, exit_code
from sage.runtime.runs import list_runs
from sage.settings import Settings

FRANCE = "What is the capital of France?"
AFRICA = "Which river is the longest of Africa?"


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """A folder with two short texts."""
    (tmp_path / "france.md").write_text("# France\n\nParis is the capital of France.\n", encoding="utf-8")
    africa = f"The Nile is the longest river of Africa.\n\nKept in {tmp_path.name}.\n"  # an index of its own
    (tmp_path / "africa.txt").write_text(africa, encoding="utf-8")
    return str(tmp_path)


def demo(*args: str) -> int:
    return exit_code(lambda: app(args=["demo", *args], prog_name="sage"))


def asked(capfd: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """What ``sage demo --json`` says."""
    assert demo(*args, "--json") == 0
    said: dict[str, Any] = json.loads(capfd.readouterr().out)
    return said


@pytest.mark.slow
@pytest.mark.models
def test_questions_are_answered_from_texts(capfd: pytest.CaptureFixture[str], texts: str) -> None:
    said = asked(capfd, "--corpus", texts, "--ask", FRANCE, "--ask", AFRICA)
    assert said["jobs"] == {"done": 2, "failed": 0, "rejected": 0, "cancelled": 0}
    assert ["Paris" in said["records"][0]["answer"], "Nile" in said["records"][1]["answer"]] == [True, True]
    assert [record["question"] for record in said["records"]] == [FRANCE, AFRICA]


@pytest.mark.slow
@pytest.mark.models
def test_the_json_has_passages_with_scores_and_the_time_of_each_step(
    capfd: pytest.CaptureFixture[str], texts: str
) -> None:
    said = asked(capfd, "--corpus", texts, "--ask", FRANCE)
    assert set(said) == {"run_id", "jobs", "records", "metrics"}
    (record,) = said["records"]
    assert set(record) == {"question", "answer", "passages", "step_ms"}
    assert record["passages"][0]["id"].startswith("france.md")
    assert set(record["passages"][0]) == {"id", "score"}
    assert list(record["step_ms"]) == ["vector", "passages", "prompt", "answer"]
    assert all(ms >= 0 for ms in record["step_ms"].values())


@pytest.mark.slow
@pytest.mark.models
def test_a_demo_is_a_run_like_any_other(capfd: pytest.CaptureFixture[str], texts: str) -> None:
    said = asked(capfd, "--corpus", texts, "--ask", FRANCE)
    assert said["run_id"] in [stored.manifest.run_id for stored in list_runs(Settings.load())]
    assert said["metrics"]["jobs"]["done"] == 1


@pytest.mark.slow
@pytest.mark.models
def test_the_index_is_built_once(capfd: pytest.CaptureFixture[str], texts: str) -> None:
    assert demo("--corpus", texts, "--ask", FRANCE) == 0
    assert "embedding corpus" in capfd.readouterr().err
    assert demo("--corpus", texts, "--ask", AFRICA) == 0
    again = capfd.readouterr()
    assert "embedding" not in again.err
    assert "The Nile" in again.out


@pytest.mark.slow
@pytest.mark.models
def test_a_damaged_index_is_built_again(capfd: pytest.CaptureFixture[str], texts: str) -> None:
    assert demo("--corpus", texts, "--ask", FRANCE) == 0
    for folder in (Settings.load().cache_dir / "indexes").glob("corpus-*"):
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    capfd.readouterr()
    assert demo("--corpus", texts, "--ask", FRANCE) == 0
    again = capfd.readouterr()
    assert "building it again" in again.err
    assert "Paris" in again.out


@pytest.mark.slow
@pytest.mark.models
def test_interrupted_it_keeps_what_is_answered(texts: str) -> None:
    many = [part for number in range(200) for part in ("--ask", f"{number}: {FRANCE}")]
    main = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sage.cli; sage.cli.main()"
    command = [sys.executable, "-c", main, "demo", "--corpus", texts, *many]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("2/200"):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted: 1 done, 1 cancelled" in errors


def test_texts_want_a_question(capfd: pytest.CaptureFixture[str], texts: str) -> None:
    assert demo("--corpus", texts) == 2
    assert capfd.readouterr().err == "error: --corpus needs a question; say it with --ask\n"


@pytest.mark.parametrize("said", ["llm", "llm=", "cpu=llama:x"])
def test_an_engine_is_said_by_pool_and_address(capfd: pytest.CaptureFixture[str], said: str) -> None:
    assert demo("--engine", said) == 2
    assert f"--engine {said!r}: expected llm=ADDRESS or embedder=ADDRESS" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.models
def test_an_engine_that_cannot_be_reached_ends_with_3(capfd: pytest.CaptureFixture[str], texts: str) -> None:
    nobody = "llm=openai:http://127.0.0.1:9/v1?model=m"
    assert demo("--corpus", texts, "--ask", FRANCE, "--engine", nobody) == 3
    assert "does not answer" in capfd.readouterr().err
