"""``sage doctor``: what is installed, what is missing, and what to type.

It ends with 0 if every pool can work: the packages and models of those that run inside SAGE are here and the
servers answer; with 2 if something is missing or wrong; with 3 if only a server does not answer.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sage.cli.cluster import Address, Nodes, RuntimeName, cluster_from
from sage.cli.output import print_json, shown_bytes, table
from sage.errors import EngineError, InputError, SageError, SetupError

if TYPE_CHECKING:
    from sage.engines.base import Address as EngineAddress
    from sage.runtime.ray_cluster import RayCluster
    from sage.settings import Settings

__all__ = ["app"]

DISTRIBUTION = "sage-dataflow"
OLDEST_PYTHON = (3, 11)
ANSWER_S = 5.0  # how long a server may take to say which models it has

#: Engines that run inside SAGE -> the packages they need, from the extra "local".
EMBEDDED = {"llama": ("xllamacpp",), "bert": ("tokenizers",)}
INSTALL_LOCAL = f'pip install "{DISTRIBUTION}[local]"'

_CREDENTIALS = re.compile(r"(?<=//)[^/@]+@")

app = typer.Typer(add_completion=False)

Status = Literal["ok", "note", "missing", "unreachable"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``fix`` is what to type, "" if nothing has to be done."""

    status: Status
    name: str
    detail: str
    fix: str = ""


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    runtime: RuntimeName = "local",
    address: Address = None,
    nodes: Nodes = None,
) -> None:
    """Say what is installed, what is missing, and what to type; with --runtime ray, of every node too.

    Ends with 0 if every pool can work, 2 if something is missing or wrong, 3 if only a server does not answer.
    """
    cluster = cluster_from(runtime, address, nodes)
    settings, settings_check = _settings()
    pools = _pools(settings)
    checks = [
        *_python(),
        *_packages({scheme for _, address in pools for scheme in [address.partition(":")[0]]}),
        settings_check,
        *_folders(settings),
        *asyncio.run(_engines(pools, settings)),
        *_indexes(settings),
        *([] if isinstance(cluster, str) else asyncio.run(_nodes(cluster, settings))),
    ]
    statuses = {check.status for check in checks}
    code = 2 if "missing" in statuses else 3 if "unreachable" in statuses else 0
    if as_json:
        print_json({"ok": code == 0, "checks": checks})
    else:
        print(table(("", "what", "found"), [(c.status, c.name, c.detail) for c in checks]))
        fixes = list(dict.fromkeys(check.fix for check in checks if check.fix and check.status != "note"))
        print(
            "\nEverything is here." if not fixes else "\nDo this:\n" + "\n".join(f"  {fix}" for fix in fixes)
        )
    raise typer.Exit(code)


async def _nodes(cluster: RayCluster, settings: Settings) -> list[Check]:
    """Every node of a cluster, with a worker started on it to see whether it could be used."""
    from sage.runtime.ray import inspected

    try:
        found = await inspected(cluster, settings)
    except (SetupError, InputError) as error:
        return [Check("missing", "ray cluster", str(error), "see docs/ray.md")]
    checks = []
    for node in found:
        has = ", ".join(f"{_amount(name, total)} {name}" for name, total in node.total.items())
        versions = ", ".join(f"{name} {version}" for name, version in node.versions.items())
        detail = "; ".join(filter(None, (node.address, has, versions, node.wrong)))
        fix = f"make {node.name} like this machine" if node.wrong else ""
        checks.append(Check("missing" if node.wrong else "ok", node.name, detail, fix))
    return checks


def _amount(name: str, total: float) -> str:
    return shown_bytes(int(total)) if name == "memory" else f"{total:g}"


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info < OLDEST_PYTHON:
        yield Check("missing", "python", version, f"install Python {wanted} or newer")
    else:
        yield Check("ok", "python", version)
    others = sorted(set(metadata.packages_distributions().get("sage", ())) - {DISTRIBUTION})
    if others:
        detail = f"{', '.join(others)} installs a package 'sage' too; they overwrite each other's files"
        yield Check(
            "missing", "import name", detail, f"python -m venv sage-env && sage-env/bin/{INSTALL_LOCAL}"
        )


