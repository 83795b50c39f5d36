"""The baseline of the experiments: the same jobs on the same engines by a plain asyncio loop, without SAGE.

What someone writes by hand in an afternoon: a coroutine per job, endpoints in turn, no queue, no policy, no retry.
It leaves the same event log, so that its figures are computed the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sage.bench.workloads import FOUND_PER_PASSAGE, PROMPT, TIMED_POOL, Job, Size, digest_of
from sage.clock import Clock
from sage.engines.base import (
    EmbedReply,
    EmbedRequest,
    Engine,
    GenerateRequest,
    Message,
    Piece,
    Reply,
    Usage,
)
from sage.errors import SageError
from sage.events import JobEnded, PipelineSeen, TaskEnded
from sage.graph.values import Passage, Record, Vector, render
from sage.index.index import Index
from sage.ops.pieces import sentences_in
from sage.pipeline import Pipeline
from sage.runtime.runs import RunFolder

__all__ = ["PlainLoop"]

R = TypeVar("R", Reply, EmbedReply)


class PlainLoop:
    """Carries jobs by hand.

    Args:
        engines: pool -> its endpoints' names and engines.
        index: what is searched; None where nothing is.
        size: of the jobs.
        threads: where blocking work runs; None in virtual time.
        slots: calls at once that a worker of virtual time takes; further ones wait, as for a thread.
        folder: where its log goes.
        clock: the event loop's.
    """

    def __init__(
        self,
        engines: Mapping[str, Sequence[tuple[str, Engine]]],
        index: Index | None,
        size: Size,
        threads: ThreadPoolExecutor | None,
        slots: int,
        folder: RunFolder,
        clock: Clock,
    ) -> None:
        self._engines: dict[str, Iterator[tuple[str, Engine]]] = {
            pool: itertools.cycle(several) for pool, several in engines.items()
        }
        self._index = index
        self._size = size
        self._threads = threads
        workers = [name for name, _ in engines.get(TIMED_POOL, ())]
        self._slots = {name: asyncio.Semaphore(slots) for name in workers}
        self._log = folder.log
        self._clock = clock
        self._began = clock()
        self._seen: set[str] = set()
        self.counts = {"done": 0, "failed": 0}  # jobs that ended, by outcome
        self._numbers = itertools.count()

    async def carry(self, job: Job) -> Record:
        """Take a job to its end, and write down how it went.

        Raises:
            SageError: it failed.
        """
        pipeline, record = job
        number, arrived = next(self._numbers), self._now()
        self._describe(pipeline)
        is_rag = "question" in record
        error: str | None = "it was cancelled"
        try:
            result = await (self._rag if is_rag else self._compute)(number, record)
            error = None
        except SageError as failure:
            error = str(failure)
            raise
        finally:
            self.counts["done" if error is None else "failed"] += 1
            self._log.append(
                JobEnded(
                    t=self._now(),
                    job=number,
                    pipeline=pipeline.name,
                    outcome="done" if error is None else "failed",
                    arrived=arrived,
                    admitted=arrived,
                    error=error,
                )
            )
        return result

    async def _rag(self, number: int, record: Record) -> Record:
        question, size = record["question"], self._size
        assert self._index is not None
        near = (await self._embed(number, "vector", (question,)))[0]
        found = self._index.search(vector=near, k=FOUND_PER_PASSAGE * size.passages)
        sentences = [sentences_in(passage.text) or [passage.title] for passage in found]
        vectors = await self._embed(number, "best.vectors", (question, *itertools.chain(*sentences)))
        best = _best(found, sentences, vectors, size.passages)
        prompt = PROMPT.format(best=render(best), question=question)
        return {**record, "answer": await self._generate(number, "answer", "llm", prompt, size.answer_tokens)}

    async def _compute(self, number: int, record: Record) -> Record:
        text, units = record["text"], record["units"]
        if self._threads is None:
            return {**record, "digest": await self._generate(number, "digest", TIMED_POOL, text, units)}
        loop, ready = asyncio.get_running_loop(), self._now()
        digest = await loop.run_in_executor(self._threads, digest_of, text, units)
        task = TaskEnded(
            t=self._now(), job=number, step="digest", pool="cpu", endpoint="cpu", outcome="done", ready=ready,
            dispatched=ready,
        )  # fmt: skip
        self._log.append(task)
        return {**record, "digest": digest}

    async def _embed(self, number: int, step: str, texts: tuple[str, ...]) -> Vector:
        name, engine = next(self._engines["embedder"])
        reply: EmbedReply = await self._called(
            number, step, "embedder", name, lambda _emit: engine.embed(EmbedRequest(texts=texts))
        )
        return reply.vectors

    async def _generate(self, number: int, step: str, pool: str, prompt: str, max_tokens: int) -> str:
        name, engine = next(self._engines[pool])
        request = GenerateRequest(messages=(Message("user", prompt),), max_tokens=max_tokens)
        async with self._slots.get(name, contextlib.nullcontext()):
            reply: Reply = await self._called(
                number, step, pool, name, lambda emit: engine.generate(request, emit)
            )
        return reply.text

    async def _called(
        self,
        number: int,
        step: str,
        pool: str,
        endpoint: str,
        call: Callable[[Callable[[Piece], None]], Awaitable[R]],
    ) -> R:
        began, pieces = self._now(), list[float]()
        usage, error = Usage(), "it was cancelled"
        try:
            reply = await call(lambda _piece: pieces.append(self._now()))
            usage, error = reply.usage, ""
        except SageError as failure:
            error = str(failure)
            raise
        finally:
            task = TaskEnded(
                t=self._now(), job=number, step=step, pool=pool, endpoint=endpoint,
                outcome="failed" if error else "done", ready=began, dispatched=began,
                first=pieces[0] if pieces else None, prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens, cached_tokens=usage.cached_tokens,
                usage_from=usage.counted_by, pieces=tuple(pieces), error=error or None,
            )  # fmt: skip
            self._log.append(task)
        return reply

    def _describe(self, pipeline: Pipeline) -> None:
        if pipeline.name not in self._seen:
            self._seen.add(pipeline.name)
            steps = pipeline.plan.steps
            self._log.append(
                PipelineSeen(
                    t=self._now(),
                    pipeline=pipeline.name,
                    steps=tuple(step.name for step in steps),
                    operators=tuple(step.step.operator for step in steps),
                    after=tuple(tuple(step.after) for step in steps),
                )
            )

    def _now(self) -> float:
        return self._clock() - self._began


def _best(
    found: Sequence[Passage], sentences: Sequence[Sequence[str]], vectors: Vector, k: int
) -> list[Passage]:
    """The passages by the best of their sentences, as ``sage.ops.rerank`` has it."""
    scores = iter(vectors[1:] @ vectors[0])
    by_best = [
        (max(itertools.islice(scores, len(several))), place) for place, several in enumerate(sentences)
    ]
    return [found[place] for _, place in sorted(by_best, key=lambda one: -one[0])[:k]]
