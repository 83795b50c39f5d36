"""What importing SAGE costs and whose files it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sage

SOURCE = Path(__file__).parents[1] / "src"

#: Packages that only come in when something needs them.
HEAVY = frozenset({"aiohttp", "numpy", "pydantic", "ray", "rich", "tokenizers", "typer", "xllamacpp", "yaml"})

#: Rooms that are light as a whole; the YAML form alone needs its parser.
LIGHT = ("sage.graph", "sage.ops", "sage.scheduling", "sage.engines.base")
NEEDS_YAML = "sage.graph.yaml"


def loaded_by(*modules: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after importing some of SAGE's."""
    code = (
        "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_sage_loads_nothing_heavy() -> None:
    assert not loaded_by("sage") & HEAVY


def test_importing_the_light_rooms_loads_nothing_heavy() -> None:
    paths = [path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py")]
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    light = [name for name in sorted(names) if name.startswith(LIGHT) and name != NEEDS_YAML]
    assert not loaded_by(*light) & HEAVY


def test_the_package_under_test_is_the_one_of_this_folder() -> None:
    where = Path(sage.__file__ or "").parent
    assert where.samefile(SOURCE / "sage"), f"tests run against {where}: type make clean, then make install"
