"""Plain Python functions as steps."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from sage.errors import InputError, nearest
from sage.graph.fields import Argument, Constant, Ref, getter, scalar
from sage.graph.plan import PlannedStep
from sage.graph.shape import CPU_POOL, is_cpu, pool_of, shape_of
from sage.graph.step import Step
from sage.graph.types import signature_of
from sage.graph.values import Record
from sage.ops.base import OPERATORS, Compute, Context, Inline, Operator, Work
from sage.registry import Registry

__all__ = ["FUNCTIONS", "bind_function", "name_of", "register", "step"]

F = TypeVar("F", bound=Callable[..., Any])

#: Functions that YAML may name, as ``fn: name``.
FUNCTIONS: Registry[Callable[..., Any]] = Registry("function")


def register(function: F) -> F:
    """Let YAML name a function: ``{fn: grade}``. Used as a decorator."""
    name = name_of(function)
    if name in FUNCTIONS and _origin(FUNCTIONS[name]) == _origin(function):
        FUNCTIONS.replace(name, function)  # the same definition, executed again, as in a notebook
    FUNCTIONS[name] = function
    return function


def step(
    function: Callable[..., Any],
    /,
    *,
    pool: str | None = None,
    cpu: float | None = None,
    gpu: float | None = None,
    resources: Mapping[str, float] | None = None,
    max_concurrency: int | None = None,
    **arguments: Any,
) -> Step:
    """A function as a step, with some of its parameters bound.

    Parameters that are not bound read the field of their own name; one with a default does so only if a step
    or declared input has that name. ``"{x}"`` binds to a field, anything else is a constant.

    Args:
        function: sync or async. Its annotations are checked against the steps it reads.
        pool: ``"cpu"`` runs a blocking or heavy function in worker threads (the interpreter's lock holds,
            so only work that releases it runs at the same time); with ``runtime="ray"``, in worker processes on
            the nodes, together with the plain functions beside it. None: inline.
        cpu: CPUs that a worker of it takes, 1 if not said. This and the next two imply the pool.
        gpu: GPUs that a worker of it takes; a fraction shares one.
        resources: other resources of a Ray cluster that a worker of it takes, by name.
        max_concurrency: jobs of a session in this step at once; None: as many as there are.
        **arguments: bindings.

    Raises:
        InputError: the function has no signature to read, lacks a bound parameter, or is async with a pool.
    """
    signature = signature_of(function)
    parameters = {parameter.name: parameter for parameter in signature.parameters}
    for name in arguments:
        if name not in parameters and not signature.takes_extra:
            raise InputError(
                f"function {name_of(function)!r} has no parameter {name!r}: {nearest(name, parameters)}"
            )
    if cpu is not None or gpu is not None or resources is not None:
        if pool not in {None, CPU_POOL}:
            raise InputError(f"cpu=, gpu= and resources= are for pool 'cpu', not for {pool!r}")
        pool = pool_of(1 if cpu is None else cpu, gpu or 0, resources)
    if pool is not None and (signature.is_async or signature.is_stream):
        raise InputError(f"async function {name_of(function)!r} cannot run in pool {pool!r}; leave pool out")
    if pool is not None and not is_cpu(pool):
        raise InputError(f"functions run in pool 'cpu' or inline, not in {pool!r}")
    pieces = tuple(name for name, parameter in parameters.items() if _is_stream(parameter.type))
    if pieces and not (signature.is_async or signature.is_stream):
        raise InputError(f"function {name_of(function)!r} takes {pieces[0]!r} piece by piece; make it async")
    given: dict[str, Argument] = {name: scalar(value) for name, value in arguments.items()}
    for name, parameter in parameters.items():
        if name not in given and not parameter.has_default:
            given[name] = Ref(name)
    return Step(
        operator="fn",
        arguments=given,
        gives=types.GenericAlias(list, (_item(signature.returns),))
        if signature.is_stream
        else signature.returns,
        gives_pieces=_item(signature.returns) if signature.is_stream else None,
        takes_pieces=pieces,
        expects={name: parameter.type for name, parameter in parameters.items()},
        optional={name: Ref(name) for name in parameters if name not in given},
        function=function,
        is_async=signature.is_async or signature.is_stream,
        pool=pool,
        max_concurrency=at_most(max_concurrency),
    )


def _is_stream(hint: Any) -> bool:
    return (get_origin(hint) or hint) in {AsyncIterator, AsyncIterable, AsyncGenerator}


def _item(hint: Any) -> Any:
    """The type of what an async iterator yields."""
    return (*get_args(hint), Any)[0] if _is_stream(hint) else Any


def at_most(max_concurrency: Any) -> int | None:
    """A step's limit, if it is one.

    Raises:
        InputError: it is no whole number above 0.
    """
    if max_concurrency is not None and (not isinstance(max_concurrency, int) or max_concurrency < 1):
        raise InputError(f"max_concurrency is {max_concurrency!r}, expected a whole number above 0")
    return max_concurrency


def bind_function(planned: PlannedStep, _context: Context) -> Work:
    """The work of a step that is a function."""
    function = planned.step.function
    assert function is not None
    maybe = {
        name: ref.name
        for name, ref in planned.step.optional.items()
        if name in planned.arguments and ref.name not in planned.after
    }
    call = _lenient(function, planned.arguments, maybe) if maybe else _caller(function, planned.arguments)
    if planned.step.pool is not None:
        return Compute(call)
    return Inline(call, is_async=planned.step.is_async)


def _caller(function: Callable[..., Any], arguments: Mapping[str, Argument]) -> Callable[[Record], Any]:
    """From a record to the call, with the shape of the call settled now rather than for every record."""
    names = list(arguments)
    gets = [getter(arguments[name]) for name in names]
    by_position = [p.name for p in signature_of(function).parameters if not p.keyword_only][
        : len(names)
    ] == names
    keys = [a.name for a in arguments.values() if isinstance(a, Ref) and not a.parts]
    if by_position and len(keys) == len(names):
        if len(keys) == 1:
            (a,) = keys
            return lambda record: function(record[a])
        if len(keys) == 2:
            a, b = keys
            return lambda record: function(record[a], record[b])
        if not keys:
            return lambda _record: function()
        return lambda record: function(*[record[key] for key in keys])
    return lambda record: function(**{name: get(record) for name, get in zip(names, gets, strict=True)})


def _lenient(
    function: Callable[..., Any], arguments: Mapping[str, Argument], maybe: Mapping[str, str]
) -> Callable[[Record], Any]:
    """A call that leaves a parameter to its default where the record lacks the declared input it would read."""
    gets = {name: getter(argument) for name, argument in arguments.items()}

    def call(record: Record) -> Any:
        absent = {name for name, field in maybe.items() if field not in record}
        return function(**{name: get(record) for name, get in gets.items() if name not in absent})

    return call


def from_yaml(
    fn: str,
    *,
    pool: str | None = None,
    cpu: float | None = None,
    gpu: float | None = None,
    resources: dict[str, Any] | None = None,
    **arguments: Any,
) -> Step:
    """A registered function by its name, as YAML writes it.

    Raises:
        InputError: no function of that name is registered.
    """
    return step(FUNCTIONS[fn], pool=pool, cpu=cpu, gpu=gpu, resources=resources, **arguments)


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called in YAML and in errors."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__))


def _given(step: Step) -> Mapping[str, Argument]:
    """What ``from_yaml`` would be given; parameters that read the field of their own name go without saying.

    Raises:
        InputError: the function is not registered, so YAML has no name for it.
    """
    assert step.function is not None
    name = name_of(step.function)
    if name not in FUNCTIONS or FUNCTIONS[name] is not step.function:
        raise InputError(
            f"function {name!r} is not registered, and YAML names functions only; "
            "decorate a named function with sage.ops.register"
        )
    said = {"fn": Constant(name), **_place(step.pool)}
    implied = {p.name: Ref(p.name) for p in signature_of(step.function).parameters if not p.has_default}
    return said | {key: a for key, a in step.arguments.items() if implied.get(key) != a}


def _place(pool: str | None) -> dict[str, Argument]:
    """What was said of where a function runs."""
    if pool is None or pool == CPU_POOL:
        return {} if pool is None else {"pool": Constant(pool)}
    shape = dict(shape_of(pool))
    said: dict[str, Argument] = {n: Constant(shape.pop(n)) for n in ("cpu", "gpu") if n in shape}
    return said | ({"resources": Constant(shape)} if shape else {})


OPERATORS["fn"] = Operator("fn", from_yaml, "fn", bind_function, _given)
