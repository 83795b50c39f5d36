from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.engines.openai_faults import quoted, refusal, retry_after_s, stream_refusal

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def body(message: str, **fields: object) -> bytes:
    return msgspec.json.encode({"error": {"message": message, **fields}})


@pytest.mark.parametrize(
    ("fault", "retried", "statuses"),
    [
        ("overloaded", True, [429, 503, 529]),
        ("failed", True, [408, 409, 425, 500, 502, 504]),
        ("refused", False, [301, 400, 401, 402, 403, 404, 405, 413, 422, 451, 501, 505]),
    ],
)
def test_statuses_become_faults_and_no_other_status_is_retried(
    fault: str, retried: bool, statuses: list[int]
) -> None:
    for status in statuses:
        error = refusal(status, body("no"), {})
        assert (error.fault, error.retryable, error.status) == (fault, retried, status)
        assert f"status {status}, saying 'no'" in str(error)


@pytest.mark.parametrize(
    ("text", "prompt_tokens", "context_tokens"),
    [
        (
            "maximum context length is 2048 tokens. However, you requested 2100 tokens (2000 in the messages)",
            2000,
            2048,
        ),
        (
            "This model's maximum context length is 8,192 tokens. However, your messages resulted in 9,000 tokens.",
            9000,
            8192,
        ),
        (
            "This model's maximum context length is 2048 tokens. However, your request has 3000 input tokens.",
            3000,
            2048,
        ),
        ("The decoder prompt (length 3000) is longer than the maximum model length of 2048.", 3000, 2048),
        (
            "request (4001 tokens) exceeds the available context size (1024 tokens), try increasing it",
            4001,
            1024,
        ),
        ("the request exceeds the available context size, try increasing it", None, None),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 5000, 4096),
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_what_servers_say(
    text: str, prompt_tokens: int | None, context_tokens: int | None
) -> None:
    error = refusal(400, body(text), {})
    assert (error.fault, error.prompt_tokens, error.context_tokens) == (
        "too_long",
        prompt_tokens,
        context_tokens,
    )
    assert not error.retryable


def test_a_prompt_that_is_too_long_is_known_by_codes_and_fields() -> None:
    openai = refusal(400, body("…", code="context_length_exceeded"), {})
    llama = refusal(400, body("…", type="exceed_context_size_error", n_prompt_tokens=12, n_ctx=8), {})
    assert openai.fault == "too_long"
    assert (llama.fault, llama.prompt_tokens, llama.context_tokens) == ("too_long", 12, 8)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Thu, 01 Jan 2026 12:01:00 GMT"}, 60.0),
        ({"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "40", "Retry-After": "9"}, 0.04),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "later"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


@pytest.mark.parametrize(
    "said",
    [
        b'{"error":"no"}',
        b'{"message":"no","code":400}',
        b'{"detail":"no"}',
        b'{"error":{"message":"no","code":null}}',
    ],
)
def test_the_servers_words_are_found_in_every_shape(said: bytes) -> None:
    assert "saying 'no'" in str(refusal(400, said, {}))


@given(
    said=st.binary(max_size=60) | st.sampled_from([b"[]", b"7", b'{"error":7}', b'{"detail":[{}]}', b"\xff"])
)
def test_a_body_that_says_nothing_still_gives_an_error(said: bytes) -> None:
    assert refusal(500, said, {}).fault == "failed"


def test_key_and_prompt_never_stand_in_an_error() -> None:
    prompt = 'my "secret" plan\nof the day'
    echoed = body(f"bad key sk-12345678 in {prompt!r} or {msgspec.json.encode(prompt).decode()}")
    text = str(refusal(401, echoed, {}, secrets=("sk-12345678", prompt)))
    assert "sk-12345678" not in text
    assert "plan" not in text
    assert "set OPENAI_API_KEY" in text


def test_long_words_are_shortened_to_one_line() -> None:
    assert quoted("a\n" * 500).count("a") == 100
    assert "\n" not in quoted("a\nb")


@pytest.mark.parametrize(
    ("error", "fault", "status"),
    [
        (b'{"message":"busy","code":503}', "overloaded", 503),
        (b'{"message":"busy","code":"429"}', "overloaded", 429),
        (b'{"message":"boom"}', "failed", None),
        (b'{"message":"the request exceeds the available context size"}', "too_long", None),
        (b'"boom"', "failed", None),
    ],
)
def test_an_error_object_in_a_stream_is_read_like_a_status(
    error: bytes, fault: str, status: int | None
) -> None:
    found = stream_refusal(error)
    assert (found.fault, found.status) == (fault, status)
