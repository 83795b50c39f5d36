"""Tools: what an agent may call, how each is described to a model, and the rules a call is held to."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from sage.errors import InputError, nearest
from sage.graph.body import Body, body_from
from sage.graph.jsonschema import check_schema, inlined, problem
from sage.graph.signatures import signature_of
from sage.registry import Registry

__all__ = ["TOOLBOXES", "Call", "Tool", "ToolResult", "Toolbox", "register_tools", "tool"]

TIMEOUT_S = 30.0  # of one call, where neither the tool nor its box says
MAX_CHARS = 8_000  # of a result, as the model reads it
MAX_AT_ONCE = 8  # calls of one tool

_ARGUMENT = re.compile(r"^\s{4,}\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(\S.*)$")

#: How a call can end. All but "done" are for the model to read, and none of them fails the job.
#: "unknown" no tool has the name · "refused" the tool is not allowed · "invalid" the arguments do not fit ·
#: "failed" it raised, or gave what is no JSON · "timeout" it took too long · "spent" it may not be called again
Ending = Literal["done", "unknown", "refused", "invalid", "failed", "timeout", "spent"]


class Call(msgspec.Struct, frozen=True):
    """One call that is wanted, as a model wrote it: nothing in it is checked yet."""

    tool: str
    arguments: Any = msgspec.field(default_factory=dict[str, Any])
    id: str = ""


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a call."""

    tool: str
    outcome: Ending
    text: str  # what the model reads: the value, or what went wrong
    value: Any = None  # what the tool gave; None where it failed, or was too long to be kept
    took_s: float = 0.0
    id: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.outcome == "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something a model may ask for. Made by :func:`tool`, or from a description alone, which cannot be called.

    Attributes:
        name: what a model calls it by.
        description: when to use it.
        parameters: JSON schema of the object of its arguments. They are checked before every call.
        run: takes the arguments as one mapping.
        body: a pipeline that is run instead, within the job that calls it.
        is_async: ``run`` is awaited; otherwise it is called in a thread of its own.
        timeout_s: of one call; None: the box's.
        max_concurrency: calls at once on one event loop; None: the box's.
        max_calls: calls within one run of an agent; None: as many as the agent may make.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    run: Callable[[Mapping[str, Any]], Any] | None = None
    body: Body | None = None
    is_async: bool = False
    timeout_s: float | None = None
    max_concurrency: int | None = None
    max_calls: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f"a tool's name is {self.name!r}, expected text such as 'get_weather'")
        at = f"tool {self.name!r}"
        if not isinstance(self.parameters, Mapping) or self.parameters.get("type") != "object":  # type: ignore[redundant-expr]  # a caller may not check types
            raise InputError(f'{at}: parameters must be a JSON schema with "type": "object"')
        try:
            check_schema(self.parameters)
            object.__setattr__(self, "parameters", inlined(self.parameters))
        except InputError as error:
            raise InputError(f"{at}: {error}") from error
        for name in ("timeout_s", "max_concurrency", "max_calls"):
            if (limit := getattr(self, name)) is not None and not limit > 0:
                raise InputError(f"{at}: {name} is {limit!r}, expected a number above 0")

    def definition(self) -> dict[str, Any]:
        """As OpenAI's API and most models know it."""
        about = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": about}

    def fault(self, arguments: Any) -> str | None:
        """What is wrong with arguments that a model wrote; None if they may be used."""
        if not isinstance(arguments, Mapping):
            return f"arguments must be an object, got {type(arguments).__name__}"
        known = self.parameters.get("properties", {})
        for name in arguments:
            if name not in known and "additionalProperties" not in self.parameters:
                return f"no parameter {name!r}: {nearest(str(name), known)}"
        return problem(arguments, self.parameters, self.parameters)


