"""The folder of an experiment: what all suites write, and what reports, audits and comparisons read.

::

    OUT/experiment.json        what was run, where, how it ended, and every cell with the hashes of its files
    OUT/CELL/run.json          the manifest of the cell's run
    OUT/CELL/events.jsonl      its event log
    OUT/CELL/requests.jsonl    one line per request or job (``sage.bench.records``)
    OUT/CELL/items.jsonl       one line per scored item, where a suite scores answers
    OUT/CELL/summary.json      the cell's figures, computed from the files above

Files of lines may be gzipped; hashes are of what they hold, so they stand. A cell is written in a hidden folder and
takes its name when it is whole: what was interrupted holds whole cells only. Started again on the same folder with
the same configuration, an experiment runs the cells that are missing or no longer are what their hashes say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import sage
from sage.bench.records import Request
from sage.clock import wall_time
from sage.errors import InputError
from sage.events import Event
from sage.runtime.manifest import Kind, Machine, Manifest, Status, packages, read_manifest, this_machine
from sage.runtime.packed import is_there, open_lines, pack, sha256_of
from sage.runtime.runs import read_events, write_private

__all__ = [
    "Axis",
    "Cell",
    "Experiment",
    "ExperimentFolder",
    "StoredCell",
    "StoredExperiment",
    "commit_of_source",
    "compact",
    "is_experiment",
    "open_experiment",
    "read_experiment",
    "write_json",
    "write_lines",
]

SCHEMA_VERSION = 1
FILE = "experiment.json"
#: The files of a cell whose hashes are kept: all that figures are computed from.
HASHED = ("events.jsonl", "requests.jsonl", "items.jsonl", "summary.json")

#: Where a cell stands on an axis.
Axis = str | int | float

T = TypeVar("T")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run of an experiment, and the name of its folder."""

    name: str
    axes: Mapping[str, Axis] = {}  # such as {"concurrency": 4, "workload": "rag"}; without the repeat
    repeat: int = 0  # cells that differ only in this are one point with an interval
    seed: int | None = None
    status: Status = "complete"
    sha256: Mapping[str, str] = {}  # file, without .gz -> hash of what it holds

    @property
    def events_sha256(self) -> str | None:
        """The hash of its event log."""
        return self.sha256.get("events.jsonl")


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``experiment.json``."""

    experiment: str  # the suite's name
    kind: Kind  # one for all cells: simulated and measured never share a folder
    schema_version: int = SCHEMA_VERSION
    preset: str = ""
    status: Status = "running"
    command: str = ""  # the line that makes it again
    commit: str = ""  # of SAGE's source, "+" after it where files differ from it; "" without a clone
    sage: str = ""
    python: str = ""
    packages: Mapping[str, str] = {}
    machine: Machine | None = None
    load_average: float | None = None  # over one minute, when it began
    started: str = ""
    ended: str | None = None
    seed: int | None = None
    config: Mapping[str, Any] = {}  # verbatim; JSON data
    data: Mapping[str, str] = {}  # name -> sha256
    planned: int | None = None  # cells there would be; None: not known before
    notes: tuple[str, ...] = ()  # what a reader should know: flags, odd runs and why
    cells: tuple[Cell, ...] = ()  # those that are there, in the order they were run


# --- writing ----------------------------------------------------------------------------------------------


class ExperimentFolder:
    """An experiment that is being carried out. Made by :func:`open_experiment`.

    Attributes:
        path: its folder.
        manifest: as it stands in ``experiment.json``.
    """

    def __init__(self, path: Path, manifest: Experiment) -> None:
        self.path = path
        self.manifest = manifest
        self._write()

    def has(self, name: str) -> bool:
        """Whether a cell is there already and need not be run again."""
        return any(cell.name == name for cell in self.manifest.cells)

    @contextmanager
    def running(
        self, name: str, *, axes: Mapping[str, Axis], repeat: int = 0, seed: int | None = None
    ) -> Iterator[Path]:
        """A folder to write a cell's files into; they are kept if the block ends without an exception.

        The cell's status is that of its ``run.json``, "complete" without one.
        """
        draft = Path(tempfile.mkdtemp(prefix=".running-", dir=self.path))
        try:
            yield draft
            manifest = draft / "run.json"
            status: Status = read_manifest(manifest).status if manifest.exists() else "complete"
            hashes = {file: sha256_of(draft / file) for file in HASHED if is_there(draft / file)}
            shutil.rmtree(self.path / name, ignore_errors=True)
            draft.chmod(0o755)
            draft.rename(self.path / name)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        cell = Cell(name=name, axes=dict(axes), repeat=repeat, seed=seed, status=status, sha256=hashes)
        self.update(cells=(*(one for one in self.manifest.cells if one.name != name), cell))

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest and write it anew."""
        self.manifest = msgspec.structs.replace(self.manifest, **changes)
        self._write()

    def _write(self) -> None:
        write_json(self.path / FILE, self.manifest)


@contextmanager
def open_experiment(
    out: Path,
    experiment: str,
    *,
    kind: Kind,
    config: Mapping[str, Any],
    preset: str = "",
    command: str = "",
    seed: int | None = None,
    data: Mapping[str, str] | None = None,
    planned: int | None = None,
) -> Iterator[ExperimentFolder]:
    """Begin an experiment in a folder, or go on with one that stopped there.

    At the end its status is the worst of its cells', "partial" if the block was left by an exception or fewer
    cells are there than planned.

    Raises:
        InputError: the folder holds something else: other files, or an experiment that differs in its
            configuration, code or machine.
    """
    began = Experiment(
        experiment=experiment,
        kind=kind,
        preset=preset,
        command=command,
        commit=commit_of_source(),
        sage=packages().get("sage-dataflow", ""),
        python=sys.version.split()[0],
        packages=packages(),
        machine=this_machine(),
        load_average=os.getloadavg()[0],
        started=wall_time(),
        seed=seed,
        config=_plain(config),
        data=data or {},
        planned=planned,
    )
    if out.is_dir() and (out / FILE).exists():
        began = _resumed(read_experiment(out), began)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is no empty folder, nor one of an experiment; name another")
    out.mkdir(parents=True, exist_ok=True)
    for rest in out.glob(".running-*"):
        shutil.rmtree(rest, ignore_errors=True)
    folder = ExperimentFolder(out, began)
    try:
        yield folder
    except BaseException:
        folder.update(status="partial", ended=wall_time())
        raise
    folder.update(status=_status_of(folder.manifest), ended=wall_time())


def _resumed(stored: StoredExperiment, wanted: Experiment) -> Experiment:
    """The stored experiment without the cells that are not what they were, if it is the wanted one."""
    old = stored.manifest
    for field in ("experiment", "kind", "preset", "seed", "config", "data", "commit", "sage", "machine"):
        if getattr(old, field) != getattr(wanted, field):
            raise InputError(
                f"{stored.path}: holds an experiment that differs in its {field}: to go on with it, run what "
                f"made it ({old.command or 'its command is not known'}); else name another folder"
            )
    sound = tuple(cell.manifest for cell in stored.cells if cell.fault() is None)
    return msgspec.structs.replace(old, status="running", ended=None, planned=wanted.planned, cells=sound)


def _status_of(manifest: Experiment) -> Status:
    statuses = [cell.status for cell in manifest.cells]
    if manifest.planned is not None and len(statuses) < manifest.planned:
        return "partial"
    order: tuple[Status, ...] = ("audit_failed", "failed", "partial", "running", "generator_limited")
    return next((status for status in order if status in statuses), "complete")


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read back, so that it can be compared."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(config))
    return plain


