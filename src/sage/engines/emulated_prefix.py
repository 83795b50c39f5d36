"""A prefix cache in numbers: which leading part of a prompt an engine has seen lately."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence

from sage.engines.base import Message

__all__ = ["PrefixCache"]

BLOCK_CHARS = 64


class PrefixCache:
    """The latest blocks of prompts, by the text that leads to them; the oldest ones go first.

    Two simplifications: a block is free for the next request even while it is still being prefilled, and each
    request holds its whole prompt in the KV cache, though real ones share blocks.

    >>> cache = PrefixCache(1000)
    >>> first, second = (Message("user", "The same long beginning. " * 20 + end) for end in ("One?", "Two?"))
    >>> cache.take([first], 126), cache.take([second], 126) > 100
    (0, True)
    """

    def __init__(self, kv_tokens: int) -> None:
        self._most = max(1, kv_tokens * 4 // BLOCK_CHARS)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, messages: Sequence[Message], tokens: int) -> int:
        """How many leading tokens of a prompt are there already; from now on, all of it is."""
        text = "".join([f"{message.role}:{message.content}\n" for message in messages])
        blocks, seen, key, leading = self._blocks, 0, 0, True
        for start in range(0, len(text) - BLOCK_CHARS + 1, BLOCK_CHARS):
            key = hash((key, zlib.crc32(text[start : start + BLOCK_CHARS].encode())))
            if key in blocks:
                blocks.move_to_end(key)
                seen += leading
            else:
                leading = False
                blocks[key] = None
        while len(blocks) > self._most:
            blocks.popitem(last=False)
        return min(tokens - 1, tokens * seen * BLOCK_CHARS // max(1, len(text)))
