"""Finding passages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sage.errors import InputError
from sage.graph.body import Body
from sage.graph.fields import Argument, Constant, Ref, field, getter, scalar, text
from sage.graph.form import Given
from sage.graph.plan import PlannedStep, compile_plan
from sage.graph.step import Step
from sage.graph.values import Passage, Record, Vector
from sage.ops.base import OPERATORS, Context, Inline, Operator, Work
from sage.ops.flow_run import IN, bind_nested
from sage.ops.functions import step
from sage.ops.models import embed
from sage.ops.pieces import sentences_in
from sage.ops.text import as_text

__all__ = ["rerank", "search"]


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
        _refuse_inner_references(name, value)
        arguments[f"where.{name}"] = scalar(value)
    return Step(
        operator="search",
        arguments=arguments,
        gives=list[Passage],
        expects={"near": Vector, "k": int},
    )


def _refuse_inner_references(name: str, value: Any) -> None:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in inner:
        if isinstance(item, str) and not isinstance(scalar(item), Constant):
            raise InputError(
                f"search: where={{{name!r}: …}} holds the reference {item!r} inside a comparison, where it is not "
                'read; make the whole comparison a step and refer to that: where={...: "{step}"}'
            )


def rerank(passages: str, /, *, by: str, k: int | str = 3, engine: str = "embedder") -> Step:
    """The passages that fit a question best, by the best sentence of each.

    An embedding of a whole passage blurs what its sentences say. Here every sentence is embedded, in one call with
    the question, and a passage counts as much as its best sentence: MaxP of Dai and Callan ("Deeper Text
    Understanding for IR with Contextual Neural Language Modeling", SIGIR 2019), with sentences for their windows of
    words and the cosine of embeddings for their cross-encoder.

    Args:
        passages: a field with a list of Passage, such as a ``search`` that found more than are needed.
        by: the question, with references in braces.
        k: how many to keep.
        engine: the pool that embeds.

    Returns:
        A step whose value is a list of at most ``k`` Passage, the best first, with the new score.
    """
    steps = {
        "texts": step(_question_and_sentences),
        "vectors": embed("{texts}", engine=engine),
        "best": step(_by_best_sentence),
    }
    return Step(
        operator="rerank",
        arguments={IN + "passages": field(passages), IN + "question": _text(by), IN + "k": scalar(k)},
        gives=list[Passage],
        expects={IN + "passages": list[Passage], IN + "k": int},
        bodies={"body": Body(compile_plan("rerank", steps), "best")},
    )


def _question_and_sentences(question: Any, passages: list[Passage]) -> list[str]:
    return [as_text(question), *(sentence for passage in passages for sentence in _sentences(passage))]


def _by_best_sentence(vectors: Vector, passages: list[Passage], k: int) -> list[Passage]:
    scores = vectors[1:] @ vectors[0]
    ranked: list[Passage] = []
    start = 0
    for passage in passages:
        end = start + len(_sentences(passage))
        ranked.append(msgspec.structs.replace(passage, score=float(scores[start:end].max())))
        start = end
    return sorted(ranked, key=lambda passage: -passage.score)[:k]


def _sentences(passage: Passage) -> list[str]:
    return sentences_in(passage.text) or [passage.title]


def _rerank_given(made: Step) -> Mapping[str, Given]:
    given: dict[str, Given] = {
        "passages": made.arguments[IN + "passages"],
        "by": made.arguments[IN + "question"],
    }
    if (k := made.arguments[IN + "k"]) != Constant(3):
        given["k"] = k
    (pool,) = made.bodies["body"].plan.pools()
    return given if pool == "embedder" else {**given, "engine": Constant(pool)}


_text = text  # the function, under a name that search's parameter does not hide


def _bind(planned: PlannedStep, context: Context) -> Work:
    arguments = planned.arguments
    name = arguments["index"]
    assert isinstance(name, Constant)
    index = context.index(name.value)
    near = arguments.get("near")
    if isinstance(near, Ref):
        _check_embedder(near, name.value, index.embedder_fingerprint, context)
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


def _check_embedder(near: Ref, index: str, fingerprint: str | None, context: Context) -> None:
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
OPERATORS["rerank"] = Operator("rerank", rerank, "passages", bind_nested, _rerank_given)
