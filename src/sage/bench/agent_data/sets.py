"""A set of tasks for agents, however it was written.

A folder in SAGE's own form holds ``tools.jsonl`` (``name``, ``description``, ``parameters`` as JSON schema) and any of:

* ``selection.jsonl``: ``id``, ``query``, ``gold`` (names; empty: no tool fits), and, if not every tool is offered,
  ``among``; ``group`` where several kinds are kept apart
* ``timing.jsonl``: ``id``, ``query``, ``label`` ("call", "ask", "answer", "decline"), and ``among``
* ``planning.jsonl``: ``id``, ``query``, ``gold`` (a name per step), ``edges`` (pairs of places), and ``among``
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sage.errors import InputError
from sage.ops.agents.tools import Tool, Toolbox
from sage.registry import Registry

__all__ = ["FORMATS", "AgentSet", "Format", "SetMaker", "Task", "json_lines", "picked", "read_agent_set"]

#: What upstream calls types, and what JSON schema does; anything else says nothing.
_TYPES = {
    "dict": "object",
    "hashmap": "object",
    "float": "number",
    "double": "number",
    "long": "integer",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
    "tuple": "array",
    "list": "array",
    "arraylist": "array",
    **{name: name for name in ("object", "array", "string", "integer", "number", "boolean")},
}


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a set."""

    id: str
    query: str
    gold: tuple[str, ...] = ()  # tools: those that are right; of a plan, one per step
    edges: tuple[tuple[int, int], ...] = ()  # of a plan: the second step needs the result of the first
    label: str = ""  # of a decision
    among: tuple[str, ...] | None = None  # the tools offered; None: all
    group: str = ""


@dataclass(frozen=True, slots=True)
class AgentSet:
    """Tasks and the tools they are about.

    Attributes:
        name: what it is called in results.
        tools: none of them can be called.
        tasks: kind ("selection", "timing", "planning") -> its items.
        sha256: file -> hash of its bytes.
    """

    name: str
    tools: Toolbox
    tasks: Mapping[str, tuple[Task, ...]]
    sha256: Mapping[str, str]

    def of(self, kind: str, group: str | None = None) -> tuple[Task, ...]:
        """The tasks of a kind, or of one group among them.

        Raises:
            InputError: there are none.
        """
        tasks = self.tasks.get(kind, ())
        if not tasks:
            have = ", ".join(map(repr, self.tasks)) or "nothing"
            raise InputError(f"{self.name}: has no tasks of {kind}; it has {have}")
        groups = sorted({task.group for task in tasks})
        if group is not None and group not in groups:
            raise InputError(
                f"{self.name}: no group {group!r} of {kind}; it has {', '.join(map(repr, groups))}"
            )
        return tuple(task for task in tasks if group in {None, task.group})


