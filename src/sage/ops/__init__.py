"""Ready-made operators: what a step can be made by.

Every operator is a function that returns a ``sage.graph.step.Step``; ``OPERATORS`` lists them by name.
"""

from sage.graph.step import Batch
from sage.ops.agents.agent import AgentRun, agent
from sage.ops.agents.calling import call_tool
from sage.ops.agents.deciding import decide, tool_fit
from sage.ops.agents.mcp import open_mcp
from sage.ops.agents.memory import Conversations, recall, remember
from sage.ops.agents.planning import plan
from sage.ops.agents.ranking import rank_tools
from sage.ops.agents.selecting import select_tools
from sage.ops.agents.tools import Tool, Toolbox, register_tools, tool
from sage.ops.base import OPERATORS, Operator
from sage.ops.flow import each, first_of, loop, nested, route
from sage.ops.functions import register, step
from sage.ops.models import embed, generate
from sage.ops.pieces import parse_json, sentences
from sage.ops.rag import rerank, search
from sage.ops.text import template

__all__ = [
    "OPERATORS",
    "AgentRun",
    "Batch",
    "Conversations",
    "Operator",
    "Tool",
    "Toolbox",
    "agent",
    "call_tool",
    "decide",
    "each",
    "embed",
    "first_of",
    "generate",
    "loop",
    "nested",
    "open_mcp",
    "parse_json",
    "plan",
    "rank_tools",
    "recall",
    "register",
    "register_tools",
    "remember",
    "rerank",
    "route",
    "search",
    "select_tools",
    "sentences",
    "step",
    "template",
    "tool",
    "tool_fit",
]
