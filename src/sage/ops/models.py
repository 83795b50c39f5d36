"""Calls to models: text generation and embedding."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from sage.engines.base import GenerateRequest, Message, Reply
from sage.errors import EngineError, InputError
from sage.graph.fields import Argument, Constant, Ref, field, getter, scalar, text
from sage.graph.plan import PlannedStep
from sage.graph.schema import Shape, shape_of
from sage.graph.step import Batch, Step
from sage.graph.values import Record, Vector
from sage.ops.base import OPERATORS, Context, Embed, Generate, Operator, Work
from sage.ops.functions import at_most
from sage.ops.text import as_text

__all__ = ["embed", "generate"]


def generate(
    prompt: str | None = None,
    /,
    *,
    messages: str | None = None,
    system: str | None = None,
    schema: Any = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    max_tokens: int | str = 256,
    temperature: float | str = 0.0,
    top_p: float | str | None = None,
    seed: int | str | None = None,
    stop: str | Sequence[str] | None = None,
    fit: str | None = None,
    full: bool = False,
    n: int = 1,
    max_concurrency: int | None = None,
    engine: str = "llm",
) -> Step:
    """Text written by a language model.

    Args:
        prompt: the user's turn, with references in braces. Either this or ``messages``.
        messages: a field with the whole conversation: a list of Message or of ``{"role", "content"}``.
        system: the system turn, with references.
        schema: the shape of the answer: a dataclass, TypedDict, pydantic model, Literal or JSON schema. The
            value is then of that type instead of str.
        tools: OpenAI function definitions the model may call; read them from ``full=True``'s tool_calls.
        max_tokens: the longest answer, in tokens.
        temperature: 0 picks the likeliest token every time.
        top_p: nucleus sampling; None leaves it to the engine.
        seed: of the sampling.
        stop: text, or several, at which the answer ends.
        fit: a field with a list; while the prompt is too long for the engine's context, items are dropped
            from its end, and the run's log says how many. Without it, too long is an error.
        full: give the whole Reply (text, tool_calls, usage, finish) instead of the text. With ``schema`` the engine
            is guided by it all the same, and whether the text keeps to it is the reader's to see.
        n: how many answers; several calls are made at once and the value is a list. Needs a temperature.
        max_concurrency: jobs of a session in this step at once; None leaves it to the engine's limit.
        engine: the pool that answers.

    Returns:
        A step whose value is a str, the schema's type, or a Reply.
    """
    if (prompt is None) == (messages is None):
        raise InputError("generate takes either a prompt or messages=, one of them")
    if not isinstance(n, int) or n < 1:  # type: ignore[redundant-expr]  # a caller may not check types
        raise InputError(f"generate: n is {n!r}, expected a whole number above 0")
    if n > 1 and temperature == 0:
        raise InputError(
            f"generate: {n} answers at temperature 0 would all be the same; say temperature= as well"
        )
    arguments: dict[str, Argument] = {}
    if prompt is not None:
        arguments["prompt"] = text(prompt)
    if messages is not None:
        arguments["messages"] = field(messages)
    if system is not None:
        arguments["system"] = text(system)
    if fit is not None:
        arguments["fit"] = field(fit)
    sampling = {"temperature": temperature, "top_p": top_p, "seed": seed, "max_tokens": max_tokens}
    arguments |= {name: scalar(value) for name, value in sampling.items() if value != _DEFAULTS[name]}
    _checked({name: a.value for name, a in arguments.items() if name in sampling and isinstance(a, Constant)})
    fixed = {"schema": schema, "tools": tools, "stop": stop, "full": full or None, "n": n if n > 1 else None}
    arguments |= {name: Constant(value) for name, value in fixed.items() if value is not None}
    if engine != "llm":
        arguments["engine"] = Constant(engine)
    one = Reply if full else str if schema is None else shape_of(schema).type
    return Step(
        operator="generate",
        arguments=arguments,
        gives=one if n == 1 else types.GenericAlias(list, (one,)),
        gives_pieces=str if schema is None and not full and n == 1 else None,
        expects={"messages": list, "fit": list, "max_tokens": int, "temperature": float, "seed": int},
        pool=engine,
        max_concurrency=at_most(max_concurrency),
    )


_DEFAULTS: Mapping[str, Any] = {"temperature": 0.0, "top_p": None, "seed": None, "max_tokens": 256}


class _Sampling(msgspec.Struct):
    """What sampling arguments may be."""

    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: int | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] = 256


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The sampling values themselves, if each is what it should be."""
    try:
        msgspec.convert(values, _Sampling)
    except msgspec.ValidationError as error:
        raise InputError(f"generate cannot use {values}: {error}") from None
    return values


