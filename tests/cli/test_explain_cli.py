"""``sage explain``, ``sage runs diff`` and ``sage runs export``, as typed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from sage import Pipeline
from sage.cli import app, exit_code
from sage.ops import generate, template
from sage.runtime.runs import list_runs
from sage.settings import Settings
from sage.testing import FakeEngine

PIPELINE = Pipeline("rag", prompt=template("say {q}"), answer=generate("{prompt}"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    return tmp_path


def sage(*args: str) -> int:
    return exit_code(lambda: app(args=list(args), prog_name="sage"))


def record(count: int = 4, **arguments: Any) -> str:
    """Record a run; its id."""
    engine = FakeEngine(name="fake:llm", limit=1, ttft_s=0.002)
    PIPELINE.run([{"q": str(n)} for n in range(count)], engines={"llm": engine}, **arguments)
    return list_runs(Settings.load())[0].manifest.run_id


def test_a_run_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    run = record()
    assert sage("explain") == 0
    shown = capsys.readouterr().out
    for said in (
        run,
        "What to change first",
        "answer",
        "fake:llm",
        "critical path",
        "Slowest jobs",
        "4 done",
    ):
        assert said in shown


def test_an_explanation_as_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    run = record()
    assert sage("explain", run, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run_id"] == run
    assert [step["step"] for step in shown["explanation"]["steps"]] == ["prompt", "answer"]
    assert shown["explanation"]["endpoints"][0]["limit"] == 1


def test_a_chart_is_drawn_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    record()
    assert sage("explain", "last", "--gantt", "--jobs", "2") == 0
    shown = capsys.readouterr().out
    assert shown.count("of rag, done") == 2
    assert "█" in shown


def test_a_chart_is_written_as_svg(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record()
    assert sage("explain", "--gantt", "--svg", "chart.svg") == 0
    assert capsys.readouterr().out == "chart.svg\n"
    ET.fromstring((home / "chart.svg").read_text())


def test_a_chart_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    record()
    assert sage("explain", "--gantt", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["gantt"]["jobs"]) == 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("explain", "2019"), "no run '2019'"),
        (("explain", "--svg", "x.svg"), "say --gantt too"),
        (("explain", "--gantt", "--svg", "no/such/x.svg"), "no such folder"),
        (("runs", "export", "--out", "no/such/x.json"), "no such folder"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    assert sage(*args) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_two_runs_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = record(25, policy="fifo"), record(25, max_inflight=2, policy="load_aware")
    assert sage("runs", "diff", first, second) == 0
    shown = capsys.readouterr().out
    for said in (
        first,
        second,
        "a job, arrival to end",
        "answer: queue",
        "arguments.max_inflight",
        "load_aware",
    ):
        assert said in shown


def test_too_few_jobs_are_said_to_be_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = record(), record()
    assert sage("runs", "diff", first, second) == 0
    assert "n too small: 4 of 20" in capsys.readouterr().out


def test_a_comparison_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = record(), record()
    assert sage("runs", "diff", first, second, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["a"], shown["b"], shown["jobs"]["done"]) == (first, second, [4, 4])


@pytest.mark.parametrize(("form", "key"), [("perfetto", "traceEvents"), ("otel", "resourceSpans")])
def test_a_run_is_exported(form: str, key: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record()
    assert sage("runs", "export", run, "--format", form) == 0
    name = capsys.readouterr().out.strip()
    assert name == f"{run}.{form}.json"
    assert key in json.loads((home / name).read_text())


def test_why_tasks_waited_stands_in_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    run = record()
    assert sage("explain", run) == 0
    shown = capsys.readouterr().out
    assert "Why tasks waited" in shown
    assert "a place went to a task that came before it" in shown
    assert "its places were held by rag of tenant 'default' 100 %" in shown
    assert sage("explain", run, "--json") == 0
    waits = json.loads(capsys.readouterr().out)["waits"]
    assert waits["pools"][0]["waited"] == 3


def test_one_tasks_story_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    record()
    assert sage("explain", "last", "--job", "3", "--task", "answer") == 0
    shown = capsys.readouterr().out
    for said in ("job 3 of rag: done", "2 places", "which came before it", "call 1 of 1"):
        assert said in shown
    assert sage("explain", "last", "--job", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["story"]["tasks"][0]["step"] == "answer"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "answer"], "--task answer is of which job? say --job N too"),
        (["--job", "1", "--gantt"], "say one of them"),
        (["--job", "77"], "no job 77 that ended"),
        (["--job", "1", "--task", "anser"], "did you mean 'answer'?"),
    ],
)
def test_a_story_that_cannot_be_told(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    assert sage("explain", "last", *options) == 2
    assert said in capsys.readouterr().err
