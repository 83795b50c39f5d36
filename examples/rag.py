"""Questions about a folder of text, answered from the passages that fit best.

python examples/rag.py "How do I retry a step?" --folder docs
sage run examples/rag.py:rag --set question="How do I retry a step?" --index docs=docs.index
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sage import Index, Pipeline
from sage.index import read_corpus
from sage.ops import embed, generate, search, template

EMBEDDER = "bert:all-minilm-l6-v2"

#: The embedded model is tiny and reads the best passage only; a larger one would be given "{passages}".
rag = Pipeline(
    "rag",
    vector=embed("{question}"),
    passages=search("docs", near="vector", text="{question}", k=4),
    prompt=template("{passages[0]}\n\nUse the text above to answer in one sentence: {question}"),
    answer=generate("{prompt}", max_tokens=48),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", nargs="+", help="one or more, each in quotes")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parents[1] / "docs", help="text to ask about"
    )
    parser.add_argument("--engine", default="llama:smollm2-135m-instruct", help="address of what answers")
    said = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(
            read_corpus(said.folder).items, path=Path(folder, "docs.index"), embedder=EMBEDDER
        )
        print(f"{len(index)} passages in {said.folder}")
        records = [{"question": question} for question in said.question]
        result = rag.run(records, indexes={"docs": index}, engines={"llm": said.engine, "embedder": EMBEDDER})

    for record in result.records:
        print(f"\n{record['question']}\n{record['answer'].strip()}")
        for number, passage in enumerate(record["passages"], 1):
            print(f"  [{number}] {passage.score:.3f} {passage.id} {passage.title}")
    for failure in result.failures:
        print(failure)


if __name__ == "__main__":
    main()
