"""What the errors of OpenAI-compatible servers mean, whoever wrote the server. Pure: no sockets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from sage.engines.openai_address import Options
from sage.engines.openai_wire import garbled
from sage.errors import EngineError, EngineFault

__all__ = ["cut_short", "late", "quoted", "refusal", "retry_after_s", "stream_refusal"]

MAX_QUOTE_CHARS = 200
#: A timer may fire this much before its time.
CLOCK_SLACK_S = 1e-3
#: Shorter parts of a prompt are too common in error texts to be taken for the prompt.
MIN_PRIVATE_CHARS = 8

_OVERLOADED = frozenset({429, 503, 529})
_FAILED = frozenset({408, 409, 425, 500, 502, 504})
_MAY_BE_TOO_LONG = frozenset({400, 413, 422, None})

_NEXT_STEP: Mapping[int, str] = {
    401: "; set OPENAI_API_KEY to a key this server knows",
    403: "; set OPENAI_API_KEY to a key that may use this model",
    404: "; check the path (most servers want /v1) and the model's name",
}

# How servers say that a prompt does not fit: vLLM, OpenAI, llama.cpp, SGLang, TGI, in that order.
_TOO_LONG = re.compile(
    r"maximum context length|longer than the maximum model length|context length is only"
    r"|context_length_exceeded|context window"
    r"|exceed_context_size|available context size"
    r"|longer than the model's context length|maximum allowed length"
    r"|inputs?.{0,30}must have less than|max_new_tokens.{0,10}must be <=",
    re.IGNORECASE,
)
_CONTEXT_TOKENS = re.compile(
    r"(?:maximum context length is|maximum model length of|context length is only|maximum allowed length \("
    r"|available context size \(|model's context length \()\s*(\d+)",
    re.IGNORECASE,
)
_PROMPT_TOKENS = re.compile(
    r"\((\d+) in the (?:messages|prompt)|messages resulted in (\d+) tokens|has (\d+) input tokens"
    r"|contains (?:at least )?(\d+) input tokens|passed (\d+) input tokens|prompt \(length (\d+)\)"
    r"|(?:request|input) (?:length )?\((\d+) tokens\)",
    re.IGNORECASE,
)


class _Said(msgspec.Struct):
    """The fields that servers put into an error object. Everything is optional and of any type."""

    message: Any = None
    code: Any = None
    type: Any = None
    n_prompt_tokens: Any = None  # llama.cpp
    n_ctx: Any = None


class _ErrorBody(msgspec.Struct):
    """A body with an error in it, in any of the shapes in use."""

    error: Any = None  # an object (OpenAI, llama.cpp, newer vLLM) or a sentence
    message: Any = None  # older vLLM
    detail: Any = None  # FastAPI
    code: Any = None
    type: Any = None


def refusal(
    status: int | None, body: bytes, headers: Mapping[str, str], *, secrets: Iterable[str] = ()
) -> EngineError:
    """The error for an answer with a status that is not 200, or for an error object in a stream.

    Args:
        status: of HTTP, or of the error object; None: an error object without one.
        body: as the server sent it; quoted shortened, without any of ``secrets``.
        headers: of the answer; read for how long to wait.
        secrets: the key and the prompt.
    """
    said = _error_object(body)
    message = said.message if isinstance(said.message, str) else ""
    if status in _MAY_BE_TOO_LONG and _TOO_LONG.search(f"{said.code} {said.type} {message}"):
        return EngineError(
            _sentence("the prompt does not fit the context", status, message, secrets),
            fault="too_long",
            status=status,
            prompt_tokens=_count(said.n_prompt_tokens) or _found(_PROMPT_TOKENS, message),
            context_tokens=_count(said.n_ctx) or _found(_CONTEXT_TOKENS, message),
        )
    fault, what = _fault(status)
    return EngineError(
        _sentence(what, status, message, secrets) + _NEXT_STEP.get(status or 0, ""),
        fault=fault,
        status=status,
        retry_after_s=retry_after_s(headers, datetime.now(UTC)),
    )


def stream_refusal(error: bytes, *, secrets: Iterable[str] = ()) -> EngineError:
    """The error for an error object (JSON) that came where a piece of the answer should be."""
    body = b'{"error":' + error + b"}"
    code = _error_object(body).code
    status = int(code) if re.fullmatch(r"[45]\d\d", str(code)) else None
    return refusal(status, body, {}, secrets=secrets)


def late(took_s: float, timeout_s: float | None, options: Options, num_pieces: int | None) -> EngineError:
    """The error of a time limit that passed.

    Args:
        took_s: how long the call ran.
        timeout_s: the call's own limit.
        options: the limits of the address.
        num_pieces: what came before; None: a call whose answer comes whole.
    """
    fault: EngineFault = "stalled" if num_pieces else "timeout"
    if timeout_s is not None and took_s > timeout_s - CLOCK_SLACK_S:
        return EngineError(f"the call did not end in its {timeout_s:g} s", fault=fault)
    if num_pieces:
        return EngineError(f"no further token for {options.stall_s:g} s (option stall_s)", fault=fault)
    what = "answer" if num_pieces is None else "first token"
    return EngineError(f"no {what} within {options.timeout_s:g} s (option timeout_s)", fault=fault)


def cut_short(num_pieces: int, num_events: int) -> EngineError:
    """The error for a stream that ended in good order, but before the answer did."""
    if num_pieces:
        return EngineError(
            f"the stream ended after {num_pieces} pieces, before the answer did; see the server's log",
            fault="stalled",
        )
    if num_events:
        return EngineError(
            "the stream ended before the first token; see the server's log", fault="unreachable"
        )
    return garbled(
        "the server sent no event stream; is this an OpenAI-compatible server, and does the path end in /v1?"
    )


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the server asks to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as a date.

    >>> now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    >>> retry_after_s({"Retry-After": "Thu, 01 Jan 2026 12:00:07 GMT"}, now)
    7.0
    >>> retry_after_s({"retry-after-ms": "250", "Retry-After": "1"}, now)
    0.25
    >>> retry_after_s({"Retry-After": "soon"}, now) is None
    True
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("Retry-After")
    seconds = _seconds(said)
    if seconds is not None or said is None:
        return seconds
    try:
        date = parsedate_to_datetime(said)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - now).total_seconds(), 0.0)


def quoted(text: str, secrets: Iterable[str] = ()) -> str:
    """A server's words for an error line: on one line, shortened, without secrets.

    >>> quoted("bad key sk-12345678   for you", ["sk-12345678"])
    "'bad key [hidden] for you'"
    """
    for secret in secrets:
        if len(secret) >= MIN_PRIVATE_CHARS:
            escaped = (msgspec.json.encode(secret).decode()[1:-1], repr(secret)[1:-1])
            for form in dict.fromkeys((secret, *escaped)):
                text = text.replace(form, "[hidden]")
    line = " ".join(text.split())
    return repr(line if len(line) <= MAX_QUOTE_CHARS else line[:MAX_QUOTE_CHARS] + "…")


def _fault(status: int | None) -> tuple[EngineFault, str]:
    if status is None or status in _FAILED:
        return "failed", "the server failed"
    if status in _OVERLOADED:
        return "overloaded", "the server is overloaded"
    if 300 <= status <= 399:
        return "refused", "the server sends us elsewhere; use the address it redirects to"
    return "refused", "the server refused the call"


def _sentence(what: str, status: int | None, message: str, secrets: Iterable[str]) -> str:
    details = [] if status is None else [f"status {status}"]
    if message:
        details.append(f"saying {quoted(message, secrets)}")
    return f"{what} ({', '.join(details)})" if details else what


def _error_object(body: bytes) -> _Said:
    """The server's own words, from any of the shapes in use; nothing of a body that is none of them."""
    try:
        outer = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Said()
    if isinstance(outer.error, dict):
        return msgspec.convert(outer.error, _Said)
    for words in (outer.error, outer.message, outer.detail):
        if isinstance(words, str):
            return _Said(message=words, code=outer.code, type=outer.type)
    return _Said(code=outer.code, type=outer.type)


def _found(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text.replace(",", ""))
    return None if match is None else int(next(group for group in match.groups() if group))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _seconds(said: str | None) -> float | None:
    try:
        value = float(said) if said is not None else math.nan
    except ValueError:
        return None
    return max(value, 0.0) if math.isfinite(value) else None
