"""Ready-made operators: what a step can be made by.

Every operator is a function that returns a ``sage.graph.step.Step``; ``OPERATORS`` lists them by name.
"""

from sage.graph.step import Batch
from sage.ops.base import OPERATORS, Operator
from sage.ops.flow import each, first_of, loop, nested, route
from sage.ops.functions import register, step
from sage.ops.models import embed, generate
from sage.ops.pieces import parse_json, sentences
from sage.ops.rag import rerank, search
from sage.ops.text import template

__all__ = [
    "OPERATORS",
    "Batch",
    "Operator",
    "each",
    "embed",
    "first_of",
    "generate",
    "loop",
    "nested",
    "parse_json",
    "register",
    "rerank",
    "route",
    "search",
    "sentences",
    "step",
    "template",
]