def _packages(schemes: set[str]) -> Iterator[Check]:
    """Everything the distribution asks for; an extra only has to be here if a pool needs it."""
    needed = {package for scheme in schemes for package in EMBEDDED.get(scheme, ())}
    yield Check("ok", DISTRIBUTION, _version(DISTRIBUTION) or "not installed, imported from a folder")
    for requirement in metadata.requires(DISTRIBUTION) or () if _version(DISTRIBUTION) else ():
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        version = _version(name)
        of = f" (extra {extra[1]!r})" if extra else ""
        if version is not None:
            yield Check("ok", name, version + of)
        elif extra and name not in needed:
            yield Check("note", name, f"not installed{of}", f'pip install "{DISTRIBUTION}[{extra[1]}]"')
        else:
            yield Check(
                "missing", name, f"not installed{of}", INSTALL_LOCAL if extra else f"pip install {name}"
            )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _settings() -> tuple[Settings, Check]:
    from sage.settings import Settings, nearest_file

    path = nearest_file(Path.cwd())
    try:
        settings = Settings.load()
    except InputError as error:
        return Settings(), Check("missing", "sage.toml", str(error), f"edit {path}")
    return settings, Check("ok", "sage.toml", str(path) if path else "none, built-in defaults")


def _folders(settings: Settings) -> Iterator[Check]:
    for name, folder in {"models folder": settings.models_dir, "runs folder": settings.runs_dir}.items():
        size = sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
        yield Check("ok", name, f"{folder}, {shown_bytes(size)}")


def _pools(settings: Settings) -> list[tuple[str, str]]:
    """(pool, address) of every endpoint a run would use here, the built-in defaults included."""
    from sage.runtime.endpoints import DEFAULT_ENGINES

    said = {**DEFAULT_ENGINES, **settings.engines}
    return [
        (pool, address)
        for pool, addresses in said.items()
        for address in ([addresses] if isinstance(addresses, str) else addresses)
    ]


async def _engines(pools: list[tuple[str, str]], settings: Settings) -> list[Check]:
    """Each address, all servers asked at the same time."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_engine(pool, address, settings)) for pool, address in pools]
    return [task.result() for task in asked]


async def _engine(pool: str, text: str, settings: Settings) -> Check:
    from sage.engines.base import open_engine, parse_address

    name, shown = f"pool {pool}", _CREDENTIALS.sub("", text)
    try:
        address = parse_address(text)
        if address.scheme in EMBEDDED:
            return _embedded(name, shown, address, settings)
        async with asyncio.timeout(ANSWER_S), open_engine(text, settings) as engine:
            return Check("ok", name, f"{shown} answers, model {engine.info.model!r}")
    except TimeoutError:
        return Check(
            "unreachable",
            name,
            f"{shown} does not answer within {ANSWER_S:g} s",
            f"start the server of {shown}",
        )
    except EngineError as error:
        return Check("unreachable", name, str(error), f"start the server of {shown}")
    except SageError as error:
        return Check("missing", name, str(error), f"correct the address {shown}")


def _embedded(name: str, shown: str, address: EngineAddress, settings: Settings) -> Check:
    """An engine inside SAGE: its model has to be on disk."""
    from sage.engines.models import resolve

    try:
        return Check("ok", name, f"{shown}, in {resolve(address.target, settings)}")
    except SetupError as error:
        return Check("missing", name, str(error), f"sage models pull {address.target}")


def _indexes(settings: Settings) -> Iterator[Check]:
    for name, folder in settings.indexes.items():
        if Path(folder).is_dir():
            yield Check("ok", f"index {name}", folder)
        else:
            fix = f"sage index build SOURCE --out {folder}"
            yield Check("missing", f"index {name}", f"{folder}: no such folder", fix)
