from __future__ import annotations

import pkgutil
import re

import pytest

from sage.cli.demo_prompt import EXAMPLES, conversation, first_sentence
from sage.cli.demo_questions import QUESTIONS, Question, names_one_of
from sage.graph.values import Passage
from sage.index.stdlib import stdlib_passages

IDS = [question.text for question in QUESTIONS]


@pytest.fixture(scope="module")
def corpus() -> set[str]:
    return {passage.id for passage in stdlib_passages()}


def test_there_are_a_dozen_different_questions() -> None:
    assert len(set(IDS)) == 12


def test_no_two_questions_are_about_the_same_function() -> None:
    accepted = [name for question in QUESTIONS for name in question.accepted]
    assert len(set(accepted)) == len(accepted)


@pytest.mark.parametrize("question", QUESTIONS, ids=IDS)
def test_every_accepted_name_exists_in_python(question: Question) -> None:
    assert all(callable(pkgutil.resolve_name(name)) for name in question.accepted)


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS, ids=IDS)
def test_what_is_accepted_can_be_found(question: Question, corpus: set[str]) -> None:
    aliases = {"bisect.bisect", "bisect.insort"}
    assert question.accepted - aliases <= corpus


@pytest.mark.parametrize("question", QUESTIONS, ids=IDS)
def test_a_question_does_not_give_its_function_away(question: Question) -> None:
    words = set(re.findall(r"\w+", question.text.lower()))
    assert not words & {name.rpartition(".")[2].lower() for name in question.accepted}


def test_no_example_is_about_what_the_demo_asks() -> None:
    accepted = {name for question in QUESTIONS for name in question.accepted}
    assert not accepted & {name for _, name, _, _ in EXAMPLES}


@pytest.mark.parametrize(
    "answer",
    [
        "Use `heapq.nlargest`: it returns the three biggest numbers.",
        "Use `nlargest(3, numbers)`.",
        "You can use heapq.nlargest for that.",
        "Call nlargest(3, numbers), not sorted(numbers).",
        "From the `heapq` module, use `nlargest`.",
    ],
)
def test_an_answer_names_a_function_in_any_way_code_is_written(answer: str) -> None:
    assert names_one_of(answer, {"heapq.nlargest"})


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "The nlargest of all numbers.",
        "Use `sorted`, or else `heapq.nlargest`.",
        "Use `heapq.nsmallest`.",
        "Use the `heapq` module.",
        "Use `largest`.",
        "Use `other.nlargest`.",
    ],
)
def test_an_answer_that_names_another_function_first_or_none_does_not_count(answer: str) -> None:
    assert not names_one_of(answer, {"heapq.nlargest"})


def test_the_best_passage_is_what_is_asked_about() -> None:
    passages = [Passage("a.best", "Do it well.\n\nAnd more."), Passage("b.other", "Do something else.")]
    turns = conversation("How?", passages)
    assert turns[-1].content == "How?\n\na.best: Do it well."
    assert [turn.role for turn in turns] == ["system", *["user", "assistant"] * len(EXAMPLES), "user"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Return it.", "Return it."),
        ("Return x,\nor y.  Raise Z.", "Return x, or y."),
        ("See file.txt for more. Then stop.", "See file.txt for more."),
        ("No full stop\n\nAnother paragraph.", "No full stop"),
    ],
)
def test_the_first_sentence_stands_in_one_line(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence
