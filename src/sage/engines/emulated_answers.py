"""What emulated engines answer: a fixed rule from the prompt, so that every test knows the right answer.

A *token* is a word with the spaces after it. The rule for an answer, in this order:

1. tools are offered and no tool has answered yet: a call of the first tool, its arguments by rule 2;
2. a JSON schema is asked for: the smallest value that satisfies it; of an ``enum``, the first member that
   stands in the last message, else the first;
3. ``answer_tokens`` is set: the words of the last message, over and over, up to that number;
4. otherwise: "You said: " and the last message.

Embeddings are hashed bags of words (after Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
Learning"): texts that share words are near each other. Nothing here is a model, and nothing claims to be.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sage.engines.base import GenerateRequest, ToolCall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

_TOKEN = re.compile(r"\s*\S+\s*")
_WORD = re.compile(r"\w+")


def split_tokens(text: str) -> list[str]:
    """The tokens of a text; joined, they are the text.

    >>> split_tokens("to be, or")
    ['to ', 'be, ', 'or']
    """
    return _TOKEN.findall(text) or ([text] if text else [])


def count_tokens(texts: Iterable[str]) -> int:
    """How many tokens some texts have.

    >>> count_tokens(["to be", "or not"])
    4
    """
    return sum(len(text.split()) for text in texts)


def plain_answer(last_message: str, answer_tokens: int | None = None) -> str:
    """Rules 3 and 4 of the module.

    >>> plain_answer("one two"), plain_answer("one two", 5)
    ('You said: one two', 'one two one two one')
    """
    if answer_tokens is None:
        return f"You said: {last_message}"
    words = last_message.split() or ["nothing"]
    return " ".join(itertools.islice(itertools.cycle(words), answer_tokens))


def answer_of(request: GenerateRequest, answer_tokens: int | None = None) -> str:
    """The answer to a request that offers no tools: rules 2 to 4."""
    last_message = request.messages[-1].content if request.messages else ""
    if request.schema is not None:
        return msgspec.json.encode(smallest(request.schema, last_message)).decode()
    return plain_answer(last_message, answer_tokens)


def first_call(request: GenerateRequest) -> ToolCall | None:
    """Rule 1: the call of the first tool; None when there is none to make."""
    if not request.tools or any(message.role == "tool" for message in request.messages):
        return None
    function = request.tools[0]["function"]
    arguments = smallest(function.get("parameters", {"type": "object"}), request.messages[-1].content)
    return ToolCall(function["name"], msgspec.json.encode(arguments).decode(), "call-0")


def smallest(schema: Mapping[str, Any], prompt: str) -> Any:
    """The smallest value that satisfies a simple JSON schema: rule 2. Local ``$ref`` are followed.

    >>> smallest({"enum": ["cat", "dog"]}, "I have a dog")
    'dog'
    >>> smallest({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}, "")
    {'n': 3}
    """
    return _smallest(schema, prompt, schema)


def _smallest(schema: Mapping[str, Any], prompt: str, root: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        return _smallest(target, prompt, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        members: Sequence[Any] = schema["enum"]
        return next((one for one in members if isinstance(one, str) and one in prompt), members[0])
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return _smallest(schema[several][0], prompt, root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _smallest_of_type(kind[0] if isinstance(kind, list) else kind, schema, prompt, root)


def _smallest_of_type(kind: str, schema: Mapping[str, Any], prompt: str, root: Mapping[str, Any]) -> Any:
    if kind == "object":
        return {name: _smallest(part, prompt, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_smallest(schema.get("items", {}), prompt, root) for _ in range(schema.get("minItems", 1))]
    if kind == "string":
        words = plain_answer(prompt)[: schema.get("maxLength", 40)]
        return words.ljust(schema.get("minLength", 0), ".")
    if kind in {"integer", "number"}:
        least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        return min(least, schema.get("maximum", least))
    return {"boolean": True, "null": None}[kind]


def until_stop(text: str, stop: Iterable[str]) -> str:
    """The text before the first stop string.

    >>> until_stop("one two three", ["thr", "two"])
    'one '
    """
    return text[: min((found for found in map(text.find, stop) if found >= 0), default=len(text))]


def hashed_vectors(texts: Sequence[str], dimension: int) -> NDArray[np.float32]:
    """One unit row per text, shape (len(texts), dimension): the sum of its words' hashed directions."""
    import numpy as np

    rows = np.zeros((len(texts), dimension), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[0] = 1e-3  # so that a text without words has a direction too
        for word in _WORD.findall(text.lower()):
            digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            row[digest % dimension] += 1.0 if digest >> 63 else -1.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