def tool(
    made: Any,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    run: Callable[[Mapping[str, Any]], Any] | None = None,
    output: str | None = None,
    timeout_s: float | None = None,
    max_concurrency: int | None = None,
    max_calls: int | None = None,
) -> Tool:
    """A function, a pipeline or a JSON definition as a tool.

    >>> def weather(city: str, days: int = 1) -> str:
    ...     '''What the sky will do.
    ...
    ...     Args:
    ...         city: where.
    ...     '''
    >>> tool(weather).parameters["required"], tool(weather).parameters["properties"]["city"]
    (['city'], {'type': 'string', 'description': 'where.'})

    Args:
        made: a function, whose annotations and docstring describe it; a Pipeline, whose inputs are its parameters; or
            a mapping with ``name``, ``description`` and ``parameters``, alone or inside OpenAI's ``function``.
        name: None: the function's or pipeline's.
        description: None: the first paragraph of the docstring.
        run: for a definition, what takes the arguments as one mapping; without it the tool can be chosen and planned
            with, but not called.
        output: for a pipeline, the field that is its result; None: its record.
        timeout_s: of one call; None: the box's.
        max_concurrency: calls at once; None: the box's.
        max_calls: calls within one run of an agent.

    Raises:
        InputError: it cannot be described, or described arguments could not be checked.
    """
    limits: dict[str, Any] = {
        "timeout_s": timeout_s,
        "max_concurrency": max_concurrency,
        "max_calls": max_calls,
    }
    if isinstance(made, Tool):
        given = {key: value for key, value in limits.items() if value is not None}
        return replace(made, name=name or made.name, description=description or made.description, **given)
    if isinstance(made, Mapping):
        about = made.get("function", made)
        return Tool(
            name=name or about.get("name", ""),
            description=description or about.get("description", ""),
            parameters=about.get("parameters") or {"type": "object", "properties": {}},
            run=run,
            is_async=inspect.iscoroutinefunction(run),
            **limits,
        )
    if run is not None:
        raise InputError("tool: run= belongs to a JSON definition; a function or pipeline is run itself")
    if hasattr(made, "plan"):
        return _of_pipeline(made, name, description, output, limits)
    return _of_function(made, name, description, limits)


def _of_pipeline(
    made: Any, name: str | None, description: str | None, output: str | None, limits: dict[str, Any]
) -> Tool:
    body = body_from("tool", made)
    if output is not None:
        fields = [planned.name for planned in body.plan.steps]
        if output not in fields:
            raise InputError(
                f"tool: pipeline {body.plan.name!r} has no step {output!r}: {nearest(output, fields)}"
            )
        body = Body(body.plan, output)
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
    properties = {
        key: {"type": kinds[kind]} if (kind := body.input_type(key)) in kinds else {"type": "string"}
        for key in body.inputs
    }
    return Tool(
        name=name or body.plan.name,
        description=description or "",
        parameters={"type": "object", "properties": properties, "required": list(properties)},
        body=body,
        **limits,
    )


def _of_function(made: Any, name: str | None, description: str | None, limits: dict[str, Any]) -> Tool:
    signature = signature_of(made)
    if signature.is_stream:
        raise InputError(f"tool {name or made!r}: an async generator has no single result; return a list")
    called = name or str(getattr(made, "__name__", type(made).__name__))
    doc = inspect.getdoc(made) or ""
    said = _argument_texts(doc)
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(made).parameters.values()
        if parameter.default is not parameter.empty
    }
    fields = [
        (p.name, p.type, msgspec.field(default=defaults[p.name]))
        if p.has_default and msgspec_default(defaults[p.name])
        else (p.name, p.type, msgspec.field(default=None))
        if p.has_default
        else (p.name, p.type)
        for p in signature.parameters
    ]
    try:
        form = msgspec.defstruct("Arguments", sorted(fields, key=len), kw_only=True)
        schema = inlined(msgspec.json.schema(form))
    except (TypeError, ValueError, NameError) as error:
        raise InputError(f"tool {called!r}: a model cannot be told its parameters: {error}") from error
    schema.pop("title", None)
    for key, about in schema["properties"].items():
        if key in said:
            about["description"] = said[key]

    def run(arguments: Mapping[str, Any]) -> Any:
        values = msgspec.convert(dict(arguments), form)
        return made(**{key: getattr(values, key) for key in arguments})

    first = " ".join(doc.partition("\n\n")[0].split())
    about = description or first
    return Tool(
        name=called, description=about, parameters=schema, run=run, is_async=signature.is_async, **limits
    )


def msgspec_default(value: Any) -> bool:
    """Whether a schema can show a default; others are left to the function."""
    return value is None or isinstance(value, bool | int | float | str)


def _argument_texts(doc: str) -> dict[str, str]:
    """What the section ``Args:`` of a docstring says of each parameter, in its first line."""
    _, _, rest = doc.partition("Args:\n")
    found: dict[str, str] = {}
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        if match := _ARGUMENT.match(line):
            found[match[1]] = match[2]
    return found


