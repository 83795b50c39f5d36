from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from sage.engines.base import EmbedRequest, GenerateRequest, Message, Piece, ToolCall
from sage.engines.openai_answer import GenerateAnswer, embed_reply
from sage.engines.openai_wire import Api, decode_models, embed_body, generate_body
from sage.errors import EngineError


def event(**content: Any) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def delta(finish: str | None = None, **content: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": content, "finish_reason": finish}])


def answered(*chunks: bytes) -> tuple[GenerateAnswer, list[Piece]]:
    pieces: list[Piece] = []
    answer = GenerateAnswer(pieces.append)
    for chunk in chunks:
        assert answer.feed(chunk) is None
    return answer, pieces


def body_of(request: GenerateRequest, api: Api = "chat") -> Any:
    return msgspec.json.decode(generate_body(request, "m", api))


def test_reasoning_is_kept_apart_from_the_answer() -> None:
    answer, pieces = answered(
        delta(reasoning_content="hm"),
        delta(reasoning="m"),
        delta(content="Yes"),
        delta("stop"),
        b"data: [DONE]\n\n",
    )
    reply = answer.reply()
    assert (reply.text, reply.reasoning) == ("Yes", "hmm")
    assert [piece.channel for piece in pieces] == ["reasoning", "reasoning", "text"]


def test_a_server_that_counts_along_says_how_many_tokens_each_piece_has() -> None:
    _, pieces = answered(
        event(choices=[{"delta": {"content": "one two "}}], usage={"completion_tokens": 2}),
        event(choices=[{"delta": {"reasoning": "hm", "content": "three"}}], usage={"completion_tokens": 5}),
    )
    assert [(piece.text, piece.tokens) for piece in pieces] == [("one two ", 2), ("hm", 3), ("three", 0)]


def test_counts_at_the_end_say_nothing_of_single_pieces() -> None:
    _, pieces = answered(delta(content="one two "), event(choices=[], usage={"completion_tokens": 2}))
    assert [piece.tokens for piece in pieces] == [None]


def test_further_fields_stand_in_the_body_beside_our_own() -> None:
    body = generate_body(
        GenerateRequest(messages=(Message("user", "x"),)), "m", "chat", extra=b'{"ignore_eos":true}'
    )
    said = msgspec.json.decode(body)
    assert (said["ignore_eos"], said["model"], said["stream"]) == (True, "m", True)


def test_streamed_tool_calls_are_put_together_by_index() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return {"index": index, "function": function}

    answer, pieces = answered(
        delta(tool_calls=[{"id": "a", **call(0, name="find", arguments="")}]),
        delta(tool_calls=[call(0, arguments='{"q":')]),
        delta(tool_calls=[{"id": "b", **call(1, name="sum", arguments="[1")}, call(0, arguments="1}")]),
        delta("tool_calls", tool_calls=[call(1, arguments=",2]")]),
    )
    reply = answer.reply()
    assert reply.tool_calls == (ToolCall("find", '{"q":1}', "a"), ToolCall("sum", "[1,2]", "b"))
    assert reply.finish == "tool_calls"
    assert {piece.channel for piece in pieces} == {"tool"}


def test_an_answer_in_one_piece_with_several_tool_calls_is_taken_too() -> None:
    calls = [{"id": str(n), "function": {"name": f"f{n}", "arguments": "{}"}} for n in range(2)]
    answer = GenerateAnswer(lambda _piece: None)
    body = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "stop"}]}
    assert answer.take_whole(msgspec.json.encode(body)) is None
    assert [call.name for call in answer.reply().tool_calls] == ["f0", "f1"]
    assert answer.reply().finish == "tool_calls"


def test_usage_comes_from_the_server_with_its_cached_tokens() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
    answer, _ = answered(delta(content="a"), event(choices=[], usage=usage))
    assert msgspec.structs.astuple(answer.reply().usage) == (9, 2, 8, "server")


def test_without_usage_the_pieces_are_counted_and_that_is_said() -> None:
    answer, _ = answered(delta(content="a"), delta(content="b"), delta("length"))
    assert msgspec.structs.astuple(answer.reply().usage) == (0, 2, 0, "pieces")
    assert answer.reply().finish == "length"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"{oops", "malformed"),
        (b'{"choices":[{"delta":{"content":5}}]}', r"expected `str \| null`, got `int`"),
        (b'{"choices":[{"delta":{"content":"\xff\xfe"}}]}', "not a piece of an answer: no UTF-8"),
        (b'{"usage":{"prompt_tokens":-1}}', "`int` >= 0"),
        (b'{"usage":{"prompt_tokens":1e99}}', "Expected `int"),
        (b"[]", "Expected `object`"),
    ],
)
def test_what_is_no_piece_of_an_answer_is_garbled_without_being_quoted(payload: bytes, said: str) -> None:
    with pytest.raises(EngineError, match=f"(?i){said}") as caught:
        answered(b"data: " + payload + b"\n\n")
    assert caught.value.fault == "garbled"


