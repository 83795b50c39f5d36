"""Which tools fit a request: retrieval over a toolbox, as one operator that strategies are built from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sage.errors import InputError
from sage.graph.body import Body
from sage.graph.fields import Argument, Constant, field, getter, scalar, text
from sage.graph.form import Given
from sage.graph.plan import PlannedStep, compile_plan
from sage.graph.step import Step
from sage.graph.values import Record
from sage.ops.agents.calling import box_of, by_box_name, given_box
from sage.ops.agents.tools import Toolbox
from sage.ops.base import OPERATORS, Bodies, Composite, Context, Operator, Work
from sage.ops.models import embed
from sage.ops.text import as_text

if TYPE_CHECKING:
    from sage.index.tool_index import ToolIndex

__all__ = ["Examples", "Selection", "documents_of", "indexing", "rank_tools"]

CHUNK = 128  # texts of one call to the embedder, when tools are embedded

#: What a request and a tool are compared by.
By = Literal["words", "meaning", "both"]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The tools that were chosen, the best first. None of them: no tool fits."""

    tools: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()  # aligned; of one way of choosing only comparable with itself
    best: float | None = None  # the highest score, whether or not it was enough
    fault: str | None = None  # why a model's choice could not be read
    invented: tuple[str, ...] = ()  # names a model gave that no tool has


