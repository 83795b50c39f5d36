"""Questions over passages: does search find the right passage, and does the model then answer rightly?

Every question is searched for by vector, by words (BM25) and by both; some, picked by the hash of their ids, are
answered by a pipeline of search and generation. Every question counts in every denominator: one that failed
found nothing and answered wrongly.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage.bench.questions import Question, QuestionSet, picked
from sage.bench.retrieval_scores import complete, hit, ndcg, reciprocal_rank
from sage.bench.stats import Mean, Share, mean_of, paired_difference, wilson
from sage.bench.suites.retrieval_report import Answered, Found, Measured, Report
from sage.bench.text_scores import exact_match, token_f1
from sage.clock import wall_time
from sage.engines.base import EngineInfo, open_engine
from sage.events import Outcome
from sage.graph.values import Passage, Record
from sage.index.index import Index
from sage.ops import embed, generate, search, template
from sage.pipeline import Pipeline
from sage.runtime.manifest import packages, this_machine
from sage.runtime.recorder import RunResult
from sage.session import Session
from sage.settings import Settings

__all__ = ["MODES", "PROMPT", "Progress", "answering", "finding", "measure", "open_index"]

#: How passages are looked for: by vector, by words, by both (fused by reciprocal rank).
MODES = ("vector", "bm25", "hybrid")

DEPTH = 10  # how far down rankings are read
CUTS = (1, 5)  # k of hit@k and complete@k

#: One worked example, then the question. Chosen for the built-in 135M model among seven wordings on the 16 XQuAD
#: questions that come last in the order of ``picked``: with one passage it gave short answers most often. Larger
#: models do well with more passages.
PROMPT = (
    "Text: The Loire is 1,006 kilometres long and rises in the Cevennes.\n"
    "Question: Where does the Loire rise?\n"
    "Answer: the Cevennes\n\n"
    "Text: {passages}\n"
    "Question: {question}\n"
    "Answer:"
)
MAX_TOKENS = 24

#: Told what is counted, such as "questions searched", how many are done, and how many there are.
Progress = Callable[[str, int, int], None]


def finding() -> Pipeline:
    """Each question looked for in every mode, with one embedding."""
    return Pipeline(
        "find",
        seen=embed("{question}"),
        vector=search("passages", near="seen", k=DEPTH),
        bm25=search("passages", text="{question}", k=DEPTH),
        hybrid=search("passages", near="seen", text="{question}", k=DEPTH),
    )


def answering(passages: int = 1) -> Pipeline:
    """Each question answered in a few words from that many passages, the best by hybrid search."""
    return Pipeline(
        "answer",
        seen=embed("{question}"),
        passages=search("passages", near="seen", text="{question}", k=passages),
        prompt=template(PROMPT),
        answer=generate("{prompt}", max_tokens=MAX_TOKENS, stop="\n", fit="passages"),
    )


def open_index(data: QuestionSet, embedder: str, settings: Settings, progress: Progress) -> Index:
    """The index of a set's passages: from the cache if these passages and this embedder made it, else new.

    Raises:
        InputError, SetupError, EngineError: the embedder cannot be used, or the cached index is damaged.
    """
    info = asyncio.run(_info(embedder, settings))
    key = hashlib.sha256(f"{data.passages_sha256} {info.fingerprint or embedder}".encode()).hexdigest()
    path = settings.cache_dir / "indexes" / f"bench-{key[:24]}"
    if path.is_dir():
        return Index.open(path, settings=settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    return Index.build(
        data.passages,
        path=path,
        embedder=embedder,
        settings=settings,
        progress=lambda done, total: progress("passages embedded", done, total),
    )


async def measure(
    data: QuestionSet,
    index: Index,
    *,
    engines: Mapping[str, str | tuple[str, ...]],
    settings: Settings,
    limit_answers: int,
    passages: int = 1,
    progress: Progress,
) -> Measured:
    """Search for every question and answer ``limit_answers`` of them.

    Args:
        data: what is asked, and what should be found.
        index: of its passages.
        engines: pool -> address; ``embedder`` and ``llm``.
        settings: where models and runs are kept.
        limit_answers: how many questions are answered; 0: none, and no model is loaded.
        passages: how many an answer is made from.
        progress: told how far it is.
    """
    asked = picked([question for question in data.questions if question.answers], limit_answers)
    folders: dict[str, Path] = {}
    runs: dict[str, str] = {}
    answered = None
    async with Session(
        engines=engines, indexes={"passages": index}, settings=settings, record=True
    ) as session:
        search_run = await session.run(
            finding(),
            _records(data.questions),
            on_end=_counter("questions searched", len(data.questions), progress),
        )
        results = [("search", search_run)]
        if asked:
            inflight = (await session.engine("llm")).info.limit
            answer_run = await session.run(
                answering(passages),
                _records(asked),
                max_inflight=inflight,
                on_end=_counter("questions answered", len(asked), progress),
            )
            results.append(("answers", answer_run))
            answered = _answered(asked, answer_run, inflight, passages)
    for name, result in results:
        runs[name] = result.run_id
        if result.folder is not None:
            folders[name] = result.folder
    found, gain = _found(data.questions, search_run.records)
    report = Report(
        at=wall_time(),
        python=sys.version.split()[0],
        packages=packages(),
        machine=this_machine(),
        data=data.name,
        passages=len(data.passages),
        questions=len(data.questions),
        passages_sha256=data.passages_sha256,
        questions_sha256=data.questions_sha256,
        single_gold=all(len(question.gold_pids) == 1 for question in data.questions),
        engines={pool: said if isinstance(said, str) else ", ".join(said) for pool, said in engines.items()},
        fingerprint=index.embedder_fingerprint,
        failed_searches=len(search_run.failures),
        found=found,
        gain=gain,
        depth=DEPTH,
        answered=answered,
        runs=runs,
    )
    return Measured(report, folders)


async def _info(address: str, settings: Settings) -> EngineInfo:
    async with open_engine(address, settings) as engine:
        return engine.info


def _records(questions: Iterable[Question]) -> list[Record]:
    return [{"qid": question.qid, "question": question.question} for question in questions]


def _counter(stage: str, total: int, progress: Progress) -> Callable[[Outcome], None]:
    done = 0

    def count(_outcome: Outcome) -> None:
        nonlocal done
        done += 1
        progress(stage, done, total)

    return count


def _found(
    questions: Sequence[Question], records: Sequence[Record]
) -> tuple[tuple[Found, ...], dict[str, Mean]]:
    """Scores of every mode; a question without a record was not found in any."""
    by_id = {record["qid"]: record for record in records}
    rankings = {
        mode: [_ids(by_id.get(question.qid, {}).get(mode, ())) for question in questions] for mode in MODES
    }
    first = {
        mode: [float(hit(ids, question.gold_pids, 1)) for ids, question in zip(found, questions, strict=True)]
        for mode, found in rankings.items()
    }
    gain = {
        f"hybrid - {other}": paired_difference(first["hybrid"], first[other]) for other in ("vector", "bm25")
    }
    return tuple(_scores(mode, questions, rankings[mode]) for mode in MODES), gain


def _ids(passages: Iterable[Passage]) -> list[str]:
    return [passage.id for passage in passages]


def _scores(mode: str, questions: Sequence[Question], rankings: Sequence[list[str]]) -> Found:
    pairs = [(ids, question.gold_pids) for ids, question in zip(rankings, questions, strict=True)]

    def share(score: Callable[[Any, Any, int], bool], k: int) -> Share:
        return wilson(sum(score(ids, gold, k) for ids, gold in pairs), len(pairs))

    return Found(
        mode=mode,
        hit={k: share(hit, k) for k in CUTS},
        complete={k: share(complete, k) for k in CUTS},
        mrr=mean_of([reciprocal_rank(ids, gold, DEPTH) for ids, gold in pairs]),
        ndcg=mean_of([ndcg(ids, gold, DEPTH) for ids, gold in pairs]),
    )


def _answered(questions: Sequence[Question], result: RunResult, inflight: int, passages: int) -> Answered:
    by_id = {record["qid"]: record for record in result.records}
    answers = [by_id.get(question.qid) for question in questions]
    exact = [
        answer is not None and exact_match(answer["answer"], question.answers)
        for answer, question in zip(answers, questions, strict=True)
    ]
    f1 = [
        0.0 if answer is None else token_f1(answer["answer"], question.answers)
        for answer, question in zip(answers, questions, strict=True)
    ]
    shown = [
        answer is not None and hit(_ids(answer["passages"]), question.gold_pids, len(answer["passages"]))
        for answer, question in zip(answers, questions, strict=True)
    ]
    metrics = result.metrics
    assert metrics is not None, "the suite records its runs"
    return Answered(
        questions=len(questions),
        failed=len(result.failures),
        exact=wilson(sum(exact), len(questions)),
        f1=mean_of(f1),
        shown=wilson(sum(shown), len(questions)),
        f1_shown=mean_of([score for score, was in zip(f1, shown, strict=True) if was]),
        inflight=inflight,
        e2e_s=metrics.e2e_s,
        ttft_s=metrics.ttft_s,
        prompt_tokens=metrics.prompt_tokens,
        completion_tokens=metrics.completion_tokens,
        answers_per_s=metrics.jobs_per_s,
        prompt=PROMPT,
        max_tokens=MAX_TOKENS,
        passages=passages,
    )
