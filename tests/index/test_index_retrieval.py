"""Whether the right passage of real text is found for real questions (XQuAD, English)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from sage.graph.values import Passage
from sage.index import Index, read_corpus
from sage.index.embed import embed_texts
from sage.settings import Settings

EMBEDDER = "bert:all-minilm-l6-v2"


class Question(msgspec.Struct):
    question: str
    gold_pids: list[str]


class Recall(NamedTuple):
    """The share of questions whose passage is the first, and among the first five."""

    at_1: float
    at_5: float


@pytest.fixture(scope="module")
def xquad(shared_data: Path) -> Path:
    folder = shared_data / "rag" / "xquad-en"
    if not folder.is_dir():
        pytest.skip(f"no data set in {folder}")
    return folder


@pytest.fixture(scope="module")
def questions(xquad: Path) -> list[Question]:
    decoder = msgspec.json.Decoder(Question)
    return decoder.decode_lines((xquad / "questions.jsonl").read_bytes())


def recall(found: list[list[Passage]], questions: list[Question]) -> Recall:
    ranks = [
        next((rank for rank, passage in enumerate(passages) if passage.id in question.gold_pids), 99)
        for passages, question in zip(found, questions, strict=True)
    ]
    return Recall(*(sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5)))


@pytest.mark.slow
def test_words_find_most_passages(xquad: Path, questions: list[Question]) -> None:
    index = Index.build(read_corpus(xquad / "passages.jsonl").items)
    found = recall(index.search_many(texts=[question.question for question in questions], k=5), questions)
    assert found.at_1 > 0.90
    assert found.at_5 > 0.97


@pytest.mark.slow
@pytest.mark.models
def test_meaning_and_both_find_most_passages(xquad: Path, questions: list[Question], tmp_path: Path) -> None:
    Index.build(read_corpus(xquad / "passages.jsonl").items, path=tmp_path / "i", embedder=EMBEDDER)
    index = Index.open(tmp_path / "i")
    texts = [question.question for question in questions[:300]]
    vectors, _, fingerprint = embed_texts(texts, EMBEDDER, Settings.load())
    index.require_embedder(fingerprint)
    meaning = recall(index.search_many(vectors=vectors, k=5), questions[:300])
    both = recall(index.search_many(vectors=vectors, texts=texts, k=5), questions[:300])
    assert meaning.at_1 > 0.75
    assert meaning.at_5 > 0.93
    assert both.at_1 > 0.85
    assert both.at_5 > 0.96
