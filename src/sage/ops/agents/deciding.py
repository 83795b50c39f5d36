"""Whether to call a tool now, to ask back, to answer, or to decline: ways of deciding, each a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from sage.engines.base import Reply
from sage.errors import InputError
from sage.graph.fields import Argument, Constant, field, getter, text
from sage.graph.plan import PlannedStep
from sage.graph.step import Step
from sage.graph.values import Record
from sage.ops.agents.calling import box_of, by_box_name, given_box
from sage.ops.agents.ranking import embedding, indexing
from sage.ops.agents.replies import read_json
from sage.ops.agents.strategies import Choice, Steps, Strategy, menu, offer, strategic
from sage.ops.agents.tools import Tool, Toolbox
from sage.ops.base import OPERATORS, Bodies, Composite, Context, Operator, Work
from sage.ops.functions import step
from sage.ops.models import generate
from sage.ops.text import as_text
from sage.registry import Registry

__all__ = ["ACTIONS", "DECIDERS", "ToolFit", "Verdict", "decide", "tool_fit"]

Action = Literal["call", "ask", "answer", "decline"]
ACTIONS: tuple[str, ...] = get_args(Action)

REPLY_TOKENS = 24
LEAST_WORDS = 12.0  # BM25 of the best tool, from which the rule sees one that fits, where nothing is fitted
SURE = 0.75  # of the classifier, from which the model is not asked, where nothing is fitted

_VALUE = re.compile(r"[\"'“][^\"'”]+[\"'”]|\b\d[\w.,:/-]*|(?<=[a-z,] )[A-Z][\w-]+|\S+@\S+|https?://\S+")


class ToolFit(msgspec.Struct, frozen=True, kw_only=True):
    """How well tools fit a request: what a decision is made from."""

    best: str | None  # the tool that fits best
    meaning: float = 0.0  # the best cosine
    words: float = 0.0  # the best BM25 score
    num_tools: int = 0
    missing: int = 0  # required parameters of the best tool beyond the values that stand in the request
    features: tuple[
        float, ...
    ] = ()  # all of these, the runners-up and the request's embedding, for a classifier


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    action: Action | None  # None: a model's answer could not be read
    likely: Mapping[str, float] = {}  # action -> probability, where a classifier decided
    fault: str | None = None


DECIDERS: Registry[Strategy] = Registry("way of deciding")


def decide(
    query: str,
    /,
    *,
    tools: Toolbox,
    by: str = "rule",
    among: str | None = None,
    fitted: Mapping[str, Any] | None = None,
    engine: str = "llm",
    embedder: str = "embedder",
) -> Step:
    """What a request needs first: a call now, a question back, a plain answer, or a refusal because no tool fits.

    Args:
        query: the request, with references in braces.
        tools: the box; only its allowed tools count.
        by: the way, a key of ``DECIDERS``: "rule", "classifier", "llm", "hybrid".
        among: a field with the names of the tools there are; None: every allowed tool.
        fitted: what was learnt from requests whose action is known, see each way's ``fits``.
        engine: the pool that writes.
        embedder: the pool that embeds.

    Returns:
        A step whose value is a Verdict; ``{step.action}`` is "call", "ask", "answer" or "decline".
    """
    choice = Choice(
        tools=tools, among=among is not None, engine=engine, embedder=embedder, fitted=dict(fitted or {})
    )
    return strategic("decide", DECIDERS, query, choice, by, among)


# ---- the ways

RULES = (
    'Decide what to do first with the user\'s request, given the tools. Reply with JSON: {"action": ACTION}.\n'
    "- call: one of the tools does what is asked, and the request says everything the tool needs\n"
    "- ask: one of the tools does what is asked, but the request lacks something the tool needs\n"
    "- answer: it can be answered from general knowledge, without any tool\n"
    "- decline: it needs a tool, and none of these does it\n"
)


def _rule(choice: Choice) -> Steps:
    fit = tool_fit("{query}", tools=choice.tools, among=_among(choice), by="words")
    said = {"least": choice.fit("least", LEAST_WORDS), "asks": choice.fit("asks", False)}
    return {"fit": fit, "verdict": step(_by_rule, otherwise=choice.fit("otherwise", "answer"), **said)}


def _classifier(choice: Choice) -> Steps:
    fit = tool_fit("{query}", tools=choice.tools, among=_among(choice), engine=choice.embedder)
    return {"fit": fit, "verdict": step(_by_classifier, model=_model(choice, "classifier"))}


def _llm(choice: Choice) -> Steps:
    actions = choice.fit("actions", ACTIONS)
    return {
        "menu": _shown(choice),
        "reply": _asked(choice, actions),
        "verdict": step(_of_reply),
    }


def _hybrid(choice: Choice) -> Steps:
    actions = choice.fit("actions", ACTIONS)
    return {
        "fit": tool_fit("{query}", tools=choice.tools, among=_among(choice), engine=choice.embedder),
        "first": step(_by_classifier, model=_model(choice, "hybrid"), fit="{fit}"),
        "unsure": step(_unsure, sure=choice.fit("sure", SURE)),
        "menu": _shown(choice),
        "reply": _asked(choice, actions).when("unsure"),
        "verdict": step(_second),
    }


def _shown(choice: Choice) -> Step:
    named: dict[str, Any] = {"names": "{among}"} if choice.among else {}
    return step(_menu, box=choice.tools, **named)


def _among(choice: Choice) -> str | None:
    return "among" if choice.among else None


def _model(choice: Choice, by: str) -> Any:
    model = choice.fit("model", None)
    if model is None:
        raise InputError(
            f"decide: by={by!r} needs fitted={{'model': …}}; sage.bench fits one, see docs/agents.md"
        )
    return model


def _asked(choice: Choice, actions: Sequence[str]) -> Step:
    schema = {
        "type": "object",
        "properties": {"action": {"enum": list(actions)}},
        "required": ["action"],
        "additionalProperties": False,
    }
    kept = [
        line for line in RULES.splitlines() if not line.startswith("- ") or line[2:].split(":")[0] in actions
    ]
    return generate(
        "Request: {query}",
        system="\n".join(kept) + "\n\nTools:\n{menu}",
        schema=schema,
        full=True,
        max_tokens=REPLY_TOKENS,
        engine=choice.engine,
    )


def _menu(box: Toolbox, names: Sequence[str] | None = None) -> str:
    return menu(box, names, parameters=True) or "none"


def _by_rule(fit: ToolFit, least: float, asks: bool, otherwise: str) -> Verdict:
    if fit.best is None or fit.words < least:
        return Verdict(action=_action(otherwise))
    return Verdict(action="ask" if asks and fit.missing > 0 else "call")


def _by_classifier(fit: ToolFit, model: Any) -> Verdict:
    likely = _linear(model).probabilities(fit.features)
    return Verdict(action=_action(max(likely, key=lambda name: likely[name])), likely=likely)


def _linear(model: Any) -> Any:
    from sage.index.linear import Linear

    return msgspec.convert(model, Linear) if isinstance(model, Mapping) else model


def _action(name: str) -> Action:
    found: Action = msgspec.convert(name, Action)
    return found


def _of_reply(reply: Reply) -> Verdict:
    said = read_json(reply.text)
    action = said.get("action") if isinstance(said, dict) else None
    if action not in ACTIONS:
        return Verdict(action=None, fault="it names no action")
    return Verdict(action=_action(action))


def _unsure(first: Verdict, sure: float) -> bool:
    return max(first.likely.values()) < sure


def _second(first: Verdict, reply: Reply | None) -> Verdict:
    return first if reply is None else msgspec.structs.replace(_of_reply(reply), likely=first.likely)


_EMBEDDER = frozenset({"embedder"})
for _one in (
    Strategy(
        "rule",
        "a tool shares enough words with the request",
        _rule,
        frozenset(),
        ("least", "asks", "otherwise"),
    ),
    Strategy(
        "classifier",
        "a linear model over how tools fit, and the request's embedding",
        _classifier,
        _EMBEDDER,
        ("model",),
    ),
    Strategy("llm", "a model reads the request and the tools", _llm, frozenset({"llm"}), ("actions",)),
    Strategy(
        "hybrid",
        "the classifier where it is sure, else the model",
        _hybrid,
        frozenset({"embedder", "llm"}),
        ("model", "sure", "actions"),
    ),
):
    DECIDERS[_one.name] = _one


# ---- how tools fit a request


def tool_fit(
    query: str, /, *, tools: Toolbox, among: str | None = None, by: str = "both", engine: str = "embedder"
) -> Step:
    """How well the tools of a box fit a request, as numbers that a decision can be made from.

    Args:
        query: the request, with references in braces.
        tools: the box.
        among: a field with the names of the tools there are; None: every allowed tool.
        by: "words", or "both" words and embeddings.
        engine: the pool that embeds.

    Returns:
        A step whose value is a ToolFit.
    """
    if by not in {"words", "both"}:
        raise InputError(f"tool_fit: by is {by!r}, expected 'words' or 'both'")
    arguments: dict[str, Argument] = {"query": text(query), "tools": Constant(tools)}
    if among is not None:
        arguments["among"] = field(among)
    arguments |= {} if by == "both" else {"by": Constant(by)}
    arguments |= {} if engine == "embedder" else {"engine": Constant(engine)}
    bodies = {} if by == "words" else {"embed": embedding(engine)}
    return Step(
        operator="tool_fit", arguments=arguments, gives=ToolFit, expects={"among": list}, bodies=bodies
    )


def _bind(planned: PlannedStep, context: Context) -> Work:
    from sage.index.tool_words import clauses

    arguments = planned.arguments
    box, words_only = box_of(planned), "by" in arguments
    query_of = getter(arguments["query"])
    among_of = getter(arguments["among"]) if "among" in arguments else None
    engine = arguments.get("engine", Constant("embedder"))
    assert isinstance(engine, Constant)
    fingerprint = None if words_only else context.engine(engine.value).fingerprint
    index_of = indexing(box, "words" if words_only else "both", None, fingerprint)

    async def call(record: Record, bodies: Bodies) -> ToolFit:
        index = await index_of(bodies)
        request = as_text(query_of(record))
        parts = clauses(request)
        rows = None if words_only else await bodies.run("embed", {"texts": parts})
        among = None if among_of is None else [str(name) for name in among_of(record)]
        whole = () if rows is None else tuple(float(number) for number in rows[0])
        if not len(index) or among == []:
            return ToolFit(best=None, features=(*(0.0,) * 7, *whole))
        meaning, words = index.parts(parts, rows, among)
        names = among if among is not None else [document.name for document in index.documents]
        by_meaning, by_words = sorted(meaning.max(axis=0))[::-1], sorted(words.max(axis=0))[::-1]
        best = names[int((meaning + 0.02 * words).max(axis=0).argmax())]
        missing = _missing(box[best], request)
        numbers = (*_first_two(by_meaning), *_first_two(by_words), float(len(names)) ** 0.5, float(missing))
        return ToolFit(
            best=best,
            meaning=float(by_meaning[0]),
            words=float(by_words[0]),
            num_tools=len(names),
            missing=missing,
            features=(*numbers, float(len(parts)), *whole),
        )

    return Composite(call)


def _first_two(values: Sequence[Any]) -> tuple[float, float]:
    return float(values[0]), float(values[1]) if len(values) > 1 else 0.0


def _missing(made: Tool, request: str) -> int:
    """How many required parameters there are beyond what looks like a value in a request."""
    required = len(made.parameters.get("required", ()))
    return max(0, required - len(_VALUE.findall(request)))


OPERATORS["tool_fit"] = Operator(
    "tool_fit",
    by_box_name(tool_fit),
    "query",
    _bind,
    lambda made: {**made.arguments, "tools": given_box(made)},
)


offer("decide", decide)
