"""Calling a tool: whatever it does, the job goes on, and the model reads what became of it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sage.engines.base import ToolCall
from sage.errors import InputError, SageError
from sage.graph.body import Body
from sage.graph.fields import Argument, Constant, field, getter
from sage.graph.form import Given
from sage.graph.hints import hints_of
from sage.graph.plan import PlannedStep
from sage.graph.step import Step
from sage.graph.values import Record, render
from sage.ops.agents.tools import TOOLBOXES, Call, Tool, Toolbox, ToolResult
from sage.ops.base import OPERATORS, Bodies, Composite, Context, Operator, Work

__all__ = ["as_call", "bodies_of", "box_of", "by_box_name", "call_tool", "given_box"]

BODY = "tool."  # label of a pipeline that is a tool, before its name


def call_tool(call: str, /, *, tools: Toolbox) -> Step:
    """What a tool says to a call that a model wrote.

    The name, the allow-list and the arguments are checked first. A tool that raises, hangs, is not there or gives what
    cannot be read does not fail the job: the outcome says so. A refused call is written to the run's log.

    Args:
        call: a field with the call: a Call, a ToolCall, or a mapping with ``tool`` (or ``name``) and ``arguments``.
        tools: the box it is looked for in.

    Returns:
        A step whose value is a ToolResult.
    """
    arguments: dict[str, Argument] = {"call": field(call), "tools": Constant(_a_box(tools))}
    return Step(operator="call_tool", arguments=arguments, gives=ToolResult, bodies=bodies_of(tools))


def _a_box(tools: Any) -> Toolbox:
    if not isinstance(tools, Toolbox):
        raise InputError(f"tools= is {tools!r}, expected a Toolbox: Toolbox('name', function, …)")
    return tools


def bodies_of(tools: Toolbox) -> dict[str, Body]:
    """The pipelines among the allowed tools, by label."""
    return {BODY + name: made.body for name, made in tools.items() if made.body and name in tools.allowed}


def as_call(said: Any) -> Call:
    """A call in any of the forms that models and APIs write; what cannot be read has the name "".

    >>> as_call({"name": "add", "arguments": '{"a": 1}'})
    Call(tool='add', arguments={'a': 1}, id='')
    """
    if isinstance(said, Call):
        return said
    if isinstance(said, ToolCall):
        said = {"name": said.name, "arguments": said.arguments, "id": said.id}
    if not isinstance(said, Mapping):
        return Call("")
    inner = said.get("function")
    about = inner if isinstance(inner, Mapping) else said
    name = next((about[key] for key in ("tool", "name", "function") if isinstance(about.get(key), str)), "")
    arguments: Any = next((about[key] for key in ("arguments", "parameters", "args") if key in about), {})
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            arguments = arguments[:200]
    return Call(name, arguments if arguments is not None else {}, str(said.get("id", "")))


def _bind(planned: PlannedStep, _context: Context) -> Work:
    box = box_of(planned)
    call_of = getter(planned.arguments["call"])
    caller = Caller(box)

    async def call(record: Record, bodies: Bodies) -> ToolResult:
        return await caller.make(as_call(call_of(record)), bodies)

    return Composite(call)


def box_of(planned: PlannedStep) -> Toolbox:
    """The box of a planned step."""
    said = planned.arguments["tools"]
    assert isinstance(said, Constant)
    box: Toolbox = said.value
    return box


class Caller:
    """Makes the calls of one step."""

    def __init__(self, box: Toolbox) -> None:
        self._box = box
        self._gates: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]]
        self._gates = weakref.WeakKeyDictionary()  # a semaphore belongs to one event loop

    async def make(self, call: Call, bodies: Bodies) -> ToolResult:
        """Check a call, make it, and say what became of it."""
        refusal = self._box.refusal(call)
        if refusal is not None:
            if refusal.outcome == "refused":
                bodies.notice("tool_refused", f"a call of tool {call.tool!r} was asked for and refused")
            return refusal
        made = self._box[call.tool]
        loop = asyncio.get_running_loop()
        limit_s = made.timeout_s or self._box.timeout_s
        began = loop.time()
        try:
            async with asyncio.timeout(limit_s) as limit:
                value = await self._value(made, call.arguments, bodies)
        except TimeoutError as error:
            text = f"it took longer than {limit_s:g} s" if limit.expired() else _said(error)
            outcome = "timeout" if limit.expired() else "failed"
            return self._ended(call, outcome, text, None, loop.time() - began)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._ended(call, "failed", "it was cancelled from inside", None, loop.time() - began)
        except SageError as error:
            return self._ended(call, "failed", str(error), None, loop.time() - began)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tool raises is for the model to read
            return self._ended(call, "failed", _said(error), None, loop.time() - began)
        try:
            text = _text(value)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            why = f"it gave what is no JSON: {error}"
            return self._ended(call, "failed", why, None, loop.time() - began)
        if len(text) > self._box.max_chars:
            bodies.notice(
                "tool_cut",
                f"tool {call.tool!r} gave {len(text):,} characters; {self._box.max_chars:,} are kept",
            )
            value = None
        return self._ended(call, "done", text, value, loop.time() - began)

    async def _value(self, made: Tool, arguments: Mapping[str, Any], bodies: Bodies) -> Any:
        gate = self._gate(made)
        if made.run is not None and not made.is_async:
            return await _in_thread(made.run, arguments, gate)
        async with gate:
            if made.run is not None:
                return await made.run(arguments)
            return await bodies.run(BODY + made.name, dict(arguments), at=f"[{made.name}]")

    def _gate(self, made: Tool) -> asyncio.Semaphore:
        gates = self._gates.setdefault(asyncio.get_running_loop(), {})
        if made.name not in gates:
            gates[made.name] = asyncio.Semaphore(made.max_concurrency or self._box.max_concurrency)
        return gates[made.name]

    def _ended(self, call: Call, outcome: Any, text: str, value: Any, took_s: float) -> ToolResult:
        most = self._box.max_chars
        if len(text) > most:
            text = f"{text[:most]}… ({len(text):,} characters in all; the rest was cut)"
        if outcome != "done":
            text = f"{call.tool} failed: {text}"
        return ToolResult(tool=call.tool, outcome=outcome, text=text, value=value, took_s=took_s, id=call.id)


async def _in_thread(
    run: Callable[[Mapping[str, Any]], Any], arguments: Mapping[str, Any], gate: asyncio.Semaphore
) -> Any:
    """What a blocking tool gives, from a thread of its own.

    Python cannot stop a thread. One that hangs is left behind, keeps its place among the calls of its tool, so that
    the others soon wait and time out, and ends with the process, which it does not keep alive.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        gate.release()
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)

    def work() -> None:
        value: Any = None
        error: Exception | None = None
        try:
            value = run(arguments)
        except StopIteration as stopped:  # a future does not take it
            error = RuntimeError(f"raised {stopped!r}")
        except BaseException as raised:  # noqa: BLE001 - handed to the caller
            error = (
                RuntimeError(f"raised {type(raised).__name__}: {raised}")
                if not isinstance(raised, Exception)
                else raised
            )
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    await gate.acquire()
    context = contextvars.copy_context()
    try:
        threading.Thread(target=context.run, args=(work,), name="sage-tool", daemon=True).start()
    except RuntimeError:
        gate.release()
        raise
    return await answer


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(value: Any) -> str:
    """A result as a model reads it.

    Raises:
        TypeError: it has no form in text.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{len(value):,} bytes that are no text")
    return render(value)


# ---- as YAML says it


def by_box_name(make: Callable[..., Step]) -> Callable[..., Step]:
    """A function of this folder as YAML calls it: ``tools`` is the name of a registered box, all else as it stands."""

    def form(first: str, /, *, tools: str, **options: Any) -> Step:
        return make(first, tools=TOOLBOXES[tools], **options)

    form.__annotations__ = {**hints_of(make)[0], "tools": str}
    form.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]  # what reads YAML looks there
    return form


def given_box(step: Step) -> Constant:
    """The name of a step's box.

    Raises:
        InputError: it is not registered.
    """
    said = step.arguments["tools"]
    assert isinstance(said, Constant)
    name = said.value.name
    if name not in TOOLBOXES or TOOLBOXES[name] is not said.value:
        raise InputError(
            f"toolbox {name!r} is not registered, and YAML names boxes only; use sage.ops.register_tools"
        )
    return Constant(name)


def _given(step: Step) -> Mapping[str, Given]:
    return {"call": step.arguments["call"], "tools": given_box(step)}


OPERATORS["call_tool"] = Operator("call_tool", by_box_name(call_tool), "call", _bind, _given)
