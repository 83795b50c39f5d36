"""``sage index``, as typed."""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sage.cli import output
from sage.cli.index import _parse_where, app
from sage.engines.base import ENGINES, Address, EmbedReply, EmbedRequest, EngineInfo, Usage
from sage.errors import InputError, SageError
from sage.settings import Settings


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_json(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


@asynccontextmanager
async def open_letters(address: Address, settings: Settings) -> AsyncIterator[SimpleNamespace]:
    """An embedder whose vectors depend on the text's letters only."""

    async def embed(request: EmbedRequest) -> EmbedReply:
        await asyncio.sleep(0)
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(8) for text in request.texts]
        return EmbedReply(np.array(rows, dtype=np.float32), Usage())

    info = EngineInfo(
        address=f"letters:{address.target}",
        model="letters",
        can=frozenset({"embed"}),
        limit=1,
        fingerprint=f"letters-{address.target}",
    )
    yield SimpleNamespace(info=info, embed=embed)


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("letter_engine")
    vars(module)["open_letters"] = open_letters
    monkeypatch.setitem(sys.modules, "letter_engine", module)
    monkeypatch.setitem(ENGINES._members, "letters", ("letter_engine", "open_letters"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "guide.md").write_text("# Guide\n\n## Cats\n\nCats purr.\n\n## Dogs\n\nDogs bark.\n")
    (folder / "rows.jsonl").write_text('{"text": "Hens cluck.", "id": "hen", "legs": 2}\n')
    (folder / "photo.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def index(corpus: Path, tmp_path: Path) -> Path:
    out = tmp_path / "docs.index"
    assert run("build", corpus, "--out", out, "--embedder", "letters:one").exit_code == 0
    return out


def test_build_says_what_it_made(corpus: Path, tmp_path: Path) -> None:
    result = run("build", corpus, "--out", tmp_path / "i", "--no-vectors")
    assert "3 passages from 2 files, 1 of other kinds left out" in result.stdout
    assert "searched by words only" in result.stdout


def test_build_prints_one_json_object(corpus: Path, tmp_path: Path) -> None:
    result = run("build", corpus, "--out", tmp_path / "i", "--embedder", "letters:one", "--json")
    said = json.loads(result.stdout)
    assert (said["passages"], said["files"], said["files_skipped"]) == (3, 2, 1)
    assert (said["dimension"], said["embedder"], said["fingerprint"]) == (8, "letters:one", "letters-one")
    assert result.stderr == ""


def test_a_long_build_shows_progress_on_stderr(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "QUIET_S", 0.0)
    monkeypatch.setattr(output, "LINE_EVERY_S", 0.0)
    result = run("build", corpus, "--out", tmp_path / "i", "--embedder", "letters:one", "--json")
    assert json.loads(result.stdout)["passages"] == 3
    assert result.stderr.startswith("3 of 3 passages embedded")


@pytest.mark.parametrize("mode", ["text", "hybrid", "vector"])
def test_search_finds_by_every_mode(index: Path, mode: str) -> None:
    query = "Guide > Dogs\nDogs bark."
    said = run_json("search", index, query, "--mode", mode, "--k", "2")
    assert (said["query"], said["mode"]) == (query, mode)
    assert said["passages"][0].keys() == {"id", "text", "title", "score", "meta"}
    assert said["passages"][0]["id"] == "guide.md#2"


def test_search_uses_all_that_the_index_has(index: Path, corpus: Path, tmp_path: Path) -> None:
    assert run_json("search", index, "dogs")["mode"] == "hybrid"
    run("build", corpus, "--out", tmp_path / "words", "--no-vectors")
    assert run_json("search", tmp_path / "words", "dogs")["mode"] == "text"


def test_search_shows_passages_to_people(index: Path) -> None:
    result = run("search", index, "dogs", "--mode", "text")
    assert result.stdout.startswith("[1] ")
    assert "guide.md#2  Guide > Dogs\n    Dogs bark." in result.stdout
    assert run("search", index, "zebra", "--mode", "text").stdout == "nothing found\n"


def test_search_filters(index: Path) -> None:
    for where, expected in (("legs=2", ["hen"]), ("legs>=3", [])):
        said = run_json("search", index, "hens cluck", "--where", where)
        assert [passage["id"] for passage in said["passages"]] == expected


def test_info_describes_the_index(index: Path) -> None:
    said = run_json("info", index)
    assert (said["passages"], said["embedder"], said["metadata"]) == (3, "letters:one", ["legs"])
    assert "vectors of 8 numbers by letters:one" in run("info", index).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "none", "x"), "there is no such folder"),
        (("info", "none"), "there is no such folder"),
        (("build", "none", "--out", "i"), "no such file or folder"),
        (("search", "INDEX", "x", "--embedder", "letters:two"), "with another one"),
        (("search", "INDEX", "x", "--where", "leg=2"), "did you mean 'legs'"),
        (("search", "INDEX", "x", "--where", "legs"), "expected key=value"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(index: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run(*(str(index) if part == "INDEX" else part for part in arguments))
    assert isinstance(result.exception, SageError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("said", "conditions"),
    [
        (["lang=en"], {"lang": {"in": ["en"]}}),
        (["lang=en", "lang=de"], {"lang": {"in": ["en", "de"]}}),
        (["year=2001"], {"year": {"in": [2001, "2001"]}}),
        (["year>=2000", "year<2010"], {"year": {"gte": 2000, "lt": 2010}}),
        (["a!=b=c"], {"a": {"ne": "b=c"}}),
        (["draft=true"], {"draft": {"in": [True, "true"]}}),
        (["x<=y"], {"x": {"lte": "y"}}),
    ],
)
def test_conditions_are_read(said: list[str], conditions: dict[str, Any]) -> None:
    assert _parse_where(said) == conditions


@pytest.mark.parametrize("bad", [["=a"], ["lang"], ["a>1", "a>2"]])
def test_bad_conditions_are_refused(bad: list[str]) -> None:
    with pytest.raises(InputError, match="--where"):
        _parse_where(bad)
