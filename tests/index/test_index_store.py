"""Indexes on disk: written whole, refused when they are not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sage.errors import InputError, SageError, SetupError
from sage.graph.values import Passage
from sage.index import Index
from sage.index import store as store_module

VECTORS = np.eye(3, dtype=np.float32)
PASSAGES = [
    Passage("a", "Locate the place.", title="bisect", meta={"lang": "en"}),
    Passage("b", "Zähle die Wörter.", meta={"lang": "de"}),
    Passage("c", "Count the words."),
]
FILES = ["counts.npy", "lengths.npy", "passages.jsonl", "passages.npy", "rows.npy", "starts.npy", "terms.npy",
         "terms.txt", "vectors.npy"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Index.build(PASSAGES, path=tmp_path / "docs.index", vectors=VECTORS, fingerprint="f")
    return tmp_path / "docs.index"


def data(folder: Path) -> Path:
    (found,) = folder.glob("data-*")
    return found


def refusal(folder: Path, kind: type[SageError]) -> str:
    with pytest.raises(kind) as caught:
        Index.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    index = Index.open(folder, verify=True)
    assert list(index) == PASSAGES
    assert (len(index), index.dimension, index.embedder_fingerprint) == (3, 3, "f")
    assert [found.id for found in index.search(vector=VECTORS[1], k=1)] == ["b"]
    assert [found.id for found in index.search(text="wörter", k=1)] == ["b"]


def test_files_are_for_their_owner_only(folder: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))} == {0o600, 0o700}
    assert sorted(path.name for path in data(folder).iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(folder: Path, name: str) -> None:
    path = data(folder) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert f"is damaged: the sha256 of {name} begins" in refusal(folder, SetupError)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("ruin", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "bytes, expected"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_a_short_or_missing_file_is_found(
    folder: Path, name: str, ruin: Callable[[Path], object], said: str
) -> None:
    ruin(data(folder) / name)
    message = refusal(folder, SetupError)
    assert said in message
    assert name in message


@pytest.mark.parametrize("name", FILES)
def test_unhashed_nonsense_is_still_refused(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HASHED_BYTES", 0)
    path = data(folder) / name
    content = path.read_bytes()
    path.write_bytes(b"\x93NUMPX" + content[6:] if name.endswith(".npy") else b"\x00" * len(content))
    if name != "terms.txt":  # other words are simply not found
        with pytest.raises(SetupError, match="is damaged"):
            Index.open(folder).search(text="words", vector=VECTORS[0])
    with pytest.raises(SetupError, match="sha256"):
        Index.open(folder, verify=True)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"format": "other"}, InputError, "of something else"),
        ({"version": 2}, InputError, "format version 2, this SAGE reads up to 1; upgrade"),
        ({"version": 0}, SetupError, "names version 0"),
        ({"tokenizer": "words-0"}, InputError, "splits words by 'words-0'"),
        ({"generation": "../../etc"}, SetupError, "names version 1, generation"),
        ({"count": 4}, SetupError, "do not fit each other"),
        ({"dimension": 4}, SetupError, "do not fit each other"),
        ({"dimension": None}, SetupError, "lists the files"),
        ({"count": "3"}, SetupError, "manifest.json: Expected `int`"),
        ({"surprise": 1}, SetupError, "unknown field `surprise`"),
        ({"files": {}}, SetupError, "lists the files"),
    ],
)
def test_a_strange_manifest_is_refused(
    folder: Path, changes: dict[str, object], kind: type[SageError], said: str
) -> None:
    edit_manifest(folder, **changes)
    assert said in refusal(folder, kind)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    assert "there is no such folder; build one with: sage index build" in refusal(
        tmp_path / "none", InputError
    )
    assert "is not an index: it has no manifest.json" in refusal(tmp_path, InputError)
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(tmp_path / "file", InputError)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    assert "is not JSON" in refusal(tmp_path, SetupError)
    (tmp_path / "manifest.json").write_text("[]")
    assert "of something else" in refusal(tmp_path, InputError)


def test_building_replaces_an_index_and_nothing_else(folder: Path) -> None:
    Index.build(PASSAGES[:1], path=folder)
    assert len(Index.open(folder)) == 1
    assert len(list(folder.iterdir())) == 2
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is not an index"):
        Index.build(PASSAGES, path=folder.parent / "other")
    (folder.parent / "empty").mkdir()
    assert len(Index.build(PASSAGES, path=folder.parent / "empty")) == 3


def test_a_failed_save_leaves_the_old_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.open(folder)
    index.delete(["a"])

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SetupError, match="cannot be written: No space left"):
            index.save()
    assert len(list(folder.iterdir())) == 2
    assert len(Index.open(folder, verify=True)) == 3
    index.save()
    assert len(Index.open(folder, verify=True)) == 2


def test_a_failed_first_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Index.build(PASSAGES, path=tmp_path / "docs.index")
    assert list(tmp_path.iterdir()) == []


def test_an_open_index_outlives_its_replacement(folder: Path) -> None:
    old = Index.open(folder)
    Index.build(PASSAGES[:1], path=folder)
    assert [found.id for found in old.search(vector=VECTORS[2], k=1)] == ["c"]


def test_two_savers_do_not_overwrite_each_other(folder: Path) -> None:
    first, second = Index.open(folder), Index.open(folder)
    first.delete(["a"])
    first.save()
    second.delete(["b"])
    with pytest.raises(InputError, match="changed by someone else"):
        second.save()
    assert [passage.id for passage in Index.open(folder)] == ["b", "c"]


def test_an_index_can_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "moved")
    assert len(Index.open(tmp_path / "moved")) == 3
