"""What the experiments run: ``compute``, ``rag`` and ``mixed``, over texts that are made up or on every machine."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sage.bench.questions import read_questions
from sage.graph.values import Passage, Record
from sage.ops import embed, generate, rerank, search, step, template
from sage.pipeline import Pipeline
from sage.registry import Registry

__all__ = [
    "PROMPT",
    "SIZES",
    "TIMED_POOL",
    "WORKLOADS",
    "Corpus",
    "Job",
    "Size",
    "digest_of",
    "documentation",
    "filler_corpus",
    "given_corpus",
    "jobs_of",
]

PROMPT = "Answer from the passages only.\n\n{best}\n\nQuestion: {question}\nAnswer:"
FOUND_PER_PASSAGE = 2  # the search gives the reranking twice as many as are kept
ROUNDS_PER_UNIT = 10_000  # of a hash: some milliseconds of one core
TIMED_POOL = "nodes"  # stands for worker slots in virtual time, where threads have no place

#: A pipeline and the record that goes through it.
Job = tuple[Pipeline, Record]


class Size(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How complex a job is."""

    passages: int  # in the prompt; twice as many are found and reranked
    answer_tokens: int  # at most
    units: int  # of computing, on average; each job draws from 1 to twice as many less 1


#: What a job is made of, by complexity, where a configuration says nothing else.
SIZES: Mapping[str, Size] = {
    "light": Size(passages=1, answer_tokens=16, units=1),
    "medium": Size(passages=3, answer_tokens=48, units=4),
    "heavy": Size(passages=6, answer_tokens=128, units=16),
}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Passages to search, questions to ask, and a name for exactly these."""

    name: str
    passages: Sequence[Passage]
    questions: Sequence[str]  # asked round and round, each time with another number

    @property
    def sha256(self) -> str:
        """Of all its text."""
        content = msgspec.json.encode((self.passages, self.questions))
        return hashlib.sha256(content).hexdigest()


def filler_corpus(passages: int = 64, sentences: int = 4) -> Corpus:
    """Passages without meaning, for engines without a model. Always the same."""
    words = [f"word{number}" for number in range(200)]
    rng = random.Random(0)
    made = [
        Passage(
            id=f"p{number}",
            title=f"Topic {number}",
            text=" ".join(
                f"Sentence {place} of topic {number} has {' '.join(rng.sample(words, 8))}."
                for place in range(sentences)
            ),
        )
        for number in range(passages)
    ]
    asked = [f"What does topic {number} say of {rng.choice(words)}?" for number in range(passages)]
    return Corpus("made up", made, asked)


def documentation(passages: int = 192) -> Corpus:
    """Docstrings of Python's standard library, picked by the hash of their names, and questions after them."""
    from sage.index.stdlib import stdlib_passages

    def key(passage: Passage) -> str:
        return hashlib.sha256(passage.id.encode()).hexdigest()

    picked = sorted(stdlib_passages(), key=key)[:passages]
    return Corpus("python-stdlib", picked, [f"What does {passage.title} do?" for passage in picked])


def given_corpus(folder: Path) -> Corpus:
    """A user's own, from ``passages.jsonl`` and ``questions.jsonl``.

    Raises:
        InputError: a file is missing or broken.
    """
    read = read_questions(folder)
    return Corpus(read.name, read.passages, [question.question for question in read.questions])


# --- pipelines --------------------------------------------------------------------------------------------


def rag_pipeline(name: str, size: Size) -> Pipeline:
    """Retrieve, rerank, prompt, generate."""
    return Pipeline(
        name,
        vector=embed("{question}"),
        found=search("docs", near="vector", k=FOUND_PER_PASSAGE * size.passages),
        best=rerank("found", by="{question}", k=size.passages),
        prompt=template(PROMPT),
        answer=generate("{prompt}", max_tokens=size.answer_tokens, fit="best"),
    )


def compute_pipeline(name: str, *, timed: bool) -> Pipeline:
    """One step that computes: in threads, or in virtual time a wait as long as it would take."""
    if timed:
        return Pipeline(name, digest=generate("{text}", max_tokens="{units}", engine=TIMED_POOL))
    return Pipeline(name, digest=step(digest_of, pool="cpu"))


def digest_of(text: str, units: int) -> str:
    """Work for one core that lets go of Python's lock, so that threads really share a machine."""
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"sage", units * ROUNDS_PER_UNIT).hex()


# --- jobs -------------------------------------------------------------------------------------------------

#: From a pipeline's name, size, corpus, source of chance and whether time is virtual to its jobs, endless.
Jobs = Callable[[str, Size, Corpus, random.Random, bool], Iterator[Job]]


def _compute(name: str, size: Size, _corpus: Corpus, rng: random.Random, timed: bool) -> Iterator[Job]:
    pipeline = compute_pipeline(name, timed=timed)
    for number in itertools.count():
        yield pipeline, {"text": f"{name}/{number}", "units": rng.randint(1, 2 * size.units - 1)}


def _rag(name: str, size: Size, corpus: Corpus, rng: random.Random, _timed: bool) -> Iterator[Job]:
    pipeline = rag_pipeline(name, size)
    for number in itertools.count():
        yield pipeline, {"question": f"{rng.choice(corpus.questions)} ({name}, {number})"}


def _mixed(name: str, size: Size, corpus: Corpus, rng: random.Random, timed: bool) -> Iterator[Job]:
    ways: tuple[Iterator[Any], ...] = (
        _compute(f"{name}-compute", size, corpus, rng, timed),
        _rag(f"{name}-rag", size, corpus, rng, timed),
    )
    return (next(way) for way in itertools.cycle(ways))


#: What jobs there are, by name.
WORKLOADS: Registry[Jobs] = Registry("workload")
WORKLOADS["compute"] = _compute
WORKLOADS["rag"] = _rag
WORKLOADS["mixed"] = _mixed


def jobs_of(
    workload: str, name: str, size: Size, corpus: Corpus, *, seed: int | str, timed: bool
) -> Iterator[Job]:
    """The jobs of a workload, endless; the same for the same seed. No two have the same prompt.

    Args:
        workload: one of WORKLOADS.
        name: of its pipeline; two where it mixes.
        size: how complex they are.
        corpus: what is asked, and over what.
        seed: of their draws.
        timed: in virtual time, where computing is a wait.
    """
    return WORKLOADS[workload](name, size, corpus, random.Random(f"{seed}/{name}"), timed)