def test_more_cached_tokens_than_the_prompt_has_are_garbled() -> None:
    usage = {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}
    answer, _ = answered(delta(content="a"), event(choices=[], usage=usage))
    with pytest.raises(EngineError, match="2 cached tokens of a prompt of 1"):
        answer.reply()


@pytest.mark.parametrize(
    ("finish", "fault"), [("content_filter", "refused"), ("abort", "failed"), ("sunset", "garbled")]
)
def test_an_answer_that_the_server_gave_up_is_no_reply(finish: str, fault: str) -> None:
    answer, _ = answered(delta(finish, content="a"))
    with pytest.raises(EngineError, match=finish) as caught:
        answer.reply()
    assert caught.value.fault == fault


def test_an_error_object_in_the_stream_is_handed_out() -> None:
    answer = GenerateAnswer(lambda _piece: None)
    error = answer.feed(event(error={"message": "no"}))
    assert error is not None
    assert msgspec.json.decode(error) == {"message": "no"}


def test_nothing_after_done_is_read() -> None:
    answer, pieces = answered(delta(content="a"), b"data: [DONE]\n\ndata: {oops\n\n", delta(content="b"))
    assert answer.complete
    assert [piece.text for piece in pieces] == ["a"]


def test_only_what_is_set_is_sent() -> None:
    assert body_of(GenerateRequest(messages=(Message("user", ""),))) == {
        "model": "m",
        "max_tokens": 256,
        "temperature": 0.0,
        "messages": [{"role": "user", "content": ""}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_conversation_with_tools_is_sent_as_openai_writes_it() -> None:
    tool = {"type": "function", "function": {"name": "find"}}
    messages = (
        Message("user", "find it"),
        Message("assistant", tool_calls=(ToolCall("find", "{}", "a"),)),
        Message("tool", "here", tool_call_id="a"),
    )
    body = body_of(GenerateRequest(messages=messages, tools=(tool,), stop=("x",), seed=3, top_p=0.5))
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "find", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "here", "tool_call_id": "a"},
    ]
    assert (body["tools"], body["stop"], body["seed"], body["top_p"]) == ([tool], ["x"], 3, 0.5)


@pytest.mark.parametrize(("closed", "strict"), [(True, {"strict": True}), (False, {})])
def test_a_schema_is_strict_where_openai_takes_it(closed: bool, strict: dict[str, bool]) -> None:
    schema = {"type": "object", "additionalProperties": not closed}
    body = body_of(GenerateRequest(messages=(), schema=schema))
    json_schema = {"name": "answer", "schema": schema, **strict}
    assert body["response_format"] == {"type": "json_schema", "json_schema": json_schema}


def test_completions_get_the_messages_as_one_prompt_and_take_no_schema() -> None:
    request = GenerateRequest(messages=(Message("system", "Be kind."), Message("user", "Hello")))
    assert body_of(request, "completions")["prompt"] == "Be kind.\n\nHello"
    with pytest.raises(EngineError, match="api=completions") as caught:
        body_of(GenerateRequest(messages=(), schema={}), "completions")
    assert caught.value.fault == "refused"


def test_half_a_surrogate_pair_is_refused_before_it_is_sent() -> None:
    with pytest.raises(EngineError, match="surrogate") as caught:
        embed_body(EmbedRequest(texts=("\ud800",)), "m")
    assert caught.value.fault == "refused"


def rows(*embeddings: tuple[int, list[float]]) -> bytes:
    return msgspec.json.encode({"data": [{"index": index, "embedding": row} for index, row in embeddings]})


def test_vectors_are_ordered_by_index_and_brought_to_unit_length() -> None:
    vectors = embed_reply(rows((1, [0.0, 2.0]), (0, [3.0, 4.0])), 2).vectors
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, [[0.6, 0.8], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (rows((0, [1.0])), "2 texts with 1"),
        (rows((0, [1.0]), (0, [1.0])), "numbered them wrongly"),
        (rows((0, [1.0]), (1, [1.0, 2.0])), r"different sizes: \[1, 2\]"),
        (rows((0, [1.0]), (1, [0.0])), "zeros"),
        (rows((0, [1.0]), (1, [1e300])), "out of range"),
        (rows((0, []), (1, [])), "zeros"),
        (b'{"data":null}', "not embeddings"),
    ],
)
def test_embeddings_that_do_not_fit_the_texts_are_garbled(body: bytes, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        embed_reply(body, 2)
    assert caught.value.fault == "garbled"


def test_the_context_is_read_as_vllm_and_as_llama_cpp_say_it() -> None:
    models = decode_models(
        b'{"data":[{"id":"v","max_model_len":9},{"id":"l","meta":{"n_ctx":7}},{"id":"o"}]}'
    )
    assert [(model.id, model.context_tokens) for model in models] == [("v", 9), ("l", 7), ("o", None)]