def commit_of_source() -> str:
    """The commit of the clone that SAGE runs from, with "+" if its source was changed since; "" without one."""
    source = Path(sage.__file__).parent
    git = shutil.which("git")
    if git is None:
        return ""

    def said(*arguments: str) -> str | None:
        line = [git, "-C", str(source), *arguments]
        done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
        return done.stdout.strip() if done.returncode == 0 else None

    if said("ls-files", "--error-unmatch", "__init__.py") is None:
        return ""
    commit = said("rev-parse", "HEAD") or ""
    return f"{commit}+" if said("status", "--porcelain", "--", ".") else commit


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, as a whole or not at all."""
    write_private(path, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    path.chmod(0o644)


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """Write JSON lines, as a whole or not at all."""
    write_private(path, msgspec.json.Encoder().encode_lines(list(lines)))
    path.chmod(0o644)


def compact(path: Path) -> int:
    """Gzip the logs, requests and items of an experiment; the bytes of its folder afterwards."""
    for cell in read_experiment(path).cells:
        for name in ("events.jsonl", "requests.jsonl", "items.jsonl"):
            if (cell.path / name).exists():
                pack(cell.path / name)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# --- reading ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell of an experiment on disk."""

    path: Path
    manifest: Cell

    def run(self) -> Manifest:
        """What its run says of itself."""
        return read_manifest(self.path / "run.json")

    def events(self) -> Iterator[Event]:
        """Its event log."""
        return read_events(self.path / "events.jsonl")

    def requests(self) -> list[Request]:
        """Its requests."""
        return self.lines("requests.jsonl", Request)

    def lines(self, file: str, kind: type[T]) -> list[T]:
        """The lines of one of its files.

        Raises:
            InputError: it is not there, or a line is not of that kind.
        """
        decode = msgspec.json.Decoder(kind).decode
        found: list[T] = []
        try:
            with open_lines(self.path / file) as lines:
                for line in lines:
                    found.append(decode(line))  # noqa: PERF401 - the length tells the line of a fault
        except (OSError, EOFError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path / file}:{len(found) + 1}: cannot be read: {error}") from error
        return found

    def summary(self, kind: type[T]) -> T:
        """Its figures.

        Raises:
            InputError: they are not there, or not of that kind.
        """
        file = self.path / "summary.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read: {error}") from error

    def fault(self) -> str | None:
        """Why its files are not what the manifest says; None if they are."""
        for name, wanted in self.manifest.sha256.items():
            try:
                got = sha256_of(self.path / name)
            except (OSError, EOFError) as error:
                return f"{self.path / name}: cannot be read: {error}"
            if got != wanted:
                return f"{self.path / name}: was changed after it was written: SHA-256 {got[:12]}…, expected {wanted[:12]}…"
        return None


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """An experiment on disk, whole or not."""

    path: Path
    manifest: Experiment

    @property
    def cells(self) -> list[StoredCell]:
        """Its cells, in the order they were run."""
        return [StoredCell(self.path / cell.name, cell) for cell in self.manifest.cells]


def is_experiment(path: Path) -> bool:
    """Whether a folder is one of an experiment."""
    return (path / FILE).is_file()


def read_experiment(path: Path) -> StoredExperiment:
    """The experiment in a folder. Its cells' files are not checked: see :meth:`StoredCell.fault`.

    Raises:
        InputError: there is none, it cannot be read, or a later SAGE wrote it.
    """
    file = path / FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({os.strerror(error.errno or 0)}); is {path} the --out of a suite of sage bench?"
        ) from error
    try:
        version = msgspec.json.decode(content, type=dict[str, Any]).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"{file}: written by a later SAGE (schema {version}, this one reads {SCHEMA_VERSION}); upgrade SAGE"
            )
        manifest = msgspec.json.decode(content, type=Experiment)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: is no manifest of an experiment: {error}") from error
    for cell in manifest.cells:
        if Path(cell.name).name != cell.name or cell.name in {"", ".", ".."}:
            raise InputError(f"{file}: cell {cell.name!r} is no name of a folder")
        for name in cell.sha256:
            if name not in HASHED:
                raise InputError(f"{file}: cell {cell.name!r} names {name!r}, which is no file of a cell")
    return StoredExperiment(path, manifest)
