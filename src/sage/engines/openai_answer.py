"""Answers of OpenAI-compatible servers, put together from what arrives. Pure: no sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from sage.engines.base import EmbedReply, Emit, Piece, Reply, ToolCall, Usage
from sage.engines.openai_wire import CallPart, Chunk, Delta, WireUsage, decode_chunk, decode_rows, garbled
from sage.engines.sse import EventParser
from sage.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GenerateAnswer", "embed_reply"]

_FINISH: Mapping[str, Literal["stop", "length", "tool_calls"]] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


def embed_reply(body: bytes, count: int) -> EmbedReply:
    """The vectors of an answer, in the order of the texts, brought to unit length.

    Raises:
        EngineError: ``garbled``: no such answer, a wrong count, uneven, zero or non-finite vectors.
    """
    import numpy as np

    answer = decode_rows(body)
    ordered = sorted(answer.data, key=lambda row: row.index)
    if [row.index for row in ordered] != list(range(count)):
        raise garbled(
            f"the server answered {count} texts with {len(ordered)} embeddings, or numbered them wrongly"
        )
    sizes = {len(row.embedding) for row in ordered}
    if len(sizes) != 1:
        raise garbled(f"the server sent vectors of different sizes: {sorted(sizes)}")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and found below
        vectors: NDArray[np.float32] = np.array([row.embedding for row in ordered], dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not bool(np.isfinite(lengths).all() and (lengths > 0).all()):
        raise garbled("the server sent a vector of zeros, or one with numbers out of range")
    usage = Usage(counted_by="pieces") if answer.usage is None else _checked_usage(answer.usage)
    return EmbedReply(vectors / lengths, usage)


class _PartialCall:
    """A tool call while its parts arrive."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def whole(self) -> ToolCall:
        return ToolCall(self.name, "".join(self.arguments), self.id)


class GenerateAnswer:
    """One answer while it arrives: stream chunks or a whole body in, pieces out, a Reply at the end."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._events = EventParser()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _PartialCall] = {}
        self._finish: str | None = None
        self._usage: WireUsage | None = None
        self._num_tokens = 0  # so far, where the server counts along
        self._news: int | None = None  # tokens of the chunk under way that no piece has yet
        self.num_events = 0
        self.num_pieces = 0
        self.done = False  # the server said that nothing follows

    @property
    def complete(self) -> bool:
        """Whether the answer's end was seen: ``[DONE]``, or a reason why it finished."""
        return self.done or self._finish is not None

    def feed(self, chunk: bytes) -> bytes | None:
        """Take bytes of the stream. Returns the error object that the server sent instead, if it did."""
        for payload in self._events.feed(chunk):
            self.num_events += 1
            if payload == b"[DONE]":
                self.done = True
            elif not self.done:
                error = self._take(decode_chunk(payload, "a piece of an answer"))
                if error is not None:
                    return error
        return None

    def take_whole(self, body: bytes) -> bytes | None:
        """Take the body of a server that does not stream. Returns its error object, if it is one."""
        chunk = decode_chunk(body, "an answer")
        if not bytes(chunk.error) and not chunk.choices:
            raise garbled("the server answered without any choice")
        self.done = True
        return self._take(chunk)

    def reply(self) -> Reply:
        """The whole answer.

        Raises:
            EngineError: ``refused``: the server withheld it; ``failed``: it gave up; ``garbled``.
        """
        usage = self._usage
        counted = (
            Usage(completion_tokens=self.num_pieces, counted_by="pieces")
            if usage is None
            else _checked_usage(usage)
        )
        calls = tuple(self._calls[index].whole() for index in sorted(self._calls))
        finish = _finish(self._finish)
        return Reply(
            text="".join(self._text),
            usage=counted,
            finish="tool_calls" if calls and finish == "stop" else finish,
            tool_calls=calls,
            reasoning="".join(self._reasoning),
        )

    def _take(self, chunk: Chunk) -> bytes | None:
        error = bytes(chunk.error)
        if error and error != b"null":
            return error
        if chunk.usage is not None:
            self._count(chunk.usage)
        if chunk.choices:
            choice = chunk.choices[0]
            if choice.text:
                self._text.append(choice.text)
                self._give(choice.text)
            delta = choice.delta or choice.message
            if delta is not None:
                self._take_delta(delta)
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
        return None

    def _take_delta(self, delta: Delta) -> None:
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning:
            self._reasoning.append(reasoning)
            self._give(reasoning, "reasoning")
        if delta.content:
            self._text.append(delta.content)
            self._give(delta.content)
        for position, part in enumerate(delta.tool_calls or ()):
            self._take_call(position if part.index is None else part.index, part)

    def _take_call(self, index: int, part: CallPart) -> None:
        call = self._calls.setdefault(index, _PartialCall())
        call.id = part.id or call.id
        if part.function is not None:
            call.name += part.function.name or ""
            arguments = part.function.arguments or ""
            call.arguments.append(arguments)
            if arguments:
                self._give(arguments, "tool")

    def _count(self, usage: WireUsage) -> None:
        """Take the counts so far. What is new since the last chunk belongs to the next piece."""
        self._usage = usage
        if usage.completion_tokens is not None:
            self._news = max(0, usage.completion_tokens - self._num_tokens)
            self._num_tokens = max(self._num_tokens, usage.completion_tokens)

    def _give(self, text: str, channel: Literal["text", "reasoning", "tool"] = "text") -> None:
        self.num_pieces += 1
        tokens = self._news
        if tokens is not None:
            self._news = 0
        self._emit(Piece(text, channel, tokens))


def _checked_usage(usage: WireUsage) -> Usage:
    """What the server counted. Missing counts are 0; negative ones did not pass the decoder."""
    prompt_tokens = usage.prompt_tokens or 0
    cached_tokens = (usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None) or 0
    if cached_tokens > prompt_tokens:
        raise garbled(f"the server counted {cached_tokens} cached tokens of a prompt of {prompt_tokens}")
    return Usage(prompt_tokens, usage.completion_tokens or 0, cached_tokens)


def _finish(said: str | None) -> Literal["stop", "length", "tool_calls"]:
    if said is None:
        return "stop"
    known = _FINISH.get(said)
    if known is not None:
        return known
    if said == "content_filter":
        raise EngineError(
            "the server withheld the answer (content_filter); change the prompt", fault="refused"
        )
    if said in {"abort", "error"}:
        raise EngineError(
            f"the server gave the answer up (finish_reason {said!r}); see its log", fault="failed"
        )
    raise garbled(f"the server ended the answer with finish_reason {said[:40]!r}, which is none we know")
