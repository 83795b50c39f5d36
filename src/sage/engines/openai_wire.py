"""The OpenAI protocol as data: requests encoded, answers decoded. Pure: no sockets.

Answers are decoded into typed structs, so that a wrong type or a negative count is caught where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from sage.engines.base import EmbedRequest, GenerateRequest, Message
from sage.errors import EngineError

__all__ = [
    "OUR_FIELDS",
    "Api",
    "CallPart",
    "Chunk",
    "Delta",
    "Listed",
    "Rows",
    "WireUsage",
    "decode_chunk",
    "decode_models",
    "decode_rows",
    "embed_body",
    "garbled",
    "generate_body",
]

T = TypeVar("T")

Api = Literal["chat", "completions", "embeddings"]

Count = Annotated[int, msgspec.Meta(ge=0)]


class Named(msgspec.Struct, omit_defaults=True, gc=False):
    name: str | None = None
    arguments: str | None = None


class CallPart(msgspec.Struct, omit_defaults=True, gc=False):
    """A tool call, whole or as a streamed part. ``index`` says which call a part belongs to."""

    index: Count | None = None
    id: str | None = None
    type: str | None = None
    function: Named | None = None


class Turn(msgspec.Struct, omit_defaults=True):
    """A message as it is sent."""

    role: str
    content: str | None  # always sent
    tool_calls: list[CallPart] | None = None
    tool_call_id: str | None = None


class Body(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of a chat or completions request; unset fields are left out."""

    model: str
    max_tokens: int
    temperature: float
    messages: list[Turn] | None = None
    prompt: str | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    stream: bool = False
    stream_options: Mapping[str, bool] | None = None


_COUNTED_AT_THE_END = {"include_usage": True}
_COUNTED_ALONG = {"include_usage": True, "continuous_usage_stats": True}


class EmbedBody(msgspec.Struct):
    model: str
    input: tuple[str, ...]
    encoding_format: str = "float"


class Details(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None


class WireUsage(msgspec.Struct, gc=False):
    """Token counts; servers leave out what they do not know."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: Details | None = None


class Delta(msgspec.Struct, gc=False):
    """A streamed part of a message, or a whole one."""

    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp, DeepSeek, older vLLM
    reasoning: str | None = None  # vLLM, OpenRouter
    tool_calls: list[CallPart] | None = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None  # completions
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream, or the whole answer of a server that does not stream."""

    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: msgspec.Raw = msgspec.Raw()  # JSON; empty: none was sent


class Row(msgspec.Struct, gc=False):
    index: Count
    embedding: list[float]


class Rows(msgspec.Struct):
    """The answer to an embedding call."""

    data: list[Row]
    usage: WireUsage | None = None


class Meta(msgspec.Struct, gc=False):
    """What llama.cpp says of a model."""

    n_ctx: int | None = None  # the context of one slot, in tokens


class Listed(msgspec.Struct, gc=False):
    """A model that the server says it serves."""

    id: str
    max_model_len: int | None = None  # vLLM, SGLang: the context, in tokens
    meta: Meta | None = None

    @property
    def context_tokens(self) -> int | None:
        """How long prompt and answer may be together, if the server says."""
        return self.max_model_len or (self.meta.n_ctx if self.meta is not None else None)


class Models(msgspec.Struct):
    data: list[Listed]


#: Fields of a request that SAGE writes itself.
OUR_FIELDS = frozenset(Body.__struct_fields__)

_encoder = msgspec.json.Encoder(enc_hook=dict)
_chunks: msgspec.json.Decoder[Chunk] = msgspec.json.Decoder(Chunk)
_rows: msgspec.json.Decoder[Rows] = msgspec.json.Decoder(Rows)
_models: msgspec.json.Decoder[Models] = msgspec.json.Decoder(Models)


def generate_body(
    request: GenerateRequest, model: str, api: Api, *, counts_along: bool = False, extra: bytes = b""
) -> bytes:
    """The JSON body of a streamed generation.

    Args:
        request: what is asked.
        model: of which model.
        api: in which form.
        counts_along: ask for token counts with every piece, which vLLM gives.
        extra: further fields, as a JSON object with none of ours.

    Raises:
        EngineError: ``refused``: tools or a JSON schema in completions mode, which servers ignore there in
            silence; or text that is no valid Unicode.
    """
    chat = api == "chat"
    if not chat and (request.tools or request.schema is not None):
        what = "tools" if request.tools else "a JSON schema"
        raise EngineError(f"{what} cannot be asked for with api=completions; use api=chat", fault="refused")
    body = Body(
        model=model,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        messages=[_turn(message) for message in request.messages] if chat else None,
        prompt=None if chat else "\n\n".join(message.content for message in request.messages),
        top_p=request.top_p,
        seed=request.seed,
        stop=request.stop,
        response_format=None if request.schema is None else _response_format(request.schema),
        tools=request.tools,
        stream=True,
        stream_options=_COUNTED_ALONG if counts_along else _COUNTED_AT_THE_END,
    )
    encoded = _encode(body)
    return encoded if not extra else encoded[:-1] + b"," + extra[1:]


def embed_body(request: EmbedRequest, model: str) -> bytes:
    """The JSON body of an embedding call.

    Raises:
        EngineError: ``refused``: text that is no valid Unicode.
    """
    return _encode(EmbedBody(model, request.texts))


def decode_chunk(payload: bytes, what: str) -> Chunk:
    """A piece of an answer, or a whole one.

    Raises:
        EngineError: ``garbled``.
    """
    return _decode(_chunks, payload, what)


def decode_rows(body: bytes) -> Rows:
    """The answer to an embedding call.

    Raises:
        EngineError: ``garbled``.
    """
    return _decode(_rows, body, "embeddings")


def decode_models(body: bytes) -> list[Listed]:
    """The models of a ``GET /models``.

    Raises:
        EngineError: ``garbled``: no list of models.
    """
    return _decode(_models, body, "a list of models").data


def garbled(message: str) -> EngineError:
    """The error for an answer that is not what the protocol says."""
    return EngineError(message, fault="garbled")


def _encode(body: Body | EmbedBody) -> bytes:
    try:
        return _encoder.encode(body)
    except UnicodeEncodeError as error:
        raise EngineError(
            "the prompt holds half of a surrogate pair, which no server accepts; "
            "decode its source as UTF-8 with errors='replace'",
            fault="refused",
        ) from error


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # UnicodeDecodeError would quote the bytes; msgspec's own errors name only types and places.
        cause = "no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise garbled(f"the server sent {len(body):,} bytes that are not {what}: {cause}") from error


def _turn(message: Message) -> Turn:
    calls = [
        CallPart(id=call.id, type="function", function=Named(call.name, call.arguments))
        for call in message.tool_calls
    ]
    content = message.content if message.content or not calls else None
    return Turn(message.role, content, calls or None, message.tool_call_id)


def _response_format(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """``strict`` is set where OpenAI's own service accepts it: for an object that is closed."""
    named: dict[str, Any] = {"name": "answer", "schema": schema}
    if schema.get("additionalProperties") is False:
        named["strict"] = True
    return {"type": "json_schema", "json_schema": named}
