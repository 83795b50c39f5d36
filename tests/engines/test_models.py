"""Where models come from: the table, wheels, and what is on disk. Hubs are in test_models_hub.py."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sage.engines.models import MODELS, BuiltinModel, installed, is_cached, model_faults, pull, resolve
from sage.engines.models_files import ModelFile
from sage.engines.models_wheel import Wheel
from sage.errors import InputError, SetupError
from sage.settings import Settings

CONTENT = {"weights.bin": b"many numbers" * 1000, "sub/config.json": b"{}"}


def known(name: str, content: bytes) -> ModelFile:
    return ModelFile(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built-in model "tiny" in a wheel that pip finds in a folder. Returns the wheel."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = links / "tiny_model-1.0-py3-none-any.whl"
    write_wheel(wheel, CONTENT)
    model = BuiltinModel(
        about="tiny",
        licence="none",
        wheel=Wheel("tiny-model", "1.0", wheel.stat().st_size, "tiny_model/"),
        files=tuple(known(name, content) for name, content in CONTENT.items()),
    )
    monkeypatch.setitem(MODELS._members, "tiny", model)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return wheel


def write_wheel(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"tiny_model/{name}", data)
        info = "tiny_model-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
def test_pull_takes_a_model_out_of_its_wheel(tiny: Path, tmp_home: Settings) -> None:
    steps: list[tuple[int, int | None]] = []
    folder = pull("tiny", tmp_home, lambda done, total: steps.append((done, total)))
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert steps[-1] == (tiny.stat().st_size, tiny.stat().st_size)
    assert resolve("tiny", tmp_home) == folder
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "sub", "weights.bin"]


@pytest.mark.slow
def test_pull_mends_what_is_damaged(tiny: Path, tmp_home: Settings) -> None:
    folder = pull("tiny", tmp_home)
    (folder / "weights.bin").write_bytes(CONTENT["weights.bin"].replace(b"m", b"n"))
    assert is_cached("tiny", tmp_home)  # a look at sizes does not see it
    assert "has sha256" in model_faults("tiny", tmp_home)[0]
    pull("tiny", tmp_home)
    assert not model_faults("tiny", tmp_home)


@pytest.mark.slow
def test_two_pulls_at_once_download_once(tiny: Path, tmp_home: Settings) -> None:
    downloads: list[int] = []

    def one(number: int) -> Path:
        return pull("tiny", tmp_home, lambda _done, _total: downloads.append(number))

    with ThreadPoolExecutor(2) as threads:
        assert len(set(threads.map(one, range(2)))) == 1
    assert len(set(downloads)) == 1


@pytest.mark.slow
def test_a_wheel_with_other_content_is_refused_and_leaves_nothing(tiny: Path, tmp_home: Settings) -> None:
    write_wheel(tiny, {**CONTENT, "weights.bin": b"other"})
    with pytest.raises(
        SetupError, match=r"weights.bin in tiny_model.*is not the file we know.*Without a network"
    ):
        pull("tiny", tmp_home)
    assert [path.name for path in (tmp_home.models_dir / "tiny").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_missing_package_is_said_in_the_words_of_pip(tiny: Path, tmp_home: Settings) -> None:
    tiny.unlink()
    with pytest.raises(SetupError, match=r"cannot download tiny-model==1.0: pip says 'No matching"):
        pull("tiny", tmp_home)


@pytest.mark.slow
def test_an_index_that_does_not_answer_is_said_without_its_password(
    tiny: Path, tmp_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(SetupError, match="the package index does not answer") as caught:
        pull("tiny", tmp_home)
    assert "secret" not in str(caught.value)


def test_without_pip_the_error_says_what_to_type(
    tiny: Path, tmp_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SetupError, match="-m ensurepip"):
        pull("tiny", tmp_home)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match=r"cannot write to .*SAGE_HOME"):
        pull("tiny", Settings(home=tmp_path / "file"))


def test_a_file_put_in_place_by_hand_needs_no_network(tiny: Path, tmp_home: Settings) -> None:
    tiny.unlink()
    for name, content in CONTENT.items():
        path = tmp_home.models_dir / "tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert pull("tiny", tmp_home) == resolve("tiny", tmp_home) == tmp_home.models_dir / "tiny"
    assert [(model.reference, model.is_complete) for model in installed(tmp_home)] == [("tiny", True)]


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "all-minilm-l6-v2"])
def test_a_missing_model_says_how_to_get_it(name: str, tmp_home: Settings) -> None:
    with pytest.raises(SetupError, match=f"is missing; type `sage models pull {name}`"):
        resolve(name, tmp_home)


def test_a_truncated_model_is_seen_without_reading_it(tiny: Path, tmp_home: Settings) -> None:
    path = tmp_home.models_dir / "tiny" / "weights.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"many")
    with pytest.raises(SetupError, match="has 4 bytes, expected 12,000"):
        resolve("tiny", tmp_home)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_home: Settings) -> None:
    with pytest.raises(InputError, match="did you mean 'smollm2-135m-instruct'"):
        resolve("smollm2-135m", tmp_home)


def test_a_path_stands_for_itself(tmp_path: Path, tmp_home: Settings) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(SetupError, match="there is no model file or folder at"):
        resolve(str(path), tmp_home)
    path.write_bytes(b"GGUF")
    assert resolve(str(path), tmp_home) == pull(str(path), tmp_home) == path


@pytest.mark.models
@pytest.mark.parametrize("name", list(MODELS))
def test_the_cached_models_are_the_pinned_ones(name: str) -> None:
    assert model_faults(name, Settings.load()) == []
