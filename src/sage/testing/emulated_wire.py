"""What the emulated server reads and writes: the OpenAI protocol from the server's side. Pure: no sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from sage.engines.base import GenerateRequest, Message, Piece, ToolCall, Usage
from sage.testing.behaviour import Behaviour
from sage.testing.emulation import answer_of, first_call, hashed_vectors, split_tokens, until_stop

__all__ = [
    "MODEL",
    "Answer",
    "Asked",
    "answer_to",
    "decode_generate",
    "decode_texts",
    "embeddings_body",
    "end_events",
    "error_body",
    "models_body",
    "pieces_of",
    "role_event",
    "spoiled",
    "token_event",
    "whole_body",
]

MODEL = "emulated"
CHAT, TEXT = "chat.completion", "text_completion"
REASONING = ("Let ", "me ", "see.")
GIANT_BYTES = 8 * 1024 * 1024


class Part(msgspec.Struct):
    """A piece of a message; only text is heeded."""

    text: str = ""


class Sent(msgspec.Struct):
    """A message of a request."""

    role: str
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Asked(msgspec.Struct):
    """The body of a chat or completions request, as far as the emulation heeds it."""

    model: str
    messages: list[Sent] = []
    prompt: str = ""
    max_tokens: int = 256
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    ignore_eos: bool = False
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] = []


class Texts(msgspec.Struct):
    model: str
    input: str | list[str]


class Answer(msgspec.Struct, frozen=True):
    """What a call is answered: its tokens in order, each with its channel."""

    tokens: tuple[Piece, ...]
    finish: Literal["stop", "length", "tool_calls"]
    call: ToolCall | None = None

    def joined(self, channel: Literal["text", "reasoning", "tool"]) -> str:
        """The text of one channel."""
        return "".join(token.text for token in self.tokens if token.channel == channel)


def decode_generate(body: bytes, *, chat: bool) -> tuple[GenerateRequest, Asked]:
    """A request, in SAGE's terms and as it was sent.

    Raises:
        msgspec.MsgspecError: the body is no request.
    """
    asked = msgspec.json.decode(body, type=Asked)
    sent = asked.messages if chat else [Sent("user", asked.prompt)]
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    wanted = asked.response_format or {}
    request = GenerateRequest(
        messages=tuple(msgspec.convert({"role": one.role, "content": one.text}, Message) for one in sent),
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        stop=stop,
        schema=wanted.get("json_schema", {}).get("schema"),
        tools=tuple(asked.tools),
    )
    return request, asked


def decode_texts(body: bytes) -> tuple[str, list[str]]:
    """The model and the texts of an embedding request.

    Raises:
        msgspec.MsgspecError: the body is no request.
    """
    asked = msgspec.json.decode(body, type=Texts)
    return asked.model, [asked.input] if isinstance(asked.input, str) else asked.input


def answer_to(
    request: GenerateRequest, behaviour: Behaviour, *, room: int, ignore_eos: bool = False
) -> Answer:
    """The answer by the rule of ``sage.testing.emulation``; ``room`` tokens are left in the context.

    ``ignore_eos`` asks for as many tokens as the request allows, as vLLM has it.
    """
    call = first_call(request)
    if call is not None:
        return Answer((Piece(call.arguments, "tool"),), "tool_calls", call)
    length = request.max_tokens if ignore_eos else behaviour.answer_tokens
    text = until_stop(answer_of(request, length), request.stop)
    tokens = [Piece(token) for token in split_tokens(text)]
    if behaviour.reasoning and request.schema is None:
        tokens = [*(Piece(word, "reasoning") for word in REASONING), *tokens]
    given = tokens[: min(request.max_tokens, room)]
    return Answer(tuple(given), "length" if len(given) < len(tokens) else "stop")


def pieces_of(answer: Answer, tokens: int) -> list[Piece]:
    """An answer in the pieces it is streamed in: so many tokens each, none of two channels."""
    pieces: list[Piece] = []
    for token in answer.tokens:
        last = pieces[-1] if pieces else None
        if last is not None and last.channel == token.channel and (last.tokens or 0) < tokens:
            pieces[-1] = Piece(last.text + token.text, token.channel, (last.tokens or 0) + 1)
        else:
            pieces.append(Piece(token.text, token.channel, 1))
    return pieces


def role_event() -> bytes:
    """The event that many servers begin a chat with: who speaks, and no token."""
    return _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}, chat=True)


def token_event(
    token: Piece, *, chat: bool, call: ToolCall | None = None, usage: Usage | None = None
) -> bytes:
    """One piece as an event of a stream; with the counts so far, if there are any to send."""
    counts = {} if usage is None else {"usage": _wire_usage(usage)}
    if not chat:
        return _event({"choices": [{"index": 0, "text": token.text}], **counts}, chat=False)
    delta: dict[str, Any]
    if token.channel == "tool":
        assert call is not None
        delta = {"tool_calls": [{"index": 0, **_wire_call(call)}]}
    else:
        delta = {{"text": "content", "reasoning": "reasoning_content"}[token.channel]: token.text}
    return _event({"choices": [{"index": 0, "delta": delta}], **counts}, chat=True)


def end_events(answer: Answer, usage: Usage | None, *, chat: bool) -> bytes:
    """What follows the last token: the reason, the counts, and the mark of the end."""
    nothing: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    last = {"index": 0, "finish_reason": answer.finish, **nothing}
    counts = b"" if usage is None else _event({"choices": [], "usage": _wire_usage(usage)}, chat=chat)
    return _event({"choices": [last]}, chat=chat) + counts + b"data: [DONE]\n\n"


def whole_body(answer: Answer, usage: Usage | None, *, chat: bool) -> bytes:
    """An answer in one piece."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish}
    if chat:
        message: dict[str, Any] = {"role": "assistant", "content": answer.joined("text")}
        if answer.joined("reasoning"):
            message["reasoning_content"] = answer.joined("reasoning")
        if answer.call is not None:
            message["tool_calls"] = [_wire_call(answer.call)]
        choice["message"] = message
    else:
        choice["text"] = answer.joined("text")
    return _body({"object": CHAT if chat else TEXT, "choices": [choice]}, usage)


