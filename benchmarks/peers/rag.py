"""The workload ``rag``, the same for every peer, and how a round of it is measured. Needs Python and numpy.

A question is embedded over HTTP; the passages nearest to it are found among fixed vectors, all of which are looked
at; they are put into a prompt; the prompt is answered over HTTP, streamed. The server is emulated, its times are
fixed, and its answer is the beginning of the prompt, so that an answer tells which passages were found.

A peer hands ``timed`` the coroutine function that answers one question by its graph. The search is the one below in
every peer but SAGE, which has its own: a framework's store in memory would be measured otherwise, not the framework.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

import proc

INFLIGHT = 64
MODEL = "emulated"
#: What the server takes: for an embedding, to the first token of an answer, and between two tokens.
TEXT_S, TTFT_S, TOKEN_S, TOKENS = 0.005, 0.050, 0.010, 32
IDEAL_S = TEXT_S + TTFT_S + TOKEN_S * (TOKENS - 1)
NUM_PASSAGES, K = 300, 4
WORDS = (
    *(
        "list",
        "queue",
        "path",
        "file",
        "date",
        "thread",
        "socket",
        "lock",
        "event",
        "task",
        "loop",
        "value",
        "key",
    ),
    *(
        "name",
        "byte",
        "text",
        "line",
        "word",
        "page",
        "set",
        "tree",
        "graph",
        "node",
        "edge",
        "heap",
        "stack",
    ),
    *(
        "cache",
        "index",
        "table",
        "field",
        "record",
        "stream",
        "window",
        "join",
        "sort",
        "count",
        "split",
        "merge",
    ),
)


def passages() -> list[str]:
    """What is searched."""
    rng = random.Random(7)
    return [" ".join(rng.sample(WORDS, 6)) for _ in range(NUM_PASSAGES)]


def questions(number: int) -> list[str]:
    """So many different questions."""
    rng = random.Random(11)
    return [f"{place}: {' '.join(rng.sample(WORDS, 4))}?" for place in range(number)]


def prompt_of(question: str, found: Sequence[str]) -> str:
    """The prompt, as every peer must write it."""
    return f"{question} By:\n\n" + "\n\n".join(found)


def digest(answers: Iterable[str]) -> str:
    """What tells whether answers are the same, in the questions' order."""
    return hashlib.sha256("\0".join(answers).encode()).hexdigest()


@dataclass(frozen=True)
class Shelf:
    """Passages and their vectors."""

    passages: list[str]
    matrix: Any  # float32, unit rows

    @classmethod
    def fetch(cls, url: str) -> Shelf:
        """Have the server embed the passages."""
        texts = passages()
        asked = urllib.request.Request(
            f"{url}/embeddings",
            json.dumps({"model": MODEL, "input": texts}).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(asked, timeout=60) as answer:
            rows = sorted(json.load(answer)["data"], key=lambda row: row["index"])
        return cls(texts, np.array([row["embedding"] for row in rows], np.float32))

    def nearest(self, vector: Sequence[float]) -> list[str]:
        """The K passages nearest to a vector, the best first; of equals, the first."""
        scores = (self.matrix * np.asarray(vector, np.float64)).sum(axis=1).astype(np.float32)
        best = np.lexsort((np.arange(len(scores)), -scores))[:K]
        return [self.passages[place] for place in best.tolist()]


class Meter:
    """Times what runs inside it, and counts the CPU of this process and of those below it."""

    def __enter__(self) -> Self:
        self._below = proc.Below()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._below.end()

    def told(
        self,
        client: str | None,
        found: Sequence[tuple[float, str]],
        told_by_others: Mapping[int, float] | None = None,
    ) -> dict[str, Any]:
        """The round, for the file.

        ``found`` has seconds and answer of each question, in their order; ``told_by_others`` the CPU seconds that
        processes said of themselves, by process: what is known of those that have ended by now.
        """
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "others_cpu_s": self._below.spent_s(told_by_others),
            "peak_mb": proc.peak_mb(os.getpid()),
            "others_peak_mb": sum(proc.peak_mb(process) for process in self._below.processes),
            "client": client and f"{client} {metadata.version(client)}",
            "each_s": [round(seconds, 5) for seconds, _ in found],
            "answers": digest(answer for _, answer in found),
        }


Answer = Callable[[str], Awaitable[str]]


async def in_flight(answer: Answer, asked: Sequence[str]) -> list[tuple[float, str]]:
    """Ask the questions, 64 at once; the seconds each took once it was its turn, and its answer."""
    places = asyncio.Semaphore(INFLIGHT)

    async def one(question: str) -> tuple[float, str]:
        async with places:
            began = time.perf_counter()
            said = await answer(question)
            return time.perf_counter() - began, said

    return await asyncio.gather(*(one(question) for question in asked))


async def timed(answer: Answer, records: int, client: str | None) -> dict[str, Any]:
    """One round of a peer, after a warm-up; ``client`` is the package that its calls are made with."""
    await in_flight(answer, questions(INFLIGHT))
    with Meter() as meter:
        found = await in_flight(answer, questions(records))
    return meter.told(client, found)
