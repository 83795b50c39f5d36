"""A plan in forms to look at: text, a mermaid chart, an svg picture, JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sage.graph.picture import svg
from sage.graph.plan import Plan, PlannedStep

__all__ = ["RENDERERS", "as_data", "levels"]


def levels(plan: Plan) -> dict[str, int]:
    """Step -> how many steps must run before it, one after the other, and itself: steps of one level can overlap."""
    found: dict[str, int] = {}
    for step in plan.steps:
        found[step.name] = 1 + max((found[name] for name in step.after), default=0)
    return found


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, for ``--json``: ``needs`` are the fields a step reads, ``after`` the steps among them."""
    return {
        "name": plan.name,
        "inputs": list(plan.inputs),
        "steps": [
            {
                "name": step.name,
                "operator": step.step.operator,
                "needs": list(step.needs),
                "after": list(step.after),
            }
            for step in plan.steps
        ],
    }


def _json(plan: Plan) -> str:
    return msgspec.json.format(msgspec.json.encode(as_data(plan)), indent=2).decode() + "\n"


def _text(plan: Plan) -> str:
    """A table: steps by level, what each reads and where it runs."""
    level = levels(plan)
    rows = [("level", "step", "operator", "reads", "runs")]
    ordered = sorted(plan.steps, key=lambda step: level[step.name])
    for number, step in enumerate(ordered):
        is_first = number == 0 or level[ordered[number - 1].name] != level[step.name]
        rows.append(
            (
                str(level[step.name]) if is_first else "",
                step.name,
                step.step.operator,
                ", ".join(step.needs) or "-",
                _where(step),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    table.insert(1, "  ".join("-" * width for width in widths))
    optional = f" (optional: {', '.join(plan.optional_inputs)})" if plan.optional_inputs else ""
    head = [
        f"pipeline  {plan.name}",
        f"inputs    {', '.join(plan.inputs) or 'none'}{optional}",
        f"outputs   {'every field' if plan.outputs is None else ', '.join(plan.outputs)}",
    ]
    together = len(set(level.values())) < len(level)
    foot = ["", "Steps of one level can run at the same time."] if together else []
    return "\n".join([*head, "", *table, *foot]) + "\n"


def _where(step: PlannedStep) -> str:
    """Where a step runs, and its own limits."""
    own = step.step
    said = ["inline" if own.pool is None else f"pool {own.pool}"]
    said += [] if own.attempts is None else [f"{own.attempts} attempts"]
    said += [] if own.timeout_s is None else [f"{own.timeout_s:g} s each"]
    return ", ".join(said)


def _mermaid(plan: Plan) -> str:
    """A flowchart; nodes have plain ids, so that any field name may stand in a label."""
    names = [*plan.inputs, *plan.optional_inputs, *(step.name for step in plan.steps)]
    node = {name: f"n{number}" for number, name in enumerate(names)}
    lines = ["flowchart TD"]
    lines += [f'    {node[name]}(["{_escaped(name)}"])' for name in (*plan.inputs, *plan.optional_inputs)]
    for step in plan.steps:
        below = step.step.operator if step.step.pool is None else f"{step.step.operator} · {step.step.pool}"
        lines.append(f'    {node[step.name]}["{_escaped(step.name)}<br/>{_escaped(below)}"]')
    for step in plan.steps:
        lines += [f"    {node[need]} --> {node[step.name]}" for need in step.needs if need in node]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Mermaid's own entities for what ends a label or starts markup."""
    return "".join(letter if letter.isalnum() or letter in " _-.·" else f"#{ord(letter)};" for letter in text)


def _svg(plan: Plan) -> str:
    return svg(plan, levels(plan))


#: Form -> a function from a plan to text in that form.
RENDERERS: Mapping[str, Callable[[Plan], str]] = {
    "text": _text,
    "mermaid": _mermaid,
    "svg": _svg,
    "json": _json,
}
