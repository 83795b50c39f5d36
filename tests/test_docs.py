"""Every page is true: its Python runs and prints what it says, its files load, its commands and links exist.

Blocks of one page run in order and share names. A comment above a block says what is special about it:
``<!-- models -->``: it needs the embedded models; ``<!-- ray -->``: a Ray cluster of two nodes; ``<!-- output -->``: it is what the block before printed,
``…`` standing for anything.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import importlib.util
import inspect
import io
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args

import msgspec
import pytest

import sage
from sage import Pipeline, errors, events
from sage.bench.audit import CHECKS
from sage.bench.metrics import LoadSummary
from sage.engines.base import ENGINES
from sage.graph import form
from sage.graph.step import Step
from sage.ops import OPERATORS, flow, generate, search
from sage.ops.functions import FUNCTIONS
from sage.runtime.figures import LEAST
from sage.runtime.options import PRIORITIES, RunArguments
from sage.runtime.summary import Summary
from sage.scheduling.policy import AXES, PRESETS
from sage.settings import VARIABLES, Settings
from sage.stream import Stream
from sage.stream.aggregates import AGGREGATES
from sage.stream.form import KINDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]
REGISTRIES = (ENGINES, FUNCTIONS, OPERATORS, PRESETS, *AXES.values())

MARKS = {"models", "output", "ray"}
BLOCK = re.compile(r"(?:<!-- (?P<mark>[\w ]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```\n", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
PATH = re.compile(r"`((?:src|tests|docs|examples|benchmarks)/[\w./-]+)`")


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    mark: str  # "" if there is none
    text: str


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    text = text_of(page)
    return tuple(
        Block(
            text.count("\n", 0, found.start("text")) + 1,
            found["language"],
            found["mark"] or "",
            found["text"],
        )
        for found in BLOCK.finditer(text)
    )


@cache
def all_docs() -> str:
    return "\n".join(map(text_of, PAGES))


def pages_with(*languages: str, mark: str | None = None) -> list[Any]:
    def fits(block: Block) -> bool:
        return block.language in languages and (mark is None or block.mark == mark)

    return [pytest.param(page, id=named(page)) for page in PAGES if any(map(fits, blocks_of(page)))]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ---- Python


@pytest.fixture
def page_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, a home with the cached models, and registries that forget what a page registers."""
    models = Settings.load().models_dir
    home = tmp_path / "home"
    home.mkdir()
    if models.is_dir():
        (home / "models").symlink_to(models.resolve())
    monkeypatch.setenv("SAGE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_members", dict(registry._members))  # type: ignore[attr-defined]  # a Registry
    return tmp_path


