"""What the machine and the user say outside the code: ``sage.toml`` and the environment, read here only.

Order, the later wins: built-in defaults, ``sage.toml`` (the nearest one at or above the working folder),
environment variables, arguments.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sage.errors import InputError, nearest
from sage.tenants import Tenant, tenants_from

__all__ = ["Settings", "changed_environment", "child_environment", "environment", "nearest_file"]

FILE_NAME = "sage.toml"

#: Every environment variable SAGE reads, and what it says.
VARIABLES: Mapping[str, str] = {
    "SAGE_HOME": "folder for everything SAGE keeps: models, indexes, runs",
    "OPENAI_BASE_URL": "address of an OpenAI-compatible server; makes it the default `llm` pool",
    "OPENAI_API_KEY": "key sent to OpenAI-compatible servers",
    "OPENAI_MODEL": "model asked of OPENAI_BASE_URL; otherwise the first that the server lists",
    "HF_ENDPOINT": "hub that `hf:` model references are fetched from",
    "HF_TOKEN": "key sent to that hub",
}


def environment(name: str) -> str | None:
    """The value of one of VARIABLES, None when unset or empty."""
    assert name in VARIABLES, name
    return os.environ.get(name) or None


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a program that SAGE starts: our own, with some variables changed."""
    return {**os.environ, **changes}


@contextmanager
def changed_environment(**changes: str) -> Iterator[None]:
    """Some variables changed for as long as this lasts, for libraries that are told things in no other way."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a session starts from. Build it with :meth:`load`; change it with ``dataclasses.replace``."""

    engines: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)  # pool -> address(es)
    indexes: Mapping[str, str] = field(default_factory=dict)  # name -> folder
    policy: str = "load_aware"
    max_inflight: int | None = None  # jobs of one run at once; None leaves it to the policy
    tenants: Mapping[str, Tenant] = field(default_factory=dict)  # name -> what it may claim
    record: bool = True  # keep a manifest and an event log of every run
    home: Path | None = None  # None: the platform's user folders

    @classmethod
    def load(cls, start: Path | None = None) -> Settings:
        """Settings from the nearest ``sage.toml`` and the environment.

        Raises:
            InputError: the file is not TOML, or says something unknown or of a wrong type.
        """
        path = nearest_file(start if start is not None else Path.cwd())
        settings = cls() if path is None else _from_file(path)
        home = environment("SAGE_HOME")
        if home is not None:
            settings = replace(settings, home=Path(home).expanduser())
        address = environment("OPENAI_BASE_URL")
        if address is not None and "llm" not in settings.engines:
            model = environment("OPENAI_MODEL")
            llm = f"openai:{address}" + (f"?model={model}" if model else "")
            settings = replace(settings, engines={**settings.engines, "llm": llm})
        return settings

    @property
    def cache_dir(self) -> Path:
        """Where models and indexes are kept; everything in it can be made again."""
        return self.home if self.home is not None else _user_dir("cache")

    @property
    def models_dir(self) -> Path:
        """Where model files are kept."""
        return self.cache_dir / "models"

    @property
    def runs_dir(self) -> Path:
        """Where manifests and event logs are kept, a folder a run."""
        return (self.home if self.home is not None else _user_dir("data")) / "runs"


def nearest_file(start: Path) -> Path | None:
    """The ``sage.toml`` that is at or above a folder, None if there is none."""
    for folder in (start, *start.resolve().parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return None


def _from_file(path: Path) -> Settings:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}; fix the file or remove it") from error
    known = {item.name for item in fields(Settings)}
    for name in content:
        if name not in known:
            raise InputError(f"{path}: unknown setting {name!r}: {nearest(name, known)}")
    return Settings(**{name: _checked(path, name, value) for name, value in content.items()})


def _checked(path: Path, name: str, value: Any) -> Any:
    """One setting of the file, as the type its field has."""
    if name == "home" and isinstance(value, str):
        return (path.parent / Path(value).expanduser()).resolve()
    if name == "engines" and isinstance(value, dict):
        return {pool: _addresses(path, pool, said) for pool, said in value.items()}
    if name == "indexes" and isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
        return {index: str((path.parent / Path(v).expanduser()).resolve()) for index, v in value.items()}
    if name == "tenants" and isinstance(value, dict):
        try:
            return tenants_from(value)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if name == "policy" and isinstance(value, str):
        return value
    if name == "record" and isinstance(value, bool):
        return value
    if name == "max_inflight" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    wanted = {
        "engines": "a table of pool = 'address' or ['address', …]",
        "indexes": "a table of name = 'folder'",
        "max_inflight": "a whole number above 0",
        "record": "true or false",
        "tenants": "a table of [tenants.NAME] with weight = 1",
    }.get(name, "a string")
    raise InputError(f"{path}: setting {name!r} is {value!r}, expected {wanted}")


def _addresses(path: Path, pool: str, said: Any) -> str | tuple[str, ...]:
    if isinstance(said, str):
        return said
    if isinstance(said, list) and said and all(isinstance(address, str) for address in said):
        return tuple(said)
    raise InputError(f"{path}: engine pool {pool!r} is {said!r}, expected an address or a list of them")


def _user_dir(kind: str) -> Path:
    """The platform's folder for an application's files of a kind ("cache" or "data")."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / {"cache": "Caches", "data": "Application Support"}[kind] / "sage"
    variable, fallback = {"cache": ("XDG_CACHE_HOME", ".cache"), "data": ("XDG_DATA_HOME", ".local/share")}[
        kind
    ]
    base = os.environ.get(variable)
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / fallback) / "sage"