def embed(
    text_: str,
    /,
    *,
    engine: str = "embedder",
    batch: Batch | None = None,
    max_concurrency: int | None = None,
) -> Step:
    """The embedding of a text.

    Args:
        text_: what to embed, with references in braces. Alone, ``"{x}"`` may also name a list of str.
        engine: the pool that answers.
        batch: how calls of concurrent jobs are put together; None leaves it to the policy.
        max_concurrency: jobs of a session in this step at once; None leaves it to the engine's limit.

    Returns:
        A step whose value is a unit-length float32 vector, shape (dimension,), or one row per item of a list,
        shape (items, dimension).
    """
    arguments: dict[str, Argument] = {"text": text(text_)}
    if engine != "embedder":
        arguments["engine"] = Constant(engine)
    return Step(
        operator="embed",
        arguments=arguments,
        gives=Vector,
        pool=engine,
        batch=batch,
        max_concurrency=at_most(max_concurrency),
    )


def _bind_generate(planned: PlannedStep, _context: Context) -> Work:
    arguments = planned.arguments
    sampling = {name: getter(arguments[name]) for name in _DEFAULTS if isinstance(arguments.get(name), Ref)}
    said = {
        name: _constant(arguments, name) for name in _DEFAULTS.keys() & arguments.keys() - sampling.keys()
    }
    shape = shape_of(_constant(arguments, "schema")) if "schema" in arguments else None
    conversation = _conversation(arguments)
    fixed: dict[str, Any] = {
        "stop": _stops(_constant(arguments, "stop")),
        "tools": tuple(_constant(arguments, "tools") or ()),
        "schema": shape.json_schema if shape else None,
    }
    same = GenerateRequest(messages=(), **{**_DEFAULTS, **said}, **fixed)  # for every record

    def request(record: Record) -> GenerateRequest:
        if not sampling:
            return replace(same, messages=conversation(record))
        values = _checked({name: get(record) for name, get in sampling.items()})
        return replace(same, messages=conversation(record), **values)

    fit = arguments.get("fit")
    return Generate(
        request=request,
        value=_reader(shape, full=bool(_constant(arguments, "full"))),
        n=_constant(arguments, "n") or 1,
        fit=fit.name if isinstance(fit, Ref) else None,
    )


def _conversation(arguments: Mapping[str, Argument]) -> Callable[[Record], tuple[Message, ...]]:
    system = getter(arguments["system"]) if "system" in arguments else None
    prompt = getter(arguments["prompt"]) if "prompt" in arguments else None
    history = getter(arguments["messages"]) if prompt is None else None

    def conversation(record: Record) -> tuple[Message, ...]:
        if prompt is not None:
            turns: tuple[Message, ...] = (Message("user", as_text(prompt(record))),)
        else:
            assert history is not None
            turns = msgspec.convert(history(record), tuple[Message, ...])
        return turns if system is None else (Message("system", as_text(system(record))), *turns)

    return conversation


def _reader(shape: Shape | None, *, full: bool) -> Callable[[Reply], Any]:
    if full:
        return lambda reply: reply
    if shape is None:
        return lambda reply: reply.text
    return lambda reply: _parsed(shape, reply)


def _parsed(shape: Shape, reply: Reply) -> Any:
    """The answer as the schema's type.

    Raises:
        EngineError: the model did not write what the schema asks for.
    """
    try:
        return shape.parse(reply.text)
    except InputError as error:
        raise EngineError(str(error), fault="garbled") from None


def _bind_embed(planned: PlannedStep, _context: Context) -> Work:
    get = getter(planned.arguments["text"])

    def texts(record: Record) -> str | tuple[str, ...]:
        value = get(record)
        return tuple(map(as_text, value)) if isinstance(value, list | tuple) else as_text(value)

    return Embed(texts)


def _constant(arguments: Mapping[str, Argument], name: str) -> Any:
    argument = arguments.get(name, Constant(None))
    assert isinstance(argument, Constant)
    return argument.value


def _stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


OPERATORS["generate"] = Operator("generate", generate, "prompt", _bind_generate)
OPERATORS["embed"] = Operator("embed", embed, "text", _bind_embed)
