"""What a run says about itself besides its events: ``run.json``, with the software and the machine it ran on."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.errors import InputError

__all__ = ["Kind", "Machine", "Manifest", "Status", "packages", "read_manifest", "this_machine"]

SCHEMA_VERSION = 1

#: "running" turns into one of the others when the run ends; a run that was killed stays "running".
Status = Literal["running", "complete", "partial", "failed", "generator_limited", "audit_failed"]

#: Where a run's times come from; runs of different kinds never share a column.
Kind = Literal["measured", "simulated", "replayed"]

_PACKAGES = (
    "aiohttp", "msgspec", "numpy", "PyYAML", "rich", "typer", "tokenizers", "xllamacpp", "ray", "faiss-cpu", "pyarrow",
    "pypdf",
)  # fmt: skip


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware and its operating system. Nothing that names a user, a host or a network."""

    system: str  # name and release of the operating system
    architecture: str
    cpu: str  # model, "" if the system does not say
    num_cpus: int  # that this process may use
    memory_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``run.json``. Change it with ``msgspec.structs.replace``."""

    run_id: str
    started: str  # wall time, ISO 8601, UTC
    schema_version: int = SCHEMA_VERSION
    kind: Kind = "measured"
    status: Status = "running"
    ended: str | None = None
    sage: str = ""  # version
    python: str = ""
    packages: Mapping[str, str] = {}
    machine: Machine | None = None
    pipelines: Mapping[str, Any] = {}  # name -> its YAML form, as data
    streams: Mapping[str, Mapping[str, str]] = {}  # name -> stage -> its kind
    policy: str = ""
    engines: Mapping[str, tuple[str, ...]] = {}  # pool -> addresses, without keys
    limits: Mapping[str, int] = {}  # endpoint -> calls at once
    cluster: Mapping[
        str, Any
    ] = {}  # its nodes, and how far their clocks may be misread; empty for a local run
    seed: int | None = None
    arguments: Mapping[str, Any] = {}  # as given; JSON data
    counts: Mapping[str, int] = {}  # outcome -> jobs; at the end


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        InputError: there is none, it is not readable, or a later SAGE wrote it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({os.strerror(error.errno or 0)}); is this a run?"
        ) from error
    try:
        version = msgspec.json.decode(content, type=dict[str, Any]).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"{path}: written by a later SAGE (schema {version}, this one reads {SCHEMA_VERSION}); upgrade SAGE"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is no manifest of a run: {error}") from error


@functools.cache
def packages() -> Mapping[str, str]:
    """Version of every package that can bear on a result and is installed, SAGE's own under "sage-dataflow"."""
    found: dict[str, str] = {}
    for name in ("sage-dataflow", *_PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def this_machine() -> Machine:
    """The machine this process runs on."""
    system = os.uname()
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        system=f"{system.sysname} {system.release}",
        architecture=system.machine,
        cpu=_cpu_model(),
        num_cpus=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _cpu_model() -> str:
    if sys.platform != "linux":
        return ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
