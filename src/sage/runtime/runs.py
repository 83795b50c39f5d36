"""The folder of a run: its manifest, its event log, and what is later computed from them.

``<runs>/<run id>/run.json`` is the manifest, written when the run starts and again when it ends;
``events.jsonl`` grows while it runs. Folders are private to their owner (0700, files 0600).
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from sage.clock import wall_time
from sage.errors import InputError, SetupError, nearest
from sage.events import Event, decode_event, encode_events
from sage.runtime.manifest import Kind, Manifest, Status, packages, read_manifest, this_machine
from sage.runtime.packed import open_lines
from sage.settings import Settings

__all__ = [
    "EventLog",
    "Manifest",
    "Observer",
    "RunFolder",
    "StoredRun",
    "create_run",
    "list_runs",
    "load_run",
    "new_run_id",
    "prune",
    "read_events",
    "size_bytes",
    "write_private",
]

#: Told of events as they leave for a log.
Observer = Callable[[Sequence[Event]], None]

_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # none that is easily taken for another
_ID = re.compile(r"\d{8}-\d{4}-[a-z0-9]{4}")
_BUFFER_EVENTS = 512
_QUIET_S = 3600.0  # a run that says "running" and wrote nothing for so long was killed


def new_run_id(now: str | None = None) -> str:
    """A name for a run: the minute it starts (UTC) and four letters, short enough to type.

    >>> new_run_id("2026-11-21T03:59:12+00:00")[:14]
    '20261121-0359-'
    """
    digits = re.sub(r"\D", "", now if now is not None else wall_time())
    return f"{digits[:8]}-{digits[8:12]}-{''.join(secrets.choice(_LETTERS) for _ in range(4))}"


class EventLog:
    """Appends events to a file. ``append`` buffers; a chunk is written once full, or when the owner flushes.

    The owner flushes every half second or so: a run that is killed loses what came after, and at worst leaves
    its last line cut, which :func:`read_events` forgives.

    Raises:
        SetupError: from any method, when writing fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer: list[Event] = []
        self._observers: list[Observer] = []
        self._num_told = 0  # of the buffer, to the observers
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error

    def append(self, event: Event) -> None:
        """Keep an event."""
        self._buffer.append(event)
        if len(self._buffer) >= _BUFFER_EVENTS:
            self.flush()

    def observe(self, observer: Observer) -> None:
        """Tell someone of every event from here on, once, in chunks: before each write, and on ``tell``."""
        self.tell()
        self._num_told = len(self._buffer)
        self._observers.append(observer)

    def tell(self) -> None:
        """Tell the observers what they do not know yet. Nothing is written."""
        if self._observers and self._num_told < len(self._buffer):
            news, self._num_told = self._buffer[self._num_told :], len(self._buffer)
            for observer in self._observers:
                observer(news)

    def flush(self) -> None:
        """Write what is buffered."""
        if not self._buffer:
            return
        self.tell()
        events, self._buffer, self._num_told = self._buffer, [], 0
        rest = memoryview(encode_events(events))
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Flush and close; twice does no harm."""
        if self._file < 0:
            return
        try:
            self.flush()
        finally:
            file, self._file = self._file, -1
            os.close(file)


class RunFolder:
    """The folder of a run that is going on. Made by :func:`create_run`; its owner calls :meth:`finish`.

    Attributes:
        log: where its events go.
        manifest: as it stands in ``run.json``.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.log = EventLog(path / "events.jsonl")
        self.update()

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest, such as ``pipelines=`` and ``engines=``, and write it anew."""
        self.manifest = msgspec.structs.replace(self.manifest, **changes)
        content = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2)
        write_private(self.path / "run.json", content + b"\n")

    def finish(self, status: Status, counts: Mapping[str, int], **changes: Any) -> None:
        """Close the log and say in the manifest how the run ended, and what else has changed."""
        try:
            self.log.close()
        finally:
            self.update(status=status, counts=dict(counts), ended=wall_time(), **changes)


def create_run(
    settings: Settings,
    *,
    policy: str = "",
    seed: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    pipelines: Mapping[str, Any] | None = None,
    engines: Mapping[str, tuple[str, ...]] | None = None,
    kind: Kind = "measured",
) -> RunFolder:
    """Start the folder of a run. Arguments and pipelines are JSON data, addresses without keys.

    Raises:
        SetupError: the folder for runs cannot be written to.
    """
    for attempt in itertools.count(1):
        run_id = new_run_id()
        path = settings.runs_dir / run_id
        try:
            settings.runs_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.mkdir(mode=0o700)
            break
        except FileExistsError as error:
            if attempt == 10:
                raise _unwritable(path, error) from error
        except OSError as error:
            raise _unwritable(path, error) from error
    manifest = Manifest(
        run_id=run_id,
        started=wall_time(),
        kind=kind,
        sage=packages().get("sage-dataflow", ""),
        python=sys.version.split()[0],
        packages=packages(),
        machine=this_machine(),
        pipelines=pipelines or {},
        policy=policy,
        engines=engines or {},
        seed=seed,
        arguments=arguments or {},
    )
    return RunFolder(path, manifest)


def write_private(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all, readable by its owner only.

    Raises:
        SetupError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> SetupError:
    return SetupError(
        f"{path}: cannot be written ({os.strerror(error.errno or 0)}); free some space, set SAGE_HOME to another "
        "folder, or run with record=False"
    )


# --- what is kept ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run that was recorded, finished or not."""

    path: Path
    manifest: Manifest

    def events(self) -> Iterator[Event]:
        """Its event log, see :func:`read_events`."""
        return read_events(self.path / "events.jsonl")

    @property
    def size_bytes(self) -> int:
        """What its folder takes on disk."""
        return sum(item.lstat().st_size for item in self.path.rglob("*") if not item.is_dir())


