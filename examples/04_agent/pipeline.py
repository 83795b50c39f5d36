"""An agent: a model chooses tools, they run at the same time, what they say goes back to it, until it has an answer.

sage run examples/04_agent/pipeline.py:pipeline --input examples/04_agent/input.jsonl
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import TypedDict

from sage import Pipeline
from sage.ops import each, generate, loop, register, step, template

CAPITALS = {"france": "Paris", "japan": "Tokyo", "kenya": "Nairobi", "peru": "Lima"}
OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(argument: str) -> str:
    """Sums of numbers, and nothing else that Python can say."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp(left, kind, right) if type(kind) in OPERATIONS:
                return OPERATIONS[type(kind)](value(left), value(right))
        raise ValueError("only + - * / and numbers")

    return f"{value(ast.parse(argument.strip(), mode='eval').body):g}"


def capital(argument: str) -> str:
    country = argument.strip().lower()
    if country not in CAPITALS:
        raise ValueError(f"no such country; known are {', '.join(CAPITALS)}")
    return CAPITALS[country]


TOOLS: dict[str, Callable[[str], str]] = {"calculate": calculate, "capital": capital}


class Call(TypedDict):
    tool: str
    argument: str


#: What the model may say: some calls, or an answer.
DECISION = {
    "type": "object",
    "properties": {
        "calls": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {
                    "tool": {"enum": ["calculate", "capital"]},
                    "argument": {"type": "string", "maxLength": 30},
                },
                "required": ["tool", "argument"],
            },
        },
        "answer": {"type": "string", "maxLength": 120},
    },
    "required": ["calls", "answer"],
}


@register
def use_tool(call: Call) -> str:
    """What a tool says; its errors are the model's to read."""
    try:
        return f"{call['tool']}({call['argument']}) = {TOOLS[call['tool']](call['argument'])}"
    except (ValueError, SyntaxError, ZeroDivisionError) as error:
        return f"{call['tool']}({call['argument']}) failed: {error}"


@register
def more_notes(notes: list[str], results: list[str]) -> list[str]:
    return [*notes, *results]


@register
def is_done(notes: list[str], results: list[str]) -> bool:
    """It called no tool, or only such as it had called before."""
    return set(results) <= set(notes)


turn = Pipeline(
    "turn",
    decision=generate(
        "Question: {question}\n\nWhat the tools have said so far:\n{notes}\n\nCall tools if something is still missing: "
        'calculate takes a sum such as "2 * 3", capital takes a country such as "France". When nothing is missing, '
        "call none and give the answer.",
        schema=DECISION,
        max_tokens=160,
    ),
    results=each("decision.calls", step(use_tool, pool="cpu"), item="call"),
    next_notes=more_notes,
    done=is_done,
)

pipeline = Pipeline(
    "agent",
    last=loop(turn, until="done", carry={"notes": "next_notes"}, max_steps=3),
    answer=template("{last.decision.answer}"),
    used=template("{last.next_notes}"),
    stopped=template("{last.stopped}"),
).outputs("question", "answer", "used", "stopped")
