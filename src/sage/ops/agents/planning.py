"""Which calls a task needs, and which of them need the results of others: ways of planning, each a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sage.engines.base import Reply
from sage.graph.body import Body
from sage.graph.plan import compile_plan
from sage.graph.step import Step
from sage.ops.agents.ranking import Selection, rank_tools
from sage.ops.agents.replies import read_json
from sage.ops.agents.strategies import Choice, Steps, Strategy, meant, menu, offer, strategic
from sage.ops.agents.tools import Toolbox
from sage.ops.flow import each, loop
from sage.ops.functions import step
from sage.ops.models import generate
from sage.registry import Registry

__all__ = ["PLANNERS", "PlanStep", "ToolPlan", "plan"]

PLAN_TOKENS = 384
STEP_TOKENS = 128
MAX_STEPS = 8
FINISH = "finish"

_RESULT = re.compile(r"\$(\d+)")
_BACK = re.compile(
    r"\b(?:it|its|them|they|that|those|these|this|the result|the results|there)\b", re.IGNORECASE
)


class PlanStep(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a plan."""

    tool: str
    arguments: Mapping[str, Any] = {}
    after: tuple[int, ...] = ()  # places in the plan, counted from 0, whose results it needs


class ToolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Calls in an order in which they can be made."""

    steps: tuple[PlanStep, ...] = ()
    fault: str | None = None  # why a model's plan could not be read
    invented: tuple[str, ...] = ()  # names a model gave that no tool has


PLANNERS: Registry[Strategy] = Registry("way of planning")


def plan(
    query: str,
    /,
    *,
    tools: Toolbox,
    by: str = "direct",
    among: str | None = None,
    shortlist: int = 10,
    engine: str = "llm",
    embedder: str = "embedder",
) -> Step:
    """The calls that a task needs, and how they depend on each other. Nothing is called.

    An argument ``"$2"`` stands for the result of the plan's second call.

    Args:
        query: the task, with references in braces.
        tools: the box; only its allowed tools are planned with.
        by: the way, a key of ``PLANNERS``: "clauses", "direct", "hierarchical", "react".
        among: a field with the names to choose from; None: every allowed tool.
        shortlist: how many tools retrieval shows the model.
        engine: the pool that writes.
        embedder: the pool that embeds.

    Returns:
        A step whose value is a ToolPlan.
    """
    choice = Choice(
        tools=tools, among=among is not None, shortlist=shortlist, engine=engine, embedder=embedder
    )
    return strategic("plan", PLANNERS, query, choice, by, among)


SHAPE = (
    "Reply with JSON. Each step calls one tool from the list, and after holds the numbers of the steps whose results "
    'it needs. To use the result of step 1 as an argument write "$1".'
)
DIRECT = "Plan the calls of tools that the task needs, in order. " + SHAPE + "\n\nTools:\n{menu}"
DECOMPOSE = (
    "Split the task into its smallest steps, in order. Reply with JSON: each goal says one thing to do, and after holds "
    "the numbers of the goals whose results it needs."
)
BIND = (
    "Choose the one tool that reaches the goal, and its arguments. Reply with JSON. For the result of an earlier goal "
    'write "$" and its number.\n\nTools:\n{menu}'
)
NEXT = (
    "Solve the task one call at a time. Reply with JSON: the next call, or the tool finish when the calls so far are "
    'enough. To use the result of call 1 as an argument write "$1".\n\nTools:\n{menu}\n- finish: nothing is missing'
)

_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "integer"}, "maxItems": 4}
_NAME: dict[str, Any] = {"type": "string", "maxLength": 80}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_ONE_CALL = _object(tool=_NAME, arguments={"type": "object"})
PLAN_SCHEMA = _object(
    steps={
        "type": "array",
        "maxItems": MAX_STEPS,
        "items": _object(tool=_NAME, arguments={"type": "object"}, after=_NUMBERS),
    }
)
GOALS_SCHEMA = _object(
    goals={
        "type": "array",
        "maxItems": MAX_STEPS,
        "items": _object(goal={"type": "string", "maxLength": 160}, after=_NUMBERS),
    }
)


# ---- the ways


def _clauses(choice: Choice) -> Steps:
    """No model writes: the best tool of each clause; a clause that points back needs the one before."""
    return {
        "parts": step(_parts),
        "found": each("parts", _ranked(choice, "{part}", 1), item="part"),
        "plan": step(_of_clauses),
    }


def _direct(choice: Choice) -> Steps:
    return {
        **_shown(choice),
        "reply": _asked("Task: {query}", DIRECT, PLAN_SCHEMA, PLAN_TOKENS, choice),
        "plan": step(_of_reply, box=choice.tools),
    }


def _hierarchical(choice: Choice) -> Steps:
    bind = {
        "found": _ranked(choice, "{goal}", max(1, choice.shortlist // 2)),
        "menu": step(_menu, box=choice.tools, names="{found.tools}"),
        "reply": _asked("Task: {query}\nGoal: {goal}", BIND, _ONE_CALL, STEP_TOKENS, choice),
        "call": step(_bound, box=choice.tools),
    }
    return {
        "outline": _asked("Task: {query}", DECOMPOSE, GOALS_SCHEMA, PLAN_TOKENS, choice),
        "goals": step(_goals),
        "texts": step(_goal_texts),
        "calls": each("texts", Body(compile_plan("bind", bind), "call"), item="goal"),
        "plan": step(_of_goals, box=choice.tools),
    }


def _react(choice: Choice) -> Steps:
    turn = {
        "so_far": step(_so_far),
        "reply": _asked("Task: {query}\nCalls so far:\n{so_far}", NEXT, _ONE_CALL, STEP_TOKENS, choice),
        "next_plan": step(_with_next, box=choice.tools),
        "done": step(_is_finished),
    }
    return {
        **_shown(choice),
        "draft": step(_empty),
        "last": loop(
            Body(compile_plan("turn", turn)), until="done", carry={"draft": "next_plan"}, max_steps=MAX_STEPS
        ),
        "plan": step(_last_plan),
    }


def _ranked(choice: Choice, query: str, k: int) -> Step:
    among = "among" if choice.among else None
    return rank_tools(query, tools=choice.tools, k=k, among=among, engine=choice.embedder)


def _shown(choice: Choice) -> dict[str, Step]:
    return {
        "found": _ranked(choice, "{query}", choice.shortlist),
        "menu": step(_menu, box=choice.tools, names="{found.tools}"),
    }


def _asked(prompt: str, system: str, schema: Mapping[str, Any], tokens: int, choice: Choice) -> Step:
    return generate(prompt, system=system, schema=schema, full=True, max_tokens=tokens, engine=choice.engine)


# ---- what their steps compute


def _menu(names: Sequence[str], box: Toolbox) -> str:
    return menu(box, names, parameters=True)


def _parts(query: str) -> list[str]:
    from sage.index.tool_words import clauses

    whole, *parts = clauses(query)
    return parts or [whole]


def _of_clauses(parts: list[str], found: list[Selection]) -> ToolPlan:
    steps: list[PlanStep] = []
    for part, selection in zip(parts, found, strict=True):
        if not selection.tools or (steps and steps[-1].tool == selection.tools[0]):
            continue
        after = (len(steps) - 1,) if steps and _BACK.search(part) else ()
        steps.append(PlanStep(tool=selection.tools[0], after=after))
    return ToolPlan(steps=tuple(steps))


def _of_reply(reply: Reply, box: Toolbox) -> ToolPlan:
    said = read_json(reply.text)
    listed = said.get("steps") if isinstance(said, dict) else said
    if not isinstance(listed, list):
        return ToolPlan(fault="it holds no list of steps")
    return _checked([_as_step(one, box) for one in listed], box)


def _as_step(said: Any, box: Toolbox) -> PlanStep:
    if not isinstance(said, dict):
        return PlanStep(tool="")
    arguments = said.get("arguments")
    arguments = arguments if isinstance(arguments, dict) else {}
    after = said.get("after")
    places = [place for place in after if type(place) is int] if isinstance(after, list) else []
    tool = meant(str(said.get("tool") or said.get("name") or ""), box.allowed)
    return PlanStep(tool=tool, arguments=arguments, after=tuple(places))


def _checked(steps: list[PlanStep], box: Toolbox) -> ToolPlan:
    """A plan from steps whose ``after`` counts from 1 as models do: known tools, and only earlier steps needed."""
    kept: list[PlanStep] = []
    place: dict[int, int] = {}  # as the model counts -> in the plan
    invented: list[str] = []
    for number, one in enumerate(steps, 1):
        if one.tool not in box.allowed:
            invented.append(one.tool)
            continue
        needed = {*one.after, *_referred(one.arguments)}
        after = tuple(sorted(place[before] for before in needed if before in place))
        place[number] = len(kept)
        kept.append(msgspec.structs.replace(one, after=after))
    return ToolPlan(steps=tuple(kept), invented=tuple(name for name in invented if name))


def _referred(value: Any) -> set[int]:
    """The numbers of the results that arguments name, such as ``$1``."""
    if isinstance(value, str):
        return {int(number) for number in _RESULT.findall(value) if len(number) < 4}
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return {number for item in items for number in _referred(item)}


def _goals(outline: Reply) -> ToolPlan:
    """The goals as a plan whose tools are still to be bound: ``tool`` holds the goal."""
    said = read_json(outline.text)
    listed = said.get("goals") if isinstance(said, dict) else said
    if not isinstance(listed, list):
        return ToolPlan(fault="it holds no list of goals")
    steps = []
    for one in listed[:MAX_STEPS]:
        goal = one.get("goal") if isinstance(one, dict) else one
        if isinstance(goal, str) and goal.strip():
            after = one.get("after") if isinstance(one, dict) else None
            places = tuple(n for n in after if type(n) is int) if isinstance(after, list) else ()
            steps.append(PlanStep(tool=goal.strip(), after=places))
    return ToolPlan(steps=tuple(steps), fault=None if steps else "it holds no goal")


def _goal_texts(goals: ToolPlan) -> list[str]:
    return [one.tool for one in goals.steps]


def _bound(reply: Reply, found: Selection, box: Toolbox) -> PlanStep:
    """The call a model bound a goal to; where it cannot be read, what retrieval found first."""
    said = read_json(reply.text)
    one = _as_step(said, box)
    if one.tool:
        return one
    return PlanStep(tool=found.tools[0] if found.tools else "")


def _of_goals(goals: ToolPlan, calls: list[PlanStep], box: Toolbox) -> ToolPlan:
    if goals.fault:
        return goals
    steps = [
        msgspec.structs.replace(call, after=goal.after) for goal, call in zip(goals.steps, calls, strict=True)
    ]
    return _checked(steps, box)


def _empty() -> ToolPlan:
    return ToolPlan()


def _so_far(draft: ToolPlan) -> str:
    lines = (
        f"{number}. {one.tool} {msgspec.json.encode(one.arguments).decode()} -> ${number}"
        for number, one in enumerate(draft.steps, 1)
    )
    return "\n".join(lines) or "none"


def _with_next(draft: ToolPlan, reply: Reply, box: Toolbox) -> ToolPlan:
    said = read_json(reply.text)
    one = _as_step(said, box)
    if not one.tool:
        return msgspec.structs.replace(draft, fault="a call could not be read")
    if meant(one.tool, {FINISH}) == FINISH:
        return msgspec.structs.replace(draft, fault=FINISH)
    if one.tool not in box.allowed:
        return msgspec.structs.replace(draft, fault=FINISH, invented=(*draft.invented, one.tool))
    if any(one.tool == old.tool and one.arguments == old.arguments for old in draft.steps):
        return msgspec.structs.replace(draft, fault=FINISH)  # the same call again would say the same
    after = tuple(sorted(place - 1 for place in _referred(one.arguments) if 0 < place <= len(draft.steps)))
    made = msgspec.structs.replace(one, after=after)
    return msgspec.structs.replace(draft, steps=(*draft.steps, made))


def _is_finished(next_plan: ToolPlan) -> bool:
    return next_plan.fault is not None


def _last_plan(last: dict[str, Any]) -> ToolPlan:
    made: ToolPlan = last["next_plan"]
    return msgspec.structs.replace(made, fault=None) if made.fault == FINISH else made


_BOTH = frozenset({"embedder", "llm"})
for _one in (
    Strategy("clauses", "the best tool for each clause of the task", _clauses, frozenset({"embedder"})),
    Strategy("direct", "a model writes the whole plan at once", _direct, _BOTH),
    Strategy(
        "hierarchical", "a model splits the task into goals, then binds each to a call", _hierarchical, _BOTH
    ),
    Strategy("react", "a model adds one call at a time, knowing the ones before", _react, _BOTH),
):
    PLANNERS[_one.name] = _one


offer("plan", plan)
