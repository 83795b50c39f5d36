"""sage demo: its questions are fair, and it answers them with the embedded models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage.cli.demo_prompt import EXAMPLES, conversation, first_sentence
from sage.cli.demo_questions import QUESTIONS, names_one_of
from sage.graph.values import Passage
from sage.index.stdlib import stdlib_passages


@pytest.fixture(scope="module")
def names() -> set[str]:
    return {passage.id for passage in stdlib_passages()}


def test_there_are_a_dozen_questions_and_each_has_an_answer_in_the_documentation(names: set[str]) -> None:
    assert len(QUESTIONS) == 12
    assert all(question.accepted & names for question in QUESTIONS)


def test_no_worked_example_is_about_what_is_asked() -> None:
    accepted = {name for question in QUESTIONS for name in question.accepted}
    assert not accepted & {name for _, name, _, _ in EXAMPLES}


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("Use `heapq.nlargest`.", True),
        ("heapq.nlargest(3, numbers) does it", True),
        ("Use `heapq.nsmallest`.", False),
        ("Use heapq.nlargestest.", False),
        ("", False),
    ],
)
def test_an_answer_names_a_function_only_if_it_says_so(answer: str, named: bool) -> None:
    assert names_one_of(answer, {"heapq.nlargest"}) is named


def test_what_is_sent_ends_with_the_question_and_the_best_passage() -> None:
    turns = conversation("How?", [Passage("a.b", "Do it. Then more.\n\nLong."), Passage("c.d", "No.")])
    assert turns[-1].content == "How?\n\na.b: Do it."
    assert len(turns) == 2 + 2 * len(EXAMPLES)


def test_the_first_sentence_is_one_line_and_short() -> None:
    assert first_sentence("Return x.\nAnd y. More.\n\nEnd.") == "Return x."
    assert len(first_sentence("word " * 100)) <= 160


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_answers_a_question_about_ones_own_texts(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Bees\n\nA hive of bees makes forty kilograms of honey in a year.\n")
    command = [str(Path(sys.executable).parent / "sage"), "demo", "--corpus", str(tmp_path), "--json"]
    done = subprocess.run([*command, "--ask", "How much honey?"], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["jobs"] == {"done": 1, "failed": 0, "rejected": 0, "cancelled": 0}
    (record,) = told["records"]
    assert record["answer"]
    assert record["passages"][0]["id"].startswith("notes.md")
    assert set(record["step_ms"]) == {"vector", "passages", "prompt", "answer"}
    assert told["run_id"]
    assert told["metrics"]["jobs"]["done"] == 1
