"""Questions with known answers over known passages, from a folder of two files.

``passages.jsonl`` has a passage a line: ``pid``, ``title``, ``text``. ``questions.jsonl`` has a question a line:
``qid``, ``question``, ``gold_pids`` (the passages that hold the answer) and ``answers`` (any of them is right).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.errors import InputError, nearest
from sage.graph.values import Passage
from sage.index.corpus import read_corpus
from sage.runtime.files import read_records

__all__ = ["Question", "QuestionSet", "picked", "read_questions"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question; at least one passage answers it."""

    qid: str
    question: str
    gold_pids: tuple[str, ...]
    answers: tuple[str, ...] = ()  # none: only the search can be measured


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """What stands in a folder.

    Attributes:
        name: the folder's.
        passages_sha256, questions_sha256: of the files' bytes: what was measured on.
    """

    name: str
    passages: list[Passage]
    questions: list[Question]
    passages_sha256: str
    questions_sha256: str


def read_questions(folder: Path) -> QuestionSet:
    """The passages and questions in a folder, checked.

    Raises:
        InputError: a file is missing or broken, an id repeats, or a question's passage is not there.
    """
    passages_file, questions_file = folder / "passages.jsonl", folder / "questions.jsonl"
    passages = [item for item in read_corpus(passages_file).items if isinstance(item, Passage)]
    known = {passage.id for passage in passages}
    questions: dict[str, Question] = {}
    for number, record in enumerate(read_records(questions_file), 1):
        where = f"{questions_file}: question {number}"
        try:
            question = msgspec.convert(record, Question)
        except msgspec.ValidationError as error:
            raise InputError(f"{where}: {error}") from error
        if question.qid in questions:
            raise InputError(f"{where}: qid {question.qid!r} stands twice; ids must differ")
        if not question.gold_pids:
            raise InputError(f"{where}: gold_pids is empty; name a passage that holds the answer")
        for pid in question.gold_pids:
            if pid not in known:
                raise InputError(f"{where}: no passage {pid!r} in {passages_file}: {nearest(pid, known)}")
        questions[question.qid] = question
    if not questions:
        raise InputError(f"{questions_file}: holds no question")
    return QuestionSet(
        folder.resolve().name,
        passages,
        list(questions.values()),
        _sha256(passages_file),
        _sha256(questions_file),
    )


def picked(questions: list[Question], count: int) -> list[Question]:
    """That many questions, picked by the sha256 of their ids: the same ones in any order of the file.

    >>> some = [Question(qid=qid, question="?", gold_pids=("p",)) for qid in "abcd"]
    >>> picked(some, 2) == picked(some[::-1], 2)
    True
    """
    return sorted(questions, key=lambda each: hashlib.sha256(each.qid.encode()).digest())[:count]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
