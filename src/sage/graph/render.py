"""A plan in forms to look at: text, a mermaid chart, an svg picture, JSON."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from sage.graph.body import VALUE
from sage.graph.picture import labelled, levels, shown_label, svg
from sage.graph.plan import Plan, PlannedStep
from sage.graph.step import Step

__all__ = ["RENDERERS", "as_data", "escaped", "levels"]


INDENT = "  "


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
            | _bodies_data(step.step)
            for step in plan.steps
        ],
    }


def _bodies_data(step: Step) -> dict[str, Any]:
    """The plans inside a step by their label, if it has any; ``value`` is the field they give, null the record."""
    bodies = {label: as_data(body.plan) | {"value": body.field} for label, body in labelled(step).items()}
    return {"bodies": bodies} if bodies else {}


def _json(plan: Plan) -> str:
    return msgspec.json.format(msgspec.json.encode(as_data(plan)), indent=2).decode() + "\n"


def _text(plan: Plan) -> str:
    """A table: steps by level, what each reads and where it runs; below a step what is inside it, indented."""
    rows = [("level", "step", "operator", "reads", "runs"), *_rows(plan, "")]
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
    level = levels(plan)
    together = len(set(level.values())) < len(level)
    foot = ["", "Steps of one level can run at the same time."] if together else []
    return "\n".join([*head, "", *table, *foot]) + "\n"


_Row = tuple[str, str, str, str, str]


def _rows(plan: Plan, indent: str) -> list[_Row]:
    level = levels(plan)
    rows: list[_Row] = []
    last = 0
    for step in sorted(plan.steps, key=lambda step: level[step.name]):
        now = level[step.name]
        rows.append(_row("" if now == last else f"{indent}{now}", indent + step.name, step))
        rows += _body_rows(step.step, indent + INDENT)
        last = now
    return rows


def _body_rows(step: Step, indent: str) -> list[_Row]:
    rows: list[_Row] = []
    for label, body in labelled(step).items():
        name = f"{indent}{shown_label(label)}:"
        if body.field == VALUE:
            planned = body.plan.step(VALUE)
            rows += [_row("", name, planned), *_body_rows(planned.step, indent + INDENT)]
        else:
            rows.append(("", f"{name} {body.plan.name}", "pipeline", ", ".join(body.plan.inputs) or "-", ""))
            rows += _rows(body.plan, indent + INDENT)
    return rows


def _row(level: str, name: str, step: PlannedStep) -> _Row:
    return (level, name, step.step.operator, ", ".join(step.needs) or "-", _where(step))


def _where(step: PlannedStep) -> str:
    """Where a step runs, and its own limits."""
    own = step.step
    said = [] if own.bodies else ["inline" if own.pool is None else f"pool {own.pool}"]
    said += [] if own.attempts is None else [f"{own.attempts} attempts"]
    said += [] if own.timeout_s is None else [f"{own.timeout_s:g} s each"]
    return ", ".join(said)


def _mermaid(plan: Plan) -> str:
    """A flowchart; nodes have plain ids, so that any field name may stand in a label."""
    return "\n".join(["flowchart TD", *_chart(plan, itertools.count(), "    ")]) + "\n"


def _chart(plan: Plan, numbers: Iterator[int], indent: str) -> list[str]:
    """The nodes and edges of a plan; what is inside a step as subgraphs that a dotted line leads to."""
    names = [*plan.inputs, *plan.optional_inputs, *(step.name for step in plan.steps)]
    node = {name: f"n{next(numbers)}" for name in names}
    lines = [f'{indent}{node[name]}(["{escaped(name)}"])' for name in (*plan.inputs, *plan.optional_inputs)]
    lines += [_node(step.step, step.name, node[step.name], indent) for step in plan.steps]
    for step in plan.steps:
        lines += [f"{indent}{node[need]} --> {node[step.name]}" for need in step.needs if need in node]
    for step in plan.steps:
        lines += _subgraphs(step.step, node[step.name], numbers, indent)
    return lines


def _subgraphs(step: Step, node: str, numbers: Iterator[int], indent: str) -> list[str]:
    lines: list[str] = []
    for label, body in labelled(step).items():
        graph = f"n{next(numbers)}"
        title = shown_label(label) + ("" if body.field == VALUE else f": {body.plan.name}")
        inner = _single if body.field == VALUE else _chart
        lines += [
            f'{indent}subgraph {graph}["{escaped(title)}"]',
            *inner(body.plan, numbers, indent + "    "),
            f"{indent}end",
            f"{indent}{node} -.-> {graph}",
        ]
    return lines


def _single(plan: Plan, numbers: Iterator[int], indent: str) -> list[str]:
    """A body of one step: what it reads is what the step around it reads."""
    (planned,) = plan.steps
    node = f"n{next(numbers)}"
    return [_node(planned.step, "", node, indent), *_subgraphs(planned.step, node, numbers, indent)]


def _node(step: Step, name: str, node: str, indent: str) -> str:
    below = step.operator if step.pool is None else f"{step.operator} · {step.pool}"
    return f'{indent}{node}["{f"{escaped(name)}<br/>" if name else ""}{escaped(below)}"]'


def escaped(text: str) -> str:
    """Mermaid's own entities for what ends a label or starts markup."""
    return "".join(
        letter if letter.isalnum() or letter in " _-.:·" else f"#{ord(letter)};" for letter in text
    )


#: Form -> a function from a plan to text in that form.
RENDERERS: Mapping[str, Callable[[Plan], str]] = {
    "text": _text,
    "mermaid": _mermaid,
    "svg": svg,
    "json": _json,
}
