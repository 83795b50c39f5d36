"""Reads all of ``src/sage`` without importing it and holds it to the rules of the house.

Each rule is a function from one module to its faults and is tried on a planted violation first. Run this file
as a script to see the line count of every file.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

#: Rooms from the top down; a row imports only from rows below it. A room's own modules import each other.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"cli"}),
    frozenset({"bench", "testing"}),
    frozenset({"stream"}),
    frozenset({"façades"}),
    frozenset({"runtime", "ops"}),
    frozenset({"scheduling", "engines", "index"}),
    frozenset({"graph"}),
    frozenset({"ground"}),
)
FLOOR: dict[str, int] = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
GROUND = frozenset({"errors", "events", "clock", "registry", "settings", "tasks", "tenants"})
FACADES = frozenset({"", "default", "pipeline", "session"})

#: Imports between rooms of one floor that are allowed all the same: (room, module).
NEIGHBOURS = frozenset(
    {
        ("bench", "sage.testing.behaviour"),  # the emulated server is an engine of the experiments
        ("bench", "sage.testing.server"),
        ("index", "sage.engines.base"),
        ("runtime", "sage.ops.base"),
    }
)

#: Third-party package -> the only modules that may import it ("x." means all below x).
CONFINED: dict[str, tuple[str, ...]] = {
    "aiohttp": ("sage.engines.openai", "sage.testing.server"),
    "faiss": ("sage.index.hnsw",),
    "matplotlib": ("sage.bench.figures",),
    "mcp": ("sage.ops.agents.mcp",),
    "msgspec": ("sage.",),
    "numpy": ("sage.",),
    "opentelemetry": ("sage.runtime.telemetry",),
    "pyarrow": ("sage.stream.parquet",),
    "pypdf": ("sage.index.pages",),
    "ray": (
        "sage.runtime.ray",
        "sage.runtime.ray_cluster",
        "sage.runtime.ray_nodes",
        "sage.runtime.ray_engine",
        "sage.runtime.ray_host",
        "sage.runtime.ray_worker",
    ),
    "rich": ("sage.cli.",),
    "tokenizers": ("sage.engines.bert",),
    "typer": ("sage.cli.",),
    "xllamacpp": ("sage.engines.llama",),
    "yaml": ("sage.graph.yaml",),
    "yarl": ("sage.engines.openai", "sage.testing.server"),  # how aiohttp writes addresses
}

#: Standard modules that a room must do without; under TYPE_CHECKING they are only names.
BARRED: dict[str, frozenset[str]] = {
    "scheduling": frozenset({"asyncio", "random", "time", "threading", "socket"}),
    "graph": frozenset({"asyncio", "threading", "socket"}),
}

#: Dotted name -> the modules that may say it, and what to do instead.
SAYINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "pickle": ((), "unpickling runs what it reads: use msgspec"),
    "marshal": ((), "use msgspec"),
    "shelve": ((), "use msgspec"),
    "eval": ((), "never evaluate data"),
    "exec": ((), "never evaluate data"),
    "yaml.load": ((), "use the safe loader of sage.graph.yaml"),
    "yaml.unsafe_load": ((), "use the safe loader of sage.graph.yaml"),
    "os.environ": (("sage.settings",), "the environment is read in settings.py"),
    "os.getenv": (("sage.settings",), "the environment is read in settings.py"),
    "print": (("sage.cli.",), "only the command line prints"),
    "asyncio.create_task": ((), "use asyncio.TaskGroup"),
    "asyncio.ensure_future": ((), "use asyncio.TaskGroup"),
    "asyncio.gather": ((), "use asyncio.TaskGroup"),
}

BANNED_ENDINGS = re.compile(r".*(Manager|Handler|Helper|Utils?|Service|Wrapper|Impl|V\d+)")
BANNED_MODULES = frozenset({"utils", "util", "common", "helpers", "misc"})
MAX_LINES = 600


@dataclass(frozen=True)
class Import:
    """One imported name, relative ones resolved: ``sage.graph.plan.Plan``."""

    name: str
    line: int
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """One file of the tree, read."""

    name: str  # dotted: "sage.graph.plan"; a package is named as such
    tree: ast.Module
    num_lines: int
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        return room_of(self.name)


def room_of(module: str) -> str:
    """The room a dotted name below ``sage`` belongs to; names of things inside a module count too."""
    first = f"{module}.".split(".")[1]
    if first in GROUND:
        return "ground"
    return first if first in FLOOR else "façades"


def read_module(path: Path, root: Path) -> Module:
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path))
    package = name if is_package else name.rpartition(".")[0]
    return Module(name, tree, text.count("\n"), tuple(imports_of(tree, package)))


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    typing_only = {
        id(inner)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, id(node) in typing_only)


def read_tree(root: Path) -> list[Module]:
    return [read_module(path, root) for path in sorted(root.rglob("*.py"))]


def is_allowed(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == one or (one.endswith(".") and f"{module}.".startswith(one)) for one in allowed)


# ---- the rules: a module in, its faults out


def imports_go_down(module: Module) -> Iterator[str]:
    for used in module.imports:
        if used.name.split(".")[0] != "sage":
            continue
        other = room_of(used.name)
        is_neighbour = any((module.room, used.name[:end]) in NEIGHBOURS for end in dots(used.name))
        if other != module.room and FLOOR[other] <= FLOOR[module.room] and not is_neighbour:
            yield f"{used.line}: {module.room} imports {used.name}, which is not below it"


def dots(name: str) -> list[int]:
    """Where each dotted beginning of a name ends."""
    return [at for at, letter in enumerate(name) if letter == "."] + [len(name)]


def every_module_has_a_room(module: Module) -> Iterator[str]:
    first = f"{module.name}.".split(".")[1]
    if first not in FLOOR.keys() | GROUND | FACADES:
        yield f"1: {first} is no room of the house; add it to FLOORS with its place"


def packages_stay_in_their_file(module: Module) -> Iterator[str]:
    for used in module.imports:
        top = used.name.split(".")[0]
        if top in sys.stdlib_module_names or top in {"sage", "__future__"} or used.typing_only:
            continue
        if top not in CONFINED:
            yield f"{used.line}: imports {top}, which is no dependency of SAGE"
        elif not is_allowed(module.name, CONFINED[top]):
            yield f"{used.line}: imports {top}, allowed only in {', '.join(CONFINED[top])}"


def rooms_do_without_barred_modules(module: Module) -> Iterator[str]:
    barred = BARRED.get(module.room, frozenset())
    for used in module.imports:
        if used.name.split(".")[0] in barred and not used.typing_only:
            yield f"{used.line}: {module.room} imports {used.name}; what it needs is passed in"


def forbidden_things_are_not_said(module: Module) -> Iterator[str]:
    said = {(used.line, used.name) for used in module.imports} | {
        (node.lineno, ast.unparse(node))
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.Name)
    }
    for line, name in sorted(said):
        for forbidden, (allowed, instead) in SAYINGS.items():
            if (name == forbidden or name.startswith(f"{forbidden}.")) and not is_allowed(
                module.name, allowed
            ):
                yield f"{line}: says {name}: {instead}"


def files_stay_small(module: Module) -> Iterator[str]:
    if module.num_lines > MAX_LINES:
        yield f"{module.num_lines} lines, at most {MAX_LINES}: look for the seam"


def modules_say_what_they_are_for(module: Module) -> Iterator[str]:
    if module.tree.body and ast.get_docstring(module.tree) is None:
        yield "1: has no docstring"


def names_say_what_things_are(module: Module) -> Iterator[str]:
    if module.name.rpartition(".")[2] in BANNED_MODULES:
        yield f"1: {module.name} says nothing of what is in it"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and BANNED_ENDINGS.fullmatch(node.name):
            yield f"{node.lineno}: class {node.name}: call it what it is"


Rule = Callable[[Module], Iterator[str]]

#: Each rule with files that break it.
RULES: dict[Rule, dict[str, str]] = {
    imports_go_down: {
        "graph/plan.py": "from sage.runtime import driver",
        "scheduling/core.py": "from ..engines.base import Engine",
        "registry.py": "def f():\n    import sage.graph.plan",
        "index/store.py": "from sage.engines.openai import open_openai",
        "runtime/local.py": "from sage import Pipeline",
    },
    every_module_has_a_room: {"cooking/soup.py": "", "tools.py": ""},
    packages_stay_in_their_file: {"ops/models.py": "import aiohttp", "graph/step.py": "import requests"},
    rooms_do_without_barred_modules: {"scheduling/order.py": "import random", "graph/a.py": "import asyncio"},
    forbidden_things_are_not_said: {
        "events.py": "import pickle",
        "ops/flow.py": "eval('1')",
        "graph/yaml.py": "import yaml\nyaml.load('')",
        "engines/base.py": "from os import environ",
        "runtime/driver.py": "import asyncio\nasyncio.create_task(f())",
        "index/bm25.py": "print('here')",
    },
    files_stay_small: {"clock.py": "\n" * (MAX_LINES + 1)},
    modules_say_what_they_are_for: {"clock.py": "x = 1"},
    names_say_what_things_are: {"ops/flow.py": "class FlowManager: ...", "engines/utils.py": ""},
}

#: Files that no rule may object to.
CLEAN: dict[str, str] = {
    "__init__.py": "",
    "cli/show.py": '"""A verb."""\nimport typer\nfrom sage import Pipeline\nprint(Pipeline)',
    "index/store.py": '"""Rows."""\nfrom sage.engines.base import Engine\nimport numpy as np',
    "scheduling/order.py": '"""Order."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random',
    "graph/evaluate.py": '"""Steps."""\nfrom sage.errors import Fault\nfrom . import step\nstep.eval(1)',
    "settings.py": '"""Settings."""\nimport os\nos.environ.get("HOME")',
}