def embeddings_body(texts: Sequence[str], dimension: int, usage: Usage | None) -> bytes:
    """Vectors, last text first: a client must order them by their index."""
    rows = [
        {"object": "embedding", "index": index, "embedding": row}
        for index, row in enumerate(hashed_vectors(texts, dimension).tolist())
    ]
    return _body({"object": "list", "data": rows[::-1]}, usage)


def models_body(context_tokens: int) -> bytes:
    """The list of the one model."""
    model = {"id": MODEL, "object": "model", "owned_by": "emulation", "max_model_len": context_tokens}
    return msgspec.json.encode({"object": "list", "data": [model]})


def error_body(status: int, message: str) -> bytes:
    """An error object."""
    return msgspec.json.encode({"error": {"message": message, "type": "emulated_error", "code": status}})


def spoiled(fault: str) -> bytes:
    """The payload that a fault sends in place of an answer; empty when the fault is not of that kind."""
    if fault == "garbage":
        return b'{"choices": [{"delta": '
    if fault == "non_utf8":
        return b'{"choices": [{"delta": {"content": "\xff\xfe"}}]}'
    if fault == "giant":
        return b"x" * GIANT_BYTES
    return b""


def _wire_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _wire_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _body(content: dict[str, Any], usage: Usage | None) -> bytes:
    content["model"] = MODEL
    if usage is not None:
        content["usage"] = _wire_usage(usage)
    return msgspec.json.encode(content)


def _event(content: dict[str, Any], *, chat: bool) -> bytes:
    """An event of a stream; strict clients look at what kind of object it is."""
    named = {"id": "emulated", "object": f"{CHAT}.chunk" if chat else TEXT, "created": 0, **content}
    return b"data: " + _body(named, None) + b"\n\n"
