"""A small set of questions that hashed bags of words can answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PASSAGES = {
    "p0": ("Bisect", "The bisect module keeps a list sorted without sorting after each insertion."),
    "p1": ("Heap", "A heap is a binary tree for which every parent is smaller than its children."),
    "p2": ("Deque", "A deque supports fast appends and pops from either end."),
    "p3": ("Counter", "A counter tells how often each element occurs."),
    "p4": ("Chain", "A chain map groups several mappings into one view."),
    "p5": ("Path", "A path names a place in the file system."),
}
QUESTIONS = {
    "q0": ("what keeps a list sorted", ["p0"], ["bisect module"]),
    "q1": ("which tree has every parent smaller", ["p1"], ["heap"]),
    "q2": ("what supports fast appends and pops", ["p2"], ["deque"]),
    "q3": ("what tells how often each element occurs", ["p3"], ["counter"]),
}


@pytest.fixture
def questions_folder(tmp_path: Path) -> Path:
    """A folder as ``read_questions`` takes it."""
    folder = tmp_path / "small"
    folder.mkdir()
    passages = [{"pid": pid, "title": title, "text": text} for pid, (title, text) in PASSAGES.items()]
    questions = [
        {"qid": qid, "question": question, "gold_pids": gold, "answers": answers}
        for qid, (question, gold, answers) in QUESTIONS.items()
    ]
    for name, rows in (("passages", passages), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