def faults_of(rule: Rule, modules: list[Module]) -> list[str]:
    return [f"src/{module.name.replace('.', '/')}.py:{fault}" for module in modules for fault in rule(module)]


def plant(root: Path, files: dict[str, str]) -> list[Module]:
    for name, text in files.items():
        path = root / "sage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_tree(root)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    faults = faults_of(rule, read_tree(SOURCE))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        pytest.param(rule, name, id=f"{rule.__name__}-{name}")
        for rule, files in RULES.items()
        for name in files
    ],
)
def test_a_planted_fault_is_found(rule: Rule, name: str, tmp_path: Path) -> None:
    assert len(faults_of(rule, plant(tmp_path, {name: RULES[rule][name]}))) == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_clean_tree_has_no_fault(rule: Rule, tmp_path: Path) -> None:
    assert faults_of(rule, plant(tmp_path, CLEAN)) == []


def sizes() -> str:
    """A line per file, largest first, and the sum."""
    modules = sorted(read_tree(SOURCE), key=lambda module: -module.num_lines)
    rows = [f"{module.num_lines:6}  {module.name}" for module in modules if module.num_lines]
    return "\n".join([*rows, f"{sum(module.num_lines for module in modules):6}  lines in src/"])


if __name__ == "__main__":
    sys.stdout.write(sizes() + "\n")
