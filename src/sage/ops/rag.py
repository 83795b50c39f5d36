"""Finding passages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InputError
from sage.graph.fields import Argument, Constant, Ref, field, getter, scalar, text
from sage.graph.plan import PlannedStep
from sage.graph.step import Step
from sage.graph.values import Passage, Record, Vector
from sage.ops.base import OPERATORS, Context, Inline, Operator, Work
from sage.ops.text import as_text

__all__ = ["search"]


def search(
    index: str,
    /,
    *,
    near: str | None = None,
    text: str | None = None,
    k: int | str = 4,
    where: Mapping[str, Any] | None = None,
) -> Step:
    """The passages of an index that fit best, the best first.

    Args:
        index: its name; what it is, is said at run time or in ``sage.toml``.
        near: a field with a vector: search by meaning.
        text: words, with references in braces: search by words. With ``near``, both lists are fused by
            reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009).
        k: how many.
        where: a filter on the passages' metadata; values may be references.

    Returns:
        A step whose value is a list of at most ``k`` Passage.
    """
    if near is None and text is None:
        raise InputError(f"search({index!r}) needs near= (a vector field), text= (words), or both")
    arguments: dict[str, Argument] = {"index": Constant(index)}
    if near is not None:
        arguments["near"] = field(near)
    if text is not None:
        arguments["text"] = _text(text)
    if k != 4:
        arguments["k"] = scalar(k)
    for name, value in (where or {}).items():
        arguments[f"where.{name}"] = scalar(value)
    return Step(
        operator="search",
        arguments=arguments,
        gives=list[Passage],
        expects={"near": Vector, "k": int},
    )


_text = text  # the function, under a name that search's parameter does not hide


def _bind(planned: PlannedStep, context: Context) -> Work:
    arguments = planned.arguments
    name = arguments["index"]
    assert isinstance(name, Constant)
    index = context.index(name.value)
    near = arguments.get("near")
    if isinstance(near, Ref):
        _check_embedder(planned, near, name.value, index.embedder_fingerprint, context)
    vector = _optional_getter(near)
    words = _optional_getter(arguments.get("text"))
    k = getter(arguments.get("k", Constant(4)))
    filters = {
        key.removeprefix("where."): getter(argument)
        for key, argument in arguments.items()
        if key.startswith("where.")
    }

    def call(record: Record) -> list[Passage]:
        query = None if words is None else as_text(words(record))
        where = {key: get(record) for key, get in filters.items()} or None
        return index.search(vector=vector and vector(record), text=query, k=k(record), where=where)

    return Inline(call)


def _optional_getter(argument: Argument | None) -> Callable[[Record], Any] | None:
    return None if argument is None else getter(argument)


def _check_embedder(
    planned: PlannedStep, near: Ref, index: str, fingerprint: str | None, context: Context
) -> None:
    """Refuse to look for one embedder's vectors among another's: the scores would mean nothing."""
    source = next((step for step in context.plan.steps if step.name == near.name), None)
    if source is None or source.step.operator != "embed" or source.step.pool is None:
        return
    engine = context.engine(source.step.pool)
    if fingerprint is None:
        raise InputError(
            f"it searches index {index!r} by vector, but that was built without an embedder; "
            "search it by text=, or build it again with an embedder"
        )
    if engine.fingerprint != fingerprint:
        raise InputError(
            f"index {index!r} was built with another embedder ({fingerprint}) than pool {source.step.pool!r} "
            f"has now ({engine.address}, {engine.fingerprint}); build the index again, or use that embedder"
        )


OPERATORS["search"] = Operator("search", search, "index", _bind)
