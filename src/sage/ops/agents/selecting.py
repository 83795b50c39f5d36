"""Which tools a request needs: ways of choosing, each a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sage.engines.base import Reply
from sage.graph.step import Step
from sage.ops.agents.ranking import By, Selection, rank_tools
from sage.ops.agents.replies import read_json
from sage.ops.agents.strategies import Choice, Steps, Strategy, meant, menu, offer, strategic
from sage.ops.agents.tools import Toolbox
from sage.ops.functions import step
from sage.ops.models import generate
from sage.registry import Registry

__all__ = ["SELECTORS", "select_tools"]

REPLY_TOKENS = 96
MARGIN = (
    0.08  # of the best score over the second, above which retrieval alone is trusted, where nothing is fitted
)
NONE = "none"

ASK = (
    'Choose the tools that answer the user\'s request. Reply with JSON: {"tools": [names, the best first]}. '
    'Use names from the list only. If no tool fits, reply {"tools": []}.\n\nTools:\n'
)
MOST_GUIDED = 256  # tools whose names a schema lists; beyond that the grammar of an engine grows too large


def _schema(names: Sequence[str] = ()) -> dict[str, Any]:
    """Of a reply; with names no other can be written by an engine that is guided by it."""
    name: dict[str, Any] = {"enum": list(names)} if names else {"type": "string", "maxLength": 80}
    return {
        "type": "object",
        "properties": {"tools": {"type": "array", "items": name, "maxItems": 5}},
        "required": ["tools"],
        "additionalProperties": False,
    }


SELECTORS: Registry[Strategy] = Registry("way of selecting tools")


def select_tools(
    query: str,
    /,
    *,
    tools: Toolbox,
    by: str = "hybrid",
    k: int = 5,
    among: str | None = None,
    shortlist: int = 10,
    fitted: Mapping[str, Any] | None = None,
    engine: str = "llm",
    embedder: str = "embedder",
) -> Step:
    """The tools that a request needs, chosen in one of several ways.

    Args:
        query: the request, with references in braces.
        tools: the box; only its allowed tools are chosen.
        by: the way, a key of ``SELECTORS``: "bm25", "embedding", "hybrid", "examples", "llm", "two_stage", "adaptive".
        k: how many, at most.
        among: a field with the names to choose from; None: every allowed tool.
        shortlist: how many retrieval shows the model, where both choose.
        fitted: what was learnt from requests whose tools are known, see each way's ``fits``.
        engine: the pool that writes.
        embedder: the pool that embeds.

    Returns:
        A step whose value is a Selection; ``{step.tools}`` are the names, the best first.
    """
    choice = Choice(
        tools=tools,
        k=k,
        among=among is not None,
        shortlist=shortlist,
        engine=engine,
        embedder=embedder,
        fitted=dict(fitted or {}),
    )
    return strategic("select_tools", SELECTORS, query, choice, by, among)


def _ranked(choice: Choice, by: By, k: int, **said: Any) -> Step:
    return rank_tools(
        "{query}",
        tools=choice.tools,
        by=by,
        k=k,
        among="among" if choice.among else None,
        engine=choice.embedder,
        **said,
    )


def _bm25(choice: Choice) -> Steps:
    return {"selection": _ranked(choice, "words", choice.k, least=choice.fit("least", None))}


def _embedding(choice: Choice) -> Steps:
    return {"selection": _ranked(choice, "meaning", choice.k, least=choice.fit("least", None))}


_RANKING = {"least": None, "words": 0.02, "turns": False}


def _hybrid(choice: Choice) -> Steps:
    said = {name: choice.fit(name, default) for name, default in _RANKING.items()}
    return {"selection": _ranked(choice, "both", choice.k, **said)}


def _examples(choice: Choice) -> Steps:
    said = {name: choice.fit(name, default) for name, default in {**_RANKING, "examples": None}.items()}
    return {"selection": _ranked(choice, "both", choice.k, **said)}


def _llm(choice: Choice) -> Steps:
    if (
        not choice.among
    ):  # the same tools for everyone: their list comes first, so that a prefix cache holds it
        names = [name for name in choice.tools if name in choice.tools.allowed]
        schema = _schema(names if len(names) <= MOST_GUIDED else ())
        return {
            "reply": _asked(choice, "{query}", system=ASK + _literal(menu(choice.tools)), schema=schema),
            "selection": step(_chosen, box=choice.tools, k=choice.k),
        }
    return {
        "menu": step(_menu, box=choice.tools, names="{among}"),
        "reply": _asked(choice, "Request: {query}", system=ASK + "{menu}"),
        "selection": step(_chosen, box=choice.tools, k=choice.k, shown="{among}"),
    }


def _two_stage(choice: Choice) -> Steps:
    return {
        "found": _ranked(choice, "both", choice.shortlist, words=choice.fit("words", 0.02)),
        "menu": step(_menu, box=choice.tools, names="{found.tools}"),
        "reply": _asked(choice, "Request: {query}", system=ASK + "{menu}"),
        "selection": step(_merged, box=choice.tools, k=choice.k),
    }


def _adaptive(choice: Choice) -> Steps:
    return {
        "found": _ranked(choice, "both", choice.shortlist, words=choice.fit("words", 0.02)),
        "unsure": step(_unsure, margin=choice.fit("margin", MARGIN)),
        "menu": step(_menu, box=choice.tools, names="{found.tools}"),
        "reply": _asked(choice, "Request: {query}", system=ASK + "{menu}").when("unsure"),
        "selection": step(_merged, box=choice.tools, k=choice.k),
    }


def _asked(choice: Choice, prompt: str, *, system: str, schema: Mapping[str, Any] | None = None) -> Step:
    return generate(
        prompt,
        system=system,
        schema=schema or _schema(),
        full=True,
        max_tokens=REPLY_TOKENS,
        engine=choice.engine,
    )


def _literal(shown: str) -> str:
    """Text in which no brace is a reference."""
    return shown.replace("{", "(").replace("}", ")")


def _menu(names: Sequence[str], box: Toolbox) -> str:
    return menu(box, names)


def _chosen(reply: Reply, box: Toolbox, k: int, shown: Sequence[str] | None = None) -> Selection:
    """The names a model gave, those that no shown tool has apart."""
    said = read_json(reply.text)
    names = said.get("tools") if isinstance(said, dict) else said
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return Selection(fault="it names no tools in JSON")
    known = set(box.allowed if shown is None else shown)
    given = dict.fromkeys(meant(name, known) for name in names if name and name.lower() != NONE)
    good = [name for name in given if name in known]
    return Selection(
        tools=tuple(good[:k]),
        scores=tuple(1.0 / rank for rank in range(1, len(good[:k]) + 1)),
        invented=tuple(name for name in given if name not in known),
    )


def _merged(found: Selection, reply: Reply | None, box: Toolbox, k: int) -> Selection:
    """What the model chose first, then what retrieval found; nothing where the model says that nothing fits."""
    if reply is None:
        return Selection(tools=found.tools[:k], scores=found.scores[:k])
    chosen = _chosen(reply, box, k, found.tools)
    if chosen.fault or (not chosen.tools and not chosen.invented):
        return chosen
    rest = [name for name in found.tools if name not in chosen.tools]
    tools = (*chosen.tools, *rest)[:k]
    return msgspec.structs.replace(
        chosen, tools=tools, scores=tuple(1.0 / rank for rank in range(1, len(tools) + 1))
    )


def _unsure(found: Selection, margin: float) -> bool:
    return len(found.scores) > 1 and found.scores[0] - found.scores[1] < margin


_EMBEDDER, _BOTH = frozenset({"embedder"}), frozenset({"embedder", "llm"})
for _one in (
    Strategy("bm25", "words of name, description and parameters", _bm25, frozenset(), ("least",)),
    Strategy("embedding", "embeddings of name and description", _embedding, _EMBEDDER, ("least",)),
    Strategy("hybrid", "words and embeddings, added up", _hybrid, _EMBEDDER, ("least", "words", "turns")),
    Strategy(
        "examples",
        "as hybrid, tools moved towards requests that needed them",
        _examples,
        _EMBEDDER,
        ("least", "words", "turns", "examples"),
    ),
    Strategy("llm", "a model reads the list of all tools", _llm, frozenset({"llm"})),
    Strategy("two_stage", "hybrid finds a shortlist, a model chooses from it", _two_stage, _BOTH, ("words",)),
    Strategy(
        "adaptive",
        "hybrid where one tool stands out, else as two_stage",
        _adaptive,
        _BOTH,
        ("words", "margin"),
    ),
):
    SELECTORS[_one.name] = _one


offer("select_tools", select_tools)
