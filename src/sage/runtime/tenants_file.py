"""Tenants from a file of their own: the same table as ``[tenants]`` of ``sage.toml``, as TOML, YAML or JSON."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from sage.errors import InputError, nearest
from sage.graph.yaml import load_data
from sage.tenants import Tenant, tenants_from

__all__ = ["read_tenants"]


def read_tenants(path: Path) -> dict[str, Tenant]:
    """The tenants under ``tenants`` in a file.

    Raises:
        InputError: it cannot be read, says something else, or a tenant of it cannot be.
    """
    if path.suffix.lower() == ".toml":
        try:
            said: object = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not TOML: {error}") from error
    else:
        said = load_data(path)
    if not isinstance(said, dict) or "tenants" not in said:
        raise InputError(
            f"{path}: expected a table 'tenants' with a table for each, such as acme: {{weight: 1}}"
        )
    for name in said:
        if name != "tenants":
            raise InputError(f"{path}: unknown entry {name!r}: {nearest(str(name), ['tenants'])}")
    try:
        return tenants_from(said["tenants"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