class Toolbox(Mapping[str, Tool]):
    """Tools by name, and the rules for calling them.

    >>> def add(a: int, b: int) -> int:
    ...     "The sum of two numbers."
    ...     return a + b
    >>> box = Toolbox("sums", add)
    >>> list(box), box.only().allowed
    (['add'], frozenset())

    Args:
        name: what YAML and messages call the box.
        *tools: functions, pipelines, JSON definitions or tools.
        allow: names that may be called; None: all of them. A call of any other is refused and logged.
        timeout_s: of one call, where the tool does not say.
        max_chars: of a result as the model reads it; more is cut, and said so.
        max_concurrency: calls of one tool at once, where the tool does not say.

    Raises:
        InputError: a name stands twice, ``allow`` names no tool, or something is no tool.
    """

    def __init__(
        self,
        name: str,
        /,
        *tools: Any,
        allow: Sequence[str] | None = None,
        timeout_s: float = TIMEOUT_S,
        max_chars: int = MAX_CHARS,
        max_concurrency: int = MAX_AT_ONCE,
    ) -> None:
        self.name = name
        self.timeout_s, self.max_chars, self.max_concurrency = timeout_s, max_chars, max_concurrency
        self._tools: dict[str, Tool] = {}
        for made in tools:
            one = tool(made)
            if one.name in self._tools:
                raise InputError(
                    f"toolbox {name!r} has two tools {one.name!r}; give one another name with tool(…, name=…)"
                )
            self._tools[one.name] = one
        for allowed in allow or ():
            if allowed not in self._tools:
                raise InputError(
                    f"toolbox {name!r}: allow names {allowed!r}: {nearest(allowed, self._tools)}"
                )
        for limit in ("timeout_s", "max_chars", "max_concurrency"):
            if not getattr(self, limit) > 0:
                raise InputError(
                    f"toolbox {name!r}: {limit} is {getattr(self, limit)!r}, expected a number above 0"
                )
        self.allowed = frozenset(self._tools if allow is None else allow)
        self.embedded: dict[str, Any] = {}  # embedder's fingerprint -> index of the allowed tools
        self._index: Any = None

    def __getitem__(self, name: str) -> Tool:
        try:
            return self._tools[name]
        except KeyError:
            raise InputError(
                f"toolbox {self.name!r} has no tool {name!r}: {nearest(name, self._tools)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<Toolbox {self.name!r}: {', '.join(self._tools)}>"

    def only(self, *names: str) -> Toolbox:
        """The same box, of which only these tools may be called."""
        return Toolbox(
            self.name,
            *self._tools.values(),
            allow=names,
            timeout_s=self.timeout_s,
            max_chars=self.max_chars,
            max_concurrency=self.max_concurrency,
        )

    def index(self, documents: Callable[[Toolbox], list[Any]]) -> Any:
        """The index of what is written about the allowed tools, by words; made when it is first asked for."""
        if self._index is None:
            from sage.index.tool_index import ToolIndex

            self._index = ToolIndex(documents(self))
        return self._index

    def definitions(self) -> list[dict[str, Any]]:
        """The allowed tools as OpenAI's API and most models know them."""
        return [made.definition() for name, made in self._tools.items() if name in self.allowed]

    def refusal(self, call: Call) -> ToolResult | None:
        """Why a call is not made; None if it may be.

        Nothing a model wrote is trusted: the name must be a tool's, the tool allowed and runnable, and the arguments
        what its schema says.
        """
        if call.tool not in self._tools:
            text = f"there is no tool {call.tool!r}: {nearest(call.tool, sorted(self.allowed))}"
            return ToolResult(tool=call.tool, outcome="unknown", text=text, id=call.id)
        if call.tool not in self.allowed:
            text = f"tool {call.tool!r} is not allowed here"
            return ToolResult(tool=call.tool, outcome="refused", text=text, id=call.id)
        made = self._tools[call.tool]
        if made.run is None and made.body is None:
            text = f"tool {call.tool!r} is only described and cannot be called"
            return ToolResult(tool=call.tool, outcome="refused", text=text, id=call.id)
        if fault := made.fault(call.arguments):
            return ToolResult(tool=call.tool, outcome="invalid", text=f"{call.tool}: {fault}", id=call.id)
        return None


#: Boxes that YAML may name, as ``tools: NAME``.
TOOLBOXES: Registry[Toolbox] = Registry("toolbox")


def register_tools(box: Toolbox) -> Toolbox:
    """Let YAML name a toolbox: ``tools: NAME``. A box of the same name takes the place of the one before."""
    TOOLBOXES.replace(box.name, box)
    return box
