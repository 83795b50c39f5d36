from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sage.cli import app, exit_code
from sage.engines.models import MODELS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    return tmp_path


def doctor(*args: str) -> int:
    return exit_code(lambda: app(args=["doctor", *args], prog_name="sage"))


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Checks by name, from --json."""
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def models_are_cached(home: Path) -> None:
    """Files of the right size: all that is looked at."""
    for name, model in MODELS.items():
        for file in model.files:
            path = home / "home" / "models" / name / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                out.truncate(file.size_bytes)


@pytest.fixture
def server() -> Iterator[str]:
    """A server that lists one model, and nothing else."""

    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Models) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
        httpd.shutdown()
        thread.join()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_what_is_missing_comes_with_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor() == 2
    shown = capsys.readouterr().out
    assert (
        "Do this:\n  sage models pull smollm2-135m-instruct\n  sage models pull all-minilm-l6-v2\n" in shown
    )


def test_all_is_well_with_the_models_in_the_cache(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models_are_cached(home)
    assert doctor() == 0
    assert capsys.readouterr().out.endswith("Everything is here.\n")


def test_every_dependency_is_looked_at(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models_are_cached(home)
    assert doctor("--json") == 0
    found = checks(capsys)
    assert {"python", "sage-dataflow", "aiohttp", "msgspec", "numpy", "rich", "typer"} <= found.keys()
    assert {"xllamacpp", "tokenizers"} <= found.keys()
    assert "MB" in found["models folder"]["detail"]


def test_a_server_that_answers_is_told_with_its_model(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models_are_cached(home)
    monkeypatch.setenv("OPENAI_BASE_URL", server)
    assert doctor("--json") == 0
    assert checks(capsys)["pool llm"]["detail"].endswith("answers, model 'tiny'")


def test_a_server_that_does_not_answer_ends_with_3(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models_are_cached(home)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{closed_port()}/v1")
    assert doctor("--json") == 3
    assert checks(capsys)["pool llm"]["status"] == "unreachable"


def test_an_extra_is_missing_only_where_a_pool_needs_it(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models_are_cached(home)
    version = metadata.version

    def without_xllamacpp(name: str) -> str:
        if name == "xllamacpp":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_xllamacpp)
    assert doctor("--json") == 2
    found = checks(capsys)["xllamacpp"]
    assert (found["status"], found["fix"]) == ("missing", 'pip install "sage-dataflow[local]"')
    monkeypatch.setenv("OPENAI_BASE_URL", server)
    assert doctor("--json") == 0
    assert checks(capsys)["xllamacpp"]["status"] == "note"


def test_another_distribution_of_that_import_name_is_a_conflict(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models_are_cached(home)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"sage": ["sage-dataflow", "sagemath"]})
    assert doctor("--json") == 2
    assert "sagemath installs a package 'sage' too" in checks(capsys)["import name"]["detail"]


@pytest.mark.parametrize(
    ("toml", "name", "says"),
    [
        ("engines = 1", "sage.toml", "expected a table"),
        ('engines = {llm = "lama:x"}', "pool llm", "did you mean 'llama'?"),
        ('engines = {llm = "llama:nope.gguf"}', "pool llm", "nope.gguf"),
        ('indexes = {docs = "nope"}', "index docs", "nope: no such folder"),
    ],
)
def test_wrong_settings_are_named(
    toml: str, name: str, says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models_are_cached(home)
    (home / "sage.toml").write_text(toml, encoding="utf-8")
    assert doctor("--json") == 2
    check = checks(capsys)[name]
    assert check["status"] == "missing"
    assert says in check["detail"]
