"""The retrieval suite on a small set with emulated engines: what it counts, and what it keeps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

import sage.testing  # noqa: F401 - registers the fake engine's addresses
from sage.bench.questions import read_questions
from sage.bench.suites.retrieval import measure, open_index
from sage.bench.suites.retrieval_report import Measured, Report, keep_report
from sage.errors import InputError
from sage.settings import Settings

ENGINES = {"embedder": "fake:words?dimension=256", "llm": "fake:echo?answer_tokens=4&limit=2"}


def measured(folder: Path, settings: Settings, *, answers: int = 3, llm: str = ENGINES["llm"]) -> Measured:
    data = read_questions(folder)
    index = open_index(data, ENGINES["embedder"], settings, lambda *_: None)
    return asyncio.run(
        measure(
            data,
            index,
            engines={**ENGINES, "llm": llm},
            settings=settings,
            limit_answers=answers,
            progress=lambda *_: None,
        )
    )


def test_every_question_is_searched_for_in_every_mode(questions_folder: Path, tmp_home: Settings) -> None:
    report = measured(questions_folder, tmp_home).report
    assert [mode.mode for mode in report.found] == ["vector", "bm25", "hybrid"]
    for mode in report.found:
        assert mode.hit[1].n == mode.mrr.n == 4
        assert mode.hit[5].good >= mode.hit[1].good
    assert report.found[1].hit[1].good == 4, "BM25 finds questions made of the passages' own words"
    assert report.single_gold


def test_answers_are_scored_with_every_picked_question_in_the_count(
    questions_folder: Path, tmp_home: Settings
) -> None:
    answered = measured(questions_folder, tmp_home).report.answered
    assert answered is not None
    assert (answered.questions, answered.failed, answered.inflight) == (3, 0, 2)
    assert answered.exact.n == answered.f1.n == answered.shown.n == 3
    assert answered.completion_tokens == 3 * 4


def test_what_fails_counts_as_wrong(questions_folder: Path, tmp_home: Settings) -> None:
    answered = measured(questions_folder, tmp_home, llm="fake:tiny?context_tokens=8").report.answered
    assert answered is not None
    assert (answered.failed, answered.questions, answered.exact.good, answered.exact.n) == (3, 3, 0, 3)
    assert answered.f1.mean == 0.0


def test_without_answers_no_model_is_asked(questions_folder: Path, tmp_home: Settings) -> None:
    found = measured(questions_folder, tmp_home, answers=0, llm="llama:no-such-model")
    assert found.report.answered is None
    assert found.folders.keys() == {"search"}


def test_an_index_is_made_once_for_the_same_passages(questions_folder: Path, tmp_home: Settings) -> None:
    data = read_questions(questions_folder)
    told: list[tuple[str, int, int]] = []

    def note(*said: object) -> None:
        told.append(said)  # type: ignore[arg-type]  # (stage, done, total)

    first = open_index(data, ENGINES["embedder"], tmp_home, note)
    assert told[-1] == ("passages embedded", 6, 6)
    told.clear()
    again = open_index(data, ENGINES["embedder"], tmp_home, note)
    assert (told, len(again), again.embedder_fingerprint) == ([], len(first), first.embedder_fingerprint)


def test_what_is_kept_is_the_summary_and_both_runs(
    questions_folder: Path, tmp_home: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    found = measured(questions_folder, tmp_home)
    keep_report(found, out)
    assert msgspec.json.decode((out / "summary.json").read_bytes(), type=Report) == found.report
    for run in ("search", "answers"):
        assert json.loads((out / run / "run.json").read_text())["status"] == "complete"
        assert (out / run / "events.jsonl").stat().st_size > 0
    with pytest.raises(InputError, match="never overwritten"):
        keep_report(found, out)
