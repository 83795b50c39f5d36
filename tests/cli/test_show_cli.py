from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage import Pipeline
from sage.cli import app, exit_code
from sage.ops import template

PIPELINE = Pipeline("hello", line=template("Hello, {name}!"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hello.yaml").write_text(PIPELINE.to_yaml(), encoding="utf-8")


def show(*args: str) -> int:
    return exit_code(lambda: app(args=["show", "hello.yaml", *args], prog_name="sage"))


@pytest.mark.parametrize("form", ["text", "mermaid", "svg", "json"])
def test_a_pipeline_is_shown_in_every_form(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show("--form", form) == 0
    assert capsys.readouterr().out == PIPELINE.show(form)  # type: ignore[arg-type]  # one of the forms


def test_text_is_the_form_if_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert show() == 0
    assert capsys.readouterr().out == PIPELINE.show("text")


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["needs"] == ["name"]


def test_a_picture_goes_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("--form", "svg", "--out", "plan.svg") == 0
    assert Path("plan.svg").read_text(encoding="utf-8") == PIPELINE.show("svg")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--form", "svg", "--json"], "--json and --form svg exclude each other"),
        (["--out", "no/plan.svg"], "no/plan.svg: no such folder 'no'"),
        (["--form", "dot"], "dot"),
    ],
)
def test_a_mistake_ends_with_2(args: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(*args) == 2
    assert says in capsys.readouterr().err
