from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage import Pipeline
from sage.cli import app, exit_code
from sage.ops import template
from sage.runtime.manifest import read_manifest
from sage.runtime.runs import list_runs, write_private
from sage.settings import Settings

PIPELINE = Pipeline("hello", line=template("Hello, {name}!"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))


def runs(*args: str) -> int:
    return exit_code(lambda: app(args=["runs", *args], prog_name="sage"))


def recorded(count: int, **changes: Any) -> list[str]:
    """Record runs of two records each; their ids, the latest first."""
    for _ in range(count):
        PIPELINE.run([{"name": "Ada"}, {"name": "Bo"}], policy="fifo")
    stored = list_runs(Settings.load())
    for run in reversed(stored if changes else []):
        path = run.path / "run.json"
        write_private(path, msgspec.json.encode(msgspec.structs.replace(read_manifest(path), **changes)))
    return [run.manifest.run_id for run in stored]


def test_no_runs_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert runs("list") == 0
    assert capsys.readouterr().out.startswith("no runs are recorded in ")


def test_runs_are_listed_with_their_size(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = recorded(2)
    assert runs("list") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["run", "status", "pipelines", "jobs", "size"]
    assert [line.split()[0] for line in shown[1:3]] == [first, second]
    assert "complete  hello      2 done" in shown[1]
    assert shown[-1].startswith("2 in ")


def test_runs_are_listed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = recorded(1)
    assert runs("list", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["runs"][0]["run_id"] == run
    assert shown["runs"][0]["jobs"]["done"] == 2
    assert shown["size_bytes"] == shown["runs"][0]["size_bytes"] > 0


def test_a_run_that_cannot_be_read_is_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    recorded(1)
    damaged = Settings.load().runs_dir / "20260101-0000-abcd"
    damaged.mkdir()
    (damaged / "run.json").write_text("{", encoding="utf-8")
    assert runs("list") == 0
    shown = capsys.readouterr()
    assert "1 in " in shown.out
    assert "left out: " in shown.err


def test_the_latest_run_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = recorded(1)
    assert runs("show") == 0
    shown = capsys.readouterr().out
    assert f"run        {run} (measured, complete)" in shown
    assert "jobs       2 done" in shown
    assert "hello     line  template  2" in shown


def test_a_run_is_shown_as_json_by_how_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = recorded(1)
    assert runs("show", run[:-2], "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run_id"] == shown["manifest"]["run_id"] == run
    assert shown["metrics"]["jobs"]["done"] == 2


def test_an_unknown_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert runs("show", "nope") == 2
    assert capsys.readouterr().err.startswith("error: no run 'nope'")


def test_all_but_the_latest_runs_are_removed(capsys: pytest.CaptureFixture[str]) -> None:
    latest = recorded(3)[0]
    assert runs("prune", "--keep", "1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["removed"], shown["left"]) == (2, 1)
    assert shown["freed_bytes"] > 0
    assert [run.manifest.run_id for run in list_runs(Settings.load())] == [latest]


def test_old_runs_are_removed(capsys: pytest.CaptureFixture[str]) -> None:
    recorded(2, started="2026-01-01T00:00:00+00:00")
    PIPELINE.run([{"name": "Ada"}], policy="fifo")
    assert runs("prune", "--older-than", "7d") == 0
    assert capsys.readouterr().out.startswith("removed 2 of 3 runs")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "say what may go: --keep N"),
        (["--older-than", "7 days"], "--older-than '7 days': expected a number with a unit"),
        (["--keep", "-1"], "keep=-1"),
    ],
)
def test_what_may_go_has_to_be_said_well(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs("prune", *args) == 2
    assert says in capsys.readouterr().err
