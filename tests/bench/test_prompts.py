"""Prompts: as long as they were asked to be, different from each other, and the same for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import InputError
from sage.bench.prompts import Prompts, Sampling, read_prompts, requests_for
from sage.bench.traces import Asked
from sage.engines.base import GenerateRequest


def drawn(
    prompts: Prompts, *, seed: str = "0", warmups: int = 0, count: int = 20, **said: Any
) -> list[GenerateRequest]:
    return list(requests_for(prompts, Sampling(), seed=seed, warmups=warmups, count=count, **said))


def words(request: GenerateRequest) -> list[str]:
    return request.messages[0].content.split()


@given(st.integers(1, 3000), st.integers(0, 300), st.integers(0, 1000))
def test_a_prompt_has_as_many_words_as_it_was_asked_to_have(length: int, prefix: int, seed: int) -> None:
    found = drawn(Prompts(input_len=str(length), prefix_len=prefix), seed=str(seed), count=3)
    assert {len(words(request)) for request in found} == {length + prefix}


def test_prompts_begin_differently_and_none_comes_again() -> None:
    found = drawn(Prompts(input_len="40"), warmups=500, count=2_000)
    beginnings = {tuple(words(request)[:6]) for request in found}
    assert len(beginnings) == 2_500


def test_prompts_share_the_beginning_they_are_told_to_share() -> None:
    first, second = (words(request) for request in drawn(Prompts(input_len="10", prefix_len=50), count=2))
    assert first[:50] == second[:50]
    assert first[50:] != second[50:]


def test_the_same_seed_gives_the_same_requests() -> None:
    prompts = Prompts(input_len="uniform(5,50)", output_len="lognormal(40,0.5)")
    assert drawn(prompts, seed="7/0") == drawn(prompts, seed="7/0")
    assert drawn(prompts, seed="7/0") != drawn(prompts, seed="7/1")


def test_lengths_vary_as_they_are_told() -> None:
    found = drawn(Prompts(input_len="uniform(5,50)", output_len="uniform(1,9)"), count=300)
    assert {len(words(request)) for request in found} <= set(range(5, 51))
    assert {request.max_tokens for request in found} == set(range(1, 10))


def test_a_trace_says_how_long_prompts_and_answers_are_and_what_they_share() -> None:
    asked = [Asked(0.0, 100, 7), Asked(1.0, 120, 9, "", 80)]
    found = drawn(Prompts(dataset="trace"), count=2, asked=asked)
    assert [(len(words(request)), request.max_tokens) for request in found] == [(100, 7), (120, 9)]


def test_files_are_read_by_the_names_that_are_common(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a b", "output_tokens": 5}\n\n{"question": "c"}\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "max_tokens": 3}\n'
    )
    found = drawn(Prompts(dataset="file", path=str(file), output_len="8"), count=4)
    assert [request.max_tokens for request in found] == [5, 8, 3, 5]
    assert [message.role for message in found[2].messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "is no prompt"),
        ("[]", "is no prompt"),
        ('{"text": "x"}', "neither 'prompt' nor 'messages'"),
        ('{"messages": []}', "0 messages"),
        ('{"messages": [{"role": "robot"}]}', "is no prompt"),
        ('{"prompt": "x", "max_tokens": 0}', "asks for 0 tokens"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "good"}\n' + line + "\n")
    with pytest.raises(InputError, match=wrong) as caught:
        read_prompts(file)
    assert ":2: " in str(caught.value)


def test_a_file_without_prompts_or_none_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name, wrong in (("empty", "has no prompts"), ("missing", "cannot be read")):
        with pytest.raises(InputError, match=wrong):
            read_prompts(tmp_path / name)
