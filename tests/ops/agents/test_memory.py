"""Conversations are kept by key, in memory or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage import InputError, Pipeline, SetupError
from sage.engines.base import Message
from sage.ops import Conversations, generate, recall, remember
from sage.testing import FakeEngine

TURNS = st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=8)), max_size=12)


@pytest.fixture(params=["memory", "file"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "talk.sqlite" if request.param == "file" else None, max_messages=4)


def texts(kept: Conversations, key: str, count: int = 10) -> list[str]:
    return [message.content for message in kept.last(key, count)]


def test_messages_are_kept_by_key_and_the_oldest_go_first(kept: Conversations) -> None:
    assert texts(kept, "ada") == []
    for number in range(3):
        kept.add("ada", [Message("user", f"q{number}"), Message("assistant", f"a{number}")])
    kept.add("bob", [Message("user", "other")])
    assert texts(kept, "ada") == ["q1", "a1", "q2", "a2"]
    assert texts(kept, "ada", 1) == ["a2"]
    kept.forget("ada")
    assert (texts(kept, "ada"), texts(kept, "bob")) == ([], ["other"])


@settings(max_examples=settings().max_examples // 20)  # each makes a file
@given(turns=TURNS, last=st.integers(1, 5))
def test_a_file_holds_what_memory_would(
    turns: list[tuple[str, str]], last: int, tmp_path_factory: Any
) -> None:
    in_file = Conversations(tmp_path_factory.mktemp("talk") / "t.sqlite", max_messages=5)
    in_memory = Conversations(max_messages=5)
    for key, said in turns[:3]:
        for each in (in_file, in_memory):
            each.add(key, [Message("user", said)])
    for key in "ab":
        assert in_file.last(key, last) == in_memory.last(key, last)


def test_a_chat_remembers(tmp_path: Path) -> None:
    store = str(tmp_path / "talk.sqlite")
    chat = Pipeline(
        "chat",
        history=recall("{user}", store=store),
        seen=lambda history: len(history),
        reply=generate("{question}", system="{seen} messages before"),
        kept=remember("{user}", store=store, user="{question}", assistant="{reply}"),
    )
    engines = {"llm": FakeEngine(answer=lambda request: request.messages[-1].content + "!")}
    for number in range(3):
        result = chat.run([{"user": "ada", "question": f"q{number}"}], engines=engines)
        assert result.records[0]["seen"] == 2 * number
    assert texts(Conversations(store), "ada")[-2:] == ["q2", "q2!"]
    assert Pipeline.from_yaml(Pipeline("p", h=recall("{user}", store=store, last=3)).to_yaml()).inputs == {
        "user"
    }


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "talk.sqlite"
    path.write_text("not a database, but long enough to look like one to a hasty reader" * 20)
    with pytest.raises(SetupError, match="is it a file of SAGE"):
        Conversations(path).add("ada", [Message("user", "x")])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: remember("{user}", store="x.sqlite"),
        lambda: recall("{user}", store="x.sqlite", last=0),
        lambda: recall("{user}", store=7),  # type: ignore[arg-type]  # what a user may do
        lambda: Conversations(max_messages=0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError):
        wrong()


def test_memory_has_no_place_in_yaml() -> None:
    with pytest.raises(InputError, match="YAML names files only"):
        Pipeline("p", h=recall("{user}", store=Conversations())).to_yaml()
