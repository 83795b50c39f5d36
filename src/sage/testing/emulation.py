"""What the engines of this package answer: the rule of ``sage.engines.emulated_answers``."""

from __future__ import annotations

from sage.engines.emulated_answers import (
    answer_of,
    count_tokens,
    first_call,
    hashed_vectors,
    plain_answer,
    smallest,
    split_tokens,
    until_stop,
)

__all__ = [
    "answer_of",
    "count_tokens",
    "first_call",
    "hashed_vectors",
    "plain_answer",
    "smallest",
    "split_tokens",
    "until_stop",
]
