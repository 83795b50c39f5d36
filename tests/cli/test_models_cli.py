"""``sage models``, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage.cli.models import app
from sage.engines.models import MODELS
from sage.errors import InputError, SetupError

RUN = CliRunner()


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    return tmp_path


def test_list_names_the_built_in_models_and_what_is_missing(empty_home: Path) -> None:
    listed = json.loads(RUN.invoke(app, ["list", "--json"]).stdout)
    assert listed["folder"] == str(empty_home / "models")
    assert {model["name"]: model["state"] for model in listed["models"]} == dict.fromkeys(MODELS, "missing")
    assert "smollm2-135m-instruct  98.4 MB  missing" in RUN.invoke(app, ["list"]).stdout


def test_path_of_a_missing_model_says_what_to_type(empty_home: Path) -> None:
    result = RUN.invoke(app, ["path", "all-minilm-l6-v2"])
    assert isinstance(result.exception, SetupError)
    assert "type `sage models pull all-minilm-l6-v2`" in str(result.exception)


def test_pull_of_an_unknown_name_offers_the_nearest(empty_home: Path) -> None:
    result = RUN.invoke(app, ["pull", "all-minilm"])
    assert isinstance(result.exception, InputError)
    assert "did you mean 'all-minilm-l6-v2'" in str(result.exception)


def test_verify_finds_damage_and_says_what_to_type(empty_home: Path) -> None:
    folder = empty_home / "models" / "all-minilm-l6-v2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    result = RUN.invoke(app, ["verify"])
    assert result.exit_code == 2
    assert "config.json has 2 bytes, expected 612; type `sage models pull all-minilm-l6-v2`" in result.stdout
    assert not json.loads(RUN.invoke(app, ["verify", "--json"]).stdout)["ok"]


def test_nothing_to_verify_is_said(empty_home: Path) -> None:
    result = RUN.invoke(app, ["verify"])
    assert (result.exit_code, result.stdout) == (0, "no models here; type `sage models pull`\n")


@pytest.mark.models
@pytest.mark.slow
def test_models_that_are_here_are_not_downloaded_again() -> None:
    result = RUN.invoke(app, ["pull", "--json"])
    assert set(json.loads(result.stdout)["models"]) == set(MODELS)
    assert result.stderr == ""
    assert RUN.invoke(app, ["verify"]).exit_code == 0