class Examples(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of which it is known which tool they needed."""

    requests: tuple[str, ...]
    tools: tuple[str, ...]  # aligned
    weight: float = 1.0  # of one example, against the tool's own description
    rows: Any = None  # the requests' embeddings, where they are at hand, shape (requests, dimension)


def rank_tools(
    query: str,
    /,
    *,
    tools: Toolbox,
    by: By = "both",
    k: int | str = 5,
    among: str | None = None,
    words: float = 0.02,
    turns: bool = False,
    least: float | None = None,
    examples: Examples | Mapping[str, Any] | None = None,
    engine: str = "embedder",
) -> Step:
    """The tools of a box that fit a request best, by their names, descriptions and parameters.

    The request is also cut into clauses, and a tool counts as much as the clause that it fits best. By meaning, the
    tools are embedded when the first request comes, and kept.

    Args:
        query: the request, with references in braces.
        tools: the box.
        by: "words" (BM25), "meaning" (embeddings), or "both".
        k: how many.
        among: a field with the names to choose from; None: every allowed tool.
        words: of "both", what a point of BM25 counts against a cosine of 1.
        turns: let the clauses take turns, so that each gets a tool before one gets two: for requests that ask for
            several things.
        least: tools with a lower score are left out, so that there may be none.
        examples: requests with the tools that they needed; moves what a tool is taken to mean towards them.
        engine: the pool that embeds.

    Returns:
        A step whose value is a Selection.
    """
    if by not in {"words", "meaning", "both"}:
        raise InputError(f"rank_tools: by is {by!r}, expected 'words', 'meaning' or 'both'")
    shown = msgspec.convert(examples, Examples) if isinstance(examples, Mapping) else examples
    if shown is not None and (by == "words" or len(shown.requests) != len(shown.tools)):
        raise InputError("rank_tools: examples need by='meaning' or 'both', and a tool for each request")
    arguments: dict[str, Argument] = {"query": text(query), "tools": Constant(tools)}
    if among is not None:
        arguments["among"] = field(among)
    if k != 5:
        arguments["k"] = scalar(k)
    given = {
        "by": (by, "both"),
        "words": (words, 0.02),
        "turns": (turns, False),
        "least": (least, None),
        "engine": (engine, "embedder"),
    }
    arguments |= {key: Constant(value) for key, (value, default) in given.items() if value != default}
    if shown is not None:
        arguments["examples"] = Constant(shown)
    return Step(
        operator="rank_tools",
        arguments=arguments,
        gives=Selection,
        expects={"k": int, "among": list},
        bodies={} if by == "words" else {"embed": embedding(engine)},
    )


def embedding(engine: str) -> Body:
    """The vectors of the field ``texts``."""
    return Body(compile_plan("embed", {"vectors": embed("{texts}", engine=engine)}), "vectors")


def documents_of(tools: Toolbox) -> list[Any]:
    """What is written about the allowed tools."""
    from sage.index.tool_index import ToolDocument

    return [
        ToolDocument(
            name=name,
            description=tools[name].description,
            parameters={
                key: about.get("description", "") if isinstance(about, Mapping) else ""
                for key, about in tools[name].parameters.get("properties", {}).items()
            },
        )
        for name in tools
        if name in tools.allowed
    ]


def indexing(
    tools: Toolbox, by: By, examples: Examples | None, fingerprint: str | None
) -> Callable[[Bodies], Any]:
    """A function that gives the index of a box, and makes it once; several callers at once make it together."""
    made: list[ToolIndex] = []

    async def index(bodies: Bodies) -> ToolIndex:
        if not made:
            bare = tools.index(documents_of)
            found = bare if by == "words" else await _with_meaning(tools, bare, fingerprint, bodies)
            if examples is not None:
                rows = examples.rows
                rows = await _embedded(examples.requests, bodies) if rows is None else rows
                found = found.with_examples(examples.tools, rows, examples.weight)
            made.append(found)
        return made[0]

    return index


async def _with_meaning(tools: Toolbox, bare: Any, fingerprint: str | None, bodies: Bodies) -> Any:
    known = None if fingerprint is None else tools.embedded.get(fingerprint)
    if known is None:
        known = bare.with_views(await _embedded(bare.views(), bodies))
        if fingerprint is not None:
            tools.embedded[fingerprint] = known
    return known


async def _embedded(texts: Sequence[str], bodies: Bodies) -> Any:
    """Vectors in portions, so that other calls get their turn; equal calls at the same time are made once."""
    import numpy as np

    portions = [
        await bodies.run("embed", {"texts": list(texts[at : at + CHUNK])}, at=f"[tools {at}]")
        for at in range(0, len(texts), CHUNK)
    ]
    return np.vstack(portions)


def _bind(planned: PlannedStep, context: Context) -> Work:
    from sage.index.tool_index import Weights
    from sage.index.tool_words import clauses

    arguments = planned.arguments

    def constant(name: str, default: Any) -> Any:
        said = arguments.get(name)
        return said.value if isinstance(said, Constant) else default

    box, by, least = box_of(planned), constant("by", "both"), constant("least", None)
    turns = constant("turns", False)
    query_of, k_of = getter(arguments["query"]), getter(arguments.get("k", Constant(5)))
    among_of = getter(arguments["among"]) if "among" in arguments else None
    weights = Weights(meaning=0.0, words=1.0) if by == "words" else Weights(words=constant("words", 0.02))
    if by == "meaning":
        weights = Weights(words=0.0)
    fingerprint = None if by == "words" else context.engine(constant("engine", "embedder")).fingerprint
    index_of = indexing(box, by, constant("examples", None), fingerprint)

    nothing_shared = math.ulp(0.0) if by == "words" else -math.inf
    lowest = nothing_shared if least is None else least

    async def call(record: Record, bodies: Bodies) -> Selection:
        index = await index_of(bodies)
        parts = clauses(as_text(query_of(record)))
        rows = None if by == "words" else await bodies.run("embed", {"texts": parts})
        among = None if among_of is None else [str(name) for name in among_of(record)]
        found = index.rank(parts, rows, k=k_of(record), among=among, weights=weights, turns=turns)
        kept = [(name, score) for name, score in zip(*found, strict=True) if score >= lowest]
        return Selection(
            tools=tuple(name for name, _ in kept),
            scores=tuple(score for _, score in kept),
            best=found.scores[0] if found.scores else None,
        )

    return Composite(call)


# ---- as YAML says it


def _given(made: Step) -> Mapping[str, Given]:
    said: dict[str, Given] = {**made.arguments, "tools": given_box(made)}
    if isinstance(shown := said.get("examples"), Constant):
        said["examples"] = Constant(_plain(shown.value))
    return said


def _plain(examples: Examples) -> dict[str, Any]:
    """Without the embeddings, which are made again."""
    plain: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(examples, rows=None))
    return {key: value for key, value in plain.items() if key != "rows"}


OPERATORS["rank_tools"] = Operator("rank_tools", by_box_name(rank_tools), "query", _bind, _given)