class SetMaker:
    """Puts a set together from files as upstream wrote them.

    Tools of one name that are described differently are told apart by ``~2``, ``~3`` behind it.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self._keys: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._tools: list[Tool] = []
        self._tasks: dict[str, list[Task]] = {}
        self._sha256: dict[str, str] = {}

    def text(self, file: str) -> bytes:
        """What is in a file; its hash is kept.

        Raises:
            InputError: it cannot be read.
        """
        try:
            content = (self.root / file).read_bytes()
        except OSError as error:
            raise InputError(f"{self.root / file}: cannot be read: {error.strerror}") from error
        self._sha256[file] = hashlib.sha256(content).hexdigest()
        return content

    def lines(self, file: str) -> Iterator[Any]:
        """The JSON lines of a file."""
        yield from json_lines(self.text(file), str(self.root / file))

    def whole(self, file: str) -> Any:
        """The one JSON value of a file.

        Raises:
            InputError: it is none.
        """
        try:
            return msgspec.json.decode(self.text(file))
        except msgspec.DecodeError as error:
            raise InputError(f"{self.root / file}: is no JSON: {error}") from error

    def has(self, file: str) -> bool:
        """Whether there is such a file."""
        return (self.root / file).is_file()

    def add_tool(self, name: str, description: str, parameters: Mapping[str, Any] | None = None) -> str:
        """The key of a tool, which is described now or was before."""
        schema = plain_schema(parameters or {})
        what = msgspec.json.encode((description, schema), order="sorted").decode()
        if (name, what) not in self._keys:
            number = self._counts[name] = self._counts.get(name, 0) + 1
            key = name if number == 1 else f"{name}~{number}"
            self._keys[name, what] = key
            self._tools.append(Tool(name=key, description=description, parameters=schema))
        return self._keys[name, what]

    def add(self, kind: str, task: Task) -> None:
        """One more task."""
        self._tasks.setdefault(kind, []).append(task)

    def made(self) -> AgentSet:
        """The set.

        Raises:
            InputError: it has no task, or one names a tool that is not described.
        """
        box = Toolbox(self.name, *self._tools)
        if not self._tasks:
            raise InputError(f"{self.root}: no task was found in it")
        for kind, tasks in self._tasks.items():
            seen: set[str] = set()
            for task in tasks:
                if task.id in seen:
                    raise InputError(f"{self.root}: {kind} has two tasks {task.id!r}; ids must differ")
                seen.add(task.id)
                for name in (*task.gold, *(task.among or ())):
                    if name not in box:
                        raise InputError(
                            f"{self.root}: {kind} task {task.id!r} names tool {name!r}, which is not described"
                        )
        tasks_of = {kind: tuple(tasks) for kind, tasks in self._tasks.items()}
        return AgentSet(self.name, box, tasks_of, dict(self._sha256))


def json_lines(content: bytes, where: str) -> Iterator[Any]:
    """JSON values, one a line.

    Raises:
        InputError: a line is none, with its number.
    """
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                yield msgspec.json.decode(line)
            except msgspec.DecodeError as error:
                raise InputError(f"{where}:{number}: is no JSON: {error}") from error


def plain_schema(said: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in any of the upstream forms as a JSON schema of names, types and descriptions.

    >>> plain_schema({"type": "dict", "properties": {"x": {"type": "float"}}, "required": ["x"]})
    {'type': 'object', 'properties': {'x': {'type': 'number'}}, 'required': ['x']}
    >>> plain_schema({"text": {"type": "str", "description": "what", "required": True}})
    {'type': 'object', 'properties': {'text': {'type': 'string', 'description': 'what'}}, 'required': ['text']}
    """
    inner = said.get("properties")
    if not isinstance(inner, Mapping):
        inner = said if all(isinstance(about, Mapping) for about in said.values()) else {}
    required = said.get("required")
    if not isinstance(required, list):
        required = [name for name, about in inner.items() if about.get("required") is True]
    properties = {}
    for name, about in inner.items():
        kept: dict[str, Any] = {}
        kind = _TYPES.get(str(about.get("type", "")).lower())
        if kind:
            kept["type"] = kind
        if isinstance(about.get("description"), str):
            kept["description"] = about["description"]
        properties[str(name)] = kept
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in required if name in properties],
    }


def picked(tasks: Sequence[Task], count: int | None) -> list[Task]:
    """That many tasks, picked by the sha256 of their ids: the same ones in any order of the file."""
    return sorted(tasks, key=lambda task: hashlib.sha256(task.id.encode()).digest())[:count]


@dataclass(frozen=True, slots=True)
class Format:
    """One form that sets come in.

    Attributes:
        about: which files it is known by, for messages and docs.
        fits: whether a folder is of this form.
        read: the set in a folder.
    """

    about: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], AgentSet]


FORMATS: Registry[Format] = Registry("format of tasks for agents")


def read_agent_set(folder: Path) -> AgentSet:
    """The set in a folder, whatever form it has.

    Raises:
        InputError: no form fits, or a file is broken.
    """
    from sage.bench.agent_data import bfcl, metatool, nestful, seal_tools, when2call  # noqa: F401 - they register

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one with tasks for agents, or the word bfcl")
    for form in FORMATS.values():
        if form.fits(folder):
            return form.read(folder)
    known = "; ".join(f"{name}: {form.about}" for name, form in FORMATS.items())
    raise InputError(f"{folder} holds no tasks in a known form. Known forms are {known}")


def _read_own(folder: Path) -> AgentSet:
    maker = SetMaker(folder.resolve().name, folder)
    for said in maker.lines("tools.jsonl"):
        maker.add_tool(said["name"], said.get("description", ""), said.get("parameters"))
    for kind in ("selection", "timing", "planning"):
        if maker.has(f"{kind}.jsonl"):
            for number, said in enumerate(maker.lines(f"{kind}.jsonl"), 1):
                try:
                    maker.add(kind, msgspec.convert(said, Task))
                except msgspec.ValidationError as error:
                    raise InputError(f"{folder / kind}.jsonl: task {number}: {error}") from error
    return maker.made()


def any_file(*names: str) -> Callable[[Path], bool]:
    """Whether a folder has one of these files."""
    return lambda folder: any((folder / name).is_file() for name in names)


FORMATS["sage"] = Format(
    "tools.jsonl with selection.jsonl, timing.jsonl or planning.jsonl",
    any_file("selection.jsonl", "timing.jsonl", "planning.jsonl"),
    _read_own,
)


def edges_of(arguments: Iterable[Mapping[str, Any]], labels: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Which step needs which: those in whose arguments the label of another stands."""
    found = []
    for place, said in enumerate(arguments):
        text = msgspec.json.encode(said).decode()
        found += [(before, place) for before, label in enumerate(labels[:place]) if label and label in text]
    return tuple(found)