class Page:
    """Runs the blocks of one page, as one would in a notebook: ``await`` may stand anywhere."""

    def __init__(self, path: Path, runner: asyncio.Runner) -> None:
        self._path = path
        self._runner = runner
        self._module = sys.modules["page"] = ModuleType("page")  # where what it defines is looked up by name
        self._printed = ""

    def take(self, block: Block) -> None:
        if block.mark == "output":
            assert looks_like(self._printed, block.text), f"{self._at(block)}: printed\n{self._printed}"
        elif block.language == "python":
            self._run(block)
        elif block.language == "yaml":
            (Stream if block.text.startswith("stream:") else Pipeline).from_yaml(block.text)
        elif block.language == "toml":
            settings_in(block.text)

    def _run(self, block: Block) -> None:
        code = compile(
            "\n" * (block.line - 1) + block.text, self._path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        with contextlib.redirect_stdout(io.StringIO()) as out:
            found = eval(code, vars(self._module))
            if inspect.iscoroutine(found):
                self._runner.run(found)
        self._printed = out.getvalue()

    def _at(self, block: Block) -> str:
        return f"{named(self._path)}:{block.line}"


def looks_like(printed: str, shown: str) -> bool:
    pattern = ".*?".join(map(re.escape, shown.strip().split("…")))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def settings_in(text: str) -> Settings:
    Path("sage.toml").write_text(text, encoding="utf-8")
    try:
        return Settings.load(Path.cwd())
    finally:
        Path("sage.toml").unlink()


def run_page(path: Path, *allowed: str) -> None:
    """Run a page's blocks, those that need something only where that is allowed."""
    with asyncio.Runner() as runner:
        page = Page(path, runner)
        skipped = False
        for block in blocks_of(path):
            if block.mark != "output":
                skipped = block.mark in {"models", "ray"} - set(allowed)
            if not skipped:
                page.take(block)


@pytest.mark.slow
@pytest.mark.usefixtures("page_home")
@pytest.mark.parametrize("page", pages_with("python", "yaml", "toml"))
def test_what_stands_on_a_page_runs_loads_and_prints_what_it_says(page: Path) -> None:
    run_page(page)


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.usefixtures("page_home")
@pytest.mark.parametrize("page", pages_with("python", mark="models"))
def test_what_stands_on_a_page_runs_on_real_models(page: Path) -> None:
    run_page(page, "models")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("page_home", "ray_cluster")
@pytest.mark.parametrize("page", pages_with("python", mark="ray"))
def test_what_stands_on_a_page_runs_on_a_ray_cluster(page: Path) -> None:
    run_page(page, "ray")


def test_a_page_whose_output_differs_is_caught(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        page = Page(ROOT / "docs" / "x.md", runner)
        page.take(Block(1, "python", "", "print(1 + 1)\n"))
        page.take(Block(2, "text", "output", "2\n"))
        with pytest.raises(AssertionError, match="printed"):
            page.take(Block(3, "text", "output", "3\n"))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_marks_of_a_page_are_known(page: Path) -> None:
    assert {block.mark for block in blocks_of(page)} <= MARKS | {""}
    assert text_of(page).count("```") == 2 * len(blocks_of(page)), "a block the tests do not see"


# ---- commands


@cache
def generator() -> Any:
    """docs/generate.py, imported."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands_in(page: Path) -> Iterator[tuple[int, list[str]]]:
    """The command lines on a page, continued lines joined, prompts and comments taken off."""
    for block in blocks_of(page):
        if block.language not in {"sh", "console"}:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.language == "console" and not line.startswith("$ "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and "=" in words[0]:
                words.pop(0)
            if words:
                yield block.line, words


def refusal(words: list[str]) -> str | None:
    """Why the command line of SAGE does not take these words; None if it does. Nothing is run."""
    command = generator().command()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context = command.make_context("sage", words)
            while getattr(context.command, "commands", None):
                rest = [*getattr(context, "_protected_args", ()), *context.args]
                name, command, rest = context.command.resolve_command(context, rest)
                context = command.make_context(name, rest, parent=context)
    except Exception as error:  # noqa: BLE001 - whatever the parser raises is its answer
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_on_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line, words in commands_in(page):
        at = f"{named(page)}:{line}: {shlex.join(words)}"
        if words[0] == "sage":
            assert refusal(words[1:]) is None, f"{at}: {refusal(words[1:])}"
        elif words[0] == "make":
            goals = {word for word in words[1:] if "=" not in word}
            assert goals <= targets, f"{at}: no such target"


def test_an_unknown_option_on_a_page_is_caught() -> None:
    assert refusal(["show", "x.yaml", "--mermade"]) is not None
    assert refusal(["shew"]) is not None


@pytest.mark.parametrize("name", ["../README", "cli", "policies", "engines"])
def test_a_generated_page_is_current(name: str) -> None:
    page = DOCS / f"{name}.md"
    assert generator().written(page) == text_of(page), "type make docs"


# ---- links


def slug(heading: str) -> str:
    bare = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", bare.lower()).strip().replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    prose = BLOCK.sub("", text_of(page))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    prose = BLOCK.sub("", text_of(page))
    for link in LINK.finditer(prose):
        target, _, anchor = link["target"].partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{named(page)}: {link['target']} leads nowhere"
        if anchor and path.suffix == ".md":
            assert anchor in anchors_of(path), f"{named(page)}: no heading {link['target']}"
    for path_name in PATH.findall(prose):
        assert (ROOT / path_name).exists(), f"{named(page)}: there is no {path_name}"


# ---- nothing is left out


def fields_of(of: Any) -> list[str]:
    """Of a dataclass or a msgspec Struct."""
    return [
        item.name for item in (dataclasses if dataclasses.is_dataclass(of) else msgspec.structs).fields(of)
    ]


EVENTS: tuple[Any, ...] = get_args(events.Event)

#: Methods of a step that say something of it; each returns a new step.
MODIFIERS = [
    name
    for name, member in vars(Step).items()
    if inspect.isfunction(member) and not name.startswith("_") and member.__annotations__["return"] == "Step"
]

#: Page -> the names that must stand on it as code, whoever adds them.
PROMISED: dict[str, list[str]] = {
    "docs/pipelines.md": [
        *(f"`{name}`" for name in OPERATORS),
        *(
            f"`{name}"
            for name in (*inspect.signature(generate).parameters, *inspect.signature(search).parameters)
        ),
        *(f"`{name}`" for name in (*RunArguments.__annotations__, *PRIORITIES)),
        *(f"`.{name}(" for name in MODIFIERS),
        *(f"`{name}`" for name in form.MODIFIERS),
    ],
    "docs/control-flow.md": [f"{name}(" for name in flow.__all__ if name != "nested"],
    "docs/engines.md": [
        *(f"{scheme}:" for scheme in ENGINES if scheme != "fake"),
        *(f"`{name}`" for name in VARIABLES),
        *(f"`{name}`" for name in fields_of(Settings)),
        *(f"`{fault}`" for fault in get_args(errors.EngineFault)),
    ],
    "docs/policies.md": [
        *(f"`{name}`" for registry in (PRESETS, *AXES.values()) for name in registry),
        *(f"`{axis}`" for axis in AXES),
    ],
    "docs/benchmarking.md": [
        *(f"`{field}`" for field in fields_of(LoadSummary)),
        *(f"`{name}`" for name in CHECKS),
    ],
    "docs/streams.md": [
        *(f"`{name}`" for name in AGGREGATES),
        *(f"{name}(" for name in KINDS),
        *(f"`{option}" for options in KINDS.values() for option in options if option in {"every", "wait"}),
    ],
    "docs/metrics.md": [
        *(f"`{field}`" for kind in EVENTS for field in fields_of(kind)),
        *(f"`{kind.__struct_config__.tag}`" for kind in EVENTS),
        *(f"`{field}`" for field in fields_of(Summary)),
        *(f"`{name}`" for name in LEAST),
    ],
}


@pytest.mark.parametrize("page", PROMISED)
def test_a_page_names_everything_there_is(page: str) -> None:
    text = text_of(ROOT / page)
    assert [name for name in PROMISED[page] if name not in text] == []


def test_every_public_name_is_told_of() -> None:
    assert [
        name for name in (*sage.__all__, *sage.ops.__all__) if not re.search(rf"\b{name}\b", all_docs())
    ] == []


def test_every_error_is_told_of() -> None:
    tree = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.SageError)
    ]
    assert [name for name in tree if f"`{name}`" not in all_docs()] == []


def test_every_verb_of_the_command_line_is_told_of() -> None:
    verbs = generator().command().commands
    assert [verb for verb in verbs if f"sage {verb}" not in all_docs()] == []
