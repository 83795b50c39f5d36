"""An agent: a model chooses tools, they run at the same time, what they say goes back to it, until it has an answer.

sage run examples/04_agent/pipeline.py:pipeline --input examples/04_agent/input.jsonl
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

from sage import Pipeline
from sage.ops import Toolbox, agent, register_tools, template

CAPITALS = {"france": "Paris", "japan": "Tokyo", "kenya": "Nairobi", "peru": "Lima"}
OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(sum: str) -> str:  # noqa: A002 - what a model understands
    """The result of a sum of numbers, such as "2 * 3".

    Args:
        sum: numbers with + - * / between them.
    """

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp(left, kind, right) if type(kind) in OPERATIONS:
                return OPERATIONS[type(kind)](value(left), value(right))
        raise ValueError("only + - * / and numbers")

    return f"{value(ast.parse(sum.strip(), mode='eval').body):g}"


def capital(country: str) -> str:
    """The capital of a country, such as "France"."""
    name = country.strip().lower()
    if name not in CAPITALS:
        raise ValueError(f"no such country; known are {', '.join(CAPITALS)}")
    return CAPITALS[name]


desk = register_tools(Toolbox("desk", calculate, capital))

pipeline = Pipeline(
    "agent",
    run=agent("{question}", tools=desk, max_steps=3, reply_tokens=160),
    answer=template("{run.answer}"),
    stopped=template("{run.stopped}"),
    turns=template("{run.turns}"),
).outputs("question", "answer", "stopped", "turns")
