"""One turn of a conversation: its history goes in and comes out longer.

sage run examples/02_chat/pipeline.py --input examples/02_chat/input.jsonl
"""

from __future__ import annotations

from sage import Pipeline
from sage.ops import generate, register

KEPT_TURNS = 8

Turns = list[dict[str, str]]


@register
def asked(history: Turns, message: str) -> Turns:
    """The latest turns, and the new message behind them."""
    return [*history[-KEPT_TURNS:], {"role": "user", "content": message}]


@register
def longer(history: Turns, message: str, reply: str) -> Turns:
    said = [{"role": "user", "content": message}, {"role": "assistant", "content": reply}]
    return [*history, *said]


pipeline = Pipeline(
    "chat",
    messages=asked,
    reply=generate(messages="messages", system="You help {user} and answer in one sentence.", max_tokens=48),
    next_history=longer,
).outputs("user", "reply", "next_history")