def list_runs(settings: Settings, on_bad: Callable[[InputError], None] | None = None) -> list[StoredRun]:
    """Every recorded run, the latest first. Folders whose manifest cannot be read are told to ``on_bad``."""
    runs: list[StoredRun] = []
    for path in _folders(settings):
        try:
            runs.append(StoredRun(path, read_manifest(path / "run.json")))
        except InputError as error:
            if on_bad is not None:
                on_bad(error)
    return sorted(runs, key=_age_key, reverse=True)


def load_run(settings: Settings, run: str) -> StoredRun:
    """The run with an id, or one that begins like it; "last" is the latest.

    Raises:
        InputError: no run, or several, go by that name.
    """
    if run == "last":
        if runs := list_runs(settings):
            return runs[0]
        raise InputError(f"no runs are recorded in {settings.runs_dir}")
    folders = _folders(settings)
    matching = [path for path in folders if run and path.name.startswith(run)]
    if len(matching) > 1:
        shown = ", ".join(path.name for path in sorted(matching)[:6])
        raise InputError(
            f"run {run!r} could be {shown}{', …' if len(matching) > 6 else ''}; say more of its id"
        )
    if not matching:
        raise InputError(
            f"no run {run!r} in {settings.runs_dir}: {nearest(run, [path.name for path in folders])}"
        )
    return StoredRun(matching[0], read_manifest(matching[0] / "run.json"))


def read_events(path: Path) -> Iterator[Event]:
    """The events of a log, gzipped or not, in order. A last line that a killed run cut off is left out.

    Raises:
        InputError: no such log, or a line in it is no event.
    """
    number = 0
    try:
        with open_lines(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    event = decode_event(line)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    if line.endswith(b"\n"):
                        raise InputError(
                            f"{path}:{number}: is no event of a run: {error}; the log is damaged"
                        ) from error
                    return
                yield event
    except (OSError, EOFError, zlib.error) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        after = f" after line {number}" if number else ""
        raise InputError(f"{path}: cannot be read{after} ({why})") from error


def size_bytes(settings: Settings) -> int:
    """What all recorded runs take on disk."""
    return sum(run.size_bytes for run in list_runs(settings))


def prune(
    settings: Settings, *, keep: int | None = None, older_than_s: float | None = None, now: str | None = None
) -> int:
    """Remove recorded runs, except the latest ``keep`` and those younger than ``older_than_s``; the bytes freed.

    A run that is still going on stays. ``now`` is a wall time as in manifests, the present if None.

    Raises:
        InputError: neither limit is given, or one is negative.
    """
    if keep is None and older_than_s is None:
        raise InputError("prune: say how many of the latest runs to keep, or how old a run must be to go")
    if (keep or 0) < 0 or (older_than_s or 0) < 0:
        raise InputError(f"prune: keep={keep} and older_than_s={older_than_s} must not be negative")
    present = datetime.fromisoformat(now if now is not None else wall_time())
    freed = 0
    for run in list_runs(settings)[keep or 0 :]:
        age_s = (present - datetime.fromisoformat(run.manifest.started)).total_seconds()
        if age_s >= (older_than_s or 0) and not _goes_on(run, present):
            freed += run.size_bytes
            shutil.rmtree(run.path)
    return freed


def _folders(settings: Settings) -> list[Path]:
    """Folders named like a run; links are not followed, so nothing outside can be listed or removed."""
    if not settings.runs_dir.is_dir():
        return []
    found = settings.runs_dir.iterdir()
    return sorted(
        path for path in found if _ID.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def _age_key(run: StoredRun) -> tuple[str, int]:
    """Runs started within one second are told apart by when their manifest was last written."""
    return run.manifest.started, (run.path / "run.json").stat().st_mtime_ns


def _goes_on(run: StoredRun, present: datetime) -> bool:
    if run.manifest.status != "running":
        return False
    latest = max((item.stat().st_mtime for item in run.path.iterdir()), default=0.0)
    return (present - datetime.fromtimestamp(latest, UTC)).total_seconds() < _QUIET_S
