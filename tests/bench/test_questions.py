"""Reading question sets: what is refused, and which questions are picked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.bench.questions import Question, picked, read_questions
from sage.errors import InputError


def test_a_sound_folder_is_read_whole(questions_folder: Path) -> None:
    found = read_questions(questions_folder)
    assert (found.name, len(found.passages), len(found.questions)) == ("small", 6, 4)
    assert found.questions[0].gold_pids == ("p0",)
    assert len(found.passages_sha256) == 64


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"qid": "q0", "question": "?", "gold_pids": ["p0"]}, "stands twice"),
        ({"qid": "new", "question": "?", "gold_pids": []}, "gold_pids is empty"),
        ({"qid": "new", "question": "?", "gold_pids": ["p9"]}, "no passage 'p9'"),
        ({"qid": "new", "question": "?"}, "gold_pids"),
        ({"qid": "new", "question": 4, "gold_pids": ["p0"]}, "question 5: Expected `str`"),
    ],
)
def test_a_bad_question_is_named(questions_folder: Path, row: dict[str, Any], said: str) -> None:
    with (questions_folder / "questions.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=said):
        read_questions(questions_folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"passages\.jsonl"):
        read_questions(tmp_path)


def test_what_is_picked_does_not_depend_on_the_order_of_the_file() -> None:
    questions = [Question(qid=str(number), question="?", gold_pids=("p",)) for number in range(50)]
    first = picked(questions, 10)
    assert picked(questions[::-1], 10) == first
    assert picked(questions, 20)[:10] == first
    assert first != questions[:10]
