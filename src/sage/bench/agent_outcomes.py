"""What a run of a strategy made of each task, and what it cost: items from its records and its event log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.bench.agent_data.sets import Task
from sage.bench.agent_fit import fold_of
from sage.bench.agent_items import AgentItem, Kind
from sage.bench.records import requests_of
from sage.events import Event, TaskEnded
from sage.ops.agents.deciding import Verdict
from sage.ops.agents.planning import ToolPlan
from sage.ops.agents.ranking import Selection
from sage.ops.agents.strategies import meant
from sage.runtime.recorder import RunResult

__all__ = ["items_of"]


def items_of(
    kind: Kind, tasks: Sequence[Task], result: RunResult, *, folds: bool, every: int
) -> list[AgentItem]:
    """One item a task, in order, from the records and the event log."""
    made = {record["id"]: record["made"] for record in result.records}
    errors = {failure.record["id"]: str(failure.error).partition("\n")[0] for failure in result.failures}
    costs = _costs(result.events)
    read = _READERS[kind]
    items = []
    for number, task in enumerate(tasks):
        item = AgentItem(
            id=task.id,
            group=task.group,
            fold=fold_of(task) if folds else None,
            offered=every if task.among is None else len(task.among),
            gold=task.gold,
            gold_edges=task.edges,
            label=task.label,
            error=errors.get(task.id, None if task.id in made else "it has no result"),
            **costs.get(number, {}),
            **(read(task, made[task.id]) if task.id in made else {}),
        )
        items.append(item)
    return items


def _chosen(task: Task, made: Selection) -> dict[str, Any]:
    resolved, invented = _resolved(made.invented, task)
    tools = tuple(dict.fromkeys([*resolved, *made.tools]))
    return {
        "tools": tools,
        "scores": made.scores if not resolved else (),
        "best": made.best,
        "invented": invented,
        "fault": made.fault,
    }


def _resolved(names: Sequence[str], task: Task) -> tuple[list[str], tuple[str, ...]]:
    """Names without the ``~2`` that tells tools of one name apart stand for the one that the task offers."""
    bare = {name.partition("~")[0]: name for name in task.among or ()}
    read = [meant(name, bare) for name in names]
    return [bare[name] for name in read if name in bare], tuple(name for name in read if name not in bare)


def _planned(_task: Task, made: ToolPlan) -> dict[str, Any]:
    steps = made.steps
    edges = tuple((before, place) for place, step in enumerate(steps) for before in step.after)
    return {
        "tools": tuple(step.tool for step in steps),
        "edges": edges,
        "invented": made.invented,
        "fault": made.fault,
    }


def _decided(_task: Task, made: Verdict) -> dict[str, Any]:
    return {"said": made.action, "likely": made.likely, "fault": made.fault}


#: What is kept of a strategy's value.
_READERS: Mapping[Kind, Callable[[Task, Any], dict[str, Any]]] = {
    "selection": _chosen,
    "planning": _planned,
    "timing": _decided,
}


def _costs(events: Any) -> dict[int, dict[str, Any]]:
    """What each job cost: its time, its tokens and its calls."""
    kept: list[Event] = list(events)
    costs: dict[int, dict[str, Any]] = {}
    for request in requests_of(kept):
        costs[request.id] = {
            "latency_s": request.ended - request.handed,
            "llm_calls": 0,
            "embed_calls": 0,
        } | dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens"), 0)
    for event in kept:
        if not isinstance(event, TaskEnded) or event.job not in costs:
            continue
        cost = costs[event.job]
        if event.pool == "embedder":
            cost["embed_calls"] += 1
            continue
        cost["llm_calls"] += 1
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            cost[name] += getattr(event, name)
    return costs
