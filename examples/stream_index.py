"""Questions answered from documents that change meanwhile: one stream keeps the index, another one asks it.

    python examples/stream_index.py

A document changes after the first answer; the second answer knows. Both streams run in one session: the documents'
passages and the questions share one embedder, one scheduler and one log.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from sage import Index, Pipeline, Session, stream
from sage.graph.values import Passage, Vector
from sage.index import Document
from sage.index.chunk import chunk_document
from sage.ops import each, embed, generate, search, template

NOTES = Path(__file__).parent / "streams" / "notes"
NAMES = frozenset(note.name for note in NOTES.iterdir())
EMBEDDER = "bert:all-minilm-l6-v2"
QUESTION = "When is the library open?"


def passages_of(id: str, title: str, text: str, form: Any) -> list[Passage]:  # noqa: A002 - the record's field
    """A document's passages; none of one that is gone."""
    return chunk_document(Document(id, text, title=title, form=form)) if text else []


def texts_of(passages: list[Passage]) -> list[str]:
    return [f"{passage.title}\n{passage.text}" for passage in passages]


def answer_with(max_tokens: int) -> Pipeline:
    return Pipeline(
        "answer",
        vector=embed("{question}"),
        found=search("notes", near="vector", text="{question}", k=1),
        prompt=template("{found}\n\nAnswer from this only: {question}"),
        answer=generate("{prompt}", max_tokens=max_tokens),
    )


embed_passages = Pipeline(
    "embed_passages", passages=passages_of, texts=texts_of, vectors=each("texts", embed("{item}"))
)


class IndexSink:
    """A sink that keeps an index as its documents are."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._ids: dict[str, list[str]] = {}  # document -> its passages
        self.changed = asyncio.Event()

    def write(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            passages: list[Passage] = record["passages"]
            vectors: list[Vector] = record["vectors"]
            self._index.delete(self._ids.pop(record["id"], []))
            if passages:
                self._index.add(passages, vectors)
            self._ids[record["id"]] = [passage.id for passage in passages]
            print(f"{record['change']}: {record['id']}, {len(passages)} passages")
        self.changed.set()

    async def holds(self, documents: frozenset[str]) -> None:
        """Wait until every one of them is in the index."""
        while not documents <= self._ids.keys():
            self.changed.clear()
            await self.changed.wait()

    def close(self) -> None:
        """The index is only in memory."""


async def questions(folder: Path, sink: IndexSink, asked: asyncio.Event) -> AsyncIterator[dict[str, str]]:
    """The same question before and after a document changes."""
    await sink.holds(NAMES)
    yield {"question": QUESTION}
    await asked.wait()
    sink.changed.clear()
    note = folder / "opening.md"
    note.write_text(
        "# Opening hours\n\nFrom today the library is open from ten to eight.\n", encoding="utf-8"
    )
    await sink.changed.wait()
    yield {"question": QUESTION}


async def answers(folder: Path, engine: str, embedder: str, max_tokens: int) -> list[dict[str, Any]]:
    """What was answered, as it was; then the streams end."""
    engines = {"llm": engine, "embedder": embedder}
    index = await asyncio.to_thread(empty_index, embedder)
    async with Session(engines=engines, indexes={"notes": index}):
        sink, asked = IndexSink(index), asyncio.Event()
        kept = stream.documents(folder, every="100ms").through(embed_passages).write(sink)
        asking = stream.records(questions(folder, sink, asked)).through(answer_with(max_tokens))
        found: list[dict[str, Any]] = []
        async with aclosing(aiter(asking.merge(kept.filter(lambda: False)))) as results:
            async for record in results:
                found.append(record)
                print(f"{record['question']} {record['answer']!r}, from: {record['found'][0].text!r}")
                asked.set()
                if len(found) == 2:  # the documents would be watched for ever
                    return found
        return found


def empty_index(embedder: str) -> Index:
    """An index with one passage, which the embedder has made, so that it knows whose vectors it holds."""
    return Index.build([Passage("about", "These are the notes of a library.")], embedder=embedder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--engine", default="llama:smollm2-135m-instruct", help="address of what answers")
    parser.add_argument("--embedder", default=EMBEDDER)
    said = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(NOTES, folder, dirs_exist_ok=True)
        found = asyncio.run(answers(Path(folder), said.engine, said.embedder, said.max_tokens))
    return 0 if len(found) == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
